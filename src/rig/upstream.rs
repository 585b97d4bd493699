//! A sample upstream: it says who it was told that the client is, echoes WebSockets, reads bodies to their end, and writes
//! down what it served.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::CONNECTION;
use http::header::CONTENT_TYPE;
use http::header::SEC_WEBSOCKET_ACCEPT;
use http::header::SEC_WEBSOCKET_KEY;
use http::header::UPGRADE;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::upload::HOLD;
use super::upload::HeldUploads;

/// Who the gate says is asking.
const PRINCIPAL: &str = "x-portcullis-principal";

/// A running sample upstream, on a thread of its own. Dropping it ends it.
pub struct Upstream {
    address: SocketAddr,
    served: Served,
    pieces: Pieces,
    uploads: HeldUploads,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What was served, and when the answer to it was made: by principal and the last part of the path, or by the message
/// of a WebSocket. Plain `None` once nobody is interested any more, so that it does not grow for ever.
#[derive(Clone)]
struct Served(Arc<Mutex<Option<Log>>>);

type Log = HashMap<(String, String), Instant>;

/// How many bytes a piece of a body has.
pub const PIECE: usize = 16;

/// The last whole piece of each `POST` that is under way or over, by its path: bodies are made of pieces of [`PIECE`]
/// bytes, each a number in lower-case hexadecimal.
#[derive(Clone, Default)]
struct Pieces(Arc<Mutex<HashMap<String, u64>>>);

impl Upstream {
    /// Starts one on loopback, on `port` or, if that is taken, on any free one.
    pub fn start(port: u16) -> io::Result<Self> {
        let usual = StdListener::bind((Ipv4Addr::LOCALHOST, port));
        Self::serve(usual.or_else(|_| StdListener::bind((Ipv4Addr::LOCALHOST, 0)))?)
    }

    /// Starts one at this address and nowhere else.
    pub fn listen(address: SocketAddr) -> io::Result<Self> {
        Self::serve(StdListener::bind(address)?)
    }

    fn serve(listener: StdListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let served = Served(Arc::new(Mutex::new(Some(Log::new()))));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (pieces, uploads) = (Pieces::default(), HeldUploads::default());
        let notes = Notes { served: served.clone(), pieces: pieces.clone(), uploads: uploads.clone() };
        let thread = std::thread::Builder::new().name("upstream".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    Err(error) = accept(listener, notes) => tracing::error!(%error, "sample upstream"),
                }
            });
        })?;
        Ok(Self { address, served, pieces, uploads, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The uploads of which it has read the header alone, as they asked it to.
    pub fn uploads(&self) -> &HeldUploads {
        &self.uploads
    }

    /// The last piece of the body that was sent to `path`; it is forgotten with that.
    pub fn take_piece(&self, path: &str) -> Option<u64> {
        self.pieces.lock().remove(path)
    }

    /// When it served what to `principal`, by what was asked; from now on nothing is written down any more.
    pub fn take_served(&self, principal: &str) -> HashMap<String, Instant> {
        let log = self.served.lock().take().unwrap_or_default();
        log.into_iter().filter(|((who, _), _)| who == principal).map(|((_, what), at)| (what, at)).collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Served {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Log>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, principal: &str, what: &str) {
        if let Some(log) = self.lock().as_mut() {
            log.insert((principal.to_owned(), what.to_owned()), Instant::now());
        }
    }
}

impl Pieces {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a body to its end.
    async fn read(&self, path: &str, mut body: Incoming) {
        let mut rest = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            let whole = rest.len() - rest.len() % PIECE;
            let last = whole.checked_sub(PIECE).and_then(|from| rest.get(from..whole));
            let number = last.and_then(|last| u64::from_str_radix(std::str::from_utf8(last).ok()?, 16).ok());
            if let Some(number) = number {
                self.lock().insert(path.to_owned(), number);
            }
            rest.drain(..whole);
        }
    }
}

/// What is written down of requests.
#[derive(Clone)]
struct Notes {
    served: Served,
    pieces: Pieces,
    uploads: HeldUploads,
}

impl Notes {
    /// Reads the body of a request that came over `socket`.
    async fn read(&self, request: Request<Incoming>, socket: SockRef<'_>) {
        let path = request.uri().path().to_owned();
        match socket.try_clone() {
            Ok(socket) if request.headers().contains_key(HOLD) => {
                self.uploads.hold(socket.into(), request.into_body()).await;
            }
            _ => self.pieces.read(&path, request.into_body()).await,
        }
    }
}

async fn accept(listener: StdListener, notes: Notes) -> io::Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _) = accepted?;
                connections.spawn(serve(socket, notes.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(socket: TcpStream, notes: Notes) {
    // Without it a small answer may wait for an acknowledgement; nothing worse.
    let _ = socket.set_nodelay(true);
    // The WebSocket that a connection may become ends with it.
    let sockets = Arc::new(Mutex::new(JoinSet::new()));
    // hyper has the other one.
    let Ok(handle) = SockRef::from(&socket).try_clone() else { return };
    let service = service_fn(|mut request: Request<Incoming>| {
        let response = answer(&mut request, &notes.served, &sockets);
        let (notes, handle) = (&notes, &handle);
        async move {
            if request.method() == Method::POST {
                notes.read(request, SockRef::from(handle)).await;
            }
            Ok::<_, Infallible>(response)
        }
    });
    // What came before the end of a connection counts, also of a request that was not answered yet.
    let http = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(socket), service);
    // The gate breaks off when a session is killed: that is what is to be seen here.
    let _ = http.with_upgrades().await;
    drop(handle);
    let mut sockets = std::mem::take(&mut *sockets.lock().unwrap_or_else(PoisonError::into_inner));
    while sockets.join_next().await.is_some() {}
}

fn answer(
    request: &mut Request<Incoming>,
    served: &Served,
    sockets: &Mutex<JoinSet<()>>,
) -> Response<Full<Bytes>> {
    let principal = text(request.headers(), PRINCIPAL).unwrap_or("nobody").to_owned();
    let path = request.uri().path();
    served.note(&principal, path.trim_start_matches('/'));
    let wants_websocket =
        text(request.headers(), UPGRADE.as_str()).is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
    let key = request.headers().get(SEC_WEBSOCKET_KEY);
    let Some(key) = key.filter(|_| wants_websocket) else {
        let method = request.method();
        let text = format!("sample upstream: {method} {path} by {principal}\n");
        let mut response = Response::new(Full::from(text));
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        return response;
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(request);
    let served = served.clone();
    sockets.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            echo(socket, &served, &principal).await;
        }
    });
    switch(&accept)
}

async fn echo(
    mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    served: &Served,
    principal: &str,
) {
    while let Some(Ok(message)) = socket.next().await {
        if !message.is_text() && !message.is_binary() {
            continue;
        }
        served.note(principal, message.to_text().unwrap_or_default());
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

fn switch(accept: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
