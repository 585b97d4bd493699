//! The audit: one JSON line for each change, on disk before the change is acknowledged.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Serialize;

use crate::clock::Timestamp;

const FILE: &str = "audit.jsonl";

/// The audit file cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}", path = path.display())]
pub struct AuditError {
    path: PathBuf,
    #[source]
    error: std::io::Error,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    /// When it was written.
    pub(super) at: Timestamp,
    /// The id of the event.
    pub(super) id: String,
    /// What was asked.
    pub(super) action: &'static str,
    pub(super) level: &'static str,
    pub(super) target: String,
    pub(super) issuer: Option<String>,
    pub(super) reason: Option<String>,
    /// Who asked, from where, in which request.
    pub(super) actor: String,
    pub(super) address: String,
    pub(super) request_id: String,
    /// What became of it.
    pub(super) outcome: &'static str,
    pub(super) generation: u64,
    pub(super) sessions_ended: usize,
}

/// The audit file of a state directory. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl Audit {
    /// Opens the audit file, or makes it; what is in it stays.
    pub fn open(directory: &Path) -> Result<Self, AuditError> {
        let path = directory.join(FILE);
        let opened = OpenOptions::new().append(true).create(true).open(&path);
        let file = opened.map_err(|error| AuditError { path: path.clone(), error })?;
        Ok(Self { path, file: Arc::new(Mutex::new(file)) })
    }

    /// Writes a line, and returns once it is on disk.
    pub(super) async fn write(&self, line: Line) -> Result<(), AuditError> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let written = tokio::task::spawn_blocking(move || {
            let mut text = serde_json::to_vec(&line)?;
            text.push(b'\n');
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all(&text)?;
            file.sync_data()
        });
        written.await.unwrap_or_else(|e| Err(e.into())).map_err(|error| AuditError { path, error })
    }
}
