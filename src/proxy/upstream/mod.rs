//! Upstreams: which endpoint serves a request, over which connection, and what is sent again.
//!
//! `config` what can be said of them; `cluster` how their endpoints are, for all threads; `health` asks them. Each thread
//! has a `pool` of connections to each endpoint, made by `connect`; [`Upstreams::send`] is the way of one request.

mod cluster;
mod config;
mod connect;
mod endpoint;
mod health;
mod pool;
mod retry;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::Uri;
use http::Version;
use http::header::CONTENT_LENGTH;
use http::header::HOST;
use http::header::TRANSFER_ENCODING;
use http::uri::Authority;
use http::uri::PathAndQuery;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::body::BodyError;
use super::body::RequestBody;
use super::body::Sent;
pub use cluster::Cluster;
pub use cluster::Clusters;
pub use config::Balance;
pub use config::HealthConfig;
pub use config::RestConfig;
pub use config::RetryConfig;
pub use config::RouteUpstream;
pub use config::UpstreamConfig;
pub use config::UpstreamTimeouts;
pub use config::UpstreamTls;
use connect::Wanted;
pub use endpoint::Endpoint;
use endpoint::Protocol;
pub use health::watch as watch_upstreams;
use pool::Carrier;
pub(super) use pool::Lease;
use pool::Pool;
use retry::Budget;

