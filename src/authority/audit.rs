//! The audit: one JSON line for each change, on disk before the change is acknowledged.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::Caller;
use crate::clock::Timestamp;
use crate::revocation::Event;

const FILE: &str = "audit.jsonl";
/// How long a caller waits for a disk that neither writes nor fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// The audit file cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}", path = path.display())]
pub struct AuditError {
    path: PathBuf,
    #[source]
    error: io::Error,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    /// When it was decided.
    pub(super) at: Timestamp,
    /// The id of the event.
    pub(super) id: String,
    /// What was asked.
    pub(super) action: &'static str,
    pub(super) level: &'static str,
    pub(super) target: String,
    pub(super) issuer: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) issued_before: Option<i64>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) force: bool,
    /// Who asked, from where, in which request.
    pub(super) actor: String,
    pub(super) address: String,
    pub(super) request_id: String,
    /// What became of it.
    pub(super) outcome: &'static str,
    pub(super) generation: u64,
    pub(super) sessions_ended: usize,
}

impl Line {
    /// What was asked; what became of it is filled in later.
    pub(super) fn new(event: &Event, caller: &Caller) -> Self {
        Self {
            at: event.at,
            id: event.id.clone(),
            action: event.action.name(),
            level: event.target.level().name(),
            target: event.target.name().to_owned(),
            issuer: event.target.issuer().map(str::to_owned),
            reason: event.reason.clone(),
            issued_before: event.issued_before,
            expires_at: event.expires_at,
            force: event.force,
            actor: event.actor.clone().unwrap_or_default(),
            address: caller.address.to_string(),
            request_id: caller.request_id.clone(),
            outcome: "",
            generation: 0,
            sessions_ended: 0,
        }
    }
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
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = opened.map_err(|error| AuditError { path: path.clone(), error })?;
        Ok(Self { path, file: Arc::new(Mutex::new(file)) })
    }

    /// Whether a state directory's audit has anything in it.
    pub fn tells_of_changes(directory: &Path) -> bool {
        std::fs::metadata(directory.join(FILE)).is_ok_and(|file| file.len() > 0)
    }

    /// Writes a line, and returns once it is on disk.
    pub(super) async fn write(&self, line: Line) -> Result<(), AuditError> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        let written = tokio::task::spawn_blocking(move || append(&file, &line));
        let written = match timeout(PATIENCE, written).await {
            Ok(written) => written.unwrap_or_else(|e| Err(e.into())),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        written.map_err(|error| AuditError { path, error })
    }
}

fn append(file: &Mutex<File>, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    let whole = file.metadata()?.len();
    let written = file.write_all(&text).and_then(|()| file.sync_data());
    if written.is_err() {
        // A torn line would swallow the one after it. If even this fails, the next line says so by not parsing.
        let _ = file.set_len(whole);
    }
    written
}
