//! The two registers of a target, and how events are merged into them.
//!
//! **Invariant:** the result never depends on the order of arrival, and an event that arrives twice changes nothing.
//! (Where more than sixteen revocations of one target stand, none of which covers another, they are widened: then too
//! much may be denied, never too little.)
//! *Revoked* is monotone: merging never narrows it, and only a forced reinstatement clears what is older than itself.
//! *Suspended* belongs to the event with the greatest (`at`, `id`).

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use super::Action;
use super::Event;
use crate::clock::Timestamp;

/// More revocations of one target than this, none of which covers another, are merged into a wider one.
const MAX_REVOCATIONS: usize = 16;

/// What orders the events of a target.
type Stamp = (Timestamp, String);

/// Why something stands: who said so, when, and in what words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The time and id of the event.
    pub stamp: Stamp,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// By which feed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Hits only what was issued before, Unix seconds; `None` hits everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<i64>,
    /// May be forgotten after; `None` never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl Standing {
    fn of(event: &Event) -> Self {
        Self {
            stamp: (event.at, event.id.clone()),
            reason: event.reason.clone(),
            actor: event.actor.clone(),
            source: event.source.clone(),
            issued_before: event.issued_before,
            expires_at: event.expires_at,
        }
    }

    fn bounds(&self) -> (i64, Timestamp) {
        (self.issued_before.unwrap_or(i64::MAX), self.expires_at.unwrap_or(Timestamp::MAX))
    }

    /// Whether `other` adds nothing to this: it is no later, no wider and lasts no longer.
    fn covers(&self, other: &Self) -> bool {
        let ((before, until), (others_before, others_until)) = (self.bounds(), other.bounds());
        self.stamp >= other.stamp && before >= others_before && until >= others_until
    }

    fn lapsed(&self, now: Timestamp, skew: Duration) -> bool {
        self.expires_at.is_some_and(|at| at.plus(skew) <= now)
    }
}

/// What stands of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// For good.
    Revoked,
    /// Until it is reinstated.
    Suspended,
}

impl State {
    /// The name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
        }
    }
}

/// What the engine needs to know of a target on the request path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Revoked for credentials issued before this, Unix seconds; `i64::MAX` for all; `i64::MIN` for none.
    pub revoked_before: i64,
    /// Suspended for credentials issued before this, likewise.
    pub suspended_before: i64,
}

impl Entry {
    /// Revoked, whatever was issued when.
    pub const REVOKED: Self = Self { revoked_before: i64::MAX, suspended_before: i64::MIN };
    /// Suspended, likewise.
    pub const SUSPENDED: Self = Self { revoked_before: i64::MIN, suspended_before: i64::MAX };

    /// What both deny together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            revoked_before: self.revoked_before.max(other.revoked_before),
            suspended_before: self.suspended_before.max(other.suspended_before),
        }
    }

    /// Whether it denies a credential issued at `issued_at`: `Some(false)` if that is revoked, `Some(true)` if it is
    /// suspended only.
    pub fn denies(self, issued_at: i64) -> Option<bool> {
        let revoked = issued_at < self.revoked_before;
        (revoked || issued_at < self.suspended_before).then_some(!revoked)
    }
}

/// The state of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// The revocations that stand, none of which covers another; greatest stamp first.
    #[serde(default)]
    revoked: Vec<Standing>,
    /// The greatest forced reinstatement: revocations up to it are void, those already seen and those still to come.
    #[serde(default)]
    cleared: Option<Stamp>,
    /// The greatest suspension or reinstatement, and which of the two it was.
    #[serde(default)]
    suspension: Option<(Standing, bool)>,
}

impl Registers {
    /// Merges one event in; says whether anything changed.
    pub fn merge(&mut self, event: &Event) -> bool {
        let before = self.clone();
        match event.action {
            Action::Revoke => self.merge_revocation(Standing::of(event)),
            Action::Suspend => self.merge_suspension(Standing::of(event), true),
            Action::Reinstate => {
                self.merge_suspension(Standing::of(event), false);
                if event.force {
                    let stamp = (event.at, event.id.clone());
                    self.cleared = self.cleared.take().max(Some(stamp));
                    self.revoked.retain(|standing| Some(&standing.stamp) > self.cleared.as_ref());
                }
            }
        }
        *self != before
    }

