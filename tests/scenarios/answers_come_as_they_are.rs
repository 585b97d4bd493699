//! Answers of every shape: before the request is whole, without a body, after others that say little (1xx).

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::lab::Lab;
use crate::lab::within;
use crate::upstream::End;
use crate::upstream::RawUpstream;
use crate::upstream::Speaks;
use crate::upstream::full;

const EXPECTS: &str =
    "host: localhost\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";

/// The client has its word before it sends the body.
#[tokio::test]
async fn whoever_waits_for_100_gets_it() {
    for speaks in Speaks::ALL {
        let lab = Lab::plan().speaking(speaks).start().await;
        let mut stream = lab.client(&lab.root.agent("a")).dial(b"http/1.1").await.unwrap();
        stream
            .write_all(format!("POST /one HTTP/1.1\r\nx-agent-id: a\r\n{EXPECTS}").as_bytes())
            .await
            .unwrap();
        let mut go_on = [0; 25];
        within(stream.read_exact(&mut go_on)).await.unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hello").await.unwrap();
        let mut text = String::new();
        let _ = within(stream.read_to_string(&mut text)).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nok"), "{text}");
        assert_eq!(lab.upstream.only("/one").body, b"hello");
        // Over HTTP/2 it is no more than a word: nobody is kept waiting for it.
        let mut connection = lab.client(&lab.root.agent("a")).h2().await;
        let request = connection.request("POST", "/two").header("expect", "100-continue");
        let request = request.body(()).unwrap();
        connection.exchange_with(request, Bytes::from("hello")).await.unwrap().assert_ok();
        assert_eq!(lab.upstream.only("/two").body, b"hello");
    }
}

#[tokio::test]
async fn whoever_is_refused_sends_no_body() {
    let lab = Lab::start().await;
    let client = lab.client(&lab.root.agent("a"));
    let answer =
        client.raw(format!("POST / HTTP/1.1\r\nx-agent-id: b\r\n{EXPECTS}").as_bytes()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("identity_mismatch"), "{answer}");
    assert!(lab.upstream.seen().is_empty());
}

/// The answer arrives; what else the client sends is taken no longer than it takes to say so.
#[tokio::test]
async fn before_the_request_is_whole() {
    for speaks in Speaks::ALL {
        let lab = Lab::plan().speaking(speaks).gate("timeouts = { body_idle = \"1s\" }").start().await;
        let client = lab.client(&lab.root.agent("a"));
        let mut first = client.h1().await;
        let (body, answer) = first.begin("POST", "/status/413");
        let answer = tokio::spawn(answer);
        let _ = body.send(Frame::data(Bytes::from("half"))).await;
        let answer = within(answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 413, "{speaks:?}");
        assert_eq!(within(answer.into_body().collect()).await.unwrap().to_bytes(), "so it is");
        let chunk = Bytes::from(vec![0; 64 << 10]);
        within(async { while body.send(Frame::data(chunk.clone())).await.is_ok() {} }).await;
        drop(body);
        let _ = first.ended().await;

        let mut second = client.h2().await;
        let request = second.request("POST", "/status/413").body(()).unwrap();
        let (answer, mut body) = second.send(request, false).await.unwrap();
        body.send_data(Bytes::from("half"), false).unwrap();
        let answer = within(answer).await.unwrap();
        assert_eq!(answer.status(), 413, "{speaks:?}");
        assert_eq!(within(answer.into_body().data()).await.unwrap().unwrap(), "so it is");
        within(async {
            loop {
                body.reserve_capacity(chunk.len());
                let Some(Ok(capacity)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else {
                    return;
                };
                if body.send_data(chunk.slice(..capacity.min(chunk.len())), false).is_err() {
                    return;
                }
            }
        })
        .await;
        second.get("/").await.assert_ok();
        client.get("/").await.assert_ok();
    }
}

/// An upstream that goes on reading gets the rest.
#[tokio::test]
async fn while_the_request_goes_on() {
    for speaks in Speaks::ALL {
        let lab = Lab::plan().speaking(speaks).start().await;
        let mut connection = lab.client(&lab.root.agent("a")).h2().await;
        let request = connection.request("POST", "/early").body(()).unwrap();
        let (answer, mut body) = connection.send(request, false).await.unwrap();
        let mut answer = within(answer).await.unwrap().into_body();
        assert_eq!(within(answer.data()).await.unwrap().unwrap(), "early");
        assert!(within(answer.data()).await.is_none());
        for text in ["one", "two"] {
            body.send_data(Bytes::from(text), text == "two").unwrap();
        }
        let seen = lab.upstream.until("/early", |seen| seen.end != End::Open).await;
        assert_eq!((seen.end, seen.body), (End::Whole, b"onetwo".to_vec()), "{speaks:?}");
        connection.get("/").await.assert_ok();
    }
}

/// Seen failing over HTTP/2, where hyper sends a refusal's body in answer to HEAD.
#[tokio::test]
async fn without_a_body() {
    for speaks in Speaks::ALL {
        let lab = Lab::plan().speaking(speaks).start().await;
        let client = lab.client(&lab.root.agent("a"));
        let (mut first, mut second) = (client.h1().await, client.h2().await);
        for (method, path, status, length) in [
            ("HEAD", "/", 200, Some("2")),
            ("HEAD", "/flood", 200, None),
            ("HEAD", "/status/404", 404, Some("8")),
            ("GET", "/status/204", 204, None),
            ("GET", "/status/304", 304, None),
            ("OPTIONS", "/status/204", 204, None),
        ] {
            let request = first.request(method, path).body(full("")).unwrap();
            let over_http1 = first.exchange(request).await.unwrap();
            let request = second.request(method, path).body(()).unwrap();
            let over_http2 = second.exchange(request).await;
            let over_http2 = over_http2.unwrap_or_else(|e| panic!("{method} {path} {speaks:?}: {e}"));
            for answer in [over_http1, over_http2] {
                let found = answer.headers.get("content-length").map(|length| length.to_str().unwrap());
                assert_eq!(
                    (answer.status.as_u16(), answer.body.len()),
                    (status, 0),
                    "{method} {path} {speaks:?}"
                );
                // What a 304 says of the length is that of what it stands for (RFC 9110, section 8.6).
                if status != 304 {
                    assert_eq!(found, length, "{method} {path} {speaks:?}");
                }
            }
        }
        // What the gate itself answers.
        let request = first.request("HEAD", "/").header("x-agent-id", "b").body(full("")).unwrap();
        let over_http1 = first.exchange(request).await.unwrap();
        let request = second.request("HEAD", "/").header("x-agent-id", "b").body(()).unwrap();
        let over_http2 = second.exchange(request).await.unwrap();
        for answer in [over_http1, over_http2] {
            assert_eq!((answer.status.as_u16(), answer.body.len()), (403, 0));
            assert!(answer.headers["content-length"].to_str().unwrap().parse::<usize>().unwrap() > 100);
        }
        first.get("/").await.assert_ok();
        second.get("/").await.assert_ok();
    }
}

#[tokio::test]
async fn about_a_whole_host() {
    for speaks in Speaks::ALL {
        let lab = Lab::plan().speaking(speaks).start().await;
        let client = lab.client(&lab.root.agent("a"));
        let request = b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nconnection: close\r\n\r\n";
        let answer = client.raw(request).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let seen = lab.upstream.only("*");
        assert_eq!((seen.method.as_str(), seen.header("host")), ("OPTIONS", Some("localhost")), "{speaks:?}");
    }
}

async fn hint(socket: TcpStream) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        for status in [102, 103] {
            let hint = Response::builder().status(status).header("link", "</a.css>; rel=preload");
            respond.send_informational(hint.body(()).unwrap()).unwrap();
        }
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from("ok"), true).unwrap();
    }
}

