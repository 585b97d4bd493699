//! The two registers of a target, *revoked* and *suspended*, and how events are merged into them.
//!
//! **Invariant:** as long as nothing has had its time, the result never depends on the order of arrival, and an event that
//! arrives twice changes nothing. Both registers are alike (`register.rs`): events join, the widest and longest holds, and
//! only a reinstatement narrows. A plain one lifts suspensions that are older than itself; a forced one revocations too.
//!
//! A lifted entry leaves a tombstone behind: the reinstatement, without which an older event that comes later would
//! bring the entry back. A tombstone is forgotten once it is older than [`Terms::remember`]. An event that comes within
//! that time of its own `at` finds every tombstone that it could lose against, so its order does not matter either, but for
//! one case: an entry that lapses leaves no tombstone, not even for those that it covered, so that an older one that comes,
//! or comes again, after it has lapsed stands. An event that comes later than that, and finds nothing, takes effect, too: to
//! deny what was lifted once is a nuisance that is logged and lifted again; to drop a revocation because it was late would
//! let a revoked client in.

use std::time::Duration;

use super::Action;
use super::Config;
use super::Event;
use super::event::ADMIN;
use super::register::Register;
use super::standing::EntryKind;
use super::standing::Extent;
use super::standing::Standing;
use super::standing::Tombstone;
use super::uptime::Uptime;
use crate::clock::Timestamp;
use crate::session::Credential;
use crate::session::Heeds;

/// What has had its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) now: Timestamp,
    pub(super) uptime: Uptime,
    /// How long an entry outlives its `expires_at`.
    pub(super) skew: Duration,
    /// How long a tombstone is kept.
    pub(super) remember: Duration,
}

impl Terms {
    /// The terms of a gate with this configuration.
    pub(super) fn of(config: &Config, now: Timestamp, uptime: Uptime) -> Self {
        Self { now, uptime, skew: config.skew, remember: config.remember }
    }

    /// The uptime before which what expires then does not lapse, if it is taken in now; [`Uptime::MAX`] if it never expires.
    pub(super) fn lapses_at(&self, expires_at: Option<Timestamp>) -> Uptime {
        self.uptime.at_expiry(expires_at.map(|at| at.plus(self.skew)), self.now)
    }

    /// Whether a standing has lapsed: by the wall clock, and because as much time has passed as it had left when it was
    /// taken in.
    pub(super) fn lapsed(&self, standing: &Standing) -> bool {
        standing.expires_at.is_some_and(|at| self.have_passed(at, standing.lapses))
    }

    fn have_passed(&self, expires_at: Timestamp, lapses: Uptime) -> bool {
        expires_at.plus(self.skew) <= self.now && lapses <= self.uptime
    }

    /// Whether a tombstone of `at` may be forgotten. No event is older than that by more than the slowest feed takes.
    pub(super) fn outlived(&self, at: Timestamp) -> bool {
        at.plus(self.remember) <= self.now
    }
}

/// What [`Registers::expire`] forgot; the later outweighs the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Forgotten {
    Nothing,
    /// Nothing that stood.
    Tombstones,
    Standings,
}

/// Since when, at the earliest, something may be forgotten; the greatest of each for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The first `expires_at`.
    pub(super) expiry: Timestamp,
    /// The first uptime at which a standing may lapse.
    pub(super) uptime: Uptime,
    /// The `at` of the oldest tombstone.
    pub(super) tombstone: Timestamp,
}

impl Due {
    pub(super) const NEVER: Self =
        Self { expiry: Timestamp::MAX, uptime: Uptime::MAX, tombstone: Timestamp::MAX };

    pub(super) fn min(self, other: Self) -> Self {
        Self {
            expiry: self.expiry.min(other.expiry),
            uptime: self.uptime.min(other.uptime),
            tombstone: self.tombstone.min(other.tombstone),
        }
    }

    pub(super) fn has_come(&self, terms: &Terms) -> bool {
        terms.have_passed(self.expiry, self.uptime) || terms.outlived(self.tombstone)
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

/// The entries of a target for each kind of credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    all: Option<Entry>,
    signed: Option<Entry>,
}

impl Entries {
    /// The entry that the request path finds: everything counts.
    pub(super) fn all(self) -> Option<Entry> {
        self.all
    }

    /// Judges a credential: see [`Entry::denies`].
    pub(super) fn deny(self, credential: &Credential) -> Option<bool> {
        let entry = match credential.heeds {
            Heeds::All => self.all,
            Heeds::Signed => self.signed,
        };
        entry?.denies(credential.issued_at)
    }
}

/// The state of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// What is denied for good.
    pub(super) revoked: Register,
    /// What is denied until it is reinstated.
    pub(super) suspended: Register,
}

