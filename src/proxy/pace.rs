//! How fast a client must give what is waited for, or take what it has asked for.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::Sleep;

/// The bounds: in any `idle` of waiting something comes, and `rate` bytes a second on average (0: any).
///
/// Only time counts in which the other end is what is waited for: an answer that its upstream takes its time over makes
/// no client slow.
pub(super) struct Pace {
    idle: Duration,
    rate: u32,
    /// Since when it is waited for, if it is now.
    since: Option<Instant>,
    /// The part of that which belongs to this window begins here.
    counted_from: Option<Instant>,
    /// Waited in this window before that.
    waited: Duration,
    /// Moved in this window.
    bytes: u64,
    /// What had passed the other way when the wait began.
    passed: usize,
    /// Made only once something had to be waited for.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(super) fn new(idle: Duration, rate: u32) -> Self {
        let (since, counted_from, waited) = (None, None, Duration::ZERO);
        Self { idle, rate, since, counted_from, waited, bytes: 0, passed: 0, sleep: None }
    }

    /// Whether the other end is being waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// Something came: the wait is over. `passed` counts what went the other way: see [`Self::poll_late`].
    pub(super) fn moved(&mut self, bytes: u64, passed: usize) {
        let waited = self.since.take().is_some();
        if self.rate == 0 {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if waited && passed != self.passed {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        } else if waited {
            self.waited += self.counted_from.take().map_or(Duration::ZERO, |from| from.elapsed());
        }
    }

    /// It is still waited for; ready when it has been for too long. `passed` counts what goes the other way: who listens
    /// while the other end talks is neither idle nor slow.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>, passed: usize) -> Poll<()> {
        if self.since.is_none() {
            if self.waited >= self.idle && self.is_slow() {
                return Poll::Ready(());
            }
            self.wait_from(Instant::now(), passed);
        }
        loop {
            let Some(sleep) = &mut self.sleep else { return Poll::Pending };
            ready!(sleep.as_mut().poll(cx));
            let now = Instant::now();
            if passed != self.passed {
                (self.waited, self.bytes) = (Duration::ZERO, 0);
                self.wait_from(now, passed);
                continue;
            }
            let idle_ends = self.since.map_or(now, |since| since + self.idle);
            if now >= idle_ends {
                return Poll::Ready(());
            }
            // The window is full, and the wait goes on.
            self.waited = self.idle;
            if self.is_slow() {
                return Poll::Ready(());
            }
            self.counted_from = Some(now);
            self.wake_at(idle_ends);
        }
    }

    fn wait_from(&mut self, now: Instant, passed: usize) {
        (self.since, self.counted_from, self.passed) = (Some(now), Some(now), passed);
        let left = if self.rate == 0 { self.idle } else { self.idle.saturating_sub(self.waited) };
        self.wake_at(now + left);
    }

    /// Judges a window that is full, and begins another.
    fn is_slow(&mut self) -> bool {
        let least = u128::from(self.rate) * self.waited.as_millis() / 1000;
        let slow = u128::from(self.bytes) < least;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        slow
    }

    fn wake_at(&mut self, deadline: Instant) {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_judged_by_its_bytes_and_then_forgotten() {
        let mut pace = Pace::new(Duration::from_secs(60), 100);
        (pace.waited, pace.bytes) = (Duration::from_secs(60), 5_999);
        assert!(pace.is_slow());
        (pace.waited, pace.bytes) = (Duration::from_secs(60), 6_000);
        assert!(!pace.is_slow());
        assert_eq!((pace.waited, pace.bytes), (Duration::ZERO, 0));
    }

    #[test]
    fn what_comes_without_a_wait_counts_and_takes_no_time() {
        let mut pace = Pace::new(Duration::from_secs(60), 100);
        pace.moved(1000, 0);
        assert_eq!((pace.waited, pace.bytes, pace.is_waiting()), (Duration::ZERO, 1000, false));
    }

    #[test]
    fn who_listens_meanwhile_is_not_slow() {
        let mut pace = Pace::new(Duration::from_secs(60), 100);
        (pace.since, pace.waited, pace.passed) = (Some(Instant::now()), Duration::from_secs(59), 7);
        pace.moved(1, 8);
        assert_eq!((pace.waited, pace.bytes), (Duration::ZERO, 0));
    }
}
