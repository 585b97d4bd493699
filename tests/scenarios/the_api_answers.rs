//! What each call of the admin API does, and what it says about it.

use std::time::Duration;

use futures_util::StreamExt as _;
use portcullis::clock::Clock;
use serde_json::Value;
use serde_json::json;

use crate::caller::Caller;
use crate::caller::Protocol;
use crate::caller::query;
use crate::lab::Lab;
use crate::lab::within;

async fn ops(lab: &Lab) -> Caller {
    Caller::http1(&lab.administrator("ops")).await
}

fn change(action: &str, level: &str, target: &str) -> Value {
    json!({"action": action, "level": level, "target": target})
}

fn with(mut change: Value, member: &str, value: impl Into<Value>) -> Value {
    change[member] = value.into();
    change
}

#[tokio::test]
async fn a_revocation_that_is_asked_again_is_renewed() {
    let mut lab = Lab::start().await;
    let mut caller = ops(&lab).await;
    let (mut last, generation) = (Value::from(""), lab.running().engine().generation() + 1);
    for (round, how) in ["Agent-1", " Agent-1 ", "Agent-1"].iter().enumerate() {
        let done =
            caller.done(&with(change("revoke", "agent", how), "reason", format!("round {round}"))).await;
        assert_eq!((&done["level"], &done["target"]), (&json!("principal"), &json!("Agent-1")));
        assert_eq!(
            (&done["changed"], &done["durable"], &done["effective"]),
            (&json!(round == 0), &json!(true), &json!(true))
        );
        assert_eq!((&done["generation"], &done["enforced"]), (&json!(generation), &json!(true)));
        assert!(done["revoked_at"].as_str() > last.as_str() && done.get("suspended_at").is_none(), "{done}");
        last = done["revoked_at"].clone();
    }
    // It is the renewed one that stands, after a restart too.
    for _ in 0..2 {
        let mut caller = ops(&lab).await;
        let listed = caller.read("/v1/revocations").await;
        assert_eq!((&listed["total"], &listed["revocations"][0]["at"]), (&json!(1), &last));
        assert_eq!(listed["revocations"][0]["reason"], "round 2");
        lab.restart().await;
    }
}

/// Seen failing with a dry run that is carried out.
#[tokio::test]
async fn a_dry_run_tells_all_and_changes_nothing() {
    let mut lab = Lab::plan().staffed().start().await;
    let issuing = lab.root.intermediate("issuing");
    let (first, again, other) = (issuing.agent("a"), issuing.agent("a"), lab.root.agent("b"));
    let mut open = Vec::new();
    for cert in [&first, &first, &again, &other] {
        let mut connection = lab.client(cert).h1().await;
        connection.get("/").await.assert_ok();
        open.push(connection);
    }
    let mut caller = ops(&lab).await;
    let generation = caller.read("/v1/status").await["generation"].clone();
    let (a, b) = ("spiffe://lab.test/agent/a", "spiffe://lab.test/agent/b");
    for (level, target, sessions, certificates, principals) in [
        ("certificate", first.serial.as_str(), 2, 1, vec![a]),
        ("key", again.key_sha256.as_str(), 1, 1, vec![a]),
        ("agent", "a", 3, 2, vec![a]),
        ("issuer", issuing.key_id.as_str(), 3, 2, vec![a]),
        ("issuer", lab.root.key_id.as_str(), 4, 3, vec![a, b]),
        ("trust_domain", "lab.test", 4, 3, vec![a, b]),
        ("task", "t", 0, 0, vec![]),
        ("certificate", "0a0b", 0, 0, vec![]),
    ] {
        for action in ["revoke", "suspend", "reinstate"] {
            let told = caller.done(&with(change(action, level, target), "dry_run", true)).await;
            let strikes = action != "reinstate";
            assert_eq!((&told["dry_run"], &told["would_change"]), (&json!(true), &json!(strikes)), "{told}");
            let [sessions, certificates, total] =
                [sessions, certificates, principals.len()].map(|count| if strikes { count } else { 0 });
            assert_eq!(
                (&told["sessions"], &told["certificates"]),
                (&json!(sessions), &json!(certificates)),
                "{told}"
            );
            assert_eq!(told["principals_total"], total);
            assert_eq!(told["principals"], if strikes { json!(principals) } else { json!([]) });
            assert_eq!(
                (&told["includes_caller"], &told["known"]),
                (&json!(false), &json!(sessions > 0 || (!strikes && !principals.is_empty()))),
                "{told}"
            );
        }
    }
    for (target, is_own) in [("ops.admin.test", true), ("second.admin.test", false)] {
        let told = caller.done(&with(change("revoke", "principal", target), "dry_run", true)).await;
        assert_eq!((&told["includes_caller"], &told["sessions"]), (&json!(is_own), &json!(u8::from(is_own))));
    }
    for connection in &mut open {
        connection.get("/").await.assert_ok();
    }
    let none = caller.read("/v1/revocations").await;
    assert_eq!((&none["total"], &caller.read("/v1/status").await["generation"]), (&json!(0), &generation));
    assert_eq!(caller.read("/v1/audit/events?outcome=applied").await["total"], 0);
    drop((open, caller));
    lab.restart().await;
    assert_eq!(ops(&lab).await.read("/v1/revocations").await["total"], 0);
    lab.client(&first).get("/").await.assert_ok();
}

