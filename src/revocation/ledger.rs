//! The cold side of the set: why each entry is there, and how many there are.
//!
//! **Invariant:** the counts are those of a recount, after every step.

use std::collections::HashMap;
use std::collections::hash_map;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;

use super::Event;
use super::Level;
use super::Registers;
use super::Target;
use super::aliases::Aliases;
use super::fingerprint::NamePrints;
use super::registers::Due;
use super::registers::Entries;
use super::registers::Entry;
use super::registers::Forgotten;
use super::registers::Terms;
use super::uptime::Uptime;
use crate::clock::Timestamp;
use crate::session::Fingerprint;
use crate::session::Heeds;

/// In how many parts the ledger is: whoever looks at all of it lets others in between, and a part that grows is moved
/// while revocations wait. Of ten million targets a part has some 2,400.
pub(super) const PARTS: usize = 4096;

/// What every target that anything is known of is up to.
pub(super) struct Ledger {
    parts: Vec<Part>,
    /// The targets that are published under a second fingerprint as well.
    aliases: Aliases,
    /// Targets that are revoked or suspended, by the level's place in [`Level::ALL`].
    counts: [usize; Level::ALL.len()],
    /// Reinstatements on their way to the journal. One that is given up on stays: the journal may write it all the same.
    lifting: HashMap<Fingerprint, Lifting>,
}

/// The reinstatements of one target that the journal has not answered yet.
#[derive(Clone, Copy)]
struct Lifting {
    count: usize,
    last: Lift,
}

/// When a reinstatement was decided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lift {
    pub(super) at: Timestamp,
    /// By the clock of this gate.
    pub(super) is_local: bool,
}

struct Part {
    known: HashMap<Fingerprint, (Target, Registers), BuildHasherDefault<Keyed>>,
    /// Nothing of it has its time before.
    due: Due,
}

/// Takes a fingerprint as its own hash: it is one, under a random key.
#[derive(Default)]
struct Keyed(u64);

impl Hasher for Keyed {
    fn write_u128(&mut self, fingerprint: u128) {
        // The half that does not say which part it is in.
        self.0 = (fingerprint >> 64) as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What an event makes of its target.
#[derive(Clone, Copy, Default)]
pub(super) struct Merged {
    before: Entries,
    /// What stands for it now.
    pub(super) after: Entries,
    /// What stands now for the second fingerprint of the target, if it has one.
    alias: Option<(Fingerprint, Option<Entry>)>,
    /// Whether anything was known of the target before.
    pub(super) was_known: bool,
    /// Whether that is what the event asks for.
    pub(super) as_asked: bool,
}

impl Merged {
    /// Whether what the target's credentials are allowed is another than before.
    pub(super) fn is_change(self) -> bool {
        self.before != self.after
    }

    /// What stands now, for each fingerprint under which the target is published.
    pub(super) fn entries(self, exact: Fingerprint) -> impl Iterator<Item = (Fingerprint, Option<Entry>)> {
        std::iter::once((exact, self.after.all())).chain(self.alias)
    }
}

/// What [`Ledger::expire`] found.
#[derive(Default)]
pub(super) struct Lapsed {
    /// The targets of which something has had its time.
    pub(super) targets: Vec<Target>,
    /// What stands for those for which it is something else now.
    pub(super) entries: Vec<(Fingerprint, Option<Entry>)>,
    /// How many of the targets had something that stood.
    pub(super) count: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        let part = || Part { known: HashMap::default(), due: Due::NEVER };
        Self {
            parts: std::iter::repeat_with(part).take(PARTS).collect(),
            aliases: Aliases::default(),
            counts: [0; Level::ALL.len()],
            lifting: HashMap::new(),
        }
    }
}

impl Ledger {
    /// What is known of a target.
    pub(super) fn find(&self, fingerprint: Fingerprint) -> Option<&(Target, Registers)> {
        self.parts.get(part_of(fingerprint))?.known.get(&fingerprint)
    }

    /// The targets that are published under a fingerprint, their own or their second one.
    pub(super) fn published(&self, fingerprint: Fingerprint) -> impl Iterator<Item = &(Target, Registers)> {
        let aliased = self.aliases.of(fingerprint).iter().filter_map(|exact| self.find(*exact));
        self.find(fingerprint).into_iter().chain(aliased)
    }

    /// What stands for each second fingerprint.
    pub(super) fn aliased(&self) -> impl Iterator<Item = (Fingerprint, Entry)> {
        self.aliases.all().filter_map(|alias| Some((alias, self.union(alias, Heeds::All)?)))
    }

    /// The entry of a fingerprint for credentials that heed so much, over all of its targets.
    pub(super) fn union(&self, fingerprint: Fingerprint, heeds: Heeds) -> Option<Entry> {
        let entries = self.published(fingerprint).filter_map(|(_, registers)| registers.entry_for(heeds));
        entries.reduce(Entry::union)
    }

    /// What one part knows.
    pub(super) fn part(&self, part: usize) -> impl Iterator<Item = &(Target, Registers)> {
        self.parts.get(part).into_iter().flat_map(|part| part.known.values())
    }

    /// How many targets are revoked or suspended, in the order of [`Level::ALL`].
    pub(super) fn counts(&self) -> [usize; Level::ALL.len()] {
        self.counts
    }

