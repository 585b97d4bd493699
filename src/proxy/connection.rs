//! One connection: handshake, admission, HTTP, and the end of it, on every listener alike.
//!
//! **Invariant:** the socket itself holds a guard. While it is open, its session is in the table; when a revocation
//! sees the last guard go, the socket is closed, and what it had not yet delivered is thrown away.

use std::cell::Cell;
use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Extensions;
use http::HeaderValue;
use http::Request;
use http::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use rustls::HandshakeKind;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Body;
use super::Limits;
use super::Mode;
use super::Peer;
use super::Peers;
use super::RequestId;
use super::RequestIds;
use super::Timeouts;
use super::accounts::Account;
use super::accounts::Accounts;
use super::accounts::Seat;
use super::ending::End;
use super::ending::Watch;
use super::error;
use super::error::Concerned;
use super::error::Passed;
use super::error::Refusal;
use super::pace::Pace;
use super::peer::address_value;
use super::socket::Socket;
use super::socket::Tcp;
use super::streams::Streams;
use crate::clock::Clock;
use crate::identity::ChainError;
use crate::problem::Disclose;
use crate::revocation::Denial;
use crate::revocation::Engine;
use crate::revocation::Feeds;
use crate::session::Guard;
use crate::session::Origin;
use crate::telemetry::Metrics;

/// How long a killed HTTP/2 connection may take to say goodbye before it is cut.
const GRACE: Duration = Duration::from_millis(20);

/// What a listener serves. A request is checked, routed, judged, served; in this order.
pub trait Handler: 'static {
    /// Where a request leads.
    type Route;

    /// Finds where a request leads.
    fn route(&self, request: &Request<Incoming>) -> Result<Self::Route, Refusal>;

    /// Whether its client may go there.
    fn judge(
        &self,
        request: &Request<Incoming>,
        connection: &Connection,
        route: &Self::Route,
    ) -> Result<(), Refusal>;

    /// Takes note of a refusal, before it is answered.
    fn refused(&self, _: &Refusal, _: &Connection, _: RequestId) -> impl Future<Output = ()> {
        std::future::ready(())
    }

    /// Answers it.
    fn serve(
        &self,
        request: Request<Incoming>,
        id: RequestId,
        connection: &Rc<Connection>,
        route: Self::Route,
    ) -> impl Future<Output = Result<Response<Body>, Refusal>>;
}

/// What the connections of one listener have in common.
pub struct Context<H> {
    /// What the listener is called: `gate` or `admin`.
    pub listener: &'static str,
    /// TLS.
    pub acceptor: TlsAcceptor,
    /// Who clients are.
    pub peers: Arc<Peers>,
    /// Whether they are revoked.
    pub engine: Arc<Engine>,
    /// Whether that is known to be fresh; `None` of a listener that serves nonetheless.
    pub feeds: Option<Arc<Feeds>>,
    /// What time it is.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether refusals are enforced.
    pub mode: Mode,
    /// How much of a refusal its client is told.
    pub disclose: Disclose,
    /// How long it waits for what.
    pub timeouts: Timeouts,
    /// How much it takes in.
    pub limits: Limits,
    /// Makes request ids.
    pub ids: RequestIds,
    /// What answers.
    pub handler: H,
}

/// One connection, as its requests see it.
pub struct Connection {
    peer: Option<Arc<Peer>>,
    address: SocketAddr,
    address_value: HeaderValue,
    /// What its client takes; `None` if that is not limited.
    account: Option<Arc<Account>>,
    /// In the table for as long as this connection is; absent if it was refused from the start.
    pub(super) guard: Option<Guard>,
    /// Why it was refused from the start, if it was; every request on it is told the same.
    barred: Option<Barred>,
    tunnels: RefCell<JoinSet<()>>,
    tunnelled: Arc<AtomicBool>,
    /// Asks for the end of the connection after the answer at hand.
    pub(super) close: Notify,
    /// Whether there was a request, and who waits for the first.
    pub(super) asked: Cell<bool>,
    pub(super) first: Notify,
    served: Cell<bool>,
    /// What the handler keeps about it.
    extensions: RefCell<Extensions>,
    standing: Rc<Standing>,
}

/// A socket that the accept loop hands over.
pub(super) struct Accepted {
    pub(super) socket: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) standing: Rc<Standing>,
    /// To shake hands.
    pub(super) turn: OwnedSemaphorePermit,
}

