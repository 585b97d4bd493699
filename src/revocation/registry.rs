//! The registry: which certificates this gate has seen, so that a serial that nobody ever had can be told from one
//! that somebody has, after a restart too.
//!
//! It is a convenience: nothing is decided by it on the request path, and a disk that fails, or a file that cannot be
//! read, hurts nothing but what it remembers.
//!
//! **Invariant:** whatever was noted is found at once: it is in memory until the commit that holds it is through, and
//! whoever looks for it looks in memory first.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use super::AuthorityDirectory;
use super::AuthorityNames;
use super::Level;
use super::Seen;
use super::Target;
use super::certificates::Certificates;
use super::certificates::CertificatesError;
use super::certificates::Digest;
use super::certificates::Wanted;
use super::storage::caught;
use crate::clock::Clock;

const FILE: &str = "certificates.redb";
/// Certificates on disk, at most.
const MOST: usize = 1_000_000;
/// Certificates that wait for the disk, at most; more are not remembered.
const PENDING: usize = 16_384;
/// Authorities whose names a start recalls, at most: there is room left for those that are configured or met later.
const MOST_AUTHORITIES: usize = 2048;
/// Certificates of one target that are looked at, to name its principal.
const MAX_SEEN: usize = 16;

/// Which certificates were seen, and the authorities that are trusted.
///
/// What has expired is forgotten a day later; of more than a million, those that expire first.
pub struct Registry {
    /// `None` for a registry in memory.
    path: Option<PathBuf>,
    most: usize,
    clock: Clock,
    waiting: Mutex<Waiting>,
    /// `None` while the disk fails.
    file: Mutex<Option<Arc<Certificates>>>,
    /// Held by whoever writes, before any other lock.
    turn: Mutex<()>,
    failing: AtomicBool,
    /// How many certificates the file holds.
    stored: AtomicUsize,
    /// How many names of authorities it holds.
    names_kept: AtomicUsize,
}

type Batch = HashMap<Digest, Arc<Seen>>;

/// What the file does not hold yet.
#[derive(Default)]
struct Waiting {
    fresh: Batch,
    writing: Arc<Batch>,
    /// How many found no room.
    missed: usize,
}

impl Registry {
    /// Opens the registry of a state directory, or makes it. A file that cannot be read is set aside as
    /// `certificates.redb.damaged`, and begun anew; one that cannot be opened is tried again with each flush.
    pub fn open(directory: &Path, clock: Clock) -> Self {
        Self::at(Some(directory.join(FILE)), MOST, clock)
    }

    /// The same, that keeps no more than `most` certificates. For tests.
    #[doc(hidden)]
    pub fn open_with_room(directory: &Path, most: usize, clock: Clock) -> Self {
        Self::at(Some(directory.join(FILE)), most, clock)
    }

    /// A registry that forgets everything with the process.
    pub fn in_memory(clock: Clock) -> Self {
        Self::at(None, MOST, clock)
    }

    fn at(path: Option<PathBuf>, most: usize, clock: Clock) -> Self {
        let registry = Self {
            path,
            most,
            clock,
            waiting: Mutex::default(),
            file: Mutex::default(),
            turn: Mutex::default(),
            failing: AtomicBool::new(false),
            stored: AtomicUsize::new(0),
            names_kept: AtomicUsize::new(0),
        };
        registry.flush();
        registry
    }

    /// Notes a certificate. Never waits for the disk; it is found at once.
    pub fn note(&self, mut seen: Seen) {
        let Some(digest) = seen.digest() else { return };
        let mut waiting = self.waiting();
        if let Some(before) = waiting.fresh.get(&digest) {
            seen.absorb(before);
        } else if waiting.fresh.len() + waiting.writing.len() >= PENDING {
            waiting.missed += 1;
            return;
        }
        waiting.fresh.insert(digest, Arc::new(seen));
    }

