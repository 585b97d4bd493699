//! A revocation ends requests that wait for their answer, and every stream of an HTTP/2 connection.

use crate::lab::Lab;
use crate::lab::within;
use crate::upstream::Speaks;

/// Seen failing with a connection that ends gently instead of at once.
#[tokio::test]
async fn http1_requests_that_wait_are_ended() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
        let cert = lab.root.agent("a");
        let mut connection = lab.client(&cert).h1().await;
        let waiting = tokio::spawn(async move { connection.try_get("/hold").await });
        lab.upstream.until("/hold", |_| true).await;
        assert_eq!(lab.revoke("certificate", &cert.serial).await, 1);
        assert_eq!(lab.sessions(), 0);
        lab.upstream.until("/hold", |seen| seen.gone).await;
        assert!(within(waiting).await.unwrap().is_err());
    }
}

#[tokio::test]
async fn http2_streams_are_ended_all_of_them() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
        let cert = lab.root.agent("a");
        let mut connection = lab.client(&cert).h2().await;
        let mut streams = Vec::new();
        for i in 0..20 {
            let path = format!("/hold?{i}");
            streams.push(connection.begin(&path).await);
            lab.upstream.until(&path, |_| true).await;
        }
        // Twenty streams, one session.
        assert_eq!((lab.sessions(), lab.revoke("certificate", &cert.serial).await), (1, 1));
        assert_eq!(lab.sessions(), 0);
        for (i, stream) in streams.into_iter().enumerate() {
            assert!(within(stream).await.is_err());
            lab.upstream.until(&format!("/hold?{i}"), |seen| seen.gone).await;
        }
        assert!(connection.try_get("/").await.is_err());
    }
}

#[tokio::test]
async fn connections_of_one_credential_go_together() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    let client = lab.client(&cert);
    let (mut first, mut second, mut third) = (client.h1().await, client.h1().await, client.h2().await);
    let mut socket = client.websocket().await;
    first.get("/").await.assert_ok();
    second.get("/").await.assert_ok();
    third.get("/").await.assert_ok();
    assert_eq!((lab.sessions(), lab.revoke("principal", "spiffe://lab.test/agent/a").await), (4, 4));
    assert_eq!(lab.sessions(), 0);
    assert!(first.try_get("/").await.is_err());
    assert!(second.try_get("/").await.is_err());
    assert!(third.try_get("/").await.is_err());
    assert!(within(futures_util::StreamExt::next(&mut socket)).await.is_none_or(|end| end.is_err()));
}
