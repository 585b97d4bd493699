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
use crate::upstream::Speaks;

/// Seen failing with a connection that ends gently instead of at once.
#[tokio::test]
async fn over_http1() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
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
}

#[tokio::test]
async fn over_http2() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
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
}

/// The answer is through, and the upstream's connection goes back to the others with a body still on its way.
#[tokio::test]
async fn with_an_answer_that_came_early() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
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

/// Over HTTP/2 the connection to the upstream stays, and with it, unless somebody ends it, the stream: nothing comes any
/// more that would wake it. Seen failing where the task that sends the body did not end with its request.
#[tokio::test]
async fn over_a_shared_connection_to_the_upstream() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let routes = format!("[[route]]\nupstream = [\"h2c://{}\"]", upstream.local_addr().unwrap());
    let mut lab = Lab::plan().on_one_thread().routes(&routes).start().await;
    let mut victim = lab.client(&lab.root.agent("a")).h2().await;
    let mut bystander = lab.client(&lab.root.agent("b")).h2().await;
    let mut begun = Vec::new();
    for whose in ["a", "a", "b"] {
        let connection = if whose == "a" { &mut victim } else { &mut bystander };
        let request = connection.request("POST", "/").body(()).unwrap();
        begun.push(connection.send(request, false).await.unwrap());
    }
    let (socket, _) = within(upstream.accept()).await.unwrap();
    let mut connection = h2::server::handshake(socket).await.unwrap();
    let (mut victims, mut calms) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (request, mut respond) = within(connection.accept()).await.unwrap().unwrap();
        let whose = if request.headers()["x-agent-id"] == "a" { &mut victims } else { &mut calms };
        whose.push((respond.send_response(http::Response::new(()), false).unwrap(), request.into_body()));
    }
    // Nobody but this asks for more: it answers pings, and takes in what the windows let through.
    let served = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let (mut quiet, mut full, mut calm) = {
        let mut begun = begun.into_iter();
        (begun.next().unwrap(), begun.next().unwrap(), begun.next().unwrap())
    };
    for (answer, body) in [&mut quiet, &mut full, &mut calm] {
        assert_eq!(within(answer).await.unwrap().status(), 200);
        body.send_data(Bytes::from("one"), false).unwrap();
    }
    // The second fills its window, and a piece that does not fit waits in the gate.
    let rest = async {
        loop {
            full.1.reserve_capacity(64 << 10);
            let capacity = poll_fn(|cx| full.1.poll_capacity(cx)).await.unwrap().unwrap();
            full.1.send_data(vec![b'.'; capacity].into(), false).unwrap();
        }
    };
    let _: Result<std::convert::Infallible, _> = tokio::time::timeout(Duration::from_millis(500), rest).await;
    assert_eq!(lab.revoke("principal", "a").await, 1);
    for (mut answer, _body) in victims {
        within(poll_fn(|cx| answer.poll_reset(cx))).await.unwrap();
    }
    let (_, body) = &mut calms[0];
    assert_eq!(within(body.data()).await.unwrap().unwrap(), "one");
    calm.1.send_data(Bytes::from("two"), true).unwrap();
    assert_eq!(within(body.data()).await.unwrap().unwrap(), "two");
    served.abort();
}
