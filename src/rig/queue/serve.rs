//! The queue over HTTP/1.1: one call at a time, answered as Amazon does, or as a fault says.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::Call;
use super::Fault;
use super::PATH;
use super::Shared;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Serves whoever comes.
pub(super) async fn accept(listener: StdListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, Arc::clone(&shared)));
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let mut cut = shared.cut.subscribe();
    if shared.inner().half_open {
        // Open, and that is all.
        let _ = cut.changed().await;
        return drop(stream);
    }
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    tokio::select! {
        biased;
        _ = cut.changed() => {}
        // Whoever called sees what became of it.
        _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service) => {}
    }
}

/// The answer to one call. An error ends the connection.
async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> io::Result<Response<Body>> {
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    let action = target.and_then(|target| target.strip_prefix("AmazonSQS.")).unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let Some(call) = call(&action) else { return Ok(refusal(400, "UnknownOperationException")) };
    let Ok(input) = serde_json::from_slice::<Value>(&body) else {
        return Ok(refusal(400, "SerializationException"));
    };
    let fault = shared.inner().begin(call);
    match fault {
        Some(Fault::Delay(by)) => tokio::time::sleep(by).await,
        Some(Fault::Throttled) => return Ok(refusal(400, "ThrottlingException")),
        Some(Fault::Broken) => return Ok(refusal(500, "InternalFailure")),
        Some(Fault::Denied) => return Ok(refusal(400, "AccessDenied")),
        Some(Fault::Gone) => return Ok(refusal(400, "QueueDoesNotExist")),
        Some(Fault::Hang) => return std::future::pending().await,
        Some(Fault::Cut) => return Err(io::ErrorKind::ConnectionAborted.into()),
        _ => {}
    }
    let url = input["QueueUrl"].as_str();
    if call != Call::Url && !url.is_some_and(|url| url.ends_with(PATH)) {
        return Ok(refusal(400, "QueueDoesNotExist"));
    }
    let output = match (fault, call) {
        (Some(fault @ (Fault::Pretended | Fault::Stale)), _) => batch(&input, |_| fault == Fault::Pretended),
        (_, Call::Receive) => receive(&input, &shared).await,
        _ => shared.carry_out(call, &action, &input),
    };
    if call == Call::Delete {
        shared.inner().counts.deletes_done += 1;
    }
    if let Some(Fault::Late(by)) = fault {
        tokio::time::sleep(by).await;
    }
    match fault {
        Some(Fault::HangWhenDone) => std::future::pending().await,
        Some(Fault::CutWhenDone) => Err(io::ErrorKind::ConnectionAborted.into()),
        Some(Fault::Truncated) => Ok(truncated(&output)),
        _ => Ok(whole(200, &output)),
    }
}

fn call(action: &str) -> Option<Call> {
    Some(match action {
        "ReceiveMessage" => Call::Receive,
        "DeleteMessage" | "DeleteMessageBatch" => Call::Delete,
        "ChangeMessageVisibility" | "ChangeMessageVisibilityBatch" => Call::Extend,
        "GetQueueAttributes" => Call::Attributes,
        "SendMessage" | "SendMessageBatch" => Call::Send,
        "GetQueueUrl" => Call::Url,
        _ => return None,
    })
}

/// Waits for messages, as long as is asked for.
async fn receive(input: &Value, shared: &Shared) -> Value {
    let number = |name: &str, default| input[name].as_u64().unwrap_or(default);
    let most = usize::try_from(number("MaxNumberOfMessages", 1).min(10)).unwrap_or(1);
    let hide = Duration::from_secs(number("VisibilityTimeout", 30));
    let until = Instant::now() + Duration::from_secs(number("WaitTimeSeconds", 0));
    loop {
        // Before looking: what is sent between the look and the wait must end the wait.
        let mut news = std::pin::pin!(shared.news.notified());
        news.as_mut().enable();
        let (messages, again) = {
            let mut inner = shared.inner();
            let messages = inner.store.receive(most, hide);
            inner.counts.filled += usize::from(!messages.is_empty());
            (messages, inner.store.next_visible())
        };
        if !messages.is_empty() {
            return json!({ "Messages": messages });
        }
        if Instant::now() >= until {
            return json!({});
        }
        tokio::select! {
            () = news => {}
            () = sleep_until(again.map_or(until, |again| again.min(until)).into()) => {}
        }
    }
}

impl Shared {
    fn carry_out(&self, call: Call, action: &str, input: &Value) -> Value {
        let mut inner = self.inner();
        let store = &mut inner.store;
        let receipt = |entry: &Value| entry["ReceiptHandle"].as_str().unwrap_or_default().to_owned();
        match call {
            Call::Delete => batch(input, |entry| store.delete(&receipt(entry))),
            Call::Extend => {
                let hide =
                    |entry: &Value| Duration::from_secs(entry["VisibilityTimeout"].as_u64().unwrap_or(0));
                let output = batch(input, |entry| store.hide(&receipt(entry), hide(entry)));
                // What is hidden for no time can be received.
                self.news.notify_waiters();
                output
            }
            Call::Send => {
                let mut id = String::new();
                let mut push = |entry: &Value| {
                    id = store.push(entry["MessageBody"].as_str().unwrap_or_default().to_owned());
                    true
                };
                let mut output = batch(input, &mut push);
                self.news.notify_waiters();
                if action == "SendMessage" {
                    output = json!({ "MessageId": id });
                }
                output
            }
            Call::Attributes => {
                let (visible, hidden) = store.about();
                let mut attributes = json!({
                    "ApproximateNumberOfMessages": visible.to_string(),
                    "ApproximateNumberOfMessagesNotVisible": hidden.to_string(),
                });
                if let Some(most) = store.settings().max_receives {
                    let policy = json!({
                        "deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:dead", "maxReceiveCount": most,
                    });
                    attributes["RedrivePolicy"] = policy.to_string().into();
                }
                json!({ "Attributes": attributes })
            }
            Call::Url | Call::Receive => json!({ "QueueUrl": format!("http://localhost{PATH}") }),
        }
    }
}

/// Does a call's entries one by one, or the one that it is about.
fn batch(input: &Value, mut done: impl FnMut(&Value) -> bool) -> Value {
    let Some(entries) = input["Entries"].as_array() else {
        done(input);
        return json!({});
    };
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for entry in entries {
        let id = &entry["Id"];
        match done(entry) {
            true => successful.push(json!({ "Id": id })),
            false => failed.push(json!({ "Id": id, "SenderFault": true, "Code": "ReceiptHandleIsInvalid" })),
        }
    }
    json!({ "Successful": successful, "Failed": failed })
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    whole(
        status,
        &json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": format!("the queue says {code}") }),
    )
}

fn whole(status: u16, output: &Value) -> Response<Body> {
    let body = Full::from(output.to_string()).map_err(|never| match never {});
    respond(status, body.boxed_unsync())
}

/// Half of an answer, and the end of the connection where the rest should be.
fn truncated(output: &Value) -> Response<Body> {
    let text = Bytes::from(output.to_string());
    let half = text.slice(..text.len() / 2);
    let parts = [Ok(Frame::data(half)), Err(io::ErrorKind::ConnectionAborted.into())];
    let mut response = respond(200, StreamBody::new(stream::iter(parts)).boxed_unsync());
    response.headers_mut().insert(CONTENT_LENGTH, text.len().into());
    response
}

fn respond(status: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"));
    response
}
