//! One connection: handshake, HTTP, and the end of it, on every listener alike; `admission` says whether it is let in,
//! `context` answers its requests.
//!
//! **Invariant:** the socket itself holds a guard. While it is open, its session is in the table; when a revocation
//! sees the last guard go, the socket is closed, and what it had not yet delivered is thrown away.
//!
//! Where routes of both modes share it, the connection holds the guard, and each strict request that is under way; the
//! requests of advisory routes hold none. A kill takes the connection along if it has carried anything strict, and nothing
//! advisory is under way; else what is strict ends, and the connection goes on under a session that no revocation ends
//! (`fall`), until another strict request would be let in (`arm`).

use std::cell::Cell;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use rustls::HandshakeKind;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::Context;
use super::Handler;
use super::Mode;
use super::Modes;
use super::Peer;
use super::accounts::Account;
use super::accounts::Accounts;
use super::accounts::Seat;
use super::admission::Barred;
use super::connection_state::ConnectionState;
use super::ending::End;
use super::ending::Watch;
use super::flight;
use super::flight::Flight;
use super::flight::Flights;
use super::handshake::Handshake;
use super::limits::Limit;
use super::pace::Pace;
use super::places::Ticket;
use super::presented::Presented;
use super::socket::Socket;
use super::socket::Tcp;
use super::streams::StandsOn;
use super::streams::Streams;
use crate::session::Guard;
use crate::session::Origin;
use crate::session::Session;
use crate::telemetry::LONGEST_REASON;
use crate::telemetry::LineKind;
use crate::telemetry::LineSource;
use crate::telemetry::cut;

const HANDSHAKE_FAILED: &str = "handshake failed";
/// How long a killed HTTP/2 connection may take to say goodbye before it is cut.
const GRACE: Duration = Duration::from_millis(20);

/// HTTP/2 streams that a client has reset before they were taken on; with more, the connection ends (CVE-2023-44487).
const RESETS: usize = 20;
/// HTTP/2 streams that had to be reset for what the client did with them; with more, the connection ends (CVE-2025-8671).
const ERRORS: usize = 128;
/// What may wait of one HTTP/2 stream's answer for a client that does not read, bytes; hyper's default is 400 kB, and
/// one connection has many streams.
const SEND_BUFFER: usize = 64 << 10;

/// One connection, as its requests see it.
pub struct Connection {
    pub(super) peer: Option<Arc<Peer>>,
    /// Who its client says that it is, where its chain does not verify.
    pub(super) presented: Option<Rc<Presented>>,
    pub(super) origin: Origin,
    pub(super) address_value: HeaderValue,
    /// What its client takes; `None` if that is not limited.
    pub(super) account: Option<Arc<Account>>,
    /// Its TLS session was resumed.
    pub(super) resumed: bool,
    pub(super) modes: Modes,
    /// In the table for as long as this connection is; absent if it was refused from the start.
    pub(super) guard: RefCell<Option<Guard>>,
    /// Whether that stands on all that can revoke its client. Where there are routes of both modes it need not.
    pub(super) armed: Cell<bool>,
    /// Another session has taken the place of the one before.
    pub(super) moved: Notify,
    /// Why it was refused from the start, if it was; every request on it is told the same.
    pub(super) barred: Option<Barred>,
    pub(super) tunnels: RefCell<JoinSet<()>>,
    pub(super) flights: Arc<Flights>,
    /// Whether there was a request, and who waits for the first.
    pub(super) asked: Cell<bool>,
    pub(super) first: Notify,
    pub(super) served: Cell<bool>,
    /// What the handler keeps about it.
    pub(super) extensions: RefCell<Extensions>,
    pub(super) state: Rc<ConnectionState>,
}

/// A socket that the accept loop hands over.
pub(super) struct Accepted {
    pub(super) ticket: Ticket,
    pub(super) address: SocketAddr,
}

impl Connection {
    /// Who is at the other end; `None` without a client certificate.
    pub fn peer(&self) -> Option<&Arc<Peer>> {
        self.peer.as_ref()
    }

    /// Keeps its session in the table; `None` of a connection that was refused from the start.
    pub fn guard(&self) -> Option<Guard> {
        self.guard.borrow().clone()
    }

    /// Whether its session stands on all that can revoke its client.
    pub(super) fn is_armed(&self) -> bool {
        self.armed.get()
    }

    /// What a request for a route of this mode keeps in the table; `None` where no revocation may end it.
    pub(super) fn guard_for(&self, mode: Mode) -> Option<Guard> {
        if self.modes == Modes::Mixed && mode == Mode::Advisory { None } else { self.guard() }
    }

