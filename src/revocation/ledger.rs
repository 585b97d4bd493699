//! The cold side of the set: why each entry is there, and how many there are.
//!
//! **Invariant:** the counts are those of a recount, after every step.

use std::collections::HashMap;
use std::time::Duration;

use super::Event;
use super::Level;
use super::Registers;
use super::Target;
use super::registers::Entry;
use crate::clock::Timestamp;
use crate::session::Fingerprint;

/// What every target that anything is known of is up to.
#[derive(Default)]
pub(super) struct Ledger {
    targets: HashMap<Fingerprint, (Target, Registers)>,
    /// Targets that are revoked or suspended, by the level's place in [`Level::ALL`].
    counts: [usize; Level::ALL.len()],
}

/// What an event makes of its target.
#[derive(Clone, Copy, Default)]
pub(super) struct Merged {
    before: Option<Entry>,
    /// What stands for it now.
    pub(super) after: Option<Entry>,
}

impl Merged {
    /// Whether what the target's credentials are allowed is another than before.
    pub(super) fn is_change(self) -> bool {
        self.before != self.after
    }
}

/// What [`Ledger::expire`] found.
#[derive(Default)]
pub(super) struct Lapsed {
    /// The targets of which something lapsed.
    pub(super) targets: Vec<Target>,
    /// What stands for them now.
    pub(super) entries: Vec<(Fingerprint, Option<Entry>)>,
}

impl Ledger {
    /// What is known of a target.
    pub(super) fn find(&self, fingerprint: Fingerprint) -> Option<&(Target, Registers)> {
        self.targets.get(&fingerprint)
    }

    /// Everything that is known.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Target, Registers)> {
        self.targets.values()
    }

    /// How many targets are revoked or suspended, in the order of [`Level::ALL`].
    pub(super) fn counts(&self) -> [usize; Level::ALL.len()] {
        self.counts
    }

    /// Merges an event into the registers of its target.
    pub(super) fn merge(&mut self, fingerprint: Fingerprint, event: &Event) -> Merged {
        let blank = || (event.target.clone(), Registers::default());
        let (_, registers) = self.targets.entry(fingerprint).or_insert_with(blank);
        let before = registers.entry();
        registers.merge(event);
        let after = registers.entry();
        recount(&mut self.counts, event.target.level(), before, after);
        Merged { before, after }
    }

    /// Takes in what a journal held of a target. Returns what stands of it, and the target if anything had lapsed.
    pub(super) fn load(
        &mut self,
        fingerprint: Fingerprint,
        row: (Target, Registers),
        now: Timestamp,
        skew: Duration,
    ) -> (Option<Entry>, Option<Target>) {
        let (target, mut registers) = row;
        let lapsed = registers.expire(now, skew).then(|| target.clone());
        let entry = registers.entry();
        if !registers.is_blank() {
            recount(&mut self.counts, target.level(), None, entry);
            self.targets.insert(fingerprint, (target, registers));
        }
        (entry, lapsed)
    }

    /// Forgets what has lapsed.
    pub(super) fn expire(&mut self, now: Timestamp, skew: Duration) -> Lapsed {
        let mut lapsed = Lapsed::default();
        let counts = &mut self.counts;
        self.targets.retain(|fingerprint, (target, registers)| {
            let before = registers.entry();
            if registers.expire(now, skew) {
                let after = registers.entry();
                recount(counts, target.level(), before, after);
                lapsed.entries.push((*fingerprint, after));
                lapsed.targets.push(target.clone());
            }
            !registers.is_blank()
        });
        lapsed
    }
}

fn recount(
    counts: &mut [usize; Level::ALL.len()],
    level: Level,
    before: Option<Entry>,
    after: Option<Entry>,
) {
    if let Some(count) = counts.get_mut(level as usize) {
        match (before.is_some(), after.is_some()) {
            (false, true) => *count += 1,
            (true, false) => *count -= 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counts are kept by it.
    #[test]
    fn a_level_is_its_place_among_all() {
        for (place, level) in Level::ALL.into_iter().enumerate() {
            assert_eq!(level as usize, place);
        }
    }
}
