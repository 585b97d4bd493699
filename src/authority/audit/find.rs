//! Looking for events, in the files of a running gate or of one that is down.

use std::io;
use std::io::BufReader;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::AuditError;
use super::files;
use super::files::Source;
use super::line::Lines;
use super::line::Next;
use crate::clock::Timestamp;

/// How much of a file is read at once, bytes.
const BUFFER: usize = 256 * 1024;

/// Which events are wanted: those that have all that is given, compared as text, exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Who asked.
    pub actor: Option<String>,
    /// What was asked.
    pub action: Option<String>,
    /// What became of it.
    pub outcome: Option<String>,
    /// The level of the target.
    pub level: Option<String>,
    /// The target.
    pub target: Option<String>,
    /// The issuer.
    pub issuer: Option<String>,
    /// The principal, or a target of this name.
    pub principal: Option<String>,
    /// The serial, or a target of level `certificate` of this name.
    pub serial: Option<String>,
    /// The id of the event.
    pub id: Option<String>,
    /// What the caller calls the request.
    pub correlation_id: Option<String>,
    /// Not before this.
    pub since: Option<Timestamp>,
    /// Not after this.
    pub until: Option<Timestamp>,
    /// How many events a page holds at most.
    pub limit: usize,
    /// How many are passed over before the page.
    pub offset: usize,
    /// The newest event first; else the oldest.
    pub newest_first: bool,
}

impl Default for Query {
    /// The newest hundred of all events.
    fn default() -> Self {
        Self {
            actor: None,
            action: None,
            outcome: None,
            level: None,
            target: None,
            issuer: None,
            principal: None,
            serial: None,
            id: None,
            correlation_id: None,
            since: None,
            until: None,
            limit: 100,
            offset: 0,
            newest_first: true,
        }
    }
}

/// A part of what was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The events, each as its line has it.
    pub events: Vec<Value>,
    /// How many there are in all.
    pub total: usize,
    /// Lines that could not be read, and were passed over; [`verify`](super::verify) says what is wrong with them.
    pub unreadable: usize,
}

/// Looks for events in the files of a directory, whether a gate writes to them or not. Blocks.
pub fn find_in(directory: &Path, query: &Query) -> Result<Page, AuditError> {
    up_to(directory, query, u64::MAX)
}

/// The same, among the events up to a sequence.
pub(super) fn up_to(directory: &Path, query: &Query, sequence: u64) -> Result<Page, AuditError> {
    let failed =
        |path: &Path, e: &io::Error| AuditError::Read { path: path.to_owned(), error: e.to_string() };
    let (sources, _) = files::view(directory).map_err(|e| failed(directory, &e))?;
    // Counted first: which events are on the page depends on how many there are, and a page is all that is held.
    let mut page = Page::default();
    let mut counts = Vec::new();
    for source in &sources {
        let (mut count, mut unreadable) = (0, 0);
        let scan = Scan { query, sequence };
        scan.each(source, &mut unreadable, |_| count += 1).map_err(|e| failed(&source.path, &e))?;
        counts.push(page.total..page.total + count);
        page.total += count;
        page.unreadable += unreadable;
    }
    let wanted = query.range(page.total);
    for (source, held) in sources.iter().zip(counts) {
        if held.start >= wanted.end || held.end <= wanted.start {
            continue;
        }
        let mut index = held.start;
        let take = |line: &[u8]| {
            if wanted.contains(&index) {
                page.events.extend(serde_json::from_slice::<Value>(line).ok());
            }
            index += 1;
        };
        let scan = Scan { query, sequence };
        scan.each(source, &mut 0, take).map_err(|e| failed(&source.path, &e))?;
    }
    if query.newest_first {
        page.events.reverse();
    }
    Ok(page)
}

struct Scan<'a> {
    query: &'a Query,
    sequence: u64,
}

impl Scan<'_> {
    /// Calls `found` with each line that is wanted, in the order of the file.
    fn each(&self, source: &Source, unreadable: &mut usize, mut found: impl FnMut(&[u8])) -> io::Result<()> {
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER, source.open()?.take(source.len)));
        loop {
            match lines.next()? {
                Next::Line(line) => match serde_json::from_slice::<Members>(line) {
                    Ok(members) if members.sequence > self.sequence => {}
                    Ok(members) if self.query.wants(&members) => found(line),
                    Ok(_) => {}
                    Err(_) => *unreadable += 1,
                },
                Next::TooLong(_) => *unreadable += 1,
                // The newest file may end in a line that is just being written.
                Next::Torn(_) => *unreadable += usize::from(source.aside.is_some()),
                Next::End => return Ok(()),
            }
        }
    }
}

/// What a query can ask about.
#[derive(Deserialize)]
struct Members {
    sequence: u64,
    time: Timestamp,
    action: String,
    outcome: String,
    actor: Option<String>,
    level: Option<String>,
    target: Option<String>,
    issuer: Option<String>,
    principal: Option<String>,
    serial: Option<String>,
    id: Option<String>,
    correlation_id: Option<String>,
}

impl Query {
    fn wants(&self, members: &Members) -> bool {
        let same = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        let is = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|wanted| wanted == has);
        let certificate = members.level.as_deref() == Some("certificate");
        self.since.is_none_or(|since| members.time >= since)
            && self.until.is_none_or(|until| members.time <= until)
            && is(&self.action, &members.action)
            && is(&self.outcome, &members.outcome)
            && same(&self.actor, &members.actor)
            && same(&self.level, &members.level)
            && same(&self.target, &members.target)
            && same(&self.issuer, &members.issuer)
            && same(&self.id, &members.id)
            && same(&self.correlation_id, &members.correlation_id)
            && (same(&self.principal, &members.principal) || same(&self.principal, &members.target))
            && (same(&self.serial, &members.serial) || certificate && same(&self.serial, &members.target))
    }

    /// The events of the page, counted from the oldest.
    fn range(&self, total: usize) -> Range<usize> {
        if self.newest_first {
            let end = total.saturating_sub(self.offset);
            return end.saturating_sub(self.limit)..end;
        }
        let start = self.offset.min(total);
        start..start.saturating_add(self.limit).min(total)
    }
}
