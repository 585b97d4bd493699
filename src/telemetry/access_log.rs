//! The access log: lines of JSON that threads gather in buffers of their own, and one thread writes to a file.
//!
//! **Invariant:** nobody but that thread ever waits for the file. What it cannot take is lost, counted, and never half
//! a line.

use std::cell::Cell;
use std::cell::RefCell;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::TryRecvError;
use std::sync::mpsc::sync_channel;
use std::thread::park_timeout;
use std::time::Duration;

use prometheus::IntCounter;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;

/// A buffer of this size is handed over; it is handed over after [`AccessLog::FLUSH`] at the latest.
const BUFFER: usize = 64 << 10;
/// Buffers that may wait for the file: with those that are being filled, the most memory that the log takes.
const WAITING: usize = 64;
/// How often the writer looks whether the file is to be opened again.
const LOOK: Duration = Duration::from_millis(250);
/// How long a pipe is left alone that takes nothing more and does not wait.
const PIPE_PAUSE: Duration = Duration::from_millis(5);
/// How long the end of the process waits for the file.
const LAST: Duration = Duration::from_secs(2);
/// What a pipe takes whole (POSIX, `PIPE_BUF`), so that lines of the log proper come between lines, never within one.
pub(super) const PIPE: usize = 4096;

/// `[log.access]`: a line of JSON for each request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// Where to: a file, or `stdout` or `stderr`. It is opened again after SIGHUP or SIGUSR1.
    pub file: PathBuf,
    /// The share of allowed requests that get a line, 0 to 1. Those that are refused, or fail, always do.
    #[serde(default = "all", deserialize_with = "share")]
    pub sample: f64,
}

const fn all() -> f64 {
    1.0
}

/// Reads a share, 0 to 1.
pub(super) fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err(D::Error::custom(format!("`{share}`: a share from 0 to 1"))),
    }
}

impl AccessConfig {
    /// Whether its file can be written, as far as that shows without making it.
    pub fn check(&self) -> io::Result<()> {
        let parent = self.file.parent().filter(|parent| !parent.as_os_str().is_empty());
        match (self.stream(), self.file.metadata()) {
            (Some(_), _) => Ok(()),
            (None, Ok(found)) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            (None, Ok(_)) => Ok(()),
            (None, Err(_)) => parent.map_or(Ok(()), |parent| parent.metadata().map(drop)),
        }
    }

    /// Makes a relative path relative to `base`.
    pub fn rebase(&mut self, base: &Path) {
        if self.stream().is_none() {
            self.file = base.join(&self.file);
        }
    }

    fn stream(&self) -> Option<Stream> {
        match self.file.to_str() {
            Some("stdout") => Some(Stream::Out),
            Some("stderr") => Some(Stream::Err),
            _ => None,
        }
    }
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

/// Lines on their way to the file.
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

/// The way to the writer, for every thread.
#[derive(Clone)]
pub struct AccessLog {
    sender: SyncSender<Batch>,
    sample: f64,
    lost: IntCounter,
}

/// The writer, for whoever ends it.
#[derive(Debug)]
pub struct AccessLogWriter {
    reopen: Arc<AtomicBool>,
    /// Says nothing, and hangs up when all is written.
    done: Receiver<()>,
}

impl AccessLog {
    /// How often a thread hands over what it has gathered, at least.
    pub const FLUSH: Duration = Duration::from_secs(1);

    /// Opens the file and starts to write; `lost` counts lines that were not written.
    pub fn open(config: &AccessConfig, lost: IntCounter) -> io::Result<(Self, AccessLogWriter)> {
        let (sender, batches) = sync_channel(WAITING);
        let (ended, done) = sync_channel(0);
        let reopen = Arc::<AtomicBool>::default();
        let sink = Sink {
            file: open(config)?,
            config: config.clone(),
            reopen: Arc::clone(&reopen),
            lost: lost.clone(),
            failing: false,
        };
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            sink.run(&batches);
            drop(ended);
        })?;
        Ok((Self { sender, sample: config.sample, lost }, AccessLogWriter { reopen, done }))
    }

    /// The share of allowed requests that get a line.
    pub fn sample(&self) -> f64 {
        self.sample
    }

    fn hand_over(&self, batch: Batch) {
        let lines = batch.lines;
        if self.sender.try_send(batch).is_err() {
            self.lost.inc_by(lines);
        }
    }
}

