//! What chains that do not verify have cost, by network: a stranger may cost so much and no more.
//!
//! Only failures count, by the signature checks that were made for them, so that a fleet that comes at once costs its network
//! nothing, nor does a chain of an unknown authority. A network that is over its budget is not shut out, for others may be
//! behind the same address: a chain from there gets [`FEW_CHECKS`], as many as an ordinary path takes. Chains that the gate
//! knows, and resumed sessions, are not asked for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::network;

/// Signature checks that one network makes good in a second.
const CHECKS_PER_SECOND: u32 = 32;
/// Signature checks at once: of ten chains of the costliest kind.
const BURST: u32 = 320;
/// Signature checks of a chain from a network that is over its budget: a leaf under two intermediates has a path of so many.
/// They cost about as much as the handshake's own signature.
pub(super) const FEW_CHECKS: usize = 3;
/// Networks that are remembered. Each is forgotten once it has made its checks good, after ten seconds at most.
const MAX_NETWORKS: usize = 16_384;

/// The failures of each network (an address, or an IPv6 /64) on one listener.
#[derive(Default)]
pub(super) struct ChainFailures {
    /// When each has made its checks good.
    good_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl ChainFailures {
    /// True if the failures of an address have cost so much that its chains get few checks at `now`.
    pub(super) fn are_too_many(&self, address: IpAddr, now: Instant) -> bool {
        let Some(good_at) = self.networks().get(&network(address)).copied() else { return false };
        good_at.saturating_duration_since(now) > one() * (BURST - 1)
    }

    /// Counts the checks of a chain of an address that did not verify.
    pub(super) fn count(&self, address: IpAddr, checks: usize, now: Instant) {
        if checks == 0 {
            return;
        }
        let network = network(address);
        let mut networks = self.networks();
        if networks.len() >= MAX_NETWORKS {
            networks.retain(|_, good_at| *good_at > now);
        }
        // A flood from that many networks at once is not for a bound by network.
        if networks.len() < MAX_NETWORKS || networks.contains_key(&network) {
            let good_at = networks.entry(network).or_insert(now);
            let cost = one() * u32::try_from(checks).unwrap_or(BURST).min(BURST);
            *good_at = ((*good_at).max(now) + cost).min(now + one() * BURST);
        }
    }

    fn networks(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.good_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long one check counts.
fn one() -> Duration {
    Duration::from_secs(1) / CHECKS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen failing with each address of an IPv6 network for itself, and with a chain that cost no check counted.
    #[test]
    fn a_network_fails_so_often_and_makes_it_good() {
        let failures = ChainFailures::default();
        let of = |text: &str| text.parse::<IpAddr>().unwrap();
        let own = of("2001:db8::1");
        let until_limited = |checks: usize, now: Instant| {
            let passed = (0..1000).take_while(|_| !failures.are_too_many(own, now));
            passed.map(|_| failures.count(own, checks, now)).count()
        };
        let now = Instant::now();
        assert_eq!(until_limited(0, now), 1000);
        assert_eq!(until_limited(32, now), BURST as usize / 32);
        assert!(failures.are_too_many(of("2001:db8::ffff:1"), now));
        let others = ["2001:db8:0:1::1", "192.0.2.1"].map(of);
        assert!(others.iter().all(|other| !failures.are_too_many(*other, now)));
        // What the few checks of a network over its budget cost is made good as soon.
        (0..1000).for_each(|_| failures.count(own, FEW_CHECKS, now));
        assert_eq!(until_limited(1, now + Duration::from_secs(1)), CHECKS_PER_SECOND as usize);
        assert_eq!(until_limited(1, now + Duration::from_secs(3600)), BURST as usize);
    }

    /// Seen failing without the bound.
    #[test]
    fn networks_are_bounded_and_forgotten() {
        let failures = ChainFailures::default();
        let address = |i: usize| IpAddr::from(u32::try_from(i).unwrap().to_be_bytes());
        let now = Instant::now();
        (0..MAX_NETWORKS * 2).for_each(|i| failures.count(address(i), 1, now));
        assert_eq!(failures.networks().len(), MAX_NETWORKS);
        failures.count(address(0), 1, now + one());
        assert_eq!(failures.networks().len(), 1);
    }
}