impl Registers {
    /// Merges one event in. What it denies does not lapse before the uptime `lapses`.
    pub fn merge(&mut self, event: &Event, lapses: Uptime) {
        match event.action {
            Action::Revoke => self.revoked.merge(Standing::of(event, lapses)),
            Action::Suspend => self.suspended.merge(Standing::of(event, lapses)),
            Action::Reinstate => {
                let tombstone = Tombstone::of(event);
                self.suspended.lift(&tombstone);
                if event.force {
                    self.revoked.lift(&tombstone);
                }
            }
        }
    }

    /// Merges the registers of the same target in: what all their events together would have left.
    pub(super) fn absorb(&mut self, other: Self) {
        self.revoked.absorb(other.revoked);
        self.suspended.absorb(other.suspended);
    }

    /// Whether a revocation stands.
    pub fn is_revoked(&self) -> bool {
        !self.revoked.standings().is_empty()
    }

    /// Whether a suspension stands.
    pub fn is_suspended(&self) -> bool {
        !self.suspended.standings().is_empty()
    }

    /// Whether the target stands as an event asks: revoked or suspended at least as wide and as long; of a reinstatement,
    /// neither.
    pub(super) fn are_as_asked(&self, event: &Event) -> bool {
        let asked = Extent::of(event.issued_before, event.expires_at);
        let heeds = if event.unsigned { Heeds::All } else { Heeds::Signed };
        match event.action {
            Action::Revoke => self.revoked.reaches(asked, heeds),
            Action::Suspend => self.suspended.reaches(asked, heeds),
            Action::Reinstate => !self.is_revoked() && !self.is_suspended(),
        }
    }

    /// The greatest time of any event in here: what is decided now must come after it to count.
    pub fn latest(&self) -> Option<Timestamp> {
        self.revoked.latest().max(self.suspended.latest())
    }

    /// A reinstatement that lifts an event which denies something.
    pub(super) fn lifted_by(&self, event: &Event) -> Option<&Tombstone> {
        let register = match event.action {
            Action::Revoke => &self.revoked,
            Action::Suspend => &self.suspended,
            Action::Reinstate => return None,
        };
        register.lifted_by(&(event.at, event.id.clone()), EntryKind::of(event))
    }

    /// Counts what any feed says as said by unsigned messages.
    pub(super) fn heed_no_feed(&mut self) {
        let is_of_feed = |standing: &Standing| standing.source.as_deref().is_some_and(|from| from != ADMIN);
        self.revoked.mark_unsigned(is_of_feed);
        self.suspended.mark_unsigned(is_of_feed);
    }

    /// Everything that stands: the revocations, greatest stamp first, then the suspensions, likewise. Each is of an event of
    /// its own.
    pub fn standings(&self) -> impl Iterator<Item = (State, &Standing)> {
        let revoked = self.revoked.standings().iter().map(|standing| (State::Revoked, standing));
        revoked.chain(self.suspended.standings().iter().map(|standing| (State::Suspended, standing)))
    }

    /// Gives each standing that expires the uptime at which it may lapse: for registers of journals that kept none.
    pub(super) fn measure(&mut self, terms: &Terms) {
        self.revoked.measure(terms);
        self.suspended.measure(terms);
    }

    /// Forgets what has had its time.
    pub(super) fn expire(&mut self, terms: &Terms) -> Forgotten {
        self.revoked.expire(terms).max(self.suspended.expire(terms))
    }

    /// Since when [`Self::expire`] may find something.
    pub(super) fn due(&self) -> Due {
        self.revoked.due().min(self.suspended.due())
    }

    /// Whether nothing is left to remember.
    pub fn is_blank(&self) -> bool {
        self.revoked.is_blank() && self.suspended.is_blank()
    }

    /// What the request path needs of it; `None` if it denies nothing.
    pub(super) fn entry(&self) -> Option<Entry> {
        self.entry_for(Heeds::All)
    }

    /// The entries for each kind of credential.
    pub(super) fn entries(&self) -> Entries {
        Entries { all: self.entry_for(Heeds::All), signed: self.entry_for(Heeds::Signed) }
    }

    /// The entry for credentials that heed so much; `None` if nothing is denied to them.
    pub(super) fn entry_for(&self, heeds: Heeds) -> Option<Entry> {
        let (revoked_before, suspended_before) =
            (self.revoked.denied_before(heeds), self.suspended.denied_before(heeds));
        (revoked_before > i64::MIN || suspended_before > i64::MIN)
            .then_some(Entry { revoked_before, suspended_before })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Level;
    use super::super::Target;
    use super::super::register::MAX_STANDINGS;
    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let target = Target::parse(Level::Principal, "a", None).unwrap();
        let action = prop_oneof![Just(Action::Revoke), Just(Action::Suspend), Just(Action::Reinstate)];
        let bound = proptest::option::of(0..4_i64);
        let flags = (any::<bool>(), any::<bool>());
        (action, 0..4_i64, 0..3_u8, bound.clone(), bound, flags).prop_map(
            move |(action, at, id, issued_before, expires_at, (force, unsigned))| Event {
                // The content follows from the id, as it does for a duplicate; but for the signature.
                id: format!("{id}{action:?}{issued_before:?}{expires_at:?}{force}"),
                unsigned,
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
            registers.merge(event, lapses(event));
            registers
        })
    }

