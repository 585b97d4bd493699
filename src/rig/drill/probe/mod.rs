//! A probe: one way to ask, on a thread of its own, in a steady rhythm, each try written down.
//!
//! Who is refused or cut off comes back and tries again until the end, as a client would: a connection that was closed
//! means nothing if the next one is served. Each probe has a thread to itself, so that none sees an outcome late because
//! another was busy.

mod answer;
mod converse;
mod knock;
mod socket;
mod trickle;

use std::error::Error;
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
use http::HeaderMap;
use http::Request;
use http::Response;
use http::Uri;
use http::header::HOST;
use hyper::body::Body;
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;
use tokio::time::interval_at;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::party::Visitor;
use crate::rig::client;
use crate::rig::client::ClientError;
use crate::rig::client::Conversation;
use crate::rig::findings::Kind;
use crate::rig::findings::Outcome;
use crate::rig::findings::Who;
pub(super) use answer::judge;
use answer::of_error;
pub(super) use answer::words;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many answers that serve nothing tell that something is not offered.
const UNWANTED: usize = 3;

/// Where a probe asks.
#[derive(Clone, Debug)]
pub struct Place {
    /// The server.
    pub address: SocketAddr,
    /// The name that its certificate must be for.
    pub server: String,
    /// The whole URL.
    pub url: Uri,
}

/// What a probe does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    /// Whose it is.
    pub(super) who: Who,
    /// Over what it asks.
    pub(super) kind: Kind,
    /// Which of several of the same.
    pub(super) number: usize,
    /// Between two tries.
    pub(super) every: Duration,
    /// Of the body of a request that stays open: bytes with each try.
    pub(super) piece: usize,
    /// How many tries there may be after the call.
    pub(super) tries: usize,
}

/// One try.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// Of what.
    pub(super) part: Part,
    /// When it was sent; of what ended by itself, when that was seen.
    pub(super) sent: Instant,
    /// When its outcome was there.
    pub(super) at: Instant,
    /// The outcome.
    pub(super) outcome: Outcome,
    /// What was said, unless it was served.
    pub(super) words: String,
}

/// What was tried, or seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A request or a ping, and its answer.
    Whole,
    /// A piece of a body, handed to the kernel.
    Piece,
    /// What a server sent without being asked.
    Message,
    /// The end of a request or a WebSocket that went on.
    End,
    /// The end of a connection on which nothing was asked, or before an answer on one that had been used: whoever asks
    /// for something that can be repeated repeats it (RFC 9110, section 9.2.2).
    Idle,
}

impl Sight {
    pub(super) fn is_served(&self) -> bool {
        self.outcome == Outcome::Served
    }

    /// Whether it ends something without saying why.
    pub(super) fn is_end(&self) -> bool {
        self.outcome == Outcome::Cut || self.is_outage()
    }

    /// Whether it may be a refusal of everybody: of a gate that does not know any more who is revoked.
    pub(super) fn is_outage(&self) -> bool {
        self.outcome == Outcome::Refused && self.words.starts_with("503")
    }
}

/// All that one probe saw.
pub(super) struct Log {
    /// What it did.
    pub(super) task: Task,
    /// Why there was nothing to be seen, if there was not.
    pub(super) not_offered: Option<String>,
    /// Its tries.
    pub(super) sights: Vec<Sight>,
}

/// A running probe. Dropping it stops it.
pub(super) struct Probe {
    task: Task,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Log>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Somebody may be revoked by now.
    called: AtomicBool,
    served: AtomicU64,
    done: AtomicBool,
}

