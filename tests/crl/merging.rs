//! Several lists of one authority: in any order they say the same.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use portcullis::identity::Serial;
use portcullis::revocation::crl::Lists;
use proptest::prelude::*;

use super::forge::Ca;
use super::forge::Forge;
use super::forge::IDP;
use super::forge::extension;
use super::forge::tlv;
use super::read;

const HOLD: u8 = 6;
const REMOVE: u8 = 8;

fn ca() -> &'static Ca {
    static CA: OnceLock<Ca> = OnceLock::new();
    CA.get_or_init(|| Ca::root("A"))
}

/// Takes the lists in one after the other; some may be refused.
fn taken(lists: &[Bytes]) -> Lists {
    lists.iter().fold(Lists::default(), |mut taken, list| {
        let _ = taken.accept(read(list, &ca().issuers()).unwrap());
        taken
    })
}

fn partition(forge: Forge, uri: &str) -> Forge {
    let point = tlv(0xa0, &tlv(0xa0, &tlv(0x86, uri.as_bytes())));
    forge.with(extension(IDP, true, &tlv(0x30, &point)))
}

/// Every serial that is denied, and whether it is suspended only.
fn verdicts(lists: &Lists) -> BTreeMap<String, bool> {
    let mut verdicts = BTreeMap::new();
    lists.each(|_, entry| {
        let held = verdicts.entry(Serial::from(entry.serial).to_string()).or_insert(true);
        *held &= entry.is_held();
    });
    verdicts
}

fn signed(forge: &Forge) -> Bytes {
    forge.sign(ca())
}

fn denied(forges: &[Forge]) -> Vec<String> {
    verdicts(&taken(&forges.iter().map(signed).collect::<Vec<_>>())).into_keys().collect()
}

#[test]
fn partitions_stand_side_by_side() {
    let forges = [
        partition(Forge::number(1).revokes(1), "a"),
        partition(Forge::number(1).revokes(2), "b"),
        Forge::number(9).revokes(3),
    ];
    assert_eq!(denied(&forges), ["01", "02", "03"]);
}

#[test]
fn the_newest_of_one_scope_counts() {
    assert_eq!(denied(&[Forge::number(2).revokes(2), Forge::number(1).revokes(1)]), ["02"]);
    assert_eq!(denied(&[Forge::number(1).revokes(1), Forge::number(2)]), [""; 0]);
}

#[test]
fn a_delta_adds_and_lifts() {
    let full = Forge::number(5).revokes(1).revokes_for(2, HOLD).revokes_for(3, HOLD);
    let delta = Forge::delta(6, 5).revokes(4).revokes_for(2, REMOVE);
    assert_eq!(denied(&[full.clone(), delta.clone()]), ["01", "03", "04"]);
    assert_eq!(denied(&[delta.clone(), full.clone()]), ["01", "03", "04"]);
    // The later full list has what the delta said.
    assert_eq!(denied(&[delta, Forge::number(6).revokes(9)]), ["09"]);
}

#[test]
fn only_a_suspension_is_lifted() {
    let full = Forge::number(5).revokes(1);
    assert_eq!(denied(&[full, Forge::delta(6, 5).revokes_for(1, REMOVE)]), ["01"]);
    // Lifted and revoked in one delta, in either order: revoked.
    let full = Forge::number(5).revokes_for(1, HOLD);
    for delta in [
        Forge::delta(6, 5).revokes_for(1, REMOVE).revokes(1),
        Forge::delta(6, 5).revokes(1).revokes_for(1, REMOVE),
    ] {
        assert_eq!(denied(&[full.clone(), delta]), ["01"]);
    }
}

#[test]
fn a_delta_that_does_not_fit_only_adds() {
    let full = Forge::number(3).revokes_for(1, HOLD);
    let delta = Forge::delta(6, 5).revokes_for(1, REMOVE).revokes(2);
    assert_eq!(denied(&[full, delta.clone()]), ["01", "02"]);
    assert_eq!(denied(&[delta]), ["02"]);
}

