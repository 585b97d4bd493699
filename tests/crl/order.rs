//! What comes after what: numbers that rise, fall and repeat, deltas and their bases.

use bytes::Bytes;
use portcullis::revocation::crl::Lists;
use portcullis::revocation::crl::Verdict;

use super::forge::Ca;
use super::forge::DELTA;
use super::forge::Forge;
use super::forge::extension;
use super::forge::int;
use super::read;
use super::refused;

/// Takes the lists in one after the other, and says of each what became of it.
fn play(ca: &Ca, lists: &[Bytes]) -> Vec<String> {
    let mut known = Lists::default();
    let one = |list: &Bytes| match known.accept(read(list, &ca.issuers()).unwrap()) {
        Ok(Verdict::New) => "new".to_owned(),
        Ok(Verdict::Unchanged) => "unchanged".to_owned(),
        Ok(Verdict::Superseded) => "superseded".to_owned(),
        Err(error) => error.to_string(),
    };
    lists.iter().map(one).collect()
}

#[test]
fn a_number_never_falls() {
    let ca = Ca::root("A");
    let list = |number| Forge::number(number).sign(&ca);
    assert_eq!(
        play(&ca, &[list(5), list(4), list(5), list(6), list(5)]),
        [
            "new",
            "number 4 is below the known 5: an old list",
            "unchanged",
            "new",
            "number 5 is below the known 6: an old list"
        ]
    );
}

#[test]
fn of_two_lists_with_one_number_the_later_counts() {
    let ca = Ca::root("A");
    let one = || Forge::number(5).this_update("261014110000Z");
    let earlier = Forge::number(5).this_update("261014100000Z").revokes(1).sign(&ca);
    // Signed again, the bytes differ, and the list does not.
    let (first, again) = (one().sign(&ca), one().sign(&ca));
    assert_ne!(first, again);
    let repeated = "number 5 is known with other content";
    assert_eq!(play(&ca, &[first.clone(), earlier.clone(), again]), ["new", repeated, "unchanged"]);
    assert_eq!(play(&ca, &[earlier, first]), ["new", "new"]);
}

/// Seen failing where any list with a number was newer than any without: whoever kept one from before the authority left
/// its numbers out could bring back what was revoked since.
#[test]
fn without_numbers_time_decides() {
    let ca = Ca::root("A");
    let at = |time: &str| Forge::new().this_update(time);
    let (first, second, third) = ("261014100000Z", "261014110000Z", "261014120000Z");
    let lists = [
        at(second).sign(&ca),
        at(first).sign(&ca),
        at(second).sign(&ca),
        Forge::number(1).this_update(first).sign(&ca),
        Forge::number(1).this_update(third).sign(&ca),
        at(second).revokes(1).sign(&ca),
    ];
    let verdicts = play(&ca, &lists);
    let expected = ["new", "issued at", "unchanged", "issued at", "new", "no number"];
    for (verdict, expected) in verdicts.iter().zip(expected) {
        assert!(verdict.starts_with(expected), "{verdicts:?}");
    }
}

#[test]
fn a_delta_says_more_than_what_is_known_or_is_passed_over() {
    let ca = Ca::root("A");
    let (full, delta) = (|n| Forge::number(n).sign(&ca), |n, base| Forge::delta(n, base).sign(&ca));
    assert_eq!(play(&ca, &[full(5), delta(6, 5), delta(6, 5)]), ["new", "new", "unchanged"]);
    assert_eq!(play(&ca, &[full(6), delta(7, 5)]), ["new", "new"]);
    // One issued with the full list, or before it, says nothing that is not in there.
    assert_eq!(play(&ca, &[full(6), delta(6, 5), delta(5, 4)]), ["new", "superseded", "superseded"]);
    // Deltas have an order of their own; a full list may come between them.
    assert_eq!(
        play(&ca, &[full(5), delta(8, 5), delta(7, 5), full(6), delta(9, 6)]),
        ["new", "new", "number 7 is below the known 8: an old list", "new", "new"]
    );
    // One that is older and reaches further back may still fit where the newer does not.
    assert_eq!(
        play(&ca, &[delta(8, 7), delta(6, 3), full(3), delta(6, 3)]),
        ["new", "new", "new", "unchanged"]
    );
    let unnumbered = Forge::new().sign(&ca);
    assert_eq!(play(&ca, &[unnumbered, delta(6, 5)]), ["new", "new"]);
}

#[test]
fn deltas_without_end_are_not_kept() {
    let ca = Ca::root("A");
    let many: Vec<Bytes> = (1..=17).map(|number| Forge::delta(number + 1, number).sign(&ca)).collect();
    let verdicts = play(&ca, &many);
    assert!(verdicts[..16].iter().all(|verdict| verdict == "new"), "{verdicts:?}");
    assert_eq!(
        verdicts[16],
        "a delta on list 17, after 16 others; the full list that is known has number none"
    );
}

#[test]
fn a_delta_has_a_number_and_an_earlier_base() {
    let ca = Ca::root("A");
    let unnumbered = Forge::new().with(extension(DELTA, true, &int(&[5])));
    refused(&unnumbered.sign(&ca), &ca.issuers(), "a delta on list 5 with number none");
    refused(&Forge::delta(4, 5).sign(&ca), &ca.issuers(), "a delta on list 5 with number 4");
    // The mark that RFC 5280 demands may be missing: it is a delta all the same.
    let unmarked = Forge::number(6).with(extension(DELTA, false, &int(&[5])));
    assert_eq!(
        read(&unmarked.sign(&ca), &ca.issuers()).unwrap().crl().kind,
        read(&Forge::delta(6, 5).sign(&ca), &ca.issuers()).unwrap().crl().kind
    );
}
