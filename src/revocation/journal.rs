//! The journal: what was revoked, on disk, so that a restart refuses what was refused before.
//!
//! One redb file. Table `meta`: `format` → version. Table `targets`: `LEVEL NUL ISSUER NUL NAME` → JSON
//! `{"level", "target", "issuer"?, "registers"}`. A commit merges each event into the registers of its target, so the
//! file grows with the number of targets, not of events.
//!
//! One thread owns the file; all events that wait when it turns to them share one commit (one fsync).
//! **Invariant:** [`Journal::append`] returns `Ok` only after the commit that holds the event has reached the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use redb::Database;
use redb::DatabaseError;
use redb::ReadableDatabase as _;
use redb::ReadableTable as _;
use redb::StorageBackend;
use redb::TableDefinition;
use redb::TableError;
use serde::Deserialize;
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Action;
use super::Event;
use super::Registers;
use super::Target;
use super::storage;
use crate::clock::Timestamp;

/// The format that this version writes, and the newest that it reads.
const FORMAT: u64 = 1;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const TARGETS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("targets");
/// Events that may wait for the thread; more wait with their callers.
const QUEUE: usize = 16_384;
/// Events that share a commit, at most.
const BATCH: usize = 4096;
/// How often a failed journal is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a caller waits for a disk that neither writes nor fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is wrong with a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error("in use by another process; two gates never share a state directory")]
    InUse,
    /// It is torn, or was never a journal.
    #[error("not a readable journal: {0}")]
    Unreadable(String),
    /// A newer version wrote it.
    #[error("format {0} is newer than this version reads ({FORMAT})")]
    Newer(u64),
    /// The disk is full, read-only or failing.
    #[error("cannot write: {0}")]
    Write(String),
    /// The disk neither writes nor fails. What waits for it may still be written.
    #[error("the disk has not answered for {} s", PATIENCE.as_secs())]
    Hung,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// The file was damaged under it: the database gave up.
    #[error("damaged: {0}")]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    target: Target,
    registers: Registers,
}

/// By key.
type Rows = BTreeMap<String, Row>;

impl Row {
    fn blank(target: &Target) -> Self {
        Self { target: target.clone(), registers: Registers::default() }
    }
}

struct Append {
    event: Event,
    done: oneshot::Sender<Result<(), JournalError>>,
}

enum Command {
    Append(Append),
    Expire { targets: Vec<Target>, now: Timestamp, skew: Duration },
}

type Opener = Box<dyn FnMut() -> Result<Database, JournalError> + Send>;

/// A handle on the journal's thread. Dropping it writes what waits, and ends the thread.
pub struct Journal {
    commands: Option<mpsc::Sender<Command>>,
    durable: Arc<AtomicBool>,
    missed: Arc<Mutex<Rows>>,
    thread: Option<JoinHandle<()>>,
}

/// What a journal held when it was opened.
pub(super) type Contents = Vec<(Target, Registers)>;

impl Journal {
    /// Opens the journal file, or makes it, and reads all of it.
    pub(super) fn open(path: &Path) -> Result<(Self, Contents), JournalError> {
        if !path.try_exists().map_err(write_error)? {
            create(path)?;
        }
        let path = path.to_owned();
        Self::with(Box::new(move || open_file(&path)))
    }

    /// Opens a journal on other storage than a file of its own, or makes it there; for tests of failing disks.
    pub(super) fn on<B: StorageBackend>(
        mut storage: impl FnMut() -> io::Result<B> + Send + 'static,
    ) -> Result<(Self, Contents), JournalError> {
        Self::with(Box::new(move || {
            let backend = storage().map_err(write_error)?;
            let is_new = backend.len().map_err(write_error)? == 0;
            let database = Database::builder().create_with_backend(backend).map_err(open_error)?;
            if is_new {
                initialize(&database)?;
            }
            Ok(database)
        }))
    }

