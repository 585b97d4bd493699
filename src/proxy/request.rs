//! One request through the gate: route it, hold its claim against its certificate, forward it.

use std::rc::Rc;
use std::sync::Arc;
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
use super::Cluster;
use super::Clusters;
use super::Demand;
use super::Exchange;
use super::Limits;
use super::Mode;
use super::Refusal;
use super::Route;
use super::RouteConfig;
use super::Terms;
use super::body::Bounds;
use super::body::RequestBody;
use super::body::UpstreamBody;
use super::connection::Connection;
use super::context::Handler;
use super::headers;
use super::names::ClaimHeaders;
use super::route;
use super::tunnel;
use super::tunnel::Asked;
use super::upstream::Lease;
use super::upstream::UpstreamError;
use super::upstream::Upstreams;
use super::via::Via;
use crate::identity::Binding;
use crate::identity::Claim;
use crate::identity::ClaimSource;
use crate::identity::Error;
use crate::identity::ambiguous_path;

/// How often connections that were unused for too long are closed.
const SWEEP: Duration = Duration::from_secs(5);

/// The handler of the gate's listener, for one thread.
pub struct Gate {
    routes: Vec<Route<Rc<Service>>>,
    limits: Limits,
    /// Whether the path decides anything, so that it must be readable in one way only.
    path_matters: bool,
    /// Headers in which any route expects a claim.
    claims: Rc<[HeaderName]>,
    via: Via,
}

/// What serves a route.
pub(super) struct Service {
    upstreams: Rc<Upstreams>,
    binding: Binding,
}

impl Service {
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

impl Gate {
    /// A gate with upstream connections of its own: its share of what all of `threads` may have. Must be made on the local
    /// runtime that runs it.
    pub fn new(
        routes: &[RouteConfig],
        binding: &Binding,
        (clusters, threads): (&Clusters, usize),
        limits: Limits,
    ) -> Self {
        let mut made: Vec<(&Arc<Cluster>, Rc<Upstreams>)> = Vec::new();
        let services = routes.iter().zip(clusters.of_routes()).map(|(config, cluster)| {
            // Routes that lead to one upstream share its connections.
            let known = made.iter().find(|(known, _)| Arc::ptr_eq(known, cluster));
            let upstreams = known.map(|(_, upstreams)| Rc::clone(upstreams)).unwrap_or_else(|| {
                let upstreams = Rc::new(Upstreams::new(cluster, threads));
                made.push((cluster, Rc::clone(&upstreams)));
                upstreams
            });
            let binding = binding.clone().claiming(config.claim.clone());
            Route::new(config, Rc::new(Service { upstreams, binding }))
        });
        let routes = route::ordered(services.collect());
        let by_path =
            |route: &Route<Rc<Service>>| matches!(route.serves.binding.source(), ClaimSource::Path { .. });
        let path_matters = routes.len() > 1 || routes.iter().any(|route| !route.is_root() || by_path(route));
        let claims = routes.iter().filter_map(|route| route.serves.claim_header().cloned()).collect();
        let gate = Self { routes, limits, path_matters, claims, via: Via::new(clusters.via()) };
        gate.sweep();
        gate
    }

    fn sweep(&self) {
        let services: Vec<Rc<Service>> = self.routes.iter().map(|route| Rc::clone(&route.serves)).collect();
        tokio::task::spawn_local(async move {
            let mut turns = tokio::time::interval(SWEEP);
            loop {
                turns.tick().await;
                services.iter().for_each(|service| service.upstreams.sweep());
            }
        });
    }
}

impl Handler for Gate {
    /// Where in the list of routes.
    type Route = Demanded;

    fn route(&self, request: &Request<Incoming>) -> Result<Demanded, Refusal> {
        let tunnelled = || tunnel::asked(request) == Some(Asked::Connect);
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) && !tunnelled() {
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
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = match (request.uri().authority(), hosts.next(), hosts.next()) {
            (_, _, Some(_)) => return Err(Refusal::Malformed("more than one Host")),
            (Some(authority), ..) => authority.as_str(),
            (None, None, None) => "",
            // What is no text is no host either.
            (None, Some(host), None) => host.to_str().unwrap_or("?"),
        };
        // Else it could lead one way here, and another at an upstream that reads it otherwise.
        let host = route::host_of(host).ok_or(Refusal::Malformed("a Host that is none"))?;
        // `OPTIONS *` asks about the whole of a host (RFC 9110, section 9.3.7).
        let path = match request.uri().path() {
            "*" if *request.method() == Method::OPTIONS => "/",
            "*" => return Err(Refusal::Malformed("a target that is no path")),
            path => path,
        };
        let found = route::find(&self.routes, host, path);
        if let Some(why) = ambiguous_path(path).filter(|_| self.path_matters) {
            // Where the path is the claim, two readings of it are two identities.
            return Err(match found.map(|route| route.serves.binding.source()) {
                Some(ClaimSource::Path { .. }) => Refusal::Identity(Error::Ambiguous(format!("path: {why}"))),
                _ => Refusal::Malformed(why),
            });
        }
        let route = found.ok_or(Refusal::NoRoute)?;
        Ok(Demanded {
            name: Rc::clone(&route.name),
            demand: route.demand,
            mtls_required: route.mtls_required,
            terms: route.terms,
            service: Rc::clone(&route.serves),
        })
    }