    /// The greatest time of any event of a target, of those too that are on their way to the journal.
    pub(super) fn latest(&self, fingerprint: Fingerprint) -> Option<Timestamp> {
        let lifting = self.lifting.get(&fingerprint).map(|lifting| lifting.last.at);
        lifting.max(self.find(fingerprint).and_then(|(_, registers)| registers.latest()))
    }

    /// The reinstatement that outranks an event of its target, of those too that are on their way to the journal.
    pub(super) fn outranked_by(&self, fingerprint: Fingerprint, event: &Event) -> Option<Lift> {
        let tombstone = self.find(fingerprint).and_then(|(_, registers)| registers.lifted_by(event));
        let tombstone =
            tombstone.map(|tombstone| Lift { at: tombstone.stamp.0, is_local: tombstone.is_local });
        let lifting =
            self.lifting.get(&fingerprint).map(|lifting| lifting.last).filter(|lift| event.at <= lift.at);
        tombstone.max(lifting)
    }

    /// Notes that a reinstatement is on its way to the journal: what is decided from here on sorts after it.
    pub(super) fn begin_lift(&mut self, fingerprint: Fingerprint, event: &Event) {
        let lift = Lift { at: event.at, is_local: event.is_local() };
        let lifting = self.lifting.entry(fingerprint).or_insert(Lifting { count: 0, last: lift });
        lifting.count += 1;
        lifting.last = lifting.last.max(lift);
    }

    /// Notes that the journal has answered.
    pub(super) fn end_lift(&mut self, fingerprint: Fingerprint) {
        if let hash_map::Entry::Occupied(mut lifting) = self.lifting.entry(fingerprint) {
            lifting.get_mut().count -= 1;
            if lifting.get().count == 0 {
                lifting.remove();
            }
        }
    }

    /// Merges an event into the registers of its target.
    pub(super) fn merge(&mut self, prints: NamePrints, event: &Event, lapses: Uptime) -> Merged {
        let part = &mut self.parts[part_of(prints.exact)];
        let was_known = part.known.contains_key(&prints.exact);
        let blank = || (event.target.clone(), Registers::default());
        let (_, registers) = part.known.entry(prints.exact).or_insert_with(blank);
        let before = registers.entries();
        registers.merge(event, lapses);
        let after = registers.entries();
        let as_asked = registers.are_as_asked(event);
        part.due = part.due.min(registers.due());
        recount(&mut self.counts, event.target.level(), before.all(), after.all());
        self.aliases.note(prints);
        let alias = prints.alias.map(|alias| (alias, self.union(alias, Heeds::All)));
        Merged { before, after, alias, was_known, as_asked }
    }

    /// Makes room for so many targets.
    pub(super) fn reserve(&mut self, targets: usize) {
        self.parts.iter_mut().for_each(|part| part.known.reserve(targets / PARTS));
    }

    /// Takes in what a journal held of a target. Returns what stands of it, and the target if anything had lapsed.
    pub(super) fn load(
        &mut self,
        prints: NamePrints,
        row: (Target, Registers),
        terms: &Terms,
    ) -> (Option<Entry>, Option<Target>) {
        let (target, mut registers) = row;
        // Earlier versions let feeds decide about secrets.
        if target.is_secret() {
            registers.heed_no_feed();
        }
        let lapsed = (registers.expire(terms) != Forgotten::Nothing).then(|| target.clone());
        let entry = registers.entry();
        if !registers.is_blank() {
            recount(&mut self.counts, target.level(), None, entry);
            let part = &mut self.parts[part_of(prints.exact)];
            part.due = part.due.min(registers.due());
            part.known.insert(prints.exact, (target, registers));
            self.aliases.note(prints);
        }
        (entry, lapsed)
    }

    /// The parts in which something may have had its time.
    pub(super) fn due(&self, terms: &Terms) -> Vec<usize> {
        let due = self.parts.iter().enumerate().filter(|(_, part)| part.due.has_come(terms));
        due.map(|(place, _)| place).collect()
    }

    /// Forgets what has had its time in one part.
    pub(super) fn expire(
        &mut self,
        part: usize,
        terms: &Terms,
        published: impl Fn(&Target) -> NamePrints,
    ) -> Lapsed {
        let (mut lapsed, mut moved) = (Lapsed::default(), Vec::new());
        let Some(part) = self.parts.get_mut(part) else {
            return lapsed;
        };
        part.due = Due::NEVER;
        part.known.retain(|fingerprint, (target, registers)| {
            let before = registers.entry();
            let forgotten = registers.expire(terms);
            if forgotten != Forgotten::Nothing {
                let after = registers.entry();
                recount(&mut self.counts, target.level(), before, after);
                lapsed.entries.extend((before != after).then_some((*fingerprint, after)));
                lapsed.count += usize::from(forgotten == Forgotten::Standings);
                let prints = published(target);
                if registers.is_blank() {
                    self.aliases.forget(prints);
                }
                moved.extend(prints.alias);
                lapsed.targets.push(target.clone());
            }
            part.due = part.due.min(registers.due());
            !registers.is_blank()
        });
        // Millions may have lapsed at once: what they took is given back.
        if part.known.len() < part.known.capacity() / 4 {
            part.known.shrink_to_fit();
        }
        lapsed.entries.extend(moved.into_iter().map(|alias| (alias, self.union(alias, Heeds::All))));
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
