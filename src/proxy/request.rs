//! One request through the gate: route it, hold its claim against its certificate, forward it.

use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http::Version;
use http::header;
use http::uri::PathAndQuery;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::Body;
use super::Demand;
use super::Limits;
use super::Refusal;
use super::RequestId;
use super::Route;
use super::RouteConfig;
use super::Timeouts;
use super::body::Bounds;
use super::body::RequestBody;
use super::body::UpstreamBody;
use super::connection::Connection;
use super::connection::Handler;
use super::headers;
use super::route;
use super::tunnel;
use super::upstream::Lease;
use super::upstream::UpstreamError;
use super::upstream::Upstreams;
use crate::identity::Binding;
use crate::identity::Claim;
use crate::identity::ClaimSource;
use crate::identity::Error;
use crate::identity::ambiguous_path;
use crate::telemetry::Metrics;

/// How often connections that were unused for too long are closed.
const SWEEP: Duration = Duration::from_secs(5);

/// The handler of the gate's listener, for one thread.
pub struct Gate {
    routes: Vec<Route<Rc<Upstreams>>>,
    binding: Binding,
    timeouts: Timeouts,
    limits: Limits,
    /// Whether the path decides anything, so that it must be readable in one way only.
    path_matters: bool,
}

impl Gate {
    /// A gate with upstream connections of its own. Must be made on the local runtime that runs it.
    pub fn new(
        routes: &[RouteConfig],
        binding: Binding,
        (timeouts, limits): (Timeouts, Limits),
        metrics: &Metrics,
    ) -> Self {
        let path_matters = routes.len() > 1
            || routes.iter().any(|route| route.path != "/")
            || matches!(binding.source(), ClaimSource::Path { .. });
        let open = &metrics.upstream_connections;
        let routes = routes
            .iter()
            .map(|config| Route::new(config, Rc::new(Upstreams::new(&config.upstream, timeouts, open))))
            .collect();
        let gate = Self { routes: route::ordered(routes), binding, timeouts, limits, path_matters };
        gate.sweep();
        gate
    }

    fn sweep(&self) {
        let upstreams: Vec<Rc<Upstreams>> =
            self.routes.iter().map(|route| Rc::clone(&route.upstreams)).collect();
        tokio::task::spawn_local(async move {
            let mut turns = tokio::time::interval(SWEEP);
            loop {
                turns.tick().await;
                upstreams.iter().for_each(|upstreams| upstreams.sweep());
            }
        });
    }

    fn claim<'a>(&self, request: &'a Request<Incoming>) -> Claim<'a> {
        match self.binding.source() {
            ClaimSource::None => Claim::Absent,
            ClaimSource::Path { path, .. } => path.read(request.uri().path()),
            ClaimSource::Header { name, .. } => {
                let mut values = request.headers().get_all(name).iter();
                match (values.next(), values.next()) {
                    (None, _) => Claim::Absent,
                    (Some(_), Some(_)) => Claim::Ambiguous("given twice"),
                    (Some(value), None) => match value.to_str().map(str::trim) {
                        Ok("") => Claim::Absent,
                        Ok(value) => Claim::Value(value),
                        Err(_) => Claim::Ambiguous("not plain text"),
                    },
                }
            }
        }
    }

    fn claim_header(&self) -> Option<&HeaderName> {
        match self.binding.source() {
            ClaimSource::Header { name, .. } => Some(name),
            _ => None,
        }
    }
}

impl Handler for Gate {
    /// Where in the list of routes.
    type Route = Demanded;

