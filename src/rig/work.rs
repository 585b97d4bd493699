//! An agent at work: one connection on a thread of its own, a request every other millisecond, each written down.
//!
//! A worker that is refused or cut off comes back and tries again, until it is told to stop: that nothing is served
//! after a revocation means little as long as nobody asks. Each worker has a thread to itself so that none sees the
//! end of its connection late because another was busy.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::HOST;
use http_body_util::Full;
use rustls::ClientConfig;
use serde_json::Value;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::client;
use super::client::ClientError;
use super::client::Conversation;
use super::client::WebSocket;

/// Between an answer and the next request.
const PAUSE: Duration = Duration::from_millis(2);
/// Between the end of a connection and the next try.
const AGAIN: Duration = Duration::from_millis(10);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Over what an agent talks to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// HTTP/1.1, kept alive.
    Http1,
    /// HTTP/2.
    Http2,
    /// A WebSocket, upgraded from HTTP/1.1.
    WebSocket,
}

impl Via {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::WebSocket];

    /// As a word of a path or a key.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::WebSocket => "websocket",
        }
    }

    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::WebSocket => "WebSocket",
        }
    }

    /// What the upstream calls request or message `number`.
    pub fn label(self, number: u64) -> String {
        format!("{}/{number}", self.key())
    }
}

/// Who works, where.
#[derive(Clone)]
pub struct Agent {
    /// The agent id that it claims.
    pub id: String,
    /// Its certificate, and whom it trusts.
    pub tls: ClientConfig,
    /// The gate.
    pub gate: SocketAddr,
}

/// What became of one request, or of a connection between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was served.
    Served,
    /// It was answered with a refusal: the status and the code.
    Refused(u16, String),
    /// The connection came to its end: why.
    Cut(String),
    /// Nothing came of it, for as long as anybody waits.
    Unanswered,
}

/// One line of a worker's log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The number of the request or message.
    pub number: u64,
    /// When it was sent; `None` for a connection that ended, or was refused, before it could be.
    pub sent: Option<Instant>,
    /// When the outcome was there.
    pub at: Instant,
    /// The outcome.
    pub outcome: Outcome,
}

/// A running worker. Dropping it stops it.
pub struct Worker {
    /// Over what.
    pub via: Via,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Vec<Entry>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    served: AtomicU64,
}

