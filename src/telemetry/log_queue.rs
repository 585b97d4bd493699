//! Lines of the log on their way to standard error: bounded in bytes, written by one thread.
//!
//! **Invariant:** no other thread ever waits for the reader of the log. A line that finds no room is dropped and counted;
//! information never takes the room of warnings and errors.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use prometheus::IntCounterVec;
use prometheus::Opts;
use tracing::Level;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::access_log::PIPE;
use super::access_log::write;

/// The room for waiting lines, bytes; each line counts for [`OVERHEAD`] more.
const ROOM: usize = 8 << 20;
/// Of that, what levels below `warn` may fill.
const ROOM_FOR_INFORMATION: usize = ROOM / 2;
/// The size of a waiting line beside its text, bytes.
const OVERHEAD: usize = 64;
/// By their places in the counts of lost lines.
const LEVELS: [(Level, &str); 5] = [
    (Level::ERROR, "error"),
    (Level::WARN, "warn"),
    (Level::INFO, "info"),
    (Level::DEBUG, "debug"),
    (Level::TRACE, "trace"),
];

/// `portcullis_log_lost_total{level}`: lines of the log that found no room or could not be written.
#[derive(Clone, Debug)]
pub struct LostLines(IntCounterVec);

impl LostLines {
    /// None so far.
    ///
    /// # Errors
    /// A mistake in the program.
    pub fn new() -> Result<Self, prometheus::Error> {
        let opts = Opts::new("portcullis_log_lost_total", "Lines of the log that were lost, by level.");
        let counters = IntCounterVec::new(opts, &["level"])?;
        LEVELS.iter().for_each(|(_, name)| drop(counters.with_label_values(&[name])));
        Ok(Self(counters))
    }

    /// The counters, for a registry.
    pub(super) fn counters(&self) -> &IntCounterVec {
        &self.0
    }

    fn count(&self, level: Level, lines: u64) {
        let name = LEVELS.iter().find(|(known, _)| *known == level).map_or("error", |(_, name)| name);
        self.0.with_label_values(&[name]).inc_by(lines);
    }
}

/// The queue, for every thread.
#[derive(Clone, Debug)]
pub(super) struct LogQueue(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// There is something to write, or there will be nothing more.
    filled: Condvar,
    lost: LostLines,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<QueuedLine>,
    /// Of the lines that wait and those that are being written.
    bytes: usize,
    /// Lost since that was last told.
    untold: u64,
    ended: bool,
}

#[derive(Debug)]
struct QueuedLine {
    level: Level,
    text: Box<[u8]>,
}

impl QueuedLine {
    fn size(&self) -> usize {
        self.text.len() + OVERHEAD
    }
}

/// Lines that are written at once.
#[derive(Default)]
struct Batch {
    text: Vec<u8>,
    size: usize,
    levels: Vec<Level>,
}

impl Batch {
    /// A pipe takes so much whole, so that the lines of an access log come between these, never within one.
    fn takes(&self, line: &QueuedLine) -> bool {
        self.text.len() + line.text.len() <= PIPE || self.levels.is_empty()
    }
}

impl LogQueue {
    /// Empty; `lost` counts what finds no room or cannot be written.
    pub(super) fn new(lost: LostLines) -> Self {
        Self(Arc::new(Queue { state: Mutex::default(), filled: Condvar::new(), lost }))
    }

    /// Adds a line, with its end, if there is room for one of its level.
    fn push(&self, level: Level, text: &[u8]) {
        let line = QueuedLine { level, text: text.into() };
        let room = if level <= Level::WARN { ROOM } else { ROOM_FOR_INFORMATION };
        let mut state = self.state();
        if state.ended || state.bytes + line.size() > room {
            state.untold += 1;
            drop(state);
            return self.0.lost.count(level, 1);
        }
        state.bytes += line.size();
        state.lines.push_back(line);
        let is_first = state.lines.len() == 1;
        drop(state);
        // The writer waits only where it has found nothing.
        if is_first {
            self.0.filled.notify_one();
        }
    }

