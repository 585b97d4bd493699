//! What the set is made of that the model checker has to see: `tests/set_loom.rs` compiles the same files over its own.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub(super) use std::sync::Condvar;
pub(super) use std::sync::Mutex;
pub(super) use std::sync::MutexGuard;
pub(super) use std::sync::atomic::AtomicU64;
pub(super) use std::sync::atomic::Ordering;

pub(super) use arc_swap::ArcSwap;

/// The smallest table, and what each is a multiple of, groups: their tags are a line of memory.
pub(super) const FEWEST_GROUPS: usize = 8;
/// The smallest side table, buckets.
pub(super) const FEWEST_BUCKETS: usize = 64;

/// Runs `work` in a thread of its own, which ends with it.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

/// Frees what readers may still have a share in: the last one to let go of it frees it, and that is not to be a reader.
pub(super) fn free<T>(mut value: Arc<T>) {
    while let Err(shared) = Arc::try_unwrap(value) {
        value = shared;
        thread::park_timeout(Duration::from_millis(1));
    }
}
