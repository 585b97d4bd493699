//! One source's share of the set: a table of fingerprints, and beside it what stands conditionally.

use super::conditions::Conditions;
use super::registers::Entry;
use super::sync::FEWEST_GROUPS;
use super::table::Found;
use super::table::GROUP;
use super::table::Glance;
use super::table::Key;
use super::table::Mark;
use super::table::Table;
use crate::session::Fingerprint;

/// How full a table is made, in hundredths: 24.3 bytes an entry.
const ROOMY: usize = 70;
/// When it is time for another: 19.4 bytes an entry, and 43.7 while the next is made.
const TIGHT: usize = 87;
/// How full it may get while the next is made.
const FULL: usize = 97;
/// Fewer entries than this of which nothing stands any more are not worth a new table.
const MIN_DEAD: usize = 1024;
/// How many fingerprints the memory is asked for at once.
const AHEAD: usize = 8;

/// What a layer has in it. Kept by whoever writes to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Slots that are taken.
    pub(super) used: usize,
    /// Those of them of which nothing stands any more.
    pub(super) dead: usize,
    /// Entries of the side table.
    pub(super) conditions: usize,
}

/// One source's share of the set. Lock-free for readers; one writer at a time.
pub(super) struct Layer {
    table: Table,
    conditions: Conditions,
}

impl Layer {
    /// With room for `entries`, of which `conditions` are conditional, and for more of both before it is tight.
    pub(super) fn with_room(entries: usize, conditions: usize) -> Self {
        let groups = (entries * 100).div_ceil(ROOMY * GROUP).max(FEWEST_GROUPS);
        Self { table: Table::with_groups(groups), conditions: Conditions::with_room(conditions) }
    }

    /// Whether it is time to make another layer of what stands in this one.
    pub(super) fn is_tight(&self, tally: &Tally) -> bool {
        let used = tally.used * 100 > self.table.slots() * TIGHT;
        used || (tally.dead > MIN_DEAD && tally.dead * 4 > tally.used)
            || tally.conditions > self.conditions.limit()
    }

    /// Whether nothing more may be put in.
    pub(super) fn is_full(&self, tally: &Tally) -> bool {
        tally.used * 100 > self.table.slots() * FULL || tally.used + 1 >= self.table.slots()
    }

    pub(super) fn slots(&self) -> usize {
        self.table.slots()
    }

    /// Calls `hit` with each entry that stands for one of `fingerprints`, until it returns something.
    #[inline]
    pub(super) fn probe<'a, R>(
        &self,
        mut fingerprints: impl Iterator<Item = &'a Fingerprint> + Clone,
        hit: &mut impl FnMut(Fingerprint, Entry) -> Option<R>,
    ) -> Option<R> {
        loop {
            let again = fingerprints.clone();
            let mut glances = [Glance::default(); AHEAD];
            let mut count = 0;
            for (glance, fingerprint) in glances.iter_mut().zip(&mut fingerprints) {
                *glance = self.table.glance(Key::from(*fingerprint));
                count += 1;
            }
            for (glance, fingerprint) in glances.iter().take(count).zip(again) {
                let key = Key::from(*fingerprint);
                if glance.rules_out(key) {
                    continue;
                }
                let entry = self.follow(key, *glance);
                if let Some(result) = entry.and_then(|entry| hit(*fingerprint, entry)) {
                    return Some(result);
                }
            }
            if count < AHEAD {
                return None;
            }
        }
    }

    /// What stands for a key.
    pub(super) fn find(&self, key: Key) -> Option<Entry> {
        self.follow(key, self.table.glance(key))
    }

    /// Makes an entry, or nothing, stand for a key. Visible to every reader when this returns. Where the key is new, the
    /// layer must not be full.
    pub(super) fn put(&self, tally: &mut Tally, key: Key, entry: Option<Entry>) {
        let plain = entry.is_some_and(is_plain);
        self.table.touch(key);
        match self.table.find(key, self.table.glance(key)) {
            None => self.put_new(tally, key, entry),
            Some(Found { mark: Mark::Plain, .. }) if plain => {}
            Some(Found { mark: Mark::Plain, slot }) => self.qualify(tally, key, slot, entry),
            Some(Found { mark: Mark::Conditional, .. }) => self.put_again(tally, key, entry),
        }
    }

    /// Puts what stands in one slot of another layer into this one.
    pub(super) fn copy(&self, tally: &mut Tally, other: &Self, slot: usize) {
        if let Some((key, mark)) = other.table.read(slot) {
            self.put(tally, key, other.entry(key, mark));
        }
    }

    /// Bytes that it takes, but for what the allocator adds.
    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.conditions.bytes()
    }

    /// Not inlined: it would take the registers of what is nearly always enough.
    #[inline(never)]
    fn follow(&self, key: Key, glance: Glance) -> Option<Entry> {
        let found = self.table.find(key, glance)?;
        self.entry(key, found.mark)
    }

    fn entry(&self, key: Key, mark: Mark) -> Option<Entry> {
        match mark {
            Mark::Plain => Some(Entry::REVOKED),
            Mark::Conditional => self.conditions.find(key),
        }
    }

    fn put_new(&self, tally: &mut Tally, key: Key, entry: Option<Entry>) {
        let Some(entry) = entry else { return };
        if is_plain(entry) {
            self.table.insert(key, Mark::Plain);
        } else {
            self.put_condition(tally, key, Some(entry));
            self.table.insert(key, Mark::Conditional);
        }
        tally.used += 1;
    }

    fn qualify(&self, tally: &mut Tally, key: Key, slot: usize, entry: Option<Entry>) {
        // What stands before the flag that says where it stands: a reader who saw the flag first would find nothing
        // there, and let a credential pass that was denied before and is denied after.
        self.put_condition(tally, key, entry);
        self.table.make_conditional(slot);
        tally.dead += usize::from(entry.is_none());
    }

    fn put_again(&self, tally: &mut Tally, key: Key, entry: Option<Entry>) {
        // Even if it is plain now: clearing the flag and forgetting the condition are two steps, and a reader who saw the
        // flag before the one may look for the condition after the other. The next layer is made without it.
        let before = self.put_condition(tally, key, entry);
        tally.dead += usize::from(entry.is_none() && before.is_some());
        tally.dead -= usize::from(entry.is_some() && before.is_none());
    }

    fn put_condition(&self, tally: &mut Tally, key: Key, entry: Option<Entry>) -> Option<Entry> {
        let before = self.conditions.put(key, entry);
        tally.conditions += usize::from(entry.is_some());
        tally.conditions -= usize::from(before.is_some());
        before
    }
}

/// Revoked, whatever was issued when: whether it is suspended besides makes no difference.
pub(super) fn is_plain(entry: Entry) -> bool {
    entry.revoked_before == i64::MAX
}
