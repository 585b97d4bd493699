//! The files as their one writer has them: what is appended, when a new one is begun, what is checked before.
//!
//! **Invariant:** `head` names the last line that a sync has returned for, and the head file never names a later one.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;

use super::AuditError;
use super::Entry;
use super::files;
use super::files::CURRENT;
use super::files::leads_to;
use super::head::FILE;
use super::head::Head;
use super::head::HeadFile;
use super::line::seal;
use super::recover::Expected;
use super::recover::Recovered;
use super::recover::continued;
use super::recover::notice;
use super::recover::recover;
use super::trail::Receipt;
use crate::clock::Timestamp;

/// What one write and one sync hold at most: lines, and bytes but for the last line.
const BATCH: usize = 4096;
const BATCH_BYTES: usize = 1024 * 1024;

/// The files of an audit, open for writing.
pub(super) struct Store {
    directory: PathBuf,
    max_bytes: u64,
    /// What is open and how it ends.
    now: Recovered,
    /// A write failed: what comes after the last line is ours, and goes.
    dirty: bool,
    head_file: HeadFile,
    /// Whether the head file names the head.
    remembered: bool,
}

impl Store {
    /// Opens what is in a directory, or begins it. What was wrong is in the log, and in entries to be written first.
    pub(super) fn open(directory: &Path, max_bytes: u64) -> Result<(Self, Vec<Entry>), AuditError> {
        let failed = |e: io::Error| AuditError::Read { path: directory.to_owned(), error: e.to_string() };
        let expected = Expected::read(directory).map_err(failed)?;
        let head_file = match HeadFile::open(directory).map_err(failed)? {
            Some(file) => file,
            None => HeadFile::create(directory, &Head::default()).map_err(failed)?,
        };
        if !head_file.lock().map_err(failed)? {
            return Err(AuditError::InUse(directory.join(FILE)));
        }
        let (now, notices) = recover(directory, &expected).map_err(failed)?;
        let remembered = false;
        let directory = directory.to_owned();
        Ok((Self { directory, max_bytes, now, dirty: false, head_file, remembered }, notices))
    }

    /// The last line on disk.
    pub(super) fn head(&self) -> &Head {
        &self.now.head
    }

    /// Sees to it that the next line can follow the last one: what a failed write left is cut off; files that somebody
    /// took away, replaced or wrote to are not gone on with. Returns what was wrong, to be written first.
    pub(super) fn ready(&mut self) -> io::Result<Vec<Entry>> {
        let mut notices = Vec::new();
        let path = self.directory.join(CURRENT);
        let len = self.now.file.metadata()?.len();
        let in_place = leads_to(&path, &self.now.file)?;
        if in_place && self.dirty && len >= self.now.len {
            self.now.file.set_len(self.now.len)?;
            self.dirty = false;
        } else if !in_place || len != self.now.len {
            let (now, wrong) = recover(&self.directory, &Expected::Exactly(self.now.head.clone()))?;
            (self.now, self.dirty) = (now, false);
            notices.extend(wrong);
        }
        if !self.head_file.is_in_place()? {
            let reason = format!("{FILE} was removed or replaced while it was in use");
            tracing::error!(reason, "audit: damaged");
            self.head_file = HeadFile::create(&self.directory, &self.now.head)?;
            self.head_file.lock()?;
            notices.push(notice("failed", reason));
        }
        Ok(notices)
    }

    /// Writes as many lines as go into one file and one batch, and returns where they stand, once they are on disk.
    /// A line that begins a file stands behind one that says so, which has no receipt.
    pub(super) fn commit<'a>(
        &mut self,
        lines: impl Iterator<Item = (Timestamp, &'a str)>,
    ) -> io::Result<Vec<Receipt>> {
        let (mut text, mut receipts) = (String::new(), Vec::new());
        let (mut head, mut last) = (self.now.head.clone(), self.now.time);
        for (time, members) in lines {
            let mut sealed = seal(&head, time.max(last), members);
            let grown = size(text.len()).saturating_add(size(sealed.text.len()));
            if self.now.len.saturating_add(grown) > self.max_bytes {
                if !text.is_empty() {
                    break;
                }
                self.rotate()?;
            }
            if text.is_empty() && self.now.first.is_none() && self.now.goes_on {
                // In one write with the line behind it: a batch without receipts would pass for the last.
                let opening = seal(&head, time.max(last), &continued().members()?);
                sealed = seal(&opening.head, opening.time, members);
                text.push_str(&opening.text);
            }
            text.push_str(&sealed.text);
            (head, last) = (sealed.head, sealed.time);
            receipts.push(Receipt { sequence: head.sequence, hash: head.hash.clone() });
            if receipts.len() >= BATCH || text.len() >= BATCH_BYTES {
                break;
            }
        }
        self.write(&text)?;
        let next = self.now.head.sequence + 1;
        self.now.first = self.now.first.or((!text.is_empty()).then_some(next));
        (self.now.head, self.now.time) = (head, last);
        self.remembered = self.remembered && receipts.is_empty();
        Ok(receipts)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.dirty = true;
        let file = &self.now.file;
        let written = file.write_all_at(text.as_bytes(), self.now.len).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // At once, so that nobody reads half a line. If this fails, `ready` tries it again.
            let _ = file.set_len(self.now.len);
            return Err(error);
        }
        self.now.len += size(text.len());
        self.dirty = false;
        Ok(())
    }

    /// Lets the head file follow the head.
    pub(super) fn remember(&mut self) -> io::Result<()> {
        if !self.remembered {
            self.head_file.write(&self.now.head)?;
            self.remembered = true;
        }
        Ok(())
    }

    /// Puts a full file aside and begins a new one. The head file goes first, so that it never lags behind by a file.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(first) = self.now.first else {
            return Ok(());
        };
        self.remember()?;
        files::put_aside(&self.directory, first)?;
        self.now.file = files::begin(&self.directory)?;
        (self.now.first, self.now.goes_on, self.now.len) = (None, true, 0);
        Ok(())
    }
}

fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
