//! The plain listener: `/metrics`, `/healthz`, `/readyz`. Nothing on it changes anything.

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use super::Metrics;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it rests when it cannot accept.
const REST: Duration = Duration::from_millis(100);
/// More than these wait in the kernel: none of them may take the descriptors that others need.
const CONNECTIONS: usize = 32;

/// What the plain listener asks of the process.
pub trait Health {
    /// Brings gauges that follow other state up to date, before a scrape.
    fn refresh(&self, metrics: &Metrics);
    /// Whether traffic should come here; the error says why not.
    fn ready(&self) -> Result<(), String>;
    /// What an operator should know of a process that is ready all the same: limits that keep clients waiting.
    fn warnings(&self) -> Vec<String>;
    /// Logs, now and then, that the plain listener cannot accept a connection.
    fn cannot_accept(&self, error: &io::Error);
}

/// Serves the plain listener until it is dropped. Runs on a local runtime.
pub async fn serve(listener: TcpListener, metrics: Metrics, health: Rc<dyn Health>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // It is never closed.
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                health.cannot_accept(&error);
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let (metrics, health) = (metrics.clone(), Rc::clone(&health));
        spawn_local(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(&request, &metrics, health.as_ref());
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            // A scraper that breaks off is its own affair.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, health: &dyn Health) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
        "/metrics" => {
            health.refresh(metrics);
            text(StatusCode::OK, metrics.render())
        }
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match health.ready() {
            Ok(()) => {
                let warnings = health.warnings().into_iter().map(|warning| format!("warning: {warning}\n"));
                text(StatusCode::OK, format!("ready\n{}", warnings.collect::<String>()))
            }
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
