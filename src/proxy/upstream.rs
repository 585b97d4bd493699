//! Upstreams: connections kept by each thread for itself, and one request sent over one of them.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::Request;
use http::Response;
use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::task::spawn_local;
use tokio::time::Instant;
use tokio::time::timeout;

use super::Timeouts;
use super::body::RequestBody;
use super::body::Sent;
use super::socket::Tcp;
use crate::session::Guard;

/// Unused connections kept to one endpoint, by one thread.
const MAX_IDLE: usize = 256;
/// A kept connection unused for longer may be closing at the other end right now: its request is kept for a retry.
const DOUBTFUL: Duration = Duration::from_secs(1);

/// `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    authority: String,
}

impl Endpoint {
    /// Reads an endpoint; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|e| format!("`{text}`: {e}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("`{text}`: an upstream is `http://HOST:PORT`"));
        }
        let authority = uri.authority().ok_or_else(|| format!("`{text}`: no host"))?;
        if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(format!("`{text}`: an upstream is `http://HOST:PORT`, without a path"));
        }
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self { authority: format!("{}:{port}", authority.host()) })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It refused the connection.
    #[error("{0}: cannot connect")]
    Connect(String, #[source] std::io::Error),
    /// It did not take the connection in time.
    #[error("{0}: no connection in time")]
    ConnectTimeout(String),
    /// It did not answer in time.
    #[error("{0}: no answer in time")]
    AnswerTimeout(String),
    /// It switched protocols, which nobody had asked for.
    #[error("{0}: an upgrade that nobody asked for")]
    Unasked(String),
    /// It broke off.
    #[error("{0}: broke off")]
    Broken(String, #[source] hyper::Error),
}

/// A connection in use. Given back, it serves another request; dropped, it is torn down, and with it whatever of the
/// request it still held.
pub(super) struct Lease {
    kept: Option<Kept>,
    pool: Rc<Pool>,
    /// Whether the request that it is in use for has been sent whole; absent if it has no body.
    sent: Option<Arc<Sent>>,
}

struct Kept {
    sender: SendRequest<RequestBody>,
    task: AbortHandle,
    unused_since: Instant,
}

impl Lease {
    fn new(kept: Kept, pool: Rc<Pool>) -> Self {
        Self { kept: Some(kept), pool, sent: None }
    }

    /// Where it leads, for the log.
    pub(super) fn endpoint(&self) -> String {
        self.pool.endpoint.to_string()
    }

    /// Whether its request has not been sent whole yet.
    pub(super) fn is_sending(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| !sent.is_whole())
    }

    /// The answer is through. Where it came before the end of its request, the rest still belongs to the session: an
    /// upstream that reads no more would otherwise hold on to both, and nothing would wake them for the kill.
    pub(super) fn answered(mut self, guard: Option<Guard>) {
        let Some(guard) = guard.filter(|_| self.is_sending()) else {
            return self.give_back();
        };
        spawn_local(async move {
            let free = async {
                if let Some(kept) = &mut self.kept {
                    // Ready for another request, or never again: the pool finds out which.
                    let _ = kept.sender.ready().await;
                }
            };
            let limit = self.pool.timeouts.body_idle;
            tokio::select! {
                biased;
                _ = guard.killed() => {}
                () = async { drop(timeout(limit, free).await) } => {}
            }
            // Still busy, it is torn down.
            match self.kept.as_ref().is_some_and(|kept| kept.sender.is_ready()) {
                true => self.give_back(),
                false => drop(self),
            }
        });
    }

    fn give_back(mut self) {
        if let Some(mut kept) = self.kept.take() {
            kept.unused_since = Instant::now();
            self.pool.keep(kept);
        }
    }
}

/// A request that got no answer.
struct Failed {
    /// The request itself, if nothing of it was sent.
    unsent: Option<Box<Request<RequestBody>>>,
    error: UpstreamError,
}

