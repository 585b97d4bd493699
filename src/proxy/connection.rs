//! One connection: handshake, admission, HTTP, and the end of it, on every listener alike.
//!
//! **Invariant:** the socket itself holds a guard. While it is open, its session is in the table; when a revocation
//! sees the last guard go, the socket is closed, and what it had not yet delivered is thrown away.

use std::cell::Cell;
use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context as TaskContext;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use http::HeaderValue;
use http::Request;
use http::Response;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use rustls::HandshakeKind;
use socket2::SockRef;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::task::spawn_local;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::sleep;
use tokio::time::sleep_until;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use uuid::Uuid;

use super::Body;
use super::Limits;
use super::Mode;
use super::Peer;
use super::Peers;
use super::Timeouts;
use super::error;
use super::error::Concerned;
use super::error::Passed;
use super::error::Refusal;
use super::peer::address_value;
use crate::clock::Clock;
use crate::identity::ChainError;
use crate::problem::Disclose;
use crate::revocation::Engine;
use crate::session::Cause;
use crate::session::Guard;
use crate::telemetry::Metrics;

/// How long a killed HTTP/2 connection may take to say goodbye before it is cut.
const GRACE: Duration = Duration::from_millis(20);
/// How long a connection that was refused from the start may take to ask for its one refusal.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// How long a connection that was closed from this side is read from, so that its last answer arrives.
const LINGER: Duration = Duration::from_secs(2);

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
    /// TLS.
    pub acceptor: TlsAcceptor,
    /// Who clients are.
    pub peers: Arc<Peers>,
    /// Whether they are revoked.
    pub engine: Arc<Engine>,
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
    /// In the table for as long as this connection is; absent if it was refused from the start.
    guard: Option<Guard>,
    refusal: RefCell<Option<Refusal>>,
    tunnels: RefCell<JoinSet<()>>,
    tunnelled: Arc<AtomicBool>,
    /// Asks for the end of the connection after the answer at hand.
    close: Notify,
    served: Cell<bool>,
}

impl Connection {
    /// Who is at the other end; `None` without a client certificate.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.peer.as_ref()
    }

    /// Where the other end is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Keeps the session in the table; for tasks that act on its behalf.
    pub(super) fn guard(&self) -> Option<Guard> {
        self.guard.clone()
    }

    pub(super) fn address_value(&self) -> &HeaderValue {
        &self.address_value
    }

    /// Runs a tunnel as part of this connection.
    pub(super) fn tunnel(&self, tunnel: impl Future<Output = ()> + 'static) {
        self.tunnelled.store(true, Ordering::Relaxed);
        self.tunnels.borrow_mut().spawn_local(tunnel);
    }
}