    /// Opens a journal wherever `open` says, which is called again after each failure.
    fn with(mut open: Opener) -> Result<(Self, Contents), JournalError> {
        let (database, contents) = caught(|| {
            let database = open()?;
            let contents = read(&database)?;
            Ok((database, contents))
        })
        .map_err(|e| match e {
            JournalError::Damaged(what) => JournalError::Unreadable(what),
            e => e,
        })?;
        let (commands, inbox) = mpsc::channel(QUEUE);
        let durable = Arc::new(AtomicBool::new(true));
        let missed = Arc::<Mutex<Rows>>::default();
        let writer = Writer {
            database: Some(database),
            open,
            unwritten: Rows::new(),
            missed: Arc::clone(&missed),
            durable: Arc::clone(&durable),
        };
        let runtime = Builder::new_current_thread().enable_time().build().map_err(write_error)?;
        let run = move || runtime.block_on(writer.run(inbox));
        let thread = std::thread::Builder::new().name("journal".into()).spawn(run).map_err(write_error)?;
        Ok((Self { commands: Some(commands), durable, missed, thread: Some(thread) }, contents))
    }

    /// Whether the last commit reached the disk.
    pub fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    /// Writes an event, and returns once it is on disk.
    ///
    /// A revocation or suspension that could not be written is kept and tried again while the process lives. A
    /// reinstatement is waited for however long the disk takes: one that is given up on might still be written, and
    /// would be in effect after the next start.
    pub async fn append(&self, event: Event) -> Result<(), JournalError> {
        let commands = self.commands.as_ref().ok_or(JournalError::Closed)?;
        let (done, written) = oneshot::channel();
        let patience = if event.action == Action::Reinstate { Duration::MAX } else { PATIENCE };
        let Ok(room) = timeout(patience, commands.reserve()).await else {
            keep(&mut lock(&self.missed), &event);
            return Err(self.hung());
        };
        room.map_err(|_| JournalError::Closed)?.send(Command::Append(Append { event, done }));
        match timeout(patience, written).await {
            Ok(result) => result.unwrap_or(Err(JournalError::Closed)),
            Err(_) => Err(self.hung()),
        }
    }

    fn hung(&self) -> JournalError {
        self.durable.store(false, Ordering::Release);
        JournalError::Hung
    }

    /// Forgets what has lapsed of `targets`. Best effort: what stays is forgotten after the next start.
    pub(super) fn expire(&self, targets: Vec<Target>, now: Timestamp, skew: Duration) {
        if let Some(commands) = &self.commands {
            let _ = commands.try_send(Command::Expire { targets, now, skew });
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    database: Option<Database>,
    open: Opener,
    /// In effect, but not on disk: by key, so that however long the disk is out, it is bounded by the targets.
    unwritten: Rows,
    /// The same, of callers who found no room in the queue.
    missed: Arc<Mutex<Rows>>,
    durable: Arc<AtomicBool>,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            let mut batch = Vec::new();
            let received = match self.unwritten.is_empty() && self.durable.load(Ordering::Acquire) {
                true => Ok(inbox.recv_many(&mut batch, BATCH).await),
                false => timeout(RETRY, inbox.recv_many(&mut batch, BATCH)).await,
            };
            if received == Ok(0) {
                break;
            }
            self.turn(batch);
        }
        if !self.unwritten.is_empty() {
            self.turn(Vec::new());
        }
    }

    fn turn(&mut self, batch: Vec<Command>) {
        for (key, row) in std::mem::take(&mut *lock(&self.missed)) {
            let unwritten = self.unwritten.entry(key).or_insert_with(|| Row::blank(&row.target));
            unwritten.registers.absorb(row.registers);
        }
        let result = caught(|| self.commit(&batch));
        if let Err(error) = &result {
            // An I/O error poisons the open database: the next turn opens it anew.
            let closed = self.database.take();
            let _ = caught(|| {
                drop(closed);
                Ok(())
            });
            tracing::error!(%error, unwritten = self.unwritten.len(), "journal: cannot write; revocations stand in memory only");
        } else {
            if !self.durable.load(Ordering::Acquire) {
                tracing::info!("journal: writes again; everything in effect is on disk");
            }
            self.unwritten.clear();
        }
        self.durable.store(result.is_ok(), Ordering::Release);
        for command in batch {
            let Command::Append(Append { event, done }) = command else {
                continue;
            };
            // A reinstatement that is not on disk is not in effect either: the caller learns it, nobody retries.
            if result.is_err() && event.action != Action::Reinstate {
                keep(&mut self.unwritten, &event);
            }
            let _ = done.send(result.clone());
        }
    }

