//! What is wrong with a call is said in one way, changes nothing, and costs whoever sends it more than the gate.

use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use portcullis::clock::Clock;
use serde_json::Value;
use serde_json::json;

use crate::caller::Caller;
use crate::caller::JSON;
use crate::caller::Protocol;
use crate::caller::fresh_address;
use crate::caller::token;
use crate::client::Answer;
use crate::lab::Lab;
use crate::lab::secret;
use crate::lab::within;
use crate::upstream::feed;

const REVOCATIONS: (&str, &str) = ("POST", "/v1/revocations");
const AUTH: (&str, &str) = ("POST", "/v1/admin/auth");
const GOOD: &str = r#"{"action":"revoke","level":"task","target":"t"}"#;

async fn ops(lab: &Lab, protocol: Protocol) -> Caller {
    Caller::over(protocol, &lab.administrator("ops")).await
}

/// A refusal is small whatever was sent: it goes to the log and the audit too.
#[track_caller]
fn assert_bad(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!(answer.verdict(), (status, code.to_owned()), "{what}: {:?}", answer.body);
    assert!(answer.body.len() < 8192, "{what}: {} bytes", answer.body.len());
    let document = answer.json();
    for member in ["type", "title", "error", "detail", "request_id"] {
        assert!(document[member].is_string(), "{what}: {member}");
    }
}

