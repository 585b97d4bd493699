//! Upstreams: one that speaks HTTP and writes down what it was sent, and one that keeps the very bytes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body::Frame;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::lab::PATIENCE;

/// How much `/flood` has to give.
pub(crate) const FLOOD: usize = 64 << 20;
/// A flood that cannot move for so long has filled every buffer on its way.
const STALL: Duration = Duration::from_millis(500);

/// A body of either direction.
pub(crate) type AnyBody = UnsyncBoxBody<Bytes, io::Error>;
/// Where a body's frames are put in.
pub(crate) type Feeder = mpsc::Sender<Frame<Bytes>>;

/// A body that is fed frame by frame, and ends when its feeder is dropped.
pub(crate) fn feed() -> (Feeder, AnyBody) {
    let (feeder, frames) = mpsc::channel(1);
    (feeder, Feed(frames).boxed_unsync())
}

/// A body of one piece.
pub(crate) fn full(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

struct Feed(mpsc::Receiver<Frame<Bytes>>);

impl http_body::Body for Feed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// How far a request's body came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It goes on.
    Open,
    /// It was sent whole.
    Whole,
    /// It was broken off.
    Broken,
}

/// One request, as the upstream saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: http::Method,
    /// Path and query, raw.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    pub(crate) end: End,
    /// Nothing of the answer's body could be sent for a while.
    pub(crate) stalled: bool,
    /// Nobody waits for the answer any more.
    pub(crate) gone: bool,
}

impl Seen {
    /// The one value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} twice: {:?}", self.headers);
        Some(value.to_str().unwrap())
    }
}

struct Log {
    seen: Mutex<Vec<Seen>>,
    moved: watch::Sender<()>,
    released: watch::Sender<bool>,
}

impl Log {
    fn open(&self, request: &Request<Incoming>) -> usize {
        let mut seen = self.seen.lock().unwrap();
        seen.push(Seen {
            method: request.method().clone(),
            path: request.uri().to_string(),
            headers: request.headers().clone(),
            body: Vec::new(),
            trailers: HeaderMap::new(),
            end: End::Open,
            stalled: false,
            gone: false,
        });
        self.moved.send_replace(());
        seen.len() - 1
    }

    fn note(&self, at: usize, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().unwrap()[at]);
        self.moved.send_replace(());
    }
}

/// An HTTP/1.1 upstream. What it does depends on the path, below `/open` too: `/flood` answers with megabytes, `/hold` not before it is
/// told to, `/early` before it has read the request, `/echo` piece by piece with what it is sent, `/ws` as a
/// WebSocket that echoes. The rest is answered `ok`.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    log: Arc<Log>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log {
            seen: Mutex::default(),
            moved: watch::channel(()).0,
            released: watch::channel(false).0,
        });
        let shared = Arc::clone(&log);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let log = Arc::clone(&shared);
                let service = service_fn(move |request| answer(request, Arc::clone(&log)));
                tokio::spawn(async move {
                    let http = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                    // How it ends is the gate's affair, and noted by each request.
                    let _ = http.with_upgrades().await;
                });
            }
        });
        Self { address, log }
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.seen.lock().unwrap().clone()
    }

    /// The only request for a path.
    pub(crate) fn only(&self, path: &str) -> Seen {
        let mut seen = self.seen();
        seen.retain(|seen| seen.path == path);
        assert_eq!(seen.len(), 1, "requests for {path}");
        seen.remove(0)
    }

    /// Lets `/hold` answer.
    pub(crate) fn release(&self) {
        self.log.released.send_replace(true);
    }

    /// Waits until a request for `path` is as `ready` wants it.
    pub(crate) async fn until(&self, path: &str, ready: impl Fn(&Seen) -> bool) -> Seen {
        let mut moved = self.log.moved.subscribe();
        let found = async {
            loop {
                moved.borrow_and_update();
                if let Some(seen) = self.seen().into_iter().find(|seen| seen.path == path && ready(seen)) {
                    return seen;
                }
                moved.changed().await.unwrap();
            }
        };
        match timeout(PATIENCE, found).await {
            Ok(seen) => seen,
            Err(_) => panic!(
                "{path} never came to that; what came: {:?}",
                self.seen()
                    .iter()
                    .map(|s| (&s.path, s.body.len(), s.end, s.stalled, s.gone))
                    .collect::<Vec<_>>()
            ),
        }
    }
}