/// What the accept loop knows of a connection.
#[derive(Default)]
pub(super) struct Standing {
    /// Its client is one for whom others make room.
    pub(super) vouched: Cell<bool>,
    /// Something has come from its client.
    pub(super) spoken: Cell<bool>,
    /// Its handshake is through.
    pub(super) shaken: Cell<bool>,
}

impl Connection {
    /// Who is at the other end; `None` without a client certificate.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.peer.as_ref()
    }

    /// Keeps its session in the table; `None` of a connection that was refused from the start.
    pub fn guard(&self) -> Option<&Guard> {
        self.guard.as_ref()
    }

    /// What the handler keeps about it.
    pub fn extensions(&self) -> &RefCell<Extensions> {
        &self.extensions
    }

    /// Says that its client is one for whom others make room when connections are short.
    pub fn vouch(&self) {
        self.standing.vouched.set(true);
    }

    /// Where the other end is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn address_value(&self) -> &HeaderValue {
        &self.address_value
    }

    /// Opens its client's account, and takes a connection of it, or is barred.
    fn sit_down(&mut self, accounts: Option<&Accounts>) -> Option<Seat> {
        let accounts = accounts?;
        let named = self.peer.as_ref().and_then(|peer| peer.account.clone());
        let known = named.is_some();
        self.account = Some(named.unwrap_or_else(|| accounts.of_address(self.address.ip())));
        if !known || self.barred.is_some() {
            return None;
        }
        match self.account.as_ref().and_then(|account| accounts.seats(account)) {
            Some(seat) => seat,
            None => {
                (self.guard, self.barred) = (None, Some(Barred::Crowded));
                None
            }
        }
    }

    /// Runs a tunnel as part of this connection.
    pub(super) fn tunnel(&self, tunnel: impl Future<Output = ()> + 'static) {
        self.tunnelled.store(true, Ordering::Relaxed);
        self.tunnels.borrow_mut().spawn_local(tunnel);
    }
}

/// Why a connection is served nothing but refusals.
enum Barred {
    Expired,
    Untrusted(ChainError),
    Denied(Denial),
    /// Its client has too many others.
    Crowded,
}

/// Serves one accepted socket until it ends, its credential does, or `drain` says so.
pub(super) async fn serve<H: Handler>(
    context: Rc<Context<H>>,
    accepted: Accepted,
    drain: watch::Receiver<bool>,
) {
    let Accepted { socket, address, standing, turn } = accepted;
    let Some(_accepted) = context.peers.accounts().map_or(Some(None), |all| all.admits(address.ip())) else {
        context.metrics.refusals.with_label_values(&["too_many_connections"]).inc();
        return;
    };
    let Some(stream) = shake_hands(&context, socket, address, &standing).await else {
        return;
    };
    standing.shaken.set(true);
    drop(turn);
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let protocol = if http2 { "http/2" } else { "http/1.1" };
    let origin = Origin { peer: address, listener: context.listener, protocol };
    let mut connection = Connection { standing, ..context.admit(&stream, origin) };
    let _seat = connection.sit_down(context.peers.accounts());
    let connection = Rc::new(connection);
    let session = connection.guard.clone();
    let (guard, tunnelled) = (connection.guard.clone(), Arc::clone(&connection.tunnelled));
    if let (Some(guard), Ok(handle)) = (&guard, SockRef::from(&stream.get_ref().0.0).try_clone()) {
        guard.session().attach(handle.into());
    }
    let pace = Pace::new(context.timeouts.body_idle, context.limits.body_rate);
    let socket = Socket::new(stream, guard, tunnelled, pace);
    let peer = connection.peer.clone();
    let watch = Watch::new(&context, connection, drain);
    if http2 {
        serve_http2(&context, watch, socket).await;
    } else {
        serve_http1(&context, watch, socket).await;
    }
    let cause = session.as_ref().and_then(Guard::cause).cloned();
    // First let go, so that the revocation that waits for it can return; then write about it.
    drop(session);
    if let Some(cause) = cause {
        context.metrics.sessions_ended.with_label_values(&[cause.code]).inc();
        let principal_id = peer.as_deref().map_or("", Peer::principal);
        let serial = peer.as_deref().map_or("", |peer| peer.chain.leaf.serial.as_str());
        let (code, revocation_reason) = (cause.code, cause.reason);
        tracing::info!(%address, code, revocation_reason, principal_id, serial, "session ended");
    }
}

