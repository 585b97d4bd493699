//! The registry's file: certificates by what can revoke them, and by when they may be forgotten.
//!
//! One redb file. Table `meta`: `format` → version. Table `certificates`: SHA-256 → JSON of a [`Row`]. Table `paths`: half
//! the SHA-256 of a [`row::Path`] → (until when it is wanted, milliseconds; its JSON). Table `targets`: (half the SHA-256
//! of a target that few certificates share, SHA-256 of the certificate). Table `expiry`: (when it may be forgotten,
//! milliseconds; SHA-256). Table `authorities`, absent until one was met: SHA-256 of an authority's key → JSON of its
//! further names, the SHA-1 first.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use redb::Database;
use redb::DatabaseError;
use redb::ReadOnlyTable;
use redb::ReadableDatabase as _;
use redb::ReadableTable;
use redb::ReadableTableMetadata as _;
use redb::StorageError;
use redb::Table;
use redb::TableDefinition;
use redb::TableError;
use redb::backends::FileBackend;
use redb::backends::InMemoryBackend;
use serde::de::DeserializeOwned;

use super::AuthorityNames;
use super::Seen;
use super::Target;
use super::row;
use super::row::Half;
use super::row::Row;
use super::storage::caught;
use crate::clock::Timestamp;

/// The format that this version writes, and the only one that it reads.
const FORMAT: u64 = 1;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const CERTIFICATES: TableDefinition<'_, &Digest, &[u8]> = TableDefinition::new("certificates");
const PATHS: TableDefinition<'_, &Half, (i64, &[u8])> = TableDefinition::new("paths");
const TARGETS: TableDefinition<'_, (&Half, &Digest), ()> = TableDefinition::new("targets");
const EXPIRY: TableDefinition<'_, (i64, &Digest), ()> = TableDefinition::new("expiry");
const AUTHORITIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("authorities");
/// What the database keeps of the file in memory, bytes.
const CACHE: usize = 4 * 1024 * 1024;
/// Without it a large file is read in full at the first start after a kill.
const QUICK_REPAIR: bool = true;
/// Rows that a scan looks at.
const SCAN: usize = 100_000;
/// Certificates that one commit forgets, at most; more than come in between two.
const FORGET: usize = 32_768;

/// SHA-256 of a certificate.
pub(super) type Digest = [u8; 32];

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificatesError {
    /// The disk is full, read-only or failing, or another process has the file.
    #[error("{0}")]
    Failing(String),
    /// It is torn, foreign, or of another version.
    #[error("not readable: {0}")]
    Damaged(String),
}

/// Which certificates of a target are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Those whose own it is, by the index: quick.
    Own,
    /// Those that it hits by their authorities or trust domain too: by a scan, which ends after so many rows.
    All,
}

/// The open file.
pub(super) struct Certificates {
    database: Database,
}