/// A kept connection unused for longer may be closing at the other end right now: its request is kept for a retry.
const DOUBTFUL: Duration = Duration::from_secs(1);

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It refused the connection.
    #[error("{0}: cannot connect")]
    Connect(String, #[source] std::io::Error),
    /// It did not take the connection in time.
    #[error("{0}: no connection in time")]
    ConnectTimeout(String),
    /// All connections that it may have are in use, and too many requests wait, or waited for too long.
    #[error("{0}: too many requests at once")]
    Busy(String),
    /// Active checks found every endpoint ill.
    #[error("{0}: no endpoint is well")]
    Ill(String),
    /// It did not answer in time.
    #[error("{0}: no answer in time")]
    AnswerTimeout(String),
    /// The request names a host that HTTP/2 cannot name.
    #[error("{0}: a Host that is none")]
    Host(String),
    /// The request's header is more than an endpoint takes over HTTP/2.
    #[error("{0}: more of a header than it takes")]
    Header(String),
    /// It speaks HTTP/2 only, over which nothing is upgraded.
    #[error("{0}: WebSockets need an upstream that speaks HTTP/1.1")]
    NoTunnel(String),
    /// It took the request for a WebSocket for one like any other.
    #[error("{0}: it did not become a WebSocket")]
    NotUpgraded(String),
    /// It switched protocols, which nobody had asked for.
    #[error("{0}: an upgrade that nobody asked for")]
    Unasked(String),
    /// It broke off.
    #[error("{0}: broke off")]
    Broken(String, #[source] hyper::Error),
    /// It broke off while the request's body was on its way: it may have had enough of it.
    #[error("{0}: broke off before the request was whole")]
    BrokenEarly(String, #[source] hyper::Error),
    /// The request's body came to no good end.
    #[error("{0}: the request's body")]
    Body(String, #[source] BodyError),
}

impl UpstreamError {
    /// What is wrong with the request's own body, if that is why.
    pub(super) fn of_body(&self) -> Option<BodyError> {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.into_iter().find_map(|cause| cause.downcast_ref().copied())
    }

    /// Whether it says that the endpoint is not well.
    fn is_endpoints(&self) -> bool {
        match self {
            Self::Connect(..) | Self::ConnectTimeout(_) | Self::AnswerTimeout(_) => true,
            Self::Broken(..) => self.of_body().is_none(),
            Self::BrokenEarly(..) | Self::Body(..) => false,
            Self::Busy(_)
            | Self::Ill(_)
            | Self::Host(_)
            | Self::Header(_)
            | Self::NoTunnel(_)
            | Self::NotUpgraded(_)
            | Self::Unasked(_) => false,
        }
    }

    /// Whether an HTTP/2 endpoint broke off this one stream.
    fn is_reset(&self) -> bool {
        let Self::Broken(_, error) = self else { return false };
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        causes.into_iter().filter_map(|cause| cause.downcast_ref::<h2::Error>()).any(h2::Error::is_reset)
    }

    /// Whether an HTTP/2 endpoint says that it did nothing about the request (RFC 9113, section 8.7): it refused the
    /// stream, or went away before it came to it.
    fn is_untouched(&self) -> bool {
        let (Self::Broken(_, error) | Self::BrokenEarly(_, error)) = self else { return false };
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        causes.into_iter().filter_map(|cause| cause.downcast_ref::<h2::Error>()).any(|error| {
            let reason = error.reason();
            reason == Some(h2::Reason::REFUSED_STREAM)
                || (error.is_go_away() && error.is_remote() && reason == Some(h2::Reason::NO_ERROR))
        })
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
        mut request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failed>> {
        async move {
            let endpoint = &self.pool.member.connector.endpoint;
            match &mut self.carrier {
                Some(Carrier::Own(sender, wire)) => {
                    to_http1(&mut request);
                    self.sent.iter().for_each(|sent| sent.goes_over(wire.handle()));
                    let answer = std::pin::pin!(sender.try_send_request(request));
                    awaited(answer, self.sent.as_deref(), &self.pool).await
                }
                Some(Carrier::Shared(sender, stream)) => {
                    if !fits(request.headers(), self.pool.cluster.config.header_bytes) {
                        let error = UpstreamError::Header(endpoint.to_string());
                        return Err(Failed { unsent: None, error });
                    }
                    request.body_mut().tell(stream.beginning());
                    if to_http2(&mut request, endpoint.protocol).is_none() {
                        let error = UpstreamError::Host(endpoint.to_string());
                        return Err(Failed { unsent: None, error });
                    }
                    let answer = std::pin::pin!(sender.try_send_request(request));
                    awaited(answer, self.sent.as_deref(), &self.pool).await
                }
                None => Err(Failed { unsent: None, error: UpstreamError::Busy(endpoint.to_string()) }),
            }
        }
    }
}

type Answer = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<RequestBody>>>;

async fn awaited(
    mut answer: std::pin::Pin<&mut impl Future<Output = Answer>>,
    sent: Option<&Sent>,
    pool: &Pool,
) -> Result<Response<Incoming>, Failed> {
    let name = || pool.member.connector.endpoint.to_string();
    loop {
        let before = sent.filter(|sent| !sent.is_whole()).map(Sent::frames);
        match timeout(pool.cluster.waits.answer, answer.as_mut()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(mut error)) => {
                let unsent = error.take_message().map(Box::new);
                let error = match sent.map(|sent| (sent.failed(), sent.is_whole())) {
                    Some((Some(body), _)) => UpstreamError::Body(name(), body),
                    Some((None, false)) if unsent.is_none() => {
                        UpstreamError::BrokenEarly(name(), error.into_error())
                    }
                    _ => UpstreamError::Broken(name(), error.into_error()),
                };
                return Err(Failed { unsent, error });
            }
            // It is the client's turn, who is given its time elsewhere.
            Err(_) if sent.is_some_and(|sent| !sent.is_whole() && sent.awaits_client()) => {}
            // Nothing more of the request went out either: the upstream takes no more of it.
            Err(_) if before.is_none_or(|before| sent.is_some_and(|sent| sent.frames() == before)) => {
                return Err(Failed { unsent: None, error: UpstreamError::AnswerTimeout(name()) });
            }
            Err(_) => {}
        }
    }
}

/// The upstreams of one route, for one thread.
pub(super) struct Upstreams {
    cluster: Arc<Cluster>,
    pools: Vec<Rc<Pool>>,
    next: Cell<usize>,
    budget: Budget,
}

impl Upstreams {
    /// The pools of one of `threads`.
    pub(super) fn new(cluster: &Arc<Cluster>, threads: usize) -> Self {
        let pools = cluster.members.iter().map(|member| Rc::new(Pool::new(cluster, member, threads)));
        Self {
            pools: pools.collect(),
            next: Cell::new(0),
            budget: Budget::new(cluster.config.retry.budget),
            cluster: Arc::clone(cluster),
        }
    }

    /// Without progress in a body.
    pub(super) fn body_idle(&self) -> Duration {
        self.cluster.waits.body_idle
    }

    /// Closes connections that were unused for too long.
    pub(super) fn sweep(&self) {
        self.pools.iter().for_each(|pool| pool.sweep());
    }

    /// Sends a request, and returns the answer's header with the connection that its body will come over.
    ///
    /// Sent again, within the budget, only where it is provably unsent, or idempotent and without a body. Free of charge:
    /// once, if the connection was a kept one that closed meanwhile.
    ///
    /// The request's guard stays with the connection until the upstream has answered, or its side was cut.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps each of its arguments twice in its future")]
    pub(super) fn send(
        &self,
        mut request: Request<RequestBody>,
        tunnel: bool,
    ) -> impl Future<Output = Result<(Response<Incoming>, Lease), UpstreamError>> {
        async move {
            self.budget.earn();
            let wanted = if tunnel { Wanted::Tunnel } else { Wanted::Requests };
            let mut guard = request.body_mut().take_guard();
            let mut tries = Tries { made: 1, avoid: None, kept: None };
            loop {
                let (mut lease, age) = match self.lease(wanted, &mut tries).await {
                    Ok(leased) => leased,
                    Err(error) if error.is_endpoints() && self.may_retry(&mut tries, false) => continue,
                    Err(error) => return Err(error),
                };
                let careful = age.is_some_and(|age| age > DOUBTFUL) || lease.is_shared() || self.has_others();
                let spare = if careful { copy(&request) } else { None };
                lease.sent = request.body().sent();
                lease.guard = guard.take();
                let Failed { unsent, error } = match lease.exchange(request).await {
                    Ok(response) => {
                        self.cluster.succeeded(&lease.pool.member);
                        self.cluster.metrics.answered(response.status());
                        return Ok((response, lease));
                    }
                    Err(failed) => failed,
                };
                let untouched = unsent.is_some() || error.is_untouched();
                // A request that cost others their connection is not let loose on the next one.
                let spare = spare.filter(|_| untouched || !lease.is_shared());
                let again = unsent.or(spare).filter(|_| !matches!(error, UpstreamError::AnswerTimeout(_)));
                // What others share says so to all of them.
                let closed_meanwhile = age.is_some() && !lease.is_shared() && tries.kept.is_none();
                if !closed_meanwhile && !untouched && error.is_endpoints() && lease.blames(&error) {
                    self.cluster.failed(&lease.pool.member, &error);
                }
                let Some(again) = again else { return Err(error) };
                // The lease takes along what it was to send; this is sent by another.
                (lease.sent, guard) = (None, lease.guard.take());
                if closed_meanwhile {
                    tries.kept = Some(Rc::clone(&lease.pool));
                } else if !self.may_retry(&mut tries, untouched) {
                    return Err(error);
                }
                request = *again;
            }
        }
    }

    /// Whether another endpoint could take a request that one has failed.
    fn has_others(&self) -> bool {
        self.pools.len() > 1 && self.cluster.config.retry.attempts > 1
    }

    /// Whether it may be tried once more: elsewhere, or where nothing was done about it.
    fn may_retry(&self, tries: &mut Tries, untouched: bool) -> bool {
        if tries.made >= self.cluster.config.retry.attempts || (self.pools.len() < 2 && !untouched) {
            return false;
        }
        let may = self.budget.spend();
        let counted = if may { &self.cluster.metrics.retries } else { &self.cluster.metrics.over_budget };
        counted.inc();
        tries.made += 1;
        may
    }

    /// A connection to an endpoint, with the time that it was unused if it was kept.
    async fn lease(
        &self,
        wanted: Wanted,
        tries: &mut Tries,
    ) -> Result<(Lease, Option<Duration>), UpstreamError> {
        if let Some(pool) = tries.kept.as_ref().filter(|_| tries.made == 1) {
            let fresh = Box::pin(pool.fresh(wanted)).await;
            // Whatever becomes of it: next time it is another's turn.
            tries.avoid = Some(Rc::clone(pool));
            return self.noted(pool, fresh).map(|lease| (lease, None));
        }
        let pool = self.choose(tries.avoid.as_ref())?;
        tries.avoid = Some(Rc::clone(pool));
        let leased = pool.lease(wanted).await;
        self.noted(pool, leased)
    }

    fn noted<T>(&self, pool: &Pool, result: Result<T, UpstreamError>) -> Result<T, UpstreamError> {
        result.inspect_err(|error| {
            if error.is_endpoints() {
                self.cluster.failed(&pool.member, error);
            }
        })
    }

    /// The endpoint for a request: one that is well and need not be waited for, if there is one; else one that is well;
    /// else one that rests. Never one that active checks found ill.
    fn choose(&self, avoid: Option<&Rc<Pool>>) -> Result<&Rc<Pool>, UpstreamError> {
        let ill = || UpstreamError::Ill(self.cluster.name.clone());
        if let [only] = self.pools.as_slice() {
            return if only.member.is_healthy() { Ok(only) } else { Err(ill()) };
        }
        let may = |pool: &&Rc<Pool>| avoid.is_none_or(|avoid| !Rc::ptr_eq(avoid, pool));
        let well = |pool: &&Rc<Pool>| may(pool) && pool.member.is_healthy() && !pool.member.is_resting();
        let best = match self.cluster.config.balance {
            Balance::RoundRobin => self.in_turn(|pool| well(pool) && pool.has_room()),
            Balance::LeastRequests => self.less_busy(|pool| well(pool) && pool.has_room()),
        };
        let found = best
            .or_else(|| self.in_turn(well))
            .or_else(|| self.in_turn(|pool| may(pool) && pool.member.is_healthy()));
        found.or_else(|| self.in_turn(|pool| pool.member.is_healthy())).ok_or_else(ill)
    }

    fn in_turn(&self, may: impl Fn(&&Rc<Pool>) -> bool) -> Option<&Rc<Pool>> {
        let first = self.next.get() % self.pools.len().max(1);
        let (before, from) = self.pools.split_at(first);
        let found = from.iter().chain(before).enumerate().find(|(_, pool)| may(pool));
        found.map(|(turn, pool)| {
            self.next.set((first + turn + 1) % self.pools.len());
            pool
        })
    }

    /// Of two at random, the one with fewer requests under way.
    fn less_busy(&self, may: impl Fn(&&Rc<Pool>) -> bool) -> Option<&Rc<Pool>> {
        let count = self.pools.iter().filter(&may).count();
        let nth = |n: usize| self.pools.iter().filter(&may).nth(n);
        let (one, other) = match count {
            0 | 1 => return nth(0),
            _ => (fastrand::usize(..count), fastrand::usize(..count - 1)),
        };
        let other = if other >= one { other + 1 } else { other };
        nth(one).into_iter().chain(nth(other)).min_by_key(|pool| pool.busy.get())
    }
}

/// What was tried for one request.
struct Tries {
    /// Times, but for those on kept connections that closed meanwhile.
    made: u32,
    /// Where it went last.
    avoid: Option<Rc<Pool>>,
    /// Where a kept connection had closed meanwhile.
    kept: Option<Rc<Pool>>,
}

/// Makes a request one of HTTP/1.1: its target in origin form, its authority in `Host` (RFC 9112, section 3.2).
fn to_http1(request: &mut Request<RequestBody>) {
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str());
        let path = request.uri().path_and_query().cloned();
        host.into_iter().for_each(|host| drop(request.headers_mut().insert(HOST, host)));
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    *request.version_mut() = Version::HTTP_11;
    if !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH) {
        // Said outright: a GET whose body has no known length would lose it at hyper's client.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Makes a request one of HTTP/2: its authority in `:authority` (RFC 9113, section 8.3.1). `None` if it is no authority.
fn to_http2(request: &mut Request<RequestBody>, protocol: Protocol) -> Option<()> {
    request.headers_mut().remove(TRANSFER_ENCODING);
    *request.version_mut() = Version::HTTP_2;
    let Some(host) = request.headers_mut().remove(HOST) else {
        return request.uri().authority().map(|_| ());
    };
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(protocol.scheme());
    uri.authority = Some(Authority::try_from(host.as_bytes()).ok()?);
    uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    Some(())
}

/// Whether a header is no more than `most` bytes, and each of its fields no more than a quarter of that.
fn fits(headers: &HeaderMap, most: usize) -> bool {
    let mut all = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    let sum = all.try_fold(0_usize, |sum, field| (field <= most / 4).then_some(sum + field));
    sum.is_some_and(|sum| sum <= most)
}

/// A copy of a request that is idempotent and has no body.
fn copy(request: &Request<RequestBody>) -> Option<Box<Request<RequestBody>>> {
    let idempotent = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !idempotent || request.body().sent().is_some() {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(Box::new(copy))
}