async fn shake_hands<H>(
    context: &Context<H>,
    socket: TcpStream,
    address: SocketAddr,
    standing: &Standing,
) -> Option<TlsStream<Tcp>> {
    let count = |result| context.metrics.handshakes.with_label_values(&[result]).inc();
    // Without it small answers wait for acknowledgements; a socket that refuses the option works all the same.
    let _ = socket.set_nodelay(true);
    let handshake = async {
        // Whatever fails here fails again when it is read.
        let _ = socket.readable().await;
        standing.spoken.set(true);
        context.acceptor.accept(Tcp::new(socket)).await
    };
    let reason = match timeout(context.timeouts.handshake, handshake).await {
        Ok(Ok(stream)) => {
            let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            count(if resumed { "resumed" } else { "full" });
            return Some(stream);
        }
        Ok(Err(e)) => e.to_string(),
        Err(_) => "not finished in time".to_owned(),
    };
    count("failed");
    tracing::info!(%address, reason, "handshake failed");
    None
}

impl<H: Handler> Context<H> {
    /// Who is it, and is it revoked: for full and resumed handshakes alike.
    fn admit(&self, stream: &TlsStream<Tcp>, origin: Origin) -> Connection {
        let recognised = match stream.get_ref().1.peer_certificates() {
            None | Some([]) => Ok(None),
            Some([leaf, intermediates @ ..]) => self.peers.recognise_again(leaf, intermediates).map(Some),
        };
        let (peer, untrusted) = match recognised {
            Ok(peer) => (peer, None),
            // The client knows the one, and can do something about it.
            Err(ChainError::Path(webpki::Error::CertExpired { .. })) => (None, Some(Barred::Expired)),
            Err(error) => (None, Some(Barred::Untrusted(error))),
        };
        // In advisory mode a session is in the table under nothing that could end it.
        let credential = match &peer {
            Some(peer) if self.mode == Mode::Strict => Arc::clone(&peer.credential),
            Some(peer) => Arc::new(peer.credential.untouchable()),
            None => Arc::clone(self.peers.nobody()),
        };
        let (guard, barred) = match untrusted {
            Some(barred) if self.mode == Mode::Strict => (None, Some(barred)),
            barred => match self.engine.admit(credential, origin) {
                Ok(guard) => (Some(guard), barred),
                Err(denial) => (None, Some(Barred::Denied(denial))),
            },
        };
        Connection {
            peer,
            address: origin.peer,
            address_value: address_value(origin.peer.ip()),
            account: None,
            guard,
            barred,
            tunnels: RefCell::default(),
            tunnelled: Arc::default(),
            close: Notify::new(),
            asked: Cell::new(false),
            first: Notify::new(),
            served: Cell::new(false),
            extensions: RefCell::default(),
            standing: Rc::default(),
        }
    }

