//! One register of a target: everything that stands in it, and the reinstatement that lifted the rest.
//!
//! **Invariant:** the result never depends on the order in which standings and reinstatements arrive, and one that arrives
//! twice changes nothing. (Where more than sixteen stand, none of which covers another, the oldest are widened: then too
//! much may be denied, never too little.) Only a reinstatement narrows what a register denies.

use super::registers::Due;
use super::registers::Forgotten;
use super::registers::Terms;
use super::standing::EntryKind;
use super::standing::Extent;
use super::standing::Stamp;
use super::standing::Standing;
use super::standing::Tombstone;
use super::standing::Tombstones;
use super::uptime::Uptime;
use crate::clock::Timestamp;
use crate::session::Heeds;

/// More standings than this of one kind, signed or unsigned, none of which covers another, are merged into a wider one.
pub(super) const MAX_STANDINGS: usize = 16;

/// What is denied of a target in one way: for good, or until it is reinstated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Register {
    /// Everything that stands; none of it covers another. Greatest stamp first.
    standings: Vec<Standing>,
    /// The greatest reinstatements: everything up to them is void that they may lift, what is here already and what is
    /// still to come. Boxed: most targets have none, and there may be millions.
    tombstones: Option<Box<Tombstones>>,
}

impl Register {
    /// A register that was written.
    pub(super) fn of(standings: Vec<Standing>, tombstones: impl IntoIterator<Item = Tombstone>) -> Self {
        let mut register = Self::default();
        tombstones.into_iter().for_each(|tombstone| register.lift(&tombstone));
        standings.into_iter().for_each(|standing| register.merge(standing));
        register
    }

    /// Everything that stands, greatest stamp first.
    pub(super) fn standings(&self) -> &[Standing] {
        &self.standings
    }

