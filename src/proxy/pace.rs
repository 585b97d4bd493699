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
    late: bool,
    /// Made only once something had to be waited for.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(super) fn new(idle: Duration, rate: u32) -> Self {
        let (since, counted_from, waited) = (None, None, Duration::ZERO);
        Self { idle, rate, since, counted_from, waited, bytes: 0, late: false, sleep: None }
    }

    /// Whether the other end is being waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// Something came: the wait is over.
    pub(super) fn moved(&mut self, bytes: u64) {
        if self.since.take().is_none() || self.rate == 0 {
            self.bytes = self.bytes.saturating_add(bytes);
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited += self.counted_from.take().map_or(Duration::ZERO, |from| from.elapsed());
        if self.waited >= self.idle {
            self.close();
        }
    }

    /// It is still waited for; ready when it has been for too long.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.late {
            return Poll::Ready(());
        }
        if self.since.is_none() {
            let now = Instant::now();
            (self.since, self.counted_from) = (Some(now), Some(now));
            let left = if self.rate == 0 { self.idle } else { self.idle.saturating_sub(self.waited) };
            self.wake_at(now + left);
        }
        loop {
            let Some(sleep) = &mut self.sleep else { return Poll::Pending };
            ready!(sleep.as_mut().poll(cx));
            let now = Instant::now();
            let idle_ends = self.since.map_or(now, |since| since + self.idle);
            if self.rate == 0 || now >= idle_ends {
                return Poll::Ready(());
            }
            // The window is full, and the wait goes on.
            self.waited = self.idle;
            self.close();
            if self.late {
                return Poll::Ready(());
            }
            self.counted_from = Some(now);
            self.wake_at(idle_ends);
        }
    }

    /// Judges a window, and begins another.
    fn close(&mut self) {
        let least = u128::from(self.rate) * self.waited.as_millis() / 1000;
        self.late |= u128::from(self.bytes) < least;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
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
    use std::future::poll_fn;

    use tokio::time::sleep;
    use tokio::time::timeout;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    /// For how long a client is waited for that gives so many bytes every so often, within an hour.
    async fn lasts(rate: u32, every: Duration, bytes: u64) -> Option<Duration> {
        let began = Instant::now();
        let mut pace = Pace::new(IDLE, rate);
        while began.elapsed() < Duration::from_secs(3600) {
            if timeout(every, poll_fn(|cx| pace.poll_late(cx))).await.is_ok() {
                return Some(began.elapsed());
            }
            pace.moved(bytes);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_progress_only_without_a_rate() {
        let second = Duration::from_secs(1);
        assert_eq!(lasts(0, second * 59, 1).await, None);
        assert_eq!(lasts(0, second * 61, 1 << 20).await.map(|after| after.as_secs()), Some(60));
        assert!(lasts(100, second * 59, 1).await.is_some_and(|after| after < second * 61));
        assert!(lasts(100, second, 99).await.is_some_and(|after| after < second * 62));
        assert_eq!(lasts(100, second, 101).await, None);
        assert_eq!(lasts(100, second * 50, 10_000).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_waits_for_it_does_not_count() {
        let mut pace = Pace::new(IDLE, 100);
        for _ in 0..100 {
            // The other side of the gate took a minute.
            sleep(IDLE).await;
            assert!(timeout(Duration::from_secs(1), poll_fn(|cx| pace.poll_late(cx))).await.is_err());
            pace.moved(200);
        }
    }
}
