//! The journal: what was revoked, on disk, so that a restart refuses what was refused before.
//!
//! One redb file. Table `meta`: `format` → version, `uptime` → milliseconds (`uptime.rs`). Table `targets`: one row a
//! target, see `record.rs`; format 1, whose values were JSON, and format 2 are read and rewritten. A commit merges each event into the registers of its target, so the
//! file grows with the number of targets, not of events. The pages of what was forgotten are used again, and given back
//! at a start that finds the file mostly empty.
//!
//! At the start the whole file is checked, page by page and row by row: it is good, or it is refused. One bit of its header
//! has no checksum: which of the last two roots counts.
//!
//! One thread owns the file; all events that wait when it turns to them share one commit (two syncs, see [`begin`]).
//! **Invariant:** [`Journal::append`] returns `Ok` only after the commit that holds the event has reached the disk, in the
//! file that the journal's path leads to. A file that was removed or replaced is looked for after each commit, and
//! once a second.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
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
use redb::ReadableTable as _;
use redb::StorageBackend;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Action;
use super::JournalEntry;
use super::Registers;
use super::Target;
use super::journal_file::Contents;
use super::journal_file::FORMAT;
use super::journal_file::META;
use super::journal_file::Opener;
use super::journal_file::TARGETS;
use super::journal_file::Targets;
use super::journal_file::begin;
use super::journal_file::builder;
use super::journal_file::caught;
use super::journal_file::check_place;
use super::journal_file::create;
use super::journal_file::initialize;
use super::journal_file::load;
use super::journal_file::named;
use super::journal_file::open_error;
use super::journal_file::open_file;
use super::journal_file::read_row;
use super::journal_file::remove_leftovers;
use super::journal_file::rewrite;
use super::journal_file::sync_directory;
use super::journal_file::write_error;
use super::place::FilePlace;
use super::record;
use super::record::Layout;
use super::registers::Terms;
use super::uptime::Uptime;

/// Events that may wait for the thread; more wait with their callers.
const QUEUE: usize = 16_384;
/// Events that share a commit, at most.
const BATCH: usize = 4096;
/// How often the thread looks for a file that was removed or replaced.
const LOOK: Duration = Duration::from_secs(1);
/// How often a failed journal is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a caller waits for a disk that neither writes nor fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// Targets of which something is forgotten that share a commit, at most: whoever appends waits for those too.
const FORGET: usize = 1024;
/// What to do about a journal that is not whole.
const REMEDY: &str =
    "restore it from a backup, or rebuild it from the audit with `portcullis audit replay --config FILE`";

/// What is wrong with a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error("in use by another process: a gate is running on this state; stop it first")]
    InUse,
    /// There is no file.
    #[error("there is no journal")]
    Missing,
    /// There is a readable journal where one was to be made.
    #[error("there is a readable journal; `--merge` adds to it what the audit records")]
    Readable,
    /// The file was removed, moved or replaced while it was open, alone or with its directory.
    #[error(
        "the journal's file was removed or replaced under the running gate; put the file back; or stop the gate, run \
         `portcullis audit replay --config FILE` (with `--merge` if another journal lies there), and start it"
    )]
    Displaced,
    /// It is torn, or was never a journal.
    #[error("not a readable journal: {0}; {REMEDY}")]
    Unreadable(String),
    /// One row of it is damaged.
    #[error("damaged at the row of {row}: {why}; {REMEDY}")]
    Row {
        /// Its key.
        row: String,
        /// What is wrong with it.
        why: &'static str,
    },
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

/// What is to be written of a target.
struct Row {
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
    /// One commit holds all of them.
    entries: Vec<JournalEntry>,
    done: oneshot::Sender<Result<(), JournalError>>,
}

enum Command {
    Append(Append),
    Expire { targets: Vec<Target>, terms: Terms },
    Note(Uptime),
}

/// Fails if the file is not where it was opened.
type Watch = Box<dyn Fn() -> Result<(), JournalError> + Send>;