    fn route(&self, request: &Request<Incoming>) -> Result<Demanded, Refusal> {
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            return Err(Refusal::Method);
        }
        if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > self.limits.uri_bytes)
        {
            return Err(Refusal::UriTooLong);
        }
        let most = self.limits.body_bytes;
        if most > 0 && request.body().size_hint().lower() > most {
            return Err(Refusal::BodyTooLarge);
        }
        let headers = request.headers();
        // hyper has undone `chunked`, and lets it take the place of a length. Any coding before it would be lost.
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if codings.next().is_some_and(|coding| !chunked(coding)) || codings.next().is_some() {
            return Err(Refusal::Malformed("a transfer coding other than chunked"));
        }
        if headers.get_all(header::HOST).iter().nth(1).is_some() {
            return Err(Refusal::Malformed("more than one Host"));
        }
        let path = request.uri().path();
        if let Some(why) = ambiguous_path(path).filter(|_| self.path_matters) {
            // Where the path is the claim, two readings of it are two identities.
            return Err(match self.binding.source() {
                ClaimSource::Path { .. } => Refusal::Identity(Error::Ambiguous(format!("path: {why}"))),
                _ => Refusal::Malformed(why),
            });
        }
        let route = route::find(&self.routes, path).ok_or(Refusal::NoRoute)?;
        Ok(Demanded {
            demand: route.demand,
            mtls_required: route.mtls_required,
            upstreams: Rc::clone(&route.upstreams),
        })
    }

    fn judge(
        &self,
        request: &Request<Incoming>,
        connection: &Connection,
        route: &Demanded,
    ) -> Result<(), Refusal> {
        let peer = match (connection.peer(), route.demand) {
            (Some(peer), _) => peer,
            (None, Demand::Mtls) => return Err(Refusal::MtlsRequired(route.mtls_required)),
            (None, Demand::None) => return Ok(()),
        };
        let identity = peer.identity.as_ref().map_err(|e| Refusal::Identity(e.clone()))?;
        let claim = self.claim(request);
        let judged = match route.demand {
            Demand::Mtls => self.binding.judge(identity, claim),
            Demand::None => self.binding.judge_voluntary(identity, claim),
        };
        judged.map_err(Refusal::Identity)
    }

    #[expect(clippy::manual_async_fn, reason = "an async fn keeps each of its arguments twice in its future")]
    fn serve(
        &self,
        request: Request<Incoming>,
        id: RequestId,
        connection: &Rc<Connection>,
        route: Demanded,
    ) -> impl Future<Output = Result<Response<Body>, Refusal>> {
        async move {
            let (upgrade, request) = self.forwarded(request, id, connection)?;
            let answered = route.upstreams.send(request).await;
            let (response, lease) = answered.map_err(Refusal::of_upstream)?;
            self.returned(response, lease, upgrade, connection)
        }
    }
}

impl Gate {
    /// The request as the upstream gets it; and its client's side, if it asks to become a WebSocket.
    fn forwarded(
        &self,
        mut request: Request<Incoming>,
        id: RequestId,
        connection: &Connection,
    ) -> Result<(Option<OnUpgrade>, Request<RequestBody>), Refusal> {
        let upgrade = tunnel::wants_websocket(request.version(), request.headers());
        let upgrade = upgrade.then(|| hyper::upgrade::on(&mut request));
        let (mut parts, incoming) = request.into_parts();
        (parts.uri, parts.version) = (next_hop(&mut parts.headers, &parts.uri)?, Version::HTTP_11);
        let claim = self.claim_header();
        headers::forward(&mut parts.headers, connection, id, claim);
        // Who brings no certificate says nothing about who it is, not even in the claim's header.
        if let (None, Some(claim)) = (connection.peer(), claim) {
            parts.headers.remove(claim);
        }
        if upgrade.is_some() {
            tunnel::announce(&mut parts.headers);
        }
        let body = RequestBody::new(incoming, connection.guard.clone(), self.body_bounds()).without(claim);
        if !body.is_end_stream() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            // Said outright: a GET whose body has no known length would lose it at hyper's client.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Ok((upgrade, Request::from_parts(parts, body)))
    }

    fn body_bounds(&self) -> Bounds {
        let Limits { body_rate: rate, body_bytes: bytes, .. } = self.limits;
        Bounds { idle: self.timeouts.body_idle, rate, bytes }
    }

    /// The response as the client gets it.
    fn returned(
        &self,
        mut response: Response<Incoming>,
        lease: Lease,
        upgrade: Option<OnUpgrade>,
        connection: &Connection,
    ) -> Result<Response<Body>, Refusal> {
        headers::end_hop(response.headers_mut(), None);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let limit = self.timeouts.body_idle;
            let guard = if lease.is_sending() { connection.guard.clone() } else { None };
            return Ok(response.map(|body| Body::Upstream(UpstreamBody::new(body, lease, guard, limit))));
        }
        let Some(client) = upgrade else {
            return Err(Refusal::Upstream(UpstreamError::Unasked(lease.endpoint())));
        };
        let upstream = hyper::upgrade::on(&mut response);
        connection.tunnel(tunnel::run(client, upstream, lease, connection.guard.clone()));
        tunnel::announce(response.headers_mut());
        Ok(response.map(|_| Body::Whole(None)))
    }
}

/// What a route demands, and where it leads.
pub struct Demanded {
    demand: Demand,
    mtls_required: StatusCode,
    upstreams: Rc<Upstreams>,
}

/// The request's target in origin form, its authority in `Host` (RFC 9112, section 3.2).
fn next_hop(headers: &mut HeaderMap, uri: &Uri) -> Result<Uri, Refusal> {
    if let Some(authority) = uri.authority() {
        if authority.as_str().contains('@') {
            return Err(Refusal::Malformed("user information in the authority"));
        }
        // What the request line or `:authority` says takes the place of any `Host`.
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Malformed("authority"))?;
        headers.insert(header::HOST, host);
    } else if !headers.contains_key(header::HOST) {
        return Err(Refusal::Malformed("no Host"));
    }
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok(Uri::from(path))
}
