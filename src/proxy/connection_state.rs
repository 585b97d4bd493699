//! A connection, as the accept loop and its requests see it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a connection has been without a request before it makes room for another.
const IDLE: Duration = Duration::from_secs(1);

/// A connection, as the accept loop and its requests see it.
pub(super) struct ConnectionState {
    /// Its client is one for whom others make room.
    pub(super) vouched: Cell<bool>,
    /// Asks for the end of the connection after the answer at hand.
    pub(super) close: Notify,
    requests: Cell<usize>,
    idle_since: Cell<Instant>,
}

impl Default for ConnectionState {
    fn default() -> Self {
        let (vouched, requests, idle_since) = (Cell::default(), Cell::default(), Cell::new(Instant::now()));
        Self { vouched, close: Notify::new(), requests, idle_since }
    }
}

impl ConnectionState {
    /// Counts a request, or a tunnel, for as long as what comes back lives.
    pub(super) fn carry(self: &Rc<Self>) -> RequestGuard {
        self.requests.set(self.requests.get() + 1);
        RequestGuard(Rc::clone(self))
    }

    /// Since when it has carried no request.
    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// Begins its idle time: it carries no request from now on.
    pub(super) fn rest(&self) {
        self.idle_since.set(Instant::now());
    }

    /// True if it has carried no request for so long that it makes room for another connection.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.requests.get() == 0 && now.saturating_duration_since(self.idle_since.get()) >= IDLE
    }
}

/// A request or tunnel that keeps its connection from being idle.
pub(super) struct RequestGuard(Rc<ConnectionState>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.rest();
    }
}