    /// A request for a route of this mode begins: where modes are mixed it is counted for as long as what is returned
    /// lives, and its stream, if it has one, stands on what may end it.
    pub(super) fn begin(&self, mode: Mode) -> Option<Flight> {
        let flight = self.flight(mode)?;
        if let (Mode::Strict, Some(guard)) = (mode, &*self.guard.borrow()) {
            flight::stand_on(guard);
        }
        Some(flight)
    }

    /// Counts a request for a route of this mode for as long as what is returned lives, where modes are mixed.
    pub(super) fn flight(&self, mode: Mode) -> Option<Flight> {
        (self.modes == Modes::Mixed).then(|| self.flights.begin(mode))
    }

    /// Its session, for somebody who does not keep it in the table.
    pub(super) fn session(&self) -> Option<Arc<Session>> {
        self.guard.borrow().as_ref().map(Guard::watched)
    }

    /// Puts another session in the place of its own. It reaches the same socket.
    pub(super) fn stand_on(&self, guard: Guard) {
        let before = self.guard.borrow_mut().replace(guard);
        let handle = before.and_then(|before| before.session().handle());
        if let (Some(guard), Some(handle)) = (&*self.guard.borrow(), handle) {
            guard.session().attach(handle);
        }
        self.moved.notify_one();
    }

    /// What the handler keeps about it.
    pub fn extensions(&self) -> &RefCell<Extensions> {
        &self.extensions
    }

    /// Says that its client is one for whom others make room when connections are short.
    pub fn vouch(&self) {
        self.state.vouched.set(true);
    }

    /// Where the other end is.
    pub fn address(&self) -> SocketAddr {
        self.origin.peer
    }

    pub(super) fn address_value(&self) -> &HeaderValue {
        &self.address_value
    }

    /// Opens its client's account, and takes a connection of it, or is barred.
    pub(super) fn sit_down(&mut self, accounts: Option<&Accounts>) -> Option<Seat> {
        let accounts = accounts?;
        // Who is denied, and served by advisory routes alone, takes nothing of its principal's.
        let named = self.peer.as_ref().filter(|_| self.armed.get()).and_then(|peer| peer.account.clone());
        let known = named.is_some();
        self.account = Some(named.unwrap_or_else(|| accounts.of_address(self.address().ip())));
        if !known || self.barred.is_some() {
            return None;
        }
        match self.account.as_ref().and_then(|account| accounts.seats(account)) {
            Some(seat) => seat,
            None => {
                drop(self.guard.take());
                self.armed.set(false);
                self.barred = Some(Barred::Crowded);
                None
            }
        }
    }

    /// Runs a tunnel as part of this connection.
    pub(super) fn tunnel(&self, tunnel: impl Future<Output = ()> + 'static) {
        self.flights.tunnel();
        let request = self.state.carry();
        let mut tunnels = self.tunnels.borrow_mut();
        // One after the other may come over an HTTP/2 connection.
        while tunnels.try_join_next().is_some() {}
        tunnels.spawn_local(async move {
            tunnel.await;
            drop(request);
        });
    }
}

/// Serves one accepted socket until it ends, its credential does, or `drain` says so.
pub(super) async fn serve<H: Handler>(
    context: Rc<Context<H>>,
    accepted: Accepted,
    drain: watch::Receiver<bool>,
) {
    let Accepted { mut ticket, address } = accepted;
    let Some(_accepted) = context.peers.accounts().map_or(Some(None), |all| all.admits(address.ip())) else {
        context.metrics.refusals.with_label_values(&["too_many_connections"]).inc();
        context.reached.reached(Limit::ConnectionsPerAddress);
        return;
    };
    let handshake = Handshake::of(address);
    let Some(stream) = shake_hands(&context, &mut ticket, &handshake).await else {
        return;
    };
    let handle = ticket.served();
    let state = Rc::clone(&ticket.state);
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let protocol = if http2 { "http/2" } else { "http/1.1" };
    let origin = Origin { peer: address, listener: context.listener, protocol };
    let mut connection = Connection { state, ..context.admit(&stream, &handshake, origin) };
    drop(handshake);
    let _seat = connection.sit_down(context.peers.accounts());
    let connection = Rc::new(connection);
    if let (Some(session), Some(handle)) = (connection.session(), handle) {
        session.attach(handle.into());
    }
    let guard = connection.guard().filter(|_| context.modes != Modes::Mixed);
    let pace = Pace::new(context.timeouts.body_idle, context.limits.body_rate);
    let socket = Socket::new(stream, guard, Arc::clone(&connection.flights), pace);
    // Tells how long it was when it is dropped.
    let lasts = || context.metrics.traffic.session(origin.listener, origin.protocol);
    let _lasts = connection.session().map(|_| lasts());
    let watch = Watch::new(&context, Rc::clone(&connection), drain);
    if http2 {
        serve_http2(&context, watch, socket).await;
    } else {
        serve_http1(&context, watch, socket).await;
    }
    // The socket is closed. First let go, so that the revocation that waits for it can return; then write about it.
    let (session, peer) = (connection.session(), connection.peer.clone());
    let flooded = connection.flights.is_flooded();
    if context.modes == Modes::Mixed {
        // What an advisory stream still does keeps the connection, and must not keep its session.
        connection.armed.set(false);
        drop(connection.guard.take());
    }
    drop(connection);
    if let Some(cause) = session.as_deref().and_then(Session::cause) {
        context.tell_end((peer.as_deref(), address), cause);
    }
    if flooded {
        context.tell_flood(peer.as_deref(), address);
    }
}

