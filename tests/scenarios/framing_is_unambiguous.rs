//! A request that two servers could cut apart in two ways is refused, or reaches the upstream in one framing.

use crate::lab::Lab;
use crate::upstream::RawUpstream;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What the upstream got, once it had read `until`; or the status of the refusal.
async fn send(head: &str, body: &str, until: &'static [u8]) -> Result<String, String> {
    let upstream = RawUpstream::start(until, OK).await;
    let routes = format!("[[route]]\nupstream = [\"http://{}\"]", upstream.address);
    let lab = Lab::plan().routes(&routes).start().await;
    let client = lab.client(&lab.root.agent("a"));
    let fixed = "POST / HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nconnection: close\r\n";
    let answer = client.raw(format!("{fixed}{head}\r\n{body}").as_bytes()).await.unwrap();
    match answer.get(9..12) {
        Some("200") => Ok(upstream.text()),
        status => {
            assert!(
                !upstream.text().ends_with("0\r\n\r\n"),
                "refused, and forwarded whole: {head:?} {body:?}"
            );
            Err(status.unwrap_or_default().to_owned())
        }
    }
}

const CHUNKED: &str = "5\r\nhello\r\n0\r\n\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[tokio::test]
async fn headers_that_could_be_read_in_two_ways_are_refused() {
    for (head, body) in [
        ("content-length: 5\r\ncontent-length: 6\r\n", "hello!"),
        ("content-length: 5, 5\r\n", "hello"),
        ("content-length: +5\r\n", "hello"),
        ("content-length: 0x5\r\n", "hello"),
        ("content-length: 5 5\r\n", "hello"),
        ("content-length: -1\r\n", ""),
        ("content-length: 99999999999999999999\r\n", ""),
        ("transfer-encoding: gzip\r\n", "hello"),
        ("transfer-encoding: identity\r\n", "hello"),
        ("transfer-encoding: gzip, chunked\r\n", CHUNKED),
        ("transfer-encoding: chunked, chunked\r\n", CHUNKED),
        ("transfer-encoding: chunked, identity\r\n", CHUNKED),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", CHUNKED),
        ("transfer-encoding: \x0bchunked\r\n", CHUNKED),
        ("transfer-encoding : chunked\r\n", CHUNKED),
        ("transfer-encoding: chunked\r\nhost: other\r\n", CHUNKED),
        ("x-folded: one\r\n two\r\ncontent-length: 5\r\n", "hello"),
        ("x-nul: a\0b\r\ncontent-length: 5\r\n", "hello"),
        ("x-return: a\rb\r\ncontent-length: 5\r\n", "hello"),
        ("x-escape: a\x1bb\r\ncontent-length: 5\r\n", "hello"),
        ("x y: 1\r\ncontent-length: 5\r\n", "hello"),
        (": 1\r\ncontent-length: 5\r\n", "hello"),
    ] {
        assert_eq!(send(head, body, b"hello").await, Err("400".into()), "{head:?}");
    }
}

/// It is the client's fault, and not the upstream's. Seen failing with 502.
#[tokio::test]
async fn chunks_that_cannot_be_read_are_refused() {
    for body in [
        "5\nhello\n0\n\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;\n\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\n\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ] {
        let sent = send("transfer-encoding: chunked\r\n", body, LAST_CHUNK).await;
        assert_eq!(sent, Err("400".into()), "{body:?}");
    }
}

/// What is let through leaves the gate in a framing of its own.
#[tokio::test]
async fn what_passes_has_one_framing() {
    for (head, body) in [
        ("transfer-encoding: chunked\r\n", CHUNKED),
        ("transfer-encoding: Chunked\r\n", CHUNKED),
        // RFC 9112, section 6.3: the length does not count, and is not passed on.
        ("content-length: 3\r\ntransfer-encoding: chunked\r\n", CHUNKED),
        ("transfer-encoding: chunked\r\ncontent-length: 50\r\n", CHUNKED),
        ("transfer-encoding: chunked\r\n", "05 ;a=b\r\nhello\r\n00\r\n\r\n"),
    ] {
        let sent = send(head, body, LAST_CHUNK).await.unwrap();
        let (head, body) = sent.split_once("\r\n\r\n").unwrap();
        assert_eq!(head.matches("transfer-encoding: chunked").count(), 1, "{head}");
        assert!(!head.contains("content-length"), "{head}");
        assert_eq!(body, CHUNKED);
    }
    for head in [
        "content-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 5\r\n",
        "content-length: 5\r\nx-bare: a\nx-line: b\r\n",
    ] {
        let sent = send(head, "hello", b"hello").await.unwrap();
        let (head, body) = sent.split_once("\r\n\r\n").unwrap();
        assert_eq!((head.matches("content-length: 5").count(), body), (1, "hello"));
        assert!(!head.replace("\r\n", "").contains('\n'), "{head:?}");
    }
}
