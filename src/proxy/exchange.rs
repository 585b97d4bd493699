//! One request and its answer, as they are told of: counted, and where that is wanted logged and traced.
//!
//! **Invariant:** what is told is gathered in memory and handed over; no request waits for it. Nothing here keeps a
//! session alive.

use std::cell::Cell;
use std::cell::OnceCell;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Uri;
use http::Version;
use http::header;
use http_body::Body as _;
use http_body::Frame;
use http_body::SizeHint;
use prometheus::IntGauge;
use prometheus::local::LocalHistogram;
use prometheus::local::LocalIntCounter;
use tokio::task::spawn_local;

use super::Body;
use super::BoxError;
use super::Peer;
use super::RequestId;
use super::RequestIds;
use super::body::BodyError;
use super::connection::Connection;
use super::connection_state::RequestGuard;
use super::presented::Presented;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::session::Session;
use crate::telemetry::AccessLines;
use crate::telemetry::AccessLog;
use crate::telemetry::JsonLine;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::Metrics;
use crate::telemetry::Span;
use crate::telemetry::TraceContext;
use crate::telemetry::Tracer;
use crate::telemetry::cut;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
/// The most that is told of a name that a client gave, bytes; a path, a principal's name.
const SHORT: usize = 256;
const LONG: usize = 2048;
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What one thread tells of the requests at one listener.
pub struct Exchanges {
    ids: RequestIds,
    listener: &'static str,
    clock: Clock,
    log: Option<AccessLines>,
    tracer: Option<Tracer>,
    /// By class of status, of HTTP/1 and of HTTP/2.
    counts: [[LocalIntCounter; CLASSES.len()]; 2],
    durations: LocalHistogram,
    streams: Cell<i64>,
    streams_told: Cell<i64>,
    streams_gauge: IntGauge,
    tunnels: IntGauge,
    /// The time to end in is over: what is still open is cut.
    cut: Cell<bool>,
}

/// Where a thread tells of its requests.
#[derive(Clone)]
pub struct Telling {
    /// What is counted.
    pub metrics: Metrics,
    /// The access log, if there is one.
    pub log: Option<AccessLog>,
    /// The tracer, if there is one.
    pub tracer: Option<Tracer>,
}

impl Exchanges {
    /// None yet. Must be made on the local runtime that runs them.
    pub fn new(listener: &'static str, clock: Clock, telling: Telling) -> Rc<Self> {
        let Telling { metrics, log, tracer } = telling;
        let count = |protocol, class| {
            metrics.traffic.requests.with_label_values(&[listener, protocol, class]).local()
        };
        let exchanges = Rc::new(Self {
            ids: RequestIds::new(),
            listener,
            clock,
            log: log.map(AccessLines::new),
            tracer,
            counts: ["http/1.1", "http/2"].map(|protocol| CLASSES.map(|class| count(protocol, class))),
            durations: metrics.traffic.request_seconds.with_label_values(&[listener]).local(),
            streams: Cell::new(0),
            streams_told: Cell::new(0),
            streams_gauge: metrics.traffic.streams.clone(),
            tunnels: metrics.traffic.tunnels.clone(),
            cut: Cell::new(false),
        });
        let of_this_thread = Rc::downgrade(&exchanges);
        spawn_local(flush(of_this_thread));
        exchanges
    }

