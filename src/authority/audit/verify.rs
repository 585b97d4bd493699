//! Whether an audit is whole: every line, in its place, unchanged.

use std::io;
use std::io::BufReader;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;

use super::Head;
use super::files;
use super::files::Aside;
use super::files::Source;
use super::head;
use super::head::FILE;
use super::head::Remembered;
use super::line::FAILED;
use super::line::Lines;
use super::line::Link;
use super::line::Next;
use super::line::lines;
use crate::clock::Timestamp;

/// How much of a file is read at once, bytes.
const BUFFER: usize = 256 * 1024;
/// After how many bytes the progress is told.
const TOLD: u64 = 1024 * 1024;

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
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.iter().try_for_each(|line| write!(f, ":{line}"))?;
        self.sequence.iter().try_for_each(|sequence| write!(f, ": sequence {sequence}"))?;
        write!(f, ": {}", self.reason)
    }
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
            walk.marks.push(Mark::new(head, FILE));
        }
        walk.marks.extend(expected.map(|head| Mark::new(head, "the head that was noted")));
        if self.sources.is_empty() && self.remembered == Remembered::Missing {
            return Err(walk.broken(&place(files::CURRENT), None, "there is no audit here".into()));
        }
        let all = self.sources.iter().map(|source| source.len).sum();
        let mut done = 0;
        for source in &self.sources {
            walk.file(source, &mut |read| watch(done + read, all))?;
            done += source.len;
        }
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

/// Where something is wrong.
#[derive(Clone)]
struct At {
    file: PathBuf,
    line: Option<u64>,
}

/// A head that must be on the chain.
struct Mark {
    head: Head,
    /// Who names it.
    by: &'static str,
    met: bool,
}

impl Mark {
    fn new(head: &Head, by: &'static str) -> Self {
        Self { head: head.clone(), by, met: *head == Head::default() }
    }
}

struct Walk {
    /// What comes before this line need not be here.
    from: u64,
    report: Report,
    /// The last line, and its time.
    last: Option<(Head, Timestamp)>,
    /// Where the line after it should be.
    next: At,
    marks: Vec<Mark>,
    /// Damage that the audit itself tells of: what comes after it is looked at all the same.
    first_fault: Option<Box<Fault>>,
}

impl Walk {
    fn new(next: At, from: u64) -> Self {
        Self { from, report: Report::default(), last: None, next, marks: Vec::new(), first_fault: None }
    }

