//! The streams of an HTTP/2 connection: each a task, with a guard, and with an eye on the kill and on whether its client
//! takes what it has asked for.
//!
//! A stream's window is the client's to open, and no write to the socket blocks while it stays closed: that a stream
//! stands still is seen only by what its body has given and nobody has come to fetch more of.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body::SizeHint;
use hyper::rt::Executor;
use tokio::task::spawn_local;

use super::BoxError;
use super::exchange::Exchanges;
use super::flight;
use super::frames::FrameCredit;
use super::pace::Pace;
use crate::session::Guard;

/// A body is given in pieces of a frame's size: h2 takes a whole piece for the first byte of window, and keeps the rest.
const PIECE: usize = 16 << 10;

/// What the body of the stream that is being polled has done.
#[derive(Clone, Copy, Default)]
enum Did {
    /// It was not asked: it has not begun, or its client has to take what was given first.
    #[default]
    Nothing,
    /// It gave so much.
    Gave(u64),
    /// It waits for its own source.
    Waits,
}

/// What a stream may be ended by.
#[derive(Clone)]
pub(super) enum StandsOn {
    /// What its connection stands on.
    Connection(Option<Guard>),
    /// Each request says which mode its route has, and so what it stands on.
    ItsRoute,
}

/// The state that the streams of one connection share.
struct Shared {
    /// Of whichever stream is being polled: they share one thread.
    did: Cell<Did>,
    /// The frames that they earn their client.
    credit: Arc<FrameCredit>,
}

/// Runs the streams of one connection.
#[derive(Clone)]
pub(super) struct Streams {
    stands_on: StandsOn,
    shared: Rc<Shared>,
    idle: Duration,
    rate: u32,
    exchanges: Rc<Exchanges>,
}

impl Streams {
    pub(super) fn new(
        stands_on: StandsOn,
        exchanges: Rc<Exchanges>,
        (idle, rate): (Duration, u32),
        credit: Arc<FrameCredit>,
    ) -> Self {
        let shared = Rc::new(Shared { did: Cell::default(), credit });
        Self { stands_on, shared, idle, rate, exchanges }
    }

    /// The body of an answer, as its stream takes it.
    pub(super) fn body<B>(&self, body: B) -> StreamBody<B> {
        StreamBody { body, rest: None, shared: Rc::clone(&self.shared) }
    }
}

impl<F: Future + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        // Boxed, because an async block keeps what it moves twice, and the whole is moved around until it is spawned.
        let mut stream = Box::pin(stream);
        let shared = Rc::clone(&self.shared);
        shared.credit.request();
        let mut pace = Pace::new(self.idle, self.rate);
        let open = self.exchanges.stream();
        let ended = poll_fn(move |cx| {
            let _ = &open;
            shared.did.set(Did::Nothing);
            if stream.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            match shared.did.get() {
                Did::Gave(bytes) => pace.moved(bytes, 0),
                Did::Waits => pace.moved(0, 0),
                Did::Nothing => {}
            }
            match shared.did.get() {
                Did::Gave(_) => pace.poll_late(cx, 0),
                Did::Nothing if pace.is_waiting() => pace.poll_late(cx, 0),
                Did::Nothing | Did::Waits => Poll::Pending,
            }
        });
        let guard = match &self.stands_on {
            StandsOn::Connection(guard) => guard.clone(),
            StandsOn::ItsRoute => {
                spawn_local(flight::run(ended));
                return;
            }
        };
        spawn_local(async move {
            match &guard {
                // Dropped before its end, a stream is reset.
                None => ended.await,
                Some(guard) => tokio::select! {
                    biased;
                    _ = guard.killed() => {}
                    () = ended => {}
                },
            }
        });
    }
}

/// An answer's body that says what it does.
pub(super) struct StreamBody<B> {
    body: B,
    /// Of a piece that was too large.
    rest: Option<Bytes>,
    shared: Rc<Shared>,
}

impl<B> StreamBody<B> {
    fn give(&mut self, mut bytes: Bytes) -> Frame<Bytes> {
        if bytes.len() > PIECE {
            self.rest = Some(bytes.split_off(PIECE));
        }
        if !bytes.is_empty() {
            self.shared.credit.piece();
        }
        let before = match self.shared.did.get() {
            Did::Gave(before) => before,
            Did::Nothing | Did::Waits => 0,
        };
        self.shared.did.set(Did::Gave(before + bytes.len() as u64));
        Frame::data(bytes)
    }
}

impl<B: http_body::Body<Data = Bytes, Error = BoxError> + Unpin> http_body::Body for StreamBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(rest) = this.rest.take() {
            return Poll::Ready(Some(Ok(this.give(rest))));
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(data) => this.give(data),
                Err(trailers) => trailers,
            }))),
            Poll::Pending => {
                this.shared.did.set(Did::Waits);
                Poll::Pending
            }
            ended => ended,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.len() as u64);
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(inner.lower().saturating_add(rest));
        hint
    }
}
