//! A chain that does not verify ends the handshake where all is strict; else each route says what becomes of it, and
//! nobody is told that it was verified.

use rustls::HandshakeKind;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::lab::Lab;
use crate::lab::within;
use crate::pki::Ca;
use crate::pki::Cert;
use crate::pki::now;
use crate::routes_have_modes::MIXED;
use crate::upstream::Seen;

const HOUR: time::Duration = time::Duration::hours(1);

/// One that has expired, one of an authority that has, and one of an authority that nobody knows; and what each is told.
pub(crate) fn strangers(lab: &Lab) -> [(Cert, &'static str); 3] {
    let leaf = |ca: &Ca| ca.leaf().uri("spiffe://lab.test/agent/a").claim("a").issue();
    let expired = lab.root.leaf().uri("spiffe://lab.test/agent/a").claim("a");
    let expired = expired.valid(now() - 2 * HOUR, now() - HOUR).issue();
    let issuing = lab.root.intermediate_until("issuing", now() - HOUR);
    [
        (expired, "certificate_expired"),
        (leaf(&issuing), "certificate_expired"),
        (leaf(&Ca::root("unknown")), "certificate_untrusted"),
    ]
}

/// Nothing that tells an upstream who somebody is, not even in the client's own words.
pub(crate) fn assert_anonymous(seen: &Seen) {
    for name in ["x-portcullis-principal", "x-forwarded-client-cert", "client-cert", "x-agent-id"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

/// Seen failing with strangers who are always let in.
#[tokio::test]
async fn not_where_all_is_strict() {
    let lab = Lab::start().await;
    for (cert, _) in strangers(&lab) {
        for version in [&TLS12, &TLS13] {
            let client = lab.client_of(Some(&cert), &[version]);
            assert!(client.raw(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_err());
        }
    }
    assert!(lab.upstream.seen().is_empty());
    // A client may know before the gate has counted.
    let failed = "portcullis_handshakes_total{result=\"failed\"} 6";
    within(async { while !lab.plain("/metrics").await.contains(failed) {} }).await;
    let text = lab.plain("/metrics").await;
    for series in [
        "portcullis_refusals_total{code=\"certificate_expired\"} 4",
        "portcullis_refusals_total{code=\"certificate_untrusted\"} 2",
        "mtls_auth_total{principal_type=\"none\",result=\"failure\"} 6",
    ] {
        assert!(text.contains(series), "{series}: {text}");
    }
    assert!(!text.contains("portcullis_passed_total{"), "{text}");
}

/// Seen failing with the claim left in, with a second refusal for want of a certificate, and with sessions kept.
#[tokio::test]
async fn where_all_is_advisory() {
    let lab = Lab::plan().gate("mode = \"advisory\"").start().await;
    for (cert, _) in strangers(&lab) {
        for version in [&TLS12, &TLS13] {
            let client = lab.client_of(Some(&cert), &[version]);
            client.get("/").await.assert_ok();
            // Nothing of them is kept.
            let mut again = client.h2().await;
            assert_eq!(again.kind, Some(HandshakeKind::Full));
            again.get("/").await.assert_ok();
        }
    }
    let seen = lab.upstream.seen();
    assert_eq!(seen.len(), 12);
    seen.iter().for_each(assert_anonymous);
    let text = lab.plain("/metrics").await;
    assert!(text.contains("portcullis_passed_total{code=\"certificate_expired\"} 8"), "{text}");
    assert!(text.contains("portcullis_passed_total{code=\"certificate_untrusted\"} 4"), "{text}");
    assert!(!text.contains("portcullis_refusals_total{"), "{text}");
    // Each was counted once: that nobody is there to be judged goes without saying.
    assert!(text.contains("mtls_auth_total{principal_type=\"none\",result=\"failure\"} 12"), "{text}");
}

/// Seen failing with a check of the chain that only advisory routes make.
#[tokio::test]
async fn where_there_is_both_each_route_decides() {
    let lab = Lab::plan().routes(MIXED).start().await;
    for (cert, code) in strangers(&lab) {
        for version in [&TLS12, &TLS13] {
            let client = lab.client_of(Some(&cert), &[version]);
            for _ in 0..2 {
                let mut connection = client.h1().await;
                assert_eq!(connection.kind, Some(HandshakeKind::Full));
                for _ in 0..2 {
                    connection.get("/").await.assert_refused(403, code);
                    connection.get("/open").await.assert_ok();
                }
            }
            let mut connection = client.h2().await;
            connection.get("/").await.assert_refused(403, code);
            connection.get("/open").await.assert_ok();
        }
    }
    let seen = lab.upstream.seen();
    assert!(seen.len() == 30 && seen.iter().all(|seen| seen.path == "/open"));
    seen.iter().for_each(assert_anonymous);
}

/// Somebody else's certificate is no way in, advisory or not. Seen failing with signatures that are taken on trust.
#[tokio::test]
async fn but_nobody_without_the_key() {
    let lab = Lab::plan().gate("mode = \"advisory\"").start().await;
    for version in [&TLS12, &TLS13] {
        for (cert, _) in strangers(&lab) {
            let (own, mut stolen) = (lab.root.agent("b"), cert);
            stolen = stolen.with_the_key_of(&own);
            let client = lab.client_of(Some(&stolen), &[version]);
            assert!(client.raw(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_err());
        }
    }
    assert!(lab.upstream.seen().is_empty());
}
