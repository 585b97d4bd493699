//! Whether an audit is whole: every line, in its place, unchanged.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use super::Head;
use super::damage::Acceptance;
use super::damage::Damage;
use super::files;
use super::files::Source;
use super::head;
use super::head::FILE;
use super::head::Remembered;
use super::walk::At;
use super::walk::Walk;

/// What a whole audit holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many files.
    pub files: usize,
    /// How many lines.
    pub events: u64,
    /// The sequence of the first line; 0 if there is none.
    pub first_sequence: u64,
    /// The last line.
    pub head: Head,
    /// The oldest file is not the first: it is whole from `first_sequence` on.
    pub starts_midway: bool,
    /// The newest file ends in the middle of a line that nobody was told is written: it is being written, or the
    /// process was killed.
    pub torn_tail: bool,
    /// Where the audit itself says that it was mended: sequence and reason.
    pub recoveries: Vec<(u64, String)>,
    /// The damage that a person has examined and accepted.
    pub accepted: Vec<Acceptance>,
}

/// The first thing that is wrong with an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1; `None` if it is about the file.
    pub line: Option<u64>,
    /// The sequence of that line, or of the line that should be there, where it is known.
    pub sequence: Option<u64>,
    /// What is wrong.
    pub reason: String,
    /// Where, as far as it was read, the audit itself says that it was mended: sequence and reason.
    pub recoveries: Vec<(u64, String)>,
    /// All damage that can be accepted, and is not; the first fault among it, if it is of that kind.
    pub damages: Vec<Damage>,
    /// How many faults there are.
    pub count: usize,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.iter().try_for_each(|line| write!(f, ":{line}"))?;
        self.sequence.iter().try_for_each(|sequence| write!(f, ": sequence {sequence}"))?;
        write!(f, ": {}", self.reason)
    }
}

/// A fault in the words of the log and of `status`: the first, the count of all others, and what to do.
pub(super) fn advised(fault: &str, count: usize) -> String {
    let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    format!("{fault}{more}; see `portcullis audit verify`, then `portcullis audit accept`")
}

/// Why an audit is not said to be whole.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not.
    #[error("{0}")]
    Broken(Box<Fault>),
    /// It could not be read.
    #[error("{path}: {error}", path = path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

/// Walks through all files of a directory, whether a gate writes to them or not. Blocks.
///
/// They must begin with sequence 1. `expected` is a head that was noted elsewhere, and must be on the chain. `progress`
/// is called with the bytes done and the bytes in all.
pub fn verify(
    directory: &Path,
    expected: Option<&Head>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, VerifyError> {
    verify_from(directory, 1, expected, progress)
}

/// The same where older files were archived: all lines must be here that have the sequence `from` or a later one.
pub fn verify_from(
    directory: &Path,
    from: u64,
    expected: Option<&Head>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, VerifyError> {
    let failed = |error| VerifyError::Read { path: directory.to_owned(), error };
    let survey = Survey::take(directory).map_err(failed)?;
    let mut watch = |done, all| {
        progress(done, all);
        Ok(())
    };
    survey.verify(from, expected, &mut watch)
}

/// What there was at one moment, to be walked through at leisure.
pub(super) struct Survey {
    directory: PathBuf,
    remembered: Remembered,
    sources: Vec<Source>,
    foreign: Vec<String>,
}

impl Survey {
    pub(super) fn take(directory: &Path) -> io::Result<Self> {
        // The head first, then the files: lines that are written meanwhile come after it.
        let remembered = head::remembered(directory)?;
        let (sources, foreign) = files::view(directory)?;
        Ok(Self { directory: directory.to_owned(), remembered, sources, foreign })
    }

    /// `watch` is called with the bytes done and the bytes in all; an error of its own ends the walk.
    pub(super) fn verify(
        &self,
        from: u64,
        expected: Option<&Head>,
        watch: &mut dyn FnMut(u64, u64) -> io::Result<()>,
    ) -> Result<Report, VerifyError> {
        let place = |file: &str| At { file: self.directory.join(file), line: None };
        let mut walk = Walk::new(place(files::CURRENT), from);
        if let Remembered::Head(head) = &self.remembered {
            walk.mark(head, FILE);
        }
        expected.into_iter().for_each(|head| walk.mark(head, "the head that was noted"));
        if self.sources.is_empty() && self.remembered == Remembered::Missing {
            return Err(walk.broken(&place(files::CURRENT), None, "there is no audit here".into()));
        }
        let all = self.sources.iter().map(|source| source.len).sum();
        let mut done = 0;
        for source in &self.sources {
            walk.file(source, &mut |read| watch(done + read, all))?;
            done += source.len;
        }
        walk.settle()?;
        if let Some(name) = self.foreign.first() {
            return Err(walk.broken(&place(name), None, "it is no file of this audit".into()));
        }
        match self.remembered {
            Remembered::Missing => Err(walk.broken(&place(FILE), None, "it is missing".into())),
            Remembered::Unreadable => Err(walk.broken(&place(FILE), None, "it cannot be read".into())),
            Remembered::Head(_) => walk.end(),
        }
    }
}