    /// A request has come.
    pub(super) fn begin<B>(self: &Rc<Self>, request: &Request<B>, connection: &Connection) -> Exchange {
        let (id, trace) = (self.ids.next(), self.trace(request.headers(), connection.peer().is_some()));
        let logged = self.log.as_ref().map(|lines| drawn(lines.log().sample()));
        let traced = self.tracer.is_some() && trace.is_some_and(|trace| trace.own.sampled);
        let noted = (logged.is_some() || traced).then(|| {
            Rc::new(Noted {
                exchanges: Rc::clone(self),
                id,
                began: Instant::now(),
                at: self.clock.now(),
                logged: Cell::new(logged.unwrap_or_default()),
                trace: trace.or_else(|| Some(Trace::passing(context(request.headers())?))),
                traced,
                method: request.method().clone(),
                uri: request.uri().clone(),
                host: request.headers().get(header::HOST).cloned(),
                version: request.version(),
                address: connection.address(),
                resumed: connection.resumed,
                peer: connection.peer().cloned(),
                presented: connection.presented.clone(),
                session: RefCell::new(connection.session()),
                status: Cell::new(0),
                code: Cell::new(None),
                passed: Cell::new(false),
                route: OnceCell::new(),
                upstream: OnceCell::new(),
                received: OnceCell::new(),
                bytes_in: Cell::new(0),
                bytes_out: Cell::new(0),
                tunnelled: Cell::new(false),
                ended: Cell::new(None),
            })
        });
        let (http2, head) = (request.version() == Version::HTTP_2, request.method() == Method::HEAD);
        // Where it leads is told of failures, logged or not.
        let target = noted.is_none().then(|| Target::of(request));
        let (exchanges, route) = (Rc::clone(self), OnceCell::new());
        let (began, request) = (Instant::now(), connection.state.carry());
        connection.flights.take_time();
        Exchange { id, exchanges, began, http2, head, trace, noted, target, route, request }
    }

    /// The trace of a request, if there is a tracer: the client's, or one that begins here.
    fn trace(&self, headers: &HeaderMap, known: bool) -> Option<Trace> {
        let tracer = self.tracer.as_ref()?;
        let own = fastrand::u64(1..);
        // Strangers neither decide what is traced, nor write into the traces of others.
        Some(match context(headers).filter(|_| known) {
            Some(above) => Trace { own: above.child(own), parent: above.span },
            None => {
                let (trace, sampled) = (fastrand::u128(1..), drawn(tracer.sample()));
                Trace { own: TraceContext { trace, span: own, sampled }, parent: 0 }
            }
        })
    }

    /// Counts a stream for as long as the guard lives.
    pub(super) fn stream(self: &Rc<Self>) -> OpenStream {
        self.streams.set(self.streams.get() + 1);
        OpenStream(Rc::clone(self))
    }

    /// The time to end in is over: what is still open is cut now.
    pub(super) fn cut(&self) {
        self.cut.set(true);
    }

    fn flush(&self) {
        self.log.iter().for_each(AccessLines::flush);
        self.counts.iter().flatten().for_each(LocalIntCounter::flush);
        self.durations.flush();
        let streams = self.streams.get();
        self.streams_gauge.add(streams - self.streams_told.replace(streams));
    }
}

