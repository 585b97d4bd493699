//! Whatever a client writes, its upstream gets requests that can be read in one way only, or none.
//!
//! The upstream of these tests reads to the letter and takes note of whole requests; anything that it cannot read shows
//! up as one that nobody expects.

use crate::frames::CONTINUATION;
use crate::frames::DATA;
use crate::frames::END_HEADERS;
use crate::frames::END_STREAM;
use crate::frames::Field;
use crate::frames::Frames;
use crate::frames::HEADERS;
use crate::frames::Outcome;
use crate::frames::PRIORITY;
use crate::frames::block;
use crate::frames::frame;
use crate::frames::request;
use crate::lab::Lab;
use crate::strict::Answers;
use crate::strict::Forwarded;
use crate::strict::Strict;

/// What is sent, where `F` stands for the usual header fields and `C` for the wish to close; and the requests that come
/// of it, by their line and body. None means that it is refused.
type Case = (&'static str, &'static [(&'static str, &'static str)]);

const HTTP1: &[Case] = &[
    // The request line.
    ("GET /\r\n\r\n", &[]),
    ("GET / HTTP/0.9\r\nFC\r\n", &[]),
    ("GET / HTTP/1.2\r\nFC\r\n", &[]),
    ("GET / HTTP/2.0\r\nFC\r\n", &[]),
    ("GET / HTTP/11\r\nFC\r\n", &[]),
    ("GET / x HTTP/1.1\r\nFC\r\n", &[]),
    ("GET  / HTTP/1.1\r\nFC\r\n", &[]),
    ("GET\t/ HTTP/1.1\r\nFC\r\n", &[]),
    ("GET / HTTP/1.1 \r\nFC\r\n", &[]),
    (" GET / HTTP/1.1\r\nFC\r\n", &[]),
    ("GE(T / HTTP/1.1\r\nFC\r\n", &[]),
    ("GET /a\0b HTTP/1.1\r\nFC\r\n", &[]),
    ("GET /a\rb HTTP/1.1\r\nFC\r\n", &[]),
    ("GET a HTTP/1.1\r\nFC\r\n", &[]),
    ("GET localhost:443 HTTP/1.1\r\nFC\r\n", &[]),
    ("OPTIONS * HTTP/1.1\r\nFC\r\n", &[("OPTIONS *", "")]),
    ("GET * HTTP/1.1\r\nFC\r\n", &[]),
    ("CONNECT localhost:80 HTTP/1.1\r\nFC\r\n", &[]),
    ("TRACE / HTTP/1.1\r\nFC\r\n", &[]),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[]),
    ("GET /x#y HTTP/1.1\r\nFC\r\n", &[("GET /x", "")]),
    ("\r\n\r\nGET /empty-lines HTTP/1.1\r\nFC\r\n", &[("GET /empty-lines", "")]),
    ("GET /bare HTTP/1.1\nFC\r\n", &[("GET /bare", "")]),
    // Whose it is.
    ("GET / HTTP/1.1\r\nx-agent-id: a\r\nC\r\n", &[]),
    ("GET / HTTP/1.1\r\nFhost: localhost\r\nC\r\n", &[]),
    ("GET / HTTP/1.1\r\nFHost : localhost\r\nC\r\n", &[]),
    ("GET http://localhost/ HTTP/1.1\r\nFhost: other\r\nC\r\n", &[]),
    ("GET http://u@localhost/ HTTP/1.1\r\nFC\r\n", &[]),
    ("GET http://localhost/abs HTTP/1.1\r\nhost: other\r\nx-agent-id: a\r\nC\r\n", &[("GET /abs", "")]),
    ("GET http://localhost?q HTTP/1.1\r\nFC\r\n", &[("GET /?q", "")]),
    // Fields.
    ("GET / HTTP/1.1\r\nF x: 1\r\nC\r\n", &[]),
    ("GET / HTTP/1.1\r\nFx\r\nC\r\n", &[]),
    ("GET / HTTP/1.1\r\nFx: a\0b\r\nC\r\n", &[]),
    ("GET / HTTP/1.1\r\nFx: a\r\n\tb\r\nC\r\n", &[]),
    ("GET / HTTP/1.1\r\nFx: a\rb: c\r\nC\r\n", &[]),
    ("GET / HTTP/1.1\r\nFx\u{e9}: 1\r\nC\r\n", &[]),
    ("GET /tab HTTP/1.1\r\nFx:\t1\t\r\nC\r\n", &[("GET /tab", "")]),
    // Lengths.
    ("GET / HTTP/1.1\r\nFcontent-length: 1 \r\n2\r\nC\r\n", &[]),
    ("POST / HTTP/1.1\r\nFcontent-length: 1\r\ncontent-length: 2\r\nC\r\nab", &[]),
    ("POST / HTTP/1.1\r\nFcontent-length: 1,1\r\nC\r\na", &[]),
    ("POST / HTTP/1.1\r\nFcontent-length: \r\nC\r\na", &[]),
    ("POST / HTTP/1.1\r\nFcontent-length: 18446744073709551616\r\nC\r\na", &[]),
    ("POST /zeros HTTP/1.1\r\nFcontent-length: 0001\r\nC\r\na", &[("POST /zeros", "a")]),
    ("POST /same HTTP/1.1\r\nFcontent-length: 1\r\ncontent-length: 1\r\nC\r\na", &[("POST /same", "a")]),
    (
        "GET /inner HTTP/1.1\r\nFcontent-length: 29\r\nC\r\nGET /smuggled HTTP/1.1\r\nx: y\r\n",
        &[("GET /inner", "GET /smuggled HTTP/1.1\r\nx: y\r")],
    ),
    ("GET /none HTTP/1.1\r\nF\r\nGET /next HTTP/1.1\r\nFC\r\n", &[("GET /none", ""), ("GET /next", "")]),
    // Both, and chunks.
    ("POST / HTTP/1.0\r\nFtransfer-encoding: chunked\r\nC\r\n0\r\n\r\n", &[]),
    ("POST / HTTP/1.1\r\nFtransfer-encoding: xchunked\r\nC\r\n0\r\n\r\n", &[]),
    ("POST / HTTP/1.1\r\nFtransfer-encoding: chunked;a=b\r\nC\r\n0\r\n\r\n", &[]),
    ("POST / HTTP/1.1\r\nFtransfer-encoding: \"chunked\"\r\nC\r\n0\r\n\r\n", &[]),
    ("POST / HTTP/1.1\r\nFtransfer-encoding:\r\n chunked\r\nC\r\n0\r\n\r\n", &[]),
    (
        "POST /both HTTP/1.1\r\nFcontent-length: 4\r\ntransfer-encoding: chunked\r\nC\r\n5\r\nhello\r\n0\r\n\r\n",
        &[("POST /both", "hello")],
    ),
    ("POST / HTTP/1.1\r\nFtransfer-encoding: chunked\r\nC\r\n+5\r\nhello\r\n0\r\n\r\n", &[]),
    ("POST / HTTP/1.1\r\nFtransfer-encoding: chunked\r\nC\r\n5 5\r\nhello\r\n0\r\n\r\n", &[]),
    ("POST / HTTP/1.1\r\nFtransfer-encoding: chunked\r\nC\r\n5\r\nhello0\r\n\r\n", &[]),
    ("POST / HTTP/1.1\r\nFtransfer-encoding: chunked\r\nC\r\n5\r\nhello\n0\r\n\r\n", &[]),
    ("POST / HTTP/1.1\r\nFtransfer-encoding: chunked\r\nC\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", &[]),
    // CVE-2025-55315: an extension that ends for one reader and goes on for another.
    ("POST / HTTP/1.1\r\nFtransfer-encoding: chunked\r\nC\r\n2;\nxx\r\n5\r\n0\r\n\r\n", &[]),
    ("POST / HTTP/1.1\r\nFtransfer-encoding: chunked\r\nC\r\n2;\rxx\r\nab\r\n0\r\n\r\n", &[]),
    ("POST / HTTP/1.1\r\nFtransfer-encoding: chunked\r\nC\r\n2\r\nab\r\n0;\n\r\n", &[]),
    (
        "POST /ext HTTP/1.1\r\nFtransfer-encoding: chunked\r\nC\r\n2;a=\"b;c\";d\r\nab\r\n0;e\r\n\r\n",
        &[("POST /ext", "ab")],
    ),
    // One after the other on one connection.
    (
        "POST /1 HTTP/1.1\r\nFcontent-length: 2\r\n\r\nabPOST /2 HTTP/1.1\r\nFtransfer-encoding: chunked\r\n\r\n\
         1\r\nc\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nFC\r\n",
        &[("POST /1", "ab"), ("POST /2", "c"), ("GET /3", "")],
    ),
    (
        "GET /old HTTP/1.0\r\nFconnection: keep-alive\r\n\r\nGET /old-2 HTTP/1.0\r\nF\r\nGET /never HTTP/1.0\r\nF\r\n",
        &[("GET /old", ""), ("GET /old-2", "")],
    ),
    ("GET /last HTTP/1.1\r\nFC\r\nGET /never HTTP/1.1\r\nF\r\n", &[("GET /last", "")]),
    // What ends at the gate.
    (
        "POST /h2c HTTP/1.1\r\nFconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\
         content-length: 2\r\n\r\nabGET /after HTTP/1.1\r\nFC\r\n",
        &[("POST /h2c", "ab"), ("GET /after", "")],
    ),
    (
        "GET /named HTTP/1.1\r\nFconnection: close, x-agent-id, host, content-length, x-request-id\r\n\
         content-length: 2\r\n\r\nab",
        &[("GET /named", "ab")],
    ),
    (
        "POST /expect HTTP/1.1\r\nFexpect: 100-continue\r\ncontent-length: 2\r\nC\r\nab",
        &[("POST /expect", "ab")],
    ),
    (
        "POST /expect-x HTTP/1.1\r\nFexpect: the best\r\ncontent-length: 2\r\nC\r\nab",
        &[("POST /expect-x", "ab")],
    ),
];