/// Where a journal's file is.
struct JournalPlace {
    /// Fails once no path leads to the open file any more.
    watch: Watch,
    /// The size of the file, bytes.
    size: Box<dyn Fn() -> u64>,
    /// Its path; empty without a file of its own.
    path: PathBuf,
}

impl JournalPlace {
    /// That of a journal without a file of its own.
    fn unwatched() -> Self {
        Self { watch: Box::new(|| Ok(())), size: Box::new(|| 0), path: PathBuf::new() }
    }
}

/// A handle on the journal's thread. Dropping it writes what waits, and ends the thread.
pub struct Journal {
    commands: Option<mpsc::Sender<Command>>,
    durable: Arc<AtomicBool>,
    fault: Arc<Mutex<Option<JournalError>>>,
    missed: Arc<Mutex<Rows>>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Makes an empty journal file. Another process may be faster: then its file is the journal.
    pub(super) fn make(path: &Path) -> Result<(), JournalError> {
        create(path, &Contents::default())?;
        sync_directory(path).map_err(write_error)
    }

    /// Makes a journal file that holds these rows, where there is none.
    pub(super) fn make_with(path: &Path, contents: &Contents) -> Result<(), JournalError> {
        if path.symlink_metadata().is_ok() {
            return Err(JournalError::Readable);
        }
        create(path, contents)?;
        sync_directory(path).map_err(write_error)
    }

    /// Reads a journal that no engine has open; it is not to be opened until the database is dropped.
    pub(super) fn read(path: &Path, terms: Terms) -> Result<(Database, Contents), JournalError> {
        if !path.try_exists().map_err(write_error)? {
            return Err(JournalError::Missing);
        }
        let (path, size) = (path.to_owned(), || 0);
        let mut open: Opener = Box::new(move || open_file(&path));
        caught(|| load(&mut open, &size, terms)).map_err(as_unreadable)
    }

    /// Puts these rows in the place of those of the same targets, whichever spelling counts in either.
    pub(super) fn extend(database: &Database, contents: &Contents) -> Result<(), JournalError> {
        caught(|| rewrite(database, contents))
    }