/// Bodies that ask for nothing that could be done.
fn bad_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let change = |more: &str| format!(r#"{{"action":"revoke","level":"task","target":"t"{more}}}"#);
    let target = |text: &str| format!(r#"{{"action":"revoke","level":"task","target":"{text}"}}"#);
    let batch = |count: usize| format!("[{}]", vec![GOOD; count].join(","));
    let long = "x".repeat(60 << 10);
    vec![
        ("nothing", "".into()),
        ("broken off", GOOD[..20].into()),
        ("trailing", format!("{GOOD} {GOOD}").into()),
        ("trailing bracket", format!("{GOOD}]").into()),
        ("unknown key", change(r#","sudo":true"#).into()),
        ("unknown key, long", change(&format!(r#","{long}":true"#)).into()),
        ("key twice", change(r#","target":"u""#).into()),
        ("a string", r#""revoke""#.into()),
        ("a number of a wrong kind", change(r#","issued_before":1.5"#).into()),
        ("a string for a bool", change(r#","dry_run":"true""#).into()),
        ("null for a target", r#"{"action":"revoke","level":"task","target":null}"#.into()),
        ("unknown level, long", format!(r#"{{"action":"revoke","level":"{long}","target":"t"}}"#).into()),
        ("nested arrays", "[".repeat(1 << 20).into()),
        ("nested objects", r#"{"action":"#.repeat(6 << 10).into()),
        (
            "nested in a member",
            change(&format!(r#","reason":{}{}"#, "[".repeat(24 << 10), "]".repeat(24 << 10))).into(),
        ),
        ("NUL", target("t\\u0000").replace("t\\u0000", "t\\u0000x").into()),
        ("line feed", target("t\\nx").into()),
        ("escape", target("t\\u001b[2Jx").into()),
        ("raw control character", target("t\u{1}x").into()),
        ("blank", target("  ").into()),
        ("too long a target", target(&"t".repeat(2049)).into()),
        ("half a surrogate", target("\\ud800").into()),
        (
            "not UTF-8",
            [b"{\"action\":\"revoke\",\"level\":\"task\",\"target\":\"".as_slice(), b"\xff\"}"].concat(),
        ),
        ("UTF-16", vec![0xff, 0xfe, b'{', 0]),
        ("empty batch", "[]".into()),
        ("batch of too many", batch(10_001).into()),
        ("batch, broken off", batch(3)[..100].into()),
        ("batch, trailing", (batch(3) + ",").into()),
    ]
}

/// Seen failing with refusals that quote as much as was sent.
#[tokio::test]
async fn bodies() {
    let lab = Lab::plan().staffed().start().await;
    for protocol in Protocol::ALL {
        let mut caller = ops(&lab, protocol).await;
        for (what, body) in &bad_bodies() {
            let answer = caller.send(REVOCATIONS, &[JSON], body.clone()).await;
            assert_bad(&answer, 400, "bad_request", what);
        }
        // In a batch, each for itself. An array of the right values is no change either.
        let answer = caller.send(REVOCATIONS, &[JSON], r#"[["revoke","task","t"]]"#).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["refused"]), (207, &json!(1)));
        let deep = format!(r#"[{GOOD_DRY},{}{}]"#, "[".repeat(1 << 18), "]".repeat(1 << 18));
        let answer = caller.send(REVOCATIONS, &[JSON], deep).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["refused"]), (207, &json!(1)));
        for kind in [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonx",
            "application/problem+json",
        ] {
            for call in [REVOCATIONS, ("POST", "/v1/revoke"), AUTH] {
                let answer = caller.send(call, &[("content-type", kind)], GOOD).await;
                assert_bad(&answer, 415, "unsupported_media_type", kind);
            }
            // Without waiting for the next attempt that is allowed.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let with_charset = [("content-type", "Application/JSON; charset=utf-8")];
        let answer = caller.send(REVOCATIONS, &with_charset, GOOD_DRY).await;
        answer.assert_ok();
    }
    assert_eq!(lab.running().engine().entries(), 0);
    let audit = std::fs::read_to_string(lab.audit()).unwrap();
    // The first line says that the state was made.
    let mut lines = audit.lines().skip(1);
    assert!(lines.all(|line| line.len() < 8192 && line.contains("\"outcome\":\"refused\"")));
}

const GOOD_DRY: &str = r#"{"action":"revoke","level":"task","target":"t","dry_run":true}"#;

#[tokio::test]
async fn bodies_that_are_too_long() {
    let lab = Lab::plan().staffed().start().await;
    for protocol in Protocol::ALL {
        for (call, limit) in [(REVOCATIONS, 8 << 20), (("POST", "/v1/revoke"), 64 << 10), (AUTH, 32 << 10)] {
            // White space counts, and is no mistake of another kind.
            let good = if call == REVOCATIONS { format!("[{GOOD_DRY}]") } else { GOOD_DRY.to_owned() };
            let padded = |length: usize| good.clone() + &" ".repeat(length - good.len());
            let answer = ops(&lab, protocol).await.try_send(call, &[JSON], padded(limit + 1)).await;
            // Who goes on sending may find the connection closed before the answer.
            if let Ok(answer) = answer {
                assert_bad(&answer, 413, "payload_too_large", call.1);
            }
            let answer = ops(&lab, protocol).await.send(call, &[JSON], padded(limit)).await;
            assert_eq!(answer.status, if call == REVOCATIONS { 200 } else { 400 }, "{call:?}");
        }
    }
    // One change is no batch.
    let long = GOOD_DRY.to_owned() + &" ".repeat(64 << 10);
    let answer = ops(&lab, Protocol::ALL[0]).await.send(REVOCATIONS, &[JSON], long).await;
    assert_bad(&answer, 413, "payload_too_large", "one change");
    let audit = std::fs::read_to_string(lab.audit()).unwrap();
    assert_eq!(audit.lines().filter(|line| line.contains("payload_too_large")).count(), 7);
}

#[tokio::test]
async fn bodies_that_do_not_end() {
    let lab = Lab::plan().staffed().gate("timeouts = { body_idle = \"1s\" }").start().await;
    for (call, chunk) in [(REVOCATIONS, "{"), (AUTH, "{"), (REVOCATIONS, "")] {
        let mut connection = lab.administrator("ops").h1().await;
        let (feeder, body) = feed();
        let request = connection.request(call.0, call.1).header(JSON.0, JSON.1).body(body).unwrap();
        feeder.send(Frame::data(chunk.into())).await.unwrap();
        let answer = connection.exchange(request).await.unwrap();
        assert_bad(&answer, 408, "request_timeout", call.1);
    }
    // One that never stops is stopped by its length, or, if it trickles, by the time it takes.
    let mut connection = lab.administrator("ops").h1().await;
    let (feeder, body) = feed();
    let request = connection.request("POST", REVOCATIONS.1).header(JSON.0, JSON.1).body(body).unwrap();
    let sending = tokio::spawn(async move {
        while feeder.send(Frame::data(Bytes::from_static(&[b' '; 1 << 16]))).await.is_ok() {}
    });
    if let Ok(answer) = connection.exchange(request).await {
        assert_bad(&answer, 413, "payload_too_large", "without end");
    }
    drop(connection);
    within(sending).await.unwrap();
}

#[tokio::test]
async fn queries() {
    let lab = Lab::plan().staffed().start().await;
    let mut caller = ops(&lab, Protocol::Http1).await;
    for path in ["/v1/revocations", "/v1/sessions", "/v1/audit/events"] {
        for query in [
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=x",
            "limit=",
            "limit=1&limit=2",
            "offset=-1",
            "offset=x",
            "offset=18446744073709551616",
            "sudo=1",
            "=",
            "limit=1.0",
        ] {
            let answer = caller.get(&format!("{path}?{query}")).await;
            assert_bad(&answer, 400, "bad_request", &format!("{path}?{query}"));
        }
        for query in ["", "offset=18446744073709551615", "offset=9223372036854775808&limit=1000"] {
            let page = caller.read(&format!("{path}?{query}")).await;
            let rows = page.as_object().unwrap().values().find_map(Value::as_array).unwrap();
            assert!(query.is_empty() || rows.is_empty(), "{path}?{query}");
        }
    }
    for path in [
        "/v1/revocations?level=leaf",
        "/v1/revocations?state=lifted",
        "/v1/revocations?since=soon",
        "/v1/revocations?target=",
        "/v1/revocations?level=certificate&target=xyz",
        "/v1/revocations?level=key&target=ab",
        "/v1/revocations?level=task&target=a%00b",
        "/v1/revocations?since=99999999999999",
        "/v1/sessions?listener=plain",
        "/v1/audit/events?action=a&event_type=b",
        "/v1/audit/events?principal=a&agent_id=b",
        "/v1/audit/events?task_id=a&level=task",
        "/v1/check",
        "/v1/check?serial=0a&principal=a",
        "/v1/check?principal=",
        "/v1/check?key=0a",
        "/v1/check?issuer=0a&principal=a",
        "/v1/check?certificate=%21",
        "/v1/check?certificate=AAAA",
        "/v1/check?certificate=",
        "/v1/check?certificate=AAAA&issued_at=1",
        "/v1/check?issuers=AAAA&principal=a",
        "/v1/check?principal=a&issued_at=then",
        "/v1/check?serial=0a&issuer=xyz",
        "/v1/revocations/%ff",
    ] {
        let answer = caller.get(path).await;
        assert_bad(&answer, 400, "bad_request", path);
    }
}

#[tokio::test]
async fn ids_and_reasons() {
    let lab = Lab::plan().staffed().start().await;
    let mut caller = ops(&lab, Protocol::Http1).await;
    for path in
        ["/v1/sessions/%ff", "/v1/sessions/0000000000000000?why=so", "/v1/sessions/0?reason=a&reason=b"]
    {
        assert_bad(&caller.call("DELETE", path, None).await, 400, "bad_request", path);
    }
    let long = format!("/v1/sessions/0000000000000000?reason={}", "x".repeat(1025));
    assert_bad(&caller.call("DELETE", &long, None).await, 400, "bad_request", "reason");
}

#[tokio::test]
async fn methods() {
    let lab = Lab::plan().staffed().start().await;
    for protocol in Protocol::ALL {
        let mut caller = ops(&lab, protocol).await;
        for (path, item) in document()["paths"].as_object().unwrap() {
            let path = path.replace("{id}", "0000000000000000");
            let known: Vec<String> =
                item.as_object().unwrap().keys().map(|name| name.to_ascii_uppercase()).collect();
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"] {
                let is_known = known.iter().any(|one| one == method || (one == "GET" && method == "HEAD"));
                if method == "HEAD" || (path == AUTH.1 && is_known) {
                    continue;
                }
                // How often an address calls these is counted before what it calls.
                if path == AUTH.1 || path == "/openapi.json" {
                    caller = Caller::over(protocol, &lab.administrator("ops").from(fresh_address())).await;
                }
                let answer = caller.call(method, &path, None).await;
                assert_eq!(
                    answer.verdict().1 == "method_not_allowed",
                    !is_known,
                    "{method} {path}: {answer:?}"
                );
                if !is_known {
                    assert_bad(&answer, 405, "method_not_allowed", &path);
                    let allow = answer.headers["allow"].to_str().unwrap();
                    let mut allowed: Vec<&str> =
                        allow.split(',').map(str::trim).filter(|one| *one != "HEAD").collect();
                    allowed.sort_unstable();
                    assert_eq!(allowed, known, "{path}");
                } else {
                    assert_ne!(answer.code(), "not_found", "{method} {path}");
                }
            }
        }
    }
}

#[tokio::test]
async fn paths() {
    let lab = Lab::plan().staffed().start().await;
    for protocol in Protocol::ALL {
        let mut caller = ops(&lab, protocol).await;
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/revocations/",
            "/v1/revocations/a/b",
            "/v2/revocations",
            "/v1/Revocations",
            "//v1/status",
            "/v1/status/",
            "/v1/%73tatus",
            "/v1/sessions/a/b",
            "/metrics",
            "/healthz",
            "/openapi.yaml",
            "/v1/admin",
            "/v1/../v1/status",
            "/v1/status;a",
        ] {
            for method in ["GET", "POST", "DELETE"] {
                assert_bad(&caller.call(method, path, None).await, 404, "not_found", path);
            }
        }
    }
    // Who is nobody is not even told what there is.
    let mut nobody = Caller::http1(&lab.admin_client(None)).await;
    for (method, path) in [("GET", "/v1/nothing"), ("PUT", "/v1/status"), ("GET", "/V1/ADMIN/AUTH")] {
        nobody.call(method, path, None).await.assert_refused(401, "unauthorized");
    }
}

fn document() -> Value {
    serde_json::from_str(&portcullis::authority::openapi()).unwrap()
}

#[tokio::test]
async fn on_other_listeners_there_is_nothing_of_the_api() {
    let lab = Lab::plan().staffed().routes("[[route]]\nupstream = [\"UPSTREAM\"]").start().await;
    let agent = lab.root.agent("a");
    let mut gate = lab.client(&agent).h1().await;
    for (path, item) in document()["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "0000000000000000");
        for method in item.as_object().unwrap().keys().map(|name| name.to_ascii_uppercase()) {
            let said = crate::lab::plain_call(lab.running().metrics.unwrap(), &method, &path, GOOD).await;
            assert!(
                ["HTTP/1.1 404 ", "HTTP/1.1 405 "].iter().any(|line| said.starts_with(line)),
                "{path}: {said}"
            );
            // What goes to the gate goes to the upstream.
            let request = gate.request(&method, &path).body(crate::upstream::full("")).unwrap();
            gate.exchange(request).await.unwrap();
            lab.upstream.until(&path, |seen| seen.method.as_str() == method).await;
        }
    }
    assert_eq!(lab.running().engine().entries(), 0);
}

#[tokio::test]
async fn authorizations() {
    let clock = Clock::manual(Clock::system().now());
    let lab = Lab::plan().staffed().clock(&clock).start().await;
    let client = lab.admin_client(None);
    let good = token(&client, "admin").await;
    let mut caller = Caller::http1(&client).await;
    let (bearer, basic, bare) = (format!("Bearer {good}"), format!("Basic {good}"), good.clone());
    let (joined, cut, longer) =
        (format!("Bearer {good},Bearer {good}"), format!("Bearer {}", &good[1..]), format!("Bearer {good}x"));
    let (of_secret, long) = (format!("Bearer {}", secret("admin")), format!("Bearer {}", "x".repeat(4000)));
    let status = ("GET", "/v1/status");
    for wrong in [
        "", "Bearer", "Bearer ", "bearer  ", "Bearer\t", &basic, &bare, &joined, &cut, &longer, &of_secret,
        &long, "\u{e9}",
    ] {
        let answer = caller.send(status, &[("authorization", wrong)], "").await;
        assert_bad(&answer, 401, "unauthorized", wrong);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    let twice = [("authorization", bearer.as_str()), ("authorization", bearer.as_str())];
    assert_bad(&caller.send(status, &twice, "").await, 401, "unauthorized", "twice");
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let value = format!("{scheme} {good}");
        caller.send(status, &[("authorization", &value)], "").await.assert_ok();
    }
    clock.advance(Duration::from_millis(299_999));
    caller.send(status, &[("authorization", &bearer)], "").await.assert_ok();
    clock.advance(Duration::from_millis(1));
    let answer = caller.send(status, &[("authorization", &bearer)], "").await;
    assert_bad(&answer, 401, "unauthorized", "expired");
    // It is not extended by use, and the secret buys another.
    let again = token(&client, "admin").await;
    assert_ne!(again, good);
    caller.bearing(&again).read("/v1/status").await;
}

#[tokio::test]
async fn logins() {
    let lab = Lab::plan().staffed().start().await;
    let client = lab.admin_client(None);
    let mut caller = Caller::http1(&client).await;
    let right = secret("admin");
    for (body, expected) in [
        (json!({"secret": ""}), (401, "unauthorized")),
        (json!({"secret": &right[1..]}), (401, "unauthorized")),
        (json!({"secret": format!("{right}\n")}), (401, "unauthorized")),
        (json!({"secret": right.to_uppercase()}), (401, "unauthorized")),
        (json!({"secret": right, "role": "admin"}), (400, "bad_request")),
        (json!({"secret": [right]}), (400, "bad_request")),
        (json!([right]), (400, "bad_request")),
        (json!(right), (400, "bad_request")),
    ] {
        let answer = caller.call(AUTH.0, AUTH.1, Some(&body)).await;
        assert_bad(&answer, expected.0, expected.1, "login");
        assert!(!String::from_utf8_lossy(&answer.body).contains(&right[1..20]), "{:?}", answer.body);
    }
    // The ninth and the tenth attempt are heard.
    let bought = token(&client, "admin").await;
    let answer = caller.call(AUTH.0, AUTH.1, Some(&json!({"secret": right}))).await;
    answer.assert_ok();
    let given = answer.json();
    assert_eq!((&given["expires_in"], &given["token_type"]), (&json!(300), &json!("Bearer")));
    assert_eq!((given.as_object().unwrap().len(), &given["audit_durable"]), (4, &json!(true)));
    let mut bearer = Caller::http1(&client).await.bearing(&bought);
    bearer.done(&json!({"action": "revoke", "level": "task", "target": "t"})).await;
    bearer.send(("GET", "/v1/status"), &[("x-correlation-id", "c-17")], "").await.assert_ok();
    // Nothing that is kept or told holds a secret or a token, or a part of one.
    let mut told = String::from_utf8(std::fs::read(lab.audit()).unwrap()).unwrap();
    for path in ["/v1/audit/events", "/v1/status", "/v1/sessions", "/v1/revocations"] {
        told += &bearer.read(path).await.to_string();
    }
    assert!(told.contains("secret:admin"));
    for text in [&*right, &*bought, given["access_token"].as_str().unwrap()] {
        assert!(!told.contains(&text[..20]) && !told.contains(&text[20..]), "{text}");
    }
}

#[tokio::test]
async fn too_many() {
    let plan = Lab::plan().staffed().admin("limits = { calls_per_second = 1, burst = 5 }");
    let lab = plan.start().await;
    let client = lab.admin_client(None);
    let is_limited = |answer: &Answer| {
        if answer.status == 429 {
            assert_bad(answer, 429, "rate_limited", "limit");
            let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((1..=2).contains(&wait), "{wait}");
        }
        answer.status == 429
    };
    // Attempts with a secret, from one address: ten at once, and a few more while it takes them to be refused.
    let mut caller = Caller::http1(&client).await;
    let wrong = json!({"secret": "wrong"});
    let mut attempts = Vec::new();
    for _ in 0..100 {
        attempts.push(is_limited(&caller.call(AUTH.0, AUTH.1, Some(&wrong)).await));
    }
    assert!(attempts[..10].iter().all(|limited| !limited));
    assert!(attempts.iter().filter(|limited| **limited).count() > 50, "{attempts:?}");
    // From another they are heard, and so are administrators from the same.
    token(&client.from([127, 0, 0, 9].into()), "auditor").await;
    let mut ops = Caller::http1(&lab.administrator("ops")).await;
    ops.read("/v1/status").await;
    // Strangers, likewise.
    let mut strangers = Vec::new();
    for _ in 0..200 {
        strangers.push(is_limited(&caller.get("/v1/status").await));
    }
    assert!(strangers[..20].iter().all(|limited| !limited));
    assert!(strangers.iter().filter(|limited| **limited).count() > 100);
    ops.read("/v1/status").await;
    // One administrator does not use up what others may, over however many connections.
    let mut calls = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Http1] {
        let mut ops = Caller::over(protocol, &lab.administrator("ops")).await;
        for _ in 0..10 {
            calls.push(is_limited(&ops.get("/v1/status").await));
        }
    }
    assert!(!calls[0] && calls.iter().filter(|limited| **limited).count() > 15, "{calls:?}");
    Caller::http1(&lab.administrator("second")).await.read("/v1/status").await;
    // What strangers do does not fill the audit.
    let audit = std::fs::read_to_string(lab.audit()).unwrap();
    let of_strangers = audit.lines().filter(|line| !line.contains("\"role\":")).count();
    assert!((5..50).contains(&of_strangers), "{of_strangers}");
}
