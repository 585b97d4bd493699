//! The audit: one hash-chained JSON line for each event, on disk before the event is acknowledged.
//!
//! # Files
//!
//! ```text
//! audit.00000000000000000001.jsonl   full, or found damaged; named for its first sequence, never written to again
//! audit.00000000000000000733.jsonl   (`.1`, `.2` before `.jsonl` where a name was taken)
//! audit.jsonl                        the one that is written to
//! audit.head                         the last line on disk, for whoever cuts some off (`head`)
//!
//! {"sequence":1,"time":"2027-01-15T08:00:00.000Z","action":"revoke",..,"prev":"0000..","hash":"6b86.."}
//! \__________________________________ hashed with SHA-256 ___________________________/         |
//!                                                                   ,------------------------'
//! {"sequence":2,"time":"2027-01-15T08:00:02.125Z","action":"call",..,"prev":"6b86..","hash":"d473.."}
//! ```
//!
//! Over the boundaries of files too, a sequence is one more than that before it, `prev` is the hash of the line
//! before (64 zeros in the first), and a time is not before that of the line before, even if the clock is set back.
//! `hash` is the last member: what is hashed is the line up to `,"hash":"`.
//!
//! A file begins with sequence 1, with an `audit_continued` line, or with the `audit_recovered` line of outcome `failed`
//! that the next section tells of: any other first line says that those before it were cut away. None of the files is
//! ever deleted. Older ones may be archived, whole: [`verify`] wants sequence 1, [`verify_from`] is told what is left.
//!
//! # Order of writes, and what a crash leaves
//!
//! | step | a crash after it leaves | and is gone on with |
//! |---|---|---|
//! | 1. `audit.head` is made, naming 0 | no lines | begin |
//! | 2. lines are written | whole lines, then a torn one (or pages of zeros) after the head | whole lines count, the rest is cut off and an `audit_recovered` line says so |
//! | 3. they are synced, callers are answered | a head one batch behind | the lines after it are chained to it: they count |
//! | 4. the head is written and synced | | |
//! | 5. a full file is renamed (after 4) | no `audit.jsonl`; the newest file ends with the head | a new one is begun |
//! | 6. a new one is made | an empty `audit.jsonl` | the same |
//! | 7. its `audit_continued` line is written, with what follows | as 2 | as 2 |
//!
//! The head never leads, because it is written after the sync of what it names. Everything else is no crash: lines
//! before the head that are missing or changed, lines after it that are not chained to it, a head file that is gone.
//! Then the file is put aside as it is, and a new one begins with an `audit_recovered` line of outcome `failed` that
//! names what was expected, with a sequence that nothing had. The same is done when somebody meddles with files that
//! are in use. A gate starts and goes on either way; [`verify`] fails until a
//! person accepts the damage.
//!
//! Damage that a person has examined is closed by an `audit_accepted` line ([`accept`]), which names the last whole line
//! before it, the hash of what was found, and the line with which the chain goes on. [`verify`] then passes over that
//! damage, and over no other.
//!
//! # What it proves
//!
//! Whoever changes, removes, repeats or reorders lines is found out, as long as he does not write everything after
//! them anew. Nothing here is secret, so whoever may write to the whole directory can: then a head that was noted
//! elsewhere (`status` answers with it) is no longer on the chain, and [`verify`] says so if it is given one. The same
//! goes for an old copy of the directory that is put back, `audit.head` included; for a forged line after the last one
//! while no gate runs, which looks like one written just before a crash; and for cutting off the last batch together with
//! the newest slot of the head file.

mod check;
mod damage;
mod entry;
mod files;
mod find;
mod head;
mod history;
mod line;
mod members;
mod recover;
mod store;
mod tail;
mod trail;
mod verify;
mod walk;
mod writer;

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;

pub use damage::AcceptError;
pub use damage::Acceptance;
pub use damage::Damage;
pub use damage::DamagePlace;
pub use damage::SignOff;
pub use damage::accept;
pub use entry::Entry;
pub use files::is_part;
pub use find::Page;
pub use find::Query;
pub use find::find_in;
pub use head::Head;
pub use head::HeadError;
pub use history::PastChange;
pub use history::changes;
pub use history::holds_only;
pub use history::newest_changes;
pub use trail::Audit;
pub use trail::HeldAudit;
pub use trail::Receipt;
pub use trail::record;
pub use verify::Fault;
pub use verify::Report;
pub use verify::VerifyError;
pub use verify::verify;
pub use verify::verify_from;

/// The longest line, bytes.
const MAX_LINE: usize = 1024 * 1024;

/// Returns whether a directory holds any file of an audit, with lines or without.
pub fn exists(directory: &Path) -> bool {
    let names = directory.read_dir().into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_str().is_some_and(is_part))
}

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
    #[error("{path}: in use by another process: a gate is running on this state; stop it first", path = .0.display())]
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
    #[error("the disk does not answer")]
    Hung,
    /// The audit was closed.
    #[error("the audit is closed")]
    Closed,
}

impl AuditError {
    /// Returns whether the line that was to be written waits in memory, and is written once the disk takes it.
    pub fn keeps_line(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Hung)
    }
}