impl Certificates {
    /// Opens the file, or makes it, for its user alone.
    pub(super) fn open(path: &Path) -> Result<Self, CertificatesError> {
        Self::with(|| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let backend = FileBackend::new(options.open(path)?)?;
            Database::builder().set_cache_size(CACHE).create_with_backend(backend)
        })
    }

    /// The same, without a file.
    pub(super) fn in_memory() -> Result<Self, CertificatesError> {
        Self::with(|| Database::builder().set_cache_size(CACHE).create_with_backend(InMemoryBackend::new()))
    }

    fn with(open: impl FnOnce() -> Result<Database, DatabaseError>) -> Result<Self, CertificatesError> {
        guarded(|| {
            let database = open().map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => failing(&"in use"),
                DatabaseError::Storage(StorageError::Io(e))
                    if e.kind() != std::io::ErrorKind::InvalidData =>
                {
                    failing(&e)
                }
                error => CertificatesError::Damaged(error.to_string()),
            })?;
            initialize(&database)?;
            Ok(Self { database })
        })
    }

    /// How many certificates it holds.
    pub(super) fn len(&self) -> Result<usize, CertificatesError> {
        guarded(|| {
            let transaction = self.database.begin_read().map_err(|e| failing(&e))?;
            let rows = transaction.open_table(CERTIFICATES).map_err(of_table)?.len().map_err(of_storage)?;
            Ok(usize::try_from(rows).unwrap_or(usize::MAX))
        })
    }

    /// The certificates that `target` hits, at most `limit`.
    pub(super) fn find(
        &self,
        target: &Target,
        wanted: Wanted,
        limit: usize,
    ) -> Result<Vec<Seen>, CertificatesError> {
        guarded(|| match wanted {
            Wanted::Own => self.look_up(target, limit),
            Wanted::All => self.scan(target, limit),
        })
    }

    /// These certificates, as far as it holds them.
    pub(super) fn get(&self, digests: &[Digest]) -> Result<Vec<Seen>, CertificatesError> {
        guarded(|| {
            let (certificates, paths) = self.reading()?;
            let mut found = Vec::new();
            for digest in digests {
                found.extend(load(&certificates, &paths, digest)?);
            }
            Ok(found)
        })
    }

    /// Writes certificates, and forgets those that have had their time at `now`, and the first to expire of those that
    /// are more than `most`. Returns how many it holds.
    pub(super) fn write<'a>(
        &self,
        batch: impl ExactSizeIterator<Item = (&'a Digest, &'a Arc<Seen>)>,
        most: usize,
        now: Timestamp,
    ) -> Result<usize, CertificatesError> {
        if batch.len() == 0 && !self.is_due(now)? {
            return self.len();
        }
        guarded(|| {
            let mut transaction = self.database.begin_write().map_err(|e| failing(&e))?;
            transaction.set_quick_repair(QUICK_REPAIR);
            let count = {
                let mut tables = Tables {
                    certificates: transaction.open_table(CERTIFICATES).map_err(of_table)?,
                    paths: transaction.open_table(PATHS).map_err(of_table)?,
                    targets: transaction.open_table(TARGETS).map_err(of_table)?,
                    expiry: transaction.open_table(EXPIRY).map_err(of_table)?,
                };
                for (digest, seen) in batch {
                    tables.store(digest, seen)?;
                }
                tables.forget(most, now)?;
                tables.certificates.len().map_err(of_storage)?
            };
            transaction.commit().map_err(|e| failing(&e))?;
            Ok(usize::try_from(count).unwrap_or(usize::MAX))
        })
    }

    /// Writes the names of authorities.
    pub(super) fn write_authorities(&self, known: &[AuthorityNames]) -> Result<(), CertificatesError> {
        guarded(|| {
            let mut transaction = self.database.begin_write().map_err(|e| failing(&e))?;
            transaction.set_quick_repair(QUICK_REPAIR);
            {
                let mut authorities = transaction.open_table(AUTHORITIES).map_err(of_table)?;
                for AuthorityNames { key, names } in known {
                    let names = serde_json::to_vec(names).map_err(|e| failing(&e))?;
                    authorities.insert(key.as_str(), names.as_slice()).map_err(of_storage)?;
                }
            }
            transaction.commit().map_err(|e| failing(&e))
        })
    }

    /// The names of authorities, of `most` at most.
    pub(super) fn authorities(&self, most: usize) -> Result<Vec<AuthorityNames>, CertificatesError> {
        guarded(|| {
            let transaction = self.database.begin_read().map_err(|e| failing(&e))?;
            let authorities = match transaction.open_table(AUTHORITIES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                opened => opened.map_err(of_table)?,
            };
            let mut known = Vec::new();
            for row in authorities.iter().map_err(of_storage)?.take(most) {
                let (key, names) = row.map_err(of_storage)?;
                known.push(AuthorityNames { key: key.value().to_owned(), names: parse(names.value())? });
            }
            Ok(known)
        })
    }

    /// Whether a certificate has had its time.
    fn is_due(&self, now: Timestamp) -> Result<bool, CertificatesError> {
        guarded(|| {
            let transaction = self.database.begin_read().map_err(|e| failing(&e))?;
            let expiry = transaction.open_table(EXPIRY).map_err(of_table)?;
            let first = expiry.first().map_err(of_storage)?;
            Ok(first.is_some_and(|(at, _)| at.value().0 <= now.millis()))
        })
    }

    fn look_up(&self, target: &Target, limit: usize) -> Result<Vec<Seen>, CertificatesError> {
        let (certificates, paths) = self.reading()?;
        let transaction = self.database.begin_read().map_err(|e| failing(&e))?;
        let targets = transaction.open_table(TARGETS).map_err(of_table)?;
        let mut found: Vec<Seen> = Vec::new();
        for entry in row::entries(target) {
            let whole = (&entry, &[0; 32])..=(&entry, &[0xff; 32]);
            for entry in targets.range(whole).map_err(of_storage)? {
                if found.len() >= limit {
                    break;
                }
                let (entry, _) = entry.map_err(of_storage)?;
                let seen = load(&certificates, &paths, entry.value().1)?;
                let new = |seen: &Seen| !found.iter().any(|known| known.sha256 == seen.sha256);
                let seen = seen.filter(|seen| seen.owns(target) && seen.is_hit_by(target) && new(seen));
                found.extend(seen);
            }
        }
        Ok(found)
    }

    fn scan(&self, target: &Target, limit: usize) -> Result<Vec<Seen>, CertificatesError> {
        let (certificates, paths) = self.reading()?;
        let mut found = Vec::new();
        for row in certificates.iter().map_err(of_storage)?.take(SCAN) {
            if found.len() >= limit {
                break;
            }
            let (digest, row) = row.map_err(of_storage)?;
            let seen = join(&paths, digest.value(), row.value())?;
            found.extend(Some(seen).filter(|seen| seen.is_hit_by(target)));
        }
        Ok(found)
    }

    fn reading(&self) -> Result<(Rows, Paths), CertificatesError> {
        let transaction = self.database.begin_read().map_err(|e| failing(&e))?;
        let certificates = transaction.open_table(CERTIFICATES).map_err(of_table)?;
        Ok((certificates, transaction.open_table(PATHS).map_err(of_table)?))
    }
}