/// Serves one accepted socket until it ends, its credential does, or `drain` says so.
pub(super) async fn serve<H: Handler>(
    context: Rc<Context<H>>,
    socket: TcpStream,
    address: SocketAddr,
    drain: watch::Receiver<bool>,
) {
    let Some(stream) = shake_hands(&context, socket, address).await else {
        return;
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let connection = Rc::new(context.admit(&stream, address));
    let session = connection.guard.clone();
    let socket = Socket {
        stream,
        guard: connection.guard.clone(),
        lingers: None,
        tunnelled: Arc::clone(&connection.tunnelled),
    };
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
        context
            .metrics
            .sessions_ended
            .with_label_values(&[cause.code])
            .inc();
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
) -> Option<TlsStream<TcpStream>> {
    let count = |result| context.metrics.handshakes.with_label_values(&[result]).inc();
    // Without it small answers wait for acknowledgements; a socket that refuses the option works all the same.
    let _ = socket.set_nodelay(true);
    let handshake = timeout(context.timeouts.handshake, context.acceptor.accept(socket)).await;
    let reason = match handshake {
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
    fn admit(&self, stream: &TlsStream<TcpStream>, address: SocketAddr) -> Connection {
        let recognised = match stream.get_ref().1.peer_certificates() {
            None | Some([]) => Ok(None),
            Some([leaf, intermediates @ ..]) => self.peers.recognise(leaf, intermediates).map(Some),
        };
        let (peer, untrusted) = match recognised {
            Ok(peer) => (peer, None),
            // The client knows the one, and can do something about it.
            Err(ChainError::Path(webpki::Error::CertExpired { .. })) => (None, Some(Refusal::Expired)),
            Err(error) => (None, Some(Refusal::Untrusted(error))),
        };
        // In advisory mode a session is in the table under nothing that could end it.
        let credential = match &peer {
            Some(peer) if self.mode == Mode::Strict => Arc::clone(&peer.credential),
            _ => Arc::default(),
        };
        let admitted = match untrusted {
            Some(refusal) if self.mode == Mode::Strict => Err(refusal),
            _ => self.engine.admit(credential, address).map_err(Refusal::Denied),
        };
        let (guard, refusal) = match admitted {
            Ok(guard) => (Some(guard), None),
            Err(refusal) => (None, Some(refusal)),
        };
        Connection {
            peer,
            address,
            address_value: address_value(address.ip()),
            guard,
            refusal: RefCell::new(refusal),
            tunnels: RefCell::default(),
            tunnelled: Arc::default(),
            close: Notify::new(),
            served: Cell::new(false),
        }
    }

    /// One request: check, route, judge, serve. A refusal about identity only passes in advisory mode.
    async fn answer(&self, connection: &Rc<Connection>, request: Request<Incoming>) -> Response<Body> {
        let id = self.ids.next();
        let mut clean = true;
        if let Err(refusal) = self.check(connection) {
            clean = false;
            if let Some(response) = self.refuse(&refusal, connection, id) {
                connection.close.notify_one();
                return response;
            }
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

    /// Whether the credential of a connection stands, right now.
    fn check(&self, connection: &Connection) -> Result<(), Refusal> {
        if let Some(refusal) = connection.refusal.borrow_mut().take() {
            return Err(refusal);
        }
        let Some(guard) = &connection.guard else {
            return Err(Refusal::Malformed("another request on a refused connection"));
        };
        let Some(peer) = &connection.peer else {
            return Ok(());
        };
        if connection.served.replace(true) {
            self.peers.count_reuse();
        }
        if !peer.is_valid(self.clock.now()) {
            return Err(Refusal::Expired);
        }
        let verdict = match self.mode {
            Mode::Strict => self.engine.check(guard.session()),
            Mode::Advisory => self.engine.judge(&peer.credential),
        };
        verdict.map_err(Refusal::Denied)
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
        let concerned = Concerned {
            id,
            peer: connection.peer.as_deref(),
            address: connection.address,
            passed,
        };
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
    let mut http = std::pin::pin!(
        builder
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades()
    );
    loop {
        tokio::select! {
            biased;
            end = watch.end() => match end {
                // Dropped as it is: the socket throws away what it had not yet delivered.
                End::Killed => return,
                End::Gently => http.as_mut().graceful_shutdown(),
            },
            // A client that breaks off is its own affair; what cannot be parsed is answered by hyper.
            _ = &mut http => break,
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

async fn serve_http2<H: Handler>(context: &Rc<Context<H>>, mut watch: Watch, socket: Socket) {
    let connection = Rc::clone(&watch.connection);
    let mut builder = http2::Builder::new(Streams {
        guard: connection.guard.clone(),
    });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(context.limits.streams)
        .max_header_list_size(u32::try_from(context.limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(context.timeouts.header)
        .keep_alive_timeout(context.timeouts.handshake);
    let service = service_fn(|request| {
        let (context, connection) = (Rc::clone(context), Rc::clone(&connection));
        async move { Ok::<_, Infallible>(context.answer(&connection, request).await) }
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Now: the session was killed, or the time of a refused connection is up.
    Killed,
    /// After what is at hand.
    Gently,
}

/// What ends a connection from outside.
struct Watch {
    connection: Rc<Connection>,
    /// When the certificate expires, or a refused connection has had its time.
    deadline: Option<Instant>,
    drain: watch::Receiver<bool>,
    draining: bool,
}

impl Watch {
    fn new<H>(context: &Context<H>, connection: Rc<Connection>, drain: watch::Receiver<bool>) -> Self {
        let expiry = |peer: &Arc<Peer>| peer.chain.not_after.since(context.clock.now());
        let lasts = match &connection.guard {
            None => Some(REFUSED_FOR),
            Some(_) if context.mode == Mode::Advisory => None,
            Some(_) => connection.peer.as_ref().map(expiry),
        };
        let deadline = lasts.and_then(|lasts| Instant::now().checked_add(lasts));
        Self {
            connection,
            deadline,
            drain,
            draining: false,
        }
    }

    async fn end(&mut self) -> End {
        let guard = self.connection.guard.as_ref();
        let killed = async {
            match guard {
                Some(guard) => drop(guard.killed().await),
                None => std::future::pending().await,
            }
        };
        let late = async {
            match self.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = killed => End::Killed,
            () = late => {
                let expired = || Cause { code: "certificate_expired", reason: String::new() };
                guard.iter().for_each(|guard| guard.session().kill(expired()));
                End::Killed
            }
            _ = self.drain.wait_for(|drain| *drain), if !self.draining => {
                self.draining = true;
                End::Gently
            }
            () = self.connection.close.notified() => End::Gently,
        }
    }
}

/// Runs the streams of an HTTP/2 connection: each a task, with a guard and an eye on the kill of its own.
#[derive(Clone)]
struct Streams {
    guard: Option<Guard>,
}

impl<F: Future + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Some(guard) = self.guard.clone() else {
            spawn_local(async { drop(stream.await) });
            return;
        };
        spawn_local(async move {
            tokio::select! {
                biased;
                _ = guard.killed() => {}
                _ = stream => {}
            }
        });
    }
}

/// The client's socket. Its fields go in this order: the socket is closed before its guard is given up.
struct Socket {
    stream: TlsStream<TcpStream>,
    guard: Option<Guard>,
    /// Since it was shut down for writing.
    lingers: Option<Pin<Box<Sleep>>>,
    /// It carries a tunnel, whose client may go on after the other side has ended.
    tunnelled: Arc<AtomicBool>,
}

impl Socket {
    /// Throws away what the client still sends, until it is through or has had its time. A socket that is closed over
    /// unread bytes is reset, and takes along what was written to it: the refusal of an upload, for one.
    fn poll_linger(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let lingers = self.lingers.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if lingers.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut bytes = [0; 4096];
        loop {
            let mut rest = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(self.stream.get_mut().0).poll_read(cx, &mut rest));
            if read.is_err() || rest.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.guard.as_ref().is_some_and(|guard| guard.cause().is_some()) {
            // Without it the kernel goes on to deliver what was written, megabytes perhaps, after the revocation.
            let _ = SockRef::from(self.stream.get_ref().0).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        match this.tunnelled.load(Ordering::Relaxed) {
            true => Poll::Ready(Ok(())),
            false => this.poll_linger(cx).map(Ok),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// What the log and the upstream call a request: a random number of the thread, and a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64, u64);

impl RequestId {
    /// As a header's value.
    pub(super) fn value(self) -> HeaderValue {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'0'; 32];
        let number = u128::from(self.0) << 64 | u128::from(self.1);
        for (i, digit) in text.iter_mut().rev().enumerate() {
            *digit = DIGITS[(number >> (4 * i) & 0xf) as usize];
        }
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

/// Makes the request ids of one thread.
pub struct RequestIds {
    thread: u64,
    count: Cell<u64>,
}

impl RequestIds {
    /// Starts a sequence of its own.
    pub fn new() -> Self {
        let thread = Uuid::new_v4().as_u64_pair().0;
        Self {
            thread,
            count: Cell::new(0),
        }
    }

    fn next(&self) -> RequestId {
        let count = self.count.get();
        self.count.set(count.wrapping_add(1));
        RequestId(self.thread, count)
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::new()
    }
}
