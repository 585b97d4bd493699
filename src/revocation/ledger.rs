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

/// In how many parts the ledger is, so that whoever looks at all of it can let others in between.
pub(super) const PARTS: usize = 64;

/// What every target that anything is known of is up to.
pub(super) struct Ledger {
    parts: [HashMap<Fingerprint, (Target, Registers)>; PARTS],
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

impl Default for Ledger {
    fn default() -> Self {
        Self { parts: std::array::from_fn(|_| HashMap::new()), counts: [0; Level::ALL.len()] }
    }
}

impl Ledger {
    /// What is known of a target.
    pub(super) fn find(&self, fingerprint: Fingerprint) -> Option<&(Target, Registers)> {
        self.parts.get(part_of(fingerprint))?.get(&fingerprint)
    }

    /// What one part knows.
    pub(super) fn part(&self, part: usize) -> impl Iterator<Item = &(Target, Registers)> {
        self.parts.get(part).into_iter().flat_map(HashMap::values)
    }

    /// How many targets are revoked or suspended, in the order of [`Level::ALL`].
    pub(super) fn counts(&self) -> [usize; Level::ALL.len()] {
        self.counts
    }

    /// Merges an event into the registers of its target.
    pub(super) fn merge(&mut self, fingerprint: Fingerprint, event: &Event) -> Merged {
        let blank = || (event.target.clone(), Registers::default());
        let (_, registers) = self.parts[part_of(fingerprint)].entry(fingerprint).or_insert_with(blank);
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
            self.parts[part_of(fingerprint)].insert(fingerprint, (target, registers));
        }
        (entry, lapsed)
    }

    /// Forgets what has lapsed.
    pub(super) fn expire(&mut self, now: Timestamp, skew: Duration) -> Lapsed {
        let mut lapsed = Lapsed::default();
        let counts = &mut self.counts;
        let mut look = |fingerprint: &Fingerprint, (target, registers): &mut (Target, Registers)| {
            let before = registers.entry();
            if registers.expire(now, skew) {
                let after = registers.entry();
                recount(counts, target.level(), before, after);
                lapsed.entries.push((*fingerprint, after));
                lapsed.targets.push(target.clone());
            }
            !registers.is_blank()
        };
        self.parts.iter_mut().for_each(|part| part.retain(&mut look));
        lapsed
    }
}

fn part_of(fingerprint: Fingerprint) -> usize {
    usize::try_from(fingerprint.0 % PARTS as u128).unwrap_or_default()
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
