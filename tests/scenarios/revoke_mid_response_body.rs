//! A revocation ends downloads: what had not reached the client's own machine never does.

use std::io::ErrorKind;

use futures_util::FutureExt as _;
use h2::client::Builder;
use http::Request;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::client::RECEIVE_BUFFER;
use crate::lab::Lab;
use crate::lab::within;
use crate::upstream::FLOOD;
use crate::upstream::Speaks;

/// What a client's kernel may hold (Linux doubles what is asked for), and records that rustls had read in part.
const ARRIVED: usize = 4 * RECEIVE_BUFFER as usize;
const GET: &[u8] = b"GET /flood HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\n\r\n";

/// Megabytes fill the gate's send buffer while the client does not read.
/// Seen failing without `SO_LINGER`: megabytes arrived, and a clean end after them.
#[tokio::test]
async fn over_http1_with_megabytes_buffered() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
        let cert = lab.root.agent("a");
        let mut stream = within(lab.client(&cert).dial(b"http/1.1")).await.unwrap();
        stream.write_all(GET).await.unwrap();
        let mut chunk = vec![0; 16 << 10];
        let head = within(stream.read(&mut chunk)).await.unwrap();
        assert!(chunk[..head].starts_with(b"HTTP/1.1 200 "));
        lab.upstream.until("/flood", |seen| seen.stalled).await;
        assert_eq!(lab.revoke("certificate", &cert.serial).await, 1);
        assert_eq!(lab.sessions(), 0);
        lab.upstream.until("/flood", |seen| seen.gone).await;
        let mut late = 0;
        let end = loop {
            match within(stream.read(&mut chunk)).await {
                Ok(0) => panic!("a clean end after {late} bytes: the download looks finished"),
                Ok(count) => late += count,
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        assert!(late <= ARRIVED, "{late} of {FLOOD} bytes arrived after the revocation");
    }
}

/// The same over HTTP/2, with windows that would take the whole download.
/// Seen failing without `SO_LINGER`, and with a goodbye that waits for the streams.
#[tokio::test]
async fn over_http2_with_megabytes_buffered() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
        let cert = lab.root.agent("a");
        let mut wide = Builder::new();
        wide.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
        let (mut sender, connection, _) = lab.client(&cert).h2_parts(&wide).await;
        let mut connection = std::pin::pin!(connection);
        let request = Request::get("https://localhost/flood").header("x-agent-id", "a").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let response = within(async {
            tokio::select! {
                response = response => response,
                end = &mut connection => panic!("{end:?}"),
            }
        });
        let mut body = response.await.unwrap().into_body();
        // From here on nobody reads the socket; what was read from it until now is taken out first.
        while let Some(Some(Ok(_))) = body.data().now_or_never() {}
        lab.upstream.until("/flood", |seen| seen.stalled).await;
        assert_eq!(lab.revoke("certificate", &cert.serial).await, 1);
        assert_eq!(lab.sessions(), 0);
        lab.upstream.until("/flood", |seen| seen.gone).await;
        let end = within(connection).await;
        assert!(end.is_err(), "a clean end: the download looks finished");
        let mut late = 0;
        while let Some(Ok(chunk)) = within(body.data()).await {
            late += chunk.len();
        }
        assert!(late <= ARRIVED, "{late} of {FLOOD} bytes arrived after the revocation");
    }
}

/// A stream whose client opens no window cannot even be told: it takes its connection with it.
#[tokio::test]
async fn over_a_stream_stalled_on_its_window() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
        let cert = lab.root.agent("a");
        let mut connection = lab.client(&cert).h2().await;
        let mut body = within(connection.begin("/flood").await).await.unwrap().into_body();
        let other = connection.begin("/hold").await;
        lab.upstream.until("/hold", |_| true).await;
        lab.upstream.until("/flood", |seen| seen.stalled).await;
        assert_eq!(lab.revoke("certificate", &cert.serial).await, 1);
        assert_eq!(lab.sessions(), 0);
        lab.upstream.until("/flood", |seen| seen.gone).await;
        lab.upstream.until("/hold", |seen| seen.gone).await;
        let mut late = 0;
        let end = loop {
            match within(body.data()).await {
                None => panic!("a clean end after {late} bytes: the download looks finished"),
                Some(Ok(chunk)) => late += chunk.len(),
                Some(Err(error)) => break error,
            }
        };
        assert!(late <= 65_535, "{late} bytes in a window of 65,535: {end}");
        assert!(within(other).await.is_err());
        assert!(connection.try_get("/").await.is_err());
    }
}
