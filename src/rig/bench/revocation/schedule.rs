//! When each revocation is due: at fixed times, however long those before it take.

use std::time::Duration;
use std::time::Instant;

use tokio::task::yield_now;
use tokio::time::sleep_until;

/// How long before it is due something is prepared, about.
pub(super) const LEAD: Duration = Duration::from_secs(2);
/// The timer wakes up to so much late; what is left of the time is spent awake.
const COARSE: Duration = Duration::from_micros(1500);

/// The due times of an open loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    first: Instant,
    /// A second.
    rate: f64,
}

impl Schedule {
    /// `rate` a second, from `first` on.
    pub(super) fn new(first: Instant, rate: f64) -> Self {
        Self { first, rate }
    }

    /// When the one with this number is due, counted from 0.
    pub(super) fn due(&self, number: usize) -> Instant {
        self.first + Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// When it is prepared: `LEAD` before, and halfway between two others, whose time its handshakes would take.
    pub(super) fn prepared(&self, number: usize) -> Instant {
        let due = self.due(number);
        let early = LEAD + Duration::from_secs_f64(0.5 / self.rate).min(LEAD / 2);
        due.checked_sub(early).unwrap_or(due)
    }
}

/// How long something took, from when it was due: what waited because of what came before it counts the wait. What was
/// over before, because the connection happened to rest, took no time.
pub(super) fn since(due: Instant, end: Instant) -> Duration {
    end.saturating_duration_since(due)
}

/// Waits until `due`, to some microseconds. Others run meanwhile.
pub(super) async fn wait_for(due: Instant) {
    if let Some(coarse) = due.checked_sub(COARSE) {
        sleep_until(coarse.into()).await;
    }
    while Instant::now() < due {
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At 20 a second, two seconds before one is due another is.
    #[test]
    fn what_is_prepared_is_nobodys_due_time() {
        let schedule = Schedule::new(Instant::now() + LEAD * 2, 20.0);
        let before = |number| schedule.due(number) - schedule.prepared(number);
        assert_eq!(before(0), LEAD + Duration::from_millis(25));
        let slow = Schedule::new(Instant::now() + LEAD * 2, 0.1);
        assert_eq!(slow.due(1) - slow.prepared(1), LEAD + LEAD / 2);
    }

    #[test]
    fn due_times_keep_their_distance_and_do_not_drift() {
        let first = Instant::now();
        let schedule = Schedule::new(first, 20.0);
        assert_eq!(schedule.due(0), first);
        assert_eq!(schedule.due(1), first + Duration::from_millis(50));
        assert_eq!(schedule.due(10_000), first + Duration::from_secs(500));
        let third = Schedule::new(first, 3.0).due(3_000_000) - first;
        assert!(third.abs_diff(Duration::from_secs(1_000_000)) < Duration::from_micros(1));
    }

    /// One that takes a second holds up the nine that are due meanwhile; each of them counts its wait.
    #[test]
    fn what_waits_for_another_counts_the_wait() {
        let first = Instant::now();
        let schedule = Schedule::new(first, 10.0);
        let mut free = first;
        let took: Vec<Duration> = (0..10)
            .map(|number| {
                let begun = free.max(schedule.due(number));
                free = begun + Duration::from_millis(if number == 0 { 1000 } else { 1 });
                since(schedule.due(number), free)
            })
            .collect();
        assert_eq!(took[0], Duration::from_millis(1000));
        assert_eq!(took[1], Duration::from_millis(901));
        assert_eq!(took[9], Duration::from_millis(109));
        let uncorrected = took.iter().filter(|took| **took < Duration::from_millis(100)).count();
        assert_eq!(uncorrected, 0);
    }

    #[test]
    fn what_was_over_before_took_no_time() {
        let now = Instant::now();
        assert_eq!(since(now + Duration::from_millis(1), now), Duration::ZERO);
    }

    #[tokio::test]
    async fn nobody_is_woken_early() {
        let due = Instant::now() + Duration::from_millis(5);
        wait_for(due).await;
        assert!(Instant::now() >= due);
    }
}