fn lines(seen: &[Forwarded]) -> Vec<(&str, &str)> {
    seen.iter().map(|forwarded| (forwarded.line.as_str(), forwarded.body.as_str())).collect()
}

/// What every request that arrives has, however it was written.
#[track_caller]
fn assert_clean(forwarded: &Forwarded, case: &str) {
    assert_eq!(forwarded.all("host"), ["localhost"], "{case:?}");
    assert_eq!(forwarded.all("x-agent-id"), ["a"], "{case:?}");
    assert_eq!(forwarded.all("x-request-id").len(), 1, "{case:?}");
    for gone in ["connection", "upgrade", "http2-settings", "expect", "keep-alive"] {
        assert!(forwarded.all(gone).is_empty(), "{gone}: {case:?}");
    }
}

/// Seen failing, each for its own cases, where `Host` may come twice, where `Connection` may name away the claim, where
/// `Expect` passes, and where a target without a path is taken for a host.
#[tokio::test]
async fn over_http1() {
    let upstream = Strict::start(Answers::new()).await;
    let lab = Lab::plan().on_one_thread().routes(&upstream.route()).start().await;
    let client = lab.client(&lab.root.agent("a"));
    for (sent, expected) in HTTP1 {
        let text = sent.replace("FC", "F\u{1}").replace('F', "host: localhost\r\nx-agent-id: a\r\n");
        let text = text.replace("\nC\r", "\n\u{1}\r").replace('\u{1}', "connection: close\r\n");
        // A connection that is closed without a word is a refusal as well.
        let answer = client.raw(text.as_bytes()).await.unwrap_or_default();
        let seen = upstream.take();
        assert_eq!(lines(&seen), *expected, "{sent:?}: {answer}");
        seen.iter().for_each(|forwarded| assert_clean(forwarded, sent));
        let answers = answer.matches("HTTP/1.1 200").count() + answer.matches("HTTP/1.0 200").count();
        assert_eq!(answers, expected.len(), "{sent:?}: {answer}");
        if expected.is_empty() {
            // 501: a method that no reverse proxy serves.
            let status = answer.get(9..12);
            assert!(status.is_none_or(|s| s.starts_with('4') || s == "501"), "{sent:?}: {answer}");
        }
    }
}