    fn file(
        &mut self,
        source: &Source,
        watch: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> Result<(), VerifyError> {
        let mut at = At { file: source.path.clone(), line: Some(0) };
        let failed = |error| VerifyError::Read { path: source.path.clone(), error };
        let file = source.open().map_err(failed)?;
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER, file.take(source.len)));
        let mut told = 0;
        self.report.files += 1;
        loop {
            at.line = at.line.map(|line| line + 1);
            let next = lines.next().map_err(failed)?;
            match next {
                Next::Line(line) => self.line(line, &at, source.aside.as_ref())?,
                Next::TooLong => {
                    return Err(self.broken(&at, self.next_sequence(), "it is too long for a line".into()));
                }
                Next::Torn if source.aside.is_none() => {
                    self.report.torn_tail = true;
                    break;
                }
                Next::Torn => return Err(self.broken(&at, self.next_sequence(), "it has no end".into())),
                Next::End => break,
            }
            if lines.read >= told + TOLD {
                told = lines.read;
                watch(told).map_err(failed)?;
            }
        }
        watch(source.len).map_err(failed)?;
        self.next = at;
        Ok(())
    }

    fn line(&mut self, line: &[u8], at: &At, aside: Option<&Aside>) -> Result<(), VerifyError> {
        let link = Link::parse(line).map_err(|reason| self.broken(at, self.next_sequence(), reason))?;
        let sequence = link.head.sequence;
        let broken = |walk: &Self, reason| Err(walk.broken(at, Some(sequence), reason));
        let mut restarts = false;
        if let Some((outcome, reason)) = &link.recovery {
            self.report.recoveries.push((sequence, reason.clone()));
            restarts = outcome == FAILED;
            if restarts && self.first_fault.is_none() {
                let reason = format!("the audit was found damaged: {reason}");
                self.first_fault = Some(Box::new(self.fault(at, Some(sequence), reason)));
            }
        }
        if at.line == Some(1) && sequence > 1 && !link.opens {
            return broken(self, "no file begins with this line: those before it were cut away".into());
        }
        let misfit = match &self.last {
            Some((last, _)) if restarts && sequence > last.sequence => None,
            Some((last, time)) => link.misfit(last, *time),
            None => self.begin(&link),
        };
        if let Some(reason) = misfit {
            return broken(self, reason);
        }
        if let Some(aside) = aside.filter(|aside| aside.copy == 0 && at.line == Some(1))
            && aside.first != sequence
        {
            return broken(self, "it is not the line that the name of its file says".into());
        }
        if let Some(by) = self.meet(&link.head) {
            return broken(self, format!("it is not the line that {by} names"));
        }
        self.last = Some((link.head, link.time));
        self.report.events += 1;
        Ok(())
    }

    /// What is wrong with the very first line, if anything.
    fn begin(&mut self, link: &Link) -> Option<String> {
        let sequence = link.head.sequence;
        self.report.first_sequence = sequence;
        self.report.starts_midway = sequence > 1;
        if sequence > self.from {
            let missing = lines(1, sequence - 1);
            let hint = format!("if older files were archived on purpose, verify with --from {sequence}");
            return Some(format!("all begins here: {missing} missing; {hint}"));
        }
        let before = Head { sequence: sequence - 1, hash: link.prev.clone() };
        if sequence == 1 && before != Head::default() {
            return Some("it is the first, but has a line before it".into());
        }
        self.meet(&before).map(|by| format!("it does not follow the line that {by} names"))
    }

    /// Holds a place on the chain against those that are expected; returns who names another.
    fn meet(&mut self, place: &Head) -> Option<&'static str> {
        for mark in self.marks.iter_mut().filter(|mark| mark.head.sequence == place.sequence) {
            if mark.head.hash != place.hash {
                return Some(mark.by);
            }
            mark.met = true;
        }
        None
    }

    fn end(mut self) -> Result<Report, VerifyError> {
        if let Some(mut fault) = self.first_fault.take() {
            fault.recoveries = self.report.recoveries;
            return Err(VerifyError::Broken(fault));
        }
        let last = self.last.as_ref().map(|(head, _)| head.clone()).unwrap_or_default();
        if let Some(Mark { head, by, .. }) = self.marks.iter().find(|mark| !mark.met) {
            let wanted = head.sequence;
            let reason = if wanted > last.sequence {
                let (gone, ends) = (lines(last.sequence + 1, wanted), last.sequence);
                format!("the chain ends with {ends}, but {by} names {wanted}: {gone} cut off")
            } else if wanted < self.report.first_sequence {
                format!("{by} names {wanted}, which is older than the oldest line: it cannot be looked at")
            } else {
                format!("{by} names {wanted}, which is not on the chain")
            };
            return Err(self.broken(&self.next, Some(wanted), reason));
        }
        self.report.head = last;
        Ok(self.report)
    }

    /// The sequence that the next line should have, where it is known.
    fn next_sequence(&self) -> Option<u64> {
        self.last.as_ref().map(|(last, _)| last.sequence + 1)
    }

    fn broken(&self, at: &At, sequence: Option<u64>, reason: String) -> VerifyError {
        // What the audit itself tells of came first.
        let fault = self.first_fault.clone().unwrap_or_else(|| Box::new(self.fault(at, sequence, reason)));
        VerifyError::Broken(Box::new(Fault { recoveries: self.report.recoveries.clone(), ..*fault }))
    }

    fn fault(&self, at: &At, sequence: Option<u64>, reason: String) -> Fault {
        let (file, line) = (at.file.clone(), at.line);
        Fault { file, line, sequence, reason, recoveries: self.report.recoveries.clone() }
    }
}
