//! What is measured side by side.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use portcullis::revocation::Entry;
use portcullis::revocation::LayerBuilder;
use portcullis::revocation::Set;
use portcullis::session::Fingerprint;

/// What misses are made of, and what comes and goes in bulk.
const UNKNOWN: u64 = 1 << 40;
const LISTED: u64 = 1 << 50;

/// Something that can be asked whether one of six fingerprints is revoked.
pub(crate) trait Subject: Sync + Sized {
    const NAME: &'static str;

    fn build(entries: u64) -> Self;
    fn denies(&self, prints: &[Fingerprint; 6]) -> bool;
    fn publish(&self, print: Fingerprint);
    /// Puts a list of so many beside what is there, and takes the last one away.
    fn replace_in_bulk(&self, entries: u64);

    /// The same lookup without what makes it safe to publish meanwhile.
    fn denies_bare(&self, prints: &[Fingerprint; 6]) -> bool {
        self.denies(prints)
    }

    /// How many publications are measured at this size: more than fit before the table must grow.
    fn publications(entries: u64) -> u64 {
        entries * 28 / 100
    }

    /// What its tables take, if they say.
    fn bytes(&self) -> Option<u64> {
        None
    }

    /// Waits for what it does aside.
    fn settle(&self) {}
}

/// Number so-and-so of the fingerprints, all of which differ.
pub(crate) fn print(number: u64) -> Fingerprint {
    Fingerprint(u128::from(mixed(number)) << 64 | u128::from(mixed(!number)))
}

fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Credentials of six levels each.
pub(crate) struct Credentials(Vec<[Fingerprint; 6]>);

impl Credentials {
    /// None of which is revoked.
    pub(crate) fn unknown(count: u64) -> Self {
        let levels = |number| [0, 1, 2, 3, 4, 5].map(|level| print(UNKNOWN + number * 6 + level));
        Self((0..count).map(levels).collect())
    }

    /// Each of which is revoked at one level.
    pub(crate) fn known(count: u64, entries: u64) -> Self {
        let mut credentials = Self::unknown(count);
        for (number, prints) in (0..).zip(&mut credentials.0) {
            let hit = mixed(number) % entries;
            prints[usize::try_from(hit % 6).unwrap_or_default()] = print(hit);
        }
        credentials
    }

    pub(crate) fn all(&self) -> &[[Fingerprint; 6]] {
        &self.0
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, [Fingerprint; 6]> {
        self.0.iter()
    }
}

pub(crate) struct Portcullis(Set);

impl Subject for Portcullis {
    const NAME: &'static str = "portcullis";

    fn build(entries: u64) -> Self {
        let set = Set::default();
        let mut live = LayerBuilder::default();
        (0..entries).for_each(|number| live.push(print(number), Entry::REVOKED));
        set.load(live.build());
        Self(set)
    }

    fn denies(&self, prints: &[Fingerprint; 6]) -> bool {
        self.0.probe(prints.iter(), |_, entry| entry.denies(0)).is_some()
    }

    fn publish(&self, print: Fingerprint) {
        self.0.publish([(print, Some(Entry::REVOKED))]);
    }

    fn replace_in_bulk(&self, entries: u64) {
        let mut list = LayerBuilder::default();
        (LISTED..LISTED + entries).for_each(|number| list.push(print(number), Entry::REVOKED));
        self.0.replace_layer("list", list.build());
        self.0.remove_layer("list");
    }

    fn bytes(&self) -> Option<u64> {
        Some(self.0.bytes() as u64)
    }

    fn settle(&self) {
        while self.0.is_rebuilding() {
            thread::yield_now();
        }
    }
}

pub(crate) struct Dash(DashMap<u128, (), Same>);

impl Subject for Dash {
    const NAME: &'static str = "dashmap";

    fn build(entries: u64) -> Self {
        let map =
            DashMap::with_capacity_and_hasher(usize::try_from(entries).unwrap_or_default(), Same::default());
        for number in 0..entries {
            map.insert(print(number).0, ());
        }
        Self(map)
    }

    fn denies(&self, prints: &[Fingerprint; 6]) -> bool {
        prints.iter().any(|print| self.0.contains_key(&print.0))
    }

    fn publish(&self, print: Fingerprint) {
        self.0.insert(print.0, ());
    }

    fn replace_in_bulk(&self, entries: u64) {
        let list: HashSet<u128, Same> = (LISTED..LISTED + entries).map(|number| print(number).0).collect();
        for print in &list {
            self.0.insert(*print, ());
        }
        self.0.retain(|print, ()| !list.contains(print));
    }
}

pub(crate) struct Brown {
    current: ArcSwap<HashSet<u128, Same>>,
    bare: Arc<HashSet<u128, Same>>,
}

impl Subject for Brown {
    const NAME: &'static str = "hashbrown";

    fn build(entries: u64) -> Self {
        let mut set =
            HashSet::with_capacity_and_hasher(usize::try_from(entries).unwrap_or_default(), Same::default());
        set.extend((0..entries).map(|number| print(number).0));
        let bare = Arc::new(set);
        Self { current: ArcSwap::new(Arc::clone(&bare)), bare }
    }

    fn denies(&self, prints: &[Fingerprint; 6]) -> bool {
        let current = self.current.load();
        prints.iter().any(|print| current.contains(&print.0))
    }

    fn denies_bare(&self, prints: &[Fingerprint; 6]) -> bool {
        prints.iter().any(|print| self.bare.contains(&print.0))
    }

    fn publish(&self, print: Fingerprint) {
        let mut next = HashSet::clone(&self.current.load());
        next.insert(print.0);
        self.current.store(Arc::new(next));
    }

    /// All is copied for each, so that a few tell enough.
    fn publications(entries: u64) -> u64 {
        (20_000_000 / entries.max(1)).clamp(3, 1000)
    }

    fn replace_in_bulk(&self, entries: u64) {
        let mut next = HashSet::clone(&self.bare);
        next.extend((LISTED..LISTED + entries).map(|number| print(number).0));
        self.current.store(Arc::new(next));
        self.current.store(Arc::clone(&self.bare));
    }

    /// A byte for each bucket's tag; seven of eight buckets may be taken.
    fn bytes(&self) -> Option<u64> {
        let buckets = (self.current.load().capacity() as u64 * 8 / 7).next_power_of_two();
        Some(buckets * 17)
    }
}

type Same = BuildHasherDefault<AsItIs>;

/// A fingerprint is a keyed hash already.
#[derive(Default)]
pub(crate) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    #[expect(clippy::cast_possible_truncation, reason = "one half is as good as the other")]
    fn write_u128(&mut self, print: u128) {
        self.0 = print as u64;
    }
}
