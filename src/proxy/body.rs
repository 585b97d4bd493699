//! Bodies on their way through, either way: watched for progress, and for the kill.

use std::cell::Cell;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::Body as _;
use http_body::Frame;
use http_body::SizeHint;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::sync::Notify;

use super::exchange::Counter;
use super::flight::Flight;
use super::headers;
use super::pace::Pace;
use super::reset::ResetHandle;
use super::upstream::Lease;
use crate::session::Guard;

/// Whatever went wrong in a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// No progress for too long.
    #[error("no progress in the body")]
    Idle,
    /// More than it may be.
    #[error("the body is too large")]
    TooLarge,
    /// The client broke it off, or wrote it so that it cannot be read.
    #[error("the client's body is broken")]
    Broken,
    /// The session that it belongs to was ended.
    #[error("the session was ended")]
    Killed,
}

/// What bounds a body.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// How long nothing may come of it.
    pub(super) idle: Duration,
    /// Bytes a second, on average over that time; 0: any.
    pub(super) rate: u32,
    /// Bytes in all; 0: any.
    pub(super) bytes: u64,
}

/// A request's body on its way, shared between whoever sends it and whoever waits for the answer.
pub(super) struct Sent {
    source: RefCell<Option<Source>>,
    frames: Cell<usize>,
    cut: Cell<bool>,
    abandoned: Cell<bool>,
    /// What is wrong with it. hyper keeps that to itself where HTTP/2 is spoken.
    failed: Cell<Option<BodyError>>,
    /// Its client is waited for.
    awaits_client: Cell<bool>,
    ended: Notify,
    /// Resets the connection that carries it alone, if one does.
    wire: RefCell<Option<ResetHandle>>,
}

struct Source {
    incoming: Incoming,
    guard: Option<Guard>,
}

impl Sent {
    /// How many pieces of it have gone to the upstream's connection; and of the answer's body, have come from there.
    pub(super) fn frames(&self) -> usize {
        self.frames.get()
    }

    /// What is wrong with it, if it was broken off.
    pub(super) fn failed(&self) -> Option<BodyError> {
        self.failed.get()
    }

    /// Whether its client is waited for, and not the upstream.
    pub(super) fn awaits_client(&self) -> bool {
        self.awaits_client.get()
    }

    fn passed(&self) {
        self.frames.set(self.frames.get().wrapping_add(1));
    }

    /// Whether nothing more of it will be sent.
    pub(super) fn is_whole(&self) -> bool {
        self.source.borrow().is_none()
    }

    /// Waits until nothing more of it will be sent.
    pub(super) async fn ended(&self) {
        while !self.is_whole() {
            self.ended.notified().await;
        }
    }

    /// Notes the connection that carries it and nothing else.
    pub(super) fn goes_over(&self, wire: &ResetHandle) {
        self.wire.replace(Some(wire.clone()));
    }

    /// Lets go of what was not sent yet, and of its session: the upstream is given no more, and no end either. A connection
    /// that carries nothing else is reset, before the guard goes.
    pub(super) fn cut(&self) {
        let source = self.source.take();
        if source.is_some() {
            self.wire.take().iter().for_each(ResetHandle::reset);
            self.cut.set(true);
            self.ended.notify_waiters();
        }
    }

    /// The same, of a request that nobody waits for any more: nor does what was read of it go out.
    pub(super) fn abandon(&self) {
        self.cut();
        self.abandoned.set(true);
        self.ended.notify_waiters();
    }

    /// Waits until nobody waits for it any more.
    pub(super) async fn abandoned(&self) {
        while !self.abandoned.get() {
            self.ended.notified().await;
        }
    }

    fn end(&self) {
        drop(self.source.take());
        self.ended.notify_waiters();
    }
}

/// Where an HTTP/2 connection learns whose body it is about to send.
pub(super) type Beginning = Rc<Cell<Option<Rc<Sent>>>>;

