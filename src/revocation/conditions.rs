//! The side table: what stands for the fingerprints of which a slot alone cannot say it.
//!
//! Buckets of a few entries each, copied on write: what one change costs does not depend on how many there are.

use std::sync::Arc;

use super::registers::Entry;
use super::sync::ArcSwap;
use super::sync::FEWEST_BUCKETS;
use super::table::Key;

/// Entries of a bucket, on average, when the table is made and when it is time for a larger one.
const FEW: usize = 2;
const MANY: usize = 8;

type Bucket = Vec<(Key, Entry)>;

/// Lock-free for readers; one writer at a time.
pub(super) struct Conditions {
    buckets: Box<[ArcSwap<Bucket>]>,
}

impl Conditions {
    pub(super) fn with_room(entries: usize) -> Self {
        let empty = Arc::new(Vec::new());
        let buckets = entries.div_ceil(FEW).max(FEWEST_BUCKETS);
        Self { buckets: (0..buckets).map(|_| ArcSwap::new(Arc::clone(&empty))).collect() }
    }

    /// How many entries are too many for it.
    pub(super) fn limit(&self) -> usize {
        self.buckets.len() * MANY
    }

    pub(super) fn find(&self, key: Key) -> Option<Entry> {
        let bucket = self.bucket(key).load();
        bucket.iter().find(|(other, _)| *other == key).map(|(_, entry)| *entry)
    }

    /// Makes an entry, or nothing, stand for a key. Returns what stood.
    pub(super) fn put(&self, key: Key, entry: Option<Entry>) -> Option<Entry> {
        let bucket = self.bucket(key);
        let old = bucket.load_full();
        let before = old.iter().find(|(other, _)| *other == key).map(|(_, entry)| *entry);
        if before != entry {
            let others = old.iter().filter(|(other, _)| *other != key).copied();
            bucket.store(Arc::new(others.chain(entry.map(|entry| (key, entry))).collect()));
        }
        before
    }

    /// Bytes that it takes, but for what the allocator adds.
    pub(super) fn bytes(&self) -> usize {
        let entries = |bucket: &ArcSwap<Bucket>| bucket.load().capacity() * size_of::<(Key, Entry)>();
        let each = size_of::<ArcSwap<Bucket>>() + size_of::<Bucket>();
        self.buckets.iter().map(|bucket| entries(bucket) + each).sum()
    }

    fn bucket(&self, key: Key) -> &ArcSwap<Bucket> {
        &self.buckets[key.part(self.buckets.len())]
    }
}
