//! Slow clients are cut, on either protocol and in either direction, and nobody else is slowed down by them.

use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use crate::client::Answer;
use crate::client::Client;
use crate::lab::Lab;
use crate::lab::within;
use crate::upstream::End;

/// More often than anything here times out.
const NOW_AND_THEN: Duration = Duration::from_millis(100);

async fn lab(timeouts: &str, limits: &str) -> Lab {
    let plan = Lab::plan().gate(&format!("timeouts = {{ {timeouts} }}"));
    plan.gate(&format!("limits = {{ {limits} }}")).on_one_thread().start().await
}

/// Somebody else's requests, for as long as this is not dropped.
struct Bystander(tokio::task::JoinHandle<()>);

impl Bystander {
    fn beside(lab: &Lab) -> Self {
        let client = lab.client(&lab.root.agent("bystander"));
        Self(tokio::spawn(async move {
            let (mut one, mut two) = (client.h1().await, client.h2().await);
            loop {
                one.get("/").await.assert_ok();
                two.get("/").await.assert_ok();
                sleep(Duration::from_millis(10)).await;
            }
        }))
    }

    async fn was_served(self) {
        self.0.abort();
        assert!(self.0.await.unwrap_err().is_cancelled(), "a bystander suffered");
    }
}

/// Seen failing without a rate: a byte now and then is progress.
#[tokio::test]
async fn who_sends_a_byte_now_and_then() {
    let lab = lab("body_idle = \"1s\"", "body_rate = 1000").await;
    let (client, bystander) = (lab.client(&lab.root.agent("a")), Bystander::beside(&lab));

    let mut h1 = client.h1().await;
    let (body, answer) = h1.begin("POST", "/one");
    let drip = async {
        while body.send(Frame::data(Bytes::from_static(b"."))).await.is_ok() {
            sleep(NOW_AND_THEN).await;
        }
    };
    let (answer, ()) = within(async { tokio::join!(answer, drip) }).await;
    let (parts, rest) = answer.unwrap().into_parts();
    let body = within(rest.collect()).await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }.assert_refused(408, "request_timeout");

    let mut h2 = client.h2().await;
    let request = h2.request("POST", "/two").body(()).unwrap();
    let (answer, mut body) = h2.send(request, false).await.unwrap();
    let answer = tokio::spawn(answer);
    while !answer.is_finished() && body.send_data(Bytes::from_static(b"."), false).is_ok() {
        sleep(NOW_AND_THEN).await;
    }
    assert_eq!(within(answer).await.unwrap().unwrap().status(), 408);
    h2.get("/").await.assert_ok();

    for path in ["/one", "/two"] {
        let seen = lab.upstream.until(path, |seen| seen.end != End::Open).await;
        assert_eq!(seen.end, End::Broken, "{path}");
    }
    bystander.was_served().await;
}

/// Whoever sends as fast as is demanded may take as long as the whole takes; and so may an upstream.
#[tokio::test]
async fn not_who_is_fast_enough_or_waits_for_the_upstream() {
    let lab = lab("body_idle = \"5s\"", "body_rate = 1000").await;
    let client = lab.client(&lab.root.agent("a"));
    let mut h1 = client.h1().await;
    let (body, answer) = h1.begin("POST", "/echo");
    let answer = within(answer).await.unwrap();
    let (mut h2, mut echoed) = (client.h2().await, answer.into_body());
    let held = h2.begin("/hold").await;
    for _ in 0..60 {
        body.send(Frame::data(Bytes::from(vec![b'.'; 2000]))).await.unwrap();
        assert_eq!(within(echoed.frame()).await.unwrap().unwrap().into_data().unwrap().len(), 2000);
        sleep(NOW_AND_THEN).await;
    }
    lab.upstream.release();
    assert_eq!(within(held).await.unwrap().status(), 200);
}

/// Asks for `/flood`, and reads so much of it now and then, for as long as it comes.
async fn sip(client: &Client, sip: usize) {
    let mut stream = within(client.dial(b"http/1.1")).await.unwrap();
    let request = "GET /flood HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut chunk = vec![0; sip];
    while stream.read_exact(&mut chunk).await.is_ok() {
        sleep(NOW_AND_THEN).await;
    }
}

/// Seen failing without a rate.
#[tokio::test]
async fn who_reads_a_little_now_and_then() {
    let lab = lab("body_idle = \"1s\"", "body_rate = 50000000").await;
    let (client, bystander) = (lab.client(&lab.root.agent("a")), Bystander::beside(&lab));
    let sipping = tokio::spawn(async move { sip(&client, 256 << 10).await });
    lab.upstream.until("/flood", |seen| seen.gone).await;
    within(sipping).await.unwrap();
    bystander.was_served().await;
    lab.until_sessions(0).await;
}