    fn terms(&self, route: &Demanded) -> Terms {
        route.terms
    }

    fn name<'a>(&self, route: &'a Demanded) -> Option<&'a Rc<str>> {
        Some(&route.name)
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
        let claim = route.service.claim(request);
        let judged = match route.demand {
            Demand::Mtls => route.service.binding.judge(identity, claim),
            Demand::None => route.service.binding.judge_voluntary(identity, claim),
        };
        judged.map_err(Refusal::Identity)
    }

    #[expect(clippy::manual_async_fn, reason = "an async fn keeps each of its arguments twice in its future")]
    fn serve(
        &self,
        request: Request<Incoming>,
        exchange: &Exchange,
        connection: &Rc<Connection>,
        route: Demanded,
    ) -> impl Future<Output = Result<Response<Body>, Refusal>> {
        async move {
            let mode = route.terms.mode;
            exchange.leads_along(&route.name, connection);
            let (tunnel, request) = self.forwarded(request, exchange, connection, &route)?;
            let answered = route.service.upstreams.send(request, tunnel.is_some()).await;
            let (response, lease) = answered.map_err(Refusal::of_upstream)?;
            exchange.answered_by(|| lease.endpoint());
            let told = tunnel.as_ref().map(|_| exchange);
            returned(response, lease, tunnel.zip(told), (connection, mode))
        }
    }
}

/// A client that asked for a tunnel: how, and its side of it.
type Tunnel = (Asked, OnUpgrade);

impl Gate {
    /// The request as the upstream gets it; and its client's side, if it asks to become a WebSocket.
    fn forwarded(
        &self,
        mut request: Request<Incoming>,
        exchange: &Exchange,
        connection: &Connection,
        route: &Demanded,
    ) -> Result<(Option<Tunnel>, Request<RequestBody>), Refusal> {
        let service = &route.service;
        let tunnel = tunnel::asked(&request).map(|asked| (asked, hyper::upgrade::on(&mut request)));
        let (mut parts, incoming) = request.into_parts();
        let version = parts.version;
        (parts.uri, parts.version) = (next_hop(&mut parts.headers, &parts.uri)?, Version::HTTP_11);
        // Who brings no certificate says nothing about who it is, not even in the claim's header.
        let own = service.claim_header().filter(|_| connection.peer().is_some());
        headers::forward(
            &mut parts.headers,
            connection,
            exchange.id(),
            ClaimHeaders { own, all: &self.claims },
        );
        self.via.pass(&mut parts.headers, version)?;
        exchange.trace(&mut parts.headers);
        if let Some((asked, _)) = &tunnel {
            parts.extensions.clear();
            tunnel::announce(&mut parts, *asked);
        }
        let Limits { body_rate: rate, body_bytes: bytes, .. } = self.limits;
        let bounds = Bounds { idle: service.upstreams.body_idle(), rate, bytes };
        let guard = connection.guard_for(route.terms.mode);
        let body = RequestBody::new(incoming, guard, bounds).without(&self.claims);
        let body = body.counted(exchange.counter());
        Ok((tunnel, Request::from_parts(parts, body)))
    }
}

/// The response as the client gets it.
fn returned(
    mut response: Response<Incoming>,
    lease: Lease,
    tunnel: Option<(Tunnel, &Exchange)>,
    (connection, mode): (&Connection, Mode),
) -> Result<Response<Body>, Refusal> {
    // A length beside a transfer coding does not count (RFC 9112, section 6.3).
    if response.headers().contains_key(header::TRANSFER_ENCODING) {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    headers::end_hop(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // To extended CONNECT it would say that the tunnel is there (RFC 8441, section 5).
        if response.status().is_success() && matches!(tunnel, Some(((Asked::Connect, _), _))) {
            return Err(Refusal::Upstream(UpstreamError::NotUpgraded(lease.endpoint())));
        }
        return Ok(response.map(|body| Body::Upstream(UpstreamBody::new(body, lease))));
    }
    let Some(((asked, client), exchange)) = tunnel else {
        return Err(Refusal::Upstream(UpstreamError::Unasked(lease.endpoint())));
    };
    let upstream = hyper::upgrade::on(&mut response);
    let ends = tunnel::Ends { client, upstream, lease, flight: connection.flight(mode) };
    connection.tunnel(tunnel::run(ends, connection.guard_for(mode), exchange.tunnel()));
    tunnel::accept(&mut response, asked);
    Ok(response.map(|_| Body::Whole(None)))
}

/// What a route demands, and where it leads.
pub struct Demanded {
    name: Rc<str>,
    demand: Demand,
    mtls_required: StatusCode,
    terms: Terms,
    service: Rc<Service>,
}

/// The request's target in origin form, its authority in `Host` (RFC 9112, section 3.2).
fn next_hop(headers: &mut HeaderMap, uri: &Uri) -> Result<Uri, Refusal> {
    if let Some(authority) = uri.authority() {
        if authority.as_str().contains('@') {
            return Err(Refusal::Malformed("user information in the authority"));
        }
        // RFC 9112, section 3.2.3: that form is CONNECT's. Others would name a host here, and no path.
        if uri.scheme().is_none() {
            return Err(Refusal::Malformed("a target that is no path"));
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
