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

/// How long a handshake may wait for its client while others wait for its place; half of it after each one that was cut.
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
    /// How many turns were cut lately.
    pub(super) cut_turns: u32,
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
    fn has_sent(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        self.handle.as_ref().is_some_and(|handle| handle.peek(&mut byte).is_ok_and(|count| count > 0))
    }
}

/// A connection that makes room for one that comes.
pub(super) enum Evictable {
    Silent(u64),
    Waiting(u64),
}

impl PhaseMembers {
    /// The connection that gets the next place.
    pub(super) fn next(&self) -> Option<u64> {
        if self.cuts.is_empty() {
            return self.waiting.first_key_value().map(|(number, _)| *number);
        }
        let rank = |(number, member): &(&u64, &Member)| (self.cuts_of(member), Reverse(**number));
        self.waiting.iter().min_by_key(rank).map(|(number, _)| *number)
    }

    pub(super) fn forget_cuts(&mut self, now: Instant) {
        if self.last_cut.is_some_and(|last| now.saturating_duration_since(last) >= QUIET) {
            (self.cut_turns, self.last_cut) = (0, None);
            self.cuts.clear();
        }
    }

    fn cuts_of(&self, member: &Member) -> u32 {
        self.cuts.get(&member.address).copied().unwrap_or_default()
    }

    /// The limit that keeps the next one from its place.
    pub(super) fn limit(&self, bounds: Bounds) -> Option<Limit> {
        let seats = self.shaking.len() + self.seated(bounds);
        if seats >= bounds.connections || self.shaking.len() + self.served.len() >= bounds.most() {
            return Some(Limit::Connections);
        }
        (self.shaking.len() >= bounds.handshakes).then_some(Limit::Handshakes)
    }

    /// Connections that are served and count: not those that are vouched for.
    fn seated(&self, bounds: Bounds) -> usize {
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

    /// The handshake that has waited longest for its client, if it has had its turn. Where the client has sent something that
    /// this thread has yet to read, it is not the client that takes its time.
    pub(super) fn overdue(&self, now: Instant) -> Option<u64> {
        let turn = LONGEST_TURN / (1 << self.cut_turns.min(HALVINGS));
        let over = |(number, member): (&u64, &Member)| {
            let waits = now.saturating_duration_since(member.answered?);
            let is_over = waits >= turn && (waits >= SPARED || !member.has_sent());
            is_over.then_some((Reverse(waits), *number))
        };
        self.shaking.iter().filter_map(over).min().map(|(_, number)| number)
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
