//! What a gate has ever seen of a target. An answer says it beside that an event is in effect; nothing is decided by it.

use std::sync::Arc;

use super::Engine;
use super::Level;
use super::Registry;
use super::Target;
use crate::identity::TrustDomain;

/// Where a gate looks for a target: its live sessions, its registry, its trust domains.
#[derive(Clone)]
pub struct Sightings {
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    trust_domains: Vec<TrustDomain>,
}

impl Sightings {
    /// Looks in these. The registry holds the configured authorities as well.
    pub fn new(engine: Arc<Engine>, registry: Arc<Registry>, trust_domains: &[TrustDomain]) -> Self {
        Self { engine, registry, trust_domains: trust_domains.to_vec() }
    }

    /// Whether the gate has seen a credential that an event of `target` hits. Blocks on the registry's file: not before an
    /// event is in effect.
    pub fn include(&self, target: &Target) -> bool {
        // A name that leads to the key of an authority hits what is under that key.
        self.engine.spellings(target).iter().any(|spelling| self.include_as(spelling))
    }

    fn include_as(&self, target: &Target) -> bool {
        let is_configured = |domain: &TrustDomain| domain.as_str() == target.name();
        self.engine.has_sessions(target)
            || match target.level() {
                Level::TrustDomain => self.trust_domains.iter().any(is_configured),
                _ => !self.registry.by_target(target, 1).is_empty(),
            }
    }
}
