//! What `GET /v1/check` says of a credential is what the gate does with it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use serde_json::Value;
use serde_json::json;

use crate::caller::Caller;
use crate::caller::query;
use crate::lab::Lab;
use crate::pki::Ca;
use crate::pki::Cert;
use crate::pki::now;

/// The question whether a certificate, with all that it presents, would be let in.
fn of(cert: &Cert) -> String {
    let [leaf, above @ ..] = cert.chain.as_slice() else { panic!("no leaf") };
    let issuers: Vec<String> = above.iter().map(|der| URL_SAFE_NO_PAD.encode(der)).collect();
    let leaf = URL_SAFE_NO_PAD.encode(leaf);
    match issuers.is_empty() {
        true => format!("/v1/check?certificate={leaf}"),
        false => format!("/v1/check?certificate={leaf}&issuers={}", issuers.join(",")),
    }
}

/// The code of the verdict; empty if it is yes.
fn code(verdict: &Value) -> String {
    let code = verdict["code"].as_str().unwrap_or_default();
    assert_eq!(verdict["allowed"], code.is_empty(), "{verdict}");
    assert_eq!(verdict.get("reason").is_some(), !code.is_empty(), "{verdict}");
    code.to_owned()
}

/// What the gate says; a handshake that fails is a certificate that it does not trust.
async fn at_the_gate(lab: &Lab, cert: &Cert) -> String {
    let request = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-agent-id: {}\r\n\r\n",
        cert.claim.as_deref().unwrap_or("a")
    );
    let Ok(answer) = lab.client(cert).raw(request.as_bytes()).await else { return "no handshake".into() };
    if answer.starts_with("HTTP/1.1 200 ") {
        return String::new();
    }
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str::<Value>(body).unwrap()["code"].as_str().unwrap().to_owned()
}

/// Seen failing with a check that looks at the certificate and its principal alone, and with one that holds
/// `issued_before` against the present.
#[tokio::test]
async fn for_every_level_and_state() {
    let lab = Lab::plan().staffed().start().await;
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    let issuing = lab.root.intermediate("issuing");
    let [hit, bystander] = ["a", "b"].map(|name| issuing.agent(name));
    let hour = 3600;
    let issued = now().unix_timestamp() - hour;
    let mut rows = vec![(json!({"level": "principal", "target": "nobody"}), false)];
    for (level, target, both) in [
        ("certificate", hit.serial.as_str(), false),
        ("key", hit.key_sha256.as_str(), false),
        ("principal", "spiffe://lab.test/agent/a", false),
        ("agent", "a", false),
        ("issuer", issuing.key_id.as_str(), true),
        ("issuer", lab.root.key_id.as_str(), true),
        ("issuer", lab.root.key_sha256.as_str(), true),
        ("trust_domain", "lab.test", true),
        ("key", issuing.key_sha256.as_str(), true),
    ] {
        rows.push((json!({"level": level, "target": target, "preemptive": true}), both));
        for bound in [issued - hour, issued + hour] {
            rows.push((
                json!({"level": level, "target": target, "preemptive": true, "issued_before": bound}),
                both,
            ));
        }
    }
    for (row, both) in rows {
        for action in ["suspend", "revoke"] {
            let mut change = row.clone();
            change["action"] = action.into();
            ops.done(&change).await;
            let (of_hit, of_bystander) = (ops.read(&of(&hit)).await, ops.read(&of(&bystander)).await);
            assert_eq!(code(&of_hit), at_the_gate(&lab, &hit).await, "{change}");
            assert_eq!(code(&of_bystander), at_the_gate(&lab, &bystander).await, "{change}");
            let applies = |verdict: &Value| {
                verdict["hits"].as_array().unwrap().iter().any(|hit| hit["applies"] == true)
            };
            assert_eq!(applies(&of_hit), of_hit["allowed"] == false, "{of_hit}");
            assert_eq!(of_bystander["allowed"] == false, both && of_hit["allowed"] == false, "{change}");
            // By its serial too: the gate has seen it.
            let by_serial = ops.read(&format!("/v1/check?serial={}", hit.serial)).await;
            assert_eq!(code(&by_serial), code(&of_hit), "{change}");
            assert_eq!(by_serial["principal"], "spiffe://lab.test/agent/a");
            assert_eq!(of_hit["certificates"][0]["allowed"], of_hit["allowed"]);
        }
        let mut lift = row.clone();
        lift["action"] = "reinstate".into();
        lift["force"] = true.into();
        lift.as_object_mut().unwrap().remove("issued_before");
        lift.as_object_mut().unwrap().remove("preemptive");
        ops.done(&lift).await;
        assert_eq!(code(&ops.read(&of(&hit)).await), "");
        assert_eq!(at_the_gate(&lab, &hit).await, "");
    }
}