impl Lease {
    /// Sends a request and waits for the header of its answer; the time counts from when all of it is sent.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps each of its arguments twice in its future")]
    fn exchange(
        &mut self,
        request: Request<RequestBody>,
        sent: Option<Arc<Sent>>,
        limit: Duration,
    ) -> impl Future<Output = Result<Response<Incoming>, Failed>> {
        async move {
            let name = || self.pool.endpoint.to_string();
            let Some(kept) = &mut self.kept else {
                return Err(Failed { unsent: None, error: UpstreamError::ConnectTimeout(name()) });
            };
            let mut answer = std::pin::pin!(kept.sender.try_send_request(request));
            loop {
                let before = sent.as_ref().filter(|sent| !sent.is_whole()).map(|sent| sent.frames());
                match timeout(limit, answer.as_mut()).await {
                    Ok(Ok(response)) => return Ok(response),
                    Ok(Err(mut error)) => {
                        let unsent = error.take_message().map(Box::new);
                        return Err(Failed {
                            unsent,
                            error: UpstreamError::Broken(name(), error.into_error()),
                        });
                    }
                    // Nothing more of the request went out either: the upstream takes no more of it.
                    Err(_)
                        if before.is_none_or(|before| {
                            sent.as_ref().is_some_and(|sent| sent.frames() == before)
                        }) =>
                    {
                        return Err(Failed { unsent: None, error: UpstreamError::AnswerTimeout(name()) });
                    }
                    Err(_) => {}
                }
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take() {
            kept.task.abort();
        }
    }
}

/// The connections of one thread to one endpoint.
struct Pool {
    endpoint: Endpoint,
    idle: RefCell<VecDeque<Kept>>,
    timeouts: Timeouts,
    open: IntGauge,
}

impl Pool {
    fn keep(&self, kept: Kept) {
        let mut idle = self.idle.borrow_mut();
        if kept.sender.is_closed() || idle.len() >= MAX_IDLE {
            kept.task.abort();
            return;
        }
        idle.push_back(kept);
    }

    /// The connection used last that can take a request now.
    fn take(&self) -> Option<Kept> {
        let mut idle = self.idle.borrow_mut();
        let mut busy = Vec::new();
        let mut found = None;
        while let Some(kept) = idle.pop_back() {
            if kept.sender.is_closed() || kept.unused_since.elapsed() > self.timeouts.upstream_idle {
                kept.task.abort();
            } else if kept.sender.is_ready() {
                found = Some(kept);
                break;
            } else {
                busy.push(kept);
            }
        }
        idle.extend(busy.into_iter().rev());
        found
    }

    async fn connect(&self) -> Result<Kept, UpstreamError> {
        let name = || self.endpoint.to_string();
        let connecting = TcpStream::connect(self.endpoint.authority.as_str());
        let stream = match timeout(self.timeouts.upstream_connect, connecting).await {
            Err(_) => return Err(UpstreamError::ConnectTimeout(name())),
            Ok(Err(e)) => return Err(UpstreamError::Connect(name(), e)),
            Ok(Ok(stream)) => stream,
        };
        stream.set_nodelay(true).map_err(|e| UpstreamError::Connect(name(), e))?;
        let shaken = http1::handshake(TokioIo::new(Tcp::new(stream))).await;
        let (mut sender, connection) = shaken.map_err(|e| UpstreamError::Broken(name(), e))?;
        let open = Open::new(&self.open);
        let task = spawn_local(async move {
            // How it ended is seen by the request that ran over it.
            let _ = connection.with_upgrades().await;
            drop(open);
        });
        sender.ready().await.map_err(|e| UpstreamError::Broken(name(), e))?;
        Ok(Kept { sender, task: task.abort_handle(), unused_since: Instant::now() })
    }
}

/// Counts an open connection.
struct Open(IntGauge);

impl Open {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The upstreams of one route, for one thread.
pub(super) struct Upstreams {
    pools: Vec<Rc<Pool>>,
    next: Cell<usize>,
    timeouts: Timeouts,
}

impl Upstreams {
    pub(super) fn new(endpoints: &[Endpoint], timeouts: Timeouts, open: &IntGauge) -> Self {
        let pool = |endpoint: &Endpoint| {
            let (endpoint, open) = (endpoint.clone(), open.clone());
            Rc::new(Pool { endpoint, idle: RefCell::default(), timeouts, open })
        };
        Self { pools: endpoints.iter().map(pool).collect(), next: Cell::new(0), timeouts }
    }

    /// Sends a request, and returns the answer's header with the connection that its body will come over.
    ///
    /// Sent twice only where it is provably unsent, or a kept connection that had been unused for a while broke off
    /// under a request that is idempotent and has no body.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps each of its arguments twice in its future")]
    pub(super) fn send(
        &self,
        mut request: Request<RequestBody>,
    ) -> impl Future<Output = Result<(Response<Incoming>, Lease), UpstreamError>> {
        async move {
            let (mut lease, mut age) = self.lease().await?;
            loop {
                let spare = age.filter(|age| *age > DOUBTFUL).and_then(|_| copy(&request)).map(Box::new);
                let sent = request.body().sent();
                lease.sent.clone_from(&sent);
                let failed = match lease.exchange(request, sent, self.timeouts.upstream_answer).await {
                    Ok(response) => return Ok((response, lease)),
                    Err(failed) => failed,
                };
                let again = failed.unsent.or(spare).filter(|_| age.is_some());
                request = *again.ok_or(failed.error)?;
                let pool = Rc::clone(&lease.pool);
                drop(lease);
                let kept = Box::pin(pool.connect()).await?;
                (lease, age) = (Lease::new(kept, pool), None);
            }
        }
    }

    /// Closes connections that were unused for too long.
    pub(super) fn sweep(&self) {
        for pool in &self.pools {
            pool.idle.borrow_mut().retain(|kept| {
                let keep =
                    !kept.sender.is_closed() && kept.unused_since.elapsed() <= self.timeouts.upstream_idle;
                if !keep {
                    kept.task.abort();
                }
                keep
            });
        }
    }

    /// A kept connection, with the time it was unused, or a fresh one to the first endpoint in turn that takes it.
    async fn lease(&self) -> Result<(Lease, Option<Duration>), UpstreamError> {
        let first = self.next.get();
        self.next.set(first.wrapping_add(1));
        let mut failure = None;
        for turn in 0..self.pools.len() {
            let Some(pool) = self.pools.get(first.wrapping_add(turn) % self.pools.len()) else {
                continue;
            };
            if let Some(kept) = pool.take() {
                let age = kept.unused_since.elapsed();
                return Ok((Lease::new(kept, Rc::clone(pool)), Some(age)));
            }
            match Box::pin(pool.connect()).await {
                Ok(kept) => return Ok((Lease::new(kept, Rc::clone(pool)), None)),
                Err(e) => failure = Some(e),
            }
        }
        Err(failure.unwrap_or_else(|| UpstreamError::ConnectTimeout("no upstream".into())))
    }
}

fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let idempotent = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !idempotent || request.body().sent().is_some() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let read = |text: &str| Endpoint::parse(text).map(|endpoint| endpoint.to_string());
        assert_eq!(read("http://127.0.0.1:9000"), Ok("http://127.0.0.1:9000".into()));
        assert_eq!(read("http://app/"), Ok("http://app:80".into()));
        for bad in ["", "app:80", "https://app", "http://", "http://app/path", "http://app?q", "http://u@app"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
