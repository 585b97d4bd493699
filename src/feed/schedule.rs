//! When a list is looked at next. Pure: what was seen in, a time out.

use std::time::Duration;

/// The first wait after a look that brought nothing, if the interval is not shorter.
const FIRST: Duration = Duration::from_secs(5);
/// Never sooner than this, whatever a list says.
const LEAST: Duration = Duration::from_millis(500);

/// What is known after a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// How often lists are looked at.
    pub(super) interval: Duration,
    /// How long the list that is known is up to date.
    pub(super) left: Option<Duration>,
    /// How many looks in a row have failed, or brought nothing that is up to date.
    pub(super) misses: u32,
}

impl Seen {
    /// How long to wait. `roll`, from 0 to 1, is each feed's own luck: a fleet that began together does not look
    /// together.
    pub(super) fn wait(self, roll: f64) -> Duration {
        let Self { interval, left, misses } = self;
        let first = FIRST.min(interval);
        if let Some(before) = misses.checked_sub(1) {
            let most = first.saturating_mul(2_u32.saturating_pow(before)).min(interval);
            return most.mul_f64(0.5 + roll / 2.0).max(LEAST);
        }
        let usual = interval.mul_f64(0.75 + roll / 4.0);
        // While it lasts, halfway to its end: the next one may be there before, and there is time to try again. Whoever
        // publishes on the minute may take a moment.
        let due = left.map(|left| match left > first.saturating_mul(4) {
            true => (left / 2).saturating_add(first.mul_f64(roll)),
            false => left.saturating_add(first.mul_f64(roll)),
        });
        due.map_or(usual, |due| due.min(usual)).max(LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(900);

    fn seen(left: Option<u64>, misses: u32) -> Seen {
        Seen { interval: INTERVAL, left: left.map(Duration::from_secs), misses }
    }

    /// The shortest and the longest wait, seconds.
    fn range(seen: Seen) -> (f64, f64) {
        (seen.wait(0.0).as_secs_f64(), seen.wait(1.0).as_secs_f64())
    }

    #[test]
    fn it_looks_within_the_interval_and_when_the_list_is_out_of_date() {
        assert_eq!(range(seen(None, 0)), (675.0, 900.0));
        assert_eq!(range(seen(Some(86_400), 0)), (675.0, 900.0));
        assert_eq!(range(seen(Some(60), 0)), (30.0, 35.0));
        assert_eq!(range(seen(Some(20), 0)), (20.0, 25.0));
        assert_eq!(range(seen(Some(0), 0)), (0.5, 5.0));
    }

    #[test]
    fn it_backs_off_up_to_the_interval_and_never_spins() {
        for (misses, most) in [(1, 5.0), (2, 10.0), (3, 20.0), (8, 640.0), (9, 900.0), (u32::MAX, 900.0)] {
            for left in [None, Some(0), Some(1)] {
                assert_eq!(range(seen(left, misses)), (most / 2.0, most), "{misses}");
            }
        }
        for misses in [0, 1, 9] {
            let shortest = Seen { interval: Duration::from_secs(1), left: Some(Duration::ZERO), misses };
            assert!(shortest.wait(0.0) >= LEAST && shortest.wait(1.0) <= Duration::from_secs(1));
        }
    }
}
