//! Bodies on their way through, either way: watched for progress, and for the kill.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::Body as _;
use http_body::Frame;
use http_body::SizeHint;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

use super::headers;
use super::pace::Pace;
use super::upstream::Lease;
use crate::session::Guard;

/// Whatever went wrong in a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body was broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
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

/// How far a request's body has been sent; shared with whoever waits for the answer.
#[derive(Debug, Default)]
pub(super) struct Sent {
    frames: AtomicUsize,
    whole: AtomicBool,
}

impl Sent {
    /// How many pieces have gone to the upstream's connection.
    pub(super) fn frames(&self) -> usize {
        self.frames.load(Ordering::Relaxed)
    }

    /// Whether that was all.
    pub(super) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }
}

/// A request's body. It is read by the task of the upstream's connection, so it holds a guard of its own: while it
/// lives, its session does, and once that is killed it gives nothing more away.
pub(super) struct RequestBody {
    incoming: Option<Incoming>,
    guard: Option<Guard>,
    pace: Pace,
    /// How many bytes may come yet.
    left: u64,
    /// Absent where there is nothing to send.
    sent: Option<Arc<Sent>>,
    /// The header of the claim, which trailers may not repeat.
    claim: Option<HeaderName>,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, guard: Option<Guard>, bounds: Bounds) -> Self {
        let pace = Pace::new(bounds.idle, bounds.rate);
        let left = if bounds.bytes == 0 { u64::MAX } else { bounds.bytes };
        let incoming = Some(incoming).filter(|incoming| !incoming.is_end_stream());
        let guard = guard.filter(|_| incoming.is_some());
        let sent = incoming.is_some().then(Arc::<Sent>::default);
        Self { incoming, guard, pace, left, sent, claim: None }
    }

    /// Keeps a claim made in this header out of the trailers.
    pub(super) fn without(mut self, claim: Option<&HeaderName>) -> Self {
        self.claim = claim.filter(|_| self.incoming.is_some()).cloned();
        self
    }

    pub(super) fn empty() -> Self {
        let pace = Pace::new(Duration::ZERO, 0);
        Self { incoming: None, guard: None, pace, left: 0, sent: None, claim: None }
    }

    pub(super) fn sent(&self) -> Option<Arc<Sent>> {
        self.sent.clone()
    }

    fn end(&mut self) {
        self.incoming = None;
        self.guard = None;
        self.sent.iter().for_each(|sent| sent.whole.store(true, Ordering::Release));
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
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        if this.guard.as_ref().is_some_and(|guard| guard.cause().is_some()) {
            this.end();
            return Poll::Ready(Some(Err(BodyError::Killed.into())));
        }
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                this.pace.moved(bytes);
                let Some(left) = this.left.checked_sub(bytes) else {
                    // Broken off, so that what was sent of it does not look whole.
                    this.end();
                    return Poll::Ready(Some(Err(BodyError::TooLarge.into())));
                };
                this.left = left;
                if let Some(sent) = &this.sent {
                    sent.frames.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    headers::forward_trailers(trailers, this.claim.as_ref());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                this.end();
                Poll::Ready(Some(Err(BodyError::Broken.into())))
            }
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => this.pace.poll_late(cx).map(|()| {
                this.end();
                Some(Err(BodyError::Idle.into()))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.end();
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

/// As it comes from an upstream, with the connection that it comes over.
pub struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    /// Of a request that may not be through when its answer is.
    guard: Option<Guard>,
    pace: Pace,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, lease: Lease, guard: Option<Guard>, limit: Duration) -> Self {
        Self { incoming, lease: Some(lease), guard, pace: Pace::new(limit, 0) }
    }
}

impl Drop for UpstreamBody {
    /// Read to its end, the connection may serve another request; else it is torn down with the lease.
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take().filter(|_| self.incoming.is_end_stream()) {
            lease.answered(self.guard.take());
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
                    body.pace.moved(0);
                    Poll::Ready(Some(Ok(frame)))
                }
                Poll::Ready(Some(Err(e))) => Poll::Ready(Some(Err(e.into()))),
                Poll::Ready(None) => {
                    if let Some(lease) = body.lease.take() {
                        lease.answered(body.guard.take());
                    }
                    Poll::Ready(None)
                }
                Poll::Pending => body.pace.poll_late(cx).map(|()| Some(Err(BodyError::Idle.into()))),
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