    /// Opens the journal file, which must be there, and reads all of it. `terms` measure how long the entries of an
    /// old format have left; the uptime is that of the file.
    pub(super) fn open(path: &Path, terms: Terms) -> Result<(Self, Contents), JournalError> {
        let place = Arc::new(FilePlace::of(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => JournalError::Missing,
            _ => write_error(e),
        })?);
        remove_leftovers(path);
        // At each start: whoever made the file may have been killed before it came to this.
        sync_directory(path).map_err(write_error)?;
        let (path, same, named) = (path.to_owned(), path.to_owned(), path.to_owned());
        let size = move || std::fs::metadata(&same).map_or(0, |file| file.len());
        let watched = Arc::clone(&place);
        let open = move || {
            check_place(&place)?;
            open_file(&path)
        };
        let watch = Box::new(move || check_place(&watched));
        let place = JournalPlace { watch, size: Box::new(size), path: named };
        Self::with(Box::new(open), place, terms)
    }

    /// Opens a journal on other storage than a file of its own, or makes it there; for tests of failing disks.
    pub(super) fn on<B: StorageBackend>(
        mut storage: impl FnMut() -> io::Result<B> + Send + 'static,
        terms: Terms,
    ) -> Result<(Self, Contents), JournalError> {
        let open = move || {
            let backend = storage().map_err(write_error)?;
            let is_new = backend.len().map_err(write_error)? == 0;
            let database = builder().create_with_backend(backend).map_err(open_error);
            let database = database.map_err(|error| {
                let again = storage().ok();
                named(error, || again.and_then(|again| builder().open_read_only_with_backend(again).ok()))
            })?;
            if is_new {
                initialize(&database)?;
            }
            Ok(database)
        };
        Self::with(Box::new(open), JournalPlace::unwatched(), terms)
    }

    /// Opens a journal wherever `open` says, which is called again after each failure.
    fn with(mut open: Opener, place: JournalPlace, terms: Terms) -> Result<(Self, Contents), JournalError> {
        let JournalPlace { watch, size, path } = place;
        let (database, contents) = caught(|| load(&mut open, &size, terms)).map_err(as_unreadable)?;
        let (commands, inbox) = mpsc::channel(QUEUE);
        let durable = Arc::new(AtomicBool::new(true));
        let (missed, fault) = (Arc::<Mutex<Rows>>::default(), Arc::default());
        let writer = Writer {
            database: Some(database),
            open,
            watch,
            path,
            fault: Arc::clone(&fault),
            unwritten: Rows::new(),
            lapsing: Lapsing::new(),
            doubtful: Doubtful::new(),
            uptime: None,
            missed: Arc::clone(&missed),
            durable: Arc::clone(&durable),
        };
        let runtime = Builder::new_current_thread().enable_time().build().map_err(write_error)?;
        let run = move || runtime.block_on(writer.run(inbox));
        let thread = std::thread::Builder::new().name("journal".into()).spawn(run).map_err(write_error)?;
        Ok((Self { commands: Some(commands), durable, fault, missed, thread: Some(thread) }, contents))
    }

    /// True if its thread has ended, so that nothing is written any more.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Whether the last commit reached the disk.
    pub fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    /// Why the last commit did not reach the disk; `None` if it did.
    pub fn fault(&self) -> Option<JournalError> {
        let fault = || lock(&self.fault).clone().unwrap_or(JournalError::Hung);
        (!self.is_durable()).then(fault)
    }

    /// Writes an event, and returns once it is on disk.
    ///
    /// A revocation or suspension that could not be written is kept and tried again while the process lives. A
    /// reinstatement is waited for however long the disk takes: one that is given up on might still be written, and
    /// would be in effect after the next start.
    pub(super) async fn append(&self, entries: Vec<JournalEntry>) -> Result<(), JournalError> {
        let commands = self.commands.as_ref().ok_or(JournalError::Closed)?;
        let (done, written) = oneshot::channel();
        let lifts = entries.iter().any(|entry| entry.event.action == Action::Reinstate);
        let patience = if lifts { Duration::MAX } else { PATIENCE };
        let Ok(room) = timeout(patience, commands.reserve()).await else {
            entries.iter().for_each(|entry| keep(&mut lock(&self.missed), entry));
            return Err(self.hung());
        };
        room.map_err(|_| JournalError::Closed)?.send(Command::Append(Append { entries, done }));
        match timeout(patience, written).await {
            Ok(result) => result.unwrap_or(Err(JournalError::Closed)),
            Err(_) => Err(self.hung()),
        }
    }

    /// Hands over a revocation or suspension that no caller waits for. It is written with the next commit, or kept and
    /// tried again while the process lives.
    pub(super) fn submit(&self, entry: JournalEntry) {
        let room = self.commands.as_ref().and_then(|commands| commands.try_reserve().ok());
        match room {
            Some(room) => {
                room.send(Command::Append(Append { entries: vec![entry], done: oneshot::channel().0 }))
            }
            None => keep(&mut lock(&self.missed), &entry),
        }
    }

    fn hung(&self) -> JournalError {
        *lock(&self.fault) = Some(JournalError::Hung);
        self.durable.store(false, Ordering::Release);
        JournalError::Hung
    }

    /// Room to say what is to be forgotten; `None` if the disk is far behind.
    pub(super) fn room(&self) -> Option<Room<'_>> {
        self.commands.as_ref()?.try_reserve().ok().map(Room)
    }
}

/// A place in the queue.
pub(super) struct Room<'a>(mpsc::Permit<'a, Command>);