    /// Merges the registers of the same target in: what all their events together would have left.
    pub(super) fn absorb(&mut self, other: Self) {
        if other.cleared > self.cleared {
            self.cleared = other.cleared;
            self.revoked.retain(|standing| Some(&standing.stamp) > self.cleared.as_ref());
        }
        other.revoked.into_iter().for_each(|standing| self.merge_revocation(standing));
        if let Some((standing, suspended)) = other.suspension {
            self.merge_suspension(standing, suspended);
        }
    }

    /// Whether a revocation stands.
    pub fn is_revoked(&self) -> bool {
        !self.revoked.is_empty()
    }

    /// Whether a suspension stands.
    pub fn is_suspended(&self) -> bool {
        self.suspension.as_ref().is_some_and(|(_, suspended)| *suspended)
    }

    /// The greatest time of any event in here: what is decided now must come after it to count.
    pub fn latest(&self) -> Option<Timestamp> {
        let stamps = self.revoked.iter().map(|standing| standing.stamp.0);
        let suspension = self.suspension.iter().map(|(standing, _)| standing.stamp.0);
        stamps.chain(suspension).chain(self.cleared.iter().map(|(at, _)| *at)).max()
    }

    /// The suspension that stands.
    pub fn suspension(&self) -> Option<&Standing> {
        self.suspension.as_ref().and_then(|(standing, suspended)| suspended.then_some(standing))
    }

    /// Everything that stands: the revocations, greatest stamp first, then the suspension. Each is of an event of its
    /// own.
    pub fn standings(&self) -> impl Iterator<Item = (State, &Standing)> {
        let revoked = self.revoked.iter().map(|standing| (State::Revoked, standing));
        revoked.chain(self.suspension().map(|standing| (State::Suspended, standing)))
    }

    /// Forgets what has lapsed; says whether anything did.
    pub fn expire(&mut self, now: Timestamp, skew: Duration) -> bool {
        let count = self.revoked.len();
        self.revoked.retain(|standing| !standing.lapsed(now, skew));
        let suspended = self.is_suspended();
        if self.suspension().is_some_and(|standing| standing.lapsed(now, skew)) {
            self.suspension = None;
        }
        self.revoked.len() != count || self.is_suspended() != suspended
    }

    /// Whether nothing is left to remember.
    pub fn is_blank(&self) -> bool {
        self.revoked.is_empty() && self.cleared.is_none() && self.suspension.is_none()
    }

    /// What the request path needs of it; `None` if it denies nothing.
    pub(super) fn entry(&self) -> Option<Entry> {
        let before = |standing: &Standing| standing.bounds().0;
        let revoked_before = self.revoked.iter().map(before).max().unwrap_or(i64::MIN);
        let suspended_before = self.suspension().map_or(i64::MIN, before);
        (revoked_before > i64::MIN || suspended_before > i64::MIN)
            .then_some(Entry { revoked_before, suspended_before })
    }

    fn merge_revocation(&mut self, new: Standing) {
        let void = self.cleared.as_ref().is_some_and(|cleared| new.stamp <= *cleared);
        if void || self.revoked.iter().any(|standing| standing.covers(&new)) {
            return;
        }
        self.revoked.retain(|standing| !new.covers(standing));
        let at = self.revoked.partition_point(|standing| standing.stamp > new.stamp);
        self.revoked.insert(at, new);
        if self.revoked.len() > MAX_REVOCATIONS {
            self.widen();
        }
    }

    /// Merges the two oldest revocations into one that covers both: denying too much, never too little.
    fn widen(&mut self) {
        if let (Some(oldest), Some(mut next)) = (self.revoked.pop(), self.revoked.pop()) {
            next.issued_before = next.issued_before.and_then(|a| oldest.issued_before.map(|b| a.max(b)));
            next.expires_at = next.expires_at.and_then(|a| oldest.expires_at.map(|b| a.max(b)));
            self.merge_revocation(next);
        }
    }

