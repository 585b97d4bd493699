//! What ends a connection from outside: the kill, the certificate's expiry, the drain.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep_until;
use tokio::time::timeout;

use super::Connection;
use super::Context;
use super::Handler;
use super::Modes;
use super::Peer;
use crate::session::Cause;

/// How long a connection that has asked for nothing yet may still do so once the drain has begun: its client connected
/// before, and would take an end without an answer for a failure.
const FIRST_REQUEST: Duration = Duration::from_secs(2);
/// How long a connection that was refused from the start may take to ask for its one refusal.
const REFUSED_FOR: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Now: the session was killed, or the time of a refused connection is up.
    Killed,
    /// After what is at hand.
    Gently,
}

/// What ends a connection from outside.
pub(super) struct Watch<H> {
    context: Rc<Context<H>>,
    pub(super) connection: Rc<Connection>,
    /// When the certificate expires, or a refused connection has had its time.
    deadline: Option<Instant>,
    drain: watch::Receiver<bool>,
    draining: bool,
}

impl<H: Handler> Watch<H> {
    pub(super) fn new(
        context: &Rc<Context<H>>,
        connection: Rc<Connection>,
        drain: watch::Receiver<bool>,
    ) -> Self {
        let expiry = |peer: &Arc<Peer>| peer.chain.not_after.since(context.clock.now());
        let lasts = match connection.session() {
            None => Some(REFUSED_FOR),
            Some(_) if context.modes == Modes::Advisory => None,
            Some(_) => connection.peer().map(expiry),
        };
        let deadline = lasts.and_then(|lasts| Instant::now().checked_add(lasts));
        Self { context: Rc::clone(context), connection, deadline, drain, draining: false }
    }

    pub(super) async fn end(&mut self) -> End {
        loop {
            let session = self.connection.session();
            let killed = async {
                match &session {
                    Some(session) => session.killed().await,
                    None => std::future::pending().await,
                }
            };
            let late = async {
                match self.deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let drained = async {
                // The sender lives until the gate has drained; losing it means the same.
                let _ = self.drain.wait_for(|drain| *drain).await;
                if !self.connection.asked.get() {
                    let _ = timeout(FIRST_REQUEST, self.connection.first.notified()).await;
                }
            };
            tokio::select! {
                biased;
                cause = killed => if !self.context.fall(&self.connection, cause) {
                    self.connection.flights.cut();
                    return End::Killed;
                },
                () = late => {
                    self.deadline = None;
                    let Some(session) = session else { return End::Killed };
                    // While break-glass lasts it goes on, and ends with that.
                    if self.connection.is_armed() && !self.context.engine.tolerate(&session) {
                        session.kill(Cause { code: "certificate_expired", reason: String::new() });
                    }
                }
                () = self.connection.moved.notified() => {}
                () = drained, if !self.draining => {
                    self.draining = true;
                    return End::Gently;
                }
                () = self.connection.state.close.notified() => {
                    if self.connection.state.is_idle(Instant::now()) {
                        self.connection.flights.hurry();
                    }
                    return End::Gently;
                }
            }
        }
    }
}
