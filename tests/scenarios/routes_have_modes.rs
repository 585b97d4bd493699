//! Routes have modes of their own: on one connection a revocation ends what is strict, and nothing that is advisory.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use h2::ext::Protocol;
use http_body::Frame;
use http_body_util::BodyExt as _;
use rustls::HandshakeKind;
use rustls::version::TLS12;
use rustls::version::TLS13;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::client::RECEIVE_BUFFER;
use crate::lab::Lab;
use crate::lab::within;
use crate::pki::Cert;
use crate::pki::now;
use crate::upstream::End;
use crate::upstream::FLOOD;
use crate::upstream::RawUpstream;

/// Everything is strict but what lies below `/open`.
pub(crate) const MIXED: &str = "[[route]]\nupstream = [\"UPSTREAM\"]\n\
    [[route]]\npath = \"/open\"\nmode = \"advisory\"\nupstream = [\"UPSTREAM\"]";

async fn lab() -> Lab {
    Lab::plan().routes(MIXED).start().await
}

async fn reinstate(lab: &mut Lab, cert: &Cert) {
    let change = json!({"action": "reinstate", "level": "certificate", "target": cert.serial, "force": true});
    lab.applied(change).await;
}

/// Seen failing where a connection is not put under its credential again: the revocation after the reinstatement hits no
/// session.
#[tokio::test]
async fn an_idle_connection_goes_on_for_what_is_advisory() {
    let mut lab = lab().await;
    let cert = lab.root.agent("a");
    let (mut first, mut second) = (lab.client(&cert).h1().await, lab.client(&cert).h2().await);
    for _ in 0..2 {
        first.get("/open").await.assert_ok();
        second.get("/open").await.assert_ok();
        assert_eq!((lab.sessions(), lab.revoke("certificate", &cert.serial).await), (2, 2));
        // Both are still open, under nothing that could be revoked.
        lab.until_sessions(2).await;
        assert_eq!(lab.revoke("principal", "b").await, 0);
        for _ in 0..2 {
            first.get("/").await.assert_refused(403, "certificate_revoked");
            first.get("/open").await.assert_ok();
            second.get("/").await.assert_refused(403, "certificate_revoked");
            second.get("/open").await.assert_ok();
        }
        reinstate(&mut lab, &cert).await;
        let waiting = second.begin("/hold").await;
        lab.upstream.until("/hold", |seen| !seen.gone).await;
        first.get("/").await.assert_ok();
        let text = lab.revoke("certificate", &cert.serial).await;
        assert_eq!(text, 2);
        assert!(within(waiting).await.is_err());
        // The other one has carried something strict, and nothing else is under way.
        assert!(first.try_get("/open").await.is_err());
        reinstate(&mut lab, &cert).await;
        (first, second) = (lab.client(&cert).h1().await, lab.client(&cert).h2().await);
    }
    let text = lab.plain("/metrics").await;
    assert!(text.contains("portcullis_refusals_total{code=\"certificate_revoked\"}"), "{text}");
}

/// Seen failing with a guard in every stream, whatever its route: the advisory ones are reset, too; with one in none: the
/// strict ones go on; and with one in every body.
#[tokio::test]
async fn http2_streams_end_by_their_routes() {
    let mut lab = lab().await;
    let cert = lab.root.agent("a");
    let mut connection = lab.client(&cert).h2().await;
    let strict = connection.begin("/hold").await;
    let advisory = connection.begin("/open/hold").await;
    let request = connection.request("POST", "/upload").body(()).unwrap();
    let (answer, mut body) = connection.send(request, false).await.unwrap();
    let request = connection.request("POST", "/open/upload").body(()).unwrap();
    let (open_answer, mut open_body) = connection.send(request, false).await.unwrap();
    body.send_data(Bytes::from("half"), false).unwrap();
    open_body.send_data(Bytes::from("half"), false).unwrap();
    for path in ["/hold", "/open/hold"] {
        lab.upstream.until(path, |_| true).await;
    }
    for path in ["/upload", "/open/upload"] {
        lab.upstream.until(path, |seen| seen.body == b"half").await;
    }
    assert_eq!((lab.sessions(), lab.revoke("certificate", &cert.serial).await), (1, 1));
    assert!(within(strict).await.is_err());
    assert!(within(answer).await.is_err());
    lab.upstream.until("/hold", |seen| seen.gone).await;
    lab.upstream.until("/upload", |seen| seen.end == End::Broken).await;
    open_body.send_data(Bytes::from(" and half"), true).unwrap();
    assert_eq!(within(open_answer).await.unwrap().status(), 200);
    lab.upstream.until("/open/upload", |seen| seen.end == End::Whole && seen.body == b"half and half").await;
    lab.upstream.release();
    assert_eq!(within(advisory).await.unwrap().status(), 200);
    connection.get("/").await.assert_refused(403, "certificate_revoked");
    connection.get("/open").await.assert_ok();
    assert!(lab.upstream.only("/hold").gone && !lab.upstream.only("/open/hold").gone);
}

