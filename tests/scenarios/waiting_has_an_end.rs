//! Nobody is waited for without end: not a client's handshake, header or body, not an upstream's answer.

use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use rustls::version::TLS13;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::client::Answer;
use crate::client::Client;
use crate::lab::Lab;
use crate::lab::nobody;
use crate::lab::within;
use crate::process::Process;
use crate::process::Site;
use crate::upstream::End;
use crate::upstream::RawUpstream;
use crate::upstream::Upstream;

/// The defaults are ten seconds and more.
const SOON: Duration = Duration::from_secs(9);

/// A lab before an upstream that answers each request header with a fixed text, or with nothing.
async fn before(answer: &'static [u8], timeouts: &str) -> Lab {
    let upstream = RawUpstream::start(b"\r\n\r\n", answer).await;
    let plan = Lab::plan().routes(&format!("[[route]]\nupstream = [\"http://{}\"]", upstream.address));
    plan.gate(&format!("timeouts = {{ {timeouts} }}")).start().await
}

#[tokio::test]
async fn for_a_handshake() {
    let lab = Lab::plan().gate("timeouts = { handshake = \"1s\" }").start().await;
    let began = Instant::now();
    let mut silent = TcpStream::connect(lab.gate()).await.unwrap();
    let mut slow = TcpStream::connect(lab.gate()).await.unwrap();
    slow.write_all(&[22, 3, 1, 0, 200, 1]).await.unwrap();
    for stream in [&mut silent, &mut slow] {
        let read = within(stream.read(&mut [0; 16])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    assert!(began.elapsed() < SOON);
    lab.client(&lab.root.agent("a")).get("/").await.assert_ok();
}

/// A client that did its part is not told of as one that did not. Seen failing with one reason and code for both.
#[tokio::test]
async fn for_a_place() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let mut command = site.run(upstream.address);
    command.env("PORTCULLIS__GATE__THREADS", "1").env("PORTCULLIS__GATE__LIMITS", "{ connections = 1 }");
    command.env("PORTCULLIS__GATE__TIMEOUTS", "{ handshake = \"1s\" }");
    let (mut process, at) = Process::start(command).await;
    let client = Client::new(&site.root, Some(&site.root.agent("a")), at.gate, &[&TLS13]);
    let mut hello = Vec::new();
    client.handshake(b"http/1.1").write_tls(&mut hello).unwrap();
    let mut taken = client.h2().await;
    let held = taken.begin("/hold").await;
    upstream.until("/hold", |_| true).await;
    for (says, code, reason) in [
        (&hello[..], "no_place", "waited for a place (gate.limits.connections or handshakes) for 1s"),
        (&hello[..hello.len() / 2], "handshake_failed", "not finished in time"),
    ] {
        let mut one = TcpStream::connect(at.gate).await.unwrap();
        one.write_all(says).await.unwrap();
        let read = within(one.read(&mut [0; 16])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        let line = process.until(|line| line["message"] == "handshake failed").await;
        assert_eq!((line["code"].as_str(), line["reason"].as_str()), (Some(code), Some(reason)), "{line}");
    }
    upstream.release();
    assert_eq!(within(held).await.unwrap().status(), 200);
}

#[tokio::test]
async fn for_a_header_and_on_an_idle_connection() {
    let lab = Lab::plan().gate("timeouts = { header = \"1s\" }").start().await;
    let client = lab.client(&lab.root.agent("a"));
    let began = Instant::now();
    let mut idle = client.h1().await;
    idle.get("/").await.assert_ok();
    let _ = idle.ended().await;
    let slow = client.raw(b"GET / HTTP/1.1\r\nhost: local").await;
    assert!(slow.is_err() || slow.is_ok_and(|answer| !answer.starts_with("HTTP/1.1 2")));
    assert!(began.elapsed() < SOON);
    lab.until_sessions(0).await;
}

#[tokio::test]
async fn for_an_upstream() {
    let lab = before(b"", "upstream_answer = \"200ms\"").await;
    let client = lab.client(&lab.root.agent("a"));
    client.get("/").await.assert_refused(504, "upstream_timeout");
    client.h2().await.get("/").await.assert_refused(504, "upstream_timeout");

    let (nobody, _held) = nobody();
    let lab = Lab::plan().routes(&format!("[[route]]\nupstream = [\"http://{nobody}\"]")).start().await;
    let client = lab.client(&lab.root.agent("a"));
    let mut connection = client.h1().await;
    connection.get("/").await.assert_refused(502, "upstream_failed");
    // It is the upstream's fault: the client's connection goes on.
    connection.get("/").await.assert_refused(502, "upstream_failed");
    client.h2().await.get("/").await.assert_refused(502, "upstream_failed");

    let lab = before(b"SSH-2.0-OpenSSH_9.6\r\n", "").await;
    lab.client(&lab.root.agent("a")).get("/").await.assert_refused(502, "upstream_failed");
}

/// A second upstream takes over where the first does not take connections.
#[tokio::test]
async fn for_the_first_of_two_upstreams() {
    let (nobody, _held) = nobody();
    let routes = format!("[[route]]\nupstream = [\"http://{nobody}\", \"UPSTREAM\"]");
    let lab = Lab::plan().routes(&routes).start().await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    for _ in 0..4 {
        connection.get("/").await.assert_ok();
    }
}

#[tokio::test]
async fn for_the_rest_of_a_request() {
    let lab = Lab::plan().gate("timeouts = { body_idle = \"1s\" }").start().await;
    let client = lab.client(&lab.root.agent("a"));
    let mut connection = client.h1().await;
    let (body, answer) = connection.begin("POST", "/one");
    let answer = tokio::spawn(answer);
    body.send(Frame::data(Bytes::from("half"))).await.unwrap();
    let (parts, rest) = within(answer).await.unwrap().unwrap().into_parts();
    let rest = within(rest.collect()).await.unwrap().to_bytes();
    let answer = Answer { status: parts.status, headers: parts.headers, body: rest };
    answer.assert_refused(408, "request_timeout");
    let seen = lab.upstream.until("/one", |seen| seen.end != End::Open).await;
    assert_eq!((seen.end, seen.body), (End::Broken, b"half".to_vec()));

    let mut connection = client.h2().await;
    let request = connection.request("POST", "/two").body(()).unwrap();
    let (answer, mut body) = connection.send(request, false).await.unwrap();
    body.send_data(Bytes::from("half"), false).unwrap();
    assert_eq!(within(answer).await.unwrap().status(), 408);
    lab.upstream.until("/two", |seen| seen.end == End::Broken).await;
    connection.get("/").await.assert_ok();
}

#[tokio::test]
async fn for_the_rest_of_an_answer() {
    let lab = before(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", "body_idle = \"1s\"").await;
    let client = lab.client(&lab.root.agent("a"));
    assert!(client.h1().await.try_get("/").await.is_err(), "half an answer looks whole");
    assert!(client.h2().await.try_get("/").await.is_err(), "half an answer looks whole");
}

/// Who listens while the other end talks is not idle: a stream may be quiet one way for as long as it is not the other.
/// Seen failing with a timer for each way alone. The upstream's own time takes the place of the gate's.
#[tokio::test]
async fn but_not_while_the_other_way_moves() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let upstream = RawUpstream::start(b"0\r\n", answer).await;
    let routes = format!(
        "[[route]]\nupstream = \"app\"\n[upstream.app]\nendpoints = [\"http://{}\"]\ntimeouts = {{ body_idle = \"5s\" }}",
        upstream.address
    );
    let lab = Lab::plan().routes(&routes).gate("timeouts = { body_idle = \"100ms\" }").start().await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    let (feeder, answered) = connection.begin("POST", "/");
    feeder.send(Frame::data(Bytes::from_static(b"0"))).await.unwrap();
    let mut body = within(answered).await.unwrap().into_body();
    assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "half");
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        feeder.send(Frame::data(Bytes::from_static(b"."))).await.unwrap();
    }
    assert!(tokio::time::timeout(Duration::from_millis(10), body.frame()).await.is_err());
    // Both are quiet now.
    assert!(within(body.frame()).await.is_none_or(|frame| frame.is_err()));
}