impl Room<'_> {
    /// Forgets what has had its time of `targets`: by and by, but before anything that comes later is merged, however
    /// long the disk is out. What the process does not live to forget has had its time at the next start, too.
    pub(super) fn expire(self, targets: Vec<Target>, terms: Terms) {
        if !targets.is_empty() {
            self.0.send(Command::Expire { targets, terms });
        }
    }

    /// Notes how long the gate has run.
    pub(super) fn note(self, uptime: Uptime) {
        self.0.send(Command::Note(uptime));
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

/// What is to be forgotten, by key.
type Lapsing = BTreeMap<String, (Target, Terms)>;

/// Rows as they were, if there were any, by key.
///
/// A commit whose last sync fails may be whole when the file is opened anew: then a reinstatement that its caller was
/// told is without effect would be in effect after the next start. These rows are put back before anything else is
/// written. A process that is killed between the failure and the next commit leaves what the file then holds.
type Doubtful = BTreeMap<String, Option<Vec<u8>>>;

struct Writer {
    database: Option<Database>,
    open: Opener,
    watch: Watch,
    /// Of its file; empty without one.
    path: PathBuf,
    /// Why the last turn failed.
    fault: Arc<Mutex<Option<JournalError>>>,
    /// In effect, but not on disk: by key, so that however long the disk is out, it is bounded by the targets.
    unwritten: Rows,
    /// Some of it goes with each commit; what an event is for goes before that event is merged.
    lapsing: Lapsing,
    /// What the file held before reinstatements that failed.
    doubtful: Doubtful,
    /// How long the gate has run, where that is not on disk.
    uptime: Option<Uptime>,
    /// In effect, but not on disk, of callers who found no room in the queue.
    missed: Arc<Mutex<Rows>>,
    durable: Arc<AtomicBool>,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            let mut batch = Vec::new();
            let is_well = self.unwritten.is_empty()
                && lock(&self.missed).is_empty()
                && self.durable.load(Ordering::Acquire);
            let received = match (is_well, self.lapsing.is_empty()) {
                (true, true) => timeout(LOOK, inbox.recv_many(&mut batch, BATCH)).await,
                (true, false) => timeout(Duration::ZERO, inbox.recv_many(&mut batch, BATCH)).await,
                (false, _) => timeout(RETRY, inbox.recv_many(&mut batch, BATCH)).await,
            };
            if received == Ok(0) {
                break;
            }
            match received {
                Err(_) if is_well && self.lapsing.is_empty() => self.look(),
                _ => self.turn(batch),
            }
        }
        if !self.unwritten.is_empty() || !self.doubtful.is_empty() {
            self.turn(Vec::new());
        }
    }

    /// Notices a file that was removed or replaced, without writing to it.
    fn look(&mut self) {
        if let Err(error) = (self.watch)() {
            self.fail(&error);
            self.durable.store(false, Ordering::Release);
        }
    }

    /// Closes the database: an I/O error poisons it, and the next turn opens it anew.
    fn fail(&mut self, error: &JournalError) {
        let closed = self.database.take();
        let _ = caught(|| {
            drop(closed);
            Ok(())
        });
        *lock(&self.fault) = Some(error.clone());
        tracing::error!(
            file = %self.path.display(), %error, unwritten = self.unwritten.len(),
            "journal: cannot write; revocations are in effect, but in memory only"
        );
    }

    fn turn(&mut self, batch: Vec<Command>) {
        for (key, row) in std::mem::take(&mut *lock(&self.missed)) {
            let unwritten = self.unwritten.entry(key).or_insert_with(|| Row::blank(&row.target));
            unwritten.registers.absorb(row.registers);
        }
        let result = caught(|| self.commit(&batch));
        if let Err(error) = &result {
            self.fail(error);
        } else {
            if !self.durable.load(Ordering::Acquire) {
                tracing::info!("journal: writes again; everything in effect is on disk");
            }
            self.unwritten.clear();
            self.doubtful.clear();
            self.uptime = None;
        }
        self.durable.store(result.is_ok(), Ordering::Release);
        if result.is_err() {
            batch.iter().for_each(|command| self.keep(command));
        }
        for command in batch {
            if let Command::Append(Append { done, .. }) = command {
                let _ = done.send(result.clone());
            }
        }
    }

    /// Keeps for the next turn what a failed one held. In order: what came after something had lapsed must not lose
    /// against it.
    fn keep(&mut self, command: &Command) {
        match command {
            // A reinstatement that is not on disk is not in effect either: the caller learns it, nobody retries.
            Command::Append(Append { entries, .. }) => {
                let denials = entries.iter().filter(|entry| entry.event.action != Action::Reinstate);
                denials.for_each(|entry| keep(&mut self.unwritten, entry));
            }
            Command::Note(_) => {}
            Command::Expire { targets, terms } => {
                for target in targets {
                    let key = record::key(target);
                    if let Entry::Occupied(mut row) = self.unwritten.entry(key.clone()) {
                        row.get_mut().registers.expire(terms);
                        if row.get().registers.is_blank() {
                            row.remove();
                        }
                    }
                    self.lapsing.insert(key, (target.clone(), *terms));
                }
            }
        }
    }

    fn commit(&mut self, batch: &[Command]) -> Result<(), JournalError> {
        let database = match &mut self.database {
            Some(database) => database,
            closed => closed.insert((self.open)()?),
        };
        let noted = batch.iter().filter_map(|command| match command {
            Command::Note(uptime) => Some(*uptime),
            Command::Append(_) | Command::Expire { .. } => None,
        });
        self.uptime = noted.chain(self.uptime).max();
        let transaction = begin(database)?;
        let targets = transaction.open_table(TARGETS).map_err(write_error)?;
        let mut step = Step { targets, lapsing: &mut self.lapsing, lapsed: BTreeSet::new() };
        step.put_back(&mut self.doubtful, batch)?;
        for unwritten in self.unwritten.values() {
            let registers = unwritten.registers.clone();
            step.change(&unwritten.target, |known| known.absorb(registers))?;
        }
        // In the order of the engine's own steps: a suspension taken in after an older one has lapsed must not
        // meet it here, lose against it, and be forgotten with it.
        for command in batch {
            match command {
                Command::Append(Append { entries, .. }) => {
                    for JournalEntry { event, lapses } in entries {
                        step.change(&event.target, |known| known.merge(event, *lapses))?;
                    }
                }
                Command::Expire { targets, terms } => step.note(targets, *terms),
                Command::Note(_) => {}
            }
        }
        step.forget()?;
        let lapsed = step.finish();
        if let Some(uptime) = self.uptime {
            let mut meta = transaction.open_table(META).map_err(write_error)?;
            meta.insert("uptime", uptime.millis()).map_err(write_error)?;
        }
        transaction.commit().map_err(write_error)?;
        // What a file holds that no path leads to is lost with the process.
        (self.watch)()?;
        lapsed.iter().for_each(|key| drop(self.lapsing.remove(key)));
        Ok(())
    }
}