/// A stream whose window stays closed blocks no write, and holds its upstream connection. Seen failing without an eye on
/// what a stream's body has given: nothing ever ended.
#[tokio::test]
async fn who_opens_no_window() {
    let lab = lab("body_idle = \"1s\"", "").await;
    let (client, bystander) = (lab.client(&lab.root.agent("a")), Bystander::beside(&lab));
    for window in [0, 1] {
        let mut h2 = client.h2_with(h2::client::Builder::new().initial_window_size(window)).await;
        let small = h2.begin("/small").await;
        let flood = h2.begin("/flood").await;
        for (response, name) in [(flood, "flood"), (small, "small")] {
            let mut body = within(response).await.unwrap().into_body();
            let mut all = 0;
            let end = loop {
                match within(body.data()).await {
                    Some(Ok(bytes)) => all += bytes.len(),
                    Some(Err(error)) => break error.reason(),
                    None => panic!("{name} looks whole"),
                }
                if name == "small" && window == 1 {
                    // Its two bytes are out of the gate's hands, and in h2's.
                    break Some(h2::Reason::CANCEL);
                }
            };
            assert!(matches!(end, Some(h2::Reason::CANCEL | h2::Reason::INTERNAL_ERROR)), "{name} {end:?}");
            assert!(all <= 1, "{name}");
        }
        // The connection itself is fine.
        let again = h2.begin("/again").await;
        assert_eq!(within(again).await.unwrap().status(), 200);
    }
    lab.upstream.until("/flood", |seen| seen.gone).await;
    bystander.was_served().await;
}

/// Seen failing without a rate.
#[tokio::test]
async fn who_opens_it_a_little_at_a_time() {
    let lab = lab("body_idle = \"1s\"", "body_rate = 1000000").await;
    let (client, bystander) = (lab.client(&lab.root.agent("a")), Bystander::beside(&lab));
    let mut h2 = client.h2_with(h2::client::Builder::new().initial_window_size(32_768)).await;
    let flood = h2.begin("/flood").await;
    let mut body = within(flood).await.unwrap().into_body();
    let mut due = 0;
    let end = within(async {
        loop {
            let window = async {
                sleep(NOW_AND_THEN).await;
                None
            };
            let data = async { Some(body.data().await) };
            match tokio::select! { biased; data = data => data, window = window => window } {
                Some(Some(Ok(bytes))) => due += bytes.len(),
                Some(Some(Err(error))) => break error.reason(),
                Some(None) => panic!("a flood that ended"),
                // Half of the window: of less h2 says nothing to the other end.
                None if due >= 16_384 => {
                    due -= 16_384;
                    body.flow_control().release_capacity(16_384).unwrap();
                }
                None => {}
            }
        }
    })
    .await;
    assert!(matches!(end, Some(h2::Reason::CANCEL | h2::Reason::INTERNAL_ERROR)), "{end:?}");
    lab.upstream.until("/flood", |seen| seen.gone).await;
    bystander.was_served().await;
}

/// A client's connection preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The beginning of a HEADERS frame on stream 1, of a block that goes on in CONTINUATION frames: `:method: GET`.
const HEADERS: &[u8] = b"\0\0\x01\x01\0\0\0\0\x01\x82";
/// One of these, which is not the last either.
const CONTINUATION: &[u8] = b"\0\0\x01\x09\0\0\0\0\x01\x84";

/// Seen failing for what comes before the preface, for which hyper itself waits without end.
#[tokio::test]
async fn who_never_gets_to_the_end_of_a_header() {
    let lab = lab("header = \"1s\", handshake = \"1s\"", "").await;
    let (client, bystander) = (lab.client(&lab.root.agent("a")), Bystander::beside(&lab));
    let unfinished = [PREFACE, HEADERS].concat();
    let starts: [(&[u8], &[u8], &[u8]); 7] = [
        (b"http/1.1", b"", b""),
        (b"http/1.1", b"GET / HT", b""),
        (b"http/1.1", b"GET / HTTP/1.1\r\n", b"x-a: b\r\n"),
        (b"h2", b"", b""),
        (b"h2", &PREFACE[..20], b""),
        (b"h2", &unfinished, b""),
        (b"h2", &unfinished, CONTINUATION),
    ];
    let mut open = Vec::new();
    for (alpn, start, drip) in starts {
        let mut stream = within(client.dial(alpn)).await.unwrap();
        stream.write_all(start).await.unwrap();
        stream.flush().await.unwrap();
        let drip = drip.to_vec();
        open.push(tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let dripping = async {
                while !drip.is_empty() && write.write_all(&drip).await.is_ok() && write.flush().await.is_ok()
                {
                    sleep(NOW_AND_THEN).await;
                }
                std::future::pending::<()>().await;
            };
            let mut all = Vec::new();
            tokio::select! {
                _ = read.read_to_end(&mut all) => {}
                () = dripping => {}
            }
        }));
    }
    for (connection, (alpn, start, drip)) in open.into_iter().zip(starts) {
        let over = tokio::time::timeout(crate::lab::PATIENCE, connection).await;
        assert!(over.is_ok(), "{:?} {:?}", alpn.escape_ascii().to_string(), (start.len(), drip.len()));
    }
    bystander.was_served().await;
}