/// Seen failing where the connection goes on although its request is strict.
#[tokio::test]
async fn http1_is_cut_under_a_strict_request_only() {
    let mut lab = lab().await;
    let cert = lab.root.agent("a");
    let (mut strict, mut open) = (lab.client(&cert).h1().await, lab.client(&cert).h1().await);
    let (body, answer) = strict.begin("POST", "/upload");
    let (open_body, open_answer) = open.begin("POST", "/open/upload");
    let (answer, open_answer) = (tokio::spawn(answer), tokio::spawn(open_answer));
    for (body, path) in [(&body, "/upload"), (&open_body, "/open/upload")] {
        body.send(Frame::data(Bytes::from("half"))).await.unwrap();
        lab.upstream.until(path, |seen| seen.body == b"half").await;
    }
    let mut third = lab.client(&cert).h1().await;
    let held = tokio::spawn(async move { third.try_get("/hold").await });
    lab.upstream.until("/hold", |_| true).await;
    assert_eq!((lab.sessions(), lab.revoke("certificate", &cert.serial).await), (3, 3));
    lab.until_sessions(1).await;
    lab.upstream.release();
    assert!(within(held).await.unwrap().is_err());
    assert!(within(answer).await.unwrap().is_err());
    lab.upstream.until("/upload", |seen| seen.end == End::Broken).await;
    open_body.send(Frame::data(Bytes::from(" and half"))).await.unwrap();
    drop(open_body);
    assert_eq!(within(open_answer).await.unwrap().unwrap().status(), 200);
    lab.upstream.until("/open/upload", |seen| seen.body == b"half and half").await;
    drop(body);
}

