//! The handle on a gate's audit.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::AuditError;
use super::Config;
use super::Entry;
use super::Head;
use super::Page;
use super::Query;
use super::check::Check;
use super::files::CURRENT;
use super::find;
use super::head::FILE;
use super::head::HeadFile;
use super::line::FAILED;
use super::recover::notice;
use super::store::Store;
use super::verify::Survey;
use super::verify::advised;
use super::writer::Append;
use super::writer::Line;
use super::writer::QUEUE;
use super::writer::Shared;
use super::writer::Writer;
use crate::clock::Clock;
use crate::telemetry::LineKind;
use crate::telemetry::LineLimiter;
use crate::telemetry::LineSource;

/// How long a caller waits for a disk that neither writes nor fails; and for one that is known to do so: an operator has
/// several calls to make meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
const IMPATIENCE: Duration = Duration::from_secs(1);
const UNWRITTEN: LineKind = LineKind::error("audit: cannot write", "audit");

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its sequence: 1, 2, 3 and so on, over all files.
    pub sequence: u64,
    /// Its hash.
    pub hash: String,
}

/// A gate's audit. Cheap to clone; dropping the last clone writes what waits, and ends the thread.
#[derive(Clone)]
pub struct Audit {
    inner: Arc<Inner>,
    /// The lines of the log about what cannot be written.
    lines: Arc<LineLimiter>,
}

struct Inner {
    directory: PathBuf,
    clock: Clock,
    queue: Option<mpsc::Sender<Append>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Ends when it is dropped.
    _check: Check,
}

impl Audit {
    /// Opens the audit of a state directory, or begins it. One process alone has it open.
    ///
    /// An audit that is damaged does not keep the gate from starting: what was found is put aside, and the damage is
    /// in the log, in the first line of the new file, and in what [`verify`](super::verify) says ever after. Here the
    /// newest lines are looked at; then a thread of its own reads them all, once, for [`fault`](Self::fault).
    pub fn open(directory: &Path, config: &Config, clock: Clock) -> Result<Self, AuditError> {
        Self::begin(directory, config, clock, Vec::new())
    }

    /// Begins an audit where the last one is gone, with a line that says so: it counts as damage.
    pub fn open_after_loss(directory: &Path, config: &Config, clock: Clock) -> Result<Self, AuditError> {
        let reason = "there was no audit beside the journal: what it recorded is lost";
        tracing::error!(directory = %directory.display(), reason, "audit: damaged; a new one begins");
        Self::begin(directory, config, clock, vec![notice(FAILED, reason.into())])
    }

    fn begin(directory: &Path, config: &Config, clock: Clock, first: Vec<Entry>) -> Result<Self, AuditError> {
        let writer = open_writer(directory, config, clock.clone(), first)?;
        let failed =
            |e: std::io::Error| AuditError::Read { path: directory.to_owned(), error: e.to_string() };
        let runtime = Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let (queue, inbox) = mpsc::channel(QUEUE);
        let shared = writer.shared();
        let survey = Survey::take(directory).map_err(failed)?;
        // The check finds those that are on disk.
        let noted = match shared.durable.load(Ordering::Acquire) {
            true => shared.damages.load(Ordering::Acquire),
            false => 0,
        };
        let check = Check::begin(directory.to_owned(), survey, Arc::clone(&shared), noted).map_err(failed)?;
        let run = move || runtime.block_on(writer.run(inbox));
        let thread = std::thread::Builder::new().name("audit".into()).spawn(run).map_err(failed)?;
        let (directory, queue, thread) = (directory.to_owned(), Some(queue), Some(thread));
        let inner = Inner { directory, clock, queue, shared, thread, _check: check };
        Ok(Self { inner: Arc::new(inner), lines: Arc::default() })
    }

    /// The same, with the lines of the log limited by `lines`, together with all others that clients cause.
    #[must_use]
    pub fn limiting_lines(self, lines: Arc<LineLimiter>) -> Self {
        Self { lines, ..self }
    }

    /// Writes a line, and returns where it stands once it is on disk.
    ///
    /// Where this fails the log says so, and the line is kept all the same, in its order, and written once the disk takes
    /// it, while the process lives. It is not to be appended again.
    pub async fn append(&self, entry: Entry) -> Result<Receipt, AuditError> {
        let action = entry.action.clone();
        let written = self.write(entry).await;
        if let Err(error) = &written {
            self.tell_unwritten(&action, error);
        }
        written
    }

    fn tell_unwritten(&self, action: &str, error: &AuditError) {
        if let Some(unsaid) = self.lines.admit(UNWRITTEN, LineSource::Unknown, self.inner.clock.elapsed()) {
            let waiting = self.waiting();
            tracing::error!(action, %error, waiting, unsaid, "{}", UNWRITTEN.message());
        }
    }

