//! `cert_expiry_days`: when the certificates that were seen expire, true at each scrape and bounded in number.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus::GaugeVec;

/// Series at most: a million principals do not make a million series.
const MAX_SERIES: usize = 1000;
const SECONDS_A_DAY: f64 = 86_400.0;

/// By principal and serial: when it expires, Unix seconds.
type Seen = BTreeMap<(String, String), i64>;

/// The certificates seen, and their gauges.
#[derive(Clone)]
pub struct Expiries {
    gauges: GaugeVec,
    seen: Arc<Mutex<Seen>>,
}

impl Expiries {
    /// None seen yet. `gauges` has the labels `principal_id` and `serial`.
    pub fn new(gauges: GaugeVec) -> Self {
        Self { gauges, seen: Arc::default() }
    }

    /// Notes a certificate that expires at `not_after`, Unix seconds. When there are too many, those that expire last are the ones left out.
    pub fn note(&self, principal: &str, serial: &str, not_after: i64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert((principal.to_owned(), serial.to_owned()), not_after);
        if seen.len() > MAX_SERIES {
            let last = seen.iter().max_by_key(|(_, not_after)| **not_after).map(|(labels, _)| labels.clone());
            last.map(|labels| seen.remove(&labels));
        }
    }

    /// Brings the gauges up to date as of `now`, Unix seconds; certificates that have expired are forgotten.
    pub fn refresh(&self, now: i64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, not_after| *not_after > now);
        self.gauges.reset();
        for ((principal, serial), not_after) in seen.iter() {
            #[expect(clippy::cast_precision_loss, reason = "seconds until an expiry fit a double's 53 bits")]
            let left = (not_after - now) as f64 / SECONDS_A_DAY;
            self.gauges.with_label_values(&[principal, serial]).set(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;
    use prometheus::core::Collector as _;

    use super::*;

    #[test]
    fn the_nearest_expiries_are_shown_and_never_too_many() {
        let gauges = GaugeVec::new(Opts::new("cert_expiry_days", "-"), &["principal_id", "serial"]).unwrap();
        let expiries = Expiries::new(gauges.clone());
        for day in 0..2000 {
            expiries.note("p", &day.to_string(), day * 86_400);
        }
        expiries.refresh(86_400 / 2);
        let family = gauges.collect();
        let metrics = family.first().unwrap().get_metric();
        assert_eq!(metrics.len(), MAX_SERIES - 1);
        assert_eq!(gauges.with_label_values(&["p", "3"]).get(), 2.5);
    }
}