/// What one commit does.
struct Step<'t> {
    targets: Targets<'t>,
    lapsing: &'t mut Lapsing,
    /// Those of them that are done with if this is committed.
    lapsed: BTreeSet<String>,
}

impl Step<'_> {
    /// Puts back what reinstatements that failed may have changed, and keeps what those in this batch are about to.
    fn put_back(&mut self, doubtful: &mut Doubtful, batch: &[Command]) -> Result<(), JournalError> {
        for (key, row) in doubtful.iter() {
            match row {
                Some(row) => drop(self.targets.insert(key.as_str(), row.as_slice()).map_err(write_error)?),
                None => drop(self.targets.remove(key.as_str()).map_err(write_error)?),
            }
        }
        let entries = batch.iter().flat_map(|command| match command {
            Command::Append(Append { entries, .. }) => entries.as_slice(),
            Command::Expire { .. } | Command::Note(_) => &[],
        });
        for event in entries.map(|entry| &entry.event).filter(|event| event.action == Action::Reinstate) {
            let key = record::key(&event.target);
            let row = self.targets.get(key.as_str()).map_err(write_error)?.map(|row| row.value().to_vec());
            doubtful.insert(key, row);
        }
        Ok(())
    }

    fn note(&mut self, targets: &[Target], terms: Terms) {
        for target in targets {
            let key = record::key(target);
            self.lapsed.remove(&key);
            self.lapsing.insert(key, (target.clone(), terms));
        }
    }

    /// Forgets what has had its time, of so many targets that nobody waits for it long.
    fn forget(&mut self) -> Result<(), JournalError> {
        let due = self.lapsing.iter().filter(|(key, _)| !self.lapsed.contains(*key));
        let due: Vec<Target> = due.take(FORGET).map(|(_, (target, _))| target.clone()).collect();
        due.iter().try_for_each(|target| self.change(target, |_| ()))
    }

    fn change(&mut self, target: &Target, change: impl FnOnce(&mut Registers)) -> Result<(), JournalError> {
        let key = record::key(target);
        let found = self.targets.get(key.as_str()).map_err(write_error)?;
        let found = found.map(|row| read_row(&key, row.value(), Layout::Third)).transpose()?;
        let mut registers = found.map(|(_, registers)| registers).unwrap_or_default();
        if let Some((_, terms)) = self.lapsing.get(&key)
            && self.lapsed.insert(key.clone())
        {
            registers.expire(terms);
        }
        change(&mut registers);
        if registers.is_blank() {
            self.targets.remove(key.as_str()).map_err(write_error)?;
            return Ok(());
        }
        let row = record::write(&key, &registers);
        self.targets.insert(key.as_str(), row.as_slice()).map_err(write_error)?;
        Ok(())
    }

    fn finish(self) -> BTreeSet<String> {
        self.lapsed
    }
}

