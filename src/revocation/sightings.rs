//! What a gate has ever seen of a target. An answer says it beside that an event is in effect; nothing is decided by it.

use std::sync::Arc;

use super::Engine;
use super::Level;
use super::Registry;
use super::Target;
use crate::identity::TrustDomain;

/// Where a gate looks for a target: its live sessions, its registry, its trust domains, its configured administrators.
#[derive(Clone)]
pub struct Sightings {
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    trust_domains: Vec<TrustDomain>,
    /// The names of configured administrators, as a credential carries them.
    administrators: Vec<Target>,
}

impl Sightings {
    /// Looks in these. The registry holds the configured authorities as well.
    pub fn new(engine: Arc<Engine>, registry: Arc<Registry>, trust_domains: &[TrustDomain]) -> Self {
        Self { engine, registry, trust_domains: trust_domains.to_vec(), administrators: Vec::new() }
    }

    /// Knows these administrators as well: principals, and `secret:NAME`. No session shows a secret that nobody has used.
    #[must_use]
    pub fn administrators(self, names: impl IntoIterator<Item = String>) -> Self {
        let typed = |name: String| Target::parse(Level::Principal, &name, None).ok();
        let typed = names.into_iter().filter_map(typed);
        Self { administrators: typed.flat_map(|name| [name.as_dns(), name]).collect(), ..self }
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
                Level::Principal if self.administrators.iter().any(|name| target.hits(name)) => true,
                Level::TrustDomain => self.trust_domains.iter().any(is_configured),
                _ => !self.registry.by_target(target, 1).is_empty(),
            }
    }
}
