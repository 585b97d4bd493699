//! Who may change what, what may be lifted and how, and that administrators obey revocation themselves.

use serde_json::Value;
use serde_json::json;

use crate::lab::Lab;
use crate::lab::post;

fn change(action: &str, level: &str, target: &str) -> Value {
    json!({"action": action, "level": level, "target": target})
}

#[tokio::test]
async fn a_suspension_ends_sessions_until_it_is_lifted() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    for target in ["spiffe://lab.test/agent/a", "a"] {
        let mut connection = lab.client(&cert).h1().await;
        connection.get("/").await.assert_ok();
        let ended = lab.applied(change("suspend", "principal", target)).await;
        assert_eq!((ended, lab.sessions()), (1, 0));
        assert!(connection.try_get("/").await.is_err());
        lab.client(&cert).get("/").await.assert_refused(401, "principal_suspended");
        lab.applied(change("reinstate", "principal", target)).await;
        lab.client(&cert).get("/").await.assert_ok();
        lab.until_sessions(0).await;
    }
}

#[tokio::test]
async fn a_revocation_is_lifted_only_by_force() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    lab.revoke("principal", "a").await;
    lab.applied(change("suspend", "principal", "a")).await;
    let refused = lab.change(change("reinstate", "principal", "a")).await;
    refused.assert_refused(409, "revoked");
    lab.client(&cert).get("/").await.assert_refused(403, "principal_revoked");
    let mut forced = change("reinstate", "principal", "a");
    forced["force"] = true.into();
    lab.applied(forced).await;
    lab.client(&cert).get("/").await.assert_ok();
    // Each target stands for itself; what refuses the only certificate of the agent is named.
    lab.revoke("certificate", &cert.serial).await;
    let lifted = lab.change(change("reinstate", "principal", "a")).await;
    lifted.assert_refused(409, "still_refused");
    assert_eq!(lifted.json()["still_refused"][0]["target"], cert.serial.as_str());
    lab.client(&cert).get("/").await.assert_refused(403, "certificate_revoked");
}

#[tokio::test]
async fn the_answer_says_what_was_done() {
    let mut lab = Lab::start().await;
    let answer = lab.change(change("revoke", "certificate", "00:0A:1B")).await;
    answer.assert_refused(404, "unknown_certificate");
    let mut preemptive = change("revoke", "certificate", "00:0A:1B");
    preemptive["preemptive"] = true.into();
    let answer = lab.change(preemptive).await;
    answer.assert_ok();
    let first = answer.json();
    assert_eq!((&first["level"], &first["target"]), (&json!("certificate"), &json!("0a1b")));
    assert!(first["revoked_at"].as_str().unwrap().ends_with('Z'));
    assert!(!first["id"].as_str().unwrap().is_empty());
    let second = lab.change(change("revoke", "agent", "b")).await.json();
    assert!(second["generation"].as_u64() > first["generation"].as_u64());
    assert_eq!(second["level"], "principal");
    let audit = std::fs::read_to_string(lab.audit()).unwrap();
    let lines = audit.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.filter(|line: &Value| line["action"] == "revoke").skip(1).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["id"], &lines[0]["target"]), (&first["id"], &first["target"]));
    assert_eq!((&lines[0]["actor"], &lines[0]["outcome"]), (&json!("ops.admin.test"), &json!("applied")));
}

