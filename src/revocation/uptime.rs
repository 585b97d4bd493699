//! How long the gate has run, over all its lives on one journal. An entry lapses by this measure as well as by the wall
//! clock, so that a wall clock that runs ahead expires nothing.
//!
//! **Invariant:** the uptime never runs faster than time: time while the gate is down does not count, and neither does
//! what a killed process had not yet written.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::Clock;
use crate::clock::Timestamp;

/// Time that the gate has run, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(u64);

impl Uptime {
    /// Later than every other uptime: never.
    pub const MAX: Self = Self(u64::MAX);

    /// From milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// This uptime plus `duration`; saturates.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The uptime from which on an entry may lapse that is taken in at this uptime; [`Self::MAX`] if it never expires.
    pub(super) fn at_expiry(self, expires_at: Option<Timestamp>, now: Timestamp) -> Self {
        expires_at.map_or(Self::MAX, |at| self.plus(at.since(now)))
    }
}

/// Counts the uptime.
pub(super) struct UptimeCounter {
    clock: Clock,
    /// The uptime when this process began.
    before: Uptime,
    /// What the clock showed then.
    start: Duration,
    /// The uptime that was last handed out to be written, milliseconds.
    noted: AtomicU64,
}

impl UptimeCounter {
    /// Goes on from `before`.
    pub(super) fn new(clock: Clock, before: Uptime) -> Self {
        Self { start: clock.elapsed(), clock, before, noted: AtomicU64::new(before.0) }
    }

    /// The present uptime.
    pub(super) fn now(&self) -> Uptime {
        self.before.plus(self.clock.elapsed().saturating_sub(self.start))
    }

    /// The present uptime, to be written, if `at_least` has passed since the last one.
    pub(super) fn note(&self, at_least: Duration) -> Option<Uptime> {
        let now = self.now();
        let is_due = Uptime(self.noted.load(Ordering::Relaxed)).plus(at_least) <= now;
        is_due.then(|| {
            self.noted.store(now.0, Ordering::Relaxed);
            now
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_passes_and_not_what_the_wall_clock_says() {
        let clock = Clock::manual(Timestamp::from_secs(100));
        clock.advance(Duration::from_secs(7));
        let counter = UptimeCounter::new(clock.clone(), Uptime::from_millis(500));
        assert_eq!(counter.now(), Uptime::from_millis(500));
        clock.set(Timestamp::from_secs(1_000_000));
        assert_eq!(counter.note(Duration::from_secs(1)), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(counter.note(Duration::from_secs(1)), Some(Uptime::from_millis(1500)));
        assert_eq!(counter.note(Duration::from_secs(1)), None);
    }

    #[test]
    fn an_entry_may_lapse_when_what_was_left_to_it_has_passed() {
        let now = Timestamp::from_secs(100);
        let at = |secs| Uptime::from_millis(500).at_expiry(Some(Timestamp::from_secs(secs)), now);
        assert_eq!((at(103), at(90)), (Uptime::from_millis(3500), Uptime::from_millis(500)));
        assert_eq!(Uptime::from_millis(500).at_expiry(None, now), Uptime::MAX);
    }
}
