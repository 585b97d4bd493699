//! Upstreams over TLS: whose certificate, for which name, and the gate's own; HTTP/2 and HTTP/1.1 as they choose.

use std::sync::atomic::Ordering;

use crate::endpoint::Endpoint;
use crate::endpoint::Kind;
use crate::lab::Lab;
use crate::lab::within;
use crate::pki::Ca;

/// A lab before a TLS endpoint; `tls` of the upstream. `pki.pem` is `ca`; `gate.pem` and `gate.key` a client certificate.
async fn before(endpoint: &Endpoint, ca: &Ca, tls: &str) -> Lab {
    let gate = Ca::root("gates");
    let cert = ca.leaf().dns("gate.lab.test").issue();
    let other = gate.leaf().dns("gate.lab.test").issue();
    let routes = format!(
        "[[route]]\nupstream = \"app\"\n[upstream.app]\nendpoints = [\"https://localhost:{}\"]\ntls = {{ {tls} }}\n",
        endpoint.address.port()
    );
    Lab::plan()
        .routes(&routes)
        .file("pki.pem", ca.pem())
        .file("other.pem", gate.pem())
        .file("gate.pem", &cert.pem)
        .file("gate.key", &cert.key_pem)
        .file("stranger.pem", &other.pem)
        .file("stranger.key", &other.key_pem)
        .start()
        .await
}

#[tokio::test]
async fn by_the_authority_and_the_name_that_are_pinned() {
    let ca = Ca::root("upstreams");
    for http2 in [false, true] {
        let endpoint = Endpoint::start("app", Kind::https(&ca, None, http2)).await;
        for (tls, status) in [
            ("ca = \"pki.pem\"", 200),
            ("ca = \"pki.pem\", name = \"localhost\"", 200),
            ("ca = \"pki.pem\", name = \"127.0.0.1\"", 200),
            ("ca = \"pki.pem\", name = \"app.lab.test\"", 502),
            ("ca = \"other.pem\"", 502),
        ] {
            let lab = before(&endpoint, &ca, tls).await;
            let client = lab.client(&lab.root.agent("a"));
            assert_eq!(client.get("/").await.status, status, "{tls}");
            assert_eq!(client.h2().await.get("/").await.status, status, "{tls}");
        }
        let seen = endpoint.state.seen.lock().unwrap();
        assert_eq!(seen.len(), 6);
        let expected = if http2 { "GET https://localhost/" } else { "GET /" };
        assert!(
            seen.iter().all(|(line, headers)| line == expected && headers["x-agent-id"] == "a"),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn with_the_gates_own_certificate() {
    let ca = Ca::root("upstreams");
    let endpoint = Endpoint::start("app", Kind::https(&ca, Some(&ca), true)).await;
    for (tls, status) in [
        ("ca = \"pki.pem\", cert = \"gate.pem\", key = \"gate.key\"", 200),
        ("ca = \"pki.pem\"", 502),
        ("ca = \"pki.pem\", cert = \"stranger.pem\", key = \"stranger.key\"", 502),
    ] {
        let lab = before(&endpoint, &ca, tls).await;
        assert_eq!(lab.client(&lab.root.agent("a")).get("/").await.status, status, "{tls}");
    }
}

/// An endpoint that speaks HTTP/2 gets one connection a thread.
#[tokio::test]
async fn over_one_connection_that_all_share() {
    let ca = Ca::root("upstreams");
    for over_tls in [true, false] {
        let kind = if over_tls { Kind::https(&ca, None, true) } else { Kind::h2c() };
        let endpoint = Endpoint::start("app", kind).await;
        let lab = if over_tls {
            before(&endpoint, &ca, "ca = \"pki.pem\"").await
        } else {
            let routes = format!("[[route]]\nupstream = [\"h2c://{}\"]", endpoint.address);
            Lab::plan().on_one_thread().routes(&routes).start().await
        };
        let client = lab.client(&lab.root.agent("a"));
        let mut connections = Vec::new();
        for _ in 0..8 {
            connections.push(client.h1().await);
        }
        let held = connections.iter_mut().map(|connection| connection.begin("GET", "/hold").1);
        let held = tokio::spawn(futures_util::future::join_all(held.collect::<Vec<_>>()));
        let all_wait = async {
            while endpoint.waiting() < 8 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        within(all_wait).await;
        let opened = endpoint.state.connections.load(Ordering::SeqCst);
        // Without ALPN's word the first few may each have opened one.
        assert!(opened <= if over_tls { 8 } else { 1 }, "{opened}");
        endpoint.release(8);
        assert!(
            within(held)
                .await
                .unwrap()
                .iter()
                .all(|answer| answer.as_ref().is_ok_and(|answer| answer.status() == 200))
        );
        for connection in &mut connections {
            connection.get("/").await.assert_ok();
        }
        assert_eq!(endpoint.state.connections.load(Ordering::SeqCst), opened);
    }
}