/// Trailers carry no framing, no routing and nobody's identity (RFC 9110, section 6.5.1).
#[tokio::test]
async fn with_trailers_that_say_nothing_of_the_message() {
    let upstream = Strict::start(Answers::new()).await;
    let lab = Lab::plan().on_one_thread().routes(&upstream.route()).start().await;
    let client = lab.client(&lab.root.agent("a"));
    let forbidden = [
        "content-length",
        "transfer-encoding",
        "host",
        "connection",
        "x-agent-id",
        "x_agent_id",
        "authorization",
        "x-forwarded-client-cert",
        "x-portcullis-principal",
        "content-type",
        "te",
        "trailer",
        "upgrade",
    ];
    let mut text = String::from(
        "POST /t HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nconnection: close\r\nte: trailers\r\n\
         transfer-encoding: chunked\r\ntrailer: x-sum",
    );
    forbidden.iter().for_each(|name| text = format!("{text}, {name}"));
    text += "\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n";
    forbidden.iter().for_each(|name| text = format!("{text}{name}: 1\r\n"));
    assert!(client.raw(format!("{text}\r\n").as_bytes()).await.unwrap().starts_with("HTTP/1.1 200"));
    let seen = upstream.take();
    assert_eq!(lines(&seen), [("POST /t", "a")]);
    assert_eq!(seen[0].trailers, [("x-sum".to_owned(), "1".to_owned())]);
    // A trailer that cannot be read refuses the whole.
    let bad = text.replace("x-sum: 1", "x-sum: 1\0");
    client.raw(format!("{bad}\r\n").as_bytes()).await.unwrap_or_default();
    assert!(upstream.take().is_empty());
}

