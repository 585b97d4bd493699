//! Where routes of both modes share a connection: what of it a revocation ends, and what goes on.
//!
//! **Invariant:** whatever a strict request still has in hand holds a guard, or the connection does and is cut before it
//! lets go of it. Requests of advisory routes hold none.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use super::Mode;
use crate::session::Guard;

/// How much of one answer HTTP/2 may hold ready where routes of both modes share a connection, bytes: that much of a
/// strict answer may still go out before its stream is reset.
pub(super) const HELD_READY: usize = 16 * 1024;

/// What a connection's socket knows of its requests. One thread alone uses it; hyper wants it to be `Send`.
#[derive(Debug, Default)]
pub(super) struct Flights {
    strict: AtomicUsize,
    advisory: AtomicUsize,
    /// It has carried something strict. All of that may be with the kernel, and not yet with the client.
    answered: AtomicBool,
    /// It carries a tunnel, whose client may go on after the other side has ended.
    tunnelled: AtomicBool,
    cut: AtomicBool,
    /// Its client has sent more frames than it may.
    flooded: AtomicBool,
    /// It makes room for others, and has nothing under way.
    hurried: AtomicBool,
}

impl Flights {
    /// Counts a request for as long as what is returned lives.
    pub(super) fn begin(self: &Arc<Self>, mode: Mode) -> Flight {
        self.of(mode).fetch_add(1, Ordering::Relaxed);
        Flight { flights: Arc::clone(self), mode }
    }

    /// Whether a kill takes the connection along: nothing of an advisory route is under way, and something strict is, or
    /// was: how much of that has arrived nobody here knows.
    pub(super) fn are_strict(&self) -> bool {
        let strict = self.strict.load(Ordering::Relaxed) > 0 || self.answered.load(Ordering::Relaxed);
        strict && self.advisory.load(Ordering::Relaxed) == 0
    }

    pub(super) fn tunnel(&self) {
        self.tunnelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_tunnelled(&self) -> bool {
        self.tunnelled.load(Ordering::Relaxed)
    }

    /// From now on the socket throws away what it has not delivered when it is closed.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// It goes on after all.
    pub(super) fn spare(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Its socket ends it, because its client has sent more frames than it may.
    pub(super) fn flood(&self) {
        self.flooded.store(true, Ordering::Relaxed);
    }

    /// It makes room for others: its socket is closed without waiting for its client, unless a request comes first.
    pub(super) fn hurry(&self) {
        self.hurried.store(true, Ordering::Relaxed);
    }

    /// A request has come.
    pub(super) fn take_time(&self) {
        self.hurried.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Relaxed)
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    fn of(&self, mode: Mode) -> &AtomicUsize {
        match mode {
            Mode::Strict => &self.strict,
            Mode::Advisory => &self.advisory,
        }
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Arc<Flights>,
    mode: Mode,
}

impl Flight {
    /// It was killed. See [`Flights::cut`]: that is so unless others have to go on.
    pub(super) fn killed(&self) {
        if self.flights.are_strict() {
            self.flights.cut();
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.of(self.mode).fetch_sub(1, Ordering::Relaxed);
        if self.mode == Mode::Strict {
            self.flights.answered.store(true, Ordering::Relaxed);
        }
    }
}

tokio::task_local! {
    /// The HTTP/2 stream that is being served.
    static STREAM: Rc<Slot>;
}

/// What an HTTP/2 stream stands on, once its request was found to be for a strict route.
#[derive(Default)]
struct Slot {
    guard: RefCell<Option<Guard>>,
    armed: Notify,
}

impl Slot {
    async fn killed(&self) {
        self.armed.notified().await;
        let session = self.guard.borrow().as_ref().map(Guard::watched);
        match session {
            Some(session) => drop(session.killed().await),
            None => std::future::pending().await,
        }
    }
}

/// Runs a stream until it is through, or what it stands on is killed.
pub(super) async fn run<F: Future>(stream: F) {
    let slot = Rc::<Slot>::default();
    let mut stream = Box::pin(STREAM.scope(Rc::clone(&slot), stream));
    tokio::select! {
        biased;
        () = slot.killed() => {}
        _ = &mut stream => {}
    }
    // Before its guard goes.
    drop(stream);
}

/// Lets the stream that is being served end with `guard`'s session. Does nothing outside of one.
pub(super) fn stand_on(guard: &Guard) {
    // HTTP/1.1 has no streams: there the connection is cut.
    let _ = STREAM.try_with(|slot| {
        *slot.guard.borrow_mut() = Some(guard.clone());
        slot.armed.notify_one();
    });
}