#[tokio::test]
async fn what_stands_is_listed_by_whatever_is_asked() {
    let clock = Clock::manual(Clock::system().now());
    let lab = Lab::plan().clock(&clock).start().await;
    let mut caller = ops(&lab).await;
    let key = "ab".repeat(32);
    let mut times = Vec::new();
    for (action, level, target) in [
        ("revoke", "certificate", "00:0A:1B"),
        ("suspend", "key", key.as_str()),
        ("revoke", "principal", "a"),
        ("suspend", "principal", "a"),
        ("revoke", "task", "T"),
    ] {
        let done = caller.done(&with(change(action, level, target), "preemptive", true)).await;
        times.push(
            done[if action == "revoke" { "revoked_at" } else { "suspended_at" }].as_str().unwrap().to_owned(),
        );
        clock.advance(Duration::from_secs(1));
    }
    let upper = key.to_ascii_uppercase();
    for (wanted, rows) in [
        (&[][..], vec![4, 3, 2, 1, 0]),
        (&[("level", "principal")], vec![3, 2]),
        (&[("level", "agent")], vec![3, 2]),
        (&[("state", "suspended")], vec![3, 1]),
        (&[("state", "revoked")], vec![4, 2, 0]),
        (&[("target", "T")], vec![4]),
        (&[("target", "t")], vec![]),
        (&[("level", "agent"), ("target", "A")], vec![3, 2]),
        (&[("level", "certificate"), ("target", "0A1b")], vec![0]),
        (&[("level", "key"), ("target", &upper)], vec![1]),
        (&[("level", "certificate"), ("target", "0a1b"), ("issuer", "ab")], vec![]),
        (&[("source", "admin")], vec![4, 3, 2, 1, 0]),
        (&[("source", "crl")], vec![]),
        (&[("since", &times[3])], vec![4, 3]),
        (&[("until", &times[1])], vec![1, 0]),
        (&[("since", &times[1]), ("until", &times[2]), ("state", "revoked")], vec![2]),
        (&[("limit", "2")], vec![4, 3]),
        (&[("limit", "2"), ("offset", "3")], vec![1, 0]),
        (&[("offset", "9")], vec![]),
    ] {
        let page = caller.read(&format!("/v1/revocations?{}", query(wanted))).await;
        let found: Vec<_> =
            page["revocations"].as_array().unwrap().iter().map(|row| row["at"].clone()).collect();
        assert_eq!(
            found,
            rows.iter().map(|row: &usize| json!(times[*row])).collect::<Vec<_>>(),
            "{wanted:?}"
        );
        let is_page = wanted.iter().any(|(name, _)| matches!(*name, "limit" | "offset"));
        assert_eq!(page["total"], if is_page { 5 } else { rows.len() }, "{wanted:?}");
    }
    let row = &caller.read("/v1/revocations?level=certificate").await["revocations"][0];
    assert_eq!(
        (&row["actor"], &row["source"], &row["target"]),
        (&json!("ops.admin.test"), &json!("admin"), &json!("0a1b"))
    );
}

async fn fate(caller: &mut Caller, id: &Value) -> (String, bool) {
    let told = caller.read(&format!("/v1/revocations/{}", id.as_str().unwrap())).await;
    assert_eq!(&told["id"], id);
    (told["state"].as_str().unwrap().to_owned(), told["in_effect"].as_bool().unwrap())
}

