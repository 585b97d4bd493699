//! A registry of tokens is polled: what its signed list revokes is denied, whoever asks is told why, and it is on
//! record.

use portcullis::clock::Clock;
use serde_json::Value;
use serde_json::json;

use crate::caller::Caller;
use crate::lab::Lab;
use crate::scripted::Reply;
use crate::scripted::Server;
use crate::tokens::ISSUER;
use crate::tokens::Registry;
use crate::tokens::claims;

const LIST: &str = "/v1/crl";

/// Has the gate look, and returns what it found.
async fn refresh(caller: &mut Caller) -> Value {
    let answer = caller.call("POST", "/v1/feeds/refresh", Some(&json!({"feed": "clawdentity"}))).await;
    answer.assert_ok();
    answer.json()["feeds"][0].clone()
}

#[tokio::test]
async fn what_a_registry_revokes_is_denied_and_on_record() {
    let (registry, server) = (Registry::new("k1"), Server::start());
    let keys = json!({ "keys": [registry.key("active")] }).to_string();
    server.says("/.well-known/claw-keys.json", Reply::ok(keys.as_bytes()));
    let feed =
        format!("[[feed.clawdentity]]\nurl = \"{}\"\nissuer = \"{ISSUER}\"\nrequired = true", server.url(""));
    let mut lab = Lab::plan().feeds(&feed).start().await;
    let mut caller = Caller::http1(&lab.administrator("ops")).await;
    // Nothing is known: nobody passes.
    let looked = refresh(&mut caller).await;
    assert!(looked["error"].as_str().unwrap().contains("status 404"), "{looked}");
    let agent = lab.root.agent("a");
    lab.client(&agent).get("/").await.assert_refused(503, "revocation_state_stale");

    let none = br#"{"error":{"code":"CRL_NOT_FOUND"}}"#;
    server.says(LIST, Reply::with("404 Not Found", &[], none));
    assert!(refresh(&mut caller).await["found"].is_string());
    lab.client(&agent).get("/").await.assert_ok();
    let check = caller.read("/v1/check?token=t-1").await;
    assert_eq!(check["allowed"], true, "{check}");

    let now = Clock::system().now().secs();
    server.says(LIST, Reply::ok(&registry.list(&claims(now - 5, &["t-1"]))));
    assert!(refresh(&mut caller).await["found"].is_string());
    let check = caller.read("/v1/check?token=t-1").await;
    assert_eq!((&check["allowed"], &check["code"]), (&json!(false), &json!("token_revoked")), "{check}");
    assert_eq!(check["hits"][0]["reason"], "key leaked", "{check}");
    assert_eq!(caller.read("/v1/check?token=t-2").await["allowed"], true);
    let status = caller.read("/v1/status").await;
    assert_eq!((&status["feeds"][0]["state"], &status["feeds"][0]["entries"]), (&json!("fresh"), &json!(1)));
    lab.until_audited("clawdentity: token list 01JD8R, entries: 1").await;
    let metrics = lab.plain("/metrics").await;
    for stage in ["received", "effective", "enforced"] {
        let line = format!(
            "portcullis_revocation_enforced_seconds_count{{feed=\"clawdentity\",stage=\"{stage}\"}} 1"
        );
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }

    // Without the registry, a gate that begins anew denies what it denied.
    drop((server, caller));
    lab.restart().await;
    let mut caller = Caller::http1(&lab.administrator("ops")).await;
    assert_eq!(caller.read("/v1/check?token=t-1").await["code"], "token_revoked");
    assert!(refresh(&mut caller).await["error"].is_string());
    assert_eq!(caller.read("/v1/check?token=t-1").await["code"], "token_revoked");
    lab.client(&agent).get("/").await.assert_ok();
}
