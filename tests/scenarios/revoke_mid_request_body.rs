//! A revocation breaks off a request whose body is on its way: the upstream learns that it is incomplete.

use bytes::Bytes;
use http_body::Frame;

use crate::lab::Lab;
use crate::lab::within;
use crate::upstream::End;

#[tokio::test]
async fn over_http1() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    let mut connection = lab.client(&cert).h1().await;
    let (body, answer) = connection.begin("POST", "/upload");
    let answer = tokio::spawn(answer);
    body.send(Frame::data(Bytes::from("the first half")))
        .await
        .unwrap();
    lab.upstream
        .until("/upload", |seen| seen.body == b"the first half")
        .await;
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
    lab.upstream
        .until("/upload", |seen| seen.body == b"the first half")
        .await;
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
