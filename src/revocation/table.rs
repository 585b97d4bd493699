//! An insert-only hash table of fingerprints: one writer at a time, any number of readers, no lock between them.
//!
//! Eight slots are a group, whose eight tags are one word; a tag is a byte of the key, or 0 where the slot is empty. The
//! tags of eight groups are a line of memory. A key has two groups in one line and goes into the emptier one, or, if both
//! are full, into the first group that is not after its own; within a group into the lowest empty slot. Groups are in the
//! order of their keys whatever the size of the table, so that copying one into another goes from start to end in both.
//!
//! **Invariant:** slots are filled once and never emptied. A key is stored before its tag, so whoever sees the tag
//! (Acquire) sees the key; and whoever sees an empty slot in one of a key's two groups has seen everything of that key:
//! nothing was put behind them.

use super::sync::AtomicU64;
use super::sync::FEWEST_GROUPS;
use super::sync::Ordering;
use crate::session::Fingerprint;

/// Slots of a group.
pub(super) const GROUP: usize = 8;

/// Groups of a line, a power of two.
const LINE: usize = FEWEST_GROUPS;

/// The bit of a key that is not the fingerprint's: set where the side table says what stands.
const FLAG: u64 = 1 << 63;
/// The smallest page, bytes.
const PAGE: usize = 4096;
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

    /// The other of its two groups, in the same line.
    fn other(self, own: usize) -> usize {
        own ^ (((self.low >> 8) as usize % LINE) | 1)
    }

    /// Its tag in each byte.
    fn wanted(self) -> u64 {
        ONES * self.tag()
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

/// A first look at the tags of a key's two groups. Several are taken before any is followed up, so that the memory is
/// asked for all of them at once.
#[derive(Clone, Copy, Default)]
pub(super) struct Glance([u64; 2]);

impl Glance {
    /// Whether it is enough to say that the key is not there. It mostly is: of the groups of a table as it is made one in
    /// twenty is full, and seldom both of a key's. One branch for all of it, that nearly always goes the same way.
    #[inline]
    pub(super) fn rules_out(self, key: Key) -> bool {
        let [own, other] = self.0;
        let candidates = some_zero_byte(own ^ key.wanted()) | some_zero_byte(other ^ key.wanted());
        candidates | last_tag(own.min(other)) == 0
    }
}

/// The tags of groups that are one line of memory.
#[repr(align(64))]
struct Line([AtomicU64; LINE]);

/// See the module.
pub(super) struct Table {
    lines: Box<[Line]>,
    keys: Box<[[AtomicU64; 2]]>,
}

impl Table {
    /// With at least so many groups.
    pub(super) fn with_groups(groups: usize) -> Self {
        let zero = |_| AtomicU64::new(0);
        let lines = groups.div_ceil(LINE);
        let table = Self {
            lines: (0..lines).map(|_| Line(std::array::from_fn(zero))).collect(),
            keys: (0..lines * LINE * GROUP).map(|slot| [zero(slot), zero(slot)]).collect(),
        };
        table.take_pages();
        table
    }

    /// Writes once to every page. The allocator may hand out memory that is not there yet: what is read before it is
    /// written is the kernel's page of zeros, and to put another in its place, page by page while the table is filled,
    /// it stops every core that runs this process for some microseconds.
    fn take_pages(&self) {
        let first = |line: &Line| line.0[0].store(0, Ordering::Relaxed);
        self.lines.iter().step_by(PAGE / size_of::<Line>()).for_each(first);
        self.keys
            .iter()
            .step_by(PAGE / size_of::<[u64; 2]>())
            .for_each(|[high, _]| high.store(0, Ordering::Relaxed));
    }

    pub(super) fn slots(&self) -> usize {
        self.keys.len()
    }

    #[inline]
    pub(super) fn glance(&self, key: Key) -> Glance {
        let own = key.part(self.groups());
        let Line(line) = &self.lines[own / LINE];
        Glance([own, key.other(own)].map(|group| line[group % LINE].load(Ordering::Acquire)))
    }

    /// Asks the memory for the slots of a key's groups, which whoever inserts it is going to write: with the tags, not
    /// after them.
    pub(super) fn touch(&self, key: Key) {
        let own = key.part(self.groups());
        for group in [own, key.other(own)] {
            for slot in [group * GROUP, group * GROUP + GROUP / 2] {
                let _ = self.keys[slot][0].load(Ordering::Relaxed);
            }
        }
    }

    /// Follows a glance at a key's groups up.
    pub(super) fn find(&self, key: Key, glance: Glance) -> Option<Found> {
        let own = key.part(self.groups());
        let [in_own, in_other] = glance.0;
        let found = self.compare(own, in_own, key).or_else(|| self.compare(key.other(own), in_other, key));
        if found.is_some() || last_tag(in_own.min(in_other)) == 0 {
            return found;
        }
        self.find_behind(own, key)
    }

    /// Looks for a key whose groups are full: the exception, the more so the emptier the table is.
    #[cold]
    fn find_behind(&self, own: usize, key: Key) -> Option<Found> {
        let mut group = own;
        for _ in 1..self.groups() {
            group = self.after(group);
            let tags = self.tags(group).load(Ordering::Acquire);
            let found = self.compare(group, tags, key);
            if found.is_some() || last_tag(tags) == 0 {
                return found;
            }
        }
        None
    }

    /// Puts a key into an empty slot. It must not be in the table, which must have an empty slot; one writer at a time.
    pub(super) fn insert(&self, key: Key, mark: Mark) {
        let load = |group| self.tags(group).load(Ordering::Relaxed);
        let own = key.part(self.groups());
        let other = key.other(own);
        let mut group = if taken(load(other)) < taken(load(own)) { other } else { own };
        for _ in 0..self.groups() {
            let tags = load(group);
            if last_tag(tags) == 0 {
                let place = taken(tags);
                let [high, low] = &self.keys[group * GROUP + place];
                high.store(key.high, Ordering::Relaxed);
                low.store(if mark == Mark::Plain { key.low } else { key.low | FLAG }, Ordering::Relaxed);
                // The key before its tag, or a reader compares with half a key and passes by.
                self.tags(group).store(tags | key.tag() << (8 * place), Ordering::Release);
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
        let tags = self.tags(slot / GROUP).load(Ordering::Acquire);
        if tags >> (8 * (slot % GROUP)) & 0xff == 0 {
            return None;
        }
        let [high, low] = &self.keys[slot];
        let low = low.load(Ordering::Acquire);
        Some((Key { high: high.load(Ordering::Relaxed), low: low & !FLAG }, mark(low)))
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.keys)
    }

    /// Looks for a key where the tags of a group say that it may be.
    #[inline]
    fn compare(&self, group: usize, tags: u64, key: Key) -> Option<Found> {
        let mut candidates = zero_bytes(tags ^ key.wanted());
        while candidates != 0 {
            let slot = group * GROUP + candidates.trailing_zeros() as usize / 8;
            let [high, low] = &self.keys[slot];
            let low = low.load(Ordering::Acquire);
            if low & !FLAG == key.low && high.load(Ordering::Relaxed) == key.high {
                return Some(Found { slot, mark: mark(low) });
            }
            candidates &= candidates - 1;
        }
        None
    }

    fn groups(&self) -> usize {
        self.lines.len() * LINE
    }

    fn tags(&self, group: usize) -> &AtomicU64 {
        &self.lines[group / LINE].0[group % LINE]
    }

    fn after(&self, group: usize) -> usize {
        if group + 1 == self.groups() { 0 } else { group + 1 }
    }
}

fn mark(low: u64) -> Mark {
    if low & FLAG == 0 { Mark::Plain } else { Mark::Conditional }
}

/// The highest bit of each byte that is zero, exactly.
fn zero_bytes(word: u64) -> u64 {
    !(((word & SEVENS) + SEVENS) | word | SEVENS)
}

/// Not 0 if a byte is zero: shorter, but not to say which.
fn some_zero_byte(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & !SEVENS
}

/// How many slots of a group are taken: the lowest.
fn taken(tags: u64) -> usize {
    (u64::BITS - tags.leading_zeros()).div_ceil(8) as usize
}

/// The tag of the slot that is taken last.
fn last_tag(tags: u64) -> u64 {
    tags >> 56
}