    /// Writes what waits, and forgets what has had its time. Blocks on the disk: not for a thread that serves anything.
    /// What the disk does not take waits on.
    pub fn flush(&self) {
        let _turn = lock(&self.turn);
        let file = match self.opened() {
            Ok(file) => file,
            Err(error) => return self.say_failing(&error),
        };
        match self.write(&file) {
            Err(error) => self.give_up(&file, &error),
            Ok(missed) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("registry: writes again");
                }
                if missed > 0 {
                    tracing::warn!(
                        missed,
                        "registry: found no room for certificates that wait to be written"
                    );
                }
            }
        }
    }

    /// Keeps the names of authorities for the next start, if there are new ones. Blocks on the disk; what that does not
    /// take is tried again.
    pub fn keep_authorities(&self, directory: &AuthorityDirectory) {
        let _turn = lock(&self.turn);
        let known = directory.count();
        if self.names_kept.load(Ordering::Relaxed) == known {
            return;
        }
        let Ok(file) = self.opened() else { return };
        match file.write_authorities(&directory.all()) {
            Ok(()) => self.names_kept.store(known, Ordering::Relaxed),
            Err(error) => self.give_up(&file, &error),
        }
    }

    /// The names of authorities that were kept. Blocks on the disk.
    pub fn authorities(&self) -> Vec<AuthorityNames> {
        let file = lock(&self.file).clone();
        let known = file
            .map(|file| file.authorities(MOST_AUTHORITIES).inspect_err(|error| self.give_up(&file, error)));
        known.and_then(Result::ok).unwrap_or_default()
    }

    /// The principal and the serial behind a target, where exactly one of each is known. Blocks.
    pub fn behind(&self, target: &Target) -> (Option<String>, Option<String>) {
        let seen = match target.level() {
            Level::Issuer | Level::TrustDomain => Vec::new(),
            Level::Certificate => self.by_serial(target.name(), target.issuer()),
            _ => self.by_target(target, MAX_SEEN),
        };
        let only = |name: fn(&Seen) -> Option<&str>| {
            let names: BTreeSet<&str> = seen.iter().filter_map(name).collect();
            names.first().filter(|_| names.len() == 1).map(|&name| name.to_owned())
        };
        let (principal, serial) = (only(|seen| seen.principal.as_deref()), only(|seen| Some(&seen.serial)));
        match target.level() {
            Level::Certificate => (principal, Some(target.name().to_owned())),
            Level::Principal => (principal.or_else(|| Some(target.name().to_owned())), serial),
            _ => (principal, serial),
        }
    }

    /// The certificates with a serial number, of any authority or of one with this key id: its subject key identifier,
    /// or the SHA-256 of its key. Authorities' own are among them. Nothing if either is not well formed. Blocks on the
    /// disk, for a few reads.
    pub fn by_serial(&self, serial: &str, issuer: Option<&str>) -> Vec<Seen> {
        let target = Target::parse(Level::Certificate, serial, issuer);
        target.map_or_else(|_| Vec::new(), |target| self.find(&target, Wanted::Own, usize::MAX))
    }

    /// The certificates that a revocation of `target` would hit, at most `limit`, the latest seen first. Blocks on the
    /// disk.
    ///
    /// Certificates, keys, principals and tasks are indexed. Issuers, trust domains, and the certificates and keys of
    /// authorities, are looked for among 100,000 certificates at most: not for a thread that serves anything. Tokens
    /// and chains hit no certificate.
    pub fn by_target(&self, target: &Target, limit: usize) -> Vec<Seen> {
        match target.level() {
            Level::Token | Level::Chain => Vec::new(),
            Level::Issuer | Level::TrustDomain => self.find(target, Wanted::All, limit),
            Level::Principal | Level::Task => self.find(target, Wanted::Own, limit),
            Level::Certificate | Level::Key => {
                let own = self.find(target, Wanted::Own, limit);
                match own.iter().any(|seen| seen.authority) {
                    true => self.find(target, Wanted::All, limit),
                    false => own,
                }
            }
        }
    }

    /// Whether `target` is the certificate or the key of an authority that was seen. Blocks on the disk, for a few reads.
    pub fn is_of_authority(&self, target: &Target) -> bool {
        self.find(target, Wanted::Own, usize::MAX).iter().any(|seen| seen.authority)
    }

    /// How many certificates are known; one that is seen again counts twice until the next flush.
    pub fn len(&self) -> usize {
        let waiting = self.waiting();
        self.stored.load(Ordering::Relaxed) + waiting.fresh.len() + waiting.writing.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find(&self, target: &Target, wanted: Wanted, limit: usize) -> Vec<Seen> {
        let of_it = |seen: &Seen| seen.is_hit_by(target) && (wanted == Wanted::All || seen.owns(target));
        let mut found: HashMap<Digest, Seen> = HashMap::new();
        // Memory first: what moves to the file meanwhile is found twice, and not missed.
        for (digest, seen) in self.snapshot().into_iter().filter(|(_, seen)| of_it(seen)) {
            include(&mut found, digest, Seen::clone(&seen));
        }
        let waiting: Vec<Digest> = found.keys().copied().collect();
        let file = lock(&self.file).clone();
        let stored = file.map(|file| {
            let found = file.find(target, wanted, limit).and_then(|mut stored| {
                stored.extend(file.get(&waiting)?);
                Ok(stored)
            });
            found.inspect_err(|error| self.give_up(&file, error)).unwrap_or_default()
        });
        for seen in stored.into_iter().flatten() {
            if let Some(digest) = seen.digest() {
                include(&mut found, digest, seen);
            }
        }
        let now = self.clock.now();
        let mut found: Vec<Seen> = found.into_values().filter(|seen| seen.forgotten_at() > now).collect();
        found.sort_unstable_by(|a, b| b.last_seen.cmp(&a.last_seen).then_with(|| a.sha256.cmp(&b.sha256)));
        found.truncate(limit);
        found
    }

    /// What waits, the newer of the same certificate first.
    fn snapshot(&self) -> Vec<(Digest, Arc<Seen>)> {
        let waiting = self.waiting();
        let (mut all, writing) = (Vec::with_capacity(waiting.fresh.len()), Arc::clone(&waiting.writing));
        all.extend(waiting.fresh.iter().map(|(digest, seen)| (*digest, Arc::clone(seen))));
        drop(waiting);
        all.extend(writing.iter().map(|(digest, seen)| (*digest, Arc::clone(seen))));
        all
    }

    /// The file, opened if it is not.
    fn opened(&self) -> Result<Arc<Certificates>, CertificatesError> {
        if let Some(file) = &*lock(&self.file) {
            return Ok(Arc::clone(file));
        }
        let file = match &self.path {
            None => Certificates::in_memory()?,
            Some(path) => match Certificates::open(path) {
                Err(CertificatesError::Damaged(reason)) => {
                    set_aside(path, &reason);
                    Certificates::open(path)?
                }
                opened => opened?,
            },
        };
        let file = Arc::new(file);
        *lock(&self.file) = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Moves what waits to the file. Returns how many had found no room meanwhile.
    fn write(&self, file: &Certificates) -> Result<usize, CertificatesError> {
        let batch = {
            let mut waiting = self.waiting();
            let fresh = std::mem::take(&mut waiting.fresh);
            waiting.writing = Arc::new(fresh);
            Arc::clone(&waiting.writing)
        };
        let written = file.write(batch.iter(), self.most, self.clock.now());
        let mut waiting = self.waiting();
        waiting.writing = Arc::default();
        match written {
            Ok(stored) => {
                self.stored.store(stored, Ordering::Relaxed);
                Ok(std::mem::take(&mut waiting.missed))
            }
            Err(error) => {
                let mut kept = Arc::unwrap_or_clone(batch);
                for (digest, newer) in std::mem::take(&mut waiting.fresh) {
                    let mut newer = Arc::unwrap_or_clone(newer);
                    kept.get(&digest).inspect(|older| newer.absorb(older));
                    kept.insert(digest, Arc::new(newer));
                }
                waiting.fresh = kept;
                Err(error)
            }
        }
    }

    /// Closes a file that failed, unless somebody else has: it is opened anew with the next flush.
    fn give_up(&self, failed: &Arc<Certificates>, error: &CertificatesError) {
        let mut file = lock(&self.file);
        if !file.as_ref().is_some_and(|open| Arc::ptr_eq(open, failed)) {
            return;
        }
        close(file.take());
        self.names_kept.store(0, Ordering::Relaxed);
        match (error, &self.path) {
            (CertificatesError::Damaged(reason), Some(path)) => set_aside(path, reason),
            _ => self.say_failing(error),
        }
    }

    /// Once, until it works again.
    fn say_failing(&self, error: &CertificatesError) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            let file = self.path.as_deref().unwrap_or(Path::new(FILE)).display();
            tracing::error!(%file, %error, "registry: cannot use its file; certificates are remembered in memory only");
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        close(lock(&self.file).take());
    }
}

/// Puts in what was seen before of the same certificate, or at all.
fn include(found: &mut HashMap<Digest, Seen>, digest: Digest, seen: Seen) {
    match found.get_mut(&digest) {
        Some(newer) => newer.absorb(&seen),
        None => drop(found.insert(digest, seen)),
    }
}

/// A damaged database may panic when it is closed, too.
fn close(file: Option<Arc<Certificates>>) {
    let _ = caught(
        || {
            drop(file);
            Ok(())
        },
        |_| (),
    );
}

/// Gives a file that cannot be read another name, where it takes the place of the one before.
fn set_aside(path: &Path, reason: &str) {
    let aside = PathBuf::from(format!("{}.damaged", path.display()));
    let renamed = std::fs::rename(path, &aside);
    let (file, aside, error) = (path.display(), aside.display(), renamed.err().map(|e| e.to_string()));
    tracing::error!(
        %file, %aside, reason, error,
        "registry: its file is not readable and was set aside; which certificates were seen is forgotten"
    );
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
