//! A revocation breaks off a request whose body is on its way: the upstream learns that it is incomplete.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::lab::Lab;
use crate::lab::within;
use crate::upstream::End;

/// Seen failing with a connection that ends gently instead of at once.
#[tokio::test]
async fn over_http1() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    let mut connection = lab.client(&cert).h1().await;
    let (body, answer) = connection.begin("POST", "/upload");
    let answer = tokio::spawn(answer);
    body.send(Frame::data(Bytes::from("the first half"))).await.unwrap();
    lab.upstream.until("/upload", |seen| seen.body == b"the first half").await;
    assert_eq!(lab.revoke("key", &cert.key_sha256).await, 1);
    assert_eq!(lab.sessions(), 0);
    // Whoever sends the rest finds nobody who takes it.
    let _ = body.send(Frame::data(Bytes::from("the second half"))).await;
    assert!(within(answer).await.unwrap().is_err());
    let seen = lab.upstream.until("/upload", |seen| seen.end != End::Open).await;
    assert_eq!((seen.end, seen.body), (End::Broken, b"the first half".to_vec()));
}

#[tokio::test]
async fn over_http2() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    let mut connection = lab.client(&cert).h2().await;
    let request = connection.request("POST", "/upload").body(()).unwrap();
    let (answer, mut body) = connection.send(request, false).await.unwrap();
    body.send_data(Bytes::from("the first half"), false).unwrap();
    lab.upstream.until("/upload", |seen| seen.body == b"the first half").await;
    assert_eq!(lab.revoke("key", &cert.key_sha256).await, 1);
    assert_eq!(lab.sessions(), 0);
    // Whoever sends the rest finds nobody who takes it.
    let _ = body.send_data(Bytes::from("the second half"), true);
    assert!(within(answer).await.is_err());
    let seen = lab.upstream.until("/upload", |seen| seen.end != End::Open).await;
    assert_eq!((seen.end, seen.body), (End::Broken, b"the first half".to_vec()));
}

/// The answer is through, and the upstream's connection goes back to the others with a body still on its way.
#[tokio::test]
async fn with_an_answer_that_came_early() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    let mut connection = lab.client(&cert).h2().await;
    let request = connection.request("POST", "/early").body(()).unwrap();
    let (answer, mut body) = connection.send(request, false).await.unwrap();
    body.send_data(Bytes::from("one"), false).unwrap();
    let mut answer = within(answer).await.unwrap().into_body();
    assert_eq!(within(answer.data()).await.unwrap().unwrap(), "early");
    lab.upstream.until("/early", |seen| seen.body == b"one").await;
    assert_eq!(lab.revoke("principal", "a").await, 1);
    assert_eq!(lab.sessions(), 0);
    let _ = body.send_data(Bytes::from("two"), true);
    let seen = lab.upstream.until("/early", |seen| seen.end != End::Open).await;
    assert_eq!((seen.end, seen.body), (End::Broken, b"one".to_vec()));
}

/// The same with an upstream that stopped reading: nothing but the revocation would ever wake what is left of the
/// request. Seen failing without an eye on the kill: the session stayed.
#[tokio::test]
async fn with_an_answer_that_came_early_and_an_upstream_that_reads_no_more() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let routes = format!("[[route]]\nupstream = [\"http://{}\"]", upstream.local_addr().unwrap());
    let mut lab = Lab::plan().routes(&routes).start().await;
    let cert = lab.root.agent("a");
    let mut connection = lab.client(&cert).h2().await;
    let request = connection.request("POST", "/").body(()).unwrap();
    let (answer, mut body) = connection.send(request, false).await.unwrap();
    let (mut socket, _) = within(upstream.accept()).await.unwrap();
    within(socket.read(&mut [0; 1024])).await.unwrap();
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    let mut answer = within(answer).await.unwrap().into_body();
    assert_eq!(within(answer.data()).await.unwrap().unwrap(), "ok");
    assert!(within(answer.data()).await.is_none());
    // Every buffer on the way is full once no more may be sent for a while.
    let full = async {
        loop {
            body.reserve_capacity(64 << 10);
            let capacity = poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
            body.send_data(vec![b'.'; capacity].into(), false).unwrap();
        }
    };
    let full = tokio::time::timeout(Duration::from_secs(1), full);
    let _: Result<std::convert::Infallible, _> = full.await;
    assert_eq!(lab.revoke("principal", "a").await, 1);
    assert_eq!(lab.sessions(), 0);
}
