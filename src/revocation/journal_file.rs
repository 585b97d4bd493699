//! The journal's file: how it is made, opened, checked, read and rewritten.
//!
//! **Invariant:** a journal that exists is a whole one, and one that is opened was read to its end.

use std::ffi::OsStr;
use std::fs::DirEntry;
use std::fs::File;
use std::fs::OpenOptions;
use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use redb::Database;
use redb::DatabaseError;
use redb::ReadOnlyDatabase;
use redb::ReadableDatabase;
use redb::ReadableTable as _;
use redb::ReadableTableMetadata as _;
use redb::StorageError;
use redb::Table;
use redb::TableDefinition;
use redb::TableError;
use redb::WriteTransaction;
use redb::backends::FileBackend;
use serde::Deserialize;

use super::JournalError;
use super::Registers;
use super::Standing;
use super::Target;
use super::merger;
use super::place::FilePlace;
use super::record;
use super::record::Layout;
use super::register::Register;
use super::registers::Terms;
use super::standing::Stamp;
use super::standing::Tombstone;
use super::storage;
use super::uptime::Uptime;

/// The format that this version writes, and the newest that it reads.
pub(super) const FORMAT: u64 = 3;
/// The format whose rows are JSON.
const JSON: u64 = 1;
/// The last format whose rows do not say at which uptime they lapse.
const UNMEASURED: u64 = 2;
/// What the file says about itself.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// One row a target.
pub(super) const TARGETS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("targets");
/// What follows the journal's name in that of a file that is to become one.
const NEW: &str = ".new";
/// What the database keeps of the file in memory, bytes.
const CACHE: usize = 32 * 1024 * 1024;
/// A smaller file is not worth compacting.
const SMALL: u64 = 16 * 1024 * 1024;
/// How many times larger than what it holds a file is that gives back what it does not need. One that was never larger
/// has two to three times its rows: pages are half to two thirds full, and the file grows by doubling.
const SLACK: u64 = 6;
/// How often whoever waits for the start is told how far it is.
const TELL: Duration = Duration::from_secs(1);

/// A row, as format 1 kept it.
#[derive(Deserialize)]
struct JsonRow {
    #[serde(flatten)]
    target: Target,
    registers: JsonRegisters,
}

/// The registers of a row, as format 1 kept them.
#[derive(Deserialize)]
struct JsonRegisters {
    #[serde(default)]
    revoked: Vec<Standing>,
    #[serde(default)]
    cleared: Option<Stamp>,
    /// The last suspension or reinstatement, and which of the two it was.
    #[serde(default)]
    suspension: Option<(Standing, bool)>,
}

impl From<JsonRegisters> for Registers {
    fn from(json: JsonRegisters) -> Self {
        let suspended = match json.suspension {
            Some((standing, true)) => Register::of(vec![standing], []),
            Some((reinstatement, false)) => Register::of(Vec::new(), [reinstatement.into()]),
            None => Register::default(),
        };
        let cleared = json.cleared.map(|stamp| Tombstone { stamp, is_local: true, unsigned: false });
        Self { revoked: Register::of(json.revoked, cleared), suspended }
    }
}

/// Opens the database of a journal, again after each failure.
pub(super) type Opener = Box<dyn FnMut() -> Result<Database, JournalError> + Send>;
/// The table of what is denied.
pub(super) type Targets<'t> = Table<'t, &'static str, &'static [u8]>;

/// What a journal held when it was opened. A name has one row, whichever of its spellings counts.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) rows: Vec<(Target, Registers)>,
    pub(super) uptime: Uptime,
}

