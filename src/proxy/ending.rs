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
use super::Mode;
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
pub(super) struct Watch {
    pub(super) connection: Rc<Connection>,
    /// When the certificate expires, or a refused connection has had its time.
    deadline: Option<Instant>,
    drain: watch::Receiver<bool>,
    draining: bool,
}

impl Watch {
    pub(super) fn new<H>(
        context: &Context<H>,
        connection: Rc<Connection>,
        drain: watch::Receiver<bool>,
    ) -> Self {
        let expiry = |peer: &Arc<Peer>| peer.chain.not_after.since(context.clock.now());
        let lasts = match &connection.guard {
            None => Some(REFUSED_FOR),
            Some(_) if context.mode == Mode::Advisory => None,
            Some(_) => connection.peer().map(expiry),
        };
        let deadline = lasts.and_then(|lasts| Instant::now().checked_add(lasts));
        Self { connection, deadline, drain, draining: false }
    }

    pub(super) async fn end(&mut self) -> End {
        let guard = self.connection.guard.as_ref();
        let killed = async {
            match guard {
                Some(guard) => drop(guard.killed().await),
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
            () = killed => End::Killed,
            () = late => {
                if let Some(guard) = guard {
                    guard.session().kill(Cause { code: "certificate_expired", reason: String::new() });
                }
                End::Killed
            }
            () = drained, if !self.draining => {
                self.draining = true;
                End::Gently
            }
            () = self.connection.close.notified() => End::Gently,
        }
    }
}
