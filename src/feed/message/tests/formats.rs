//! What each format becomes, and what is not one.

use serde_json::Value;
use serde_json::json;

use super::ORIGIN;
use super::SENT;
use super::event;
use super::read;
use super::refusal;
use super::told;
use super::with;
use crate::clock::Timestamp;
use crate::revocation::Action;
use crate::revocation::Event;
use crate::revocation::Level;
use crate::revocation::Target;

const DID: &str = "did:cdi:registry.clawdentity.dev:agent:01HF7YAT00W6W7CM7N3W5FDXT4";

fn one(body: &Value) -> (&'static str, Event) {
    let message = read(&body.to_string());
    assert!(message.poison.is_empty() && message.irrelevant.is_empty(), "{message:?}");
    let [event] = message.events.as_slice() else { panic!("{message:?}") };
    (message.format, event.clone())
}

fn irrelevant(body: &Value) -> String {
    let message = read(&body.to_string());
    assert!(message.events.is_empty() && message.poison.is_empty(), "{message:?}");
    assert_eq!(message.format, "clawdentity");
    message.irrelevant.join(", ")
}

fn why(body: &Value) -> String {
    refusal(read(&body.to_string()))
}

fn clawdentity(reason: &str) -> Value {
    json!({
        "id": "5f0c1f0e-6c1e-4a50-8a53-7d1c3a1f8d11", "type": "agent.auth.revoked", "version": "v1",
        "timestampUtc": "2026-11-22T15:59:00.250Z", "initiatedByAccountId": "acc-1",
        "data": { "agentId": "01HF", "sessionId": "s-1", "reason": reason, "metadata": { "agentDid": DID } },
    })
}

#[test]
fn our_own() {
    let (format, read) = one(&event());
    assert_eq!((format, read.id.as_str(), read.action), ("portcullis", "e-1", Action::Revoke));
    assert_eq!(read.target, Target::parse(Level::Principal, "spiffe://lab.test/agent/a", None).unwrap());
    assert_eq!(read.at, Timestamp::parse("2026-11-22T16:00:00Z").unwrap());
    assert_eq!((read.source, read.force), (None, false));
    let all = json!({
        "version": 1, "id": "e-2", "action": "suspend", "level": "certificate", "target": "00:0A", "issuer": "AB",
        "reason": "lost", "at": 1_795_364_000, "issued_before": 1_795_364_000, "expires_at": "2026-12-01T00:00:00+01:00",
        "actor": "ops", "force": false,
    });
    let (_, read) = one(&all);
    assert_eq!((read.target.name(), read.target.issuer()), ("0a", Some("ab")));
    assert_eq!((read.reason.as_deref(), read.actor.as_deref()), (Some("lost"), Some("ops")));
    assert_eq!(read.issued_before, Some(1_795_364_000));
    assert_eq!(read.expires_at, Timestamp::parse("2026-11-30T23:00:00Z"));
}

