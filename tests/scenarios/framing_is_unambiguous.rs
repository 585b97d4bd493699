//! A request that two servers could cut apart in two ways is refused, or reaches the upstream in one framing.

use crate::lab::Lab;
use crate::upstream::RawUpstream;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What the upstream got (its last line and the framing), or the status of the refusal.
async fn send(head: &str, body: &str) -> Result<String, String> {
    let upstream = RawUpstream::start(b"\r\n\r\n", OK).await;
    let lab = Lab::plan()
        .routes(&format!(
            "[[route]]\nupstream = [\"http://{}\"]",
            upstream.address
        ))
        .start()
        .await;
    let client = lab.client(&lab.root.agent("a"));
    let request = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nconnection: close\r\n{head}\r\n{body}"
    );
    let answer = client.raw(request.as_bytes()).await.unwrap();
    let status = answer.get(9..12).unwrap_or_default().to_owned();
    if status != "200" {
        assert_eq!(upstream.text(), "", "{status}");
        return Err(status);
    }
    Ok(upstream.text())
}

#[tokio::test]
async fn what_could_be_read_in_two_ways() {
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    for (head, body) in [
        ("content-length: 5\r\ncontent-length: 6\r\n", "hello!"),
        ("content-length: 5, 6\r\n", "hello!"),
        ("content-length: +5\r\n", "hello"),
        ("content-length: 0x5\r\n", "hello"),
        ("content-length: 5 5\r\n", "hello"),
        ("content-length: -1\r\n", ""),
        ("content-length: 99999999999999999999\r\n", ""),
        ("transfer-encoding: gzip\r\n", "hello"),
        ("transfer-encoding: chunked, identity\r\n", chunked),
        ("transfer-encoding : chunked\r\n", chunked),
        ("transfer-encoding: chunked\r\nhost: other\r\n", chunked),
        ("x-folded: one\r\n two\r\ncontent-length: 5\r\n", "hello"),
        ("x-nul: a\0b\r\ncontent-length: 5\r\n", "hello"),
        ("x y: 1\r\ncontent-length: 5\r\n", "hello"),
        (": 1\r\ncontent-length: 5\r\n", "hello"),
    ] {
        let sent = send(head, body).await;
        assert_eq!(sent, Err("400".into()), "{head:?}");
    }
}