    fn commit(&mut self, batch: &[Command]) -> Result<(), JournalError> {
        let database = match &mut self.database {
            Some(database) => database,
            closed => closed.insert((self.open)()?),
        };
        let transaction = database.begin_write().map_err(write_error)?;
        {
            let mut targets = transaction.open_table(TARGETS).map_err(write_error)?;
            for unwritten in self.unwritten.values() {
                let mut row = load(&targets, &unwritten.target)?;
                row.registers.absorb(unwritten.registers.clone());
                store(&mut targets, &row)?;
            }
            // In the order of the engine's own steps: a suspension taken in after an older one has lapsed must not
            // meet it here, lose against it, and be forgotten with it.
            for command in batch {
                match command {
                    Command::Append(append) => merge(&mut targets, &append.event)?,
                    Command::Expire { targets: lapsed, now, skew } => {
                        for target in lapsed {
                            let mut row = load(&targets, target)?;
                            row.registers.expire(*now, *skew);
                            store(&mut targets, &row)?;
                        }
                    }
                }
            }
        }
        transaction.commit().map_err(write_error)
    }
}

fn keep(rows: &mut Rows, event: &Event) {
    let row = rows.entry(key(&event.target)).or_insert_with(|| Row::blank(&event.target));
    row.registers.merge(event);
}

fn lock(rows: &Mutex<Rows>) -> MutexGuard<'_, Rows> {
    rows.lock().unwrap_or_else(PoisonError::into_inner)
}

fn caught<T>(run: impl FnOnce() -> Result<T, JournalError>) -> Result<T, JournalError> {
    storage::caught(run, JournalError::Damaged)
}

fn merge(
    targets: &mut redb::Table<'_, &'static str, &'static [u8]>,
    event: &Event,
) -> Result<(), JournalError> {
    let mut row = load(targets, &event.target)?;
    row.registers.merge(event);
    store(targets, &row)
}

fn load(
    targets: &redb::Table<'_, &'static str, &'static [u8]>,
    target: &Target,
) -> Result<Row, JournalError> {
    let found = targets.get(key(target).as_str()).map_err(write_error)?;
    found.map_or_else(|| Ok(Row::blank(target)), |row| parse(row.value()))
}

fn store(targets: &mut redb::Table<'_, &'static str, &'static [u8]>, row: &Row) -> Result<(), JournalError> {
    let key = key(&row.target);
    if row.registers.is_blank() {
        targets.remove(key.as_str()).map_err(write_error)?;
        return Ok(());
    }
    let value = serde_json::to_vec(row).map_err(write_error)?;
    targets.insert(key.as_str(), value.as_slice()).map_err(write_error)?;
    Ok(())
}

fn key(target: &Target) -> String {
    format!("{}\0{}\0{}", target.level(), target.issuer().unwrap_or_default(), target.name())
}

fn parse(value: &[u8]) -> Result<Row, JournalError> {
    serde_json::from_slice(value).map_err(|e| JournalError::Unreadable(format!("a row: {e}")))
}

/// Makes the file under another name first: a journal that exists is a whole one.
fn create(path: &Path) -> Result<(), JournalError> {
    let new = PathBuf::from(format!("{}.new", path.display()));
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(write_error(e)),
        _ => {}
    }
    let database = Database::create(&new).map_err(open_error)?;
    initialize(&database)?;
    drop(database);
    std::fs::rename(&new, path).map_err(write_error)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(write_error)
}

/// Writes the tables of an empty journal.
fn initialize(database: &Database) -> Result<(), JournalError> {
    let transaction = database.begin_write().map_err(write_error)?;
    transaction.open_table(META).map_err(write_error)?.insert("format", FORMAT).map_err(write_error)?;
    transaction.open_table(TARGETS).map_err(write_error)?;
    transaction.commit().map_err(write_error)
}

