//! What is found in a directory, whether it fits what is known, and what is done if it does not.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use super::Entry;
use super::files;
use super::files::Aside;
use super::files::CURRENT;
use super::files::found;
use super::head;
use super::head::FILE;
use super::head::Head;
use super::head::LAST_SEQUENCE;
use super::head::Remembered;
use super::line::CONTINUED;
use super::line::FAILED;
use super::line::RECOVERED;
use super::tail;
use super::tail::End;
use super::tail::Fit;
use super::tail::Misfit;
use crate::clock::Timestamp;

/// How much of what is cut off is kept, bytes.
const KEPT: usize = 1024;

/// What is known of an audit before its lines are looked at.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// What its head file says, at start-up.
    AtLeast(Head),
    /// What this process wrote.
    Exactly(Head),
    /// Nothing, and why.
    Unknown(String),
}

impl Expected {
    /// From the head file. It is made before the first line is: where there are lines, its absence says something.
    pub(super) fn read(directory: &Path) -> io::Result<Self> {
        Ok(match head::remembered(directory)? {
            Remembered::Head(head) => Self::AtLeast(head),
            Remembered::Unreadable => Self::Unknown(format!("{FILE} cannot be read")),
            Remembered::Missing => {
                let has_lines = found(directory.join(CURRENT).metadata())?.is_some_and(|file| file.len() > 0)
                    || !files::list(directory)?.0.is_empty();
                match has_lines {
                    true => Self::Unknown(format!("{FILE} is missing")),
                    false => Self::AtLeast(Head::default()),
                }
            }
        })
    }

    fn head(&self) -> Result<(&Head, Fit), Misfit> {
        match self {
            Self::AtLeast(head) => Ok((head, Fit::AtLeast)),
            Self::Exactly(head) => Ok((head, Fit::Exactly)),
            Self::Unknown(reason) => Err(Misfit::Lines(reason.clone())),
        }
    }
}

/// A current file that can be appended to.
pub(super) struct Recovered {
    pub(super) file: File,
    /// How long it is, bytes.
    pub(super) len: u64,
    /// The sequence of its first line; `None` if it has none.
    pub(super) first: Option<u64>,
    /// Whether its first line is to say that it goes on with the file before it.
    pub(super) goes_on: bool,
    /// The last line, in it or before it.
    pub(super) head: Head,
    /// Its time.
    pub(super) time: Timestamp,
}

/// Opens the current file, or begins one, and returns what is to be written down about it: a torn line that was cut
/// off, or that the files are not as they were left. In that case the current file is put aside, whole.
pub(super) fn recover(directory: &Path, expected: &Expected) -> io::Result<(Recovered, Vec<Entry>)> {
    let (aside, _) = files::list(directory)?;
    let current = found(OpenOptions::new().read(true).write(true).open(directory.join(CURRENT)))?;
    match judge(directory, &aside, current.as_ref(), expected) {
        Ok((end, first)) => resume(directory, current, end, first),
        Err(Misfit::Io(error)) => Err(error),
        Err(Misfit::Lines(reason)) => restart(directory, &aside, current, expected, &reason),
    }
}

/// An entry that the audit writes about itself.
pub(super) fn notice(outcome: &'static str, reason: String) -> Entry {
    Entry {
        action: RECOVERED.into(),
        outcome: outcome.into(),
        actor: "portcullis".into(),
        reason: Some(reason),
        ..Entry::default()
    }
}

/// The first line of a file that goes on with the one before it: a file that has lost it has lost its front.
pub(super) fn continued() -> Entry {
    Entry {
        action: CONTINUED.into(),
        outcome: "applied".into(),
        actor: "portcullis".into(),
        ..Entry::default()
    }
}

/// How the current file ends, and the sequence of its first line. Where it has no lines, the end is that of the last
/// file that was put aside.
fn judge(
    directory: &Path,
    aside: &[Aside],
    current: Option<&File>,
    expected: &Expected,
) -> Result<(Ending, Option<u64>), Misfit> {
    let (head, fit) = expected.head()?;
    let mut torn = Vec::new();
    if let Some(file) = current {
        let end = tail::read(file, head, fit)?;
        if let Some(last) = end.last {
            let first = tail::first(file)?.map_err(|e| Misfit::Lines(format!("its first line: {e}")))?;
            let ending = Ending { head: last.head, time: last.time, whole: end.whole, torn: end.torn };
            return Ok((ending, Some(first.head.sequence)));
        }
        torn = end.torn;
    }
    let last = match aside.last() {
        None if head.sequence == 0 => None,
        None => return Err(Misfit::Lines(format!("there are no lines, but {} was written", head.sequence))),
        Some(newest) => {
            let End { last, .. } =
                tail::read(&File::open(directory.join(newest.name()))?, head, Fit::Exactly)
                    .map_err(|e| within(newest, e))?;
            let none = || within(newest, Misfit::Lines("it has no lines".into()));
            Some(last.ok_or_else(none)?)
        }
    };
    let (head, time) =
        last.map_or((Head::default(), Timestamp::from_millis(0)), |last| (last.head, last.time));
    Ok((Ending { head, time, whole: 0, torn }, None))
}

