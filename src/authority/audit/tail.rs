//! The end of a file: whether it fits the head that is remembered, without reading the rest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::head::Head;
use super::line::Link;
use super::line::lines;

/// How much of a file is read at first, bytes; then sixteen times as much, up to `LAST`.
const WINDOW: u64 = 64 * 1024;
const LAST: u64 = 16 * 1024 * 1024;

/// How a file has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// With the head, or with lines that are chained to it: those that were written when the process was killed.
    AtLeast,
    /// With the head: nobody else writes.
    Exactly,
}

/// How a file that fits ends.
#[derive(Debug)]
pub(super) struct End {
    /// Its last line; `None` if it has none.
    pub(super) last: Option<Link>,
    /// Where its last line ends, bytes.
    pub(super) whole: u64,
    /// What comes after that: a write that was interrupted, never answered.
    pub(super) torn: Vec<u8>,
}

/// A file that does not fit.
#[derive(Debug, thiserror::Error)]
pub(super) enum Misfit {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Lines(String),
}

/// Reads the end of a file and holds it against the head.
pub(super) fn read(file: &File, head: &Head, fit: Fit) -> Result<End, Misfit> {
    let len = file.metadata()?.len();
    let mut size = WINDOW;
    loop {
        let (start, bytes) = window(file, len, size)?;
        let chunk = Chunk::new(start, &bytes);
        if let Some(next) = chunk.after(head) {
            return chunk.end(next, head, fit);
        }
        if start == 0 || size >= LAST {
            return Err(Misfit::Lines(chunk.without(head)));
        }
        size *= 16;
    }
}

/// The last line of a file that is what it says it is, wherever it belongs.
pub(super) fn last(file: &File) -> io::Result<Option<Link>> {
    let (start, bytes) = window(file, file.metadata()?.len(), LAST / 4)?;
    Ok(Chunk::new(start, &bytes).lines.into_iter().rev().find_map(|line| line.link.ok()))
}

/// The first line of a file; the error says what is wrong with it.
pub(super) fn first(file: &File) -> io::Result<Result<Link, String>> {
    let (_, bytes) = window(file, file.metadata()?.len().min(LAST / 8), LAST / 8)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Link::parse(line))
}

/// The last `size` bytes of a file, of which the first line may lack its front.
pub(super) fn newest(file: &File, size: u64) -> io::Result<Vec<u8>> {
    Ok(window(file, file.metadata()?.len(), size)?.1)
}

/// Up to `size` bytes before `len`, and where they start.
fn window(file: &File, len: u64, size: u64) -> io::Result<(u64, Vec<u8>)> {
    let start = len.saturating_sub(size);
    let mut bytes = vec![0; usize::try_from(len - start).unwrap_or_default()];
    file.read_exact_at(&mut bytes, start)?;
    Ok((start, bytes))
}

struct Line {
    /// Where it ends in the file, newline included.
    end: u64,
    link: Result<Link, String>,
    /// It has bytes that no line has: pages that were never written read as zeros.
    has_holes: bool,
}

/// The lines of a window, from the first that begins in it.
struct Chunk<'a> {
    bytes: &'a [u8],
    start: u64,
    lines: Vec<Line>,
}

impl<'a> Chunk<'a> {
    fn new(start: u64, bytes: &'a [u8]) -> Self {
        let mut end = start;
        let mut lines = Vec::new();
        for (index, piece) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            end += u64::try_from(piece.len()).unwrap_or_default();
            let Some(line) = piece.strip_suffix(b"\n") else { break };
            if index > 0 || start == 0 {
                lines.push(Line { end, link: Link::parse(line), has_holes: line.contains(&0) });
            }
        }
        Self { bytes, start, lines }
    }

    /// The index of the first line after the head; `None` if the head is not in this window.
    fn after(&self, head: &Head) -> Option<usize> {
        let is_head = |line: &Line| line.link.as_ref().is_ok_and(|link| link.head.sequence == head.sequence);
        if let Some(found) = self.lines.iter().position(is_head) {
            return Some(found + 1);
        }
        let follows = match self.lines.first() {
            None => true,
            Some(Line { link: Ok(link), .. }) => link.head.sequence == head.sequence + 1,
            Some(line) => line.has_holes,
        };
        (self.start == 0 && follows).then_some(0)
    }

    fn end(&self, next: usize, head: &Head, fit: Fit) -> Result<End, Misfit> {
        let (before, after) = self.lines.split_at_checked(next).unwrap_or_default();
        let mut last = before.last().and_then(|line| line.link.clone().ok());
        let mut whole = before.last().map_or(0, |line| line.end);
        if last.as_ref().is_some_and(|last| last.head.hash != head.hash) {
            return Err(Misfit::Lines(format!("its line {} is not the one that was written", head.sequence)));
        }
        for line in after {
            let (behind, time) = last.as_ref().map_or((head, None), |last| (&last.head, Some(last.time)));
            let fits = line.link.clone().and_then(|link| {
                let misfit = link.misfit(behind, time.unwrap_or(link.time));
                misfit.map_or(Ok(link), Err)
            });
            match fits {
                Ok(link) => (last, whole) = (Some(link), line.end),
                Err(_) if line.has_holes => break,
                Err(reason) => {
                    let sequence = behind.sequence + 1;
                    return Err(Misfit::Lines(format!("where line {sequence} should be: {reason}")));
                }
            }
        }
        let from = usize::try_from(whole.saturating_sub(self.start)).unwrap_or_default();
        let torn = self.bytes.get(from..).unwrap_or_default().to_vec();
        let grown = last.as_ref().is_some_and(|last| last.head.sequence > head.sequence);
        if fit == Fit::Exactly && (grown || !torn.is_empty()) {
            return Err(Misfit::Lines(format!("it holds more than was written up to {}", head.sequence)));
        }
        Ok(End { last, whole, torn })
    }

    /// Why the head is not here.
    fn without(&self, head: &Head) -> String {
        let wanted = head.sequence;
        match self.lines.last().map(|line| &line.link) {
            Some(Ok(link)) if link.head.sequence < wanted => {
                let ends = link.head.sequence;
                format!("it ends with {ends}: {} cut off", lines(ends + 1, wanted))
            }
            Some(Ok(_)) => format!("it does not hold {wanted}, the last that is known"),
            Some(Err(reason)) => format!("its last line: {reason}"),
            None => "it has no lines".into(),
        }
    }
}
