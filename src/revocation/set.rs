//! The revocation set: what is denied, where readers find it without a lock.
//!
//! The live layer takes revocations one by one, in place, at the same cost whatever its size; each named layer is replaced
//! whole. A credential is denied if any layer denies it. **Invariant:** the generation moves after what it announces can
//! be seen; a reader takes the generation first and probes second.

use std::sync::Arc;
use std::sync::PoisonError;

use super::builder::NewLayer;
use super::layer::Layer;
use super::layer::Tally;
use super::rebuild;
use super::registers::Entry;
use super::sync;
use super::sync::ArcSwap;
use super::sync::AtomicU64;
use super::sync::Condvar;
use super::sync::Mutex;
use super::sync::MutexGuard;
use super::sync::Ordering;
use super::table::Key;
use crate::session::Fingerprint;

/// Lock-free for readers; writers take turns.
pub struct Set {
    generation: AtomicU64,
    shared: Arc<Shared>,
}

/// What a set and the thread that makes its next live layer have in common.
pub(super) struct Shared {
    layers: ArcSwap<Layers>,
    writer: Mutex<Writer>,
    /// A layer that was full has been replaced.
    replaced: Condvar,
}

/// What readers see.
#[derive(Clone)]
struct Layers {
    live: Arc<Layer>,
    named: Vec<(Arc<str>, Arc<Layer>)>,
}

/// What writers know of the live layer.
pub(super) struct Writer {
    pub(super) live: Arc<Layer>,
    pub(super) tally: Tally,
    /// What has changed since the next live layer was begun, while one is being made.
    pub(super) changed: Option<Vec<Key>>,
}

impl Default for Set {
    fn default() -> Self {
        let live = Arc::new(Layer::with_room(0, 0));
        let layers = Layers { live: Arc::clone(&live), named: Vec::new() };
        let writer = Writer { live, tally: Tally::default(), changed: None };
        let shared = Shared {
            layers: ArcSwap::from_pointee(layers),
            writer: Mutex::new(writer),
            replaced: Condvar::new(),
        };
        Self { generation: AtomicU64::new(0), shared: Arc::new(shared) }
    }
}

