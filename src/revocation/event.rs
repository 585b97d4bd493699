//! All that a feed or an administrator may say about a target.

use serde::Deserialize;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Registers;
use super::Standing;
use super::State;
use super::Target;
use super::uptime::Uptime;
use crate::clock::Timestamp;

/// What is to happen to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// For good. Only a forced reinstatement lifts it.
    Revoke,
    /// Until it is reinstated.
    Suspend,
    /// Lifts a suspension.
    Reinstate,
}

impl Action {
    /// The name in events, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::Suspend => "suspend",
            Self::Reinstate => "reinstate",
        }
    }
}

/// The source of what is decided here.
pub(super) const ADMIN: &str = "admin";

/// An event whose place among those of its target is settled, as the journal keeps it.
#[derive(Clone, Debug)]
pub(super) struct JournalEntry {
    pub(super) event: Event,
    /// The uptime before which what it denies does not lapse.
    pub(super) lapses: Uptime,
}

/// One change of a target's state. Taking the same event in twice changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Unique; with `at` it orders the events of a target.
    pub id: String,
    /// What is to happen.
    pub action: Action,
    /// To what.
    #[serde(flatten)]
    pub target: Target,
    /// Why, in the issuer's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was decided.
    pub at: Timestamp,
    /// Hits only credentials issued before this (certificate `notBefore`, token `iat`), whole Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<i64>,
    /// When the credential that it hits has expired, and the entry may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Who decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Which feed it came from; `admin` for the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Of a reinstatement: lifts a revocation too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// True of what a message says whose author no signature proves: the admin listener does not heed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsigned: bool,
}

impl Event {
    /// A bare event, decided now, with a fresh id.
    pub fn new(action: Action, target: Target, at: Timestamp) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            action,
            target,
            reason: None,
            at,
            issued_before: None,
            expires_at: None,
            actor: None,
            source: None,
            force: false,
            unsigned: false,
        }
    }

    /// Whether it was decided here, so that its time is by the clock of this gate.
    pub(super) fn is_local(&self) -> bool {
        self.source.as_deref() == Some(ADMIN)
    }

    /// Whether a target in this state refuses it: a reinstatement without the force that a revocation asks for.
    pub(super) fn is_refused(&self, registers: &Registers) -> bool {
        self.action == Action::Reinstate && !self.force && registers.is_revoked()
    }

    /// Whether it is a reinstatement without force of what an administrator has suspended: a feed may not ask that.
    pub(super) fn lifts_an_administrators(&self, registers: &Registers) -> bool {
        let by_admin = |standing: &Standing| standing.source.as_deref() == Some(ADMIN);
        self.lifts_what(registers, by_admin)
    }

    /// True for an unsigned reinstatement of a target that a signed entry suspends.
    pub(super) fn lifts_what_is_signed(&self, registers: &Registers) -> bool {
        self.unsigned && self.lifts_what(registers, |standing| !standing.unsigned)
    }

    /// True for a reinstatement without force of a suspension that `is_such`.
    fn lifts_what(&self, registers: &Registers, is_such: impl Fn(&Standing) -> bool) -> bool {
        let mut standings = registers.standings();
        let lifts = self.action == Action::Reinstate && !self.force;
        lifts && standings.any(|(state, standing)| state == State::Suspended && is_such(standing))
    }
}
