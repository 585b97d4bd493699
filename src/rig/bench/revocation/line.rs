//! One connection of a revoked agent to one gate: what it is served around the time of its revocation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::Request;
use http::StatusCode;
use http::header::HOST;
use http_body_util::Full;
use rustls::ClientConfig;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio::time::interval;
use tokio::time::sleep;
use tokio::time::sleep_until;
use tokio::time::timeout_at;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

use crate::rig::client;
use crate::rig::client::ClientError;
use crate::rig::client::Conversation;
use crate::rig::client::WebSocket;
use crate::rig::findings::Kind;

/// The kinds that are measured, in turn.
pub(super) const KINDS: [Kind; 5] = [Kind::Http1, Kind::Http2, Kind::Stream, Kind::Body, Kind::WebSocket];

/// How often a body goes on, at most. What is measured is its end, which needs no piece to be noticed; with many gates
/// more pieces would keep the processors busy.
const RHYTHM: Duration = Duration::from_millis(5);
/// After an answer that is neither served nor refused.
const AGAIN: Duration = Duration::from_millis(1);

/// An open connection over which its agent has been served.
pub(super) struct Line {
    path: String,
    way: Way,
}

enum Way {
    /// HTTP/1.1 or HTTP/2: request after request.
    Requests(Conversation),
    /// Message after message.
    Socket(Box<WebSocket>),
    /// A request whose body goes on, and the connection of its stream.
    Stream { response: ResponseFuture, body: SendStream<Bytes>, _drive: JoinSet<()> },
    /// A request whose body goes on.
    Body(Box<TlsStream<TcpStream>>),
}

/// When to look, and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    /// What the numbers of pieces count from, microseconds.
    pub(super) origin: Instant,
    /// From when on it asks.
    pub(super) from: Instant,
    /// Until when at most.
    pub(super) until: Instant,
    /// Between an answer and the next request, or two pieces; zero: at once, as far as that is of use.
    pub(super) pace: Duration,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Each request that was served: when it was sent, when the answer was there. None of a stream or a body.
    pub(super) served: Vec<(Instant, Instant)>,
    /// When the last try was sent that was not served, if it was a request.
    pub(super) refused: Option<Instant>,
    /// When the end was seen, a refusal or a cut; until then a stream or a body was open.
    pub(super) end: Option<Instant>,
    /// When the last piece of a body was sent.
    pub(super) piece: Option<Instant>,
}

impl Seen {
    /// Until when it was served, if that came to an end.
    pub(super) fn last_served(&self, kind: Kind) -> Option<Instant> {
        let end = self.end?;
        match kind.goes_on() {
            true => Some(end),
            false => self.served.last().map(|(_, at)| *at).or(Some(end)),
        }
    }
}

/// The protocol of a kind (ALPN).
pub(super) fn protocol(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Http2 | Kind::Stream => b"h2",
        _ => b"http/1.1",
    }
}

impl Line {
    /// Opens a connection and begins what it is for.
    pub(super) async fn open(
        kind: Kind,
        tls: &Arc<ClientConfig>,
        gate: SocketAddr,
        path: String,
    ) -> Result<Self, ClientError> {
        let broken = |reason: String| ClientError::Broken(gate.to_string(), reason);
        let tcp = client::connect(tls, gate, "localhost").await?;
        let way = match kind {
            Kind::Stream => begin_stream(tcp, &path).await.map_err(|e| broken(e.to_string()))?,
            Kind::Body => begin_body(tcp, &path).await.map_err(|e| broken(e.to_string()))?,
            _ => begin_conversation(kind, tcp, &path).await?,
        };
        Ok(Self { path, way })
    }

    /// Asks, as fast as it is answered, until it is refused or cut, or the time is over.
    pub(super) async fn watch(self, watch: Watch) -> Seen {
        let path = &self.path;
        match self.way {
            Way::Requests(conversation) => ask(conversation, path, watch).await,
            Way::Socket(socket) => echo(*socket, watch).await,
            Way::Stream { response, body, _drive } => pour(response, body, watch).await,
            Way::Body(tls) => drip(*tls, watch).await,
        }
    }
}

/// One request over a new connection; whether it was served. `None` if it came to no answer, and no refusal.
pub(super) async fn is_served_anew(tls: &Arc<ClientConfig>, gate: SocketAddr, path: &str) -> Option<bool> {
    let asked = async {
        let stream = client::connect(tls, gate, "localhost").await?;
        let mut conversation = Conversation::begin(stream).await?;
        conversation.send(get(path)?).await
    };
    match asked.await {
        Ok(answer) => Some(answer.status().as_u16() < 400),
        Err(ClientError::Refused(..)) => Some(false),
        Err(_) => None,
    }
}

/// In absolute form, as HTTP/2 wants it; the gate takes it over HTTP/1.1, too, with a Host.
pub(super) fn get(path: &str) -> Result<Request<Full<Bytes>>, ClientError> {
    let request = Request::get(format!("https://localhost{path}")).header(HOST, "localhost");
    request.body(Full::default()).map_err(|e| ClientError::Broken(path.to_owned(), e.to_string()))
}