impl Set {
    /// Moves whenever the set does.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Calls `hit` with each entry that stands for one of `fingerprints`, layer by layer, until it returns something.
    pub fn probe<'a, R>(
        &self,
        fingerprints: impl Iterator<Item = &'a Fingerprint> + Clone,
        mut hit: impl FnMut(Fingerprint, Entry) -> Option<R>,
    ) -> Option<R> {
        let layers = self.shared.layers.load();
        let live = layers.live.probe(fingerprints.clone(), &mut hit);
        let mut named = layers.named.iter();
        live.or_else(|| named.find_map(|(_, layer)| layer.probe(fingerprints.clone(), &mut hit)))
    }

    /// Makes each entry stand for its fingerprint in the live layer, or nothing at all. Visible to every reader when this
    /// returns.
    pub fn publish(&self, entries: impl IntoIterator<Item = (Fingerprint, Option<Entry>)>) {
        let mut writer = self.shared.writer();
        for (fingerprint, entry) in entries {
            writer = self.shared.room(writer);
            writer.put(Key::from(fingerprint), entry);
        }
        self.generation.fetch_add(1, Ordering::Release);
        self.shared.rebuild_if_tight(writer);
    }

    /// Replaces the whole live layer.
    pub fn load(&self, new: NewLayer) {
        let mut writer = self.shared.writer();
        let live = Arc::new(new.layer);
        self.shared.store(|layers| layers.live = Arc::clone(&live));
        let old = std::mem::replace(&mut *writer, Writer { live, tally: new.tally, changed: None });
        self.generation.fetch_add(1, Ordering::Release);
        self.shared.replaced.notify_all();
        drop(writer);
        rebuild::retire(old.live);
    }

    /// Puts a layer beside the live one, in the place of the one of that name, if there is one. No other is touched.
    pub fn replace_layer(&self, name: &str, new: NewLayer) {
        self.replace(name, Some((name.into(), Arc::new(new.layer))));
    }

    /// Takes the layer of that name away. Says whether there was one.
    pub fn remove_layer(&self, name: &str) -> bool {
        self.replace(name, None)
    }

    /// The names of the layers beside the live one that have an entry for a fingerprint, and what it is.
    pub fn named(&self, fingerprint: Fingerprint) -> Vec<(Arc<str>, Entry)> {
        let layers = self.shared.layers.load();
        let named = layers.named.iter();
        named
            .filter_map(|(name, layer)| Some((Arc::clone(name), layer.find(Key::from(fingerprint))?)))
            .collect()
    }

    /// Bytes that all layers take, but for what the allocator adds.
    pub fn bytes(&self) -> usize {
        let layers = self.shared.layers.load();
        layers.live.bytes() + layers.named.iter().map(|(_, layer)| layer.bytes()).sum::<usize>()
    }

    /// Whether the next live layer is being made.
    pub fn is_rebuilding(&self) -> bool {
        self.shared.writer().changed.is_some()
    }

    fn replace(&self, name: &str, new: Option<(Arc<str>, Arc<Layer>)>) -> bool {
        let writer = self.shared.writer();
        let mut old = None;
        self.shared.store(|layers| {
            let at = layers.named.iter().position(|(other, _)| **other == *name);
            old = at.map(|at| layers.named.remove(at).1);
            layers.named.extend(new);
        });
        self.generation.fetch_add(1, Ordering::Release);
        drop(writer);
        let existed = old.is_some();
        old.into_iter().for_each(rebuild::retire);
        existed
    }
}

impl Shared {
    /// Nothing that could be left half done is done under the lock but by writers that do not panic.
    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the next live layer, with all that the last one has, in its place. The generation stays: nothing changed.
    pub(super) fn replace_live(&self, mut writer: MutexGuard<'_, Writer>, live: Arc<Layer>, tally: Tally) {
        self.store(|layers| layers.live = Arc::clone(&live));
        *writer = Writer { live, tally, changed: None };
        self.replaced.notify_all();
    }

    /// For who holds the writers' lock.
    fn store(&self, change: impl FnOnce(&mut Layers)) {
        let mut layers = Layers::clone(&self.layers.load());
        change(&mut layers);
        self.layers.store(Arc::new(layers));
    }

    /// Waits until there is room for one more. Only where revocations come faster than a table is copied.
    fn room<'a>(self: &'a Arc<Self>, mut writer: MutexGuard<'a, Writer>) -> MutexGuard<'a, Writer> {
        while writer.live.is_full(&writer.tally) {
            if writer.changed.is_none() {
                self.rebuild_if_tight(writer);
                writer = self.writer();
            } else {
                writer = self.replaced.wait(writer).unwrap_or_else(PoisonError::into_inner);
            }
        }
        writer
    }

    fn rebuild_if_tight(self: &Arc<Self>, mut writer: MutexGuard<'_, Writer>) {
        if writer.changed.is_some() || !writer.live.is_tight(&writer.tally) {
            return;
        }
        writer.changed = Some(Vec::new());
        let old = Arc::clone(&writer.live);
        drop(writer);
        let (shared, theirs) = (Arc::clone(self), Arc::clone(&old));
        let work = move || {
            rebuild::run(&shared, &theirs);
            sync::free(theirs);
        };
        // Without another thread a publication that waits is better than one that has no room.
        if sync::spawn("set", work).is_err() {
            rebuild::run(self, &old);
        }
    }
}

impl Writer {
    fn put(&mut self, key: Key, entry: Option<Entry>) {
        self.live.put(&mut self.tally, key, entry);
        if let Some(changed) = &mut self.changed {
            changed.push(key);
        }
    }
}