    /// The greatest reinstatements, that of unsigned messages last.
    pub(super) fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.tombstones.iter().flat_map(|tombstones| tombstones.iter())
    }

    /// A reinstatement that lifts what was said then.
    pub(super) fn lifted_by(&self, stamp: &Stamp, kind: EntryKind) -> Option<&Tombstone> {
        self.tombstones().find(|tombstone| tombstone.lifts(stamp, kind))
    }

    /// Merges a standing in, unless a reinstatement has lifted it or another covers it.
    pub(super) fn merge(&mut self, mut new: Standing) {
        if self.lifted_by(&new.stamp, new.kind()).is_some() {
            return;
        }
        let kind = new.kind();
        let mut is_covered = false;
        for known in self.standings.iter_mut().filter(|known| known.covers(&new)) {
            // The wall clock may have been wrong when either came: the longer uptime counts.
            known.lapses = known.lapses.max(new.lapses);
            is_covered = true;
        }
        if is_covered {
            return;
        }
        self.standings.retain(|known| {
            let is_covered = new.covers(known);
            if is_covered {
                new.lapses = new.lapses.max(known.lapses);
            }
            !is_covered
        });
        let at = self.standings.partition_point(|known| known.stamp > new.stamp);
        // Most registers hold one standing: without this, room for four is made.
        self.standings.reserve_exact(1);
        self.standings.insert(at, new);
        if self.standings.len() > MAX_STANDINGS {
            self.widen(kind);
        }
    }

    /// Lifts everything up to a reinstatement that it may lift.
    pub(super) fn lift(&mut self, new: &Tombstone) {
        if self.lifted_by(&new.stamp, new.kind()).is_none() {
            self.standings.retain(|standing| !new.lifts(&standing.stamp, standing.kind()));
            self.tombstones.get_or_insert_default().add(new.clone());
        }
    }

    /// Counts what `is_unsigned` among the standings as said by unsigned messages.
    pub(super) fn mark_unsigned(&mut self, is_unsigned: impl Fn(&Standing) -> bool) {
        for mut standing in std::mem::take(&mut self.standings) {
            standing.unsigned |= is_unsigned(&standing);
            self.merge(standing);
        }
    }

    /// Merges the same register of the same target in.
    pub(super) fn absorb(&mut self, other: Self) {
        other.tombstones().for_each(|tombstone| self.lift(tombstone));
        other.standings.into_iter().for_each(|standing| self.merge(standing));
    }

    /// True if one standing reaches at least as far, and counts for credentials that heed so much.
    pub(super) fn reaches(&self, extent: Extent, heeds: Heeds) -> bool {
        let mut counting = self.standings.iter().filter(|standing| standing.counts_for(heeds));
        counting.any(|standing| standing.extent().includes(extent))
    }

    /// Denies credentials that heed so much and were issued before this, Unix seconds; `i64::MIN` denies none.
    pub(super) fn denied_before(&self, heeds: Heeds) -> i64 {
        let counting = self.standings.iter().filter(|standing| standing.counts_for(heeds));
        counting.map(|standing| standing.extent().before).max().unwrap_or(i64::MIN)
    }

    /// The greatest time in it.
    pub(super) fn latest(&self) -> Option<Timestamp> {
        let standing = self.standings.first().map(|standing| standing.stamp.0);
        standing.max(self.tombstones().map(|tombstone| tombstone.stamp.0).max())
    }

    /// Gives each standing that expires the uptime at which it may lapse, if it has none: journals of an old format and audits do
    /// not say.
    pub(super) fn measure(&mut self, terms: &Terms) {
        let unmeasured = self.standings.iter_mut().filter(|standing| standing.lapses == Uptime::MAX);
        unmeasured.for_each(|standing| standing.lapses = terms.lapses_at(standing.expires_at));
    }

    /// Forgets what has had its time.
    pub(super) fn expire(&mut self, terms: &Terms) -> Forgotten {
        let count = self.standings.len();
        self.standings.retain(|standing| !terms.lapsed(standing));
        let is_shorter = self.tombstones.as_mut().is_some_and(|tombstones| tombstones.forget(terms));
        self.tombstones.take_if(|tombstones| tombstones.iter().next().is_none());
        match (self.standings.len() == count, is_shorter) {
            (false, _) => Forgotten::Standings,
            (true, true) => Forgotten::Tombstones,
            (true, false) => Forgotten::Nothing,
        }
    }

    /// Since when [`Self::expire`] may find something.
    pub(super) fn due(&self) -> Due {
        let expiry = self.standings.iter().filter_map(|standing| standing.expires_at).min();
        Due {
            expiry: expiry.unwrap_or(Timestamp::MAX),
            uptime: self.standings.iter().map(|standing| standing.lapses).min().unwrap_or(Uptime::MAX),
            tombstone: self.tombstones().map(|one| one.stamp.0).min().unwrap_or(Timestamp::MAX),
        }
    }

    /// Whether nothing is left to remember.
    pub(super) fn is_blank(&self) -> bool {
        self.standings.is_empty() && self.tombstones.is_none()
    }

    /// Merges the two oldest standings of a kind of which there are too many into one that covers both: denying too
    /// much, never too little. Only standings of one kind are merged, so unsigned entries never widen what the admin listener
    /// enforces.
    fn widen(&mut self, kind: EntryKind) {
        let of_kind = |standing: &&Standing| standing.kind() == kind;
        if self.standings.iter().filter(of_kind).count() <= MAX_STANDINGS {
            return;
        }
        let mut take_oldest = || {
            let at = self.standings.iter().rposition(|standing| standing.kind() == kind)?;
            Some(self.standings.remove(at))
        };
        if let (Some(oldest), Some(mut next)) = (take_oldest(), take_oldest()) {
            next.issued_before = next.issued_before.and_then(|a| oldest.issued_before.map(|b| a.max(b)));
            next.expires_at = next.expires_at.and_then(|a| oldest.expires_at.map(|b| a.max(b)));
            next.lapses = next.lapses.max(oldest.lapses);
            self.merge(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Action;
    use super::super::Event;
    use super::super::Level;
    use super::super::Registers;
    use super::super::State;
    use super::super::Target;
    use super::*;

    fn at(action: Action, secs: i64) -> Event {
        let target = Target::parse(Level::Principal, "a", None).unwrap();
        Event { id: format!("{secs}"), ..Event::new(action, target, Timestamp::from_secs(secs)) }
    }

    fn merged<'a>(events: impl IntoIterator<Item = &'a Event>) -> Registers {
        events.into_iter().fold(Registers::default(), |mut registers, event| {
            registers.merge(event, Uptime::MAX);
            registers
        })
    }

    /// The signed standings.
    fn signed(registers: &Registers) -> Vec<(State, Standing)> {
        let signed = registers.standings().filter(|(_, standing)| !standing.unsigned);
        signed.map(|(state, standing)| (state, standing.clone())).collect()
    }

    /// Events none of which covers another, more than a register keeps apart.
    fn flood(unsigned: bool, before: i64) -> Vec<Event> {
        let many = 1..2 * i64::try_from(MAX_STANDINGS).unwrap();
        let one =
            |secs: i64| Event { issued_before: Some(before - secs), unsigned, ..at(Action::Suspend, secs) };
        many.map(one).collect()
    }

    fn event() -> impl Strategy<Value = Event> {
        let action = prop_oneof![Just(Action::Revoke), Just(Action::Suspend), Just(Action::Reinstate)];
        let before = proptest::option::of(0..4_i64);
        (action, 0..6_i64, before, any::<bool>(), any::<bool>()).prop_map(
            |(action, secs, issued_before, force, unsigned)| Event {
                issued_before,
                force,
                unsigned,
                ..at(action, secs)
            },
        )
    }

    proptest! {
        /// Seen failing with a standing that covers whatever is older and narrower, and with a reinstatement of an unsigned
        /// message that lifts everything.
        #[test]
        fn what_unsigned_messages_say_makes_no_difference_to_what_stands_under_a_signature(
            events in proptest::collection::vec(event(), 1..14),
        ) {
            let without = merged(events.iter().filter(|event| !event.unsigned));
            prop_assert_eq!(signed(&merged(&events)), signed(&without));
        }
    }

    /// Seen failing with a register that merges its two oldest standings, whoever said them.
    #[test]
    fn a_flood_of_unsigned_messages_neither_widens_nor_drops_what_is_signed() {
        let suspension = Event { issued_before: Some(5), ..at(Action::Suspend, 0) };
        let own = std::slice::from_ref(&suspension);
        let registers = merged(own.iter().chain(&flood(true, 1000)));
        assert_eq!(signed(&registers), signed(&merged(own)));
        let other = registers.standings().filter(|(_, standing)| standing.unsigned).count();
        assert_eq!(other, MAX_STANDINGS);
        // Nor the other way round: what is signed takes no room from what is not.
        let both = [flood(true, 1000), flood(false, 500)].concat();
        let registers = merged(&both);
        assert_eq!(signed(&registers), signed(&merged(&flood(false, 500))));
        assert_eq!(registers.standings().count(), 2 * MAX_STANDINGS);
    }

    #[test]
    fn what_a_feed_said_of_a_secret_counts_as_unsigned() {
        let said = |source: Option<&str>, secs| Event {
            source: source.map(str::to_owned),
            ..at(Action::Revoke, secs)
        };
        for (source, stays) in [(Some("sqs"), false), (Some("admin"), true), (None, true)] {
            let mut registers = merged(&[said(source, 1)]);
            registers.heed_no_feed();
            assert_eq!(registers.entry_for(Heeds::Signed).is_some(), stays, "{source:?}");
            assert!(registers.entry().is_some());
        }
    }
}