/// Fields that are added to those of a `POST /`, or, with a colon in front, take their place; what DATA it sends; and
/// the request that comes of it, if any.
type Streamed = (&'static [Field<'static>], &'static str, Option<(&'static str, &'static str)>);

const HTTP2: &[Streamed] = &[
    (&[], "ab", Some(("POST /", "ab"))),
    (&[("content-length", "2")], "ab", Some(("POST /", "ab"))),
    (&[("content-length", "1")], "ab", None),
    (&[("content-length", "3")], "ab", None),
    (&[("content-length", "2"), ("content-length", "3")], "ab", None),
    (&[("content-length", "+2")], "ab", None),
    (&[("content-length", "2, 2")], "ab", None),
    (&[("content-length", "18446744073709551618")], "ab", None),
    (&[("transfer-encoding", "chunked")], "2\r\nab\r\n0\r\n\r\n", None),
    (&[("connection", "close")], "", None),
    (&[("keep-alive", "1")], "", None),
    (&[("proxy-connection", "keep-alive")], "", None),
    (&[("upgrade", "h2c")], "", None),
    (&[("te", "gzip")], "", None),
    (&[("te", "trailers")], "", Some(("POST /", ""))),
    (&[("X-Upper", "1")], "", None),
    (&[("x y", "1")], "", None),
    (&[("x\r\ny", "1")], "", None),
    (&[("x:y", "1")], "", None),
    (&[("", "1")], "", None),
    (&[("x", "a\r\nb: c")], "", None),
    (&[("x", "a\nb")], "", None),
    (&[("x", "a\0b")], "", None),
    (&[("x", "a\rb")], "", None),
    (&[(":method", "GET"), (":method", "POST")], "", None),
    (&[(":path", "/"), (":path", "/x")], "", None),
    (&[(":authority", "localhost"), (":authority", "localhost")], "", None),
    (&[(":scheme", "https"), (":scheme", "https")], "", None),
    (&[("x-first", "1"), (":path", "/x")], "", None),
    (&[(":unknown", "1")], "", None),
    (&[(":status", "200")], "", None),
    (&[(":path", "")], "", None),
    (&[(":path", "x")], "", None),
    (&[(":path", "/a b")], "", None),
    (&[(":path", "/ HTTP/1.1\r\nhost: x\r\n\r\nGET /smuggled")], "", None),
    (&[(":path", "/a\0b")], "", None),
    (&[(":path", "*")], "", None),
    (&[(":path", "https://localhost/x")], "", None),
    (&[(":method", "")], "", None),
    (&[(":method", "GET /smuggled HTTP/1.1\r\nx:")], "", None),
    (&[(":method", "CONNECT")], "", None),
    (&[(":method", "TRACE")], "", None),
    (&[(":authority", "local host")], "", None),
    (&[(":authority", "u@localhost")], "", None),
    (&[(":authority", "localhost\r\nx: y")], "", None),
    (&[("host", "localhost")], "", Some(("POST /", ""))),
    // Two that differ are one name of the request, and the one that the gate goes by.
    (&[("host", "other")], "", Some(("POST /", ""))),
    (&[("host", "localhost"), ("host", "other")], "", None),
    (&[("expect", "100-continue")], "ab", Some(("POST /", "ab"))),
    (&[("http2-settings", "AAMAAABk")], "", Some(("POST /", ""))),
];

