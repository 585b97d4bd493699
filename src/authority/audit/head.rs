//! The head of the chain: the sequence and hash of its last line, and the file that remembers it.

use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;

use super::files::found;
use super::files::leads_to;
use super::files::sync;
use super::line::hash;

/// The hash before the first line.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Sequences are exact in every JSON reader: below 2^53.
pub(super) const LAST_SEQUENCE: u64 = (1 << 53) - 1;

/// A place on the chain; its text form is `SEQUENCE:HASH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sequence of a line; 0 before the first.
    pub sequence: u64,
    /// Its hash, 64 lower-case hexadecimal digits; zeros before the first.
    pub hash: String,
}

/// Not `SEQUENCE:HASH`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not SEQUENCE:HASH, with a hash of 64 lower-case hexadecimal digits")]
pub struct HeadError(String);

impl Default for Head {
    fn default() -> Self {
        Self { sequence: 0, hash: NO_HASH.to_owned() }
    }
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let read = || {
            let (sequence, hash) = text.split_once(':')?;
            let sequence = read_sequence(sequence)?;
            is_hash(hash).then(|| Self { sequence, hash: hash.to_owned() })
        };
        read().ok_or_else(|| HeadError(text.to_owned()))
    }
}

fn read_sequence(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|sequence| digits && *sequence <= LAST_SEQUENCE)
}

pub(super) fn is_hash(text: &str) -> bool {
    text.len() == NO_HASH.len() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The file that remembers the head.
pub(super) const FILE: &str = "audit.head";
const NEW: &str = "audit.head.new";
/// `SEQUENCE`, `HASH`, `CHECK` and what stands behind each.
const SLOT: usize = 20 + 1 + 64 + 1 + 16 + 1;

/// The file that remembers the head: two slots, written in turn, so that a write that is torn spoils neither the
/// other slot nor, by its checksum, passes for a head.
///
/// ```text
/// 00000000000000000041 64 hexadecimal digits of the hash 16 of the checksum\n
/// 00000000000000000042 64 hexadecimal digits of the hash 16 of the checksum\n
/// ```
///
/// The checksum is the beginning of the SHA-256 of what stands before it in the line, without the space. It tells a
/// torn write, not a forged one.
#[derive(Debug)]
pub(super) struct HeadFile {
    path: PathBuf,
    file: File,
    /// The slot to write next.
    slot: u64,
}

/// What a head file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    /// There is none.
    Missing,
    /// Neither slot can be read.
    Unreadable,
    /// The last line that was known to be on disk.
    Head(Head),
}

/// Reads the head file of a directory.
pub(super) fn remembered(directory: &Path) -> io::Result<Remembered> {
    match found(File::open(directory.join(FILE)))? {
        None => Ok(Remembered::Missing),
        Some(file) => Ok(read(&file)?.map_or(Remembered::Unreadable, |(head, _)| Remembered::Head(head))),
    }
}

impl HeadFile {
    /// Opens it where it is; `None` where it is not.
    pub(super) fn open(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(FILE);
        let Some(file) = found(OpenOptions::new().read(true).write(true).open(&path))? else {
            return Ok(None);
        };
        let slot = read(&file)?.map_or(0, |(_, slot)| 1 - slot);
        Ok(Some(Self { path, file, slot }))
    }

    /// Makes it, under another name first: one that exists is a whole one.
    pub(super) fn create(directory: &Path, head: &Head) -> io::Result<Self> {
        let new = directory.join(NEW);
        found(std::fs::remove_file(&new))?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new)?;
        let path = directory.join(FILE);
        file.write_all_at(slot(head).repeat(2).as_bytes(), 0)?;
        file.sync_all()?;
        std::fs::rename(new, &path)?;
        sync(directory)?;
        Ok(Self { path, file, slot: 0 })
    }

    /// Keeps every other process out of the directory's audit; false if one is there.
    pub(super) fn lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// Whether it is still where it was opened.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        leads_to(&self.path, &self.file)
    }

    /// Returns once it is on disk.
    pub(super) fn write(&mut self, head: &Head) -> io::Result<()> {
        let at = u64::try_from(SLOT).unwrap_or_default() * self.slot;
        self.file.write_all_at(slot(head).as_bytes(), at)?;
        self.file.sync_data()?;
        self.slot = 1 - self.slot;
        Ok(())
    }
}

fn slot(head: &Head) -> String {
    let text = format!("{:020} {}", head.sequence, head.hash);
    format!("{text} {}\n", checksum(&text))
}

fn checksum(text: &str) -> String {
    let mut sum = hash(text.as_bytes());
    sum.truncate(16);
    sum
}

/// The greater of the heads that can be read, and its slot.
fn read(file: &File) -> io::Result<Option<(Head, u64)>> {
    let mut bytes = [0; 2 * SLOT];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(filled).unwrap_or_default())? {
            0 => break,
            count => filled += count,
        }
    }
    let slots = bytes.chunks(SLOT).zip(0..).filter_map(|(slot, index)| Some((parse(slot)?, index)));
    Ok(slots.max_by_key(|(head, _)| head.sequence))
}

fn parse(slot: &[u8]) -> Option<Head> {
    let line = std::str::from_utf8(slot).ok()?.strip_suffix('\n')?;
    let (text, sum) = line.rsplit_once(' ')?;
    let (sequence, hash) = text.split_once(' ')?;
    let sequence = read_sequence(sequence).filter(|_| sequence.len() == 20)?;
    (is_hash(hash) && checksum(text) == sum).then(|| Head { sequence, hash: hash.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(sequence: u64) -> Head {
        Head { sequence, hash: hash(&sequence.to_be_bytes()) }
    }

    #[test]
    fn text_round_trips_and_nothing_else_is_read() {
        let text = head(42).to_string();
        assert_eq!(text.parse(), Ok(head(42)));
        let not = ["", ":", "42", "+1:", " 1:", &text.to_uppercase(), &text[1..], &format!("{text}0")];
        for not in not.into_iter().filter(|not| !not.starts_with("2:")) {
            assert!(not.parse::<Head>().is_err(), "{not}");
        }
        let beyond = text.replacen("42", "9007199254740992", 1);
        assert!(beyond.parse::<Head>().is_err());
    }

    /// Seen failing with one slot.
    #[test]
    fn a_torn_write_leaves_the_head_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = HeadFile::create(directory.path(), &head(0)).unwrap();
        for sequence in 1..10 {
            let before = std::fs::read(directory.path().join(FILE)).unwrap();
            file.write(&head(sequence)).unwrap();
            let after = std::fs::read(directory.path().join(FILE)).unwrap();
            assert_eq!(remembered(directory.path()).unwrap(), Remembered::Head(head(sequence)));
            let from = before.iter().zip(&after).position(|(b, a)| b != a).unwrap();
            let to = before.iter().zip(&after).rposition(|(b, a)| b != a).unwrap();
            for cut in from + 1..=to {
                let torn = [&after[..cut], &before[cut..]].concat();
                std::fs::write(directory.path().join(FILE), torn).unwrap();
                let previous = Remembered::Head(head(sequence - 1));
                assert_eq!(remembered(directory.path()).unwrap(), previous, "{sequence} {cut}");
            }
            std::fs::write(directory.path().join(FILE), after).unwrap();
        }
    }
}
