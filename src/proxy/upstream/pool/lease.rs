//! The loan of a connection for one request.
//!
//! **Invariant:** a lease holds a guard until its upstream side has answered, or was cut.

use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper::client::conn::http2;
use tokio::task::spawn_local;
use tokio::time::Instant;
use tokio::time::timeout;

use super::Busy;
use super::Pool;
use super::Shared;
use crate::proxy::body::Beginning;
use crate::proxy::body::RequestBody;
use crate::proxy::body::Sent;
use crate::proxy::reset::Wire;
use crate::proxy::upstream::UpstreamError;
use crate::session::Guard;

/// A connection in use for one request. Given back, it serves another; dropped, whatever of the request it still held is
/// torn down: an HTTP/1.1 connection with it, of an HTTP/2 connection this stream. If the session was killed, or the request
/// was not sent whole, the connection is reset, so that the upstream never takes half of a request for all of it.
pub(in crate::proxy) struct Lease {
    pub(in crate::proxy::upstream) carrier: Option<Carrier>,
    pub(in crate::proxy::upstream) pool: Rc<Pool>,
    _busy: Busy,
    /// How far the request that it is in use for has been sent; absent if it has no body.
    pub(in crate::proxy) sent: Option<Rc<Sent>>,
    /// Keeps the session in the table until its upstream side was cut; absent where no revocation may end the request.
    pub(in crate::proxy::upstream) guard: Option<Guard>,
}

/// What carries a request.
pub(in crate::proxy::upstream) enum Carrier {
    Own(http1::SendRequest<RequestBody>, Wire),
    Shared(http2::SendRequest<RequestBody>, Stream),
}

impl Carrier {
    pub(super) fn shared(shared: &Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Self::Shared(shared.sender.clone(), Stream(Rc::clone(shared)))
    }
}

/// Counts a request on a shared connection.
pub(in crate::proxy::upstream) struct Stream(Rc<Shared>);

impl Stream {
    pub(in crate::proxy::upstream) fn beginning(&self) -> &Beginning {
        &self.0.known.beginning
    }

    /// Resets the connection under a killed stream, unless others use it.
    fn kill(&self) {
        if self.0.streams.get() <= 1 {
            self.0.cut.set(true);
            self.0.wire.reset();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.unused_since.set(Instant::now());
    }
}

impl Lease {
    pub(super) fn new(carrier: Carrier, pool: &Rc<Pool>) -> Self {
        Self {
            carrier: Some(carrier),
            pool: Rc::clone(pool),
            _busy: Busy::new(pool),
            sent: None,
            guard: None,
        }
    }

    /// Whether a failure is its endpoint's: of a connection that many share it counts once, and a stream that was reset may
    /// have been its client's doing.
    pub(in crate::proxy::upstream) fn blames(&self, error: &UpstreamError) -> bool {
        match &self.carrier {
            Some(Carrier::Shared(_, stream)) if !matches!(error, UpstreamError::AnswerTimeout(_)) => {
                !error.is_reset() && !stream.0.known.blamed.replace(true)
            }
            _ => true,
        }
    }

    /// Whether others use its connection too.
    pub(in crate::proxy::upstream) fn is_shared(&self) -> bool {
        matches!(self.carrier, Some(Carrier::Shared(..)))
    }

    /// Where it leads, for the log.
    pub(in crate::proxy) fn endpoint(&self) -> String {
        self.pool.name()
    }

    /// Without progress in a body.
    pub(in crate::proxy) fn body_idle(&self) -> Duration {
        self.pool.cluster.waits.body_idle
    }

    /// Whether its request has not been sent whole yet.
    pub(in crate::proxy) fn is_sending(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| !sent.is_whole())
    }

    /// Whether the session of its request was killed.
    fn is_killed(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.cause().is_some())
    }

    /// The answer is through. Where it came before the end of its request, the rest still belongs to the session: an
    /// upstream that reads no more would otherwise hold on to both, and nothing would wake them for the kill.
    pub(in crate::proxy) fn answered(mut self) {
        if self.is_killed() {
            return;
        }
        if !self.is_sending() {
            return self.give_back();
        }
        spawn_local(async move {
            let limit = self.body_idle();
            let session = self.guard.as_ref().map(Guard::watched);
            let killed = async {
                match &session {
                    Some(session) => drop(session.killed().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = killed => {}
                () = async { drop(timeout(limit, self.sent_whole()).await) } => {}
            }
            // Still busy, it is torn down.
            let done = match &self.carrier {
                Some(Carrier::Own(sender, _)) => sender.is_ready(),
                _ => !self.is_sending(),
            };
            if done && !self.is_killed() {
                self.give_back();
            }
        });
    }

    /// Waits until it is free for another request, or will never be.
    async fn sent_whole(&mut self) {
        match (&mut self.carrier, &self.sent) {
            // Ready for another request, or never again: the pool finds out which.
            (Some(Carrier::Own(sender, _)), _) => drop(sender.ready().await),
            (_, Some(sent)) => sent.ended().await,
            _ => {}
        }
    }

    fn give_back(mut self) {
        // What was read of it may still go out.
        self.sent = None;
        match self.carrier.take() {
            Some(Carrier::Own(sender, wire)) => self.pool.keep(sender, wire),
            Some(Carrier::Shared(_, stream)) => {
                drop(stream);
                self.pool.freed.notify_one();
            }
            None => {}
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // On a shared connection nobody might ask the body again: an upstream that takes no more of it would keep it.
        self.sent.iter().for_each(|sent| sent.abandon());
        let killed = self.is_killed();
        match self.carrier.take() {
            Some(Carrier::Own(_, wire)) if killed => wire.reset(),
            Some(Carrier::Own(_, wire)) => wire.close(),
            Some(Carrier::Shared(_, stream)) => {
                if killed {
                    stream.kill();
                }
                drop(stream);
                self.pool.freed.notify_one();
            }
            None => {}
        }
    }
}
