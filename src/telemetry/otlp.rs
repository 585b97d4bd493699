//! Spans to an OpenTelemetry collector: OTLP over HTTP, binary (OTLP 1.x, section "OTLP/HTTP"), in batches.
//!
//! A batch that the collector does not take is lost and counted: a gate has better things to do than to keep it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::header::CONTENT_TYPE;
use http::header::HOST;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use opentelemetry_proto::tonic::trace::v1::ScopeSpans;
use opentelemetry_proto::tonic::trace::v1::Span as Message;
use opentelemetry_proto::tonic::trace::v1::Status;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Outcome;
use prometheus::IntCounter;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio::time::timeout_at;

use super::Span;

/// Spans of one batch.
const BATCH: usize = 512;
/// How long a span waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// For one batch, from the connection to the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends spans to `endpoint` until `drain` says so, and then those that are left; `lost` counts what it did not take.
/// Must run on a local runtime.
pub async fn export(
    mut spans: mpsc::Receiver<Span>,
    endpoint: String,
    lost: IntCounter,
    mut drain: watch::Receiver<bool>,
) {
    let mut failing = false;
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        let drained = tokio::select! {
            biased;
            count = gather(&mut spans, &mut batch) => count == 0,
            _ = drain.wait_for(|drain| *drain) => {
                spans.close();
                false
            }
        };
        if drained {
            return;
        }
        if batch.is_empty() {
            continue;
        }
        let count = batch.len() as u64;
        let sent = timeout(PATIENCE, send(&endpoint, batch)).await;
        let error = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in time".to_owned()),
        };
        lost.inc_by(error.as_ref().map_or(0, |_| count));
        if let Some(error) = error.as_ref().filter(|_| !failing) {
            tracing::warn!(endpoint, error, "the collector does not take spans: they are lost");
        }
        failing = error.is_some();
    }
}

/// Waits for a span, and for a while for more; says how many there are, none once there will be no more.
async fn gather(spans: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) -> usize {
    spans.recv_many(batch, BATCH).await;
    let deadline = Instant::now() + LINGER;
    while !batch.is_empty() && batch.len() < BATCH && !spans.is_closed() {
        let room = BATCH - batch.len();
        if !matches!(timeout_at(deadline, spans.recv_many(batch, room)).await, Ok(1..)) {
            break;
        }
    }
    batch.len()
}

async fn send(endpoint: &str, batch: Vec<Span>) -> io::Result<()> {
    let uri: Uri = endpoint.parse().map_err(io::Error::other)?;
    let authority = uri.authority().ok_or(io::ErrorKind::InvalidInput)?;
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = spawn_local(connection);
    let request = Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, authority.as_str())
        .header(CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(Bytes::from(request(batch).encode_to_vec())))
        .map_err(io::Error::other)?;
    let answered = sender.send_request(request).await.map_err(io::Error::other);
    connection.abort();
    match answered?.status() {
        StatusCode::OK => Ok(()),
        status => Err(io::Error::other(format!("it answered {status}"))),
    }
}

fn request(batch: Vec<Span>) -> ExportTraceServiceRequest {
    let service =
        [("service.name", "portcullis".to_owned()), ("service.version", env!("CARGO_PKG_VERSION").into())];
    let scope = InstrumentationScope { name: "portcullis".into(), ..InstrumentationScope::default() };
    let spans = ScopeSpans {
        scope: Some(scope),
        spans: batch.into_iter().map(message).collect(),
        ..ScopeSpans::default()
    };
    let resource = Resource { attributes: service.map(text).to_vec(), ..Resource::default() };
    let spans =
        ResourceSpans { resource: Some(resource), scope_spans: vec![spans], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![spans] }
}

fn message(span: Span) -> Message {
    let began = u64::try_from(span.began).unwrap_or(0).saturating_mul(1_000_000);
    let mut attributes: Vec<KeyValue> = span.attributes.into_iter().map(text).collect();
    attributes.extend(span.numbers.into_iter().map(number));
    // A client's mistake is no error of a server (HTTP semantic conventions, "Status"); no answer at all is.
    let code = if span.status == 0 || span.status >= 500 { Outcome::Error } else { Outcome::Unset };
    let parent = if span.parent == 0 { Vec::new() } else { span.parent.to_be_bytes().to_vec() };
    Message {
        trace_id: span.context.trace.to_be_bytes().to_vec(),
        span_id: span.context.span.to_be_bytes().to_vec(),
        parent_span_id: parent,
        // The lowest bit: sampled.
        flags: 1,
        name: format!("{} {}", span.method, span.route).trim_end().to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: began,
        end_time_unix_nano: began.saturating_add(span.nanos),
        attributes,
        status: Some(Status { code: code.into(), ..Status::default() }),
        ..Message::default()
    }
}

fn text((key, value): (&'static str, String)) -> KeyValue {
    attribute(key, Value::StringValue(value))
}

fn number((key, value): (&'static str, u64)) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &'static str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