type Rows = ReadOnlyTable<&'static Digest, &'static [u8]>;
type Paths = ReadOnlyTable<&'static Half, (i64, &'static [u8])>;

/// Everything that a commit writes.
struct Tables<'t> {
    certificates: Table<'t, &'static Digest, &'static [u8]>,
    paths: Table<'t, &'static Half, (i64, &'static [u8])>,
    targets: Table<'t, (&'static Half, &'static Digest), ()>,
    expiry: Table<'t, (i64, &'static Digest), ()>,
}

impl Tables<'_> {
    fn store(&mut self, digest: &Digest, seen: &Seen) -> Result<(), CertificatesError> {
        let mut seen = seen.clone();
        if let Some(before) = load(&self.certificates, &self.paths, digest)? {
            seen.absorb(&before);
        }
        let (row, path) = Row::split(&seen).map_err(|e| failing(&e))?;
        let until = seen.forgotten_at().millis();
        let known = self.paths.get(&row.path).map_err(of_storage)?.map(|known| known.value().0);
        if known.is_none_or(|known| known < until) {
            self.paths.insert(&row.path, (until, path.as_slice())).map_err(of_storage)?;
        }
        for entry in row.index() {
            self.targets.insert((&entry, digest), ()).map_err(of_storage)?;
        }
        let row = serde_json::to_vec(&row).map_err(|e| failing(&e))?;
        self.certificates.insert(digest, row.as_slice()).map_err(of_storage)?;
        self.expiry.insert((until, digest), ()).map_err(of_storage)?;
        Ok(())
    }

    fn forget(&mut self, most: usize, now: Timestamp) -> Result<(), CertificatesError> {
        let (most, now) = (u64::try_from(most).unwrap_or(u64::MAX), now.millis());
        let mut lapsed = false;
        for _ in 0..FORGET {
            let first = self.expiry.first().map_err(of_storage)?;
            let Some((at, digest)) = first.map(|(first, _)| (first.value().0, *first.value().1)) else {
                break;
            };
            if at > now && self.certificates.len().map_err(of_storage)? <= most {
                break;
            }
            lapsed |= at <= now;
            self.expiry.remove((at, &digest)).map_err(of_storage)?;
            let row = self.certificates.remove(&digest).map_err(of_storage)?;
            let row = row.map(|row| parse::<Row>(row.value())).transpose()?;
            for entry in row.iter().flat_map(Row::index) {
                self.targets.remove((&entry, &digest)).map_err(of_storage)?;
            }
        }
        match lapsed {
            true => self.paths.retain(|_, (until, _)| until > now).map_err(of_storage),
            false => Ok(()),
        }
    }
}

