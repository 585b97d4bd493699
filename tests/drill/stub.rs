//! A server that is told to revoke somebody and does so when and where it was made to, with a clock of its own.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use portcullis::rig::findings::Kind;
use rustls::HandshakeKind;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::pki::Ca;
use crate::pki::Cert;

/// When and where it enforces what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enforces {
    /// So long after the call, everywhere.
    After(Duration),
    /// Nowhere.
    Never,
    /// On connections that begin after the call.
    OnNewConnections,
    /// At once, but that the second request after the first refusal is served.
    Flapping,
    /// At once, and offers all but this.
    Without(Kind),
    /// At once; whoever else asks meanwhile gets a 502 now and then.
    WithLosses,
    /// Not at all: at the call it falls over, for everybody.
    ByAnOutage,
    /// At once on what is open, which is cut off; so long after the call on what is begun anew.
    Reopened(Duration),
    /// At once; now and then it ends an HTTP/1.1 connection that it is tired of as a request comes in.
    Tired,
    /// At once, but that it says so by sending the victim elsewhere.
    ByRedirect,
    /// At once; whoever calls may revoke, but once only.
    Careless,
    /// So long after the call; its WebSockets send all the time.
    Chatty(Duration),
}

/// What it did to the victim, by kind: since the call came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamps {
    pub(crate) last_served: Option<Instant>,
    pub(crate) first_refused: Option<Instant>,
}

/// A running server.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    enforces: Enforces,
    victim: CertificateDer<'static>,
    /// When the call came in.
    called: watch::Sender<Option<Instant>>,
    stamps: Mutex<BTreeMap<Kind, Stamps>>,
    /// Requests of the victim since the call, and of others.
    asked: AtomicUsize,
    others: AtomicUsize,
}

/// A connection, as its requests see it.
#[derive(Clone)]
struct Line {
    shared: Arc<Shared>,
    is_victim: bool,
    is_known: bool,
    http2: bool,
    resumed: bool,
    begun: Instant,
}

impl Stub {
    pub(crate) async fn start(ca: &Ca, victim: &Cert, enforces: Enforces) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            enforces,
            victim: victim.chain[0].clone(),
            called: watch::channel(None).0,
            stamps: Mutex::default(),
            asked: AtomicUsize::new(0),
            others: AtomicUsize::new(0),
        });
        let acceptor = TlsAcceptor::from(Arc::new(config(ca)));
        let own = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (shared, acceptor) = (Arc::clone(&own), acceptor.clone());
                tokio::spawn(async move {
                    socket.set_nodelay(true).unwrap();
                    // Whoever is not wanted is told by the handshake.
                    if let Ok(stream) = acceptor.accept(socket).await {
                        serve(stream, shared).await;
                    }
                });
            }
        });
        Self { address, shared }
    }

    /// When the call came in, and what was done since.
    pub(crate) fn stamps(&self) -> (Instant, BTreeMap<Kind, Stamps>) {
        let called = *self.shared.called.borrow();
        (called.unwrap(), self.shared.stamps.lock().unwrap().clone())
    }
}

fn config(ca: &Ca) -> ServerConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let clients = clients.allow_unauthenticated().build().unwrap();
    let (certificate, key) = ca.server();
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(4096);
    config
}

async fn serve(stream: TlsStream<TcpStream>, shared: Arc<Shared>) {
    let session = stream.get_ref().1;
    let line = Line {
        is_victim: session.peer_certificates().is_some_and(|chain| chain[0] == shared.victim),
        is_known: session.peer_certificates().is_some(),
        http2: session.alpn_protocol() == Some(b"h2"),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        begun: Instant::now(),
        shared,
    };
    let http2 = line.http2;
    let service = service_fn(move |request| {
        let line = line.clone();
        async move { line.answer(request).await }
    });
    let io = TokioIo::new(stream);
    // How it ends is the client's affair.
    let _ = match http2 {
        true => http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
        false => http1::Builder::new().serve_connection(io, service).with_upgrades().await,
    };
}

