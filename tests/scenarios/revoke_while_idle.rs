//! A revocation ends connections that wait for their next request.

use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::lab::Lab;
use crate::lab::within;
use crate::upstream::full;

/// Seen failing with a connection that ends gently: the revocation returned before it had.
#[tokio::test]
async fn idle_http1_connections_are_cut() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    for (version, left) in [(&TLS13, "TLS 1.3"), (&TLS12, "TLS 1.2")] {
        let mut connection = lab.client_of(Some(&cert), &[version]).h1().await;
        connection.get("/").await.assert_ok();
        connection.get("/").await.assert_ok();
        assert_eq!(lab.sessions(), 1, "{left}");
        let serial = cert.serial.clone();
        assert_eq!(lab.revoke("certificate", &serial).await, 1, "{left}");
        assert_eq!(lab.sessions(), 0, "{left}");
        assert!(connection.try_get("/").await.is_err(), "{left}");
        let lift = serde_json::json!({"action": "reinstate", "level": "certificate", "target": serial, "force": true});
        lab.applied(lift).await;
    }
    assert_eq!(lab.upstream.seen().len(), 4);
}

#[tokio::test]
async fn idle_http2_connections_are_cut() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    let mut connection = lab.client(&cert).h2().await;
    connection.get("/").await.assert_ok();
    assert_eq!(lab.sessions(), 1);
    assert_eq!(lab.revoke("certificate", &cert.serial).await, 1);
    assert_eq!(lab.sessions(), 0);
    assert!(connection.try_get("/").await.is_err());
    assert_eq!(lab.upstream.seen().len(), 1);
}

/// Seen failing without the check at admission.
#[tokio::test]
async fn who_comes_back_gets_one_refusal_and_no_more() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    lab.revoke("certificate", &cert.serial).await;
    let client = lab.client(&cert);
    let mut first = client.h1().await;
    first.get("/").await.assert_refused(403, "certificate_revoked");
    assert!(first.try_get("/").await.is_err());
    let mut second = client.h2().await;
    second.get("/").await.assert_refused(403, "certificate_revoked");
    assert!(second.try_get("/").await.is_err());
    // It is over; how, is the client's to say.
    let _ = second.ended().await;
    assert_eq!((lab.sessions(), lab.upstream.seen().len()), (0, 0));
}

/// A client in the middle of sending a body still gets to read why it is turned away.
#[tokio::test]
async fn who_comes_back_with_a_body_is_told_why() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    lab.revoke("certificate", &cert.serial).await;
    for size in [10, 100_000, 2_000_000] {
        let mut first = lab.client(&cert).h1().await;
        let body = full(vec![b'.'; size]);
        let request = first.request("POST", "/upload").body(body).unwrap();
        assert_eq!(first.send(request).await.unwrap().status(), 403, "{size} bytes");
        let mut second = lab.client(&cert).h2().await;
        let request = second.request("POST", "/upload").body(()).unwrap();
        let (answer, mut body) = second.send(request, false).await.unwrap();
        body.send_data(vec![b'.'; size].into(), true).unwrap();
        assert_eq!(within(answer).await.unwrap().status(), 403, "{size} bytes");
    }
    assert!(lab.upstream.seen().is_empty());
}

/// `reject_at = "handshake"`: the alert says it, in full handshakes; a resumed session is refused after it.
#[tokio::test]
async fn who_comes_back_is_turned_away_in_the_handshake_where_that_is_asked_for() {
    let mut lab = Lab::plan().gate("reject_at = \"handshake\"").start().await;
    for version in [&TLS12, &TLS13] {
        let cert = lab.root.agent("a");
        let resuming = lab.client_of(Some(&cert), &[version]);
        resuming.get("/").await.assert_ok();
        lab.revoke("certificate", &cert.serial).await;
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\n\r\n";
        let alert = lab.client_of(Some(&cert), &[version]).raw(request).await.unwrap_err();
        assert!(alert.to_string().contains("CertificateRevoked"), "{alert}");
        resuming.get("/").await.assert_refused(403, "certificate_revoked");
    }
    assert_eq!((lab.sessions(), lab.upstream.seen().len()), (0, 2));
}