    /// Takes no more lines; the writer ends when it has written those that wait.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.0.filled.notify_one();
    }

    /// Writes what comes until the end.
    pub(super) fn write_to(&self, mut file: File) {
        let mut is_torn = false;
        while let Some(batch) = self.next() {
            // A line that was broken off must not run into the next one.
            if is_torn {
                is_torn = write(&mut file, b"\n").is_err();
            }
            match write(&mut file, &batch.text) {
                Ok(()) => self.written(&batch),
                Err((bytes, _)) => {
                    is_torn |= bytes > 0;
                    self.failed(&batch);
                }
            }
        }
    }

    /// Waits for lines; `None` at the end.
    fn next(&self) -> Option<Batch> {
        let mut state = self.state();
        while state.lines.is_empty() {
            if state.ended {
                return None;
            }
            state = self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut batch = Batch::default();
        while let Some(line) = state.lines.pop_front_if(|line| batch.takes(line)) {
            batch.size += line.size();
            batch.levels.push(line.level);
            batch.text.extend_from_slice(&line.text);
        }
        Some(batch)
    }

    fn written(&self, batch: &Batch) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(batch.size);
        let has_room = state.bytes < ROOM_FOR_INFORMATION / 2;
        let unsaid = if has_room { std::mem::take(&mut state.untold) } else { 0 };
        drop(state);
        if unsaid > 0 {
            tracing::warn!(unsaid, "lines of the log were lost: standard error did not take them");
        }
    }

    /// Counts lines as lost of which perhaps a part was written.
    fn failed(&self, batch: &Batch) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(batch.size);
        state.untold += batch.levels.len() as u64;
        drop(state);
        batch.levels.iter().for_each(|level| self.0.lost.count(*level, 1));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { queue: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> LineWriter<'a> {
        LineWriter { queue: self, level: *about.level() }
    }
}

/// Takes one line, which is written to it whole.
pub(super) struct LineWriter<'a> {
    queue: &'a LogQueue,
    level: Level,
}

impl io::Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(self.level, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;

    use super::*;

    fn queue() -> (LogQueue, LostLines) {
        let lost = LostLines::new().unwrap();
        (LogQueue::new(lost.clone()), lost)
    }

    fn lost(lost: &LostLines, level: &str) -> u64 {
        lost.counters().with_label_values(&[level]).get()
    }

    /// A reader that hangs, and then reads: warnings survive where information is dropped, and memory is bounded. Seen
    /// failing with one room for all levels: 1000 warnings are lost.
    #[test]
    fn a_reader_that_hangs_loses_information_first() {
        let (queue, counts) = queue();
        let (mut reader, writer) = io::pipe().unwrap();
        let writing = queue.clone();
        let writer = std::thread::spawn(move || writing.write_to(File::from(OwnedFd::from(writer))));
        let line = |level: &str| format!("{level} {}\n", "x".repeat(1000));
        for _ in 0..20_000 {
            queue.push(Level::INFO, line("info").as_bytes());
        }
        assert!(lost(&counts, "info") > 10_000);
        for _ in 0..1000 {
            queue.push(Level::WARN, line("warn").as_bytes());
        }
        assert_eq!(lost(&counts, "warn"), 0);
        for _ in 0..20_000 {
            queue.push(Level::ERROR, line("error").as_bytes());
        }
        assert!(lost(&counts, "error") > 0 && queue.state().bytes <= ROOM);
        queue.end();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        writer.join().unwrap();
        let written = |level: &str| text.lines().filter(|line| line.starts_with(level)).count() as u64;
        let all = ["info", "warn", "error"].map(|level| written(level) + lost(&counts, level));
        assert_eq!((all, written("warn")), ([20_000, 1000, 20_000], 1000));
        assert_eq!(queue.state().bytes, 0);
    }

    /// A pipe that another process has made one that does not wait: the same. Seen failing where that was a failed write: lines
    /// were lost, and a part of one was written.
    #[test]
    fn a_pipe_that_does_not_wait_is_waited_for() {
        let (queue, counts) = queue();
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let line = format!("{}\n", "x".repeat(9999));
        (0..100).for_each(|_| queue.push(Level::WARN, line.as_bytes()));
        queue.end();
        let writing = queue.clone();
        let writer = std::thread::spawn(move || writing.write_to(File::from(OwnedFd::from(writer))));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        writer.join().unwrap();
        assert_eq!((lost(&counts, "warn"), text == line.repeat(100)), (0, true));
    }

    /// Lines that cannot be written are counted, and wait for nothing.
    #[test]
    fn a_full_disk_loses_lines() {
        let (queue, counts) = queue();
        queue.push(Level::WARN, b"one\n");
        queue.push(Level::INFO, b"two\n");
        queue.end();
        queue.push(Level::ERROR, b"after the end\n");
        queue.write_to(File::options().write(true).open("/dev/full").unwrap());
        assert_eq!(["error", "warn", "info"].map(|level| lost(&counts, level)), [1, 1, 1]);
    }

    /// A line is never within another, though a pipe takes only so much whole.
    #[test]
    fn lines_are_written_in_pieces_that_a_pipe_takes() {
        let (queue, _) = queue();
        for length in [96, 4000, 5000, 10, 20] {
            queue.push(Level::INFO, &vec![b'x'; length]);
        }
        let sizes = || queue.next().map(|batch| (batch.text.len(), batch.levels.len()));
        assert_eq!([sizes(), sizes(), sizes()].map(Option::unwrap), [(4096, 2), (5000, 1), (30, 2)]);
    }
}