/// Seen failing without the cut: the client is told of an end, not of a reset.
#[tokio::test]
async fn a_strict_download_is_cut_with_what_was_buffered() {
    let mut lab = lab().await;
    let cert = lab.root.agent("a");
    let mut stream = within(lab.client(&cert).dial(b"http/1.1")).await.unwrap();
    let request = b"GET /flood HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut chunk = vec![0; 16 << 10];
    within(stream.read(&mut chunk)).await.unwrap();
    lab.upstream.until("/flood", |seen| seen.stalled).await;
    assert_eq!(lab.revoke("certificate", &cert.serial).await, 1);
    assert_eq!(lab.sessions(), 0);
    let mut late = 0;
    let end = loop {
        match within(stream.read(&mut chunk)).await {
            Ok(0) => panic!("a clean end after {late} bytes: the download looks finished"),
            Ok(count) => late += count,
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    assert!(late <= 4 * RECEIVE_BUFFER as usize, "{late} of {FLOOD} bytes arrived after the revocation");
}

/// An advisory download that nobody reads holds up no revocation, and is not cut by one.
/// Seen failing where the connection keeps the guard that it should let go of: the revocation takes its second, and cuts.
#[tokio::test]
async fn an_advisory_download_is_nobodys_business() {
    let mut lab = lab().await;
    let cert = lab.root.agent("a");
    let mut connection = lab.client(&cert).h2().await;
    let mut body = within(connection.begin("/open/flood").await).await.unwrap().into_body();
    let strict = connection.begin("/hold").await;
    lab.upstream.until("/open/flood", |seen| seen.stalled).await;
    lab.upstream.until("/hold", |_| true).await;
    assert_eq!(lab.revoke("certificate", &cert.serial).await, 1);
    assert!(within(strict).await.is_err());
    let mut read = 0;
    while let Some(chunk) = within(body.data()).await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        read += chunk.len();
    }
    assert_eq!(read, FLOOD);
}

#[tokio::test]
async fn websockets_end_by_their_routes() {
    let mut lab = lab().await;
    let cert = lab.root.agent("a");
    let client = lab.client(&cert);
    let (mut strict, mut open) = (client.websocket().await, client.websocket_at("/open/ws").await);
    assert_eq!((lab.sessions(), lab.revoke("certificate", &cert.serial).await), (2, 2));
    lab.until_sessions(1).await;
    assert!(within(strict.next()).await.is_none_or(|end| end.is_err()));
    lab.upstream.until("/ws", |seen| seen.gone).await;
    open.send(Message::text("on")).await.unwrap();
    assert_eq!(within(open.next()).await.unwrap().unwrap(), Message::text("on"));
}

/// The same for tunnels that share an HTTP/2 connection.
/// Seen failing with advisory tunnels that are not counted: the connection is cut, and they with it.
#[tokio::test]
async fn tunnels_over_http2_end_by_their_routes() {
    let mut lab = lab().await;
    let cert = lab.root.agent("a");
    let mut connection = lab.client(&cert).h2().await;
    connection.get("/").await.assert_ok();
    let mut tunnels = Vec::new();
    for path in ["/ws", "/open/ws"] {
        let request = connection.request("CONNECT", path).extension(Protocol::from_static("websocket"));
        let request = request.header("sec-websocket-version", "13").body(()).unwrap();
        let (answer, sender) = connection.send(request, false).await.unwrap();
        let answer = within(answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        tunnels.push((sender, answer.into_body()));
    }
    let (mut open, mut echoes) = tunnels.pop().unwrap();
    let (_strict, mut ended) = tunnels.pop().unwrap();
    assert_eq!((lab.sessions(), lab.revoke("certificate", &cert.serial).await), (1, 1));
    // Its end is all that still arrives.
    while let Some(Ok(rest)) = within(ended.data()).await {
        assert_eq!(rest.len(), 0, "{rest:?}");
    }
    lab.upstream.until("/ws", |seen| seen.gone).await;
    // A masked text frame, and its echo (RFC 6455, section 5.2).
    open.send_data(Bytes::from_static(b"\x81\x82\0\0\0\0on"), false).unwrap();
    assert_eq!(within(echoes.data()).await.unwrap().unwrap(), Bytes::from_static(b"\x81\x02on"));
    connection.get("/open").await.assert_ok();
}

/// Who is revoked already is let in for what is advisory: by a full handshake and by a resumed one.
#[tokio::test]
async fn who_is_revoked_may_connect() {
    let mut lab = lab().await;
    for version in [&TLS12, &TLS13] {
        let cert = lab.root.agent("a");
        let client = lab.client_of(Some(&cert), &[version]);
        lab.revoke("certificate", &cert.serial).await;
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let (mut first, mut second) = (client.h1().await, client.h2().await);
            kinds.push(first.kind);
            for _ in 0..2 {
                first.get("/open").await.assert_ok();
                first.get("/").await.assert_refused(403, "certificate_revoked");
                second.get("/open").await.assert_ok();
                second.get("/").await.assert_refused(403, "certificate_revoked");
            }
        }
        assert_eq!(kinds.last(), Some(&Some(HandshakeKind::Resumed)));
    }
    let seen = lab.upstream.seen();
    assert!(seen.iter().all(|seen| seen.path == "/open"));
    // Verified it is, and revoked: it is whom its certificate names.
    assert!(seen.iter().all(|seen| seen.header("x-portcullis-principal").is_some()));
}

#[tokio::test]
async fn a_certificate_that_expires_ends_what_is_strict() {
    let lab = lab().await;
    let end = now() + time::Duration::seconds(5);
    let leaf = lab.root.leaf().uri("spiffe://lab.test/agent/a").claim("a");
    let cert = leaf.valid(now() - time::Duration::hours(1), end).issue();
    let mut connection = lab.client(&cert).h2().await;
    let strict = connection.begin("/hold").await;
    let open = connection.begin("/open/hold").await;
    lab.upstream.until("/open/hold", |_| true).await;
    lab.upstream.until("/hold", |_| true).await;
    assert!(within(strict).await.is_err());
    lab.upstream.release();
    assert_eq!(within(open).await.unwrap().status(), 200);
    connection.get("/").await.assert_refused(403, "certificate_expired");
    connection.get("/open").await.assert_ok();
}

/// An answer that the kernel has taken whole is not yet with the client: it goes with the connection. Seen failing where
/// the connection was held to carry nothing strict any more once its socket was flushed.
#[tokio::test]
async fn what_the_kernel_still_has_of_a_strict_answer_is_thrown_away() {
    const SIZE: usize = 1 << 20;
    let answer =
        [format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").into_bytes(), vec![b'x'; SIZE]];
    let upstream = RawUpstream::start(b"\r\n\r\n", answer.concat().leak()).await;
    let strict = format!(
        "[[route]]\nupstream = [\"http://{}\"]\n[[route]]\npath = \"/open\"\nmode = \"advisory\"\nupstream = [\"UPSTREAM\"]",
        upstream.address
    );
    for http2 in [false, true] {
        let mut lab = Lab::plan().routes(&strict).start().await;
        let client = lab.client(&lab.root.agent("a"));
        if http2 {
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(4 << 20).initial_connection_window_size(4 << 20);
            let (mut sender, mut connection, _) = client.h2_parts(&builder).await;
            let request =
                http::Request::get("https://localhost/").header("x-agent-id", "a").body(()).unwrap();
            let (answer, _) = sender.send_request(request, true).unwrap();
            // As long as nobody polls it, nothing is read.
            let polled = std::future::poll_fn(|cx| {
                let _ = std::pin::Pin::new(&mut connection).poll(cx);
                std::task::Poll::Ready(())
            });
            polled.await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(lab.revoke("principal", "a").await, 1);
            let read = async {
                let mut body = answer.await?.into_body();
                let mut all = 0;
                while let Some(data) = body.data().await {
                    all += data?.len();
                }
                Ok::<_, h2::Error>(all)
            };
            let (read, _) = within(async { tokio::join!(read, connection) }).await;
            assert!(read.is_err(), "{read:?}");
        } else {
            let mut connection = client.h1().await;
            let answer = connection.begin("GET", "/").1.await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(lab.revoke("principal", "a").await, 1);
            assert!(within(answer.into_body().collect()).await.is_err());
        }
    }
}

#[tokio::test]
async fn whoever_ends_a_session_ends_all_of_it() {
    let mut lab = lab().await;
    let cert = lab.root.agent("a");
    let mut connection = lab.client(&cert).h2().await;
    let open = connection.begin("/open/hold").await;
    lab.upstream.until("/open/hold", |_| true).await;
    for revoked in [false, true] {
        if revoked {
            connection = lab.client(&cert).h2().await;
            connection.get("/open").await.assert_ok();
            lab.revoke("certificate", &cert.serial).await;
            connection.get("/open").await.assert_ok();
        }
        let engine = lab.running().engine();
        let id = engine.sessions().list().iter().find(|one| one.listener() == "gate").unwrap().id();
        let cause =
            portcullis::session::Cause { code: portcullis::session::Cause::ENDED, reason: String::new() };
        assert_eq!(within(engine.end_session(id, cause)).await, Some(0));
        assert!(connection.try_get("/open").await.is_err());
        lab.until_sessions(0).await;
    }
    assert!(within(open).await.is_err());
}

/// What is said of the gate holds for routes that say nothing.
#[tokio::test]
async fn the_gates_mode_is_the_default() {
    let routes = MIXED.replacen("[[route]]", "[[route]]\nmode = \"strict\"", 1);
    let routes = routes.replace("mode = \"advisory\"\n", "");
    let mut lab = Lab::plan().gate("mode = \"advisory\"").routes(&routes).start().await;
    let cert = lab.root.agent("a");
    lab.revoke("certificate", &cert.serial).await;
    let mut connection = lab.client(&cert).h1().await;
    connection.get("/").await.assert_refused(403, "certificate_revoked");
    connection.get("/open").await.assert_ok();
    // The claim is judged by the route, too.
    let mut other = lab.client(&lab.root.agent("b").claiming(Some("c"))).h1().await;
    other.get("/").await.assert_refused(403, "identity_mismatch");
    other.get("/open").await.assert_ok();
    let mut nobody = lab.client_of(None, &[&TLS13]).h1().await;
    nobody.get("/").await.assert_refused(401, "mtls_required");
    nobody.get("/open").await.assert_ok();
}

#[tokio::test]
async fn who_is_revoked_is_told_so_wherever_she_asks() {
    let one = "[[route]]\npath = \"/only\"\nupstream = [\"UPSTREAM\"]";
    let both = format!("{one}\n[[route]]\npath = \"/open\"\nmode = \"advisory\"\nupstream = [\"UPSTREAM\"]");
    for routes in [one, &both] {
        let mut lab = Lab::plan().routes(routes).start().await;
        let cert = lab.root.agent("a");
        lab.client(&cert).get("/nowhere").await.assert_refused(404, "no_route");
        lab.revoke("certificate", &cert.serial).await;
        lab.client(&cert).get("/nowhere").await.assert_refused(403, "certificate_revoked");
    }
}
