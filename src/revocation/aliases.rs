//! Second readings of targets: by which fingerprint, beside their own, they are published.
//!
//! Several targets may share one: `AB` and `Ab` both hit the DNS name `ab`. **Invariant:** a target is in here from its
//! first event until nothing is known of it.

use std::collections::HashMap;

use super::fingerprint::NamePrints;
use crate::session::Fingerprint;

/// The targets of each alias, by their own fingerprints.
#[derive(Default)]
pub(super) struct Aliases(HashMap<Fingerprint, Vec<Fingerprint>>);

impl Aliases {
    /// Notes the alias of a target, if it has one.
    pub(super) fn note(&mut self, prints: NamePrints) {
        let Some(alias) = prints.alias else { return };
        let targets = self.0.entry(alias).or_default();
        if !targets.contains(&prints.exact) {
            targets.push(prints.exact);
        }
    }

    /// Forgets a target of which nothing is known any more.
    pub(super) fn forget(&mut self, prints: NamePrints) {
        let Some(alias) = prints.alias else { return };
        if let Some(targets) = self.0.get_mut(&alias) {
            targets.retain(|target| *target != prints.exact);
            if targets.is_empty() {
                self.0.remove(&alias);
            }
        }
    }

    /// The targets that share an alias.
    pub(super) fn of(&self, alias: Fingerprint) -> &[Fingerprint] {
        self.0.get(&alias).map_or(&[], Vec::as_slice)
    }

    /// Each alias.
    pub(super) fn all(&self) -> impl Iterator<Item = Fingerprint> {
        self.0.keys().copied()
    }
}