    /// One request: check, route, judge, serve. A refusal about identity only passes in advisory mode.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps each of its arguments twice in its future")]
    fn answer(
        &self,
        connection: &Rc<Connection>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> {
        async move {
            let id = self.ids.next();
            if !connection.asked.replace(true) {
                connection.first.notify_one();
            }
            let mut clean = true;
            if let Err(refusal) = self.check(connection) {
                clean = false;
                if let Some(response) = self.refuse(&refusal, connection, id) {
                    if refusal.ends_connection() {
                        connection.close.notify_one();
                    }
                    self.handler.refused(&refusal, connection, id).await;
                    return response;
                }
            }
            let within = connection.account.as_ref().map_or(Ok(()), |account| account.request());
            if let Err(refusal) = within {
                return self.respond(&refusal, connection, id);
            }
            let route = match self.handler.route(&request) {
                Ok(route) => route,
                Err(refusal) => return self.respond(&refusal, connection, id),
            };
            if let Err(refusal) = self.handler.judge(&request, connection, &route) {
                clean = false;
                if let Some(response) = self.refuse(&refusal, connection, id) {
                    return response;
                }
            }
            if let (Some(peer), true) = (&connection.peer, clean) {
                peer.success.inc();
            }
            match self.handler.serve(request, id, connection, route).await {
                Ok(response) => response,
                Err(refusal) => self.respond(&refusal, connection, id),
            }
        }
    }

    /// Whether the credential of a connection stands, right now.
    fn check(&self, connection: &Connection) -> Result<(), Refusal> {
        match &connection.barred {
            Some(Barred::Expired) => return Err(Refusal::Expired),
            Some(Barred::Untrusted(error)) => return Err(Refusal::Untrusted(error.clone())),
            Some(Barred::Denied(denial)) => return Err(Refusal::Denied(denial.clone())),
            Some(Barred::Crowded) => return Err(Refusal::TooManyConnections),
            None => {}
        }
        let (Some(guard), Some(peer)) = (&connection.guard, &connection.peer) else {
            return Ok(());
        };
        if connection.served.replace(true) {
            self.peers.count_reuse();
        }
        let now = self.clock.now();
        if !peer.is_valid(now) {
            return Err(Refusal::Expired);
        }
        let verdict = match self.mode {
            Mode::Strict => self.engine.check(guard.session()),
            Mode::Advisory => self.engine.judge(&peer.credential),
        };
        verdict.map_err(Refusal::Denied)?;
        // After the verdict: what is known to be revoked is told so, however old the rest may be.
        self.feeds.as_ref().map_or(Ok(()), |feeds| feeds.check(&peer.credential, now).map_err(Refusal::Stale))
    }

    /// The answer to a refusal about identity; `None` where advisory mode lets the request pass.
    fn refuse(&self, refusal: &Refusal, connection: &Connection, id: RequestId) -> Option<Response<Body>> {
        if self.mode == Mode::Strict || !refusal.is_about_identity() {
            return Some(self.respond(refusal, connection, id));
        }
        self.report(refusal, connection, id, Passed::Yes);
        None
    }

    fn respond(&self, refusal: &Refusal, connection: &Connection, id: RequestId) -> Response<Body> {
        self.report(refusal, connection, id, Passed::No);
        error::respond(refusal, id, self.disclose, refusal.ends_connection())
    }

    fn report(&self, refusal: &Refusal, connection: &Connection, id: RequestId, passed: Passed) {
        let unsaid = match (refusal.retry_after(), &connection.account) {
            (Some(_), Some(account)) => account.worth_saying(self.clock.now().secs()),
            _ => Some(0),
        };
        let peer = connection.peer.as_deref();
        let concerned = Concerned { id, peer, address: connection.address, passed, unsaid };
        error::report(refusal, &concerned, &self.metrics);
    }
}

async fn serve_http1<H: Handler>(context: &Rc<Context<H>>, mut watch: Watch, socket: Socket) {
    let connection = Rc::clone(&watch.connection);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(context.timeouts.header)
        .max_headers(context.limits.headers)
        .max_buf_size(context.limits.header_bytes.max(8192));
    let service = service_fn(|request| {
        let (context, connection) = (Rc::clone(context), Rc::clone(&connection));
        async move { Ok::<_, Infallible>(context.answer(&connection, request).await) }
    });
    let mut http = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service).with_upgrades());
    loop {
        tokio::select! {
            biased;
            end = watch.end() => match end {
                // Dropped as it is: the socket throws away what it had not yet delivered.
                End::Killed => return,
                End::Gently => http.as_mut().graceful_shutdown(),
            },
            // A client that breaks off is its own affair; what cannot be parsed is answered by hyper.
            ended = &mut http => {
                if ended.is_err_and(|error| error.is_parse_too_large()) {
                    context.metrics.refusals.with_label_values(&["header_too_large"]).inc();
                }
                break;
            }
        }
    }
    // What was upgraded lives on in tunnels, for as long as the credential stands.
    let mut tunnels = connection.tunnels.take();
    loop {
        tokio::select! {
            biased;
            end = watch.end() => if end == End::Killed { return },
            ended = tunnels.join_next() => if ended.is_none() { return },
        }
    }
}

async fn serve_http2<H: Handler>(context: &Rc<Context<H>>, mut watch: Watch, mut socket: Socket) {
    let connection = Rc::clone(&watch.connection);
    tokio::select! {
        biased;
        _ = watch.end() => return,
        heard = timeout(context.timeouts.header, socket.preface()) => match heard {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        },
    }
    let streams =
        Streams::new(connection.guard.clone(), context.timeouts.body_idle, context.limits.body_rate);
    let mut builder = http2::Builder::new(streams.clone());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(context.limits.streams)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(context.limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(context.timeouts.header)
        .keep_alive_timeout(context.timeouts.handshake);
    let service = service_fn(|request| {
        let (context, connection, streams) = (Rc::clone(context), Rc::clone(&connection), streams.clone());
        async move {
            let response = context.answer(&connection, request).await;
            Ok::<_, Infallible>(response.map(|body| streams.body(body)))
        }
    });
    let mut http = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service));
    loop {
        tokio::select! {
            biased;
            end = watch.end() => {
                http.as_mut().graceful_shutdown();
                if end == End::Killed {
                    // GOAWAY, and the resets of the streams, which end on guards of their own, may still go out.
                    let _ = timeout(GRACE, http).await;
                    return;
                }
            },
            _ = &mut http => return,
        }
    }
}
