//! With `[trace]` each sampled request is a span at the collector, and its trace goes on to the upstream.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::lab::Lab;
use crate::lab::nobody;
use crate::lab::within;
use crate::upstream::full;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const ABOVE: &str = "b7ad6b7169203331";

/// A collector that hands on what it gets.
async fn collector() -> (SocketAddr, mpsc::Receiver<Span>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, spans) = mpsc::channel(100);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let sender = sender.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
                    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let batch = ExportTraceServiceRequest::decode(body).unwrap();
                    let scopes = batch.resource_spans.into_iter().flat_map(|all| all.scope_spans);
                    for span in scopes.flat_map(|scope| scope.spans) {
                        sender.send(span).await.unwrap();
                    }
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        }
    });
    (address, spans)
}

async fn lab(address: SocketAddr, sample: f64) -> Lab {
    let trace = format!("[trace]\nendpoint = \"http://{address}/v1/traces\"\nsample = {sample:?}");
    Lab::plan().on_one_thread().feeds(&trace).start().await
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// Seen failing with the client's `traceparent` passed on as it came.
#[tokio::test]
async fn those_that_the_client_wants_traced() {
    let (address, mut spans) = collector().await;
    let mut lab = lab(address, 0.0).await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    let mut get = async |path: &str, parent: &str, state: &str| {
        let request =
            connection.request("GET", path).header("traceparent", parent).header("tracestate", state);
        connection.exchange(request.body(full("")).unwrap()).await.unwrap().assert_ok();
    };
    get("/sampled", &format!("00-{TRACE}-{ABOVE}-01"), "a=1").await;
    get("/not-sampled", &format!("00-{TRACE}-{ABOVE}-00"), "a=1").await;
    get("/malformed", &format!("00-{TRACE}-{ABOVE}"), "a=1").await;
    get("/bad-state", &format!("00-{TRACE}-{ABOVE}-01"), "a").await;
    let span = within(spans.recv()).await.unwrap();
    assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, ABOVE));
    assert_eq!((span.name.as_str(), span.kind), ("GET /", 2));
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/"),
        ("url.path", "/sampled"),
        ("url.scheme", "https"),
        ("server.address", "localhost"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("enduser.id", "spiffe://lab.test/agent/a"),
        ("portcullis.ended", "whole"),
        ("error.type", ""),
    ] {
        assert_eq!(text(&span, key), value, "{key}");
    }
    // The upstream's parent is the gate's own span.
    let own = hex(&span.span_id);
    let sampled = lab.upstream.only("/sampled");
    assert_eq!(sampled.header("traceparent"), Some(format!("00-{TRACE}-{own}-01").as_str()));
    assert_eq!(sampled.header("tracestate"), Some("a=1"));
    let other = lab.upstream.only("/not-sampled");
    let parent = other.header("traceparent").unwrap();
    assert!(
        parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00") && !parent.contains(ABOVE)
    );
    let fresh = lab.upstream.only("/malformed");
    assert!(!fresh.header("traceparent").unwrap().contains(TRACE));
    assert_eq!(
        (fresh.header("tracestate"), lab.upstream.only("/bad-state").header("tracestate")),
        (None, None)
    );
    // What is left is exported at the end; nobody was asked about the rest.
    lab.stop().await;
    let last = within(spans.recv()).await.unwrap();
    assert_eq!(text(&last, "url.path"), "/bad-state");
    assert!(spans.try_recv().is_err());
}

/// Who shows no certificate decides nothing about traces, and writes into none. Seen failing with its context believed.
#[tokio::test]
async fn strangers_begin_anew() {
    let (address, mut spans) = collector().await;
    let trace = format!("[trace]\nendpoint = \"http://{address}/v1/traces\"\nsample = 0.0");
    let routes = "[[route]]\nupstream = [\"UPSTREAM\"]\ndemand = \"none\"";
    let mut lab = Lab::plan().on_one_thread().routes(routes).feeds(&trace).start().await;
    let mut connection = lab.client_of(None, &[&rustls::version::TLS13]).h1().await;
    let request = connection.request("GET", "/").header("traceparent", format!("00-{TRACE}-{ABOVE}-01"));
    let request = request.header("tracestate", "a=1").body(full("")).unwrap();
    connection.exchange(request).await.unwrap().assert_ok();
    let seen = lab.upstream.only("/");
    let parent = seen.header("traceparent").unwrap();
    assert!(!parent.contains(TRACE) && parent.ends_with("-00") && seen.header("tracestate").is_none());
    drop(connection);
    lab.stop().await;
    assert!(spans.try_recv().is_err());
}

#[tokio::test]
async fn those_that_begin_here() {
    let (address, mut spans) = collector().await;
    let lab = lab(address, 1.0).await;
    let a = lab.root.agent("a");
    lab.client(&a).h2().await.get("/").await.assert_ok();
    let begun = within(spans.recv()).await.unwrap();
    assert!(begun.parent_span_id.is_empty());
    assert_eq!(text(&begun, "network.protocol.version"), "2");
    let parent = format!("00-{}-{}-01", hex(&begun.trace_id), hex(&begun.span_id));
    assert_eq!(lab.upstream.only("/").header("traceparent"), Some(parent.as_str()));
    lab.client(&a.claiming(Some("b"))).get("/").await.assert_refused(403, "identity_mismatch");
    let refused = within(spans.recv()).await.unwrap();
    assert_eq!(
        (text(&refused, "error.type"), text(&refused, "http.response.status_code")),
        ("identity_mismatch".into(), "403".into())
    );
}

/// A collector that is not there costs spans, and no request.
#[tokio::test]
async fn unless_nobody_collects() {
    let (nobody, _held) = nobody();
    let lab = lab(nobody, 1.0).await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    connection.get("/").await.assert_ok();
    let counted = async {
        while !lab.plain("/metrics").await.contains("portcullis_spans_lost_total 1\n") {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    within(counted).await;
    connection.get("/").await.assert_ok();
}