#[tokio::test]
async fn each_event_has_its_fate() {
    let clock = Clock::manual(Clock::system().now());
    let lab = Lab::plan().clock(&clock).start().await;
    let mut caller = ops(&lab).await;
    let said = |state: &str, in_effect: bool| (state.to_owned(), in_effect);
    let revoked = caller.done(&with(change("revoke", "task", "a"), "reason", "leaked")).await["id"].clone();
    assert_eq!(fate(&mut caller, &revoked).await, said("revoked", true));
    let later = caller.done(&change("revoke", "task", "a")).await["id"].clone();
    assert_eq!(fate(&mut caller, &revoked).await, said("superseded", false));
    caller.change(&change("reinstate", "task", "a")).await.assert_refused(409, "revoked");
    let lift = caller.done(&with(change("reinstate", "task", "a"), "force", true)).await["id"].clone();
    assert_eq!(fate(&mut caller, &lift).await, said("reinstated", false));
    assert_eq!(fate(&mut caller, &later).await, said("lifted", false));
    let suspended = caller.done(&change("suspend", "task", "b")).await["id"].clone();
    assert_eq!(fate(&mut caller, &suspended).await, said("suspended", true));
    caller.done(&change("reinstate", "task", "b")).await;
    assert_eq!(fate(&mut caller, &suspended).await, said("lifted", false));
    // What hits only what expires goes with it; the skew that clocks are granted included.
    let until = clock.now().plus(Duration::from_secs(60)).to_string();
    let short = caller.done(&with(change("revoke", "task", "c"), "expires_at", until)).await["id"].clone();
    assert_eq!(fate(&mut caller, &short).await, said("revoked", true));
    clock.advance(Duration::from_secs(2 * 3600));
    assert_eq!(lab.running().engine().expire(), 1);
    assert_eq!(fate(&mut caller, &short).await, said("lapsed", false));
    caller.get("/v1/revocations/none").await.assert_refused(404, "unknown_revocation");
    let told = caller.read(&format!("/v1/revocations/{}", revoked.as_str().unwrap())).await;
    assert_eq!((&told["level"], &told["target"]), (&json!("task"), &json!("a")));
    let steps = told["timeline"].as_object().unwrap();
    assert!(
        ["received", "effective_us", "enforced_us"].iter().all(|step| steps.contains_key(*step)),
        "{told}"
    );
    let events = told["events"].as_array().unwrap();
    let what: Vec<_> = events
        .iter()
        .map(|event| (event["action"].as_str().unwrap(), event["outcome"].as_str().unwrap()))
        .collect();
    let expected = [
        ("revoke", "applied"),
        ("revoke", "applied"),
        ("reinstate", "asked"),
        ("reinstate", "refused"),
        ("reinstate", "asked"),
        ("reinstate", "applied"),
    ];
    assert_eq!(what, expected);
    // The one that was refused can be asked for, by the id that it was on record with.
    assert_eq!(fate(&mut caller, &events[2]["id"]).await.0, "refused");
}

#[tokio::test]
async fn an_entry_that_ends_before_its_certificates_is_warned_of() {
    let lab = Lab::start().await;
    lab.client(&lab.root.agent("a")).get("/").await.assert_ok();
    let mut caller = ops(&lab).await;
    let asked = |action: &str, secs: u64| {
        let until = Clock::system().now().plus(Duration::from_secs(secs)).to_string();
        with(change(action, "agent", "a"), "expires_at", until)
    };
    for action in ["suspend", "revoke"] {
        let done = caller.done(&asked(action, 5)).await;
        let warning = done["warnings"][0].as_str().unwrap();
        assert!(warning.contains("is before the notAfter of certificates that this hits (1,"), "{warning}");
    }
    // One that outlives them all is fine, and so is one that never ends.
    let decades = 100 * 365 * 86_400;
    for change in [asked("revoke", decades), change("revoke", "agent", "a")] {
        assert_eq!(caller.done(&change).await.get("warnings"), None);
    }
}

