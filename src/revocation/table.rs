//! An insert-only hash table of fingerprints: one writer at a time, any number of readers, no lock between them.
//!
//! Eight slots are a group, whose eight tags are one word; a tag is a byte of the key, or 0 where the slot is empty. A key
//! goes into the first empty slot of its own group, or of the first group after it that has one. Groups are in the order
//! of their keys whatever the size of the table, so that copying one table into another goes from start to end in both.
//!
//! **Invariant:** slots are filled once and never emptied. A key is stored before its tag, so whoever sees the tag
//! (Acquire) sees the key; and whoever sees an empty slot in a group has seen everything that was put behind that group.

use super::sync::AtomicU64;
use super::sync::Ordering;
use crate::session::Fingerprint;

/// Slots of a group.
pub(super) const GROUP: usize = 8;

/// The bit of a key that is not the fingerprint's: set where the side table says what stands.
const FLAG: u64 = 1 << 63;
const ONES: u64 = 0x0101_0101_0101_0101;
const SEVENS: u64 = 0x7f7f_7f7f_7f7f_7f7f;

/// A fingerprint without the bit that its slot uses otherwise. A false match can only deny, at 2^-127 a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    high: u64,
    low: u64,
}

impl From<Fingerprint> for Key {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    fn from(fingerprint: Fingerprint) -> Self {
        Self { high: (fingerprint.0 >> 64) as u64, low: fingerprint.0 as u64 & !FLAG }
    }
}

impl Key {
    /// Which of `count` parts it belongs to, in the order of the keys.
    #[expect(clippy::cast_possible_truncation, reason = "less than `count`")]
    pub(super) fn part(self, count: usize) -> usize {
        ((u128::from(self.high) * count as u128) >> 64) as usize
    }

    fn tag(self) -> u64 {
        (self.low & 0xff).max(1)
    }
}

/// Where a key is, and what its slot says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) slot: usize,
    pub(super) mark: Mark,
}

/// What a slot says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Revoked, whatever was issued when: final.
    Plain,
    /// What stands is in the side table; nothing, if nothing is there.
    Conditional,
}

/// A first look at the tags of a key's own group. Several are taken before any is followed up, so that the memory is
/// asked for all of them at once.
#[derive(Clone, Copy, Default)]
pub(super) struct Glance {
    group: usize,
    tags: u64,
}

/// See the module.
pub(super) struct Table {
    tags: Box<[AtomicU64]>,
    keys: Box<[[AtomicU64; 2]]>,
}

impl Table {
    pub(super) fn with_groups(groups: usize) -> Self {
        let zero = |_| AtomicU64::new(0);
        Self {
            tags: (0..groups).map(zero).collect(),
            keys: (0..groups * GROUP).map(|slot| [zero(slot), zero(slot)]).collect(),
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn glance(&self, key: Key) -> Glance {
        let group = key.part(self.tags.len());
        Glance { group, tags: self.tags[group].load(Ordering::Acquire) }
    }

    /// Asks the memory for the slots of a key's own group, which whoever inserts it is going to write: with the tags, not
    /// after them.
    pub(super) fn touch(&self, key: Key) {
        let first = key.part(self.tags.len()) * GROUP;
        for slot in [first, first + GROUP / 2] {
            let _ = self.keys[slot][0].load(Ordering::Relaxed);
        }
    }

    /// Follows a glance at a key's group up.
    pub(super) fn find(&self, key: Key, glance: Glance) -> Option<Found> {
        let Glance { mut group, mut tags } = glance;
        let wanted = ONES * key.tag();
        for _ in 0..self.tags.len() {
            let mut candidates = zero_bytes(tags ^ wanted);
            while candidates != 0 {
                let slot = group * GROUP + lowest_byte(candidates);
                if let Some(mark) = self.compare(slot, key) {
                    return Some(Found { slot, mark });
                }
                candidates &= candidates - 1;
            }
            if zero_bytes(tags) != 0 {
                return None;
            }
            group = self.after(group);
            tags = self.tags[group].load(Ordering::Acquire);
        }
        None
    }

    /// Puts a key into an empty slot. It must not be in the table, which must have an empty slot; one writer at a time.
    pub(super) fn insert(&self, key: Key, mark: Mark) {
        let mut group = key.part(self.tags.len());
        for _ in 0..self.tags.len() {
            let tags = self.tags[group].load(Ordering::Relaxed);
            let empty = zero_bytes(tags);
            if empty != 0 {
                let place = lowest_byte(empty);
                let [high, low] = &self.keys[group * GROUP + place];
                high.store(key.high, Ordering::Relaxed);
                low.store(if mark == Mark::Plain { key.low } else { key.low | FLAG }, Ordering::Relaxed);
                // The key before its tag, or a reader compares with half a key and passes by.
                self.tags[group].store(tags | key.tag() << (8 * place), Ordering::Release);
                return;
            }
            group = self.after(group);
        }
        debug_assert!(false, "a table is never filled to the last slot");
    }

    /// From now on the side table says what stands for the key in `slot`. It is never taken back in this table.
    pub(super) fn make_conditional(&self, slot: usize) {
        let [_, low] = &self.keys[slot];
        // Release: whoever sees the flag sees what was put into the side table before.
        low.store(low.load(Ordering::Relaxed) | FLAG, Ordering::Release);
    }

    /// What is in a slot.
    pub(super) fn read(&self, slot: usize) -> Option<(Key, Mark)> {
        let tags = self.tags[slot / GROUP].load(Ordering::Acquire);
        if tags >> (8 * (slot % GROUP)) & 0xff == 0 {
            return None;
        }
        let [high, low] = &self.keys[slot];
        let low = low.load(Ordering::Acquire);
        Some((Key { high: high.load(Ordering::Relaxed), low: low & !FLAG }, mark(low)))
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.tags) + size_of_val(&*self.keys)
    }

    fn compare(&self, slot: usize, key: Key) -> Option<Mark> {
        let [high, low] = &self.keys[slot];
        let low = low.load(Ordering::Acquire);
        (low & !FLAG == key.low && high.load(Ordering::Relaxed) == key.high).then(|| mark(low))
    }

    fn after(&self, group: usize) -> usize {
        if group + 1 == self.tags.len() { 0 } else { group + 1 }
    }
}

fn mark(low: u64) -> Mark {
    if low & FLAG == 0 { Mark::Plain } else { Mark::Conditional }
}

/// The highest bit of each byte that is zero, exactly.
fn zero_bytes(word: u64) -> u64 {
    !(((word & SEVENS) + SEVENS) | word | SEVENS)
}

fn lowest_byte(bits: u64) -> usize {
    bits.trailing_zeros() as usize / 8
}