#[tokio::test]
async fn nonsense_changes_nothing() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    for bad in [
        json!({}),
        json!([]),
        json!({"action": "revoke", "level": "leaf", "target": "a"}),
        json!({"action": "destroy", "level": "principal", "target": "a"}),
        json!({"action": "revoke", "level": "principal"}),
        json!({"action": "revoke", "level": "principal", "target": ""}),
        json!({"action": "revoke", "level": "certificate", "target": "xyz"}),
        json!({"action": "revoke", "level": "principal", "target": "spiffe://lab.test//a"}),
        json!({"action": "revoke", "level": "principal", "target": "a", "issuer": "ab"}),
        json!({"action": "revoke", "level": "principal", "target": "a", "force": true}),
        json!({"action": "revoke", "level": "principal", "target": "a", "issued_before": "soon"}),
        json!({"action": "revoke", "level": "principal", "target": "a", "reason": "x".repeat(1025)}),
        json!({"action": "revoke", "level": "principal", "target": "a", "until": "never"}),
        // Milliseconds for seconds: a time that could be written down and never read again.
        json!({"action": "revoke", "level": "principal", "target": "a", "expires_at": 1_795_000_000_000_i64}),
        json!({"action": "revoke", "level": "principal", "target": "a", "expires_at": 1_000_000_000}),
    ] {
        lab.change(bad).await.assert_refused(400, "bad_request");
    }
    lab.client(&cert).get("/").await.assert_ok();
    let audit = std::fs::read_to_string(lab.audit()).unwrap();
    // The first line says that the state was made.
    let mut lines = audit.lines().skip(1);
    assert!(lines.all(|line| line.contains("\"code\":\"bad_request\"")), "{audit}");
    assert_eq!(audit.lines().count(), 16);
}

#[tokio::test]
async fn only_administrators_are_heard() {
    let lab = Lab::start().await;
    let change = change("revoke", "principal", "a");
    let nobody = &mut lab.admin_client(None).h1().await;
    post(nobody, &change).await.unwrap().assert_refused(401, "unauthorized");
    let other = lab.ops.leaf().dns("else.admin.test").issue();
    let other = &mut lab.admin_client(Some(&other)).h1().await;
    // Its name is none that this listener knows.
    post(other, &change).await.unwrap().assert_refused(401, "unauthorized");
    let agent = lab.ops.leaf().uri("spiffe://lab.test/agent/a").issue();
    let agent = &mut lab.admin_client(Some(&agent)).h1().await;
    post(agent, &change).await.unwrap().assert_refused(403, "admin_denied");
    // Of an authority that does not vouch for administrators.
    let foreign = lab.root.leaf().dns("ops.admin.test").issue();
    let foreign = &mut lab.admin_client(Some(&foreign)).h1().await;
    post(foreign, &change).await.unwrap().assert_refused(403, "certificate_untrusted");
    assert_eq!(lab.running().engine().entries(), 0);
    lab.client(&lab.root.agent("a")).get("/").await.assert_ok();
}

/// Seen failing with an engine that does not hold sessions against the set.
#[tokio::test]
async fn a_revoked_administrator_is_out_at_once() {
    let mut lab = Lab::start().await;
    let second = lab.ops.leaf().dns("second.admin.test").issue();
    let client = lab.admin_client(Some(&second));
    let (mut open, mut streams) = (client.h1().await, client.h2().await);
    post(&mut open, &change("revoke", "principal", "x")).await.unwrap().assert_ok();
    streams.try_get("/nothing").await.unwrap();
    assert_eq!(lab.revoke("principal", "second.admin.test").await, 2);
    let again = change("revoke", "principal", "a");
    assert!(post(&mut open, &again).await.is_err());
    assert!(streams.try_get("/nothing").await.is_err());
    post(&mut client.h1().await, &again).await.unwrap().assert_refused(403, "principal_revoked");
    lab.client(&lab.root.agent("a")).get("/").await.assert_ok();
}

/// Whoever revokes himself gets no answer. It must be on disk all the same. Seen failing when the change ended
/// with his connection.
#[tokio::test]
async fn an_administrator_who_revokes_himself_stays_revoked() {
    let mut lab = Lab::start().await;
    let second = lab.ops.leaf().dns("second.admin.test").issue();
    let client = lab.admin_client(Some(&second));
    let mut open = client.h1().await;
    let own = change("revoke", "principal", "second.admin.test");
    assert!(post(&mut open, &own).await.is_err());
    lab.until_audited("\"target\":\"second.admin.test\"").await;
    lab.restart().await;
    let client = lab.admin_client(Some(&second));
    let answer = post(&mut client.h1().await, &change("revoke", "principal", "a")).await.unwrap();
    answer.assert_refused(403, "principal_revoked");
}