#[test]
fn our_own_is_read_strictly() {
    let long = "x".repeat(5000);
    for (name, value, expected) in [
        ("version", json!(2), "unknown_version: `version`: only 1 is known"),
        ("version", json!("1"), "unknown_version: `version`: only 1 is known"),
        ("version", json!(1.0), "unknown_version: `version`: only 1 is known"),
        ("source", json!("admin"), "bad_event: unknown field `source`"),
        ("id", json!(""), "bad_event: `id`: not 1 to 128 printable ascii characters"),
        ("id", json!("é"), "bad_event: `id`: not 1 to 128 printable ascii characters"),
        ("id", json!(long), "bad_event: `id`: not 1 to 128 printable ascii characters"),
        ("id", json!(7), "bad_event: `id`: a number where a string belongs"),
        ("action", json!("Revoke"), "bad_event: `action`: not revoke, suspend or reinstate"),
        ("action", json!(null), "bad_event: `action`: null where a string belongs"),
        ("level", json!("leaf"), "bad_event: `level`: not certificate, key, principal (agent), "),
        ("target", json!(""), "bad_event: `target`: of level principal: it is empty"),
        ("target", json!("a\u{0}b"), "bad_event: `target`: control characters"),
        ("target", json!(long), "bad_event: `target`: over 2048 bytes"),
        (
            "target",
            json!("SPIFFE://lab.test/a"),
            "bad_event: `target`: of level principal: the scheme is not",
        ),
        ("issuer", json!("ab"), "bad_event: `issuer`: level principal takes none"),
        ("reason", json!(long), "bad_event: `reason`: over 1024 bytes"),
        ("reason", json!("a\nb"), "bad_event: `reason`: control characters"),
        ("at", json!("yesterday"), "bad_event: `at`: neither rfc 3339 nor whole unix seconds"),
        ("at", json!(1.5), "bad_event: `at`: not a whole number"),
        (
            "issued_before",
            json!("2026-11-22T16:00:00Z"),
            "bad_event: `issued_before`: a string where a number",
        ),
        ("issued_before", json!(i64::MAX), "bad_event: `issued_before`: no unix seconds"),
        ("expires_at", json!(true), "bad_event: `expires_at`: true or false where"),
        ("actor", json!(["ops"]), "bad_event: `actor`: an array where a string belongs"),
        ("force", json!("yes"), "bad_event: `force`: a string where true or false belongs"),
        ("force", json!(true), "bad_event: `force`: goes with reinstate alone"),
    ] {
        let text = why(&with(event(), name, value));
        assert!(text.starts_with(expected), "{name}: {text}");
    }
    for name in ["version", "id", "action", "level", "target", "at"] {
        let mut event = event();
        event.as_object_mut().unwrap().remove(name);
        let text = why(&event);
        assert_eq!(text, format!("bad_event: `{name}`: missing"));
    }
    let twice = event().to_string().replacen('{', r#"{"target": "b", "#, 1);
    assert!(refusal(read(&twice)).starts_with("bad_event: field `target` is there twice"));
}

#[test]
fn clawdentity_revokes_agents() {
    let (format, read) = one(&clawdentity("agent_revoked"));
    assert_eq!((format, read.id.as_str()), ("clawdentity", "5f0c1f0e-6c1e-4a50-8a53-7d1c3a1f8d11"));
    assert_eq!((read.target.level(), read.target.name()), (Level::Principal, DID));
    assert_eq!(
        (read.at, read.action),
        (Timestamp::parse("2026-11-22T15:59:00.250Z").unwrap(), Action::Revoke)
    );
    // What is only beside the point does not let a revoked agent in.
    let bare = json!({
        "type": "agent.auth.revoked", "version": "v1", "timestampUtc": "soon",
        "data": { "reason": "agent_revoked", "metadata": { "agentDid": DID } },
    });
    let (_, read) = one(&bare);
    assert_eq!((read.id.as_str(), read.at), (ORIGIN.message_id, SENT));
}

#[test]
fn what_clawdentity_says_of_sessions_concerns_nobody() {
    for reason in ["owner_auth_revoke", "refresh_token_expired", "something_new"] {
        assert_eq!(irrelevant(&clawdentity(reason)), "agent.auth.revoked of a session");
    }
    for kind in ["agent.auth.issued", "agent.auth.refreshed", "pair.accepted", "delivery_receipt"] {
        assert_eq!(irrelevant(&json!({ "type": kind, "data": 7 })), kind);
    }
    assert_eq!(irrelevant(&json!({ "type": "agent.auth.revoked" })), "agent.auth.revoked without data");
}

#[test]
fn a_revocation_of_clawdentity_never_vanishes() {
    let revoked = clawdentity("agent_revoked");
    for did in [
        json!(null),
        json!(7),
        json!(""),
        json!("did:cdi:x:human:01HF7YAT00W6W7CM7N3W5FDXT4"),
        json!("agent-7"),
    ] {
        let mut event = revoked.clone();
        event["data"]["metadata"]["agentDid"] = did.clone();
        assert!(why(&event).starts_with("bad_event: `"), "{did}");
    }
    let mut without = revoked.clone();
    without["data"]["metadata"] = json!({});
    assert_eq!(why(&without), "bad_event: `data.metadata.agentDid`: missing");
    assert!(why(&with(revoked.clone(), "version", json!("v2"))).starts_with("unknown_version"));
    assert!(why(&with(revoked.clone(), "type", json!("agent.auth.forgotten"))).starts_with("unknown_type"));
    let twice = revoked.to_string().replacen("\"reason\"", "\"reason\":\"x\",\"reason\"", 1);
    assert!(refusal(read(&twice)).contains("`reason` is there twice"));
}

#[test]
fn serials() {
    let (format, read) = one(&json!({ "serial": "00:0A:1B" }));
    assert_eq!((format, read.target.level(), read.target.name()), ("serial", Level::Certificate, "0a1b"));
    assert_eq!((read.id.as_str(), read.at, read.action), (ORIGIN.message_id, SENT, Action::Revoke));
    let more = json!({ "serial": "0a", "issuer": "AB", "reason": "lost", "at": 1_795_000_000 });
    let (_, read) = one(&more);
    assert_eq!((read.target.issuer(), read.reason.as_deref()), (Some("ab"), Some("lost")));
    assert_eq!(read.at, Timestamp::from_secs(1_795_000_000));
    assert!(why(&json!({ "serial": "xyz" })).starts_with("bad_event: `target`: of level certificate"));
    assert!(why(&json!({ "serial": "0a", "level": "task" })).ends_with("unknown field `level`"));
}

/// Seen failing with a number read as hexadecimal digits, and without the check of digits.
#[test]
fn a_serial_has_one_reading() {
    let serial = |serial: Value| one(&json!({ "serial": serial })).1.target.name().to_owned();
    let most = "1234567890123456789012345678901234567890";
    assert_eq!(
        (serial(json!("10")), serial(json!(most))),
        ("10".into(), most.into()),
        "hexadecimal, though all digits"
    );
    assert_eq!((serial(json!(10)), serial(json!(4096))), ("0a".into(), "1000".into()), "a number is decimal");
    let long: Value =
        serde_json::from_str("{\"serial\": 1461501637330902918203684832716283019655932542975}").unwrap();
    assert!(why(&long).contains("no serial"), "serde_json makes a float of it");
    let body = "{\"serial\": 1461501637330902918203684832716283019655932542975}";
    assert_eq!(read(body).events.first().unwrap().target.name(), "ff".repeat(20));
    let digits = "14615016373309029182036848327162830196559325";
    for (name, body) in [
        ("serial", json!({ "serial": digits })),
        ("target", with(with(event(), "level", json!("certificate")), "target", json!(digits))),
    ] {
        let expected = format!(
            "bad_event: `{name}`: 44 digits without a letter: in hexadecimal 22 bytes, where 20 are the most; in decimal \
             a7c5ac471b4784230fcf80dc33721d53cddd, which is sent like this or as a number"
        );
        assert_eq!(why(&body), expected);
    }
    let lettered = format!("{}a", "1".repeat(41));
    assert_eq!(serial(json!(lettered)).len(), 42);
    for bad in [json!(1.5), json!(true), json!(null), json!("9".repeat(129))] {
        assert!(why(&json!({ "serial": bad })).starts_with("bad_event: `serial`: "), "{bad}");
    }
}

/// What no gate could ever match is not taken in and forgotten.
#[test]
fn a_target_that_no_credential_can_carry_is_poison() {
    for (level, target, expected) in [
        ("principal", "*.lab.test", "no credential carries a pattern"),
        ("principal", "DNS:a.lab.test", "neither a SPIFFE ID, a DID, a DNS name nor an agent id"),
        ("principal", "CN=agent-7", "neither a SPIFFE ID"),
        ("principal", "spiffe://lab.test//a", "is empty"),
        ("trust_domain", "*.lab.test", "trust domain"),
        ("trust_domain", "Lab.Test", "trust domain"),
    ] {
        let text = why(&with(with(event(), "level", json!(level)), "target", json!(target)));
        let begins = format!("bad_event: `target`: of level {level}: ");
        assert!(text.starts_with(&begins) && text.contains(expected), "{target}: {text}");
    }
}

#[test]
fn agentwrit() {
    for (word, level) in
        [("token", Level::Token), ("agent", Level::Principal), ("task", Level::Task), ("chain", Level::Chain)]
    {
        let (format, read) = one(&json!({ "level": word, "target": "t-1" }));
        assert_eq!((format, read.target.level(), read.target.name()), ("agentwrit", level, "t-1"));
        assert_eq!((read.id.as_str(), read.at), (ORIGIN.message_id, SENT));
    }
    assert!(why(&json!({ "level": "trust_domain", "target": "td" })).contains("others need `version` 1"));
    assert!(
        why(&json!({ "level": "task", "target": "t", "force": true })).ends_with("unknown field `force`")
    );
}

#[test]
fn a_batch_acts_as_far_as_it_is_understood() {
    let parts =
        json!([event(), { "serial": "zz" }, { "serial": "0a" }, clawdentity("owner_auth_revoke"), [], 7]);
    for body in [parts.clone(), json!({ "events": parts })] {
        let message = read(&body.to_string());
        assert_eq!(message.format, "portcullis");
        assert_eq!(
            told(&message),
            (vec!["bad_event", "unknown_shape", "unknown_shape"], vec!["e-1", "m-1#2"])
        );
        assert_eq!(message.irrelevant, ["agent.auth.revoked of a session"]);
        assert_eq!(message.poison[1].reason, "part 4: an array where an event belongs");
    }
    assert_eq!(read("[]").irrelevant, ["an empty batch"]);
    let many = format!("[{}1]", "1,".repeat(10_000));
    assert!(refusal(read(&many)).starts_with("bad_event: over 10000 parts: split it"));
    let most = format!("[{}{{\"serial\":\"0a\"}}]", "{\"serial\":\"0a\"},".repeat(9_999));
    assert_eq!(read(&most).events.len(), 10_000);
    assert!(why(&json!({ "events": [], "more": 1 })).ends_with("unknown field `more`"));
}

#[test]
fn what_is_no_event_is_refused_by_name() {
    let deep = "[".repeat(500_000);
    let deep_object = "{\"a\":".repeat(150_000);
    let closed = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
    let large = "x".repeat(1024 * 1024 + 1);
    let exact = format!("\"{}\"", "x".repeat(1024 * 1024 - 2));
    for (body, expected) in [
        ("", "not_json: it is empty"),
        (" \n", "not_json: it is empty"),
        ("hello", "not_json: expected value"),
        ("a.b.c", "bad_signature: the header of the jws is not base64url"),
        ("{", "not_json: EOF while parsing"),
        ("{} {}", "not_json: trailing characters"),
        ("\u{feff}{}", "not_json: expected value"),
        ("{\"a\": 1", "not_json: EOF"),
        ("{\"a\": \"\0\"}", "not_json: control character"),
        ("\0", "not_json: expected value"),
        ("{\"a\": 01}", "not_json: "),
        ("{\"a\": 1e}", "not_json: invalid number"),
        ("{\"a\": NaN}", "not_json: expected value"),
        ("{\"\\ud800\": 1}", "not_json: "),
        ("\"\\udc00\"", "not_json: lone leading surrogate"),
        ("null", "unknown_shape: null where an event belongs"),
        ("17", "unknown_shape: a number where an event belongs"),
        ("1e999999", "unknown_shape: a number"),
        ("true", "unknown_shape: true or false"),
        ("\"\\\"{}\\\"\"", "unknown_shape: a string in a string"),
        ("{}", "unknown_shape: an object that is no event that is known"),
        ("{\"Records\": []}", "unknown_shape: an object"),
        ("[{\"jws\": \"a.b.c\"}]", "unknown_shape: part 0: a signature in a batch"),
        (&deep, "not_json: EOF"),
        (&deep_object, "not_json: "),
        (&closed, "unknown_shape: part 0: an array"),
        (&large, "too_large: 1048577 bytes"),
        (&exact, "not_json: expected value"),
    ] {
        let head: String = body.chars().take(40).collect();
        let text = refusal(read(body));
        assert!(text.starts_with(expected), "{head:?}: {text}");
    }
}

#[test]
fn a_body_in_quotes_is_opened_once() {
    let quoted = Value::String(event().to_string()).to_string();
    assert_eq!(told(&read(&quoted)), (vec![], vec!["e-1"]));
}

/// Seen failing without the check of `force` in `event::read`.
#[test]
fn who_may_send_to_a_queue_may_not_lift_a_revocation() {
    let lift = with(with(event(), "action", json!("reinstate")), "force", json!(true));
    assert!(why(&lift).starts_with("force_unsigned: "));
    let message = read(&json!([lift, event()]).to_string());
    assert_eq!(told(&message), (vec!["force_unsigned"], vec!["e-1"]));
    let (_, plain) = one(&with(event(), "action", json!("reinstate")));
    assert!(!plain.force);
}
