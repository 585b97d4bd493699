//! The connections of one thread to one endpoint; `lease` is the loan of one for a request.

mod lease;

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper::client::conn::http2;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio::time::timeout_at;

use super::Protocol;
use super::UpstreamError;
use super::cluster::Cluster;
use super::cluster::Member;
use super::connect::Connected;
use super::connect::Multiplexed;
use super::connect::Sender;
use super::connect::Wanted;
use crate::proxy::body::RequestBody;
use crate::proxy::reset::Wire;
pub(super) use lease::Carrier;
pub(in crate::proxy) use lease::Lease;

/// Unused connections kept to one endpoint, by one thread.
const MAX_IDLE: usize = 256;

/// The connections of one thread to one endpoint.
pub(super) struct Pool {
    pub(super) cluster: Arc<Cluster>,
    pub(super) member: Arc<Member>,
    /// HTTP/1.1 connections without a request, the one used last at the end.
    idle: RefCell<VecDeque<Kept>>,
    /// HTTP/2 connections.
    shared: RefCell<Vec<Rc<Shared>>>,
    /// Requests under way.
    pub(super) busy: Cell<usize>,
    open: Cell<usize>,
    most: usize,
    waiting: Cell<usize>,
    queue: usize,
    /// A connection came free, or may be opened.
    freed: Notify,
    /// It speaks HTTP/2, as far as is known: then one connection is opened at a time.
    multiplexes: Cell<bool>,
    connecting: Cell<bool>,
}

/// An HTTP/1.1 connection that waits for a request.
struct Kept {
    sender: http1::SendRequest<RequestBody>,
    wire: Wire,
    unused_since: Instant,
}

/// An HTTP/2 connection.
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    known: Multiplexed,
    wire: Wire,
    /// It was reset. Its sender learns that later.
    cut: Cell<bool>,
    streams: Cell<usize>,
    unused_since: Cell<Instant>,
}

impl Shared {
    fn is_open(&self) -> bool {
        !self.cut.get() && !self.sender.is_closed()
    }
}

impl Pool {
    /// A pool with its share of what `threads` may open.
    pub(super) fn new(cluster: &Arc<Cluster>, member: &Arc<Member>, threads: usize) -> Self {
        let share = |of: usize| of.div_ceil(threads.max(1));
        Self {
            cluster: Arc::clone(cluster),
            member: Arc::clone(member),
            idle: RefCell::default(),
            shared: RefCell::default(),
            busy: Cell::new(0),
            open: Cell::new(0),
            most: share(cluster.config.connections).max(1),
            waiting: Cell::new(0),
            queue: share(cluster.config.queue),
            freed: Notify::new(),
            multiplexes: Cell::new(member.connector.endpoint.protocol == Protocol::H2c),
            connecting: Cell::new(false),
        }
    }

    fn name(&self) -> String {
        self.member.connector.endpoint.to_string()
    }

    /// A connection for one request, with the time that it was unused if it was kept; waits for one if it must.
    pub(super) async fn lease(
        self: &Rc<Self>,
        wanted: Wanted,
    ) -> Result<(Lease, Option<Duration>), UpstreamError> {
        let _busy = Busy::new(self);
        // Who waits already comes first.
        let mut place = if self.waiting.get() > 0 { Some(Place::take(self)?) } else { None };
        let mut may_go = place.is_none();
        let until = Instant::now() + self.cluster.waits.queue;
        loop {
            let found = if may_go { self.take(wanted) } else { None };
            if found.is_some() || (may_go && self.may_open()) {
                drop(place);
                // There may be room for the next one, too.
                if self.waiting.get() > 0 {
                    self.freed.notify_one();
                }
                if let Some(found) = found {
                    return Ok(found);
                }
                break;
            }
            if place.is_none() {
                place = Some(Place::take(self)?);
            }
            if timeout_at(until, self.freed.notified()).await.is_err() {
                return Err(UpstreamError::Busy(self.name()));
            }
            may_go = true;
        }
        Box::pin(self.fresh(wanted)).await.map(|lease| (lease, None))
    }

    /// Whether a request would not have to wait here.
    pub(super) fn has_room(&self) -> bool {
        self.open.get() < self.most
            || !self.idle.borrow().is_empty()
            || self.shared.borrow().iter().any(|shared| self.takes_more(shared))
    }

    fn may_open(&self) -> bool {
        self.open.get() < self.most && !(self.multiplexes.get() && self.connecting.get())
    }

    fn takes_more(&self, shared: &Shared) -> bool {
        let most = self.cluster.config.streams.min(shared.known.most.get()).max(1);
        shared.is_open() && shared.streams.get() < most
    }