/// Begins what is to be committed in two phases: first all of it is synced, then a byte that says that it counts. With
/// one sync for both, redb takes a damaged page for a commit that was torn, and goes back to the one before.
pub(super) fn begin(database: &Database) -> Result<WriteTransaction, JournalError> {
    let mut transaction = database.begin_write().map_err(write_error)?;
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

pub(super) fn check_place(place: &FilePlace) -> Result<(), JournalError> {
    match place.is_kept() {
        Ok(true) => Ok(()),
        Ok(false) => Err(JournalError::Displaced),
        Err(error) => Err(write_error(error)),
    }
}

pub(super) fn caught<T>(run: impl FnOnce() -> Result<T, JournalError>) -> Result<T, JournalError> {
    storage::caught(run, JournalError::Damaged)
}

pub(super) fn read_row(key: &str, row: &[u8], layout: Layout) -> Result<(Target, Registers), JournalError> {
    record::read(key, row, layout).map_err(|why| bad_row(key, why))
}

/// The key on one line, and not too long.
fn bad_row(key: &str, why: &'static str) -> JournalError {
    // The marker of a name that counts as it is written tells a reader nothing.
    let key = key.replace("\0=\0", "\0\0");
    let shown = key.chars().take(200).map(|c| if c.is_control() { ' ' } else { c });
    JournalError::Row { row: shown.collect(), why }
}

/// Makes the file under a name of its own first: a journal that exists is a whole one. If another process was faster,
/// its file is the journal.
pub(super) fn create(path: &Path, contents: &Contents) -> Result<(), JournalError> {
    let new = PathBuf::from(format!("{}{NEW}-{:016x}", path.display(), RandomState::new().hash_one(())));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new);
    let backend = FileBackend::new(file.map_err(write_error)?).map_err(open_error)?;
    let database = builder().create_with_backend(backend).map_err(open_error)?;
    initialize(&database)?;
    if !contents.rows.is_empty() {
        rewrite(&database, contents)?;
    }
    drop(database);
    let linked = std::fs::hard_link(&new, path);
    // The next start removes what is left here.
    let _ = std::fs::remove_file(&new);
    match linked {
        Err(_) if path.exists() => Ok(()),
        linked => linked.map_err(write_error),
    }
}

/// Removes what starts that were killed have left beside a journal; best effort.
pub(super) fn remove_leftovers(path: &Path) {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else { return };
    let is_leftover = |file: &DirEntry| {
        let file = file.file_name();
        let rest = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix(NEW));
        rest.is_some_and(|rest| rest.is_empty() || (rest.starts_with('-') && rest.len() == 17))
    };
    let files = std::fs::read_dir(directory_of(path)).into_iter().flatten().flatten();
    files.filter(is_leftover).for_each(|file| drop(std::fs::remove_file(file.path())));
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory_of(path)).and_then(|directory| directory.sync_all())
}

/// Writes the tables of an empty journal.
pub(super) fn initialize(database: &Database) -> Result<(), JournalError> {
    let transaction = begin(database)?;
    transaction.open_table(META).map_err(write_error)?.insert("format", FORMAT).map_err(write_error)?;
    transaction.open_table(TARGETS).map_err(write_error)?;
    transaction.commit().map_err(write_error)
}

pub(super) fn open_file(path: &Path) -> Result<Database, JournalError> {
    // An empty file would be taken for a new database: everything in it would be forgotten.
    if std::fs::metadata(path).map_err(write_error)?.len() == 0 {
        return Err(JournalError::Unreadable("the file is empty".into()));
    }
    let opened = builder().open(path).map_err(open_error);
    opened.map_err(|error| named(error, || builder().open_read_only(path).ok()))
}

/// A database that reads all of its file before it believes any of it: as redb by itself checks the sums of its pages
/// only after a crash, a byte that was flipped could hide rows, or bring old ones back.
pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    let told = Mutex::new(Instant::now());
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true).set_repair_callback(move |check| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= TELL {
            *told = Instant::now();
            let percent = (check.progress() * 100.0).round();
            tracing::info!(percent, "journal: checking its file");
        }
    });
    builder
}

/// The same error, of the first row that is damaged, if one is: whoever reads it may know what is in that row.
pub(super) fn named(error: JournalError, again: impl FnOnce() -> Option<ReadOnlyDatabase>) -> JournalError {
    if !matches!(error, JournalError::Unreadable(_)) {
        return error;
    }
    let found = caught(|| {
        let read = again().map(|database| read(&database, drop));
        Ok(read.and_then(Result::err).filter(|error| matches!(error, JournalError::Row { .. })))
    });
    found.ok().flatten().unwrap_or(error)
}