async fn answer(request: Request<Incoming>, log: Arc<Log>) -> Result<Response<AnyBody>, Infallible> {
    let at = log.open(&request);
    let mut gone = Gone { log, at, armed: true };
    let log = Arc::clone(&gone.log);
    let path = request.uri().path();
    let response = match path.strip_prefix("/open").unwrap_or(path) {
        "/flood" => {
            let response = flood(&log, at);
            read(request.into_body(), &log, at, None).await;
            response
        }
        "/hold" => {
            read(request.into_body(), &log, at, None).await;
            let mut released = log.released.subscribe();
            released.wait_for(|released| *released).await.unwrap();
            Response::new(full("released"))
        }
        "/echo" => echo(request, &log, at),
        "/early" => {
            let (body, log) = (request.into_body(), Arc::clone(&log));
            tokio::spawn(async move { read(body, &log, at, None).await });
            Response::new(full("early"))
        }
        "/ws" => websocket(request, &log, at),
        _ => {
            read(request.into_body(), &log, at, None).await;
            Response::new(full("ok"))
        }
    };
    gone.armed = false;
    Ok(response)
}

/// Notes that a request's task was dropped before it had answered.
struct Gone {
    log: Arc<Log>,
    at: usize,
    armed: bool,
}

impl Drop for Gone {
    fn drop(&mut self) {
        if self.armed {
            self.log.note(self.at, |seen| seen.gone = true);
        }
    }
}

async fn read(mut body: Incoming, log: &Log, at: usize, echo: Option<Feeder>) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            log.note(at, |seen| seen.end = End::Broken);
            return;
        };
        if let Some(data) = frame.data_ref() {
            log.note(at, |seen| seen.body.extend_from_slice(data));
        }
        if let Some(trailers) = frame.trailers_ref() {
            log.note(at, |seen| seen.trailers = trailers.clone());
        }
        if let Some(echo) = &echo {
            // Whether anybody listens is seen at the other end.
            let _ = echo.send(frame).await;
        }
    }
    log.note(at, |seen| seen.end = End::Whole);
}

fn flood(log: &Arc<Log>, at: usize) -> Response<AnyBody> {
    let (feeder, body) = feed();
    let (log, chunk) = (Arc::clone(log), Bytes::from(vec![b'.'; 64 << 10]));
    tokio::spawn(async move {
        for _ in 0..FLOOD / chunk.len() {
            let sent = match timeout(STALL, feeder.reserve()).await {
                Ok(sent) => sent,
                Err(_) => {
                    log.note(at, |seen| seen.stalled = true);
                    feeder.reserve().await
                }
            };
            match sent {
                Ok(permit) => permit.send(Frame::data(chunk.clone())),
                Err(_) => return log.note(at, |seen| seen.gone = true),
            }
        }
    });
    Response::new(body)
}

fn echo(request: Request<Incoming>, log: &Arc<Log>, at: usize) -> Response<AnyBody> {
    let (feeder, body) = feed();
    let mut response = Response::new(body);
    if let Some(names) = request.headers().get(header::TRAILER) {
        response.headers_mut().insert(header::TRAILER, names.clone());
    }
    let log = Arc::clone(log);
    tokio::spawn(async move { read(request.into_body(), &log, at, Some(feeder)).await });
    response
}

fn websocket(mut request: Request<Incoming>, log: &Arc<Log>, at: usize) -> Response<AnyBody> {
    let key = request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes().to_vec();
    let (upgraded, log) = (hyper::upgrade::on(&mut request), Arc::clone(log));
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let io = TokioIo::new(upgraded);
            let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if message.is_close() || socket.send(message).await.is_err() {
                    break;
                }
            }
        }
        log.note(at, |seen| seen.gone = true);
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&derive_accept_key(&key)).unwrap();
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// An upstream that keeps the very bytes, and answers each connection with a fixed text once `until` was read.
pub(crate) struct RawUpstream {
    pub(crate) address: SocketAddr,
    bytes: watch::Receiver<Vec<u8>>,
}

impl RawUpstream {
    pub(crate) async fn start(until: &'static [u8], answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, bytes) = watch::channel(Vec::new());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(keep(socket, until, answer, sender.clone()));
            }
        });
        Self { address, bytes }
    }

    /// All that has come, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.borrow()).into_owned()
    }
}

async fn keep(
    mut socket: TcpStream,
    until: &'static [u8],
    answer: &'static [u8],
    all: watch::Sender<Vec<u8>>,
) {
    let (mut read, mut chunk) = (Vec::new(), vec![0; 16 << 10]);
    while let Ok(count @ 1..) = socket.read(&mut chunk).await {
        read.extend_from_slice(&chunk[..count]);
        all.send_modify(|all| all.extend_from_slice(&chunk[..count]));
        if !answer.is_empty() && read.ends_with(until) {
            read.clear();
            socket.write_all(answer).await.unwrap();
        }
    }
}
