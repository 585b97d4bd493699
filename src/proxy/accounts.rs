//! How much each client takes: its connections, and how often it asks. One account for a principal, whatever its
//! certificates and whichever threads they meet; clients without a name of their own share that of their address.
//!
//! Who asks holds its account already: a request takes neither a lock nor a lookup, and nothing at all where no limit is
//! configured.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use governor::DefaultDirectRateLimiter;
use governor::Quota;
use governor::RateLimiter;
use governor::clock::Clock as _;
use governor::clock::DefaultClock;

use super::Limits;
use super::Refusal;
use crate::telemetry::network;

/// More accounts than this, and those that nobody needs are forgotten.
const MANY: usize = 16 << 10;

#[derive(PartialEq, Eq, Hash)]
enum Key {
    Principal(String),
    Address(IpAddr),
}

/// The accounts of one listener, for all of its threads.
pub(super) struct Accounts {
    limits: Limits,
    known: DashMap<Key, Arc<Account>>,
    sweep_at: AtomicUsize,
}

impl Accounts {
    /// None where nothing is limited by client.
    pub(super) fn new(limits: Limits) -> Option<Self> {
        let Limits { connections_per_principal, connections_per_address, requests_per_second, .. } = limits;
        let limited = connections_per_principal > 0 || connections_per_address > 0 || requests_per_second > 0;
        let (known, sweep_at) = (DashMap::new(), AtomicUsize::new(MANY));
        limited.then(|| Self { limits, known, sweep_at })
    }

    pub(super) fn of_principal(&self, name: &str) -> Arc<Account> {
        self.of(Key::Principal(name.to_owned()))
    }

    pub(super) fn of_address(&self, address: IpAddr) -> Arc<Account> {
        self.of(Key::Address(network(address)))
    }

    fn of(&self, key: Key) -> Arc<Account> {
        if self.known.len() > self.sweep_at.load(Ordering::Relaxed) {
            self.known.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_rested());
            // What is left is in use. Twice as many before the next look, or each newcomer would pay for all.
            self.sweep_at.store((self.known.len() * 2).max(MANY), Ordering::Relaxed);
        }
        Arc::clone(&self.known.entry(key).or_insert_with(|| Arc::new(Account::new(&self.limits))))
    }

    /// Counts a connection that was accepted, for as long as what comes back lives; `None`: one too many.
    pub(super) fn admits(&self, address: IpAddr) -> Option<Option<Seat>> {
        match self.limits.connections_per_address {
            0 => Some(None),
            most => self.of_address(address).sit(Place::Accepted, most).map(Some),
        }
    }

    /// Likewise a connection whose client is known.
    pub(super) fn seats(&self, account: &Arc<Account>) -> Option<Option<Seat>> {
        match self.limits.connections_per_principal {
            0 => Some(None),
            most => Arc::clone(account).sit(Place::Known, most).map(Some),
        }
    }
}

/// One client's account.
pub(super) struct Account {
    /// By [`Place`].
    connections: [AtomicU32; 2],
    rate: Option<(DefaultDirectRateLimiter, NonZeroU32)>,
}

#[derive(Clone, Copy)]
enum Place {
    Accepted,
    Known,
}

impl Account {
    fn new(limits: &Limits) -> Self {
        let rate = NonZeroU32::new(limits.requests_per_second).map(|rate| {
            let burst = NonZeroU32::new(limits.burst).unwrap_or(rate);
            (RateLimiter::direct(Quota::per_second(rate).allow_burst(burst)), burst)
        });
        Self { connections: Default::default(), rate }
    }

    /// Takes one request off it.
    pub(super) fn request(&self) -> Result<(), Refusal> {
        let Some((rate, _)) = &self.rate else { return Ok(()) };
        let until = rate.check();
        until.map_err(|until| Refusal::TooManyRequests(until.wait_time_from(DefaultClock::default().now())))
    }

    fn sit(self: Arc<Self>, place: Place, most: u32) -> Option<Seat> {
        let more = |open: u32| (open < most).then_some(open + 1);
        self.connections[place as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Seat { account: self, place })
    }

    /// Whether forgetting it takes nothing from anybody.
    fn is_rested(&self) -> bool {
        // Only a full bucket gives as much as fits into it.
        self.rate.as_ref().is_none_or(|(rate, burst)| matches!(rate.check_n(*burst), Ok(Ok(()))))
    }
}

/// One connection of an account, given back when it is dropped.
pub(super) struct Seat {
    account: Arc<Account>,
    place: Place,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.account.connections[self.place as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whole seconds, rounded up, at least one (RFC 9110, section 10.2.3).
pub(super) fn retry_after(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(limits: Limits) -> Accounts {
        Accounts::new(limits).unwrap()
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_limited() {
        assert!(Accounts::new(Limits::default()).is_none());
    }

    #[test]
    fn a_seat_is_given_back() {
        let accounts = accounts(Limits { connections_per_principal: 2, ..Limits::default() });
        let account = accounts.of_principal("a");
        let first = accounts.seats(&account).unwrap();
        let second = accounts.seats(&accounts.of_principal("a")).unwrap();
        assert!(accounts.seats(&account).is_none());
        assert!(accounts.seats(&accounts.of_principal("b")).is_some());
        drop(first);
        let third = accounts.seats(&account);
        assert!(third.is_some() && accounts.seats(&account).is_none());
        drop((second, third));
        assert_eq!(account.connections[Place::Known as usize].load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_bucket_is_shared_and_refills() {
        let limits = Limits { requests_per_second: 1, burst: 3, ..Limits::default() };
        let accounts = accounts(limits);
        let (one, other) = (accounts.of_principal("a"), accounts.of_principal("a"));
        assert!(one.request().is_ok() && other.request().is_ok() && one.request().is_ok());
        match other.request() {
            Err(Refusal::TooManyRequests(wait)) => assert!(wait <= Duration::from_secs(1)),
            _ => panic!("four of three"),
        }
        assert!(!one.is_rested());
    }

    #[test]
    fn strangers_are_forgotten_once_they_have_rested() {
        let accounts = accounts(Limits { requests_per_second: 1, burst: 1000, ..Limits::default() });
        let held = accounts.of_address([10, 0, 0, 1].into());
        for _ in 0..1000 {
            assert!(accounts.of_address([10, 0, 0, 2].into()).request().is_ok());
        }
        for i in 0..MANY {
            let [.., a, b, c] = u32::try_from(i).unwrap().to_be_bytes();
            accounts.of_address([11, a, b, c].into());
        }
        accounts.of_address([12, 0, 0, 1].into());
        // Who is here, and who has yet to rest, are left; and those who came since.
        assert_eq!(accounts.known.len(), 4);
        drop(held);
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let accounts = accounts(Limits { requests_per_second: 1, burst: 1, ..Limits::default() });
        let of = |text: &str| accounts.of_address(text.parse().unwrap());
        assert!(Arc::ptr_eq(&of("2001:db8::1"), &of("2001:db8::ffff:1")));
        assert!(!Arc::ptr_eq(&of("2001:db8::1"), &of("2001:db8:0:1::1")));
        assert!(Arc::ptr_eq(&of("10.0.0.1"), &of("::ffff:10.0.0.1")));
    }

    #[test]
    fn waits_are_whole_seconds() {
        let waits = [0, 1, 1000, 1001].map(|millis| retry_after(Duration::from_millis(millis)));
        assert_eq!(waits, [1, 1, 1, 2]);
    }
}
