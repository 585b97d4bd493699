//! A route refuses in the words of the services behind it; the metrics keep to ours.

use rustls::version::TLS13;
use serde_json::Value;
use serde_json::json;

use crate::client::Answer;
use crate::client::Client;
use crate::lab::Lab;
use crate::pki::now;

const ROUTES: &str = "[[route]]\nupstream = [\"UPSTREAM\"]\n\
    [[route]]\npath = \"/runbook\"\nrefusals = \"runbook\"\nupstream = [\"UPSTREAM\"]\n\
    [[route]]\npath = \"/claw\"\nrefusals = \"claw\"\nmtls_required = 403\nupstream = [\"UPSTREAM\"]\n\
    [[route]]\npath = \"/open\"\nmode = \"advisory\"\nupstream = [\"UPSTREAM\"]";

async fn lab(disclose: &str) -> Lab {
    // With an advisory route beside, so that even a chain that does not verify is answered.
    Lab::plan().routes(ROUTES).gate(&format!("disclose = \"{disclose}\"")).start().await
}

async fn change(lab: &mut Lab, action: &str, level: &str, target: &str, reason: &str) {
    let change =
        json!({"action": action, "level": level, "target": target, "reason": reason, "preemptive": true});
    lab.applied(change).await;
}

/// What a request is answered: status, media type and document, without the request id, which is one.
fn told(answer: &Answer) -> (u16, Value) {
    assert_eq!(answer.headers["content-type"], "application/json");
    let mut document = answer.json();
    if let Some(error) = document["error"].as_object_mut() {
        let id = error.remove("requestId").unwrap();
        assert!(id.as_str().is_some_and(|id| id.len() > 8), "{id}");
    }
    (answer.status.as_u16(), document)
}

fn claw(code: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message}})
}