    async fn write(&self, entry: Entry) -> Result<Receipt, AuditError> {
        let path = || self.inner.directory.join(CURRENT);
        // Its time is now, however long it waits.
        let line = Line::new(entry, self.inner.clock.now());
        let line = line.map_err(|e| AuditError::Write { path: path(), error: e.to_string() })?;
        let queue = self.inner.queue.as_ref().ok_or(AuditError::Closed)?;
        let (done, written) = oneshot::channel();
        let patience = if self.is_durable() { PATIENCE } else { IMPATIENCE };
        let Ok(room) = timeout(patience, queue.reserve()).await else {
            self.inner.shared.missed().keep(line);
            return Err(self.hung());
        };
        room.map_err(|_| AuditError::Closed)?.send(Append { line, done });
        match timeout(patience, written).await {
            Ok(written) => written.unwrap_or(Err(AuditError::Closed)),
            Err(_) => Err(self.hung()),
        }
    }

    fn hung(&self) -> AuditError {
        self.inner.shared.durable.store(false, Ordering::Release);
        AuditError::Hung
    }

    /// The last line on disk.
    pub fn head(&self) -> Head {
        Head::clone(&self.inner.shared.head.load())
    }

    /// True if its thread has ended, so that no line is written any more.
    pub fn has_ended(&self) -> bool {
        self.inner.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Whether every line that was to be written is on disk.
    pub fn is_durable(&self) -> bool {
        self.inner.shared.durable.load(Ordering::Acquire)
    }

    /// The count of lines that wait in memory for a disk that fails; 0 while it does not.
    pub fn waiting(&self) -> usize {
        if self.is_durable() {
            return 0;
        }
        let queued = self.inner.queue.as_ref().map_or(0, |queue| queue.max_capacity() - queue.capacity());
        let missed = self.inner.shared.missed().len();
        self.inner.shared.waiting.load(Ordering::Acquire) + queued + missed
    }

    /// The count of lines that were dropped because no more could be kept in memory. A line says it once the disk takes lines
    /// again; then it is 0.
    pub fn lost(&self) -> u64 {
        self.inner.shared.all_lost()
    }

    /// What was found wrong with what is on disk first, since it was opened: as `FILE:LINE: ...` or in the words of the
    /// line that the audit wrote about itself; then how many more damages there are, and what to do. `None` also while the
    /// lines are still being read.
    pub fn fault(&self) -> Option<String> {
        self.inner.shared.fault().map(|fault| advised(&fault, self.damages()))
    }

    /// The count of known damages that are not accepted. Those of earlier runs are known once all lines are read.
    pub fn damages(&self) -> usize {
        self.inner.shared.damages.load(Ordering::Acquire)
    }

    /// Looks for events among those that are on disk now, and no others, however long it takes. Blocks.
    pub fn find(&self, query: &Query) -> Result<Page, AuditError> {
        find::up_to(&self.inner.directory, query, self.head().sequence)
    }
}

/// Keeps every other process out of the audit of a state directory, until it is dropped.
pub struct HeldAudit {
    _lock: Option<HeadFile>,
}

impl HeldAudit {
    /// Takes hold of it; where there is no audit, of nothing.
    pub fn take(directory: &Path) -> Result<Self, AuditError> {
        let failed =
            |e: std::io::Error| AuditError::Read { path: directory.to_owned(), error: e.to_string() };
        let file = HeadFile::open(directory).map_err(failed)?;
        match file.as_ref().map(HeadFile::lock).transpose().map_err(failed)? {
            Some(false) => Err(AuditError::InUse(directory.join(FILE))),
            _ => Ok(Self { _lock: file }),
        }
    }
}

/// Writes entries to the audit of a state directory that no process has open, and returns once they are on disk.
pub fn record(
    directory: &Path,
    config: &Config,
    clock: Clock,
    entries: Vec<Entry>,
) -> Result<(), AuditError> {
    let mut writer = open_writer(directory, config, clock, Vec::new())?;
    write_notes(&mut writer, entries, directory)
}

/// Writes entries, and returns once they are on disk.
pub(super) fn write_notes(
    writer: &mut Writer,
    entries: Vec<Entry>,
    directory: &Path,
) -> Result<(), AuditError> {
    let path = directory.join(CURRENT);
    writer.note(entries);
    writer.turn(Vec::new());
    match writer.shared().durable.load(Ordering::Acquire) {
        true => Ok(()),
        false => Err(AuditError::Write { path, error: "the disk does not take it".into() }),
    }
}

/// A writer on the files of a directory. It records their faults before this returns, if the disk takes them.
pub(super) fn open_writer(
    directory: &Path,
    config: &Config,
    clock: Clock,
    first: Vec<Entry>,
) -> Result<Writer, AuditError> {
    let (store, wrong) = Store::open(directory, config.max_bytes)?;
    let mut writer = Writer::new(store, directory.join(CURRENT), clock);
    writer.note(wrong);
    writer.note(first);
    writer.turn(Vec::new());
    Ok(writer)
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