    /// The uptime at which an event may lapse on a gate that has run since the Unix epoch.
    fn lapses(event: &Event) -> Uptime {
        Uptime::default().at_expiry(event.expires_at, Timestamp::from_secs(0))
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

        /// Of events that do not lapse. Seen failing with tombstones that are forgotten a second too soon.
        #[test]
        fn within_the_time_that_tombstones_are_remembered_order_does_not_matter(
            events in proptest::collection::vec((event(), 0..3_i64), 1..12),
            turns in proptest::collection::vec(any::<bool>(), 12),
        ) {
            // Each event comes less than three seconds after it was decided; in between, what has had its time goes.
            let coming = |(event, delay): (Event, i64)| (event.at.secs() + delay, Event { expires_at: None, ..event });
            let mut events: Vec<(i64, Event)> = events.into_iter().map(coming).collect();
            events.sort_by_key(|(comes, _)| *comes);
            let mut registers = Registers::default();
            for ((comes, event), turn) in events.iter().zip(turns) {
                if turn {
                    registers.expire(&terms(*comes));
                }
                registers.merge(event, lapses(event));
            }
            let all = merged(events.iter().map(|(_, event)| event));
            prop_assert_eq!(registers.entry(), all.entry());
            let end = Timestamp::from_secs(100);
            registers.expire(&Terms { now: end, ..terms(0) });
            let stands = registers.standings().count();
            prop_assert_eq!(registers.is_blank(), stands == 0, "a tombstone stays for ever");
            prop_assert_eq!(registers.due(), Due::NEVER);
        }

        /// Seen failing with a register of suspensions that belongs to the greatest stamp.
        #[test]
        fn only_a_reinstatement_narrows(events in proptest::collection::vec(event(), 1..10)) {
            let nothing = Entry { revoked_before: i64::MIN, suspended_before: i64::MIN };
            let mut registers = Registers::default();
            for event in &events {
                let of = |registers: &Registers| {
                    [Heeds::All, Heeds::Signed].map(|heeds| registers.entry_for(heeds).unwrap_or(nothing))
                };
                let before = of(&registers);
                registers.merge(event, lapses(event));
                let lifts = event.action == Action::Reinstate;
                for (before, after) in before.iter().zip(of(&registers)) {
                    prop_assert!(after.revoked_before >= before.revoked_before || (lifts && event.force));
                    prop_assert!(after.suspended_before >= before.suspended_before || lifts);
                }
            }
        }

        /// Times of issue and bounds are drawn from the same few seconds, so that they are often equal. Seen failing with
        /// `<=` for `<` in either half of [`Entry::denies`].
        #[test]
        fn a_credential_that_was_issued_at_the_bound_itself_is_not_hit(
            events in proptest::collection::vec(event(), 1..6),
            issued_at in 0..4_i64,
        ) {
            let mut registers = Registers::default();
            events.iter().for_each(|event| registers.merge(event, lapses(event)));
            let hits = |of: State| {
                let mut standings = registers.standings().filter(|(state, _)| *state == of);
                standings.any(|(_, standing)| standing.issued_before.is_none_or(|before| !(before..).contains(&issued_at)))
            };
            let expected = match (hits(State::Revoked), hits(State::Suspended)) {
                (true, _) => Some(false),
                (false, true) => Some(true),
                (false, false) => None,
            };
            prop_assert_eq!(registers.entry().and_then(|entry| entry.denies(issued_at)), expected);
        }

        #[test]
        fn what_is_asked_is_what_stands_unless_something_later_outranks_it(
            events in proptest::collection::vec(event(), 1..10),
            last in event(),
        ) {
            let mut registers = merged(&events);
            let last = Event { at: registers.latest().unwrap().plus(Duration::from_millis(1)), ..last };
            registers.merge(&last, lapses(&last));
            let is_refused = last.action == Action::Reinstate && !last.force && registers.is_revoked();
            let is_weak = last.action == Action::Reinstate && last.unsigned;
            prop_assert!(registers.are_as_asked(&last) || is_refused || is_weak);
        }
    }

