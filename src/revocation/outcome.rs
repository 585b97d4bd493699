//! What the engine answers: to a credential, to an event, and to the question what an event would do.

use std::sync::Arc;
use std::time::Duration;

use super::Declared;
use super::Event;
use super::JournalError;
use super::Level;
use crate::clock::Timestamp;
use crate::session::Session;

/// Why a credential was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What was revoked or suspended.
    pub level: Level,
    /// Suspended, not revoked.
    pub suspended: bool,
    /// Why, as far as it was said.
    pub reason: String,
}

impl Denial {
    /// The machine-readable code, such as `certificate_revoked`.
    pub fn code(&self) -> &'static str {
        code(self.level, self.suspended)
    }
}

/// What became of an event.
#[must_use]
#[derive(Debug)]
pub struct Outcome {
    /// The event's id.
    pub id: String,
    /// The time by which it is ordered.
    pub at: Timestamp,
    /// Whether the target stands as the event asks: revoked or suspended at least as wide and as long; of a reinstatement,
    /// neither. False if a later event outranks this one.
    pub as_asked: bool,
    /// Whether what the target's credentials are allowed is another than before.
    pub changed: bool,
    /// Whether the engine knew anything of the target before.
    pub was_known: bool,
    /// The generation of the set that holds it; starts anew with each process.
    pub generation: u64,
    /// False if it came while break-glass lasts, whose end enforces it: no session of the gate was ended.
    pub enforced: bool,
    /// How many sessions it ended.
    pub sessions_ended: usize,
    /// How many of those neither let go within a second nor could be cut hard. They serve nothing any more.
    pub sessions_pending: usize,
    /// How long it took, from being taken in, until every reader saw it.
    pub effective_after: Duration,
    /// Likewise, until it was enforced everywhere in this process.
    pub enforced_after: Duration,
    /// Likewise, until the journal had answered.
    pub durable_after: Duration,
    /// Whether it is on disk. It is in effect either way.
    pub durable: Result<(), JournalError>,
    /// Of a reinstatement: the same under the other names of the target's issuer that something stood of.
    pub other_names: Vec<Event>,
}

/// What came of the end of break-glass.
#[must_use]
#[derive(Debug)]
pub struct Resumed {
    /// What was declared.
    pub declared: Declared,
    /// How many sessions ended with it.
    pub sessions_ended: usize,
    /// How many of those neither let go within a second nor could be cut hard.
    pub sessions_pending: usize,
}

/// What would become of an event.
#[derive(Debug)]
pub struct Preview {
    /// Whether what the target's credentials are allowed would be another than now. Never for a reinstatement that
    /// would be refused for want of force.
    pub changes: bool,
    /// Whether it would be refused: a reinstatement of what is revoked, without force.
    pub refused: bool,
    /// The live sessions that it would end.
    pub sessions: Vec<Arc<Session>>,
}

/// The machine-readable code of a denial.
pub(super) const fn code(level: Level, suspended: bool) -> &'static str {
    match (level, suspended) {
        (Level::Certificate, false) => "certificate_revoked",
        (Level::Key, false) => "key_revoked",
        (Level::Principal, false) => "principal_revoked",
        (Level::Token, false) => "token_revoked",
        (Level::Task, false) => "task_revoked",
        (Level::Chain, false) => "chain_revoked",
        (Level::Issuer, false) => "issuer_revoked",
        (Level::TrustDomain, false) => "trust_domain_revoked",
        (Level::Certificate, true) => "certificate_suspended",
        (Level::Key, true) => "key_suspended",
        (Level::Principal, true) => "principal_suspended",
        (Level::Token, true) => "token_suspended",
        (Level::Task, true) => "task_suspended",
        (Level::Chain, true) => "chain_suspended",
        (Level::Issuer, true) => "issuer_suspended",
        (Level::TrustDomain, true) => "trust_domain_suspended",
    }
}
