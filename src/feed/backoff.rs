//! How long to wait after a failure: longer each time, never all at once.

use std::time::Duration;

/// Doubles from `first` to `most`; each wait is a random half to whole of it, so that many do not come back together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins with half of `first` to `first`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// How long to wait now.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        jitter(wait)
    }

    /// It went well: the next failure waits as the first did.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random half to whole of a time.
pub fn jitter(of: Duration) -> Duration {
    of.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_a_limit_and_begins_anew() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, most);
        for whole in [1, 2, 4, 5, 5] {
            let (wait, whole) = (backoff.wait(), Duration::from_secs(whole));
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= first);
    }
}
