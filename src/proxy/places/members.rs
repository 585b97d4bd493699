//! The connections of one thread by phase: which gets the next place, which has had its turn, and which makes room.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use socket2::Socket;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::super::connection_state::ConnectionState;
use super::super::hello;
use super::super::limits::LastingLimit;
use super::super::limits::Limit;
use super::super::listener::Bounds;

/// How long a handshake may wait for its client while others wait for its place; half of it for each one of its address that
/// was cut. A client from far away, of whose address none was cut, has a second in the worst attack.
pub(super) const LONGEST_TURN: Duration = Duration::from_secs(1);
/// How often that is halved: 125 ms are some round trips.
const HALVINGS: u32 = 3;
/// How long at most a handshake keeps its place because bytes of its client are there to be read.
pub(super) const SPARED: Duration = Duration::from_secs(2);
/// After so long without a cut those that were are forgotten.
const QUIET: Duration = Duration::from_secs(10);

/// The connections of one thread by phase, the oldest first.
#[derive(Default)]
pub(super) struct PhaseMembers {
    pub(super) latest: u64,
    /// Without a whole ClientHello.
    pub(super) silent: BTreeMap<u64, Member>,
    /// For a place.
    pub(super) waiting: BTreeMap<u64, Member>,
    pub(super) shaking: BTreeMap<u64, Member>,
    pub(super) served: BTreeMap<u64, Member>,
    /// How often handshakes of an address were cut lately.
    pub(super) cuts: HashMap<IpAddr, u32>,
    pub(super) last_cut: Option<Instant>,
    /// That keep somebody waiting: of connections, of handshakes.
    pub(super) reached: [Option<LastingLimit>; 2],
}

pub(super) struct Member {
    pub(super) task: AbortHandle,
    pub(super) address: IpAddr,
    pub(super) state: Rc<ConnectionState>,
    /// Until it has a place.
    pub(super) socket: Option<Rc<TcpStream>>,
    /// Tells it that it has a place.
    pub(super) called: Rc<Notify>,
    /// A second handle on it, while its handshake lasts.
    pub(super) handle: Option<Socket>,
    /// Since when its handshake has waited for its client.
    pub(super) answered: Option<Instant>,
    /// When it was asked to end for the sake of others.
    pub(super) asked: Option<Instant>,
}

impl Member {
    /// True if not even the kernel holds a whole ClientHello of its client.
    pub(super) fn is_silent(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| !hello::is_here(socket))
    }

    /// True if the kernel holds bytes of its client.
    pub(super) fn has_sent(&self) -> bool {
        #[cfg(test)]
        super::tests::PEEKS.set(super::tests::PEEKS.get() + 1);
        let mut byte = [MaybeUninit::uninit()];
        self.handle.as_ref().is_some_and(|handle| handle.peek(&mut byte).is_ok_and(|count| count > 0))
    }
}

/// A handshake that has had its turn.
pub(super) struct Overdue {
    pub(super) number: u64,
    /// How often handshakes of its address were cut lately.
    pub(super) cuts: u32,
    /// How long it has waited for its client.
    pub(super) waits: Duration,
}

/// A connection that makes room for one that comes.
pub(super) enum Evictable {
    Silent(u64),
    Waiting(u64),
}

impl PhaseMembers {
    /// The connections that get the next places: `count` at most.
    pub(super) fn next(&self, count: usize) -> Vec<u64> {
        if self.cuts.is_empty() {
            return self.waiting.keys().take(count).copied().collect();
        }
        let rank = |(number, member): (&u64, &Member)| (self.cuts_of(member), Reverse(*number));
        let mut waiting: Vec<(u32, Reverse<u64>)> = match count {
            0 => Vec::new(),
            1 => self.waiting.iter().map(rank).min().into_iter().collect(),
            _ => self.waiting.iter().map(rank).collect(),
        };
        if count < waiting.len() {
            waiting.select_nth_unstable(count);
        }
        waiting.into_iter().take(count).map(|(_, Reverse(number))| number).collect()
    }

    pub(super) fn forget_cuts(&mut self, now: Instant) {
        if self.last_cut.is_some_and(|last| now.saturating_duration_since(last) >= QUIET) {
            self.last_cut = None;
            self.cuts.clear();
        }
    }

    pub(super) fn cuts_of(&self, member: &Member) -> u32 {
        self.cuts.get(&member.address).copied().unwrap_or_default()
    }

    /// The number of free places.
    pub(super) fn free(&self, bounds: Bounds) -> usize {
        let shaking = self.shaking.len();
        let seats = bounds.connections.saturating_sub(shaking + self.seated(bounds));
        let open = bounds.most().saturating_sub(shaking + self.served.len());
        seats.min(open).min(bounds.handshakes.saturating_sub(shaking))
    }

    /// The limit that keeps the next one from its place, where none is free.
    pub(super) fn limit(&self, bounds: Bounds) -> Limit {
        let shaking = self.shaking.len();
        let is_full = shaking + self.seated(bounds) >= bounds.connections
            || shaking + self.served.len() >= bounds.most();
        if is_full { Limit::Connections } else { Limit::Handshakes }
    }

    /// Connections that are served and count: not those that are vouched for.
    pub(super) fn seated(&self, bounds: Bounds) -> usize {
        match bounds.evicts {
            true => self.served.values().filter(|member| !member.state.vouched.get()).count(),
            false => self.served.len(),
        }
    }

    pub(super) fn held(&self, bounds: Bounds) -> usize {
        self.silent.len() + self.waiting.len() + self.shaking.len() + self.seated(bounds)
    }

    pub(super) fn begin(&mut self, number: u64) {
        if let Some(mut member) = self.waiting.remove(&number) {
            member.handle = member.socket.take().and_then(|socket| SockRef::from(&*socket).try_clone().ok());
            member.called.notify_one();
            self.shaking.insert(number, member);
        }
    }

    /// The handshakes that have had their turn: those of the addresses first that were cut most often, then those that have
    /// waited longest for their client.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Overdue> {
        let over = |(number, member): (&u64, &Member)| {
            let (waits, cuts) = (now.saturating_duration_since(member.answered?), self.cuts_of(member));
            let turn = LONGEST_TURN / (1 << cuts.min(HALVINGS));
            (waits >= turn).then_some(Overdue { number: *number, cuts, waits })
        };
        let mut overdue: Vec<Overdue> = self.shaking.iter().filter_map(over).collect();
        overdue.sort_unstable_by_key(|one| Reverse((one.cuts, one.waits)));
        overdue
    }

    /// The connection that makes room for `newcomer`, or for one that has yet to come: the oldest without a ClientHello, even
    /// in the kernel; else of those that wait the oldest of an address whose handshakes were cut most often.
    pub(super) fn evictable(&self, newcomer: Option<u64>) -> Option<Evictable> {
        let silent = self.silent.iter().find(|(number, one)| Some(**number) != newcomer && one.is_silent());
        if let Some((number, _)) = silent {
            return Some(Evictable::Silent(*number));
        }
        let was_cut = |(_, member): &(&u64, &Member)| self.cuts_of(member) > 0;
        let rank = |(number, member): &(&u64, &Member)| (self.cuts_of(member), Reverse(**number));
        let waiting = self.waiting.iter().filter(was_cut).max_by_key(rank);
        waiting.map(|(number, _)| Evictable::Waiting(*number))
    }
}