async fn begin_conversation(kind: Kind, tls: TlsStream<TcpStream>, path: &str) -> Result<Way, ClientError> {
    let refused = |status: StatusCode| ClientError::Broken(path.to_owned(), format!("answered {status}"));
    let mut conversation = Conversation::begin(tls).await?;
    if kind == Kind::WebSocket {
        return match conversation.upgrade(get(path)?).await? {
            Ok(socket) => Ok(Way::Socket(Box::new(socket))),
            Err(answer) => Err(refused(answer.status())),
        };
    }
    let answer = conversation.send(get(path)?).await?;
    match answer.status().is_success() {
        true => Ok(Way::Requests(conversation)),
        false => Err(refused(answer.status())),
    }
}

async fn begin_stream(tls: TlsStream<TcpStream>, path: &str) -> Result<Way, h2::Error> {
    let (sender, connection) = h2::client::handshake(tls).await?;
    let mut drive = JoinSet::new();
    drive.spawn(async move {
        // How it ends is told to its stream.
        let _ = connection.await;
    });
    let request =
        Request::post(format!("https://localhost{path}")).body(()).map_err(|_| h2::Reason::INTERNAL_ERROR)?;
    let (response, mut body) = sender.ready().await?.send_request(request, false)?;
    body.send_data(Bytes::from_static(FIRST), false)?;
    Ok(Way::Stream { response, body, _drive: drive })
}

async fn begin_body(mut tls: TlsStream<TcpStream>, path: &str) -> std::io::Result<Way> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    tls.write_all(head.as_bytes()).await?;
    tls.write_all(&chunk(FIRST)).await?;
    Ok(Way::Body(Box::new(tls)))
}

/// A piece as the sample upstream knows it.
const FIRST: &[u8] = b"0000000000000000";

fn piece(origin: Instant, at: Instant) -> String {
    let micros = at.saturating_duration_since(origin).as_micros();
    format!("{micros:016x}")
}

fn chunk(piece: &[u8]) -> Vec<u8> {
    [b"10\r\n", piece, b"\r\n"].concat()
}

fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE
}

async fn ask(mut conversation: Conversation, path: &str, watch: Watch) -> Seen {
    let mut seen = Seen::default();
    sleep_until(watch.from.into()).await;
    loop {
        let Ok(request) = get(path) else { return seen };
        let sent = Instant::now();
        let Ok(answer) = timeout_at(watch.until.into(), conversation.send(request)).await else {
            return seen;
        };
        let at = Instant::now();
        match answer.map(|answer| answer.status()) {
            Ok(status) if status.as_u16() < 400 => {
                seen.served.push((sent, at));
                rest(watch.pace).await;
            }
            Ok(status) if !is_refusal(status) => sleep(AGAIN).await,
            _ => return Seen { refused: Some(sent), end: Some(at), ..seen },
        }
        if at >= watch.until {
            return seen;
        }
    }
}

async fn echo(mut socket: WebSocket, watch: Watch) -> Seen {
    let mut seen = Seen::default();
    sleep_until(watch.from.into()).await;
    loop {
        let sent = Instant::now();
        let exchange = async {
            socket.send(Message::text("x")).await.ok()?;
            socket.next().await?.ok().filter(Message::is_text)
        };
        let Ok(answer) = timeout_at(watch.until.into(), exchange).await else { return seen };
        let at = Instant::now();
        if answer.is_none() {
            return Seen { refused: Some(sent), end: Some(at), ..seen };
        }
        seen.served.push((sent, at));
        if at >= watch.until {
            return seen;
        }
        rest(watch.pace).await;
    }
}

async fn rest(pace: Duration) {
    if !pace.is_zero() {
        sleep(pace).await;
    }
}

async fn pour(mut response: ResponseFuture, mut body: SendStream<Bytes>, watch: Watch) -> Seen {
    let mut seen = Seen::default();
    let mut rhythm = interval(watch.pace.max(RHYTHM));
    rhythm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            // An answer before the end of the body, or the end of the stream.
            _ = &mut response => return Seen { end: Some(Instant::now()), ..seen },
            () = sleep_until(watch.until.into()) => return seen,
            _ = rhythm.tick(), if Instant::now() >= watch.from => {
                let now = Instant::now();
                if body.send_data(piece(watch.origin, now).into(), false).is_err() {
                    return Seen { end: Some(now), ..seen };
                }
                seen.piece = Some(now);
            }
            () = sleep_until(watch.from.into()), if Instant::now() < watch.from => {}
        }
    }
}

async fn drip(mut tls: TlsStream<TcpStream>, watch: Watch) -> Seen {
    let mut seen = Seen::default();
    let mut rhythm = interval(watch.pace.max(RHYTHM));
    rhythm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answer = [0; 512];
    loop {
        tokio::select! {
            biased;
            _ = tls.read(&mut answer) => return Seen { end: Some(Instant::now()), ..seen },
            () = sleep_until(watch.until.into()) => return seen,
            _ = rhythm.tick(), if Instant::now() >= watch.from => {
                let now = Instant::now();
                let sent = tls.write_all(&chunk(piece(watch.origin, now).as_bytes())).await;
                if sent.is_err() {
                    return Seen { end: Some(Instant::now()), ..seen };
                }
                seen.piece = Some(now);
            }
            () = sleep_until(watch.from.into()), if Instant::now() < watch.from => {}
        }
    }
}