/// They say nothing that anybody waits for, and are dropped; what follows is the answer.
#[tokio::test]
async fn after_early_hints() {
    let answer =
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n\
        HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let http1 = RawUpstream::start(b"\r\n\r\n", answer).await;
    let h2c = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = h2c.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            tokio::spawn(hint(h2c.accept().await.unwrap().0));
        }
    });
    let routes = format!(
        "[[route]]\npath = \"/1\"\nupstream = [\"http://{}\"]\n[[route]]\npath = \"/2\"\nupstream = [\"h2c://{address}\"]",
        http1.address
    );
    let lab = Lab::plan().routes(&routes).start().await;
    let client = lab.client(&lab.root.agent("a"));
    let (mut first, mut second) = (client.h1().await, client.h2().await);
    for path in ["/1", "/2", "/1", "/2"] {
        for answer in [first.get(path).await, second.get(path).await] {
            answer.assert_ok();
            assert_eq!((answer.body.as_ref(), answer.headers.get("link")), (&b"ok"[..], None));
        }
    }
    // To an HTTP/1.0 client they would be the answer itself.
    let answer = client.raw(b"GET /1 HTTP/1.0\r\nhost: localhost\r\nx-agent-id: a\r\n\r\n").await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nok"), "{answer}");
}

/// A stream that the client gives up is given up at the upstream, and nothing else on the connection to it.
#[tokio::test]
async fn unless_the_client_gives_up() {
    for speaks in Speaks::ALL {
        let lab = Lab::plan().speaking(speaks).on_one_thread().start().await;
        let mut connection = lab.client(&lab.root.agent("a")).h2().await;
        let other = connection.begin("/hold?other").await;
        let (answer, stream) = {
            let request = connection.request("POST", "/hold?mine").body(()).unwrap();
            let (answer, mut stream) = connection.send(request, false).await.unwrap();
            stream.send_data(Bytes::from("half"), false).unwrap();
            (answer, stream)
        };
        lab.upstream.until("/hold?other", |_| true).await;
        lab.upstream.until("/hold?mine", |seen| seen.body == b"half").await;
        drop((answer, stream));
        lab.upstream.until("/hold?mine", |seen| seen.end == End::Broken || seen.gone).await;
        lab.upstream.release();
        assert_eq!(within(other).await.unwrap().status(), 200);
        // Over HTTP/2 all of it took one connection.
        assert!(speaks == Speaks::Http1 || lab.upstream.connections() == 1);
    }
}

/// Answers that nobody reads keep no other waiting, though they share a connection to the upstream. Seen failing with
/// hyper's own windows, which three of them close.
#[tokio::test]
async fn though_others_are_not_read() {
    let lab = Lab::plan().speaking(Speaks::H2c).on_one_thread().start().await;
    let mut slow = Vec::new();
    for i in 0..8 {
        let mut connection = lab.client(&lab.root.agent("a")).h2().await;
        let path = format!("/flood?{i}");
        let answer = within(connection.begin(&path).await).await.unwrap();
        lab.upstream.until(&path, |seen| seen.stalled).await;
        slow.push((connection, answer));
    }
    let mut connection = lab.client(&lab.root.agent("b")).h1().await;
    let request: Request<_> = connection.request("POST", "/echo").body(full(vec![1; 1 << 20])).unwrap();
    assert_eq!(within(connection.exchange(request)).await.unwrap().body.len(), 1 << 20);
    assert_eq!(lab.upstream.connections(), 1);
    drop(slow);
}