async fn shake_hands<H>(
    context: &Context<H>,
    ticket: &mut Ticket,
    handshake: &Rc<Handshake>,
) -> Option<TlsStream<Tcp>> {
    let count = |result| context.metrics.handshakes.with_label_values(&[result]).inc();
    let shaking = async {
        let socket = ticket.turn().await.ok_or(io::ErrorKind::NotConnected)?;
        // Without it small answers wait for acknowledgements; a socket that refuses the option works all the same.
        let _ = socket.set_nodelay(true);
        let mut accepting = std::pin::pin!(handshake.run(context.acceptor.accept(Tcp::new(socket))));
        poll_fn(|cx| {
            let polled = accepting.as_mut().poll(cx);
            if polled.is_pending() {
                ticket.answered(Instant::now());
            }
            polled
        })
        .await
    };
    let mut code = "handshake_failed";
    let reason = match timeout(context.timeouts.handshake, shaking).await {
        Ok(Ok(stream)) => {
            let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            count(if resumed { "resumed" } else { "full" });
            return Some(stream);
        }
        Ok(Err(e)) => {
            // What rustls says of a chain is no more than the alert that its client gets.
            let fault = handshake.fault().filter(|_| !context.peers.lets_strangers_in());
            fault.map_or_else(|| e.to_string(), |fault| fault.to_string())
        }
        // The client did its part.
        Err(_) if ticket.waits() => {
            code = "no_place";
            let waited = humantime::format_duration(context.timeouts.handshake);
            format!("waited for a place ({}) for {waited}", places_of(context.listener))
        }
        Err(_) => "not finished in time".to_owned(),
    };
    count("failed");
    let address = handshake.client();
    let kind = LineKind::info(HANDSHAKE_FAILED, code);
    if let Some(unsaid) = context.peers.admits_line(kind, LineSource::Address(address.ip())) {
        let reason = &*cut(&reason, LONGEST_REASON);
        tracing::info!(%address, code, reason, unsaid, "{HANDSHAKE_FAILED}");
    }
    None
}

/// What bounds the places of a listener.
fn places_of(listener: &str) -> &'static str {
    match listener {
        "gate" => "gate.limits.connections or handshakes",
        _ => "of the listener's own, which no setting changes",
    }
}

async fn serve_http1<H: Handler>(context: &Rc<Context<H>>, mut watch: Watch<H>, socket: Socket) {
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

async fn serve_http2<H: Handler>(context: &Rc<Context<H>>, mut watch: Watch<H>, mut socket: Socket) {
    let connection = Rc::clone(&watch.connection);
    tokio::select! {
        biased;
        _ = watch.end() => return,
        heard = timeout(context.timeouts.header, socket.preface()) => match heard {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        },
    }
    let stands_on = match context.modes {
        Modes::Mixed => StandsOn::ItsRoute,
        Modes::Strict | Modes::Advisory => StandsOn::Connection(connection.guard()),
    };
    let pace = (context.timeouts.body_idle, context.limits.body_rate);
    let streams = Streams::new(stands_on, Rc::clone(&context.exchanges), pace, socket.count_frames());
    let mut builder = http2::Builder::new(streams.clone());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(context.limits.streams)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(ERRORS)
        .max_send_buf_size(SEND_BUFFER)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(context.limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(context.timeouts.header)
        .keep_alive_timeout(context.timeouts.handshake);
    if context.modes == Modes::Mixed {
        builder.max_send_buf_size(flight::HELD_READY);
    }
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