fn within(file: &Aside, misfit: Misfit) -> Misfit {
    match misfit {
        Misfit::Lines(reason) => Misfit::Lines(format!("{}: {reason}", file.name())),
        io => io,
    }
}

struct Ending {
    head: Head,
    time: Timestamp,
    /// Where the last line ends in the current file, bytes.
    whole: u64,
    torn: Vec<u8>,
}

fn resume(
    directory: &Path,
    current: Option<File>,
    end: Ending,
    first: Option<u64>,
) -> io::Result<(Recovered, Vec<Entry>)> {
    let file = match current {
        Some(file) => file,
        None => files::begin(directory)?,
    };
    let mut notices = Vec::new();
    if !end.torn.is_empty() {
        file.set_len(end.whole)?;
        file.sync_all()?;
        let kept = end.torn.get(..KEPT).unwrap_or(&end.torn).escape_ascii();
        let reason = format!("a torn line was cut off, {} bytes: {kept}", end.torn.len());
        tracing::warn!(file = %directory.join(CURRENT).display(), reason, "audit: recovered");
        notices.push(notice("recovered", reason));
    }
    let goes_on = first.is_none() && end.head.sequence > 0;
    Ok((Recovered { file, len: end.whole, first, goes_on, head: end.head, time: end.time }, notices))
}

fn restart(
    directory: &Path,
    aside: &[Aside],
    current: Option<File>,
    expected: &Expected,
    reason: &str,
) -> io::Result<(Recovered, Vec<Entry>)> {
    let head = known(directory, aside, current.as_ref(), expected)?;
    let mut place = CURRENT.to_owned();
    if let Some(file) = current {
        if file.metadata()?.len() > 0 {
            // Never behind the new file, whatever its first line claims.
            let first =
                tail::first(&file)?.map_or(head.sequence, |link| link.head.sequence.min(head.sequence));
            let name = files::put_aside(directory, first)?.name();
            place = format!("{place}, put aside as {name}");
        } else {
            std::fs::remove_file(directory.join(CURRENT))?;
        }
    }
    let expected = match expected {
        Expected::AtLeast(head) | Expected::Exactly(head) => head.to_string(),
        Expected::Unknown(_) => "unknown".to_owned(),
    };
    let reason = format!("{place}: {reason}; the last line known: {expected}");
    tracing::error!(directory = %directory.display(), reason, "audit: damaged; it goes on in a new file");
    let file = files::begin(directory)?;
    let time = Timestamp::from_millis(0);
    // It begins with this notice, which is no continuation.
    Ok((Recovered { file, len: 0, first: None, goes_on: false, head, time }, vec![notice(FAILED, reason)]))
}

/// The greatest sequence that any of it claims, so that none is given twice, and the hash that was expected.
fn known(directory: &Path, aside: &[Aside], current: Option<&File>, expected: &Expected) -> io::Result<Head> {
    let mut claims = Vec::new();
    if let Some(file) = current {
        claims.extend(tail::last(file)?.map(|link| link.head));
    }
    if let Some(newest) = aside.last() {
        claims.push(Head { sequence: newest.first, ..Head::default() });
        claims.extend(tail::last(&File::open(directory.join(newest.name()))?)?.map(|link| link.head));
    }
    // A forged line may not use up the sequences.
    claims.retain(|claim| claim.sequence <= LAST_SEQUENCE / 2);
    let claimed = claims.into_iter().max_by_key(|claim| claim.sequence).unwrap_or_default();
    Ok(match expected {
        Expected::AtLeast(head) | Expected::Exactly(head) => {
            Head { sequence: head.sequence.max(claimed.sequence), hash: head.hash.clone() }
        }
        Expected::Unknown(_) => claimed,
    })
}
