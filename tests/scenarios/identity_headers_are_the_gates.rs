//! Upstreams learn who a client is from the gate alone: whatever a client says about that never arrives.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

use crate::lab::Lab;
use crate::lab::within;
use crate::pki::sha256;
use crate::upstream::End;

/// Names under which some server or other looks for a client's identity, or for what it asked.
const NAMES: [&str; 40] = [
    "Client-Cert",
    "Client-Cert-Chain",
    "Forwarded",
    "Remote-User",
    "SSL-Cert",
    "SSL-Client-Cert",
    "SSL-Client-S-DN",
    "SSL-Client-Verify",
    "True-Client-IP",
    "X-Amzn-Mtls-Clientcert",
    "X-Amzn-Mtls-Clientcert-Serial-Number",
    "X-ARR-ClientCert",
    "X-Auth-Request-User",
    "X-Client-Cert",
    "X-Client-IP",
    "X-Client-DN",
    "X-Client-Verify",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-User",
    "X-Goog-Authenticated-User-Email",
    "X-Original-URL",
    "X-Remote-User",
    "X-Rewrite-URL",
    "X-SSL-Cert",
    "X-Forwarded-Proto",
    "X-Forwarded-Tls-Client-Cert",
    "X-Forwarded-Tls-Client-Cert-Info",
    "X-Portcullis-Agent",
    "X-Portcullis-Principal",
    "X-Portcullis-Verified",
    "X-Real-IP",
    "X-Request-Id",
    "X-Spiffe-Id",
    "X-SSL-Client-Cert",
    "X-SSL-Client-DN",
    "X-SSL-Client-Verify",
];

/// Names that frame a request, or that CGI takes for something else: they pass in no spelling but their own.
const FRAMING: [&str; 9] = [
    "Content_Length",
    "Content.Type",
    "Content+Encoding",
    "Transfer_Encoding",
    "Transfer~Encoding",
    "Keep_Alive",
    "Proxy",
    "Proxy_Authorization",
    "Proxy.Connection",
];

/// Each name as it is, in other cases, and with other bytes for its dashes, as CGI and its heirs read them.
fn spellings() -> Vec<String> {
    let bytes = "!#$%&'*+.^_`|~";
    let spelled = NAMES.iter().zip(bytes.chars().cycle()).flat_map(|(name, byte)| {
        let (mixed, other) = (name.replacen('-', "_", 1), name.replace('-', &byte.to_string()));
        [(*name).to_owned(), name.to_uppercase(), name.replace('-', "_"), mixed, other]
    });
    // Of the claim's own header, every spelling but the one that is bound.
    let claims = bytes.chars().map(|byte| format!("x{byte}agent{byte}id"));
    let mixed = ["X_Agent_Id", "x-agent_id", "X_AGENT-ID", "x.agent-id"].map(str::to_owned);
    spelled.chain(claims).chain(mixed).chain(FRAMING.map(str::to_owned)).collect()
}

fn assert_clean(headers: &HeaderMap) {
    for (name, value) in headers {
        assert!(!value.as_bytes().starts_with(b"forged"), "{name}: {value:?}");
    }
}