#[tokio::test]
async fn the_short_form_revokes() {
    let lab = Lab::start().await;
    let cert = lab.root.agent("a");
    let mut open = lab.client(&cert).h1().await;
    open.get("/").await.assert_ok();
    let mut caller = ops(&lab).await;
    let answer = caller.call("POST", "/v1/revoke", Some(&json!({"level": "agent", "target": " a"}))).await;
    answer.assert_ok();
    assert_eq!(
        answer.json(),
        json!({"revoked": true, "level": "agent", "target": "a", "count": 1, "known": true})
    );
    assert!(open.try_get("/").await.is_err());
    lab.client(&cert).get("/").await.assert_refused(403, "principal_revoked");
    for (body, status, code) in [
        (json!({"level": "leaf", "target": "a"}), 400, "bad_request"),
        (json!({"level": "Agent", "target": "a"}), 400, "bad_request"),
        (json!({"level": "token"}), 400, "bad_request"),
        (json!({"level": "token", "target": "j", "reason": "r"}), 400, "bad_request"),
        (json!({"level": "certificate", "target": "0a0b"}), 404, "unknown_certificate"),
    ] {
        caller.call("POST", "/v1/revoke", Some(&body)).await.assert_refused(status, code);
    }
    assert_eq!(lab.running().engine().entries(), 1);
}

#[tokio::test]
async fn sessions_are_listed_by_whatever_is_asked() {
    let lab = Lab::start().await;
    let issuing = lab.root.intermediate("issuing");
    let (a, b) = (issuing.agent("a"), lab.root.leaf().dns("b.lab.test").claim("b").issue());
    let mut first = lab.client(&a).h1().await;
    first.get("/").await.assert_ok();
    let mut second = lab.client(&b).from([127, 0, 0, 7].into()).h2().await;
    second.get("/").await.assert_ok();
    let mut caller = Caller::over(Protocol::Http2, &lab.administrator("ops")).await;
    let all = caller.read("/v1/sessions").await;
    let rows = all["sessions"].as_array().unwrap().clone();
    assert_eq!((rows.len(), &all["total"], &all["limit"]), (3, &json!(3), &json!(100)));
    let ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted());
    for (row, listener, protocol, principal, serial) in [
        (0, "gate", "http/1.1", "spiffe://lab.test/agent/a", Some(&a.serial)),
        (1, "gate", "http/2", "b.lab.test", Some(&b.serial)),
        (2, "admin", "http/2", "ops.admin.test", None),
    ] {
        let row = &rows[row];
        assert_eq!(
            (&row["listener"], &row["protocol"], &row["principal"]),
            (&json!(listener), &json!(protocol), &json!(principal))
        );
        assert!(
            serial.is_none_or(|serial| row["serial"] == **serial)
                && row["since"].is_string()
                && row["not_after"].is_string()
        );
    }
    let address = rows[1]["address"].as_str().unwrap().to_owned();
    for (wanted, found) in [
        (&[("principal", "a")][..], vec![0]),
        (&[("principal", "spiffe://lab.test/agent/a")], vec![0]),
        (&[("principal", "B.lab.test")], vec![1]),
        (&[("serial", &a.serial.to_ascii_uppercase())], vec![0]),
        (&[("key", &b.key_sha256)], vec![1]),
        (&[("issuer", &issuing.key_id)], vec![0]),
        (&[("issuer", &lab.root.key_id)], vec![0, 1]),
        (&[("issuer", &lab.ops.key_id)], vec![2]),
        (&[("trust_domain", "lab.test")], vec![0]),
        (&[("address", "127.0.0.7")], vec![1]),
        (&[("address", &address)], vec![1]),
        (&[("address", "127.0.0.1")], vec![0, 2]),
        (&[("listener", "gate")], vec![0, 1]),
        (&[("listener", "admin"), ("principal", "a")], vec![]),
        (&[("limit", "1"), ("offset", "1")], vec![1]),
    ] {
        let page = caller.read(&format!("/v1/sessions?{}", query(wanted))).await;
        let is: Vec<_> = page["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(is, found.iter().map(|row: &usize| ids[*row]).collect::<Vec<_>>(), "{wanted:?}");
        assert_eq!(page["total"], if wanted[0].0 == "limit" { 3 } else { found.len() }, "{wanted:?}");
    }
}

