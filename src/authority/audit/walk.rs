//! A walk through all lines of an audit, which notes each damage and goes on behind it.

use std::io::BufReader;
use std::io::Read as _;
use std::path::PathBuf;

use aws_lc_rs::digest;

use super::Head;
use super::damage::Acceptance;
use super::damage::Damage;
use super::files::Aside;
use super::files::Source;
use super::line::FAILED;
use super::line::Lines;
use super::line::Link;
use super::line::Next;
use super::line::hash;
use super::line::hex;
use super::line::lines;
use super::verify::Fault;
use super::verify::Report;
use super::verify::VerifyError;
use crate::clock::Timestamp;

/// How much of a file is read at once, bytes.
const BUFFER: usize = 256 * 1024;
/// After how many bytes the progress is told.
const TOLD: u64 = 1024 * 1024;

/// Where something is wrong.
#[derive(Clone)]
pub(super) struct At {
    pub(super) file: PathBuf,
    pub(super) line: Option<u64>,
}

/// A head that must be on the chain.
struct Mark {
    head: Head,
    /// Who names it.
    by: &'static str,
    met: bool,
}

/// A fault, and the damage that a person can accept.
struct FoundFault {
    fault: Box<Fault>,
    damage: Option<Damage>,
    /// How many recoveries the audit tells of before it; `None` for all that it tells of.
    recoveries: Option<usize>,
}

/// Damaged lines that no whole line follows yet.
struct Gap {
    fault: FoundFault,
    after: Head,
    bytes: digest::Context,
}

pub(super) struct Walk {
    /// What comes before this line need not be here.
    from: u64,
    report: Report,
    /// The last whole line, and its time.
    last: Option<(Head, Timestamp)>,
    /// Where the line after it should be.
    next: At,
    marks: Vec<Mark>,
    faults: Vec<FoundFault>,
    gap: Option<Gap>,
    acceptances: Vec<Acceptance>,
}

impl Walk {
    pub(super) fn new(next: At, from: u64) -> Self {
        Self {
            from,
            report: Report::default(),
            last: None,
            next,
            marks: Vec::new(),
            faults: Vec::new(),
            gap: None,
            acceptances: Vec::new(),
        }
    }

    /// A head that must be met, and who names it.
    pub(super) fn mark(&mut self, head: &Head, by: &'static str) {
        self.marks.push(Mark { head: head.clone(), by, met: *head == Head::default() });
    }

