//! gRPC through the gate, by the real library on both sides: every kind of call, and what becomes of it when its deadline
//! passes, its client gives up, or its credential is revoked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod peer;

#[path = "../scenarios/client.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod client;
#[path = "../scenarios/lab.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod lab;
#[path = "../scenarios/pki.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod pki;
#[path = "../tools/mod.rs"]
mod tools;
#[path = "../scenarios/upstream.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod upstream;

use serde_json::Value;
use serde_json::json;

use crate::lab::Lab;
use crate::peer::Caller;
use crate::peer::Server;
use crate::pki::Ca;

/// How the gate speaks to the server.
const UPSTREAMS: [&str; 2] = ["h2c", "https"];

/// A gate of one thread, whose calls share one connection to the server.
async fn lab(scheme: &str) -> (Lab, Server) {
    let authority = Ca::root("services");
    let server = Server::start(Some(authority.server()).filter(|_| scheme == "https"));
    let tls = if scheme == "https" { "tls = { ca = \"services.pem\", name = \"localhost\" }" } else { "" };
    let routes = format!(
        "[[route]]\nupstream = \"services\"\n[upstream.services]\nendpoints = [\"{scheme}://127.0.0.1:{}\"]\n{tls}",
        server.port
    );
    let plan = Lab::plan().on_one_thread().routes(&routes).file("services.pem", authority.pem());
    (plan.start().await, server)
}

/// What the server says before and after each answer that is one.
fn is_complete(told: &Value) {
    assert_eq!(told["code"], "OK", "{told}");
    assert_eq!(
        (&told["end"]["x-end"], &told["end"]["x-end-bin"]),
        (&json!("done"), &json!("00ff01")),
        "{told}"
    );
}

#[tokio::test]
async fn every_kind_of_call() {
    for scheme in UPSTREAMS {
        let (lab, _server) = lab(scheme).await;
        let mut a = Caller::new(&lab, Some(&lab.root.agent("a")));
        let told = a.call(json!({"do": "unary", "text": "hello", "sent": "here"}));
        is_complete(&told);
        assert_eq!((&told["text"], &told["begin"]["x-begin"]), (&json!("hello"), &json!("here")), "{told}");
        let told = a.call(json!({"do": "unary", "text": "who"}));
        assert_eq!(told["text"], "spiffe://lab.test/agent/a");
        let told = a.call(json!({"do": "unary", "text": "remaining"}));
        assert!(told["text"].as_str().unwrap().parse::<f64>().is_ok_and(|left| left < 20.0), "{told}");

        a.call(json!({"do": "open", "kind": "server", "name": "s", "text": "5 0"}));
        let told = a.call(json!({"do": "rest", "name": "s"}));
        is_complete(&told);
        assert_eq!((&told["text"], &told["begin"]["x-begin"]), (&json!("0 1 2 3 4"), &json!("begun")));

        a.call(json!({"do": "open", "kind": "client", "name": "c"}));
        for size in [1, 0, 100_000] {
            a.call(json!({"do": "send", "name": "c", "size": size}));
        }
        a.call(json!({"do": "done", "name": "c"}));
        let told = a.call(json!({"do": "rest", "name": "c"}));
        is_complete(&told);
        assert_eq!(told["text"], "[1, 0, 100000]");

        a.call(json!({"do": "open", "kind": "both", "name": "b"}));
        for text in ["one", "", "three"] {
            a.call(json!({"do": "send", "name": "b", "text": text}));
            assert_eq!(a.call(json!({"do": "next", "name": "b"}))["text"], text);
        }
        a.call(json!({"do": "done", "name": "b"}));
        is_complete(&a.call(json!({"do": "rest", "name": "b"})));
    }
}

#[tokio::test]
async fn large_ones_compressed_ones_and_quiet_ones() {
    for scheme in UPSTREAMS {
        let (lab, _server) = lab(scheme).await;
        let mut a = Caller::new(&lab, Some(&lab.root.agent("a")));
        for compress in [false, true] {
            let told = a.call(json!({"do": "unary", "size": 8 << 20, "compress": compress}));
            is_complete(&told);
            assert_eq!(told["size"], 8 << 20);
        }
        let told = a.call(json!({"do": "unary", "text": "large 8388608"}));
        assert_eq!((&told["code"], &told["size"]), (&json!("OK"), &json!(8 << 20)));
        a.call(json!({"do": "open", "kind": "both", "name": "b", "compress": true}));
        a.call(json!({"do": "send", "name": "b", "size": 8 << 20}));
        assert_eq!(a.call(json!({"do": "next", "name": "b"}))["size"], 8 << 20);
        a.call(json!({"do": "done", "name": "b"}));
        is_complete(&a.call(json!({"do": "rest", "name": "b"})));
        // Nothing moves for seconds, and nobody takes that for the end.
        a.call(json!({"do": "open", "kind": "server", "name": "s", "text": "2 4"}));
        let told = a.call(json!({"do": "rest", "name": "s"}));
        is_complete(&told);
        assert_eq!(told["text"], "0 1");
    }
}