impl AccessLogWriter {
    /// Has the file opened again, soon: the old one was moved away.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// True if it writes no more.
    pub fn has_ended(&self) -> bool {
        self.done.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits until all is written, now that no thread has lines any more; for a while.
    pub fn finish(self) {
        if self.done.recv_timeout(LAST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the access log cannot be written: its last lines are lost");
        }
    }
}

/// The lines of one thread.
pub struct AccessLines {
    log: AccessLog,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
}

impl AccessLines {
    /// None yet.
    pub fn new(log: AccessLog) -> Self {
        Self { log, buffer: RefCell::default(), lines: Cell::new(0) }
    }

    /// The log that they are for.
    pub fn log(&self) -> &AccessLog {
        &self.log
    }

    /// Adds what `write` writes: one line, with its end.
    pub fn add(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.capacity() == 0 {
            buffer.reserve(BUFFER + BUFFER / 8);
        }
        write(&mut buffer);
        self.lines.set(self.lines.get() + 1);
        if buffer.len() >= BUFFER {
            drop(buffer);
            self.flush();
        }
    }

    /// Hands over what there is.
    pub fn flush(&self) {
        let (bytes, lines) = (self.buffer.take(), self.lines.take());
        if lines > 0 {
            self.log.hand_over(Batch { bytes, lines });
        }
    }
}

impl Drop for AccessLines {
    fn drop(&mut self) {
        self.flush();
    }
}

/// What writes.
struct Sink {
    file: File,
    config: AccessConfig,
    reopen: Arc<AtomicBool>,
    lost: IntCounter,
    /// The last write failed, and that was said.
    failing: bool,
}

impl Sink {
    fn run(mut self, batches: &Receiver<Batch>) {
        loop {
            let batch = batches.recv_timeout(LOOK);
            if self.reopen.swap(false, Ordering::Relaxed) {
                match open(&self.config) {
                    Ok(file) => {
                        self.file = file;
                        let file = self.config.file.display();
                        tracing::info!(%file, "the access log was opened again; configuration and certificates were not read again");
                    }
                    Err(error) => {
                        let file = self.config.file.display();
                        tracing::error!(%file, %error, "cannot open the access log again: it goes on in the old file");
                    }
                }
            }
            match batch {
                Ok(batch) => self.take(&batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, batch: &Batch) {
        let most = if self.config.stream().is_some() { PIPE } else { usize::MAX };
        let (mut rest, mut left) = (batch.bytes.as_slice(), batch.lines);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(whole_lines(rest, most));
            match write(&mut self.file, now) {
                Ok(()) => {
                    left = left.saturating_sub(count_lines(now));
                    rest = later;
                    self.failing = false;
                }
                Err((written, error)) => {
                    let whole = now.get(..written).unwrap_or_default();
                    let torn =
                        whole.len() - whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                    self.mend(torn);
                    self.lost.inc_by(left.saturating_sub(count_lines(whole)));
                    if !std::mem::replace(&mut self.failing, true) {
                        let file = self.config.file.display();
                        tracing::error!(%file, %error, "cannot write the access log: lines are lost");
                    }
                    return;
                }
            }
        }
    }

    /// Takes back what was written of a line that the file did not take whole; of a pipe nothing can be taken back.
    fn mend(&mut self, torn: usize) {
        let length = self.file.metadata().ok().filter(std::fs::Metadata::is_file).map(|about| about.len());
        let mended = length.and_then(|length| self.file.set_len(length.checked_sub(torn as u64)?).ok());
        if torn > 0 && mended.is_none() {
            let _ = self.file.write(b"\n");
        }
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// How many of these bytes are whole lines and no more than `most`, or are the first line.
fn whole_lines(bytes: &[u8], most: usize) -> usize {
    if bytes.len() <= most {
        return bytes.len();
    }
    let end = |at: usize| at + 1;
    let within = bytes.get(..most).and_then(|part| part.iter().rposition(|byte| *byte == b'\n')).map(end);
    within.or_else(|| bytes.iter().position(|byte| *byte == b'\n').map(end)).unwrap_or(bytes.len())
}

/// Writes all, or says how many bytes were. Waits for the reader of a pipe, also where somebody who shares the pipe has made
/// it one that does not wait.
pub(super) fn write(file: &mut File, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => park_timeout(PIPE_PAUSE),
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// For reading too, or a pipe that nobody reads would be waited for here.
fn open(config: &AccessConfig) -> io::Result<File> {
    // A handle of its own: with that of the standard library a reader that hangs would stop whoever else has to write.
    match config.stream() {
        Some(Stream::Out) => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        Some(Stream::Err) => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
        None => OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(&config.file),
    }
}

/// One object of JSON (RFC 8259) on one line, written into a buffer by hand: the names are ours, the values anybody's.
pub struct JsonLine<'a> {
    bytes: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> JsonLine<'a> {
    /// Opens it.
    pub fn begin(bytes: &'a mut Vec<u8>) -> Self {
        bytes.push(b'{');
        Self { bytes, first: true }
    }

    fn name(&mut self, name: &'static str) {
        if !std::mem::take(&mut self.first) {
            self.bytes.push(b',');
        }
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
    }

    /// A text of any bytes, cut off after `most` of them. What is not printable ASCII is escaped, a byte as the
    /// character of its number (ISO 8859-1): two values that differ stay different.
    pub fn text(&mut self, name: &'static str, value: &[u8], most: usize) -> &mut Self {
        self.name(name);
        self.bytes.push(b'"');
        let mut rest = value.get(..most).unwrap_or(value);
        loop {
            let clean = rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len());
            let (plain, odd) = rest.split_at(clean);
            self.bytes.extend_from_slice(plain);
            let Some((byte, after)) = odd.split_first() else { break };
            self.bytes.extend_from_slice(b"\\u00");
            push_hex(self.bytes, *byte);
            rest = after;
        }
        self.bytes.push(b'"');
        self
    }

    /// 128 bits, as 32 digits.
    pub fn hex(&mut self, name: &'static str, value: u128) -> &mut Self {
        self.name(name);
        self.bytes.push(b'"');
        for byte in value.to_be_bytes() {
            push_hex(self.bytes, byte);
        }
        self.bytes.push(b'"');
        self
    }

    /// An address and a port.
    pub fn address(&mut self, name: &'static str, value: SocketAddr) -> &mut Self {
        self.name(name);
        // Writing into memory cannot fail, and no address has anything to escape.
        let _ = write!(self.bytes, "\"{value}\"");
        self
    }

    /// A number.
    pub fn number(&mut self, name: &'static str, value: u64) -> &mut Self {
        self.name(name);
        digits(self.bytes, value, 1);
        self
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &'static str, value: bool) -> &mut Self {
        self.name(name);
        self.bytes.extend_from_slice(if value { b"true" } else { b"false" });
        self
    }

    /// A time in milliseconds since the Unix epoch, as RFC 3339 has it; nothing before that epoch, or after 9999.
    pub fn time(&mut self, name: &'static str, millis: i64) -> &mut Self {
        self.name(name);
        let millis = u64::try_from(millis).unwrap_or(0).min(253_402_300_799_999);
        let (days, of_day) = (millis / 86_400_000, millis % 86_400_000);
        let (year, month, day) = date(days);
        self.bytes.push(b'"');
        for (value, width, after) in [
            (year, 4, b'-'),
            (month, 2, b'-'),
            (day, 2, b'T'),
            (of_day / 3_600_000, 2, b':'),
            (of_day / 60_000 % 60, 2, b':'),
            (of_day / 1000 % 60, 2, b'.'),
            (of_day % 1000, 3, b'Z'),
        ] {
            digits(self.bytes, value, width);
            self.bytes.push(after);
        }
        self.bytes.push(b'"');
        self
    }

    /// Closes it, and the line.
    pub fn end(self) {
        self.bytes.extend_from_slice(b"}\n");
    }
}

/// Whether a byte stands for itself in a string (RFC 8259, section 7).
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn push_hex(bytes: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.extend([byte >> 4, byte & 15].map(|half| DIGITS[usize::from(half)]));
}

/// A number in decimal, of at least `width` digits.
fn digits(bytes: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut text = [b'0'; 20];
    let mut first = text.len();
    for (at, digit) in text.iter_mut().enumerate().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        first = at;
        if value == 0 {
            break;
        }
    }
    let first = first.min(text.len().saturating_sub(width));
    bytes.extend_from_slice(text.get(first..).unwrap_or_default());
}

/// Year, month and day of a day since the Unix epoch, in the Gregorian calendar: years that begin in March, in eras of
/// 400 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
const fn date(days: u64) -> (u64, u64, u64) {
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    (year + era * 400 + if month <= 2 { 1 } else { 0 }, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    proptest! {
        /// Whatever a client sends is one line, and is read as what it was.
        #[test]
        fn a_line_is_one_object(value in proptest::collection::vec(any::<u8>(), 0..64), number: u64, most in 0_usize..64) {
            let mut bytes = Vec::new();
            let mut line = JsonLine::begin(&mut bytes);
            line.text("a", &value, most).number("b", number).flag("c", true);
            line.end();
            let (last, line) = bytes.split_last().unwrap();
            prop_assert_eq!(*last, b'\n');
            prop_assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)));
            let read: Value = serde_json::from_slice(line).unwrap();
            let characters: String = value.iter().take(most).copied().map(char::from).collect();
            prop_assert_eq!(read["a"].as_str(), Some(characters.as_str()));
            prop_assert_eq!((read["b"].as_u64(), read["c"].as_bool()), (Some(number), Some(true)));
        }

        #[test]
        fn times_are_those_of_the_clock(millis in 0..253_402_300_799_999_i64) {
            let mut bytes = Vec::new();
            JsonLine::begin(&mut bytes).time("t", millis);
            let text = String::from_utf8(bytes).unwrap();
            let time = text.strip_prefix("{\"t\":\"").and_then(|rest| rest.strip_suffix('"')).unwrap();
            let read = OffsetDateTime::parse(time, &Rfc3339).unwrap();
            prop_assert_eq!((time.len(), read.unix_timestamp_nanos() / 1_000_000), (24, i128::from(millis)));
        }
    }

    #[test]
    fn pieces_end_with_lines() {
        assert_eq!(whole_lines(b"a\nbb\nc\n", 6), 5);
        assert_eq!(whole_lines(b"a\nbb\n", 5), 5);
        assert_eq!(whole_lines(b"aaaaaa\nb\n", 3), 7);
    }

    /// Lines of a file that is full are counted as lost, and nothing is said twice.
    #[test]
    fn what_cannot_be_written_is_counted() {
        let config = AccessConfig { file: "/dev/full".into(), sample: 1.0 };
        let lost = IntCounter::new("lost", "-").unwrap();
        let (log, writer) = AccessLog::open(&config, lost.clone()).unwrap();
        let lines = AccessLines::new(log);
        for _ in 0..3 {
            lines.add(|bytes| bytes.extend_from_slice(b"{}\n"));
        }
        drop(lines);
        writer.finish();
        assert_eq!(lost.get(), 3);
    }
}
