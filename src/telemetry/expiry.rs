//! `cert_expiry_days`: when the certificates that were seen expire, true at each scrape and bounded in number.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus::GaugeVec;
use prometheus::IntGauge;

/// Series at most: a million principals do not make a million series.
const MAX_SERIES: usize = 1000;
const SECONDS_A_DAY: f64 = 86_400.0;

/// Principal and serial.
type Labels = Arc<(String, String)>;

/// Those that expire first of all that were seen.
#[derive(Default)]
struct Seen {
    /// When each expires, Unix seconds.
    expiries: HashMap<Labels, i64>,
    /// The same, in the order in which they expire.
    order: BTreeSet<(i64, Labels)>,
}

impl Seen {
    fn insert(&mut self, labels: Labels, not_after: i64) {
        if let Some(before) = self.expiries.insert(Arc::clone(&labels), not_after) {
            self.order.remove(&(before, Arc::clone(&labels)));
        }
        self.order.insert((not_after, labels));
    }

    /// Whether one that expires at `not_after` would be left out.
    fn is_full_for(&self, not_after: i64) -> bool {
        self.order.len() >= MAX_SERIES && self.order.last().is_some_and(|(last, _)| *last <= not_after)
    }

    /// Those that have expired.
    fn forget(&mut self, now: i64) {
        while self.order.first().is_some_and(|(not_after, _)| *not_after <= now) {
            self.order.pop_first().and_then(|(_, labels)| self.expiries.remove(&labels));
        }
    }

    fn drop_last(&mut self) {
        self.order.pop_last().and_then(|(_, labels)| self.expiries.remove(&labels));
    }
}

/// The certificates seen, and their gauges.
#[derive(Clone)]
pub struct Expiries {
    gauges: GaugeVec,
    left_out: IntGauge,
    seen: Arc<Mutex<Seen>>,
}

impl Expiries {
    /// None seen yet. `gauges` has the labels `principal_id` and `serial`; `left_out` counts those that got no series.
    pub fn new(gauges: GaugeVec, left_out: IntGauge) -> Self {
        Self { gauges, left_out, seen: Arc::default() }
    }

    /// Notes a certificate that expires at `not_after`, Unix seconds. When there are too many, those that expire last are the ones left out.
    pub fn note(&self, principal: &str, serial: &str, not_after: i64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = Arc::new((principal.to_owned(), serial.to_owned()));
        if seen.is_full_for(not_after) && !seen.expiries.contains_key(&labels) {
            self.left_out.inc();
            return;
        }
        seen.insert(labels, not_after);
        if seen.order.len() > MAX_SERIES {
            seen.drop_last();
            self.left_out.inc();
        }
    }

    /// Brings the gauges up to date as of `now`, Unix seconds; certificates that have expired are forgotten.
    pub fn refresh(&self, now: i64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget(now);
        self.gauges.reset();
        for (not_after, labels) in &seen.order {
            #[expect(clippy::cast_precision_loss, reason = "seconds until an expiry fit a double's 53 bits")]
            let left = (not_after - now) as f64 / SECONDS_A_DAY;
            self.gauges.with_label_values(&[&labels.0, &labels.1]).set(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    /// The series of one metric.
    fn series<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')))
            .collect()
    }

    /// A hundred thousand principals, each with a certificate, in an order that is of no help. Seen failing with the
    /// soonest left out.
    #[test]
    fn the_nearest_expiries_are_shown_and_never_too_many() {
        const PRINCIPALS: i64 = 100_000;
        let metrics = Metrics::new().unwrap();
        for i in 0..PRINCIPALS {
            // 7919 is prime, so that each day comes once.
            let day = i * 7919 % PRINCIPALS;
            metrics.expiries.note(&format!("spiffe://lab.test/agent/{i}"), &day.to_string(), day * 86_400);
        }
        metrics.expiries.refresh(86_400 / 2);
        let text = String::from_utf8(metrics.render()).unwrap();
        let shown = series(&text, "cert_expiry_days");
        assert_eq!(shown.len(), MAX_SERIES - 1);
        assert!(shown.iter().any(|line| line.ends_with("serial=\"3\"} 2.5")), "{shown:?}");
        assert!(text.contains("\nportcullis_cert_expiry_left_out 99000\n"));
        // One that is seen again with the same date is no other.
        metrics.expiries.note("spiffe://lab.test/agent/0", "0", 3 * 86_400);
        metrics.expiries.note("spiffe://lab.test/agent/0", "0", 3 * 86_400);
        metrics.expiries.refresh(2 * 86_400);
        let text = String::from_utf8(metrics.render()).unwrap();
        assert_eq!(series(&text, "cert_expiry_days").len(), MAX_SERIES - 2);
    }
}