fn load(
    certificates: &impl ReadableTable<&'static Digest, &'static [u8]>,
    paths: &impl ReadableTable<&'static Half, (i64, &'static [u8])>,
    digest: &Digest,
) -> Result<Option<Seen>, CertificatesError> {
    let row = certificates.get(digest).map_err(of_storage)?;
    row.map(|row| join(paths, digest, row.value())).transpose()
}

fn join(
    paths: &impl ReadableTable<&'static Half, (i64, &'static [u8])>,
    digest: &Digest,
    row: &[u8],
) -> Result<Seen, CertificatesError> {
    let row: Row = parse(row)?;
    let path = paths.get(&row.path).map_err(of_storage)?;
    let path = path.map(|path| parse(path.value().1)).transpose()?;
    Ok(row.join(digest, path))
}

/// Makes the tables of a new file; says whether those of an old one are ours.
fn initialize(database: &Database) -> Result<(), CertificatesError> {
    let mut transaction = database.begin_write().map_err(|e| failing(&e))?;
    transaction.set_quick_repair(QUICK_REPAIR);
    let foreign = transaction.list_tables().map_err(of_storage)?.next().is_some();
    {
        let mut meta = transaction.open_table(META).map_err(of_table)?;
        let format = meta.get("format").map_err(of_storage)?.map(|format| format.value());
        match format {
            Some(FORMAT) => return Ok(()),
            Some(format) => return Err(CertificatesError::Damaged(format!("format {format}, not {FORMAT}"))),
            None if foreign => return Err(CertificatesError::Damaged("another database".into())),
            None => drop(meta.insert("format", FORMAT).map_err(of_storage)?),
        }
    }
    transaction.open_table(CERTIFICATES).map_err(of_table)?;
    transaction.open_table(PATHS).map_err(of_table)?;
    transaction.open_table(TARGETS).map_err(of_table)?;
    transaction.open_table(EXPIRY).map_err(of_table)?;
    transaction.commit().map_err(|e| failing(&e))
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, CertificatesError> {
    serde_json::from_slice(json).map_err(|e| CertificatesError::Damaged(format!("a row: {e}")))
}

fn guarded<T>(run: impl FnOnce() -> Result<T, CertificatesError>) -> Result<T, CertificatesError> {
    caught(run, CertificatesError::Damaged)
}

fn failing(error: &dyn std::fmt::Display) -> CertificatesError {
    CertificatesError::Failing(error.to_string())
}

fn of_storage(error: StorageError) -> CertificatesError {
    match error {
        StorageError::Corrupted(what) => CertificatesError::Damaged(what),
        error => failing(&error),
    }
}

fn of_table(error: TableError) -> CertificatesError {
    match error {
        TableError::Storage(error) => of_storage(error),
        error => CertificatesError::Damaged(error.to_string()),
    }
}