/// Seen failing with an expired certificate that is only called untrusted, with a check that accepts any names, and with
/// a certificate whose names were refused and that, asked for by serial, was let in.
#[tokio::test]
async fn for_certificates_that_nobody_revoked() {
    let lab = Lab::plan().staffed().start().await;
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    let (hour, day) = (time::Duration::hours(1), time::Duration::hours(24));
    let leaf = || lab.root.leaf().uri("spiffe://lab.test/agent/a").claim("a");
    for (cert, expected, gate) in [
        (lab.root.agent("a"), "", ""),
        (lab.root.leaf().dns("a.lab.test").claim("a").issue(), "", ""),
        (lab.root.intermediate("one").intermediate("two").agent("a"), "", ""),
        (leaf().valid(now() - day, now() - hour).issue(), "certificate_expired", "no handshake"),
        (leaf().valid(now() + hour, now() + day).issue(), "certificate_untrusted", "no handshake"),
        (Ca::root("lab").agent("a"), "certificate_untrusted", "no handshake"),
        (lab.ops.leaf().dns("ops.admin.test").issue(), "certificate_untrusted", "no handshake"),
        (lab.root.leaf_that_signs().agent("a"), "certificate_untrusted", "no handshake"),
        (
            lab.root.leaf().uri("spiffe://other.test/agent/a").issue(),
            "trust_domain_denied",
            "trust_domain_denied",
        ),
        (leaf().uri("spiffe://lab.test/agent/b").issue(), "identity_ambiguous", "identity_ambiguous"),
        (lab.root.leaf().issue(), "identity_ambiguous", "identity_ambiguous"),
    ] {
        let before = ops.call("GET", &format!("/v1/check?serial={}", cert.serial), None).await;
        before.assert_refused(404, "unknown_certificate");
        let verdict = ops.read(&of(&cert)).await;
        assert_eq!((code(&verdict).as_str(), at_the_gate(&lab, &cert).await.as_str()), (expected, gate));
        // To ask is not to be seen; to be refused for its names is.
        let after = ops.call("GET", &format!("/v1/check?serial={}", cert.serial), None).await;
        match gate {
            "no handshake" => after.assert_refused(404, "unknown_certificate"),
            _ => assert_eq!(after.json()["allowed"], gate.is_empty(), "{expected}"),
        }
    }
    // Without what stands between it and its root it would not be let in.
    let mut alone = lab.root.intermediate("one").agent("a");
    alone.chain.truncate(1);
    assert_eq!(code(&ops.read(&of(&alone)).await), "certificate_untrusted");
}

#[tokio::test]
async fn for_names_keys_tokens_and_tasks() {
    let clock = Clock::manual(Clock::system().now());
    let lab = Lab::plan().staffed().clock(&clock).start().await;
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    let cert = lab.root.leaf().uri("spiffe://lab.test/agent/a").dns("a.lab.test").claim("a").issue();
    let mut open = lab.client(&cert).h1().await;
    open.get("/").await.assert_ok();
    let questions = [
        ("principal", "spiffe://lab.test/agent/a"),
        ("principal", "a"),
        ("principal", "A.lab.test"),
        ("key", &cert.key_sha256),
        ("token", "j"),
        ("task", "t"),
    ];
    for (kind, name) in questions {
        let verdict = ops.read(&format!("/v1/check?{}", query(&[(kind, name)]))).await;
        assert_eq!((code(&verdict), &verdict["hits"]), (String::new(), &json!([])), "{kind} {name}");
        let is_seen = !matches!(kind, "token" | "task");
        assert_eq!(verdict["sessions"], u64::from(is_seen), "{kind} {name}");
        assert_eq!(verdict["certificates"].as_array().unwrap().len(), usize::from(is_seen), "{kind} {name}");
    }
    let at = clock.now().secs();
    for (kind, name) in questions {
        let level = kind;
        let change = json!({"action": "revoke", "level": level, "target": name, "issued_before": at - 100, "reason": "leaked"});
        let id = ops.done(&change).await["id"].clone();
        for (issued_at, expected) in [(at - 101, format!("{level}_revoked")), (at - 100, String::new())] {
            for text in [issued_at.to_string(), Timestamp::from_secs(issued_at).to_string()] {
                let asked = query(&[(kind, name), ("issued_at", &text)]);
                let verdict = ops.read(&format!("/v1/check?{asked}")).await;
                assert_eq!(code(&verdict), expected, "{asked}");
                let hit = &verdict["hits"][0];
                assert_eq!(
                    (&hit["id"], &hit["reason"], &hit["state"]),
                    (&id, &json!("leaked"), &json!("revoked"))
                );
                assert_eq!(
                    (&hit["applies"], &hit["actor"]),
                    (&json!(!expected.is_empty()), &json!("ops.admin.test"))
                );
            }
        }
        ops.done(&json!({"action": "reinstate", "level": level, "target": name, "force": true})).await;
    }
    // Told of, and never seen.
    ops.done(&json!({"action": "revoke", "level": "certificate", "target": "0A:0B", "preemptive": true}))
        .await;
    let verdict = ops.read("/v1/check?serial=0a0b").await;
    assert_eq!((code(&verdict).as_str(), &verdict["certificates"]), ("certificate_revoked", &json!([])));
}
