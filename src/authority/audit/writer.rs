//! The thread that writes: all lines that wait when it turns to them share one write and one sync.
//!
//! **Invariant:** a caller is told `Ok` only after the sync that covers its line has returned; a line that the disk
//! refuses is kept, in its order, until the disk takes it.

use std::collections::VecDeque;
use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::AuditError;
use super::Entry;
use super::Head;
use super::line::FAILED;
use super::recover::notice;
use super::store::Store;
use super::trail::Receipt;
use crate::clock::Clock;
use crate::clock::Timestamp;

/// Lines that are taken from the queue at once, at most.
const BATCH: usize = 4096;
/// How often a failed disk is tried again, and how often it is seen to that nobody took the files away.
const TURN: Duration = Duration::from_secs(1);
/// What is kept for a disk that fails: lines, and bytes. What goes beyond is given up, the oldest first, and counted.
const KEPT: usize = 100_000;
const KEPT_BYTES: usize = 64 * 1024 * 1024;

/// A line to be written, and who waits for it.
pub(super) struct Append {
    pub(super) members: String,
    pub(super) done: oneshot::Sender<Result<Receipt, AuditError>>,
}

/// What the writer and its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The last line on disk.
    pub(super) head: ArcSwap<Head>,
    /// Whether everything that was to be written is.
    pub(super) durable: AtomicBool,
    /// Lines that the disk has not taken, without those that are missed.
    pub(super) waiting: AtomicUsize,
    /// Lines that were dropped because no more could be kept, and that no line on disk counts yet.
    pub(super) lost: AtomicU64,
    /// Lines of callers who found no room in the queue.
    pub(super) missed: Mutex<Kept>,
    /// The count of known damages that are not accepted.
    pub(super) damages: AtomicUsize,
    /// The first thing that was found wrong with what is on disk.
    fault: OnceLock<String>,
}

impl Default for Shared {
    fn default() -> Self {
        let head = ArcSwap::from_pointee(Head::default());
        Self {
            head,
            durable: AtomicBool::new(true),
            waiting: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            missed: Mutex::default(),
            damages: AtomicUsize::new(0),
            fault: OnceLock::new(),
        }
    }
}

impl Shared {
    /// Remembers what is wrong, if nothing was before.
    pub(super) fn blame(&self, fault: String) {
        let _ = self.fault.set(fault);
    }

    pub(super) fn fault(&self) -> Option<String> {
        self.fault.get().cloned()
    }
}

struct Line {
    members: String,
    time: Timestamp,
    done: Option<oneshot::Sender<Result<Receipt, AuditError>>>,
}

/// Lines that are to be written, in their order, within bounds.
#[derive(Debug, Default)]
pub(super) struct Kept {
    lines: VecDeque<Line>,
    bytes: usize,
    lost: u64,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("members", &self.members).finish_non_exhaustive()
    }
}

impl Kept {
    /// Keeps the line of a caller who waits no longer.
    pub(super) fn keep(&mut self, members: String, time: Timestamp) {
        self.push(Line { members, time, done: None });
        self.trim();
    }

    /// The count of lines.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    fn push(&mut self, line: Line) {
        self.bytes += line.members.len();
        self.lines.push_back(line);
    }

    fn pop(&mut self) -> Option<Line> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.members.len();
        Some(line)
    }

    fn trim(&mut self) {
        while self.lines.len() > KEPT || self.bytes > KEPT_BYTES {
            self.lost += u64::from(self.pop().is_some());
        }
    }

    fn append(&mut self, other: Self) {
        self.lost += other.lost;
        other.lines.into_iter().for_each(|line| self.push(line));
    }
}

