//! A revocation of an administrator ends everything that is done on her strength: batches, open calls, tokens.

use std::time::Duration;

use http_body::Frame;
use portcullis::revocation::Level;
use serde_json::Value;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::caller::Caller;
use crate::caller::JSON;
use crate::caller::Protocol;
use crate::caller::token;
use crate::client::Answer;
use crate::lab::Lab;
use crate::lab::PATIENCE;
use crate::lab::secret;
use crate::lab::within;
use crate::upstream::Feeder;
use crate::upstream::feed;

const BATCH: usize = 10_000;
/// Reinstatements are on disk before they are in effect, and she is held until then: without optimization, ten thousand take the
/// journal longer than the second that her revocation waits.
const LIFTED: usize = 2000;

fn batch(action: &str, size: usize) -> Value {
    (0..size).map(|i| json!({"action": action, "level": "task", "target": format!("t{i}")})).collect()
}

fn revocation(target: &str) -> Value {
    json!({"action": "revoke", "level": "principal", "target": target})
}

/// Lines of the audit that have all of these members.
fn lines(lab: &Lab, members: &[(&str, &str)]) -> usize {
    let audit = std::fs::read_to_string(lab.audit()).unwrap();
    let members: Vec<String> =
        members.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
    audit.lines().filter(|line| members.iter().all(|member| line.contains(member))).count()
}