impl Worker {
    /// Sets an agent to work.
    pub fn start(agent: &Agent, via: Via) -> io::Result<Self> {
        let mut tls = agent.tls.clone();
        tls.alpn_protocols = match via {
            Via::Http2 => vec![b"h2".to_vec()],
            Via::Http1 | Via::WebSocket => vec![b"http/1.1".to_vec()],
        };
        let shared = Arc::new(Shared::default());
        let shift = Shift {
            agent: agent.clone(),
            tls: Arc::new(tls),
            via,
            shared: Arc::clone(&shared),
            next: 0,
            log: Vec::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new()
            .name(format!("{}-{}", agent.id, via.key()))
            .spawn(move || runtime.block_on(shift.work()))?;
        Ok(Self { via, shared, thread: Some(thread) })
    }

    /// How many of its requests were served so far.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// Asks it to stop after the request at hand.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Stops it, and returns its log; empty if its thread failed.
    pub fn finish(mut self) -> Vec<Entry> {
        self.stop();
        let thread = self.thread.take();
        thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a worker is at.
struct Shift {
    agent: Agent,
    tls: Arc<ClientConfig>,
    via: Via,
    shared: Arc<Shared>,
    next: u64,
    log: Vec<Entry>,
}

/// An open connection.
enum Line {
    Http(Conversation),
    Socket(Box<WebSocket>),
}

impl Shift {
    async fn work(mut self) -> Vec<Entry> {
        while !self.stopped() {
            if let Some(line) = self.open().await {
                self.converse(line).await;
            }
            sleep(AGAIN).await;
        }
        self.log
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Opens a connection; a refusal is written down. The upgrade of a WebSocket is a request like any other.
    async fn open(&mut self) -> Option<Line> {
        let connecting = async {
            let stream = client::connect(&self.tls, self.agent.gate, "localhost").await?;
            Conversation::begin(stream).await
        };
        let conversation = match connecting.await {
            Ok(conversation) => conversation,
            Err(error) => {
                self.note(None, Outcome::Cut(error.to_string()));
                return None;
            }
        };
        if self.via != Via::WebSocket {
            return Some(Line::Http(conversation));
        }
        let sent = Instant::now();
        let upgraded = match self.request() {
            Ok(request) => in_time(conversation.upgrade(request)).await,
            Err(reason) => Err(Outcome::Cut(reason)),
        };
        let (line, outcome) = match upgraded {
            Ok(Ok(socket)) => (Some(Line::Socket(Box::new(socket))), Outcome::Served),
            Ok(Err(response)) => (None, judge(&response)),
            Err(outcome) => (None, outcome),
        };
        self.note(Some(sent), outcome);
        line
    }

    /// Request after request, until the connection ends, a request is refused, or the worker is to stop.
    async fn converse(&mut self, mut line: Line) {
        while !self.stopped() {
            let sent = Instant::now();
            let outcome = match (&mut line, self.request()) {
                (_, Err(reason)) => Outcome::Cut(reason),
                (Line::Http(conversation), Ok(request)) => match in_time(conversation.send(request)).await {
                    Ok(response) => judge(&response),
                    Err(outcome) => outcome,
                },
                (Line::Socket(socket), Ok(_)) => self.echo(socket).await,
            };
            let served = outcome == Outcome::Served;
            self.note(Some(sent), outcome);
            if !served {
                return;
            }
            tokio::select! {
                biased;
                reason = line.ended() => return self.note(None, Outcome::Cut(reason)),
                () = sleep(PAUSE) => {}
            }
        }
    }

    async fn echo(&self, socket: &mut WebSocket) -> Outcome {
        let text = self.via.label(self.next);
        let exchange = async {
            if let Err(error) = socket.send(Message::text(text.clone())).await {
                return Outcome::Cut(error.to_string());
            }
            match socket.next().await {
                Some(Ok(Message::Text(echo))) if echo.as_str() == text => Outcome::Served,
                other => Outcome::Cut(ending(other)),
            }
        };
        timeout(PATIENCE, exchange).await.unwrap_or(Outcome::Unanswered)
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, String> {
        let path = format!("/{}", self.via.label(self.next));
        let authority = format!("localhost:{}", self.agent.gate.port());
        let request = match self.via {
            Via::Http2 => Request::get(format!("https://{authority}{path}")),
            Via::Http1 | Via::WebSocket => Request::get(path).header(HOST, authority),
        };
        request.header("x-agent-id", &self.agent.id).body(Full::default()).map_err(|e| e.to_string())
    }

    fn note(&mut self, sent: Option<Instant>, outcome: Outcome) {
        let at = Instant::now();
        if outcome == Outcome::Served {
            self.shared.served.fetch_add(1, Ordering::Relaxed);
        }
        let number = self.next;
        self.next += 1;
        self.log.push(Entry { number, sent, at, outcome });
    }
}

impl Line {
    /// Waits until the connection has ended, and says why.
    async fn ended(&mut self) -> String {
        match self {
            Self::Http(conversation) => conversation.ended().await.to_string(),
            Self::Socket(socket) => ending(socket.next().await),
        }
    }
}

/// Reads an answer: a problem document tells its code.
pub fn judge(response: &Response<Bytes>) -> Outcome {
    if response.status() == StatusCode::OK {
        return Outcome::Served;
    }
    let problem: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    let code = problem.get("code").and_then(Value::as_str).unwrap_or_default();
    Outcome::Refused(response.status().as_u16(), code.to_owned())
}

/// Why a WebSocket that has just been read from is at its end.
fn ending(read: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> String {
    match read {
        Some(Err(error)) => error.to_string(),
        Some(Ok(_)) => "closed, or not an echo".into(),
        None => "closed".into(),
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, Outcome> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|e| Outcome::Cut(e.to_string())),
        Err(_) => Err(Outcome::Unanswered),
    }
}