fn keep(rows: &mut Rows, JournalEntry { event, lapses }: &JournalEntry) {
    let row = rows.entry(record::key(&event.target)).or_insert_with(|| Row::blank(&event.target));
    row.registers.merge(event, *lapses);
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn as_unreadable(error: JournalError) -> JournalError {
    match error {
        JournalError::Damaged(what) => JournalError::Unreadable(what),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::super::Event;
    use super::super::Level;
    use super::super::journal_file::read;
    use super::*;
    use crate::clock::Timestamp;

    fn writer() -> Writer {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        initialize(&database).unwrap();
        Writer {
            database: Some(database),
            open: Box::new(|| Err(JournalError::Closed)),
            watch: Box::new(|| Ok(())),
            path: PathBuf::new(),
            fault: Arc::default(),
            unwritten: Rows::new(),
            lapsing: Lapsing::new(),
            doubtful: Doubtful::new(),
            uptime: None,
            missed: Arc::default(),
            durable: Arc::new(AtomicBool::new(true)),
        }
    }

    fn suspension(id: &str, expires_at: Option<Timestamp>) -> Event {
        let target = Target::parse(Level::Principal, "a", None).unwrap();
        Event { id: id.into(), expires_at, ..Event::new(Action::Suspend, target, Timestamp::from_secs(5)) }
    }

    fn terms(now: Timestamp) -> Terms {
        let uptime = Uptime::default().plus(Duration::from_secs(5));
        Terms { now, uptime, skew: Duration::ZERO, remember: Duration::MAX }
    }

    fn append(event: Event) -> Command {
        let (done, _) = oneshot::channel();
        let lapses = Uptime::default().at_expiry(event.expires_at, event.at);
        Command::Append(Append { entries: vec![JournalEntry { event, lapses }], done })
    }

    #[test]
    fn one_commit_keeps_the_order_of_what_it_holds() {
        let mut writer = writer();
        let lapses = Timestamp::from_secs(10);
        let lapsed = suspension("b", Some(lapses));
        let terms = terms(lapses);
        let expire = Command::Expire { targets: vec![lapsed.target.clone()], terms };
        // By its id "a" would lose against "b", which has lapsed before it came.
        writer.turn(vec![append(lapsed), expire, append(suspension("a", None))]);
        assert!(writer.durable.load(Ordering::Acquire));
        let contents = contents(&writer);
        assert!(matches!(contents.as_slice(), [(_, registers)] if registers.is_suspended()));
        assert!(writer.lapsing.is_empty());
    }

    /// Seen failing: by its id "a" lost against "b", which had lapsed before it came.
    #[test]
    fn a_failed_turn_keeps_the_order_of_what_it_held() {
        let lapses = Timestamp::from_secs(10);
        let lapsed = suspension("b", Some(lapses));
        let expire = || {
            let terms = terms(lapses);
            Command::Expire { targets: vec![lapsed.target.clone()], terms }
        };
        for is_on_disk in [true, false] {
            let mut writer = writer();
            let mut batch = vec![append(lapsed.clone())];
            if is_on_disk {
                writer.turn(std::mem::take(&mut batch));
            }
            let database = writer.database.take();
            batch.extend([expire(), append(suspension("a", None))]);
            writer.turn(batch);
            assert!(!writer.durable.load(Ordering::Acquire));
            writer.database = database;
            writer.turn(Vec::new());
            assert!(writer.durable.load(Ordering::Acquire) && writer.lapsing.is_empty());
            let contents = contents(&writer);
            assert!(
                matches!(contents.as_slice(), [(_, registers)] if registers.is_suspended()
                    && registers.standings().any(|(_, standing)| standing.stamp.1 == "a")),
                "{is_on_disk}: {contents:?}"
            );
        }
    }

    #[test]
    fn what_lapses_while_nothing_can_be_written_takes_no_room() {
        let mut writer = writer();
        let database = writer.database.take();
        let lapses = Timestamp::from_secs(10);
        let lapsed = suspension("b", Some(lapses));
        let terms = terms(lapses);
        writer.turn(vec![append(lapsed.clone())]);
        assert_eq!(writer.unwritten.len(), 1);
        writer.turn(vec![Command::Expire { targets: vec![lapsed.target], terms }]);
        assert!(writer.unwritten.is_empty());
        writer.database = database;
        writer.turn(Vec::new());
        assert!(writer.lapsing.is_empty() && contents(&writer).is_empty());
    }

    fn contents(writer: &Writer) -> Vec<(Target, Registers)> {
        let mut contents = Vec::new();
        let database = writer.database.as_ref().unwrap();
        read(database, |row| contents.push((row.target, row.registers))).unwrap();
        contents
    }

    #[test]
    fn what_lapses_goes_by_and_by_and_nobody_waits_for_all_of_it() {
        let mut writer = writer();
        let lapses = Timestamp::from_secs(10);
        let brief = |count: usize| {
            let target = Target::parse(Level::Principal, &format!("agent-{count:05}"), None).unwrap();
            Event { target, ..suspension("b", Some(lapses)) }
        };
        let count = 2 * FORGET + 10;
        writer.turn((0..count).map(|count| append(brief(count))).collect());
        let targets = (0..count).map(|count| brief(count).target).collect();
        let terms = terms(lapses);
        // One that comes before its target's turn meets nothing that has lapsed.
        let late = Event { id: "a".into(), expires_at: None, ..brief(count - 1) };
        writer.turn(vec![Command::Expire { targets, terms }, append(late)]);
        assert_eq!(contents(&writer).len(), FORGET + 10);
        for left in [10, 1, 1] {
            writer.turn(Vec::new());
            assert_eq!(contents(&writer).len(), left);
        }
        assert!(writer.lapsing.is_empty() && contents(&writer)[0].1.is_suspended());
    }

    #[test]
    fn a_database_that_panics_is_a_failed_write() {
        let mut writer = writer();
        writer.database = None;
        writer.open = Box::new(|| panic!("page 7\nwas freed twice"));
        writer.turn(vec![append(suspension("a", None))]);
        assert!(!writer.durable.load(Ordering::Acquire));
        assert_eq!(writer.unwritten.len(), 1);
        let opened = Journal::with(
            Box::new(|| panic!("page {}", 7)),
            JournalPlace::unwatched(),
            terms(Timestamp::from_secs(0)),
        );
        assert_eq!(opened.err(), Some(JournalError::Unreadable("page 7".into())));
    }
}