/// Opens a journal, reads it, and puts in order what an older version or a long life has left.
pub(super) fn load(
    open: &mut Opener,
    size: &dyn Fn() -> u64,
    terms: Terms,
) -> Result<(Database, Contents), JournalError> {
    let mut database = open()?;
    let (mut contents, mut bytes) = (Contents::default(), 0);
    let meta = read(&database, |row| {
        bytes += row.bytes;
        contents.rows.push((row.target, row.registers));
    })?;
    let format = meta.format;
    contents.uptime = meta.uptime;
    let terms = Terms { uptime: meta.uptime, ..terms };
    if format <= UNMEASURED {
        contents.rows.iter_mut().for_each(|(_, registers)| registers.measure(&terms));
    }
    let joined = merger::join(&mut contents.rows, &terms);
    if format < FORMAT || joined > 0 {
        rewrite(&database, &contents)?;
    }
    if joined > 0 {
        tracing::info!(joined, "journal: names with two rows have one now, which counts in any case");
    }
    if format < FORMAT {
        tracing::info!(
            rows = contents.rows.len(),
            from = format,
            to = FORMAT,
            "journal: rewritten in another format"
        );
    }
    let before = size();
    if before > SMALL && before / SLACK > bytes {
        match database.compact() {
            Ok(_) => tracing::info!(
                before,
                after = size(),
                "journal: its file was mostly empty, and is smaller now"
            ),
            Err(error) => {
                tracing::warn!(%error, "journal: its file is mostly empty, but could not be made smaller");
                drop(database);
                database = open()?;
            }
        }
    }
    Ok((database, contents))
}

pub(super) fn rewrite(database: &Database, contents: &Contents) -> Result<(), JournalError> {
    let transaction = begin(database)?;
    {
        let mut targets = transaction.open_table(TARGETS).map_err(write_error)?;
        for (target, registers) in &contents.rows {
            let key = record::key(target);
            let row = record::write(&key, registers);
            targets.insert(key.as_str(), row.as_slice()).map_err(write_error)?;
            if let Some(other) = record::other_key(target) {
                targets.remove(other.as_str()).map_err(write_error)?;
            }
        }
        transaction.open_table(META).map_err(write_error)?.insert("format", FORMAT).map_err(write_error)?;
    }
    transaction.commit().map_err(write_error)
}

/// What [`read`] finds.
pub(super) struct Found {
    pub(super) target: Target,
    pub(super) registers: Registers,
    /// What it takes in the file, without what the pages add.
    bytes: u64,
}

/// What the table `meta` holds.
pub(super) struct Meta {
    format: u64,
    uptime: Uptime,
}

/// Reads every row, and returns what the file says about itself.
pub(super) fn read(
    database: &impl ReadableDatabase,
    mut found: impl FnMut(Found),
) -> Result<Meta, JournalError> {
    let transaction = database.begin_read().map_err(unreadable)?;
    let meta = transaction.open_table(META).map_err(|e| match e {
        TableError::TableDoesNotExist(_) => JournalError::Unreadable("a database, but not a journal".into()),
        e => unreadable(e),
    })?;
    let format = match meta.get("format").map_err(unreadable)?.map(|format| format.value()) {
        Some(format @ JSON..=FORMAT) => format,
        Some(format) if format > FORMAT => return Err(JournalError::Newer(format)),
        _ => return Err(JournalError::Unreadable("no format".into())),
    };
    let uptime = meta.get("uptime").map_err(unreadable)?.map(|uptime| Uptime::from_millis(uptime.value()));
    let targets = transaction.open_table(TARGETS).map_err(unreadable)?;
    let mut progress = Progress::of(targets.len().map_err(unreadable)?);
    let mut last = String::new();
    for row in targets.iter().map_err(unreadable)? {
        let (key, value) = row.map_err(unreadable)?;
        let (key, value) = (key.value(), value.value());
        if key <= last.as_str() && progress.done > 0 {
            return Err(bad_row(key, "it is out of order"));
        }
        let (target, registers) = match format {
            JSON => read_json(key, value)?,
            UNMEASURED => read_row(key, value, Layout::Second)?,
            _ => read_row(key, value, Layout::Third)?,
        };
        found(Found { target, registers, bytes: (key.len() + value.len()) as u64 });
        last.clear();
        last.push_str(key);
        progress.step();
    }
    if progress.done != progress.all {
        let (done, all) = (progress.done, progress.all);
        return Err(JournalError::Unreadable(format!("{done} rows where there should be {all}")));
    }
    Ok(Meta { format, uptime: uptime.unwrap_or_default() })
}