    fn take(self: &Rc<Self>, wanted: Wanted) -> Option<(Lease, Option<Duration>)> {
        if wanted == Wanted::Requests && self.multiplexes.get() {
            let mut all = self.shared.borrow_mut();
            all.retain(|shared| shared.is_open());
            let least =
                all.iter().filter(|shared| self.takes_more(shared)).min_by_key(|shared| shared.streams.get());
            if let Some(least) = least {
                let age = if least.streams.get() == 0 {
                    least.unused_since.get().elapsed()
                } else {
                    Duration::ZERO
                };
                return Some((Lease::new(Carrier::shared(least), self), Some(age)));
            }
        }
        let kept = self.take_idle()?;
        let age = kept.unused_since.elapsed();
        Some((Lease::new(Carrier::Own(kept.sender, kept.wire), self), Some(age)))
    }

    /// The connection used last that can take a request now.
    fn take_idle(&self) -> Option<Kept> {
        let mut idle = self.idle.borrow_mut();
        let mut busy = Vec::new();
        let mut found = None;
        while let Some(kept) = idle.pop_back() {
            if kept.sender.is_closed() || kept.unused_since.elapsed() > self.cluster.waits.idle {
                kept.wire.close();
            } else if kept.sender.is_ready() {
                found = Some(kept);
                break;
            } else {
                busy.push(kept);
            }
        }
        idle.extend(busy.into_iter().rev());
        found
    }

    /// A connection that nobody has used yet.
    pub(super) async fn fresh(self: &Rc<Self>, wanted: Wanted) -> Result<Lease, UpstreamError> {
        let _busy = Busy::new(self);
        let open = Open::new(self).ok_or_else(|| UpstreamError::Busy(self.name()))?;
        let connecting = Connecting::new(self);
        let connected = self.member.connector.connect(wanted, self.cluster.waits.connect, open).await;
        drop(connecting);
        let Connected { sender, wire } = connected?;
        let carrier = match sender {
            Sender::Http1(sender) => Carrier::Own(sender, wire),
            Sender::Http2(sender, known) => {
                self.multiplexes.set(true);
                let (cut, streams, unused_since) =
                    (Cell::default(), Cell::default(), Cell::new(Instant::now()));
                let shared = Rc::new(Shared { sender, known, wire, cut, streams, unused_since });
                self.shared.borrow_mut().push(Rc::clone(&shared));
                // Whoever waited for it shares it.
                self.freed.notify_waiters();
                Carrier::shared(&shared)
            }
        };
        Ok(Lease::new(carrier, self))
    }

    fn keep(&self, sender: http1::SendRequest<RequestBody>, wire: Wire) {
        let mut idle = self.idle.borrow_mut();
        if sender.is_closed() || idle.len() >= MAX_IDLE {
            wire.close();
            return;
        }
        idle.push_back(Kept { sender, wire, unused_since: Instant::now() });
        drop(idle);
        self.freed.notify_one();
    }

    /// Closes connections that were unused for too long.
    pub(super) fn sweep(&self) {
        let most = self.cluster.waits.idle;
        self.idle.borrow_mut().retain(|kept| {
            let keep = !kept.sender.is_closed() && kept.unused_since.elapsed() <= most;
            if !keep {
                kept.wire.close();
            }
            keep
        });
        self.shared.borrow_mut().retain(|shared| {
            let idle = shared.streams.get() == 0 && shared.unused_since.get().elapsed() > most;
            if idle {
                shared.wire.close();
            }
            !idle && shared.is_open()
        });
    }
}

/// Counts an open connection, for as long as its task lives.
struct Open(Rc<Pool>);

impl Open {
    fn new(pool: &Rc<Pool>) -> Option<Self> {
        if !pool.cluster.room.take() {
            return None;
        }
        pool.open.set(pool.open.get() + 1);
        pool.cluster.metrics.connections.inc();
        Some(Self(Rc::clone(pool)))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.cluster.metrics.connections.dec();
        self.0.cluster.room.give_back();
        self.0.freed.notify_one();
    }
}

/// A connection is being opened.
struct Connecting(Rc<Pool>);

impl Connecting {
    fn new(pool: &Rc<Pool>) -> Self {
        pool.connecting.set(true);
        Self(Rc::clone(pool))
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.freed.notify_one();
    }
}

/// Counts a request, from when it waits for a connection.
struct Busy(Rc<Pool>);

impl Busy {
    fn new(pool: &Rc<Pool>) -> Self {
        pool.busy.set(pool.busy.get() + 1);
        Self(Rc::clone(pool))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get().saturating_sub(1));
    }
}

/// A place in the queue of those who wait for a connection.
struct Place(Rc<Pool>);

impl Place {
    fn take(pool: &Rc<Pool>) -> Result<Self, UpstreamError> {
        if pool.waiting.get() >= pool.queue {
            return Err(UpstreamError::Busy(pool.name()));
        }
        pool.waiting.set(pool.waiting.get() + 1);
        pool.cluster.metrics.waiting.inc();
        Ok(Self(Rc::clone(pool)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
        self.0.cluster.metrics.waiting.dec();
    }
}