pub(super) struct Writer {
    store: Store,
    path: PathBuf,
    clock: Clock,
    /// What the audit has to say of itself; goes first, and is never given up.
    notices: Kept,
    pending: Kept,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(store: Store, path: PathBuf, clock: Clock) -> Self {
        let shared = Arc::new(Shared::default());
        shared.head.store(Arc::new(store.head().clone()));
        Self { store, path, clock, notices: Kept::default(), pending: Kept::default(), shared }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Ends when the last handle is gone, and what waits is written.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Append>) {
        loop {
            let mut batch = Vec::new();
            if timeout(TURN, inbox.recv_many(&mut batch, BATCH)).await == Ok(0) {
                break;
            }
            self.turn(batch);
        }
        self.turn(Vec::new());
        if !self.pending.lines.is_empty() {
            tracing::error!(lines = self.pending.lines.len(), "audit: lines are lost with this process");
        }
    }

    /// Takes lines in and writes all that waits.
    pub(super) fn turn(&mut self, batch: Vec<Append>) {
        let missed = std::mem::take(&mut *self.shared.missed.lock().unwrap_or_else(PoisonError::into_inner));
        self.pending.append(missed);
        let time = self.clock.now();
        for Append { members, done } in batch {
            self.pending.push(Line { members, time, done: Some(done) });
        }
        self.tell();
        let written = caught(|| self.write());
        let was_durable = self.shared.durable.swap(written.is_ok(), Ordering::AcqRel);
        match written {
            Ok(()) if !was_durable => {
                tracing::info!("audit: writes again; every line that was kept is on disk")
            }
            Ok(()) => {}
            Err(error) => self.refuse(&error, was_durable),
        }
        self.tell();
    }

    /// Tells the handles how many lines wait for the disk.
    fn tell(&self) {
        self.shared.waiting.store(self.notices.len() + self.pending.len(), Ordering::Release);
        self.shared.lost.store(self.pending.lost, Ordering::Release);
    }

    /// Takes in what the audit has to say of itself.
    pub(super) fn note(&mut self, entries: Vec<Entry>) {
        let time = self.clock.now();
        let failed = entries.iter().filter(|entry| entry.outcome == FAILED);
        for reason in failed.filter_map(|entry| entry.reason.clone()) {
            self.shared.damages.fetch_add(1, Ordering::AcqRel);
            self.shared.blame(reason);
        }
        for members in entries.into_iter().filter_map(|entry| entry.members().ok()) {
            self.notices.push(Line { members, time, done: None });
        }
    }

    /// Nothing that is written here is left to write when it returns `Ok`.
    fn write(&mut self) -> io::Result<()> {
        let wrong = self.store.ready()?;
        self.note(wrong);
        while self.commit()? {
            // One batch or file after the other.
        }
        self.store.remember()
    }

    /// Writes one batch and answers whoever waits for it; false if nothing was left.
    fn commit(&mut self) -> io::Result<bool> {
        let lost = self.pending.lost;
        let loss = (lost > 0).then(|| {
            notice("lost", format!("{lost} lines were lost: the disk failed, and no more could be kept"))
                .members()
        });
        let loss = loss.transpose()?.map(|members| Line { members, time: self.clock.now(), done: None });
        let waiting = self.notices.lines.iter().chain(&loss).chain(&self.pending.lines);
        let receipts = self.store.commit(waiting.map(|line| (line.time, line.members.as_str())))?;
        self.shared.head.store(Arc::new(self.store.head().clone()));
        let is_done = receipts.is_empty();
        for receipt in receipts {
            if self.notices.pop().is_some() {
                continue;
            }
            if self.pending.lost > 0 {
                self.pending.lost = 0;
                continue;
            }
            if let Some(done) = self.pending.pop().and_then(|line| line.done) {
                let _ = done.send(Ok(receipt));
            }
        }
        if !is_done {
            // After the answers: what the head file misses of them, the lines themselves tell.
            self.store.remember()?;
        }
        Ok(!is_done)
    }

