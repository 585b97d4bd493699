//! The next live layer: made beside the one that is in use, while that is read and written.
//!
//! Slot by slot what stands is copied; then what was changed meanwhile is looked up once more, again and again until so
//! little is left that it can be done while writers wait; then the layers are exchanged. **Invariant:** what is exchanged
//! has everything that was published.

use std::sync::Arc;

use super::layer::Layer;
use super::layer::Tally;
use super::set::Shared;
use super::set::Writer;
use super::sync;
use super::sync::MutexGuard;
use super::table::Key;

/// Slots that are copied between two looks at what was changed meanwhile.
const CHUNK: usize = 4096;
/// So few changes are looked up while writers wait.
const FEW: usize = 32;
/// A smaller layer is freed where it is dropped.
const SMALL: usize = 4096;

/// Makes the live layer that comes after `old`, and puts it in its place. What is changed is collected already.
pub(super) fn run(shared: &Arc<Shared>, old: &Arc<Layer>) {
    loop {
        let rebuilt = Rebuild::begin(shared, Arc::clone(old)).and_then(|rebuild| rebuild.finish(shared));
        if !matches!(rebuilt, Err(Abandoned::TooSmall)) {
            return;
        }
    }
}

/// Frees a layer where neither readers nor writers wait for it: ten million entries take 25 ms.
pub(super) fn retire(layer: Arc<Layer>) {
    if layer.slots() < SMALL {
        return;
    }
    // If there is no thread to be had it is freed here.
    let _ = sync::spawn("set", move || sync::free(layer));
}

struct Rebuild {
    old: Arc<Layer>,
    new: Layer,
    tally: Tally,
}

/// Why a layer that was being made does not take its place.
enum Abandoned {
    /// More came meanwhile than there is room for.
    TooSmall,
    /// The layer that it was made of is not in use any more.
    Unwanted,
}

impl Rebuild {
    fn begin(shared: &Arc<Shared>, old: Arc<Layer>) -> Result<Self, Abandoned> {
        // Before the first slot is read: what is published from here on is collected.
        let (writer, _) = changed(shared, &old)?;
        let tally = writer.tally;
        drop(writer);
        let new = Layer::with_room(tally.used - tally.dead, tally.conditions);
        Ok(Self { old, new, tally: Tally::default() })
    }

    fn finish(mut self, shared: &Arc<Shared>) -> Result<(), Abandoned> {
        self.copy(shared)?;
        loop {
            let (writer, changed) = changed(shared, &self.old)?;
            if changed.len() <= FEW {
                self.look_up(&changed)?;
                shared.replace_live(writer, Arc::new(self.new), self.tally);
                return Ok(());
            }
            drop(writer);
            self.look_up(&changed)?;
        }
    }

    fn copy(&mut self, shared: &Arc<Shared>) -> Result<(), Abandoned> {
        for start in (0..self.old.slots()).step_by(CHUNK) {
            for slot in start..self.old.slots().min(start + CHUNK) {
                self.has_room()?;
                self.new.copy(&mut self.tally, &self.old, slot);
            }
            let (writer, changed) = changed(shared, &self.old)?;
            drop(writer);
            self.look_up(&changed)?;
        }
        Ok(())
    }

    /// What a key stands for now is what the old layer says, whatever was copied before and however often it changed.
    fn look_up(&mut self, changed: &[Key]) -> Result<(), Abandoned> {
        for key in changed {
            self.has_room()?;
            self.new.put(&mut self.tally, *key, self.old.find(*key));
        }
        Ok(())
    }

    fn has_room(&self) -> Result<(), Abandoned> {
        if self.new.is_full(&self.tally) { Err(Abandoned::TooSmall) } else { Ok(()) }
    }
}

/// Takes what was changed since the last time, and the writers' lock.
fn changed<'a>(
    shared: &'a Arc<Shared>,
    old: &Arc<Layer>,
) -> Result<(MutexGuard<'a, Writer>, Vec<Key>), Abandoned> {
    let mut writer = shared.writer();
    let is_wanted = Arc::ptr_eq(&writer.live, old) && Arc::strong_count(shared) > 1;
    let changed = writer.changed.as_mut().filter(|_| is_wanted).map(std::mem::take);
    changed.map(|changed| (writer, changed)).ok_or(Abandoned::Unwanted)
}