/// A request's body. It is read by the task of the upstream's connection, so it holds a guard of its own: while it
/// lives, its session does, and once that is killed it gives nothing more away.
pub(super) struct RequestBody {
    /// Absent where there is nothing to send.
    sent: Option<Rc<Sent>>,
    /// For the lease of the connection that is going to carry it.
    guard: Option<Guard>,
    pace: Pace,
    /// How many bytes may come yet.
    left: u64,
    /// To be told when it is first asked.
    beginning: Option<Beginning>,
    /// The headers of claims, which trailers may not repeat.
    claims: Option<Rc<[HeaderName]>>,
    counter: Option<Counter>,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, guard: Option<Guard>, bounds: Bounds) -> Self {
        let pace = Pace::new(bounds.idle, bounds.rate);
        let left = if bounds.bytes == 0 { u64::MAX } else { bounds.bytes };
        let incoming = Some(incoming).filter(|incoming| !incoming.is_end_stream());
        let sent = incoming.map(|incoming| {
            let source = RefCell::new(Some(Source { incoming, guard: guard.clone() }));
            Rc::new(Sent {
                source,
                frames: Cell::new(0),
                cut: Cell::new(false),
                abandoned: Cell::new(false),
                failed: Cell::new(None),
                awaits_client: Cell::new(false),
                ended: Notify::new(),
                wire: RefCell::default(),
            })
        });
        Self { sent, guard, pace, left, beginning: None, claims: None, counter: None }
    }

    /// Keeps claims made in these headers out of the trailers.
    pub(super) fn without(mut self, claims: &Rc<[HeaderName]>) -> Self {
        self.claims = self.sent.as_ref().map(|_| Rc::clone(claims));
        self
    }

    /// Counts its bytes, if somebody wants to know.
    pub(super) fn counted(mut self, counter: Option<Counter>) -> Self {
        self.counter = counter;
        self
    }

    pub(super) fn empty() -> Self {
        Self {
            sent: None,
            guard: None,
            pace: Pace::new(Duration::ZERO, 0),
            left: 0,
            beginning: None,
            claims: None,
            counter: None,
        }
    }

    /// Tells a connection whose body it is when it is first asked.
    pub(super) fn tell(&mut self, beginning: &Beginning) {
        self.beginning = self.sent.as_ref().map(|_| Rc::clone(beginning));
    }

    /// Hands its guard over to the connection that is going to carry it.
    pub(super) fn take_guard(&mut self) -> Option<Guard> {
        self.guard.take()
    }

    pub(super) fn sent(&self) -> Option<Rc<Sent>> {
        self.sent.clone()
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(sent) = &this.sent else {
            return Poll::Ready(None);
        };
        if let Some(beginning) = this.beginning.take() {
            beginning.set(Some(Rc::clone(sent)));
        }
        let mut source = sent.source.borrow_mut();
        let Some(open) = source.as_mut() else {
            // Cut is not ended: what comes of it must not look whole.
            return Poll::Ready(sent.cut.get().then(|| Err(BodyError::Killed.into())));
        };
        let polled = match open.guard.as_ref().and_then(Guard::cause) {
            Some(_) => Poll::Ready(Err(BodyError::Killed)),
            None => match Pin::new(&mut open.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                    this.pace.moved(bytes, sent.frames());
                    // Broken off beyond it, so that what was sent does not look whole.
                    let left = this.left.checked_sub(bytes);
                    this.left = left.unwrap_or_default();
                    Poll::Ready(left.map(|_| Some(frame)).ok_or(BodyError::TooLarge))
                }
                Poll::Ready(Some(Err(_))) => Poll::Ready(Err(BodyError::Broken)),
                Poll::Ready(None) => Poll::Ready(Ok(None)),
                Poll::Pending => this.pace.poll_late(cx, sent.frames()).map(|()| Err(BodyError::Idle)),
            },
        };
        drop(source);
        sent.awaits_client.set(polled.is_pending());
        match ready!(polled) {
            Ok(Some(mut frame)) => {
                sent.passed();
                this.counter.iter().for_each(|counter| counter.count(&frame));
                if let Some(trailers) = frame.trailers_mut() {
                    headers::forward_trailers(trailers, this.claims.as_deref().unwrap_or_default());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Ok(None) => {
                sent.end();
                Poll::Ready(None)
            }
            Err(error) => {
                sent.failed.set(Some(error));
                sent.cut();
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.sent.as_ref().is_none_or(|sent| match &*sent.source.borrow() {
            Some(open) => open.incoming.is_end_stream(),
            None => !sent.cut.get(),
        })
    }

    fn size_hint(&self) -> SizeHint {
        let hint = |sent: &Rc<Sent>| sent.source.borrow().as_ref().map(|open| open.incoming.size_hint());
        self.sent.as_ref().and_then(hint).unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl Drop for RequestBody {
    /// Dropped early, its answer need not wait for the rest; what was cut stays cut.
    fn drop(&mut self) {
        self.sent.iter().for_each(|sent| sent.end());
    }
}

/// A response's body.
pub enum Body {
    /// One piece, or none.
    Whole(Option<Bytes>),
    /// As it comes from an upstream.
    Upstream(UpstreamBody),
    /// From elsewhere, such as the admin API.
    Other(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// Of an answer to HEAD over HTTP/2, where hyper would send it: over HTTP/1.1 it does not.
    pub(super) fn without(response: Response<Self>) -> Response<Self> {
        let (mut parts, body) = response.into_parts();
        match body {
            Self::Whole(Some(bytes)) => {
                parts.headers.entry(CONTENT_LENGTH).or_insert_with(|| bytes.len().into());
                Response::from_parts(parts, Self::Whole(None))
            }
            body => Response::from_parts(parts, body),
        }
    }

    /// Counts it among what its connection carries, until all of it is on its way; one that is at hand whole is.
    pub(super) fn count(&mut self, flight: Option<Flight>) {
        if let Self::Upstream(body) = self {
            body.flight = flight;
        }
    }
}

/// As it comes from an upstream, with the connection that it comes over.
pub struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    pace: Pace,
    /// Counts it among what its connection carries.
    flight: Option<Flight>,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, lease: Lease) -> Self {
        let pace = Pace::new(lease.body_idle(), 0);
        Self { incoming, lease: Some(lease), pace, flight: None }
    }

    /// The request that it answers, if that has a body.
    fn sent(&self) -> Option<&Sent> {
        self.lease.as_ref().and_then(|lease| lease.sent.as_deref())
    }
}

impl Drop for UpstreamBody {
    /// Read to its end, the connection may serve another request; else it is torn down with the lease.
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take().filter(|_| self.incoming.is_end_stream()) {
            lease.answered();
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Other(body) => Pin::new(body).poll_frame(cx),
            Self::Upstream(body) => match Pin::new(&mut body.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    body.pace.moved(0, 0);
                    body.sent().iter().for_each(|sent| sent.passed());
                    Poll::Ready(Some(Ok(frame)))
                }
                Poll::Ready(Some(Err(e))) => Poll::Ready(Some(Err(e.into()))),
                Poll::Ready(None) => {
                    if let Some(lease) = body.lease.take() {
                        lease.answered();
                    }
                    Poll::Ready(None)
                }
                Poll::Pending => {
                    let passed = body.sent().map_or(0, Sent::frames);
                    body.pace.poll_late(cx, passed).map(|()| Some(Err(BodyError::Idle.into())))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Upstream(body) => body.incoming.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(body) => body.incoming.size_hint(),
            Self::Other(body) => body.size_hint(),
        }
    }
}
