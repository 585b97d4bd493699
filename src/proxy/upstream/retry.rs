//! What may be sent again: a share of all requests, so that retries never multiply an outage.

use std::cell::Cell;

/// Retries that may be saved up; there are as many at the start.
const SAVED: f64 = 10.0;

/// The retries of one thread to one upstream: each request earns a share of one.
pub(super) struct Budget {
    share: f64,
    saved: Cell<f64>,
}

impl Budget {
    pub(super) fn new(share: f64) -> Self {
        Self { share, saved: Cell::new(if share > 0.0 { SAVED } else { 0.0 }) }
    }

    /// A request came.
    pub(super) fn earn(&self) {
        self.saved.set((self.saved.get() + self.share).min(SAVED));
    }

    /// Whether one may be sent again.
    pub(super) fn spend(&self) -> bool {
        let enough = self.saved.get() >= 1.0;
        if enough {
            self.saved.set(self.saved.get() - 1.0);
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_requests_is_sent_again() {
        let budget = Budget::new(0.25);
        let burst = (0..100).filter(|_| budget.spend()).count();
        assert_eq!(burst, 10);
        let spent = (0..100).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(spent.count(), 25);
        let none = Budget::new(0.0);
        none.earn();
        assert!(!none.spend());
    }
}