/// Seen failing with an end that takes every session of the certificate along.
#[tokio::test]
async fn a_session_that_is_ended_is_the_only_one() {
    let lab = Lab::plan().staffed().start().await;
    let cert = lab.root.agent("a");
    let client = lab.client(&cert);
    let mut caller = Caller::http1(&lab.administrator("operator")).await;
    let (mut plain, mut streams) = (client.h1().await, client.h2().await);
    plain.get("/").await.assert_ok();
    let held = streams.begin("/hold").await;
    lab.upstream.until("/hold", |_| true).await;
    let mut socket = client.websocket().await;
    let listed = caller.read("/v1/sessions?listener=gate").await;
    let ids: Vec<String> = listed["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 3);
    for (i, id) in ids.iter().enumerate() {
        let ended = caller.call("DELETE", &format!("/v1/sessions/{id}?reason=enough"), None).await;
        ended.assert_ok();
        let expected = json!({"id": id, "principal": "spiffe://lab.test/agent/a", "serial": cert.serial, "ended": true, "sessions_pending": 0,
            "audit_durable": true});
        assert_eq!(ended.json(), expected);
        assert_eq!(caller.read("/v1/sessions?listener=gate").await["total"], 2 - i);
        let gone = caller.call("DELETE", &format!("/v1/sessions/{id}"), None).await;
        gone.assert_refused(404, "unknown_session");
    }
    assert!(plain.try_get("/").await.is_err());
    assert!(within(held).await.is_err() && streams.try_get("/").await.is_err());
    assert!(within(socket.next()).await.is_none_or(|end| end.is_err()));
    lab.upstream.until("/hold", |seen| seen.gone).await;
    client.get("/").await.assert_ok();
    for id in ["0", "none", "0123456789ABCDEF", "ffffffffffffffff"] {
        caller
            .call("DELETE", &format!("/v1/sessions/{id}"), None)
            .await
            .assert_refused(404, "unknown_session");
    }
    let audit = std::fs::read_to_string(lab.audit()).unwrap();
    let lines: Vec<&str> = audit.lines().filter(|line| line.contains("\"outcome\":\"applied\"")).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line.contains("\"action\":\"end_session\"") && line.contains("\"reason\":\"enough\"")));
    // Her own: she gets no answer, and may come again. It is on record all the same.
    let own =
        caller.read("/v1/sessions?listener=admin").await["sessions"][0]["id"].as_str().unwrap().to_owned();
    let cut = caller.try_call("DELETE", &format!("/v1/sessions/{own}"), None).await;
    assert!(cut.is_err(), "{cut:?}");
    lab.until_audited(&own).await;
    Caller::http1(&lab.administrator("operator")).await.read("/v1/status").await;
}

#[tokio::test]
async fn the_status_says_how_the_gate_is() {
    let clock = Clock::manual(Clock::system().now());
    let lab = Lab::plan().staffed().clock(&clock).start().await;
    let mut caller = ops(&lab).await;
    let started = clock.now().to_string();
    clock.advance(Duration::from_secs(5));
    caller.done(&change("revoke", "task", "t")).await;
    caller.done(&change("suspend", "principal", "x")).await;
    let mut open = lab.client(&lab.root.agent("a")).h1().await;
    open.get("/").await.assert_ok();
    let status = caller.read("/v1/status").await;
    for (member, expected) in [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("started", json!(started)),
        ("now", json!(clock.now().to_string())),
        ("mode", json!("strict")),
        ("ready", json!(true)),
        ("generation", json!(lab.running().engine().generation())),
        ("durable", json!(true)),
        ("sessions", json!(2)),
        ("feeds", json!([])),
        ("warnings", json!([])),
        ("caller", json!({"actor": "ops.admin.test", "role": "admin"})),
    ] {
        assert_eq!(status[member], expected, "{member}");
    }
    let by_level = status["entries"]["by_level"].as_object().unwrap();
    assert_eq!((by_level.len(), &by_level["task"], &by_level["principal"]), (8, &json!(1), &json!(1)));
    assert_eq!(
        (&status["entries"]["total"], &status["entries"]["by_layer"]),
        (&json!(2), &json!({"live": 2}))
    );
    assert_eq!((&status["audit"]["durable"], status.get("not_ready")), (&json!(true), None));
    assert!(
        status["audit"]["sequence"].as_u64() >= Some(2) && status["certificates_known"].as_u64() >= Some(3)
    );
}