async fn until(what: impl Fn() -> bool) {
    // A batch of the greatest size, on a busy machine.
    let reached = tokio::time::timeout(6 * PATIENCE, async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(reached.await.is_ok(), "waited in vain");
}

/// How many tasks are denied.
fn tasks(lab: &Lab) -> usize {
    let at = Level::ALL.iter().position(|level| *level == Level::Task).unwrap();
    lab.running().engine().entries_by_level()[at]
}

/// Lets `second` begin a batch, revokes her once its first changes are in effect, and sees that those are all.
async fn revoke_in_the_middle(lab: &Lab, action: &str, size: usize) {
    let before = tasks(lab);
    let mut second = Caller::http1(&lab.administrator("second")).await;
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    let batch = batch(action, size);
    let running = tokio::spawn(async move { second.try_slowly(&batch).await });
    until(|| tasks(lab) != before).await;
    let revoked = ops.done(&revocation("second.admin.test")).await;
    let when_it_returned = tasks(lab);
    assert_eq!((&revoked["sessions_ended"], &revoked["sessions_pending"]), (&json!(1), &json!(0)));
    assert!(within(running).await.unwrap().is_err(), "her connection is cut");
    // What she asked and is not done any more is refused, each with a line of its own.
    let refused = || {
        let audit = std::fs::read_to_string(lab.audit()).unwrap();
        audit.lines().filter(|line| line.contains("the caller was revoked before")).count()
    };
    until(|| lines(lab, &[("action", action), ("outcome", "applied")]) + refused() >= size).await;
    assert!(refused() > 0, "the batch was over before she was revoked");
    assert_eq!(when_it_returned, tasks(lab));
}

/// Seen failing with a batch that goes on whatever becomes of its caller: her revocation waits in vain.
#[tokio::test]
async fn in_the_middle_of_a_batch_of_revocations() {
    revoke_in_the_middle(&Lab::start().await, "revoke", BATCH).await;
}

/// Seen failing with reinstatements that are not held against the caller's credential once they are on record: they went
/// on for more than a second, and her revocation returned before they were done.
#[tokio::test]
async fn in_the_middle_of_a_batch_of_reinstatements() {
    let lab = Lab::start().await;
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    let suspended = tokio::time::timeout(6 * PATIENCE, ops.slowly(&batch("suspend", LIFTED))).await.unwrap();
    assert_eq!((&suspended.json()["done"], tasks(&lab)), (&json!(LIFTED), LIFTED));
    revoke_in_the_middle(&lab, "reinstate", LIFTED).await;
}

/// Seen failing with an engine that does not hold sessions against the set.
#[tokio::test]
async fn an_operator_who_is_suspended_until_she_is_reinstated() {
    let lab = Lab::plan().staffed().start().await;
    let client = lab.administrator("operator");
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    let change = json!({"action": "revoke", "level": "task", "target": "t"});
    let mut open = Vec::new();
    for protocol in Protocol::ALL {
        open.push(Caller::over(protocol, &client).await);
    }
    for caller in &mut open {
        caller.done(&change).await;
    }
    let suspend = json!({"action": "suspend", "level": "principal", "target": "operator.admin.test"});
    assert_eq!(ops.done(&suspend).await["sessions_ended"], 2);
    for caller in &mut open {
        assert!(caller.try_call("GET", "/v1/status", None).await.is_err());
    }
    for protocol in Protocol::ALL {
        let mut again = Caller::over(protocol, &client).await;
        again.change(&change).await.assert_refused(401, "principal_suspended");
    }
    let reinstate = json!({"action": "reinstate", "level": "principal", "target": "operator.admin.test"});
    ops.done(&reinstate).await;
    Caller::http1(&client).await.done(&change).await;
}

/// A call with a token, in the middle of its body.
async fn open_call(lab: &Lab, token: &str) -> (Feeder, JoinHandle<hyper::Result<Answer>>) {
    let mut connection = lab.admin_client(None).h1().await;
    let (feeder, body) = feed();
    let request = connection.request("POST", "/v1/revocations").header(JSON.0, JSON.1);
    let request = request.header("authorization", format!("Bearer {token}")).body(body).unwrap();
    feeder.send(Frame::data(r#"{"action":"revoke","level":"task","#.into())).await.unwrap();
    let answer = tokio::spawn(async move { connection.exchange(request).await });
    let is_open = || lab.running().engine().sessions().list().iter().any(|one| one.protocol() == "bearer");
    until(is_open).await;
    (feeder, answer)
}

/// Seen failing without the gatekeeper's eye on the kill: the revocation waits in vain for a call that waits for its
/// body.
#[tokio::test]
async fn a_token_in_the_middle_of_a_call() {
    let lab = Lab::plan().staffed().start().await;
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    let bought = token(&lab.admin_client(None), "operator").await;
    let logged_in = ops.read("/v1/audit/events?action=authenticate&outcome=applied").await;
    let jti = logged_in["events"][0]["id"].as_str().unwrap().to_owned();
    let bystander = token(&lab.admin_client(None), "operator").await;
    for (change, code) in [
        (json!({"action": "revoke", "level": "token", "target": jti}), (401, "unauthorized")),
        (revocation("secret:operator"), (401, "unauthorized")),
    ] {
        let token = if change["level"] == "token" { &bought } else { &bystander };
        let (feeder, answer) = open_call(&lab, token).await;
        let revoked = ops.done(&change).await;
        assert_eq!((&revoked["sessions_ended"], &revoked["sessions_pending"]), (&json!(1), &json!(0)));
        // Its connection is cut with it; that may be quicker than the answer.
        if let Ok(answer) = within(answer).await.unwrap() {
            answer.assert_refused(code.0, code.1);
        }
        // The connection may be closed already.
        let _ = feeder.send(Frame::data(r#""target":"t"}"#.into())).await;
        assert_eq!(tasks(&lab), 0);
        let mut again = Caller::http1(&lab.admin_client(None)).await.bearing(token);
        again.get("/v1/status").await.assert_refused(401, "unauthorized");
        if change["level"] == "token" {
            // One token, not all of the secret's.
            Caller::http1(&lab.admin_client(None)).await.bearing(&bystander).read("/v1/status").await;
        }
    }
    // The secret buys no other.
    let login = json!({"secret": secret("operator")});
    let answer =
        Caller::http1(&lab.admin_client(None)).await.call("POST", "/v1/admin/auth", Some(&login)).await;
    answer.assert_refused(401, "unauthorized");
    token(&lab.admin_client(None), "auditor").await;
}