fn read_json(key: &str, row: &[u8]) -> Result<(Target, Registers), JournalError> {
    let row: JsonRow = serde_json::from_slice(row).map_err(|_| bad_row(key, "it is not well formed"))?;
    let target = row.target.of_earlier_version();
    match record::key(&target) == key {
        true => Ok((target, row.registers.into())),
        false => Err(bad_row(key, "it is of another target")),
    }
}

/// How far the reading is: a start with millions of rows takes seconds, and whoever waits wants to know for how many.
struct Progress {
    done: u64,
    all: u64,
    started: Instant,
    told: Instant,
}

impl Progress {
    fn of(all: u64) -> Self {
        let now = Instant::now();
        Self { done: 0, all, started: now, told: now }
    }

    fn step(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(1024) && self.told.elapsed() >= TELL {
            self.told = Instant::now();
            let a_second = (self.done as f64 / self.started.elapsed().as_secs_f64()).round();
            tracing::info!(rows = self.done, of = self.all, a_second, "journal: reading what was revoked");
        }
    }
}

fn unreadable(error: impl std::fmt::Display) -> JournalError {
    JournalError::Unreadable(error.to_string())
}

pub(super) fn open_error(error: DatabaseError) -> JournalError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => JournalError::InUse,
        DatabaseError::Storage(StorageError::Io(e)) => match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                JournalError::Unreadable("it is shorter than it should be".into())
            }
            io::ErrorKind::InvalidData => unreadable(e),
            _ => write_error(e),
        },
        e => unreadable(e),
    }
}

pub(super) fn write_error(error: impl std::fmt::Display) -> JournalError {
    JournalError::Write(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Journal;
    use super::*;
    use crate::clock::Timestamp;

    /// What was left to an entry is measured once, by the clock of the first start, and kept. Seen failing where the file was
    /// not rewritten, and without the skew, by which an entry of this format outlives its `expires_at` too.
    #[test]
    fn a_journal_of_the_second_format_is_rewritten_with_what_its_entries_have_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("format", UNMEASURED).unwrap();
        let row = record::second(2);
        transaction.open_table(TARGETS).unwrap().insert("principal\0\0a", row.as_slice()).unwrap();
        transaction.commit().unwrap();
        drop(database);
        // At the second start the clock is a day ahead.
        for now in [5, 86_400] {
            let now = Timestamp::from_secs(now);
            let uptime = Uptime::default().plus(Duration::from_secs(5));
            let terms = Terms { now, uptime, skew: Duration::from_secs(60), remember: Duration::MAX };
            let (journal, contents) = Journal::open(&path, terms).unwrap();
            let [(target, registers)] = contents.rows.as_slice() else { panic!("{contents:?}") };
            assert_eq!((target.name(), contents.uptime), ("a", Uptime::default()));
            let lapses: Vec<_> =
                registers.standings().map(|(_, standing)| standing.lapses.millis()).collect();
            assert_eq!(lapses, [u64::MAX, 64_000], "it expires at 9 s, and lapses a minute later");
            drop(journal);
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_waits_for_the_start_is_told_how_far_it_is_once_a_second() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            let mut progress = Progress::of(5000);
            (0..1024).for_each(|_| progress.step());
            progress.told = Instant::now().checked_sub(TELL).unwrap();
            (0..2048).for_each(|_| progress.step());
        });
        let lines = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.contains("journal: reading what was revoked rows=2048 of=5000 a_second="), "{lines}");
    }
}
