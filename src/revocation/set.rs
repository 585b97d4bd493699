//! The revocation set: what is denied, where readers find it without a lock.
//!
//! A frozen base and a small copy-on-write delta behind one `ArcSwap`. **Invariant:** the generation moves after the
//! set that it announces can be seen; a reader takes the generation first and probes second.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use super::registers::Entry;
use crate::session::Fingerprint;

/// A delta of this size is folded into the base.
const MAX_DELTA: usize = 1024;

type Entries<E> = HashMap<Fingerprint, E>;

#[derive(Default)]
struct Snapshot {
    base: Arc<Entries<Entry>>,
    /// Newer than the base; `None` stands for an entry that is gone.
    delta: Entries<Option<Entry>>,
}

/// Lock-free for readers; writers take turns under the engine's lock.
#[derive(Default)]
pub(super) struct Set {
    current: ArcSwap<Snapshot>,
    generation: AtomicU64,
}

impl Set {
    /// Moves whenever the set does.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Calls `hit` with each entry that stands for one of `fingerprints`, until it returns something.
    pub(super) fn probe<'a, R>(
        &self,
        fingerprints: impl Iterator<Item = &'a Fingerprint>,
        mut hit: impl FnMut(Fingerprint, Entry) -> Option<R>,
    ) -> Option<R> {
        let snapshot = self.current.load();
        if snapshot.base.is_empty() && snapshot.delta.is_empty() {
            return None;
        }
        for fingerprint in fingerprints {
            let newer = snapshot.delta.get(fingerprint).copied();
            let entry = newer.unwrap_or_else(|| snapshot.base.get(fingerprint).copied());
            if let Some(found) = entry.and_then(|entry| hit(*fingerprint, entry)) {
                return Some(found);
            }
        }
        None
    }

    /// Replaces the whole set.
    pub(super) fn load(&self, entries: HashMap<Fingerprint, Entry>) {
        self.current.store(Arc::new(Snapshot { base: Arc::new(entries), delta: HashMap::new() }));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Makes `entry` stand for `fingerprint`, or nothing at all. Visible to every reader when this returns.
    pub(super) fn publish(&self, fingerprint: Fingerprint, entry: Option<Entry>) {
        let old = self.current.load_full();
        let mut delta = old.delta.clone();
        delta.insert(fingerprint, entry);
        let new = if delta.len() < MAX_DELTA {
            Snapshot { base: Arc::clone(&old.base), delta }
        } else {
            Snapshot { base: Arc::new(folded(&old.base, &delta)), delta: HashMap::new() }
        };
        self.current.store(Arc::new(new));
        self.generation.fetch_add(1, Ordering::Release);
    }
}

fn folded(base: &Entries<Entry>, delta: &Entries<Option<Entry>>) -> Entries<Entry> {
    let mut entries = base.clone();
    for (fingerprint, entry) in delta {
        match entry {
            Some(entry) => entries.insert(*fingerprint, *entry),
            None => entries.remove(fingerprint),
        };
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_a_plain_map_would_be() {
        let set = Set::default();
        let mut model = HashMap::new();
        for i in 0..5000_u64 {
            let fingerprint = Fingerprint(u128::from(i * 7919 % 2600));
            let gone = i % 3 == 0;
            let entry =
                (!gone).then_some(Entry { revoked_before: i.cast_signed(), suspended_before: i64::MIN });
            set.publish(fingerprint, entry);
            model.insert(fingerprint, entry);
            assert_eq!(set.generation(), i + 1);
        }
        for (fingerprint, entry) in model {
            assert_eq!(set.probe([fingerprint].iter(), |_, found| Some(found)), entry);
        }
    }
}
