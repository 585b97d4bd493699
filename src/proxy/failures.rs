//! Chains that do not verify, counted by network: a stranger may cost so much and no more.
//!
//! Only failures count, so that a fleet that comes at once costs its network nothing. Chains that the gate knows, and
//! resumed sessions, are not asked for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::network;

/// Failures that one network makes good in a second.
const FAILURES_PER_SECOND: u32 = 10;
/// Failures at once.
const BURST: u32 = 100;
/// Networks that are remembered. Each is forgotten once it has made its failures good, after ten seconds at most.
const MAX_NETWORKS: usize = 16_384;

/// The failures of each network (an address, or an IPv6 /64) on one listener.
#[derive(Default)]
pub(super) struct ChainFailures {
    /// When each has made its failures good.
    good_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl ChainFailures {
    /// True if an address has failed too often to be verified at `now`.
    pub(super) fn are_too_many(&self, address: IpAddr, now: Instant) -> bool {
        let Some(good_at) = self.networks().get(&network(address)).copied() else { return false };
        good_at.saturating_duration_since(now) > one() * (BURST - 1)
    }

    /// Counts a chain of an address that did not verify.
    pub(super) fn count(&self, address: IpAddr, now: Instant) {
        let network = network(address);
        let mut networks = self.networks();
        if networks.len() >= MAX_NETWORKS {
            networks.retain(|_, good_at| *good_at > now);
        }
        // A flood from that many networks at once is not for a bound by network.
        if networks.len() < MAX_NETWORKS || networks.contains_key(&network) {
            let good_at = networks.entry(network).or_insert(now);
            *good_at = (*good_at).max(now) + one();
        }
    }

    fn networks(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.good_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long one failure counts.
fn one() -> Duration {
    Duration::from_secs(1) / FAILURES_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen failing with each address of an IPv6 network for itself.
    #[test]
    fn a_network_fails_so_often_and_makes_it_good() {
        let failures = ChainFailures::default();
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        let own = of("2001:db8::1");
        let until_refused = |now: Instant| {
            let passed = (0..1000).take_while(|_| !failures.are_too_many(own, now));
            passed.map(|_| failures.count(own, now)).count()
        };
        let now = Instant::now();
        assert_eq!(until_refused(now), BURST as usize);
        assert!(failures.are_too_many(of("2001:db8::ffff:1"), now));
        let others = ["2001:db8:0:1::1", "192.0.2.1"].map(of);
        assert!(others.iter().all(|other| !failures.are_too_many(*other, now)));
        assert_eq!(until_refused(now + Duration::from_secs(1)), FAILURES_PER_SECOND as usize);
        assert_eq!(until_refused(now + Duration::from_secs(3600)), BURST as usize);
    }

    /// Seen failing without the bound.
    #[test]
    fn networks_are_bounded_and_forgotten() {
        let failures = ChainFailures::default();
        let address = |i: usize| IpAddr::from(u32::try_from(i).unwrap().to_be_bytes());
        let now = Instant::now();
        (0..MAX_NETWORKS * 2).for_each(|i| failures.count(address(i), now));
        assert_eq!(failures.networks().len(), MAX_NETWORKS);
        failures.count(address(0), now + one());
        assert_eq!(failures.networks().len(), 1);
    }
}