    pub(super) fn file(
        &mut self,
        source: &Source,
        watch: &mut dyn FnMut(u64) -> std::io::Result<()>,
    ) -> Result<(), VerifyError> {
        let mut at = At { file: source.path.clone(), line: Some(0) };
        let failed = |error| VerifyError::Read { path: source.path.clone(), error };
        let file = source.open().map_err(failed)?;
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER, file.take(source.len)));
        let mut told = 0;
        self.report.files += 1;
        loop {
            at.line = at.line.map(|line| line + 1);
            match lines.next().map_err(failed)? {
                Next::Line(line) => self.line(line, &at, source.aside.as_ref()),
                Next::TooLong(sum) => {
                    self.garbage(&at, self.next_sequence(), "it is too long for a line", &sum)
                }
                Next::Torn(_) if source.aside.is_none() => {
                    self.report.torn_tail = true;
                    break;
                }
                Next::Torn(sum) => {
                    self.garbage(&at, self.next_sequence(), "it has no end", &sum);
                    break;
                }
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

    fn line(&mut self, line: &[u8], at: &At, aside: Option<&Aside>) {
        let link = match Link::parse(line) {
            Ok(link) => link,
            Err(reason) => return self.garbage(at, self.next_sequence(), &reason, &hash(line)),
        };
        let sequence = link.head.sequence;
        let misfit = self.misfit(&link, at, aside);
        if self.last.as_ref().is_some_and(|(last, _)| sequence <= last.sequence) {
            let reason = misfit.unwrap_or_default();
            return self.garbage(at, Some(sequence), &reason, &hash(line));
        }
        if self.last.is_none() {
            self.report.first_sequence = sequence;
            self.report.starts_midway = sequence > 1;
        }
        if let Some((outcome, reason)) = &link.recovery {
            self.report.recoveries.push((sequence, reason.clone()));
            if outcome == FAILED {
                self.close(Some(&link));
                self.joint(at, &link, format!("the audit was found damaged: {reason}"));
                // This one is told with all that the audit tells of itself.
                self.faults.last_mut().into_iter().for_each(|found| found.recoveries = None);
            }
        }
        // What lies between two whole lines is one damage.
        match misfit {
            _ if self.gap.is_some() => self.close(Some(&link)),
            Some(reason) if !is_restart(&link) => self.joint(at, &link, reason),
            _ => {}
        }
        self.hold_against_marks(&link, at);
        self.acceptances.extend(link.accepts.map(|acceptance| Acceptance { sequence, ..acceptance }));
        self.last = Some((link.head, link.time));
        self.report.events += 1;
    }

    /// The fault of a whole line in this place.
    fn misfit(&self, link: &Link, at: &At, aside: Option<&Aside>) -> Option<String> {
        let sequence = link.head.sequence;
        if at.line == Some(1) && sequence > 1 && !link.opens {
            return Some("no file begins with this line: those before it were cut away".into());
        }
        let misfit = match &self.last {
            Some((last, _)) if is_restart(link) && sequence > last.sequence => None,
            Some((last, time)) => link.misfit(last, *time),
            None => self.misfit_of_first(link),
        };
        let renamed =
            aside.is_some_and(|aside| aside.copy == 0 && at.line == Some(1) && aside.first != sequence);
        misfit.or_else(|| renamed.then(|| "it is not the line that the name of its file says".into()))
    }

    /// The fault of the very first line.
    fn misfit_of_first(&self, link: &Link) -> Option<String> {
        let sequence = link.head.sequence;
        if sequence > self.from {
            let missing = lines(1, sequence - 1);
            let hint = format!("if older files were archived on purpose, verify with --from {sequence}");
            return Some(format!("all begins here: {missing} missing; {hint}"));
        }
        (sequence == 1 && link.prev != Head::default().hash)
            .then(|| "it is the first, but has a line before it".into())
    }

    /// Holds a whole line, and the one that it names before it, against the heads that are expected. No acceptance
    /// covers a head that was noted.
    fn hold_against_marks(&mut self, link: &Link, at: &At) {
        let sequence = link.head.sequence;
        let mut wrong = None;
        if self.last.is_none() {
            let before = Head { sequence: sequence - 1, hash: link.prev.clone() };
            wrong = self.meet(&before).map(|by| format!("it does not follow the line that {by} names"));
        }
        let own = self.meet(&link.head).map(|by| format!("it is not the line that {by} names"));
        if let Some(reason) = wrong.or(own) {
            let fault = self.found(at, Some(sequence), &reason);
            self.faults.push(fault);
        }
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

    /// Notes bytes that are no whole line in their place.
    fn garbage(&mut self, at: &At, sequence: Option<u64>, reason: &str, sum: &str) {
        if self.gap.is_none() {
            let after = self.last.as_ref().map(|(head, _)| head.clone()).unwrap_or_default();
            let (fault, bytes) = (self.found(at, sequence, reason), digest::Context::new(&digest::SHA256));
            self.gap = Some(Gap { fault, after, bytes });
        }
        self.gap.iter_mut().for_each(|gap| gap.bytes.update(sum.as_bytes()));
    }

    /// Ends the damage that is open; without a line behind it nothing bounds it.
    fn close(&mut self, link: Option<&Link>) {
        let Some(Gap { mut fault, after, bytes }) = self.gap.take() else { return };
        let found = hex(bytes.finish().as_ref());
        fault.damage = link.map(|link| damage(&fault.fault, &after, found, link));
        self.faults.push(fault);
    }

    /// Notes a whole line that does not follow the one before it.
    fn joint(&mut self, at: &At, link: &Link, reason: String) {
        let mut fault = self.found(at, Some(link.head.sequence), &reason);
        let after = self.last.as_ref().map(|(head, _)| head.clone()).unwrap_or_default();
        fault.damage = Some(damage(&fault.fault, &after, link.prev.clone(), link));
        self.faults.push(fault);
    }

    /// Fails with the first damage that is not accepted; the error lists all others.
    pub(super) fn settle(&mut self) -> Result<(), VerifyError> {
        self.close(None);
        let mut faults = std::mem::take(&mut self.faults);
        for acceptance in std::mem::take(&mut self.acceptances) {
            let covers = |found: &FoundFault| {
                found.damage.as_ref().is_some_and(|damage| damage.is_same(&acceptance.damage))
            };
            if faults.iter().any(covers) {
                faults.retain(|found| !covers(found));
                self.report.accepted.push(acceptance);
            }
        }
        let (count, recoveries) = (faults.len(), &self.report.recoveries);
        let damages = faults.iter().filter_map(|found| found.damage.clone()).collect();
        let Some(first) = faults.into_iter().next() else { return Ok(()) };
        let told = first.recoveries.and_then(|told| recoveries.get(..told)).unwrap_or(recoveries).to_vec();
        Err(VerifyError::Broken(Box::new(Fault { recoveries: told, damages, count, ..*first.fault })))
    }

    pub(super) fn end(mut self) -> Result<Report, VerifyError> {
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

    /// A fault of the audit as a whole, which no acceptance covers.
    pub(super) fn broken(&self, at: &At, sequence: Option<u64>, reason: String) -> VerifyError {
        let found = self.found(at, sequence, &reason);
        VerifyError::Broken(Box::new(Fault { recoveries: self.report.recoveries.clone(), ..*found.fault }))
    }

    /// The sequence that the next line should have, where it is known.
    fn next_sequence(&self) -> Option<u64> {
        self.last.as_ref().map(|(last, _)| last.sequence + 1)
    }

    fn found(&self, at: &At, sequence: Option<u64>, reason: &str) -> FoundFault {
        let (file, line, reason) = (at.file.clone(), at.line, reason.to_owned());
        let fault =
            Fault { file, line, sequence, reason, recoveries: Vec::new(), damages: Vec::new(), count: 1 };
        FoundFault { fault: Box::new(fault), damage: None, recoveries: Some(self.report.recoveries.len()) }
    }
}

/// Returns whether the line says that the audit found damage, and went on in a new file.
fn is_restart(link: &Link) -> bool {
    link.recovery.as_ref().is_some_and(|(outcome, _)| outcome == FAILED)
}

fn damage(fault: &Fault, after: &Head, found: String, link: &Link) -> Damage {
    Damage {
        file: fault.file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        line: fault.line.unwrap_or_default(),
        reason: fault.reason.clone(),
        after: after.to_string(),
        found,
        resumes: link.head.to_string(),
    }
}
