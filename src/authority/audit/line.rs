//! One line of the chain: how it is sealed, and how it is told whether a seal holds.

use std::fmt::Write as _;
use std::io;
use std::io::BufRead;
use std::io::Read as _;

use aws_lc_rs::digest;

use super::MAX_LINE;
use super::damage::Acceptance;
use super::head::Head;
use super::head::LAST_SEQUENCE;
use super::head::is_hash;
use super::members::Members;
use crate::clock::Timestamp;

/// Between what is hashed and the hash.
const SEAL: &[u8] = br#","hash":""#;
/// After the hash.
const CLOSE: &[u8] = br#""}"#;
/// The action of lines that the audit writes about itself.
pub(super) const RECOVERED: &str = "audit_recovered";
/// The action of the first line of a file that goes on with the one before it.
pub(super) const CONTINUED: &str = "audit_continued";
/// The action of the line by which a person accepts damage.
pub(super) const ACCEPTED: &str = "audit_accepted";
/// The outcome of a line of `RECOVERED` when more is wrong than a write that was interrupted.
pub(super) const FAILED: &str = "failed";
/// The outcome of what a caller may not do.
pub(super) const REFUSED: &str = "refused";
/// The last time that RFC 3339 can express: what is written must be readable again.
const LAST_TIME: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// A line as it goes to disk, its newline included, and the head that the chain has with it.
pub(super) struct Sealed {
    pub(super) text: String,
    pub(super) head: Head,
    pub(super) time: Timestamp,
}

/// Puts an entry's members in their place behind `last`.
pub(super) fn seal(last: &Head, time: Timestamp, members: &str) -> Sealed {
    let (sequence, time) = (last.sequence + 1, time.min(LAST_TIME));
    let prev = &last.hash;
    let mut text = format!(r#"{{"sequence":{sequence},"time":"{time}",{members},"prev":"{prev}""#);
    let hash = hash(text.as_bytes());
    text.push_str(r#","hash":""#);
    text.push_str(&hash);
    text.push_str("\"}\n");
    Sealed { text, head: Head { sequence, hash }, time }
}

/// SHA-256, lower-case hexadecimal.
pub(super) fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What chains a line to its neighbours, of a line whose own hash is right.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) head: Head,
    pub(super) prev: String,
    pub(super) time: Timestamp,
    /// Whether a file may begin with it, besides the first line of all.
    pub(super) opens: bool,
    /// The outcome and reason of a line that the audit wrote about itself.
    pub(super) recovery: Option<(String, String)>,
    /// The damage that a person accepts with it.
    pub(super) accepts: Option<Acceptance>,
}

impl Link {
    /// Reads a line without its newline; the error says what is wrong with it.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        if line.len() > MAX_LINE {
            return Err(format!("it is longer than {MAX_LINE} bytes"));
        }
        let (hashed, sealed) =
            split(line).ok_or("it is not a line of an audit: it does not end in a hash")?;
        if hash(hashed).as_bytes() != sealed {
            return Err("it was changed: its hash does not fit it".into());
        }
        let members = Members::parse(line).map_err(|e| format!("it does not parse: {e}"))?;
        if !(1..=LAST_SEQUENCE).contains(&members.sequence) || !is_hash(&members.prev) {
            return Err("it is not a line of an audit: no such sequence or previous hash".into());
        }
        let restarts = members.action == RECOVERED && members.outcome == FAILED;
        let opens = restarts || members.action == CONTINUED;
        let reason = || members.reason.unwrap_or_else(|| "no reason given".into());
        let (mut recovery, mut accepts) = (None, None);
        match (members.action.as_str(), members.damage) {
            (RECOVERED, _) => recovery = Some((members.outcome, reason())),
            (ACCEPTED, Some(damage)) => {
                let (sequence, actor) = (members.sequence, members.actor.unwrap_or_default());
                accepts = Some(Acceptance { sequence, actor, reason: reason(), damage });
            }
            _ => {}
        }
        let hash = String::from_utf8_lossy(sealed).into_owned();
        let head = Head { sequence: members.sequence, hash };
        Ok(Self { head, prev: members.prev, time: members.time, opens, recovery, accepts })
    }

    /// What is wrong with this line behind `last`, if anything.
    pub(super) fn misfit(&self, last: &Head, time: Timestamp) -> Option<String> {
        let (own, before) = (self.head.sequence, last.sequence);
        if own > before + 1 {
            return Some(format!("it follows {before}: {} missing", lines(before + 1, own - 1)));
        }
        if own <= before {
            return Some(format!("it follows {before}: a line is repeated, or out of its order"));
        }
        if self.prev != last.hash {
            return Some("its `prev` is not the hash of the line before it: one of them was replaced".into());
        }
        (self.time < time).then(|| format!("its time, {}, is before that of the line before it", self.time))
    }
}