    fn refuse(&mut self, error: &io::Error, is_news: bool) {
        if is_news {
            let (error, lines) = (error.to_string(), self.pending.lines.len());
            tracing::error!(
                error,
                lines,
                "audit: cannot write; what is to be written is kept in memory only"
            );
        }
        // Only the newest have somebody who waits: all others were refused when they came.
        for done in self.pending.lines.iter_mut().rev().map_while(|line| line.done.take()) {
            let _ = done.send(Err(AuditError::Write { path: self.path.clone(), error: error.to_string() }));
        }
        let had_lost = self.pending.lost > 0;
        self.pending.trim();
        if self.pending.lost > 0 && !had_lost {
            let kept = self.pending.len();
            tracing::error!(kept, "audit: lines are lost: the disk fails, and no more can be kept in memory");
        }
    }
}

/// A panic is a failed write: neither it nor an error ends the thread, whose end nobody would be told.
fn caught(run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(io::Error::other("the writer panicked")))
}

#[cfg(test)]
mod tests {
    use super::super::files::CURRENT;
    use super::super::verify;
    use super::*;

    type Answer = oneshot::Receiver<Result<Receipt, AuditError>>;

    fn appends(count: usize) -> (Vec<Append>, Vec<Answer>) {
        let append = |number: usize| {
            let (done, answer) = oneshot::channel();
            let entry = Entry { target: Some(number.to_string()), ..Entry::default() };
            (Append { members: entry.members().unwrap(), done }, answer)
        };
        (0..count).map(append).unzip()
    }

    /// Seen failing with a writer that lets go of what it could not write, and with one that counts nothing.
    #[test]
    fn what_a_failing_disk_leaves_is_bounded_and_what_is_lost_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), u64::MAX).unwrap();
        let file = directory.path().join(CURRENT);
        let mut writer = Writer::new(store, file.clone(), Clock::manual(Timestamp::from_secs(1_800_000_000)));
        let (first, _) = appends(1);
        writer.turn(first);
        // Where the file was, nothing can be written any more.
        let kept = directory.path().join("kept");
        std::fs::rename(&file, &kept).unwrap();
        std::fs::create_dir(&file).unwrap();
        let (batch, mut answers) = appends(KEPT + 10);
        writer.turn(batch);
        assert!(!writer.shared.durable.load(Ordering::Acquire));
        for answer in &mut answers {
            assert!(matches!(answer.try_recv(), Ok(Err(AuditError::Write { .. }))));
        }
        assert_eq!((writer.pending.lines.len(), writer.pending.lost), (KEPT, 10));
        let told =
            || (writer.shared.waiting.load(Ordering::Acquire), writer.shared.lost.load(Ordering::Acquire));
        assert_eq!(told(), (KEPT, 10));
        std::fs::remove_dir(&file).unwrap();
        std::fs::rename(&kept, &file).unwrap();
        writer.turn(Vec::new());
        assert!(writer.shared.durable.load(Ordering::Acquire));
        assert_eq!((writer.pending.lines.len(), writer.pending.bytes, writer.pending.lost), (0, 0, 0));
        let shared = writer.shared();
        assert_eq!((shared.waiting.load(Ordering::Acquire), shared.lost.load(Ordering::Acquire)), (0, 0));
        let report = verify(directory.path(), None, &mut |_, _| {}).unwrap();
        assert_eq!(report.events, 1 + 1 + KEPT as u64);
        let reason = "10 lines were lost: the disk failed, and no more could be kept";
        assert_eq!(report.recoveries, [(2, reason.to_owned())]);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.lines().nth(2).unwrap().contains(r#""target":"10""#));
    }

    #[test]
    fn the_kept_bytes_are_bounded_too() {
        let mut kept = Kept::default();
        for _ in 0..70 {
            kept.keep("x".repeat(1024 * 1024), Timestamp::from_secs(0));
        }
        assert_eq!((kept.lines.len(), kept.lost, kept.bytes), (64, 6, KEPT_BYTES));
    }

    #[test]
    fn a_panic_is_a_failed_write() {
        assert!(caught(|| panic!("no such page")).is_err());
    }
}