impl Probe {
    /// Begins to ask.
    pub(super) fn start(task: Task, place: &Place, visitor: &Visitor) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let asker = Asker {
            task,
            place: place.clone(),
            visitor: visitor.clone(),
            shared: Arc::clone(&shared),
            redirects: None,
            unwanted: 0,
            log: Log { task, not_offered: None, sights: Vec::new() },
        };
        let thread = std::thread::Builder::new().name("probe".into()).spawn(move || asker.run())?;
        Ok(Self { task, shared, thread: Some(thread) })
    }

    /// How many of its tries were served so far.
    pub(super) fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// Whether it has nothing more to do: what it asks for is not offered.
    pub(super) fn is_done(&self) -> bool {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Tells it that somebody is about to be revoked: what is not offered any more was offered.
    pub(super) fn call(&self) {
        self.shared.called.store(true, Ordering::SeqCst);
    }

    /// Asks it to come to an end.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Stops it, and returns what it saw.
    pub(super) fn finish(mut self) -> Log {
        self.stop();
        let nothing = || Log { task: self.task, not_offered: None, sights: Vec::new() };
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_else(nothing)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a probe is at.
struct Asker {
    task: Task,
    place: Place,
    visitor: Visitor,
    shared: Arc<Shared>,
    /// Whether it is redirected as long as it is served.
    redirects: Option<bool>,
    /// How many answers did not serve.
    unwanted: usize,
    log: Log,
}

impl Asker {
    fn run(mut self) -> Log {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.work()),
            Err(error) => {
                self.saw(Part::Whole, Instant::now(), Outcome::Failed, error.to_string());
                self.log
            }
        }
    }

    async fn work(mut self) -> Log {
        let told = match self.task.kind {
            Kind::Http1 | Kind::Http2 => self.converse().await,
            Kind::Stream | Kind::Body => self.trickle().await,
            Kind::WebSocket => self.ping().await,
            Kind::Handshake | Kind::Resumption => self.knock().await,
        };
        if let Err(words) = told {
            match self.is_called() {
                true => self.saw(Part::Whole, Instant::now(), Outcome::Failed, words),
                false => self.log.not_offered = Some(words),
            }
        }
        self.shared.done.store(true, Ordering::Relaxed);
        self.log
    }

    /// Opens a connection for requests, unless that comes to nothing.
    async fn open<B>(&mut self, tls: &Arc<ClientConfig>) -> Result<Option<Conversation<B>>, String>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let begun = Instant::now();
        let stream = match self.connect(tls).await {
            Ok(stream) if matches!(self.task.kind, Kind::Http2 | Kind::Stream) && !speaks_h2(&stream) => {
                return self.lacks_h2().map(|()| None);
            }
            Ok(stream) => stream,
            Err(seen) => {
                self.note(seen);
                return Ok(None);
            }
        };
        match Conversation::begin(stream).await {
            Ok(line) => Ok(Some(line)),
            Err(error) => {
                self.failed(Part::Whole, begun, &error);
                Ok(None)
            }
        }
    }

    /// The server chose another protocol than h2: it offers none, unless it did before.
    fn lacks_h2(&mut self) -> Result<(), String> {
        let words = "the server does not choose h2".to_owned();
        if !self.was_served() {
            return Err(words);
        }
        self.saw(Part::Whole, Instant::now(), Outcome::Failed, words);
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// The rhythm. Probes begin apart from each other.
    fn ticks(&self) -> Interval {
        let first = tokio::time::Instant::now() + self.task.every.mul_f64(fastrand::f64());
        let mut ticks = interval_at(first, self.task.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks
    }

    /// What a connection of this kind offers. Only sessions that are meant to be resumed are.
    fn tls(&self) -> Arc<ClientConfig> {
        let mut tls = self.visitor.tls.clone();
        tls.resumption = Resumption::disabled();
        tls.alpn_protocols = match self.task.kind {
            // Whoever is offered nothing else may refuse the handshake instead of saying that it speaks no HTTP/2.
            Kind::Http2 | Kind::Stream => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            _ => vec![b"http/1.1".to_vec()],
        };
        Arc::new(tls)
    }

    fn is_called(&self) -> bool {
        self.shared.called.load(Ordering::SeqCst)
    }

    /// An answer did not serve. Whether it is one of so many, and none did: what is asked for is not offered.
    fn is_unwanted(&mut self, of: usize) -> bool {
        self.unwanted += 1;
        !self.was_served() && self.unwanted >= of
    }

    fn was_served(&self) -> bool {
        self.shared.served.load(Ordering::Relaxed) > 0
    }

    /// Opens a connection, or says what came of it.
    async fn connect(&self, tls: &Arc<ClientConfig>) -> Result<TlsStream<tokio::net::TcpStream>, Sight> {
        let sent = Instant::now();
        client::connect(tls, self.place.address, &self.place.server).await.map_err(|error| {
            let (outcome, words) = (of_error(&error), error.to_string());
            Sight { part: Part::Whole, sent, at: Instant::now(), outcome, words }
        })
    }

    fn request<B>(&self, body: B) -> Result<Request<B>, String> {
        let method = if self.task.kind.goes_on() { "POST" } else { "GET" };
        request(
            &self.place,
            &self.visitor.headers,
            self.task.kind == Kind::Http2 || self.task.kind == Kind::Stream,
        )
        .method(method)
        .body(body)
        .map_err(|e| e.to_string())
    }

    /// What an answer says, to one who knows how it is answered as long as it is served.
    fn judge(&mut self, answer: &Response<Bytes>) -> Outcome {
        let redirected = answer.status().is_redirection();
        match judge(answer) {
            // It may be sent to where it can log in again.
            Outcome::Served if redirected != *self.redirects.get_or_insert(redirected) && redirected => {
                Outcome::Failed
            }
            outcome => outcome,
        }
    }

    /// Returns what the answer says.
    fn answered(&mut self, part: Part, sent: Instant, answer: &Response<Bytes>) -> Outcome {
        let (at, outcome) = (Instant::now(), self.judge(answer));
        let words = if outcome == Outcome::Served { String::new() } else { words(answer) };
        self.note(Sight { part, sent, at, outcome, words });
        outcome
    }

    fn failed(&mut self, part: Part, sent: Instant, error: &ClientError) {
        self.saw(part, sent, of_error(error), error.to_string());
    }

    fn served(&mut self, part: Part, sent: Instant) {
        self.saw(part, sent, Outcome::Served, String::new());
    }

    /// What ended by itself has just ended.
    fn saw(&mut self, part: Part, sent: Instant, outcome: Outcome, words: String) {
        self.note(Sight { part, sent, at: Instant::now(), outcome, words });
    }

    fn note(&mut self, sight: Sight) {
        if sight.is_served() {
            self.shared.served.fetch_add(1, Ordering::Relaxed);
        }
        self.log.sights.push(sight);
    }
}

/// A request for the URL, in absolute form where that is the protocol's.
pub(super) fn request(place: &Place, headers: &HeaderMap, http2: bool) -> http::request::Builder {
    let authority = place.url.authority().map_or("", |authority| authority.as_str());
    let path = place.url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = match http2 {
        true => Request::get(place.url.clone()),
        false => Request::get(path).header(HOST, authority),
    };
    if let Some(own) = request.headers_mut() {
        own.extend(headers.clone());
    }
    request
}

fn speaks_h2(stream: &TlsStream<tokio::net::TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

/// The answer, unless it takes too long.
pub(super) async fn in_time<T>(
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Silent("the server".into(), PATIENCE)),
    }
}
