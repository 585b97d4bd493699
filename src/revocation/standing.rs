//! One thing that stands of a target: who said so, when, in what words, and how far it reaches.

use serde::Deserialize;

use super::Event;
use super::event::ADMIN;
use super::registers::Terms;
use super::uptime::Uptime;
use crate::clock::Timestamp;
use crate::session::Credential;
use crate::session::Heeds;

/// The order of a target's events.
pub(super) type Stamp = (Timestamp, String);

/// Why something stands: who said so, when, and in what words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Standing {
    /// The time and id of the event.
    pub stamp: Stamp,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// Who.
    #[serde(default)]
    pub actor: Option<String>,
    /// By which feed.
    #[serde(default)]
    pub source: Option<String>,
    /// Hits only what was issued before, Unix seconds; `None` hits everything.
    #[serde(default)]
    pub issued_before: Option<i64>,
    /// May be forgotten after; `None` never.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// True if an unsigned message said so: the admin listener does not heed it.
    #[serde(default)]
    pub unsigned: bool,
    /// The uptime before which it is not forgotten, whatever the wall clock says; [`Uptime::MAX`] without an `expires_at`.
    #[serde(skip, default = "never")]
    pub(super) lapses: Uptime,
}

/// The trace of a reinstatement: everything up to it is void that it may lift.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tombstone {
    pub(super) stamp: Stamp,
    /// Whether it was decided here, so that its time is by the clock of this gate.
    pub(super) is_local: bool,
    /// True if an unsigned message said so: it lifts what unsigned messages say, and nothing else.
    pub(super) unsigned: bool,
}

impl Tombstone {
    pub(super) fn of(event: &Event) -> Self {
        let stamp = (event.at, event.id.clone());
        Self { stamp, is_local: event.is_local(), unsigned: event.unsigned }
    }

    pub(super) fn kind(&self) -> EntryKind {
        if self.unsigned { EntryKind::Unsigned } else { EntryKind::Signed }
    }

    /// True if this reinstatement lifts an entry of that stamp and kind.
    pub(super) fn lifts(&self, stamp: &Stamp, kind: EntryKind) -> bool {
        self.stamp >= *stamp && (kind == EntryKind::Unsigned || !self.unsigned)
    }
}

/// The reinstatements of a register that count: none of them lifts whatever another lifts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tombstones {
    /// The greatest that lifts everything up to it.
    pub(super) signed: Option<Tombstone>,
    /// The greatest of unsigned messages.
    pub(super) unsigned: Option<Tombstone>,
}

impl Tombstones {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Tombstone> {
        self.signed.iter().chain(&self.unsigned)
    }

    /// Puts in one that none of them covers.
    pub(super) fn add(&mut self, new: Tombstone) {
        let place = if new.unsigned { &mut self.unsigned } else { &mut self.signed };
        *place = Some(new);
        let Self { signed, unsigned } = self;
        unsigned.take_if(|weak| {
            signed.as_ref().is_some_and(|strong| strong.lifts(&weak.stamp, EntryKind::Unsigned))
        });
    }

    /// Forgets those that may be forgotten. Says whether there were any.
    pub(super) fn forget(&mut self, terms: &Terms) -> bool {
        let outlived = |tombstone: &mut Tombstone| terms.outlived(tombstone.stamp.0);
        let signed = self.signed.take_if(outlived);
        self.unsigned.take_if(outlived).or(signed).is_some()
    }
}

/// A reinstatement, as it was kept when registers had one place for it and for a suspension.
impl From<Standing> for Tombstone {
    fn from(reinstatement: Standing) -> Self {
        let is_local = reinstatement.source.as_deref() == Some(ADMIN);
        Self { stamp: reinstatement.stamp, is_local, unsigned: false }
    }
}

/// How far a standing reaches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Hits what was issued before, Unix seconds.
    pub(super) before: i64,
    pub(super) until: Timestamp,
}

impl Extent {
    pub(super) fn of(issued_before: Option<i64>, expires_at: Option<Timestamp>) -> Self {
        Self { before: issued_before.unwrap_or(i64::MAX), until: expires_at.unwrap_or(Timestamp::MAX) }
    }

    /// Whether it is at least as wide as `other`, and lasts at least as long.
    pub(super) fn includes(self, other: Self) -> bool {
        self.before >= other.before && self.until >= other.until
    }
}

/// The two kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// An administrator, a signed message or a signed list vouches for it.
    Signed,
    /// An unsigned message said so: it counts at the gate alone.
    Unsigned,
}

impl EntryKind {
    pub(super) fn of(event: &Event) -> Self {
        if event.unsigned { Self::Unsigned } else { Self::Signed }
    }
}

impl Standing {
    pub(super) fn of(event: &Event, lapses: Uptime) -> Self {
        Self {
            stamp: (event.at, event.id.clone()),
            reason: event.reason.clone(),
            actor: event.actor.clone(),
            source: event.source.clone(),
            issued_before: event.issued_before,
            expires_at: event.expires_at,
            unsigned: event.unsigned,
            lapses,
        }
    }

    pub(super) fn kind(&self) -> EntryKind {
        if self.unsigned { EntryKind::Unsigned } else { EntryKind::Signed }
    }

    pub(super) fn extent(&self) -> Extent {
        Extent::of(self.issued_before, self.expires_at)
    }

    /// True if `other` adds nothing to this: it is no later, no wider, lasts no longer, and every credential that `other`
    /// denies is also denied by this one.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let is_heeded = other.unsigned || !self.unsigned;
        is_heeded && self.stamp >= other.stamp && self.extent().includes(other.extent())
    }

    /// True if it counts against a credential that heeds so much.
    pub(super) fn counts_for(&self, heeds: Heeds) -> bool {
        heeds == Heeds::All || !self.unsigned
    }

    /// True if it counts against a credential.
    pub(super) fn hits(&self, credential: &Credential) -> bool {
        self.counts_for(credential.heeds) && credential.issued_at < self.extent().before
    }
}

fn never() -> Uptime {
    Uptime::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_there_were_sources_is_read() {
        let old = r#"{"stamp": ["2026-10-14T17:46:40.123Z", "id"], "reason": "leaked", "actor": "ops"}"#;
        let standing: Standing = serde_json::from_str(old).unwrap();
        assert_eq!((standing.source, standing.actor.as_deref()), (None, Some("ops")));
    }
}
