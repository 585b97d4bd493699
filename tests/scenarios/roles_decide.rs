//! Who may call what: every operation of the document, by everybody, over both protocols.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_json::json;

use crate::caller::Caller;
use crate::caller::Protocol;
use crate::caller::fresh_address;
use crate::caller::token;
use crate::client::Client;
use crate::lab::Lab;

/// Who calls. The order is that of their rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Nobody,
    Stranger,
    Auditor,
    Operator,
    Admin,
}

const EVERYBODY: [Who; 5] = [Who::Nobody, Who::Stranger, Who::Auditor, Who::Operator, Who::Admin];

/// How an administrator is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Certificate,
    Token,
}

/// What one call is answered to somebody with each of the rights.
struct Call {
    /// As in the document.
    operation: (&'static str, &'static str),
    path: &'static str,
    body: Option<Value>,
    /// The least that may.
    least: Who,
    /// What is answered to whom may: status and code.
    answer: (u16, &'static str),
}

fn call(operation: (&'static str, &'static str), least: Who, answer: (u16, &'static str)) -> Call {
    Call { operation, path: operation.1, body: None, least, answer }
}

impl Call {
    fn path(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    fn expected(&self, who: Who) -> (u16, String) {
        let (status, code) = match who {
            _ if self.least <= who => self.answer,
            Who::Nobody => (401, "unauthorized"),
            Who::Stranger => (403, "admin_denied"),
            Who::Auditor | Who::Operator | Who::Admin => (403, "insufficient_scope"),
        };
        (status, code.to_owned())
    }
}

const OK: (u16, &str) = (200, "");
const REVOCATIONS: (&str, &str) = ("POST", "/v1/revocations");

/// Every operation of the document has at least one row here.
fn calls() -> Vec<Call> {
    let mut calls = vec![
        call(("GET", "/openapi.json"), Who::Nobody, OK),
        call(("POST", "/v1/admin/auth"), Who::Nobody, (401, "unauthorized"))
            .body(json!({"secret": "no secret of this gate's, but as long as one"})),
        call(("GET", "/v1/revocations"), Who::Auditor, OK),
        call(("GET", "/v1/revocations/{id}"), Who::Auditor, (404, "unknown_revocation"))
            .path("/v1/revocations/none"),
        call(("GET", "/v1/sessions"), Who::Auditor, OK),
        call(("GET", "/v1/status"), Who::Auditor, OK),
        call(("GET", "/v1/audit/events"), Who::Auditor, OK),
        call(("GET", "/v1/check"), Who::Auditor, OK).path("/v1/check?principal=somebody"),
        call(("DELETE", "/v1/sessions/{id}"), Who::Operator, (404, "unknown_session"))
            .path("/v1/sessions/0000000000000000"),
        call(("POST", "/v1/feeds/refresh"), Who::Operator, OK).body(json!({})),
        call(("GET", "/v1/advisory"), Who::Auditor, OK),
        call(("POST", "/v1/advisory"), Who::Admin, OK).body(json!({"for": "1m", "reason": "who may?"})),
        call(("DELETE", "/v1/advisory"), Who::Admin, OK),
        call(("POST", "/v1/revoke"), Who::Operator, OK).body(json!({"level": "agent", "target": "x"})),
        call(("POST", "/v1/revoke"), Who::Admin, OK)
            .body(json!({"level": "trust_domain", "target": "x.test"})),
        call(("POST", "/v1/revoke"), Who::Admin, OK).body(json!({"level": "issuer", "target": "abcd"})),
    ];
    let key = "ab".repeat(32);
    for (level, target, least) in [
        ("certificate", "0a0b", Who::Operator),
        ("key", key.as_str(), Who::Operator),
        ("principal", "spiffe://lab.test/agent/x", Who::Operator),
        ("agent", "x", Who::Operator),
        ("token", "j", Who::Operator),
        ("task", "t", Who::Operator),
        ("chain", "c", Who::Operator),
        ("issuer", "abcd", Who::Admin),
        ("trust_domain", "x.test", Who::Admin),
    ] {
        for action in ["suspend", "reinstate", "revoke"] {
            let change = json!({"action": action, "level": level, "target": target, "preemptive": true});
            let mut dry_run = change.clone();
            dry_run["dry_run"] = true.into();
            calls.push(call(REVOCATIONS, Who::Auditor, OK).body(dry_run));
            calls.push(call(REVOCATIONS, least, OK).body(change));
        }
        let forced = json!({"action": "reinstate", "level": level, "target": target, "force": true});
        let mut dry_run = forced.clone();
        dry_run["dry_run"] = true.into();
        calls.push(call(REVOCATIONS, Who::Auditor, OK).body(dry_run));
        calls.push(call(REVOCATIONS, Who::Admin, OK).body(forced));
    }
    calls
}

async fn client_of(lab: &Lab, who: Who) -> Client {
    match who {
        Who::Nobody => lab.admin_client(None),
        // Of an authority that vouches for administrators, under a name that is accepted.
        Who::Stranger => lab.admin_client(Some(&lab.ops.leaf().uri("spiffe://lab.test/agent/a").issue())),
        Who::Auditor => lab.administrator("auditor"),
        Who::Operator => lab.administrator("operator"),
        Who::Admin => lab.administrator("ops"),
    }
}

/// Lifts what earlier rows left, so that a plain reinstatement is refused for want of the role only.
async fn lift(ops: &mut Caller, call: &Call) {
    if let Some(body) = call.body.as_ref().filter(|body| body["action"] == "reinstate") {
        let mut forced = body.clone();
        forced["force"] = true.into();
        forced["all_names"] = true.into();
        forced["dry_run"] = false.into();
        ops.done(&forced).await;
    }
}

fn name(who: Who) -> &'static str {
    match who {
        Who::Operator => "operator",
        Who::Admin => "admin",
        _ => "auditor",
    }
}

#[test]
fn every_operation_is_in_the_matrix() {
    let document: Value = serde_json::from_str(&portcullis::authority::openapi()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            documented.insert((method.to_ascii_uppercase(), path.clone()));
        }
    }
    let asked: BTreeSet<_> =
        calls().iter().map(|call| (call.operation.0.to_owned(), call.operation.1.to_owned())).collect();
    assert_eq!(documented, asked);
}

/// Seen failing with an auditor who may end sessions, and with a dry run that takes what the change itself takes.
#[tokio::test]
async fn each_may_what_the_role_says_and_no_more() {
    let lab =
        Lab::plan().staffed().admin("limits = { calls_per_second = 1000, burst = 10000 }").start().await;
    let (mut wrong, mut ops) = (Vec::new(), Caller::http1(&lab.administrator("second")).await);
    for (who, by) in EVERYBODY
        .map(|who| (who, By::Certificate))
        .into_iter()
        .chain([Who::Auditor, Who::Operator, Who::Admin].map(|who| (who, By::Token)))
    {
        let client = match by {
            By::Certificate => client_of(&lab, who).await,
            By::Token => lab.admin_client(None),
        };
        let bought = match by {
            By::Certificate => None,
            By::Token => Some(token(&client.from(fresh_address()), name(who)).await),
        };
        for protocol in Protocol::ALL {
            for call in calls() {
                lift(&mut ops, &call).await;
                let mut caller = Caller::over(protocol, &client.from(fresh_address())).await;
                if let Some(token) = &bought {
                    caller = caller.bearing(token);
                }
                let answer = caller.call(call.operation.0, call.path, call.body.as_ref()).await;
                let expected = call.expected(who);
                if answer.verdict() != expected {
                    wrong.push(format!(
                        "{who:?} by {by:?} over {protocol:?}: {:?} {:?}: {:?}, not {expected:?}",
                        call.operation,
                        call.body,
                        answer.verdict()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The answers of a batch: the status and the code of each.
fn answers(answer: &Value) -> Vec<(u64, String)> {
    let answers = answer["answers"].as_array().unwrap();
    let verdict = |answer: &Value| {
        let code = answer["problem"]["code"].as_str().unwrap_or_default();
        assert_eq!(answer.get("result").is_some(), answer.get("problem").is_none(), "{answer}");
        (answer["status"].as_u64().unwrap(), code.to_owned())
    };
    answers.iter().map(verdict).collect()
}

#[tokio::test]
async fn each_change_of_a_batch_has_its_own_verdict_in_its_place() {
    let lab = Lab::plan().staffed().start().await;
    let batch = json!([
        {"action": "revoke", "level": "principal", "target": "a"},
        {"action": "revoke", "level": "issuer", "target": "abcd"},
        {"action": "revoke", "level": "principal", "target": "b", "dry_run": true},
        {"action": "reinstate", "level": "principal", "target": "a"},
        {"action": "reinstate", "level": "principal", "target": "a", "force": true},
        {"action": "revoke", "level": "certificate", "target": "0a"},
        {"action": "revoke", "level": "certificate", "target": "0a", "sudo": true},
        17,
        {"action": "suspend", "level": "task", "target": "t"},
    ]);
    let (ok, scope) = ((200, String::new()), (403, "insufficient_scope".to_owned()));
    let unknown = (404, "unknown_certificate".to_owned());
    let (revoked, bad) = ((409, "revoked".to_owned()), (400, "bad_request".to_owned()));
    for (who, expected) in [
        // In its order: what the first change revoked cannot be lifted plainly.
        ("operator", [&ok, &scope, &ok, &revoked, &scope, &unknown, &bad, &bad, &ok]),
        ("ops", [&ok, &ok, &ok, &revoked, &ok, &unknown, &bad, &bad, &ok]),
    ] {
        for protocol in Protocol::ALL {
            let mut caller = Caller::over(protocol, &lab.administrator(who)).await;
            let answer = caller.change(&batch).await;
            assert_eq!(answer.status, 207, "{who}");
            let answer = answer.json();
            assert_eq!(answers(&answer).iter().collect::<Vec<_>>(), expected, "{who}");
            let done = expected.iter().filter(|(status, _)| *status == 200).count();
            assert_eq!((&answer["done"], &answer["refused"]), (&json!(done), &json!(9 - done)), "{who}");
            assert_eq!(answer["answers"][2]["result"]["dry_run"], true);
            assert_eq!(answer["answers"][8]["result"]["target"].as_str(), (who != "auditor").then_some("t"));
        }
    }
    // What is not all dry runs is refused as a whole to who may do no other, with one line in the audit.
    let mut auditor = Caller::http1(&lab.administrator("auditor")).await;
    auditor.change(&batch).await.assert_refused(403, "insufficient_scope");
    let told = answers(&auditor.done(&json!([batch[2], batch[2]])).await);
    assert_eq!(told, [ok.clone(), ok.clone()]);
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    let all = json!([batch[0], batch[8]]);
    assert_eq!(answers(&ops.done(&all).await), [ok.clone(), ok]);
}

/// Seen failing with a token that only counts where there is no certificate.
#[tokio::test]
async fn who_shows_a_token_is_judged_by_it_alone() {
    let lab = Lab::plan().staffed().start().await;
    let change = json!({"action": "revoke", "level": "issuer", "target": "abcd"});
    for (certificate, secret, expected) in
        [("ops", "auditor", (403, "insufficient_scope")), ("auditor", "admin", (200, ""))]
    {
        let client = lab.administrator(certificate);
        let token = token(&client, secret).await;
        for protocol in Protocol::ALL {
            let mut caller = Caller::over(protocol, &client).await.bearing(&token);
            assert_eq!(caller.change(&change).await.verdict(), (expected.0, expected.1.to_owned()));
            let caller = &caller.read("/v1/status").await["caller"];
            assert_eq!(caller, &json!({"actor": format!("secret:{secret}"), "role": secret}));
        }
        // Not even a certificate that would do helps a token that does not.
        let mut caller = Caller::http1(&client).await.bearing("wrong");
        caller.get("/v1/status").await.assert_refused(401, "unauthorized");
    }
}