/// A client, and what it is told: by the runbook's words, by clawdentity's code and words.
type Case = (Client, &'static str, &'static str, &'static str);

/// Whoever is suspended, revoked or both, in which way.
async fn denied(lab: &mut Lab) -> Vec<Case> {
    let agents = ["suspended", "revoked", "stolen", "held", "both", "task"].map(|name| lab.root.agent(name));
    let [suspended, revoked, stolen, held, both, task] = &agents;
    change(lab, "suspend", "principal", "suspended", "investigation").await;
    change(lab, "revoke", "principal", "revoked", "left").await;
    change(lab, "revoke", "certificate", &stolen.serial, "key_compromise").await;
    change(lab, "suspend", "certificate", &held.serial, "hold").await;
    change(lab, "revoke", "certificate", &both.serial, "key_compromise").await;
    change(lab, "suspend", "principal", "both", "investigation").await;
    change(lab, "suspend", "key", &task.key_sha256, "").await;
    vec![
        (
            lab.client(suspended),
            "principal suspended: investigation",
            "PROXY_AUTH_SUSPENDED",
            "principal suspended: investigation",
        ),
        (lab.client(revoked), "principal deleted", "PROXY_AUTH_REVOKED", "principal revoked: left"),
        (
            lab.client(stolen),
            "certificate revoked: key_compromise",
            "PROXY_AUTH_REVOKED",
            "certificate revoked: key_compromise",
        ),
        (
            lab.client(held),
            "certificate revoked: hold",
            "PROXY_AUTH_SUSPENDED",
            "certificate suspended: hold",
        ),
        // There, suspension is looked at first.
        (
            lab.client(both),
            "principal suspended: investigation",
            "PROXY_AUTH_REVOKED",
            "certificate revoked: key_compromise",
        ),
        (lab.client(task), "certificate revoked", "PROXY_AUTH_SUSPENDED", "key suspended"),
    ]
}

/// Whoever is not known, or not as the one that she says.
fn unknown(lab: &Lab) -> Vec<Case> {
    let hour = time::Duration::hours(1);
    let expired = lab.root.leaf().uri("spiffe://lab.test/agent/a").claim("a");
    let expired = expired.valid(now() - 2 * hour, now() - hour).issue();
    vec![
        (
            lab.client(&expired),
            "valid client certificate required",
            "PROXY_AUTH_EXPIRED",
            "the client certificate, or one on its path, has expired",
        ),
        (
            lab.client_of(None, &[&TLS13]),
            "valid client certificate required",
            "PROXY_AUTH_MISSING",
            "valid client certificate required",
        ),
        (
            lab.client(&lab.root.agent("x").claiming(Some("y"))),
            "principal mismatch: y",
            "PROXY_AUTH_MISMATCH",
            "the request claims `y`, its certificate is `spiffe://lab.test/agent/x`",
        ),
        (
            lab.client(&lab.root.agent("x").claiming(None)),
            "principal required",
            "PROXY_AUTH_MISMATCH",
            "the request claims no identity",
        ),
    ]
}

/// Seen failing with a suspension that is told only where nothing of the credential is revoked.
#[tokio::test]
async fn every_refusal_about_identity_has_its_words() {
    let mut lab = lab("reason").await;
    let mut cases = denied(&mut lab).await;
    cases.extend(unknown(&lab));
    for (client, message, code, words) in &cases {
        assert_eq!(told(&client.get("/runbook").await), (401, json!({"error": message})));
        assert_eq!(told(&client.h2().await.get("/runbook").await), (401, json!({"error": message})));
        assert_eq!(told(&client.get("/claw").await), (401, claw(code, words)), "{message}");
        // Elsewhere nothing has changed.
        assert_eq!(client.get("/").await.headers["content-type"], "application/problem+json");
        client.get("/open").await.assert_ok();
    }
    let foreign = lab.root.leaf().uri("spiffe://other.test/agent/a").claim("a").issue();
    let foreign = lab.client(&foreign);
    let answer = foreign.get("/runbook").await;
    assert!(told(&answer).1["error"].as_str().unwrap().starts_with("principal not found: "), "{answer:?}");
    assert_eq!(told(&foreign.get("/claw").await).1["error"]["code"], "PROXY_AUTH_INVALID");
    let text = lab.plain("/metrics").await;
    assert!(text.contains("portcullis_refusals_total{code=\"certificate_revoked\"}"), "{text}");
    assert!(!text.contains("PROXY_AUTH"), "{text}");
}

/// Seen failing with a dialect that says what it knows.
#[tokio::test]
async fn no_more_is_told_than_may_be() {
    for (disclose, runbook, code, message) in [
        ("none", "unauthorized", "PROXY_AUTH_REFUSED", "refused"),
        ("code", "certificate revoked", "PROXY_AUTH_REVOKED", "certificate revoked"),
    ] {
        let mut lab = lab(disclose).await;
        let cert = lab.root.agent("a");
        change(&mut lab, "revoke", "certificate", &cert.serial, "key_compromise").await;
        let client = lab.client(&cert);
        assert_eq!(told(&client.get("/runbook").await), (401, json!({"error": runbook})));
        assert_eq!(told(&client.get("/claw").await), (401, claw(code, message)));
    }
}

/// What is not about identity stays a problem document.
#[tokio::test]
async fn the_rest_is_told_as_ever() {
    let lab = lab("code").await;
    let client = lab.client(&lab.root.agent("a"));
    for path in ["/runbook/%2e%2e/", "/claw//x"] {
        client.get(path).await.assert_refused(400, "bad_request");
    }
    let gone = ROUTES.replacen("UPSTREAM", "http://127.0.0.1:1", 2);
    let lab = Lab::plan().routes(&gone).start().await;
    lab.client(&lab.root.agent("a")).get("/runbook").await.assert_refused(502, "upstream_failed");
}

/// What depends on a feed that was never read is a dependency that fails.
#[tokio::test]
async fn a_stale_feed_is_a_failed_dependency() {
    let feed = "[[feed.crl]]\nname = \"crl\"\nurl = \"file:DIRECTORY/none.crl\"\nrequired = true";
    let lab = Lab::plan().routes(ROUTES).feeds(feed).start().await;
    let client = lab.client(&lab.root.agent("a"));
    assert_eq!(
        told(&client.get("/claw").await),
        (503, claw("PROXY_AUTH_DEPENDENCY_UNAVAILABLE", "revocation state stale"))
    );
    assert_eq!(told(&client.get("/runbook").await), (401, json!({"error": "revocation state unavailable"})));
    client.get("/").await.assert_refused(503, "revocation_state_stale");
}