    fn terms(secs: i64) -> Terms {
        let (now, remember) = (Timestamp::from_secs(secs), Duration::from_secs(3));
        let uptime = Uptime::default().plus(Duration::from_secs(secs.unsigned_abs()));
        Terms { now, uptime, skew: Duration::ZERO, remember }
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
    fn many_narrow_entries_are_widened_never_dropped() {
        for action in [Action::Revoke, Action::Suspend] {
            let narrow = (0..40).map(|i| Event { issued_before: Some(100 - i), ..at(action, i) });
            let registers = merged(&narrow.collect::<Vec<_>>());
            assert!(registers.standings().count() <= MAX_STANDINGS);
            let entry = registers.entry().unwrap();
            assert_eq!(entry.revoked_before.max(entry.suspended_before), 100);
        }
    }

    #[test]
    fn a_tombstone_goes_when_nothing_can_lose_against_it_any_more() {
        let lifted = [at(Action::Suspend, 1), Event { force: true, ..at(Action::Reinstate, 2) }];
        let mut registers = merged(&lifted);
        assert_eq!(registers.expire(&terms(4)), Forgotten::Nothing);
        let before = registers.clone();
        registers.merge(&lifted[0], Uptime::MAX);
        assert_eq!(registers, before, "what was lifted is back");
        assert_eq!(registers.expire(&terms(5)), Forgotten::Tombstones);
        assert!(registers.is_blank());
        // Later than any feed delivers: in doubt it is denied.
        registers.merge(&lifted[0], Uptime::MAX);
        assert!(registers.is_suspended());
    }

    #[test]
    fn an_entry_that_lapses_leaves_no_tombstone() {
        let until = |secs| Some(Timestamp::from_secs(secs));
        let [old, new] =
            [(1, 2), (2, 3)].map(|(secs, end)| Event { expires_at: until(end), ..at(Action::Suspend, secs) });
        let mut registers = merged(&[old.clone(), new]);
        registers.expire(&terms(3));
        assert!(registers.is_blank());
        // Covered once, and here again: denied until it lapses by itself.
        registers.merge(&old, Uptime::MAX);
        assert!(registers.is_suspended());
    }

    /// Seen failing where the later suspension took the place of the one that stood.
    #[test]
    fn a_suspension_is_narrowed_by_no_other() {
        let narrow = Event { issued_before: Some(10), ..at(Action::Suspend, 2) };
        let brief = Event { expires_at: Some(Timestamp::from_secs(4)), ..at(Action::Suspend, 3) };
        let mut registers = merged(&[at(Action::Suspend, 1), narrow, brief]);
        assert_eq!(registers.entry(), Some(Entry::SUSPENDED));
        registers.expire(&terms(100));
        assert_eq!(registers.entry(), Some(Entry::SUSPENDED));
        registers.merge(&at(Action::Reinstate, 4), Uptime::MAX);
        assert_eq!(registers.entry(), None);
    }

    /// Seen failing with [`Terms::lapsed`] by the wall clock alone.
    #[test]
    fn a_wall_clock_that_runs_ahead_expires_nothing() {
        let mut registers =
            merged(&[Event { expires_at: Some(Timestamp::from_secs(10)), ..at(Action::Revoke, 1) }]);
        let ahead = Terms { now: Timestamp::from_secs(1_000_000), ..terms(9) };
        assert!(!registers.due().has_come(&ahead));
        assert_eq!(registers.expire(&ahead), Forgotten::Nothing);
        // Nor does a wall clock that is behind.
        let behind = Terms { now: Timestamp::from_secs(9), ..terms(1_000_000) };
        assert!(!registers.due().has_come(&behind));
        assert_eq!(registers.expire(&behind), Forgotten::Nothing);
        assert_eq!(registers.expire(&terms(10)), Forgotten::Standings);
    }

    #[test]
    fn a_duplicate_never_shortens_the_time_that_an_entry_has() {
        let event = Event { expires_at: Some(Timestamp::from_secs(10)), ..at(Action::Revoke, 1) };
        for order in [[10_000, 4000], [4000, 10_000]] {
            let mut registers = Registers::default();
            order.into_iter().for_each(|millis| registers.merge(&event, Uptime::from_millis(millis)));
            assert_eq!(registers.expire(&Terms { now: Timestamp::MAX, ..terms(9) }), Forgotten::Nothing);
        }
    }

    #[test]
    fn entries_lapse_with_what_they_hit_and_not_before() {
        let mut registers =
            merged(&[Event { expires_at: Some(Timestamp::from_secs(10)), ..at(Action::Revoke, 1) }]);
        let skew = Duration::from_secs(5);
        let terms = |secs| Terms { skew, remember: Duration::MAX, ..terms(secs) };
        assert_eq!(registers.expire(&terms(14)), Forgotten::Nothing);
        assert!(registers.is_revoked() && !registers.due().has_come(&terms(14)));
        assert!(registers.due().has_come(&terms(15)));
        assert_eq!(registers.expire(&terms(15)), Forgotten::Standings);
        assert!(registers.is_blank());
    }
}