/// An answer of trailers only (gRPC over HTTP/2, "Responses"), with a status, a text and details of its own.
#[tokio::test]
async fn errors_arrive_as_they_are() {
    for scheme in UPSTREAMS {
        let (lab, _server) = lab(scheme).await;
        let mut a = Caller::new(&lab, Some(&lab.root.agent("a")));
        let told = a.call(json!({"do": "unary", "text": "fail"}));
        assert_eq!(
            (&told["code"], &told["details"]),
            (&json!("FAILED_PRECONDITION"), &json!("not today – 100 %")),
            "{told}"
        );
        let end = &told["end"];
        assert_eq!(
            (&end["x-end"], &end["grpc-status-details-bin"]),
            (&json!("failed"), &json!("0805ff")),
            "{told}"
        );
    }
}

/// The server need not work for somebody who waits no more.
#[tokio::test]
async fn deadlines_and_cancellations_reach_the_server() {
    for scheme in UPSTREAMS {
        let (lab, mut server) = lab(scheme).await;
        let mut a = Caller::new(&lab, Some(&lab.root.agent("a")));
        let told = a.call(json!({"do": "unary", "text": "wait", "timeout": 0.5, "name": "late"}));
        assert_eq!(told["code"], "DEADLINE_EXCEEDED", "{told}");
        server.until("ends", "late");
        a.call(json!({"do": "unary", "text": "wait", "name": "given-up", "wait": true}));
        server.until("begins", "given-up");
        a.call(json!({"do": "cancel", "name": "given-up"}));
        server.until("ends", "given-up");
        for kind in ["server", "client", "both"] {
            a.call(json!({"do": "open", "kind": kind, "name": kind, "text": "1000 0.05"}));
            server.until("begins", kind);
            a.call(json!({"do": "cancel", "name": kind}));
            server.until("ends", kind);
            let told = a.call(json!({"do": "rest", "name": kind}));
            assert_eq!(told["code"], "CANCELLED", "{told}");
        }
        is_complete(&a.call(json!({"do": "unary", "text": "and on"})));
    }
}

/// At once, at both ends; and the connection to the server that all of them share stays.
#[tokio::test]
async fn a_revocation_ends_every_kind_of_stream_and_nobody_elses() {
    for scheme in UPSTREAMS {
        let (mut lab, mut server) = lab(scheme).await;
        let mut calm = Caller::new(&lab, Some(&lab.root.agent("calm")));
        for kind in ["server", "client", "both"] {
            let (victim, bystander) = (format!("victim-{kind}"), format!("bystander-{kind}"));
            let mut hunted = Caller::new(&lab, Some(&lab.root.agent(&victim)));
            for (caller, name) in [(&mut hunted, &victim), (&mut calm, &bystander)] {
                caller.call(json!({"do": "open", "kind": kind, "name": name, "text": "100 0.02"}));
                match kind {
                    "server" => {}
                    _ => drop(caller.call(json!({"do": "send", "name": name, "text": "one"}))),
                }
                server.until("begins", name);
                if kind != "client" {
                    caller.call(json!({"do": "next", "name": name}));
                }
            }
            let open = lab.plain("/metrics").await;
            assert!(open.contains("portcullis_upstream_connections{upstream=\"services\"} 1\n"), "{open}");
            assert_eq!(lab.revoke("principal", &victim).await, 1);
            server.until("ends", &victim);
            let told = hunted.call(json!({"do": "rest", "name": victim}));
            assert!(!["OK", "DEADLINE_EXCEEDED"].contains(&told["code"].as_str().unwrap()), "{told}");
            let told = hunted.call(json!({"do": "unary", "text": "again"}));
            assert_eq!(told["code"], "PERMISSION_DENIED", "{told}");
            if kind != "server" {
                calm.call(json!({"do": "send", "name": bystander, "text": "two"}));
                calm.call(json!({"do": "done", "name": bystander}));
            }
            let told = calm.call(json!({"do": "rest", "name": bystander}));
            is_complete(&told);
            match kind {
                "client" => assert_eq!(told["text"], "[3, 3]"),
                "both" => assert_eq!(told["text"], "two"),
                _ => assert!(told["text"].as_str().unwrap().starts_with("1 2 3 "), "{told}"),
            }
            let open = lab.plain("/metrics").await;
            assert!(open.contains("portcullis_upstream_connections{upstream=\"services\"} 1\n"), "{open}");
        }
    }
}

/// A refusal is no gRPC answer; clients make what they can of its HTTP status (gRPC, "HTTP to gRPC Status Code Mapping").
#[tokio::test]
async fn what_clients_make_of_a_refusal() {
    let (mut lab, server) = lab("h2c").await;
    let unary = || json!({"do": "unary", "text": "hello"});
    let code = |caller: &mut Caller| caller.call(unary())["code"].clone();
    assert_eq!(code(&mut Caller::new(&lab, None)), "UNAUTHENTICATED");
    let other = lab.root.agent("a").claiming(Some("b"));
    assert_eq!(code(&mut Caller::new(&lab, Some(&other))), "PERMISSION_DENIED");
    lab.applied(json!({"action": "suspend", "level": "principal", "target": "s"})).await;
    assert_eq!(code(&mut Caller::new(&lab, Some(&lab.root.agent("s")))), "UNAUTHENTICATED");
    lab.revoke("principal", "r").await;
    assert_eq!(code(&mut Caller::new(&lab, Some(&lab.root.agent("r")))), "PERMISSION_DENIED");
    let mut a = Caller::new(&lab, Some(&lab.root.agent("a")));
    assert_eq!(code(&mut a), "OK");
    drop(server);
    assert_eq!(code(&mut a), "UNAVAILABLE");
}
