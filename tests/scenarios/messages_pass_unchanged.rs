//! Requests and answers pass as they are, piece by piece: bodies, trailers, authority; only what ends at a hop goes.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::lab::Lab;
use crate::lab::within;
use crate::upstream::End;
use crate::upstream::RawUpstream;

/// Each piece is at the other end before the next is sent.
#[tokio::test]
async fn bodies_stream_both_ways_over_http1() {
    let lab = Lab::start().await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    let (body, answer) = connection.begin("POST", "/echo");
    let answer = tokio::spawn(answer);
    body.send(Frame::data(Bytes::from("one"))).await.unwrap();
    let mut echo = within(answer).await.unwrap().unwrap().into_body();
    assert_eq!(within(echo.frame()).await.unwrap().unwrap().into_data().unwrap(), "one");
    body.send(Frame::data(Bytes::from("two"))).await.unwrap();
    assert_eq!(within(echo.frame()).await.unwrap().unwrap().into_data().unwrap(), "two");
    assert_eq!(lab.upstream.only("/echo").end, End::Open);
    drop(body);
    assert!(within(echo.frame()).await.is_none());
    assert_eq!(lab.upstream.only("/echo").end, End::Whole);
}

#[tokio::test]
async fn bodies_and_trailers_stream_both_ways_over_http2() {
    let lab = Lab::start().await;
    let mut connection = lab.client(&lab.root.agent("a")).h2().await;
    let request = connection.request("POST", "/echo").header("trailer", "x-sum").header("te", "trailers");
    let (answer, mut body) = connection.send(request.body(()).unwrap(), false).await.unwrap();
    let mut echo = within(answer).await.unwrap().into_body();
    for text in ["one", "two"] {
        body.send_data(Bytes::from(text), false).unwrap();
        assert_eq!(within(echo.data()).await.unwrap().unwrap(), text);
    }
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), "6".parse().unwrap())].into_iter().collect();
    body.send_trailers(trailers.clone()).unwrap();
    assert!(within(echo.data()).await.is_none());
    assert_eq!(within(echo.trailers()).await.unwrap(), Some(trailers.clone()));
    assert_eq!(lab.upstream.only("/echo").trailers, trailers);
}

#[tokio::test]
async fn trailers_pass_both_ways_over_http1() {
    let lab = Lab::start().await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    let (body, frames) = crate::upstream::feed();
    let request = connection.request("POST", "/echo").header("trailer", "x-sum").header("te", "trailers");
    let answer = connection.send(request.body(frames).unwrap());
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), "6".parse().unwrap())].into_iter().collect();
    let sent = trailers.clone();
    let (answer, ()) = tokio::join!(answer, async move {
        body.send(Frame::data(Bytes::from("hello"))).await.unwrap();
        body.send(Frame::trailers(sent)).await.unwrap();
    });
    let echo = within(answer.unwrap().into_body().collect()).await.unwrap();
    assert_eq!(echo.trailers(), Some(&trailers));
    assert_eq!(echo.to_bytes(), "hello");
    assert_eq!(lab.upstream.only("/echo").trailers, trailers);
}