    fn merge_suspension(&mut self, new: Standing, suspended: bool) {
        if self.suspension.as_ref().is_none_or(|(standing, _)| standing.stamp < new.stamp) {
            self.suspension = Some((new, suspended));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Level;
    use super::super::Target;
    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let target = Target::parse(Level::Principal, "a", None).unwrap();
        let action = prop_oneof![Just(Action::Revoke), Just(Action::Suspend), Just(Action::Reinstate)];
        let bound = proptest::option::of(0..4_i64);
        (action, 0..4_i64, 0..3_u8, bound.clone(), bound, any::<bool>()).prop_map(
            move |(action, at, id, issued_before, expires_at, force)| Event {
                // The content follows from the id, as it does for a duplicate.
                id: format!("{id}{action:?}{issued_before:?}{expires_at:?}{force}"),
                at: Timestamp::from_secs(at),
                issued_before,
                expires_at: expires_at.map(Timestamp::from_secs),
                force,
                ..Event::new(action, target.clone(), Timestamp::from_secs(at))
            },
        )
    }

    fn merged<'a>(events: impl IntoIterator<Item = &'a Event>) -> Registers {
        events.into_iter().fold(Registers::default(), |mut registers, event| {
            registers.merge(event);
            registers
        })
    }

    proptest! {
        #[test]
        fn arrival_order_and_duplicates_do_not_matter(
            (events, shuffled) in proptest::collection::vec(event(), 0..10)
                .prop_flat_map(|events| (Just(events.clone()), Just(events).prop_shuffle())),
        ) {
            let one = merged(&events);
            prop_assert_eq!(&one, &merged(&shuffled));
            prop_assert_eq!(&one, &merged(events.iter().chain(&shuffled)));
            let (head, tail) = shuffled.split_at(shuffled.len() / 2);
            let mut halves = merged(head);
            halves.absorb(merged(tail));
            prop_assert_eq!(&one, &halves);
        }

        #[test]
        fn a_revocation_narrows_only_by_force(events in proptest::collection::vec(event(), 1..10)) {
            let mut registers = Registers::default();
            for event in &events {
                let before = registers.entry().map_or(i64::MIN, |entry| entry.revoked_before);
                registers.merge(event);
                let after = registers.entry().map_or(i64::MIN, |entry| entry.revoked_before);
                prop_assert!(after >= before || (event.action == Action::Reinstate && event.force));
            }
        }
    }

    fn at(action: Action, secs: i64) -> Event {
        Event::new(action, Target::parse(Level::Principal, "a", None).unwrap(), Timestamp::from_secs(secs))
    }

    #[test]
    fn a_plain_reinstatement_lifts_a_suspension_and_no_revocation() {
        let registers = merged(&[at(Action::Revoke, 1), at(Action::Suspend, 2), at(Action::Reinstate, 3)]);
        assert!(registers.is_revoked() && !registers.is_suspended());
        let late_suspension = merged(&[at(Action::Reinstate, 3), at(Action::Suspend, 2)]);
        assert!(!late_suspension.is_suspended());
    }

    #[test]
    fn many_narrow_revocations_are_widened_never_dropped() {
        let narrow = (0..40).map(|i| Event { issued_before: Some(100 - i), ..at(Action::Revoke, i) });
        let registers = merged(&narrow.collect::<Vec<_>>());
        assert!(registers.revoked.len() <= MAX_REVOCATIONS);
        assert_eq!(registers.entry().map(|entry| entry.revoked_before), Some(100));
    }

    #[test]
    fn what_was_written_before_there_were_sources_is_read() {
        let old = r#"{"stamp": ["2026-10-14T17:46:40.123Z", "id"], "reason": "leaked", "actor": "ops"}"#;
        let standing: Standing = serde_json::from_str(old).unwrap();
        assert_eq!((standing.source, standing.actor.as_deref()), (None, Some("ops")));
    }

    #[test]
    fn entries_lapse_with_what_they_hit_and_not_before() {
        let mut registers =
            merged(&[Event { expires_at: Some(Timestamp::from_secs(10)), ..at(Action::Revoke, 1) }]);
        let skew = Duration::from_secs(5);
        assert!(!registers.expire(Timestamp::from_secs(14), skew) && registers.is_revoked());
        assert!(registers.expire(Timestamp::from_secs(15), skew) && registers.is_blank());
    }
}
