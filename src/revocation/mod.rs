//! WHETHER: what was revoked, held where every request can look it up without a lock.
//!
//! One revocation, straight through: an [`Event`] → [`Engine::apply`] → publish the set, kill the sessions, write the
//! journal, acknowledge. One session: register, then check. `engine` holds both side by side.

mod aliases;
mod authorities;
mod break_glass;
mod builder;
mod certificates;
mod conditions;
pub mod crl;
mod engine;
mod event;
mod feeds;
mod fingerprint;
mod heed;
mod journal;
mod journal_file;
mod layer;
mod ledger;
mod lists;
mod merger;
mod naming;
mod outcome;
mod place;
pub mod protocol;
mod rebuild;
mod record;
mod register;
mod registers;
mod registry;
mod replay;
mod row;
mod seen;
mod set;
mod sightings;
mod spelling;
mod standing;
mod storage;
mod sync;
mod table;
mod target;
mod targets;
mod timeline;
pub mod token_list;
mod uptime;

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use authorities::AmbiguousIssuer;
pub use authorities::AuthorityDirectory;
pub use authorities::AuthorityNames;
pub use break_glass::BreakGlass;
pub use break_glass::Declared;
pub use break_glass::Which;
pub use builder::LayerBuilder;
pub use builder::NewLayer;
pub use engine::Engine;
pub use event::Action;
pub use event::Event;
use event::JournalEntry;
pub use feeds::About;
pub use feeds::Asked;
pub use feeds::FeedStatus;
pub use feeds::Feeds;
pub use feeds::Freshness;
pub use feeds::OnStale;
pub use feeds::Stale;
pub use feeds::State as FeedState;
pub use feeds::Terms as FeedTerms;
pub use fingerprint::CertificateFingerprinter;
pub use fingerprint::Fingerprinter;
pub use fingerprint::NamePrints;
pub use journal::Journal;
pub use journal::JournalError;
pub use lists::ListOutcome;
pub use lists::Listed;
pub use lists::TokenOutcome;
pub use outcome::Denial;
pub use outcome::Outcome;
pub use outcome::Preview;
pub use outcome::Resumed;
#[doc(hidden)]
pub use registers::Entry;
pub use registers::Registers;
pub use registers::State;
pub use registry::Registry;
pub use replay::JournalReplay;
pub use replay::ReadableJournal;
pub use replay::StandingCount;
pub use seen::Seen;
#[doc(hidden)]
pub use set::Set;
pub use sightings::Sightings;
pub use spelling::Spelling;
pub use standing::Standing;
pub use target::Level;
pub use target::Target;
pub use target::TargetError;
pub use targets::Targets;
pub use timeline::Arrival;
pub use timeline::Timeline;
pub use timeline::Timelines;
pub use uptime::Uptime;

/// `[revocation]`: how events are taken in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How far in the future an event's `at` may lie before it is clamped, and how long an entry outlives its
    /// `expires_at`.
    #[serde(with = "humantime_serde")]
    pub skew: Duration,
    /// How long a reinstatement is remembered, so that an older event that comes later does not undo it: longer than the
    /// slowest feed keeps a message.
    #[serde(with = "humantime_serde")]
    pub remember: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { skew: Duration::from_secs(60), remember: Duration::from_secs(30 * 86_400) }
    }
}

/// Why an event could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target is revoked, and only a forced reinstatement lifts a revocation.
    #[error(
        "{0} is revoked, not suspended; a revocation is lifted only by a forced reinstatement (`force`; on the command line `--force`)"
    )]
    Revoked(Target),
    /// An administrator has suspended the target, and a feed wants to reinstate it without force.
    #[error("an administrator has suspended {0}, and alone lifts that")]
    Administered(Target),
    /// An unsigned message wants to reinstate what a signed one, or an administrator, has suspended.
    #[error("an unsigned message cannot reinstate {0}: a signed event or an administrator suspended it")]
    Signed(Target),
    /// The journal did not take the event.
    #[error("the journal did not take it: {0}")]
    Journal(#[source] JournalError),
    /// The journal in the state directory cannot be used.
    #[error("{path}: {error}", path = path.display())]
    Open {
        /// The journal's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: JournalError,
    },
}