/// Seen failing without `scrub`, and with one that takes underscores alone for dashes.
#[tokio::test]
async fn over_http1() {
    // The limit is on header fields, and these are many.
    let lab = Lab::plan().gate("limits = { headers = 600 }").start().await;
    let client = lab.client(&lab.root.agent("a"));
    let mut request = String::from("GET /spoof HTTP/1.1\r\nHost: localhost\r\nX-Agent-Id: a\r\n");
    for name in spellings() {
        request += &format!("{name}: forged\r\n{name}: forged again\r\n");
    }
    request += "Connection: close, x-portcullis-principal, client-cert\r\nConnection: X-Request-Id\r\n\r\n";
    let answer = client.raw(request.as_bytes()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = lab.upstream.only("/spoof");
    assert_clean(&seen.headers);
    assert_eq!(seen.header("x-portcullis-principal"), Some("spiffe://lab.test/agent/a"));
    assert!(seen.header("client-cert").is_some() && seen.header("x-request-id").is_some());
}

#[tokio::test]
async fn over_http2() {
    let lab = Lab::plan().gate("limits = { headers = 600 }").start().await;
    let mut connection = lab.client(&lab.root.agent("a")).h2().await;
    let mut request = connection.request("GET", "/spoof");
    for name in spellings() {
        request = request.header(name.to_lowercase(), "forged").header(name.to_lowercase(), "forged again");
    }
    connection.exchange(request.body(()).unwrap()).await.unwrap().assert_ok();
    let seen = lab.upstream.only("/spoof");
    assert_clean(&seen.headers);
    assert_eq!(seen.header("x-portcullis-principal"), Some("spiffe://lab.test/agent/a"));
}

/// What a client may not say in trailers: nothing in them was bound, so that the claim's own header is among them.
fn forged_trailers() -> Vec<String> {
    let forged = spellings().into_iter().map(|name| name.to_lowercase());
    let mut forged: Vec<String> = forged.chain(["x-agent-id".to_owned()]).collect();
    forged.sort_unstable();
    forged.dedup();
    forged
}

/// Seen failing with trailers that pass as they are, with the header of the claim in them, and with underscores alone taken
/// for dashes.
#[tokio::test]
async fn in_trailers_too() {
    let routes = "[[route]]\nupstream = [\"UPSTREAM\"]\n[[route]]\npath = \"/open\"\nupstream = [\"UPSTREAM\"]\ndemand = \"none\"";
    let lab = Lab::plan().routes(routes).gate("limits = { headers = 600 }").start().await;
    let cert = lab.root.agent("a");
    let nobody = lab.client_of(None, &[&rustls::version::TLS13]);
    for (client, path) in [(lab.client(&cert), "/one"), (nobody, "/open/one")] {
        // As many trailers as hyper takes at once.
        for (part, forged) in forged_trailers().chunks(20).enumerate() {
            let named = forged.join(", ");
            let lines: String = forged.iter().map(|name| format!("{name}: forged\r\n")).collect();
            let path = format!("{path}/{part}");
            let request = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nconnection: close\r\n\
                 transfer-encoding: chunked\r\ntrailer: x-checksum, {named}\r\n\r\n\
                 5\r\nhello\r\n0\r\nx-checksum: 1\r\n{lines}\r\n"
            );
            let answer = client.raw(request.as_bytes()).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let seen = lab.upstream.only(&path);
            assert_eq!(
                (seen.body.as_slice(), seen.trailers.len()),
                (&b"hello"[..], 1),
                "{:?}",
                seen.trailers
            );
            assert_eq!(seen.trailers["x-checksum"], "1");
        }
        let mut connection = client.h2().await;
        // HTTP/2 knows no fields of one hop.
        let forged = forged_trailers();
        let forged: Vec<_> = forged
            .iter()
            .filter(|name| !["transfer-encoding", "keep-alive"].contains(&name.as_str()))
            .collect();
        for (part, forged) in forged.chunks(40).enumerate() {
            let path = format!("{path}/h2/{part}");
            let named: String = forged.iter().map(|name| format!(", {name}")).collect();
            let request = connection.request("POST", &path).header("trailer", format!("x-checksum{named}"));
            let (answer, mut body) = connection.send(request.body(()).unwrap(), false).await.unwrap();
            body.send_data(Bytes::from("hello"), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", HeaderValue::from_static("1"));
            for name in forged {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                trailers.insert(name, HeaderValue::from_static("forged"));
            }
            body.send_trailers(trailers).unwrap();
            assert_eq!(within(answer).await.unwrap().status(), 200);
            let seen = lab.upstream.until(&path, |seen| seen.end == End::Whole).await;
            assert_eq!(
                (seen.trailers.len(), &seen.trailers["x-checksum"]),
                (1, &HeaderValue::from_static("1"))
            );
        }
    }
}

#[tokio::test]
async fn what_the_gate_says_is_true() {
    let lab = Lab::start().await;
    let both = lab.root.leaf().uri("spiffe://lab.test/agent/a").dns("a.lab.test").dns("x.other.test");
    let both = both.claim("a").issue();
    lab.client(&both).get("/both").await.assert_ok();
    let seen = lab.upstream.only("/both");
    let hash = sha256(&both.chain[0]);
    let expected = format!(
        "Hash={hash};Subject=\"CN=leaf\";URI=spiffe://lab.test/agent/a;DNS=a.lab.test;DNS=x.other.test"
    );
    assert_eq!(seen.header("x-forwarded-client-cert"), Some(expected.as_str()));
    let certificate = seen.header("client-cert").unwrap();
    let encoded = certificate.strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).unwrap();
    assert_eq!(STANDARD.decode(encoded).unwrap(), both.chain[0].as_ref());
    assert_eq!(seen.header("x-portcullis-principal"), Some("spiffe://lab.test/agent/a"));
    assert_eq!(seen.header("x-agent-id"), Some("a"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    let id = seen.header("x-request-id").unwrap();
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");

    let dns = lab.root.leaf().dns("D.Lab.Test").claim("d").issue();
    lab.client(&dns).get("/dns").await.assert_ok();
    let seen = lab.upstream.only("/dns");
    assert_eq!(seen.header("x-portcullis-principal"), Some("d.lab.test"));
    assert!(seen.header("x-forwarded-client-cert").unwrap().ends_with(";DNS=d.lab.test"));
    assert_ne!(seen.header("x-request-id"), Some(id));
}

/// Who shows no certificate is said to be nobody. Seen failing with underscores alone taken for dashes.
#[tokio::test]
async fn without_a_certificate_nothing_is_said() {
    let routes = "[[route]]\nupstream = [\"UPSTREAM\"]\ndemand = \"none\"";
    let lab = Lab::plan().routes(routes).gate("limits = { headers = 600 }").start().await;
    let client = lab.client_of(None, &[&rustls::version::TLS13]);
    let mut connection = client.h2().await;
    let mut request = connection.request("GET", "/two").header("x-agent-id", "forged");
    let mut raw =
        String::from("GET /one HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-agent-id: forged\r\n");
    for name in spellings() {
        request = request.header(name.to_lowercase(), "forged");
        raw += &format!("{name}: forged\r\n");
    }
    connection.exchange(request.body(()).unwrap()).await.unwrap().assert_ok();
    let answer = client.raw(format!("{raw}\r\n").as_bytes()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for path in ["/one", "/two"] {
        let seen = lab.upstream.only(path);
        assert_clean(&seen.headers);
        for name in ["x-agent-id", "x-forwarded-client-cert", "client-cert", "x-portcullis-principal"] {
            assert_eq!(seen.header(name), None, "{name}");
        }
        assert!(seen.header("x-request-id").is_some());
    }
}

/// Seen failing with the first line of `Connection` alone, and with the first line of `TE`.
#[tokio::test]
async fn every_line_of_a_list_is_read() {
    let lab = Lab::start().await;
    let client = lab.client(&lab.root.agent("a"));
    for (lines, gone, kept) in [
        (
            "connection: close, x-first\r\nconnection: x-second\r\n",
            &["x-first", "x-second", "te"][..],
            &[][..],
        ),
        (
            "connection: x-second, te, close\r\nte: gzip\r\nte: trailers\r\n",
            &["x-second"],
            &["x-first", "te"],
        ),
        ("connection: close\r\nte: trailers\r\nte: gzip\r\n", &[], &["x-first", "x-second", "te"]),
        ("connection: close\r\nexpect: 100-continue\r\nexpect: other\r\n", &["expect"], &["x-first"]),
        ("connection: close\r\nkeep-alive: 1\r\nkeep-alive: 2\r\n", &["keep-alive"], &["x-first"]),
        ("connection: close\r\nupgrade: h2c\r\nupgrade: foo\r\n", &["upgrade"], &["x-first"]),
        ("connection: close\r\ncookie: a=1\r\ncookie: b=2\r\n", &[], &["cookie"]),
    ] {
        let before = lab.upstream.seen().len();
        let head = "GET / HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nx-first: 1\r\nx-second: 1\r\n";
        let answer = client.raw(format!("{head}{lines}\r\n").as_bytes()).await.unwrap();
        assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
        let seen = lab.upstream.seen().swap_remove(before);
        // None of them is there twice, either.
        gone.iter().for_each(|name| assert_eq!(seen.header(name), None, "{lines}"));
        kept.iter().for_each(|name| assert!(seen.header(name).is_some(), "{name}: {lines}"));
        assert!(seen.header("te").is_none_or(|te| te == "trailers") && seen.header("connection").is_none());
    }
    // Two lines of the claim's header claim two things, whichever comes first.
    for claims in ["x-agent-id: a\r\nx-agent-id: b\r\n", "x-agent-id: b\r\nx-agent-id: a\r\n"] {
        let request = format!("GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{claims}\r\n");
        let answer = client.raw(request.as_bytes()).await.unwrap();
        assert!(answer.contains("identity_ambiguous"), "{answer}");
    }
    let request = "GET / HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nconnection: close\r\n\
        transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n";
    assert!(client.raw(request.as_bytes()).await.unwrap().starts_with("HTTP/1.1 4"));
}

/// `Connection` may end a hop's own fields; what the gate vouches for, and what it has bound, it cannot take away.
/// Seen failing with every field that `Connection` names taken out.
#[tokio::test]
async fn nothing_that_was_bound_can_be_named_away() {
    let lab = Lab::start().await;
    let client = lab.client(&lab.root.agent("a"));
    let named = "close, host, x-agent-id, client-cert, x-forwarded-client-cert, x-portcullis-principal, x-request-id, \
        x-forwarded-for, content-length, x-own";
    let request = format!(
        "POST /named HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nx-own: 1\r\ncontent-length: 5\r\n\
        connection: {named}\r\n\r\nhello"
    );
    let answer = client.raw(request.as_bytes()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = lab.upstream.only("/named");
    for name in [
        "host",
        "x-agent-id",
        "client-cert",
        "x-forwarded-client-cert",
        "x-portcullis-principal",
        "x-request-id",
    ] {
        assert!(seen.header(name).is_some(), "{name}");
    }
    assert_eq!((seen.header("x-own"), seen.body.as_slice()), (None, &b"hello"[..]));
}
