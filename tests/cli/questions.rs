//! The commands that only ask, and the end of a session.

use serde_json::Value;
use serde_json::json;

use crate::stub::Reply;
use crate::stub::Stub;
use crate::stub::ended;
use crate::stub::problem;

fn run(line: &str, status: u16, document: Value) -> String {
    Stub::start(vec![Reply::Json(status, document)]).run(line)
}

fn unreachable(line: &str) -> String {
    Stub::start(vec![Reply::HangUp]).run(&format!("{line} --server https://127.0.0.1:1"))
}

fn revocations() -> Value {
    json!({"revocations": [
        {"id": "02", "state": "suspended", "level": "task", "target": "t-42", "reason": "looking into it",
            "actor": "secret:oncall", "source": "live", "at": "2026-11-22T12:00:00.000Z"},
        {"id": "01", "state": "revoked", "level": "certificate", "target": "0a1b", "issuer": "3b55",
            "at": "2026-11-22T11:00:00.000Z", "issued_before": "2026-11-01T00:00:00.000Z"},
    ], "total": 2, "offset": 0, "limit": 100})
}

#[test]
fn revocations_are_listed() {
    let mut told = Vec::new();
    told.push(run("revocations", 200, revocations()));
    let line = "revocations --level agent --target spiffe://a/b&c --state suspended --since 1792000000 --limit 2 --json";
    told.push(run(line, 200, revocations()));
    let mut part = revocations();
    part["total"] = 7.into();
    told.push(run("revocations --limit 2", 200, part));
    let none = json!({"revocations": [], "total": 0, "offset": 0, "limit": 100});
    told.push(run("revocations --source crl", 200, none));
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn one_revocation_has_a_story() {
    let mut told = Vec::new();
    let event = |time: &str, outcome: &str| {
        json!({"sequence": 4, "time": time, "action": "revoke", "outcome": outcome, "actor": "secret:oncall",
            "address": "10.0.0.1:5", "correlation_id": "INC-7", "id": "01", "reason": "key leaked"})
    };
    let entry = json!({"id": "01", "state": "revoked", "level": "principal", "target": "a", "actor": "secret:oncall",
        "reason": "key leaked", "source": "live", "at": "2026-11-22T12:00:00.000Z",
        "issued_before": "2026-11-01T00:00:00.000Z"});
    let story = json!({"id": "01", "state": "revoked", "in_effect": true, "level": "principal", "target": "a",
        "entry": entry,
        "timeline": {"received": "2026-11-22T12:00:00.000Z", "effective_us": 41, "enforced_us": 380,
            "durable_us": 2310, "recorded": "2026-11-22T12:00:00.003Z"},
        "events": [event("2026-11-22T12:00:00.000Z", "applied"), event("2026-11-22T12:00:09.000Z", "refused")]});
    told.push(run("revocations 01", 200, story.clone()));
    let mut lifted = story.clone();
    lifted["state"] = "reinstated".into();
    lifted["in_effect"] = false.into();
    lifted.as_object_mut().unwrap().remove("entry");
    told.push(run("revocations 01", 200, lifted));
    let mut of_a_feed = story;
    of_a_feed["events"] = json!([]);
    told.push(run("revocations 01", 200, of_a_feed));
    let unknown = problem(404, "unknown_revocation", "none has the id `0/9`");
    told.push(run("revocations 0/9", 404, unknown));
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn sessions_are_listed_and_ended() {
    let mut told = Vec::new();
    let sessions = json!({"sessions": [
        {"id": "17", "principal": "spiffe://lab.test/agent/a", "agent": "a", "serial": "0a1b", "issuer": "3b55",
            "address": "10.0.0.1:5", "listener": "gate", "protocol": "http/2",
            "since": "2026-11-22T12:00:00.000Z", "not_after": "2026-12-22T12:00:00.000Z"},
        {"id": "18", "address": "10.0.0.2:6", "listener": "admin", "protocol": "http/1.1",
            "since": "2026-11-22T12:01:00.000Z"},
    ], "total": 2, "offset": 0, "limit": 100});
    told.push(run("sessions --trust-domain lab.test --listener gate", 200, sessions));
    let ended =
        json!({"id": "17", "principal": "spiffe://lab.test/agent/a", "ended": true, "sessions_pending": 1});
    told.push(run("sessions end 17 --reason stuck", 200, ended));
    let unknown = problem(404, "unknown_session", "none has the id `17`");
    told.push(run("sessions end 17", 404, unknown));
    told.push(Stub::start(vec![Reply::HangUp]).run("sessions end 17"));
    insta::assert_snapshot!(told.join("\n"));
}

fn status() -> Value {
    json!({"version": "0.1.0", "started": "2026-11-22T11:00:00.000Z", "now": "2026-11-22T12:00:00.000Z",
        "mode": "strict", "configured_mode": "strict", "ready": true, "generation": 7, "durable": true, "sessions": 12,
        "entries": {"total": 3, "by_level": {"certificate": 2, "key": 0, "task": 1}, "by_layer": {"live": 3}},
        "feeds": [], "audit": {"sequence": 9, "hash": "ab12", "durable": true}, "certificates_known": 5,
        "caller": {"actor": "spiffe://lab.test/admin/ops", "role": "admin"}})
}

fn stale_feed() -> Value {
    json!({"name": "crl", "kind": "crl", "state": "stale", "stale_since": "2026-11-22T11:30:00.000Z",
        "read": "2026-11-22T10:30:00.000Z", "age_seconds": 5400, "next_update": "2026-11-22T18:00:00.000Z", "entries": 3,
        "required": true, "max_age_seconds": 3600, "on_stale": "deny", "last_error": "https://pki.lab.test/a.crl: timed out",
        "last_error_at": "2026-11-22T11:59:00.000Z"})
}

#[test]
fn feeds_look_now() {
    let fresh = json!({"name": "crl-2", "state": "fresh"});
    let found = json!({"found": "new list 7 of CN=agents, 3 entries, 1 session ended", "feed": fresh});
    let failed = json!({"error": "https://pki.lab.test/a.crl: timed out", "feed": stale_feed()});
    let told = [
        run("refresh", 200, json!({"feeds": [found, failed], "failed": 1})),
        run("refresh --feed crl", 200, json!({"feeds": [failed], "failed": 1})),
        run("refresh --feed crl-2", 200, json!({"feeds": [found], "failed": 0})),
        run("refresh --json", 200, json!({"feeds": [], "failed": 0})),
        run("refresh", 200, json!({"feeds": [], "failed": 0})),
        run("refresh --feed none", 404, problem(404, "unknown_feed", "none has the id `none`")),
    ];
    insta::assert_snapshot!(told.join("\n"));
}

fn advisory() -> Value {
    json!({"active": true, "mode": "advisory", "by": "secret:oncall", "reason": "the CA has expired",
        "since": "2026-11-22T12:00:00.000Z", "until": "2026-11-22T12:30:00.000Z", "remaining_seconds": 1799,
        "max_seconds": 14400})
}

#[test]
fn the_glass_is_broken() {
    let none = json!({"active": false, "mode": "strict", "max_seconds": 14400});
    let mut ended = none.clone();
    ended["sessions_ended"] = 3.into();
    ended["sessions_pending"] = 0.into();
    let mut stuck = ended.clone();
    stuck["sessions_pending"] = 1.into();
    let mut full = advisory();
    full["audit_durable"] = false.into();
    let begin = "advisory --for 30m --reason expired";
    let mut told = vec![
        run(begin, 200, advisory()),
        run(begin, 200, full),
        run("advisory --for 30m --reason expired --json", 200, advisory()),
        run("advisory", 200, none.clone()),
        run("advisory", 200, advisory()),
        run("advisory --end", 200, ended),
        run("advisory --end", 200, stuck),
        run("advisory --end", 200, none),
        run(
            "advisory --for 9h --reason expired",
            400,
            problem(400, "bad_request", "for: more than nothing, and 4h at most"),
        ),
        run(
            begin,
            403,
            problem(403, "insufficient_scope", "oncall is operator; to suspend enforcement takes admin"),
        ),
        run(begin, 200, json!({})),
        unreachable(begin),
    ];
    for line in
        ["advisory --for 30m", "advisory --reason expired", "advisory --end --for 30m --reason expired"]
    {
        told.push(run(line, 200, json!({})));
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn the_status_is_told() {
    let mut told = Vec::new();
    let mut broken = status();
    broken["mode"] = "advisory".into();
    broken["advisory"] = advisory();
    told.push(run("status", 200, broken));
    told.push(run("status", 200, status()));
    told.push(run("status --json", 200, status()));
    let mut bad = status();
    bad["mode"] = "advisory".into();
    bad["ready"] = false.into();
    bad["not_ready"] = "draining".into();
    bad["durable"] = false.into();
    bad["audit"] = json!({"sequence": 9, "hash": "ab12", "durable": false, "waiting": 7, "lost": 2});
    bad["feeds"] = json!([stale_feed(), {"name": "sqs", "kind": "sqs", "state": "fresh", "age_seconds": 3, "entries": 12,
        "required": false, "max_age_seconds": 120, "on_stale": "allow"}]);
    bad["warnings"] = json!(["revocation list of CN=agents: it has no number"]);
    told.push(run("status", 200, bad));
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_credential_is_checked() {
    let mut told = Vec::new();
    let allowed = json!({"allowed": true, "principal": "a", "hits": [], "sessions": 2});
    told.push(run("check --principal a", 200, allowed));
    let hit = json!({"level": "task", "target": "t-42", "state": "revoked", "id": "01", "at": "2026-11-22T12:00:00.000Z",
        "actor": "secret:oncall", "reason": "key leaked", "applies": true, "issued_before": "2026-11-22T12:00:00.000Z"});
    let refused = json!({"allowed": false, "code": "task_revoked", "reason": "key leaked", "hits": [hit], "sessions": 0,
        "principal": "spiffe://lab.test/agent/a",
        "certificates": [{"serial": "0a1b", "sha256": "ff", "key": "ee", "issuers": ["3b55"], "allowed": false,
            "not_before": "2026-11-22T12:00:00.000Z", "not_after": "2026-12-22T12:00:00.000Z",
            "principal": "spiffe://lab.test/agent/a", "code": "task_revoked"}]});
    told.push(run("check --serial serial=0A1B --issuer 3b55", 200, refused.clone()));
    let mut two = refused.clone();
    two["certificates"] =
        json!([refused["certificates"][0], {"serial": "0a1c", "allowed": true, "sha256": "fe"}]);
    told.push(run("check --principal a", 200, two));
    told.push(run("check --task t-42 --issued-at 1792000000 --json", 200, refused));
    let unseen = json!({"allowed": true, "principal": "nobody", "known": false, "hits": [], "sessions": 0});
    told.push(run("check --principal nobody", 200, unseen));
    for line in
        ["check", "check --task t --key k", "check --certificate admin.key", "check --token t --issuer 3b"]
    {
        told.push(run(line, 200, json!({})));
    }
    insta::assert_snapshot!(told.join("\n"));
}

/// The bytes of a certificate differ from run to run, so that they are looked for and not compared.
#[test]
fn a_certificate_is_checked_with_its_issuers() {
    let stub = Stub::start(vec![Reply::Json(200, json!({"allowed": true, "hits": [], "sessions": 0}))]);
    let read = |name: &str| std::fs::read_to_string(stub.path(name)).unwrap();
    stub.write("chain.pem", read("admin.pem") + &read("ca.pem"));
    assert_eq!(ended(stub.command("check --certificate chain.pem")).code, Some(0));
    let asked = stub.asked();
    let (path, issuers) = asked[0].split_once("&issuers=").unwrap();
    assert!(path.starts_with("GET /v1/check?certificate=MII") && issuers.starts_with("MII"), "{asked:?}");
}

#[test]
fn the_audit_is_listed() {
    let event = json!({"sequence": 4, "time": "2026-11-22T12:00:00.000Z", "action": "revoke", "outcome": "refused",
        "actor": "secret:oncall", "address": "10.0.0.1:5", "level": "task", "target": "t\u{1b}[2J", "code": "admin_denied"});
    let events = json!({"events": [event], "total": 9, "offset": 3, "limit": 1});
    let line = "audit list --actor secret:oncall --correlated INC-7 --outcome refused --offset 3 --limit 1";
    insta::assert_snapshot!(run(line, 200, events));
}

#[test]
fn a_question_may_be_refused_or_unheard() {
    let mut told = Vec::new();
    for line in ["revocations", "sessions", "status", "check --task t", "audit list"] {
        let denied = problem(403, "admin_denied", "spiffe://lab.test/agent/a has no role");
        told.push(run(line, 403, denied));
        told.push(run(line, 200, json!({"hello": "world"})));
        told.push(unreachable(line));
    }
    told.push(run("revocations --since yesterday", 200, json!({})));
    told.push(run("revocations 01 --limit 5", 200, json!({})));
    told.push(run("sessions --limit 0", 200, json!({})));
    insta::assert_snapshot!(told.join("\n"));
}

/// Entries that the admin listener does not heed are marked wherever they are shown. Seen failing without the mark in the
/// story of one change.
#[test]
fn what_an_unsigned_message_said_is_told_as_that() {
    let mut list = revocations();
    list["revocations"][0]["unsigned"] = true.into();
    let told = run("revocations", 200, list.clone());
    assert!(told.contains("suspended (unsigned)") && !told.contains("revoked (unsigned)"), "{told}");
    let verdict = json!({"allowed": false, "code": "principal_revoked", "hits": [list["revocations"][0]], "sessions": 0,
        "note": "the admin listener lets it in all the same"});
    let told = run("check --principal a", 200, verdict);
    assert!(told.contains("suspended (unsigned)"), "{told}");
    assert!(told.contains("administrator") && told.contains("lets it in all the same"), "{told}");
    let story = json!({"id": "01", "state": "suspended", "in_effect": true, "level": "principal", "target": "a",
        "entry": list["revocations"][0], "events": []});
    let told = run("revocations 01", 200, story);
    assert!(told.contains("suspended (unsigned), in effect"), "{told}");
}