impl Drop for Exchanges {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Counters that threads share are touched once a second, not with each request.
async fn flush(exchanges: Weak<Exchanges>) {
    let mut turns = tokio::time::interval(AccessLog::FLUSH);
    loop {
        turns.tick().await;
        let Some(exchanges) = exchanges.upgrade() else { return };
        exchanges.flush();
    }
}

/// Whether a share of all things has this one in it; what is always or never so is not drawn.
fn drawn(share: f64) -> bool {
    share >= 1.0 || (share > 0.0 && fastrand::f64() < share)
}

/// The context that a client sent; none if it is malformed, or there are two.
fn context(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (first, None) = (values.next()?, values.next()) else { return None };
    TraceContext::parse(first.as_bytes())
}

/// An open HTTP/2 stream.
pub(super) struct OpenStream(Rc<Exchanges>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

#[derive(Clone, Copy)]
struct Trace {
    /// The gate's own span.
    own: TraceContext,
    /// The span above it; 0 if there is none.
    parent: u64,
}

impl Trace {
    /// That of a request whose context passes as it is.
    fn passing(above: TraceContext) -> Self {
        Self { own: above, parent: above.span }
    }
}

/// Counts the bytes of a request's body. Whoever reads it may be in another thread.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Counts a piece.
    pub fn count(&self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// One request, until its answer is ready.
pub struct Exchange {
    id: RequestId,
    exchanges: Rc<Exchanges>,
    began: Instant,
    http2: bool,
    head: bool,
    trace: Option<Trace>,
    /// Absent where it is neither logged nor traced.
    noted: Option<Rc<Noted>>,
    /// What it asks for, where that is not noted.
    target: Option<Target>,
    route: OnceCell<Rc<str>>,
    request: RequestGuard,
}

/// What a request asks for.
struct Target {
    uri: Uri,
    host: Option<HeaderValue>,
}

impl Target {
    fn of<B>(request: &Request<B>) -> Self {
        Self { uri: request.uri().clone(), host: request.headers().get(header::HOST).cloned() }
    }
}

/// The host that a request names, without the name and password before it; empty if none.
fn host_of<'a>(uri: &'a Uri, host: Option<&'a HeaderValue>) -> &'a [u8] {
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let named = authority.or_else(|| host.map(HeaderValue::as_bytes)).unwrap_or_default();
    named.rsplit(|byte| *byte == b'@').next().unwrap_or_default()
}

/// As much of a text as a line of the log has of it.
fn shortened(bytes: &[u8]) -> String {
    cut(&String::from_utf8_lossy(bytes.get(..LONG).unwrap_or(bytes)), LONGEST_NAME).into_owned()
}

impl Exchange {
    /// What the log and the upstream call it.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The host and the path that it asks for, cut to what is told of them.
    pub(super) fn target(&self) -> (String, String) {
        let (uri, host) = match (&self.noted, &self.target) {
            (Some(noted), _) => (&noted.uri, noted.host.as_ref()),
            (None, Some(target)) => (&target.uri, target.host.as_ref()),
            (None, None) => return Default::default(),
        };
        (shortened(host_of(uri, host)), shortened(uri.path().as_bytes()))
    }

    /// The route that it is for; empty if none leads there.
    pub(super) fn route(&self) -> &str {
        self.route.get().map_or("", |route| route)
    }

    /// Counts bytes of the request's body, for whoever reads it; absent where nobody wants to know.
    pub fn counter(&self) -> Option<Counter> {
        self.noted.as_ref().map(|noted| noted.received.get_or_init(Counter::default).clone())
    }

    /// It is for this route, whether or not it is sent there.
    pub(super) fn is_for(&self, route: &Rc<str>) {
        // Set once: an exchange is for one route.
        let _ = self.route.set(Rc::clone(route));
    }

    /// It is sent along a route, which may have put its connection on another session.
    pub(super) fn leads_along(&self, route: &Rc<str>, connection: &Connection) {
        let Some(noted) = &self.noted else { return };
        noted.session.replace(connection.session());
        // Set once: an exchange is sent along one route.
        let _ = noted.route.set(Rc::clone(route));
    }

    /// An upstream has answered, with its header.
    pub(super) fn answered_by(&self, endpoint: impl FnOnce() -> String) {
        let Some(noted) = &self.noted else { return };
        let _ = noted.upstream.set((endpoint(), micros(noted.began)));
    }

    /// It was refused, or would have been.
    pub(super) fn refused(&self, code: &'static str, passed: bool) {
        let Some(noted) = &self.noted else { return };
        noted.failed(code);
        noted.passed.set(passed);
    }

    /// Makes the trace's headers those of the next hop. Without a tracer they pass as they are.
    pub(super) fn trace(&self, headers: &mut HeaderMap) {
        let Some(trace) = &self.trace else { return };
        let mut states = headers.get_all(TRACESTATE).iter();
        if trace.parent == 0 || !states.all(|state| TraceContext::is_state(state.as_bytes())) {
            headers.remove(TRACESTATE);
        }
        if let Ok(value) = HeaderValue::try_from(trace.own.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// A tunnel begins, and is counted until this is dropped.
    pub(super) fn tunnel(&self) -> Tunnelled {
        self.noted.iter().for_each(|noted| noted.tunnelled.set(true));
        self.exchanges.tunnels.inc();
        Tunnelled { open: self.exchanges.tunnels.clone(), noted: self.noted.clone() }
    }

    /// Its answer goes out.
    pub(super) fn answer(self, response: Response<Body>) -> Response<Outgoing> {
        let status = response.status();
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(count) = self.exchanges.counts[usize::from(self.http2)].get(class) {
            count.inc();
        }
        self.noted.iter().for_each(|noted| noted.status.set(status.as_u16()));
        // To HEAD, and with these, goes no body, whatever there is of one.
        let bare = self.head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let response = if self.head && self.http2 { Body::without(response) } else { response };
        let Self { exchanges, began, noted, request, .. } = self;
        response.map(|body| Outgoing { body, whole: bare, exchanges, began, noted, _request: request })
    }
}

/// The body of an answer, told of when it is through.
pub(super) struct Outgoing {
    body: Body,
    whole: bool,
    exchanges: Rc<Exchanges>,
    began: Instant,
    noted: Option<Rc<Noted>>,
    _request: RequestGuard,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match (&polled, &this.noted) {
            (Poll::Ready(None), _) => this.whole = true,
            (Poll::Ready(Some(Ok(frame))), Some(noted)) => {
                noted.bytes_out.set(noted.bytes_out.get() + frame.data_ref().map_or(0, Bytes::len) as u64);
            }
            (Poll::Ready(Some(Err(error))), Some(noted)) => noted.failed(match error.downcast_ref() {
                Some(BodyError::Idle) => "upstream_timeout",
                _ => "upstream_failed",
            }),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.exchanges.durations.observe(self.began.elapsed().as_secs_f64());
        if let Some(noted) = self.noted.as_ref().filter(|noted| !noted.tunnelled.get()) {
            // Whoever knows its length asks for no more.
            if self.whole || self.body.is_end_stream() {
                noted.ended.set(Some(Ended::Whole));
            }
        }
    }
}

/// A tunnel, told of when it is over.
pub(super) struct Tunnelled {
    open: IntGauge,
    noted: Option<Rc<Noted>>,
}

impl Tunnelled {
    /// It carried so many bytes either way so far.
    pub(super) fn carried(&self, bytes_in: u64, bytes_out: u64) {
        let Some(noted) = &self.noted else { return };
        noted.bytes_in.set(noted.bytes_in.get() + bytes_in);
        noted.bytes_out.set(noted.bytes_out.get() + bytes_out);
    }

    /// Both its ends are through.
    pub(super) fn whole(&self) {
        self.noted.iter().for_each(|noted| noted.ended.set(Some(Ended::Whole)));
    }
}

impl Drop for Tunnelled {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// How the answer, or the tunnel, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It was sent whole.
    Whole,
    /// Either side broke it off.
    Broken,
    /// The gate ended the session.
    Killed,
    /// The gate ended before it.
    Drained,
}

impl Ended {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Whole => b"whole",
            Self::Broken => b"broken",
            Self::Killed => b"killed",
            Self::Drained => b"drained",
        }
    }
}

/// What is noted of one exchange, and told once nobody has anything to add.
struct Noted {
    exchanges: Rc<Exchanges>,
    id: RequestId,
    began: Instant,
    at: Timestamp,
    logged: Cell<bool>,
    trace: Option<Trace>,
    traced: bool,
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
    address: SocketAddr,
    resumed: bool,
    peer: Option<Arc<Peer>>,
    presented: Option<Rc<Presented>>,
    session: RefCell<Option<Arc<Session>>>,
    status: Cell<u16>,
    code: Cell<Option<&'static str>>,
    passed: Cell<bool>,
    route: OnceCell<Rc<str>>,
    /// Its name, and the microseconds until it had answered.
    upstream: OnceCell<(String, u64)>,
    received: OnceCell<Counter>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    tunnelled: Cell<bool>,
    ended: Cell<Option<Ended>>,
}

impl Noted {
    /// What fails is told of, whatever was drawn.
    fn failed(&self, code: &'static str) {
        self.code.set(Some(code));
        self.logged.set(true);
    }

    fn host(&self) -> &[u8] {
        host_of(&self.uri, self.host.as_ref())
    }

    fn bytes_in(&self) -> u64 {
        self.bytes_in.get() + self.received.get().map_or(0, |received| received.0.load(Ordering::Relaxed))
    }

    fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_2 => "http/2",
            Version::HTTP_10 => "http/1.0",
            _ => "http/1.1",
        }
    }

    fn ended(&self) -> Ended {
        let killed = self.session.borrow().as_ref().is_some_and(|session| session.cause().is_some());
        self.ended.get().unwrap_or(match (killed, self.exchanges.cut.get()) {
            (true, _) => Ended::Killed,
            (false, true) => Ended::Drained,
            (false, false) => Ended::Broken,
        })
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let mut line = JsonLine::begin(bytes);
        line.time("time", self.at.millis())
            .hex("request_id", self.id.number())
            .address("address", self.address)
            .text("listener", self.exchanges.listener.as_bytes(), SHORT)
            .text("protocol", self.protocol().as_bytes(), SHORT)
            .text("method", self.method.as_str().as_bytes(), SHORT)
            .text("host", self.host(), SHORT)
            .text("path", self.uri.path().as_bytes(), LONG);
        if self.status.get() != 0 {
            line.number("status", u64::from(self.status.get()));
        }
        if let Some(code) = self.code.get() {
            line.text("code", code.as_bytes(), SHORT);
        }
        if self.passed.get() {
            line.flag("passed", true);
        }
        if let Some(peer) = &self.peer {
            line.text("principal_id", peer.principal().as_bytes(), LONG);
            line.text("serial", peer.chain.leaf.serial.as_str().as_bytes(), SHORT);
        }
        if let Some(presented) = &self.presented {
            line.text("presented_id", presented.id.as_bytes(), LONG);
            line.text("presented_serial", presented.serial.as_bytes(), SHORT);
        }
        if let Some(route) = self.route.get() {
            line.text("route", route.as_bytes(), LONG);
        }
        if let Some((upstream, micros)) = self.upstream.get() {
            line.text("upstream", upstream.as_bytes(), LONG).number("upstream_us", *micros);
        }
        line.number("bytes_in", self.bytes_in())
            .number("bytes_out", self.bytes_out.get())
            .number("duration_us", micros(self.began))
            .flag("resumed", self.resumed)
            .text("ended", self.ended().name(), SHORT);
        if let Some(trace) = &self.trace {
            line.hex("trace_id", trace.own.trace);
        }
        line.end();
    }

    fn span(&self, trace: Trace) -> Span {
        let text =
            |bytes: &[u8], most| String::from_utf8_lossy(bytes.get(..most).unwrap_or(bytes)).into_owned();
        let version = self.protocol().trim_start_matches("http/");
        let mut attributes = vec![
            ("http.request.method", text(self.method.as_str().as_bytes(), SHORT)),
            ("url.scheme", "https".to_owned()),
            ("url.path", text(self.uri.path().as_bytes(), LONG)),
            ("server.address", text(self.host(), SHORT)),
            ("client.address", self.address.ip().to_string()),
            ("network.protocol.name", "http".to_owned()),
            ("network.protocol.version", version.to_owned()),
            ("portcullis.request_id", self.id.to_string()),
            ("portcullis.ended", text(self.ended().name(), SHORT)),
        ];
        let route = self.route.get().map_or("", |route| route);
        let principal = self.peer.as_ref().map_or("", |peer| peer.principal());
        let upstream = self.upstream.get().map_or("", |(upstream, _)| upstream);
        for (name, value) in [
            ("http.route", route),
            ("enduser.id", principal),
            ("portcullis.upstream", upstream),
            // What went wrong, by its code: a refusal's, or an upstream's failure.
            ("error.type", self.code.get().unwrap_or_default()),
        ] {
            if !value.is_empty() {
                attributes.push((name, text(value.as_bytes(), LONG)));
            }
        }
        let mut numbers = vec![
            ("http.request.body.size", self.bytes_in()),
            ("http.response.body.size", self.bytes_out.get()),
            ("client.port", u64::from(self.address.port())),
        ];
        if self.status.get() != 0 {
            numbers.push(("http.response.status_code", u64::from(self.status.get())));
        }
        Span {
            context: trace.own,
            parent: trace.parent,
            began: self.at.millis(),
            nanos: u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            route: route.to_owned(),
            method: text(self.method.as_str().as_bytes(), SHORT),
            status: self.status.get(),
            attributes,
            numbers,
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(lines) = self.exchanges.log.as_ref().filter(|_| self.logged.get()) {
            lines.add(|bytes| self.write(bytes));
        }
        if let (Some(tracer), Some(trace), true) = (&self.exchanges.tracer, self.trace, self.traced) {
            tracer.end(self.span(trace));
        }
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