/// "line 4 is", "lines 4 to 6 are".
pub(super) fn lines(from: u64, to: u64) -> String {
    if from == to { format!("line {from} is") } else { format!("lines {from} to {to} are") }
}

fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(CLOSE)?;
    let (rest, hash) = line.split_at_checked(line.len().checked_sub(64)?)?;
    Some((rest.strip_suffix(SEAL)?, hash))
}

/// What comes next in a file.
pub(super) enum Next<'a> {
    /// A line, without its newline.
    Line(&'a [u8]),
    /// The SHA-256 of a line longer than any that is written.
    TooLong(String),
    /// The SHA-256 of what comes after the last newline.
    Torn(String),
    /// Nothing.
    End,
}

/// Reads lines one by one, in bounded memory whatever the file holds.
pub(super) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    /// How many bytes have been read.
    pub(super) read: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: Vec::new(), read: 0 }
    }

    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        self.line.clear();
        let most = u64::try_from(MAX_LINE).unwrap_or(u64::MAX) + 2;
        let read = self.reader.by_ref().take(most).read_until(b'\n', &mut self.line)?;
        self.read += u64::try_from(read).unwrap_or_default();
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            return Ok(Next::Line(&self.line));
        }
        match self.line.len() {
            0 => Ok(Next::End),
            len if len > MAX_LINE => self.skip(),
            _ => Ok(Next::Torn(hash(&self.line))),
        }
    }

    /// To the end of a line that is too long.
    fn skip(&mut self) -> io::Result<Next<'_>> {
        let mut sum = digest::Context::new(&digest::SHA256);
        sum.update(&self.line);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(Next::Torn(hex(sum.finish().as_ref())));
            }
            let newline = buffer.iter().position(|byte| *byte == b'\n');
            let used = newline.map_or(buffer.len(), |at| at + 1);
            sum.update(buffer.get(..used).unwrap_or(buffer));
            self.reader.consume(used);
            self.read += u64::try_from(used).unwrap_or_default();
            if newline.is_some() {
                return Ok(Next::TooLong(hex(sum.finish().as_ref())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERS: &str = r#""action":"revoke","outcome":"applied""#;

    #[test]
    fn a_sealed_line_is_hashed_as_the_format_says() {
        let time = Timestamp::from_secs(1_800_000_000);
        let sealed = seal(&Head::default(), time, MEMBERS);
        let line = sealed.text.strip_suffix('\n').unwrap();
        let (before, after) = line.split_once(r#","hash":""#).unwrap();
        assert_eq!(after, format!("{}\"}}", hash(before.as_bytes())));
        let link = Link::parse(line.as_bytes()).unwrap();
        assert_eq!((link.head, link.prev, link.time), (sealed.head, Head::default().hash, time));
        assert_eq!(hash(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_time_beyond_all_calendars_can_be_read_again() {
        let sealed = seal(&Head::default(), Timestamp::MAX, MEMBERS);
        assert!(Link::parse(sealed.text.trim_end().as_bytes()).is_ok());
    }

    #[test]
    fn lines_of_any_length_are_passed_over_in_bounded_memory() {
        let text = [b"a\n".as_slice(), &vec![b'x'; 5 * MAX_LINE], b"\nb\n\nc"].concat();
        let mut lines = Lines::new(io::BufReader::new(text.as_slice()));
        assert!(matches!(lines.next().unwrap(), Next::Line(b"a")));
        assert!(matches!(lines.next().unwrap(), Next::TooLong(_)));
        assert!(matches!(lines.next().unwrap(), Next::Line(b"b")));
        assert!(matches!(lines.next().unwrap(), Next::Line(b"")));
        assert!(matches!(lines.next().unwrap(), Next::Torn(_)));
        assert!(matches!(lines.next().unwrap(), Next::End));
        assert_eq!(lines.read, text.len() as u64);
        assert!(lines.line.capacity() < 4 * MAX_LINE);
    }
}