/// Seen failing, each for its own cases, where `Host` may come twice, and where user information passes.
#[tokio::test]
async fn over_http2() {
    let upstream = Strict::start(Answers::new()).await;
    let lab = Lab::plan().on_one_thread().routes(&upstream.route()).start().await;
    let client = lab.client(&lab.root.agent("a"));
    for (added, data, expected) in HTTP2 {
        let mut fields = request("POST", "/");
        fields.retain(|(name, _)| !name.starts_with(':') || added.iter().all(|(other, _)| other != name));
        let (pseudo, rest): (Vec<_>, Vec<_>) = added.iter().partition(|(name, _)| name.starts_with(':'));
        // What stands behind a regular field stays there.
        let behind = added.first().is_some_and(|(name, _)| !name.starts_with(':'));
        if behind {
            fields.extend_from_slice(added);
        } else {
            fields.splice(0..0, pseudo);
            fields.extend(rest);
        }
        let mut connection = Frames::dial(&client, &[]).await;
        let (end, mut sent) = (u8::from(data.is_empty()), block(&fields));
        sent = frame(HEADERS, END_HEADERS | end, 1, &sent);
        if !data.is_empty() {
            sent.extend(frame(DATA, END_STREAM, 1, data.as_bytes()));
        }
        connection.send(&sent).await.unwrap();
        let outcome = connection.outcome(1).await;
        let seen = upstream.take();
        assert_eq!(lines(&seen), expected.iter().copied().collect::<Vec<_>>(), "{added:?}: {outcome:?}");
        seen.iter().for_each(|forwarded| {
            let mut forwarded = forwarded.clone();
            forwarded.headers.retain(|(name, _)| name != "http2-settings");
            assert_clean(&forwarded, added.first().map_or("", |field| field.0));
        });
        let answered = matches!(outcome, Outcome::Answered(200, _));
        assert_eq!(answered, expected.is_some(), "{added:?}: {outcome:?}");
    }
}

/// Frames that are not where they belong end the connection, or are ignored; no request comes of them.
#[tokio::test]
async fn of_frames_out_of_order() {
    let upstream = Strict::start(Answers::new()).await;
    let lab = Lab::plan().on_one_thread().routes(&upstream.route()).start().await;
    let client = lab.client(&lab.root.agent("a"));
    let fields = block(&request("GET", "/"));
    let (first, second) = fields.split_at(10);
    let whole = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields);
    let begun = frame(HEADERS, END_STREAM, 1, first);
    for (what, sent) in [
        ("DATA on a stream that is not open", frame(DATA, 0, 1, b"x")),
        ("a header on stream 0", whole(0)),
        ("a header on the server's stream", whole(2)),
        (
            "a header that goes on elsewhere",
            [begun.clone(), frame(CONTINUATION, END_HEADERS, 3, second)].concat(),
        ),
        ("a frame within a header", [begun.clone(), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])].concat()),
        ("DATA after the end", [begun, frame(DATA, END_STREAM, 1, b"x")].concat()),
        ("a header that goes on without a beginning", frame(CONTINUATION, END_HEADERS, 1, &fields)),
        (
            "a header that is padded beyond its end",
            frame(HEADERS, END_HEADERS | END_STREAM | 8, 1, &[255, 0]),
        ),
        (
            "a header block that is torn",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields[..fields.len() - 1]),
        ),
        ("an index that is not there", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0x7f])),
        ("a frame that is too large", frame(DATA, 0, 1, &vec![0; 20_000])),
    ] {
        let mut connection = Frames::dial(&client, &[]).await;
        connection.send(&sent).await.unwrap();
        assert!(connection.is_cut().await, "{what}");
        assert_eq!(upstream.take(), [], "{what}");
    }
    // PRIORITY is ignored, even on a stream that depends on itself or never was (RFC 9113, section 5.3.2).
    let mut connection = Frames::dial(&client, &[]).await;
    let junk =
        [frame(PRIORITY, 0, 5, &[0, 0, 0, 1, 255]), frame(200, 255, 0, b"who knows"), whole(7)].concat();
    connection.send(&junk).await.unwrap();
    assert_eq!(connection.outcome(7).await, Outcome::Answered(200, "/".into()));
}