fn open_file(path: &Path) -> Result<Database, JournalError> {
    // An empty file would be taken for a new database: everything in it would be forgotten.
    if std::fs::metadata(path).map_err(write_error)?.len() == 0 {
        return Err(JournalError::Unreadable("the file is empty".into()));
    }
    Database::open(path).map_err(open_error)
}

fn read(database: &Database) -> Result<Contents, JournalError> {
    let unreadable = |e: &dyn std::error::Error| JournalError::Unreadable(e.to_string());
    let transaction = database.begin_read().map_err(|e| unreadable(&e))?;
    let meta = transaction.open_table(META).map_err(|e| match e {
        TableError::TableDoesNotExist(_) => JournalError::Unreadable("a database, but not a journal".into()),
        e => unreadable(&e),
    })?;
    match meta.get("format").map_err(|e| unreadable(&e))?.map(|format| format.value()) {
        Some(FORMAT) => {}
        Some(format) if format > FORMAT => return Err(JournalError::Newer(format)),
        _ => return Err(JournalError::Unreadable("no format".into())),
    }
    let targets = transaction.open_table(TARGETS).map_err(|e| unreadable(&e))?;
    let rows = targets.iter().map_err(|e| unreadable(&e))?;
    rows.map(|row| {
        let (_, value) = row.map_err(|e| unreadable(&e))?;
        parse(value.value()).map(|row| (row.target, row.registers))
    })
    .collect()
}

fn open_error(error: DatabaseError) -> JournalError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => JournalError::InUse,
        DatabaseError::Storage(redb::StorageError::Io(e)) if e.kind() != io::ErrorKind::InvalidData => {
            write_error(e)
        }
        e => JournalError::Unreadable(e.to_string()),
    }
}

fn write_error(error: impl std::fmt::Display) -> JournalError {
    JournalError::Write(error.to_string())
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::super::Level;
    use super::*;

    fn writer() -> Writer {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        initialize(&database).unwrap();
        Writer {
            database: Some(database),
            open: Box::new(|| Err(JournalError::Closed)),
            unwritten: Rows::new(),
            missed: Arc::default(),
            durable: Arc::new(AtomicBool::new(true)),
        }
    }

    fn suspension(id: &str, expires_at: Option<Timestamp>) -> Event {
        let target = Target::parse(Level::Principal, "a", None).unwrap();
        Event { id: id.into(), expires_at, ..Event::new(Action::Suspend, target, Timestamp::from_secs(5)) }
    }

    fn append(event: Event) -> Command {
        let (done, _) = oneshot::channel();
        Command::Append(Append { event, done })
    }

    #[test]
    fn one_commit_keeps_the_order_of_what_it_holds() {
        let mut writer = writer();
        let lapses = Timestamp::from_secs(10);
        let lapsed = suspension("b", Some(lapses));
        let expire =
            Command::Expire { targets: vec![lapsed.target.clone()], now: lapses, skew: Duration::ZERO };
        // By its id "a" would lose against "b", which has lapsed before it came.
        writer.turn(vec![append(lapsed), expire, append(suspension("a", None))]);
        assert!(writer.durable.load(Ordering::Acquire));
        let contents = read(writer.database.as_ref().unwrap()).unwrap();
        assert!(matches!(contents.as_slice(), [(_, registers)] if registers.is_suspended()));
    }

    #[test]
    fn a_database_that_panics_is_a_failed_write() {
        let mut writer = writer();
        writer.database = None;
        writer.open = Box::new(|| panic!("page 7\nwas freed twice"));
        writer.turn(vec![append(suspension("a", None))]);
        assert!(!writer.durable.load(Ordering::Acquire));
        assert_eq!(writer.unwritten.len(), 1);
        let opened = Journal::with(Box::new(|| panic!("page {}", 7)));
        assert_eq!(opened.err(), Some(JournalError::Unreadable("page 7".into())));
    }
}
