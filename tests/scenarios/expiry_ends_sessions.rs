//! A certificate's expiry is checked on every request, and ends its sessions without one.

use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use rustls::HandshakeKind;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::lab::Lab;
use crate::lab::within;
use crate::pki::Cert;
use crate::pki::now;

const HOUR: time::Duration = time::Duration::hours(1);

fn until(lab: &Lab, end: time::OffsetDateTime) -> Cert {
    let leaf = lab.root.leaf().uri("spiffe://lab.test/agent/a").claim("a");
    leaf.valid(now() - HOUR, end).issue()
}

/// Seen failing without a deadline at `notAfter`.
#[tokio::test]
async fn nobody_needs_to_ask() {
    let lab = Lab::start().await;
    let end = now() + time::Duration::seconds(5);
    let client = lab.client(&until(&lab, end));
    let (mut first, mut second) = (client.h1().await, client.h2().await);
    first.get("/").await.assert_ok();
    second.get("/").await.assert_ok();
    let stream = second.begin("/hold").await;
    let _socket = client.websocket().await;
    lab.upstream.until("/hold", |_| true).await;
    assert_eq!(lab.sessions(), 3);
    assert!(within(stream).await.is_err());
    // How a cut idle connection ends is the client's to say.
    let _ = first.ended().await;
    lab.until_sessions(0).await;
    assert!(Clock::system().now() >= Timestamp::from_secs(end.unix_timestamp()));
    lab.upstream.until("/ws", |seen| seen.gone).await;
    lab.upstream.until("/hold", |seen| seen.gone).await;
    assert!(
        lab.plain("/metrics")
            .await
            .contains("portcullis_sessions_ended_total{cause=\"certificate_expired\"} 3")
    );
}

/// Seen failing without the check of expiry before each request.
#[tokio::test]
async fn the_next_request_is_refused() {
    let clock = Clock::manual(Clock::system().now());
    let lab = Lab::plan().clock(&clock).start().await;
    let client = lab.client(&until(&lab, now() + HOUR));
    let (mut first, mut second) = (client.h1().await, client.h2().await);
    first.get("/").await.assert_ok();
    second.get("/").await.assert_ok();
    clock.advance(Duration::from_secs(7200));
    first.get("/").await.assert_refused(403, "certificate_expired");
    second.get("/").await.assert_refused(403, "certificate_expired");
    assert!(first.try_get("/").await.is_err());
    assert!(second.try_get("/").await.is_err());
    assert_eq!(lab.upstream.seen().len(), 2);
    lab.until_sessions(0).await;
}

#[tokio::test]
async fn a_resumed_session_does_not_outlive_its_certificate() {
    for version in [&TLS12, &TLS13] {
        let clock = Clock::manual(Clock::system().now());
        let lab = Lab::plan().clock(&clock).start().await;
        let client = lab.client_of(Some(&until(&lab, now() + HOUR)), &[version]);
        client.get("/").await.assert_ok();
        clock.advance(Duration::from_secs(7200));
        let mut connection = client.h1().await;
        assert_eq!(connection.kind, Some(HandshakeKind::Resumed));
        connection.get("/").await.assert_refused(403, "certificate_expired");
        assert!(connection.try_get("/").await.is_err());
        assert_eq!(lab.upstream.seen().len(), 1);
    }
}

/// The path ends with its shortest certificate, not with the leaf. Seen failing with the end of the leaf alone.
#[tokio::test]
async fn an_intermediate_takes_its_leaves_along() {
    let clock = Clock::manual(Clock::system().now());
    let lab = Lab::plan().clock(&clock).start().await;
    let issuing = lab.root.intermediate_until("issuing", now() + HOUR);
    let mut connection = lab.client(&issuing.agent("a")).h1().await;
    connection.get("/").await.assert_ok();
    clock.advance(Duration::from_secs(7200));
    connection.get("/").await.assert_refused(403, "certificate_expired");
}