impl Line {
    async fn answer(self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        if request.uri().path() == "/revoke" {
            let body = String::from_utf8(request.collect().await.unwrap().to_bytes().to_vec()).unwrap();
            return Ok(self.call(&body));
        }
        let kind = self.kind(&request);
        if self.shared.enforces == Enforces::Without(kind) {
            // As some say it where others would say 404 or 426.
            return Ok(status(StatusCode::FORBIDDEN));
        }
        if self.shared.enforces == Enforces::ByAnOutage && self.is_called() {
            return Err(io::Error::other("down"));
        }
        let number = || self.shared.others.fetch_add(1, Ordering::SeqCst);
        // On a connection that was used: a new one would be told apart.
        if self.shared.enforces == Enforces::Tired && kind == Kind::Http1 && number() % 10 == 9 {
            return Err(io::Error::other("tired"));
        }
        if !self.is_victim {
            let lost = self.shared.enforces == Enforces::WithLosses
                && self.is_called()
                && kind == Kind::Http1
                && self.shared.others.fetch_add(1, Ordering::SeqCst).is_multiple_of(10);
            let status = if lost { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
            return self.serve(kind, request, status).await;
        }
        match self.denies() {
            true => {
                self.stamp(kind, |stamps| {
                    stamps.first_refused.get_or_insert_with(Instant::now);
                });
                Ok(match self.shared.enforces {
                    Enforces::ByRedirect => status(StatusCode::FOUND),
                    _ => status(StatusCode::FORBIDDEN),
                })
            }
            false => self.serve(kind, request, StatusCode::OK).await,
        }
    }

    /// Revokes: the first call sets the clock.
    fn call(&self, body: &str) -> Response<Full<Bytes>> {
        let careless = self.shared.enforces == Enforces::Careless;
        if careless && self.is_known && self.is_called() {
            return status(StatusCode::CONFLICT);
        }
        match (self.is_known || careless, self.shared.is_named(body)) {
            (false, _) if self.shared.enforces == Enforces::ByRedirect => return status(StatusCode::FOUND),
            (false, _) => return status(StatusCode::UNAUTHORIZED),
            (true, false) => return status(StatusCode::NOT_FOUND),
            (true, true) => {}
        }
        self.shared.called.send_if_modified(|called| {
            let first = called.is_none();
            called.get_or_insert_with(Instant::now);
            first
        });
        status(StatusCode::OK)
    }

    fn kind(&self, request: &Request<Incoming>) -> Kind {
        let headers = request.headers();
        let closes = headers.get(header::CONNECTION).is_some_and(|value| value == "close");
        match (request.method() == Method::POST, self.http2, closes) {
            (true, true, _) => Kind::Stream,
            (true, false, _) => Kind::Body,
            (false, true, _) => Kind::Http2,
            (false, false, true) if self.resumed => Kind::Resumption,
            (false, false, true) => Kind::Handshake,
            (false, false, false) if headers.contains_key(header::UPGRADE) => Kind::WebSocket,
            (false, false, false) => Kind::Http1,
        }
    }

    fn is_called(&self) -> bool {
        self.shared.called.borrow().is_some()
    }

    fn denies(&self) -> bool {
        let Some(called) = *self.shared.called.borrow() else { return false };
        match self.shared.enforces {
            Enforces::After(delay) => called.elapsed() >= delay,
            Enforces::Never => false,
            Enforces::OnNewConnections => self.begun > called,
            Enforces::Flapping => self.shared.asked.fetch_add(1, Ordering::SeqCst) != 3,
            Enforces::Reopened(delay) | Enforces::Chatty(delay) => called.elapsed() >= delay,
            _ => true,
        }
    }

    /// Returns when it is time to end what goes on.
    async fn end(&self) {
        let mut called = self.shared.called.subscribe();
        let at = loop {
            if let Some(at) = *called.borrow_and_update() {
                break at;
            }
            if called.changed().await.is_err() {
                return std::future::pending().await;
            }
        };
        match self.shared.enforces {
            Enforces::ByAnOutage => {}
            _ if !self.is_victim => std::future::pending().await,
            Enforces::After(delay) | Enforces::Chatty(delay) => {
                tokio::time::sleep_until((at + delay).into()).await
            }
            Enforces::Never | Enforces::OnNewConnections => std::future::pending().await,
            // What was begun anew is left alone for a while.
            Enforces::Reopened(delay) if self.begun > at => {
                tokio::time::sleep_until((at + delay).into()).await
            }
            _ => {}
        }
    }

    fn stamp(&self, kind: Kind, change: impl FnOnce(&mut Stamps)) {
        if self.is_victim {
            change(self.shared.stamps.lock().unwrap().entry(kind).or_default());
        }
    }

    fn served(&self, kind: Kind) {
        self.stamp(kind, |stamps| stamps.last_served = Some(Instant::now()));
    }

    fn cut(&self, kind: Kind) {
        self.stamp(kind, |stamps| {
            // The first end; what came to nothing later had not been served.
            if stamps.first_refused.is_none() {
                let now = Instant::now();
                stamps.first_refused = Some(now);
                if request_goes_on(kind) {
                    stamps.last_served = Some(now);
                }
            }
        });
    }

    async fn serve(
        &self,
        kind: Kind,
        mut request: Request<Incoming>,
        code: StatusCode,
    ) -> io::Result<Response<Full<Bytes>>> {
        if kind == Kind::WebSocket {
            let key = request.headers()[header::SEC_WEBSOCKET_KEY].clone();
            let (line, upgrade) = (self.clone(), hyper::upgrade::on(&mut request));
            tokio::spawn(async move {
                let io = TokioIo::new(upgrade.await.unwrap());
                line.pong(WebSocketStream::from_raw_socket(io, Role::Server, None).await).await;
            });
            let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
            for (name, value) in [(header::CONNECTION, "upgrade"), (header::UPGRADE, "websocket")] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            let accept = derive_accept_key(key.as_bytes()).parse().unwrap();
            response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            return Ok(response);
        }
        let mut body = request.into_body();
        loop {
            tokio::select! {
                biased;
                () = self.end(), if request_goes_on(kind) => {
                    self.cut(kind);
                    return Err(io::Error::other("revoked"));
                }
                frame = body.frame() => match frame {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(io::Error::other(error)),
                    None => break,
                }
            }
        }
        self.served(kind);
        Ok(status(code))
    }

    async fn pong(self, mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>) {
        let chatty = matches!(self.shared.enforces, Enforces::Chatty(_));
        loop {
            tokio::select! {
                biased;
                () = self.end() => return self.cut(Kind::WebSocket),
                message = socket.next() => match message {
                    // Its pong is sent with the next flush.
                    Some(Ok(Message::Ping(_))) => {
                        self.served(Kind::WebSocket);
                        socket.flush().await.unwrap();
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                },
                () = tokio::task::yield_now(), if chatty => {
                    if socket.send(Message::text("news")).await.is_err() {
                        return;
                    }
                    self.served(Kind::WebSocket);
                }
            }
        }
    }
}

impl Shared {
    /// Whether somebody names the victim: its serial is at the end of what is posted.
    fn is_named(&self, body: &str) -> bool {
        let victim = portcullis::identity::Certificate::parse(&self.victim).unwrap();
        body.ends_with(&victim.serial.to_string())
    }
}

fn request_goes_on(kind: Kind) -> bool {
    matches!(kind, Kind::Stream | Kind::Body)
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}