/// Seen failing where the last to come took the place of the other.
#[test]
fn lists_with_one_number_and_time_and_other_content_all_count() {
    let full = [
        Forge::number(5).revokes(1).revokes_for(9, HOLD),
        Forge::number(5).revokes(2),
        Forge::number(5).revokes(3),
    ];
    let [one, other, third] = full.clone();
    for order in [vec![one.clone(), other.clone()], vec![other.clone(), one.clone(), other.clone()]] {
        assert_eq!(denied(&order), ["01", "02", "09"]);
    }
    assert_eq!(denied(&[one.clone(), other.clone(), third.clone()]), ["01", "02", "03", "09"]);
    assert_eq!(taken(&[signed(&one), signed(&other)]).twins().count(), 2);
    assert_eq!(taken(&[signed(&one), signed(&one)]).twins().count(), 0);
    // A newer one ends it.
    let newer = Forge::number(6).revokes(4);
    assert_eq!(denied(&[one.clone(), other.clone(), newer.clone()]), ["04"]);
    assert_eq!(denied(&[newer, one, other]), ["04"]);
}

/// Seen failing where the last to come took the place of the other.
#[test]
fn of_deltas_that_contradict_each_other_all_add_and_they_lift_together() {
    let full = Forge::number(5).revokes_for(1, HOLD).revokes_for(2, HOLD);
    let one = Forge::delta(6, 5).revokes_for(1, REMOVE).revokes_for(2, REMOVE).revokes(3);
    let other = Forge::delta(6, 5).revokes_for(2, REMOVE).revokes(4);
    for order in [[&full, &one, &other], [&other, &one, &full], [&one, &full, &other]] {
        assert_eq!(denied(&order.map(Clone::clone)), ["01", "03", "04"]);
    }
    assert_eq!(denied(&[full, one, other, Forge::delta(7, 5).revokes(8)]), ["01", "02", "08"]);
}

#[test]
fn a_suspension_that_becomes_a_revocation_is_one() {
    let lists = [signed(&Forge::number(5).revokes_for(1, HOLD)), signed(&Forge::delta(6, 5).revokes(1))];
    assert_eq!(verdicts(&taken(&lists)), BTreeMap::from([("01".to_owned(), false)]));
}

/// What lists may come: full ones and deltas, of two partitions, of a few certificates.
fn forges() -> impl Strategy<Value = Vec<Forge>> {
    let entry = (1..6_u32, prop_oneof![Just(None), Just(Some(HOLD)), Just(Some(REMOVE)), Just(Some(1))]);
    let one = (0..2_u8, 1..6_u32, proptest::option::of(0..5_u32), proptest::collection::vec(entry, 0..5));
    let one = one.prop_map(|(scope, number, base, entries)| {
        let is_delta = base.is_some();
        let start =
            base.map_or_else(|| Forge::number(number), |base| Forge::delta(number, base.min(number - 1)));
        let start = if scope == 0 { start } else { partition(start, "a") };
        entries.into_iter().fold(start, |forge, (serial, reason)| match reason {
            Some(REMOVE) if !is_delta => forge.revokes(serial),
            Some(reason) => forge.revokes_for(serial, reason),
            None => forge.revokes(serial),
        })
    });
    proptest::collection::vec(one, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Seen failing where the last of several lists counted, instead of the newest; and where a delta that does not fit
    /// was refused.
    #[test]
    fn the_order_does_not_matter(
        (given, shuffled) in forges()
            .prop_map(|forges| forges.iter().map(signed).collect::<Vec<_>>())
            .prop_flat_map(|lists| (Just(lists.clone()), Just(lists).prop_shuffle())),
    ) {
        prop_assert_eq!(verdicts(&taken(&given)), verdicts(&taken(&shuffled)));
    }
}
