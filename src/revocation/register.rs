//! One register of a target: everything that stands in it, and the reinstatement that lifted the rest.
//!
//! **Invariant:** the result never depends on the order in which standings and reinstatements arrive, and one that arrives
//! twice changes nothing. (Where more than sixteen stand, none of which covers another, the oldest are widened: then too
//! much may be denied, never too little.) Only a reinstatement narrows what a register denies.

use super::registers::Due;
use super::registers::Forgotten;
use super::registers::Terms;
use super::standing::Extent;
use super::standing::Standing;
use super::standing::Tombstone;
use super::uptime::Uptime;
use crate::clock::Timestamp;

/// More standings than this, none of which covers another, are merged into a wider one.
pub(super) const MAX_STANDINGS: usize = 16;

/// What is denied of a target in one way: for good, or until it is reinstated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Register {
    /// Everything that stands; none of it covers another. Greatest stamp first.
    standings: Vec<Standing>,
    /// The greatest reinstatement: everything up to it is void, what is here already and what is still to come. Boxed: most
    /// targets have none, and there may be millions.
    tombstone: Option<Box<Tombstone>>,
}

impl Register {
    /// A register that was written.
    pub(super) fn of(standings: Vec<Standing>, tombstone: Option<Tombstone>) -> Self {
        let mut register = Self { standings: Vec::new(), tombstone: tombstone.map(Box::new) };
        standings.into_iter().for_each(|standing| register.merge(standing));
        register
    }

    /// Everything that stands, greatest stamp first.
    pub(super) fn standings(&self) -> &[Standing] {
        &self.standings
    }

    /// The greatest reinstatement.
    pub(super) fn tombstone(&self) -> Option<&Tombstone> {
        self.tombstone.as_deref()
    }

    /// Merges a standing in, unless a reinstatement has lifted it or another covers it.
    pub(super) fn merge(&mut self, mut new: Standing) {
        if self.tombstone().is_some_and(|tombstone| new.stamp <= tombstone.stamp) {
            return;
        }
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
            self.widen();
        }
    }

    /// Lifts everything up to a reinstatement.
    pub(super) fn lift(&mut self, new: &Tombstone) {
        if self.tombstone().is_none_or(|tombstone| tombstone.stamp < new.stamp) {
            self.standings.retain(|standing| standing.stamp > new.stamp);
            self.tombstone = Some(Box::new(new.clone()));
        }
    }

    /// Merges the same register of the same target in.
    pub(super) fn absorb(&mut self, other: Self) {
        other.tombstone.iter().for_each(|tombstone| self.lift(tombstone));
        other.standings.into_iter().for_each(|standing| self.merge(standing));
    }

    /// Whether one standing reaches at least as far.
    pub(super) fn reaches(&self, extent: Extent) -> bool {
        self.standings.iter().any(|standing| standing.extent().includes(extent))
    }

    /// Denies credentials issued before this, Unix seconds; `i64::MIN` denies none.
    pub(super) fn denied_before(&self) -> i64 {
        self.standings.iter().map(|standing| standing.extent().before).max().unwrap_or(i64::MIN)
    }

    /// The greatest time in it.
    pub(super) fn latest(&self) -> Option<Timestamp> {
        let standing = self.standings.first().map(|standing| standing.stamp.0);
        standing.max(self.tombstone().map(|tombstone| tombstone.stamp.0))
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
        let tombstone = self.tombstone.take_if(|tombstone| terms.outlived(tombstone.stamp.0));
        match (self.standings.len() == count, tombstone) {
            (false, _) => Forgotten::Standings,
            (true, Some(_)) => Forgotten::Tombstones,
            (true, None) => Forgotten::Nothing,
        }
    }

    /// Since when [`Self::expire`] may find something.
    pub(super) fn due(&self) -> Due {
        let expiry = self.standings.iter().filter_map(|standing| standing.expires_at).min();
        Due {
            expiry: expiry.unwrap_or(Timestamp::MAX),
            uptime: self.standings.iter().map(|standing| standing.lapses).min().unwrap_or(Uptime::MAX),
            tombstone: self.tombstone().map_or(Timestamp::MAX, |tombstone| tombstone.stamp.0),
        }
    }

    /// Whether nothing is left to remember.
    pub(super) fn is_blank(&self) -> bool {
        self.standings.is_empty() && self.tombstone.is_none()
    }

    /// Merges the two oldest standings into one that covers both: denying too much, never too little.
    fn widen(&mut self) {
        if let (Some(oldest), Some(mut next)) = (self.standings.pop(), self.standings.pop()) {
            next.issued_before = next.issued_before.and_then(|a| oldest.issued_before.map(|b| a.max(b)));
            next.expires_at = next.expires_at.and_then(|a| oldest.expires_at.map(|b| a.max(b)));
            next.lapses = next.lapses.max(oldest.lapses);
            self.merge(next);
        }
    }
}