#[tokio::test]
async fn the_authority_becomes_the_host() {
    let lab = Lab::start().await;
    let client = lab.client(&lab.root.agent("a"));
    let mut connection = client.h2().await;
    connection.get("/path?q=%20x&y").await.assert_ok();
    let seen = lab.upstream.only("/path?q=%20x&y");
    assert_eq!((seen.method.as_str(), seen.header("host")), ("GET", Some("localhost")));
    // What a `Host` beside it says does not count.
    let request = connection.request("GET", "/two").header("host", "elsewhere.test").body(()).unwrap();
    connection.exchange(request).await.unwrap().assert_ok();
    assert_eq!(lab.upstream.only("/two").header("host"), Some("localhost"));
    let absolute = b"GET http://localhost/three HTTP/1.1\r\nhost: elsewhere.test\r\nx-agent-id: a\r\nconnection: close\r\n\r\n";
    assert!(client.raw(absolute).await.unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(lab.upstream.only("/three").header("host"), Some("localhost"));
}

/// RFC 9113, section 8.2.3: crumbs of one cookie are put together for the next hop. Seen failing without.
#[tokio::test]
async fn cookies_are_put_together() {
    let lab = Lab::start().await;
    let mut connection = lab.client(&lab.root.agent("a")).h2().await;
    let request = connection.request("GET", "/").header("cookie", "a=1").header("cookie", "b=2");
    connection.exchange(request.body(()).unwrap()).await.unwrap().assert_ok();
    assert_eq!(lab.upstream.only("/").header("cookie"), Some("a=1; b=2"));
}

#[tokio::test]
async fn what_concerns_one_hop_ends_there() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Internal\r\nX-Internal: 1\r\n\
        Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\n\
        X-Kept: 1\r\n\r\nok";
    let upstream = RawUpstream::start(b"\r\n\r\n", answer).await;
    let lab =
        Lab::plan().routes(&format!("[[route]]\nupstream = [\"http://{}\"]", upstream.address)).start().await;
    let client = lab.client(&lab.root.agent("a"));
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Agent-Id: a\r\nConnection: close, X-Secret, Upgrade, HTTP2-Settings\r\n\
        X-Secret: 1\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nTE: gzip\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nX-Kept: 1\r\n\r\n";
    let answer = client.raw(request).await.unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 200 ") && answer.contains("\r\nx-kept: 1\r\n"), "{answer}");
    let sent = upstream.text().to_lowercase();
    assert!(sent.contains("\r\nx-kept: 1\r\n"), "{sent}");
    for gone in ["x-secret", "keep-alive", "proxy-", "te:", "upgrade", "http2-settings", "connection"] {
        assert!(!sent.contains(&format!("\r\n{gone}")), "{gone}: {sent}");
    }
    for gone in ["x-internal", "keep-alive", "proxy-", "upgrade"] {
        assert!(!answer.contains(&format!("\r\n{gone}")), "{gone}: {answer}");
    }
    let over_http2 = client.h2().await.get("/").await;
    let names: Vec<&str> = over_http2.headers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["content-length", "x-kept", "date"]);
}

/// A tunnel has two directions, and each ends by itself. Seen failing with one that is drained once the other ends.
#[tokio::test]
async fn half_of_a_tunnel_outlives_the_other() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let routes = format!("[[route]]\nupstream = [\"http://{}\"]", upstream.local_addr().unwrap());
    let lab = Lab::plan().routes(&routes).start().await;
    let mut client = lab.client(&lab.root.agent("a")).dial(b"http/1.1").await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(request).await.unwrap();
    let (mut socket, _) = within(upstream.accept()).await.unwrap();
    within(socket.read(&mut [0; 4096])).await.unwrap();
    let switch =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nlast words";
    socket.write_all(switch).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut text = String::new();
    within(client.read_to_string(&mut text)).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 101 ") && text.ends_with("\r\n\r\nlast words"), "{text}");
    // More than the buffers on its way hold, to an upstream that takes its time.
    let answer = vec![b'.'; 16 << 20];
    let sent = tokio::spawn(async move {
        client.write_all(&answer).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!sent.is_finished());
    let mut received = Vec::new();
    within(socket.read_to_end(&mut received)).await.unwrap();
    assert_eq!(received.len(), 16 << 20);
    within(sent).await.unwrap();
}

/// Seen failing where the framing was left to the client side of the gate: it takes a GET to have no body.
#[tokio::test]
async fn a_get_keeps_a_body_of_unknown_length() {
    let lab = Lab::start().await;
    let client = lab.client(&lab.root.agent("a"));
    let head = "GET /odd HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nconnection: close\r\n";
    let request = format!("{head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    assert!(client.raw(request.as_bytes()).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(lab.upstream.only("/odd").body, b"hello");
}

/// Without `[trace]` a trace is none of the gate's business.
#[tokio::test]
async fn traces_pass_as_they_are() {
    let lab = Lab::start().await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    for (path, parent) in
        [("/good", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("/bad", "what?")]
    {
        let request =
            connection.request("GET", path).header("traceparent", parent).header("tracestate", "a=1");
        connection.exchange(request.body(crate::upstream::full("")).unwrap()).await.unwrap().assert_ok();
        let seen = lab.upstream.only(path);
        assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (Some(parent), Some("a=1")));
    }
}
