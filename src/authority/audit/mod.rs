//! The audit: one hash-chained JSON line for each event, on disk before the event is acknowledged.

mod entry;
mod files;
mod find;
mod head;
mod line;
mod recover;
mod store;
mod tail;
mod trail;
mod verify;
mod writer;

use std::path::PathBuf;

use serde::Deserialize;

pub use entry::Entry;
pub use entry::Timeline;
pub use find::Page;
pub use find::Query;
pub use find::find_in;
pub use head::Head;
pub use head::HeadError;
pub use trail::Audit;
pub use trail::Receipt;
pub use verify::Fault;
pub use verify::Report;
pub use verify::VerifyError;
pub use verify::verify;

/// The longest line, bytes.
const MAX_LINE: usize = 1024 * 1024;

/// `[audit]`: how the audit is kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How large a file may grow, bytes, before a new one is begun. None is ever deleted.
    pub max_bytes: u64,
}

impl Config {
    /// The least that `max_bytes` may be.
    pub const MIN_BYTES: u64 = 4096;
}

impl Default for Config {
    fn default() -> Self {
        Self { max_bytes: 64 * 1024 * 1024 }
    }
}

/// What is wrong with the audit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// Another process has it open.
    #[error("{path}: in use by another process; two gates never share a state directory", path = .0.display())]
    InUse(PathBuf),
    /// It cannot be opened or read.
    #[error("{path}: {error}", path = path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: String,
    },
    /// The disk is full, read-only or failing. The line is kept, and written once the disk takes it.
    #[error("{path}: cannot write: {error}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: String,
    },
    /// The disk neither writes nor fails. The line is kept, and may still be written.
    #[error("the disk has not answered for {} s", trail::PATIENCE.as_secs())]
    Hung,
    /// The audit was closed.
    #[error("the audit is closed")]
    Closed,
}
