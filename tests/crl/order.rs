//! What comes after what: numbers that rise, fall and repeat, deltas and their bases.

use bytes::Bytes;
use portcullis::revocation::crl::Error;
use portcullis::revocation::crl::Known;
use portcullis::revocation::crl::Number;
use portcullis::revocation::crl::Verdict;

use super::forge::Ca;
use super::forge::DELTA;
use super::forge::Forge;
use super::forge::extension;
use super::forge::int;
use super::read;
use super::refused;

/// Reads the lists one after the other, and says of each what became of it.
fn play(ca: &Ca, lists: &[Bytes]) -> Vec<String> {
    let mut known = Known::default();
    let one = |list: &Bytes| match read(list, &ca.issuers()).unwrap().after(&known) {
        Ok(Verdict::New(list)) => {
            known.note(list.crl());
            "new".to_owned()
        }
        Ok(Verdict::Unchanged(_)) => "unchanged".to_owned(),
        Ok(Verdict::Superseded(_)) => "superseded".to_owned(),
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
fn a_number_stands_for_one_list() {
    let ca = Ca::root("A");
    let (one, other) = (Forge::number(5).sign(&ca), Forge::number(5).revokes(1).sign(&ca));
    // Signed again, the bytes differ, and the list does not.
    let again = Forge::number(5).sign(&ca);
    assert_ne!(one, again);
    assert_eq!(play(&ca, &[one, other, again]), ["new", "number 5 is known with other content", "unchanged"]);
}

#[test]
fn without_numbers_time_decides() {
    let ca = Ca::root("A");
    let at = |time: &str| Forge::new().this_update(time);
    let (first, second) = ("261014100000Z", "261014110000Z");
    let lists = [
        at(first).sign(&ca),
        at(first).revokes(1).sign(&ca),
        at(second).sign(&ca),
        at(first).sign(&ca),
        Forge::number(1).this_update(first).sign(&ca),
        Forge::number(1).sign(&ca),
    ];
    let verdicts = play(&ca, &lists);
    for (verdict, expected) in
        verdicts.iter().zip(["new", "issued at", "new", "issued at", "issued at", "new"])
    {
        assert!(verdict.starts_with(expected), "{verdicts:?}");
    }
}

#[test]
fn a_delta_needs_its_base() {
    let ca = Ca::root("A");
    let (full, delta) = (|n| Forge::number(n).sign(&ca), |n, base| Forge::delta(n, base).sign(&ca));
    let missing = "a delta on list 5, but the full list that is known has number";
    assert_eq!(play(&ca, &[delta(6, 5)]), [format!("{missing} none")]);
    assert_eq!(play(&ca, &[full(4), delta(6, 5)]), ["new", &format!("{missing} 4")]);
    assert_eq!(play(&ca, &[full(5), delta(6, 5), delta(6, 5)]), ["new", "new", "unchanged"]);
    assert_eq!(play(&ca, &[full(6), delta(7, 5)]), ["new", "new"]);
    // One issued with the full list, or before it, says nothing that is not in there.
    assert_eq!(play(&ca, &[full(6), delta(6, 5), delta(5, 4)]), ["new", "superseded", "superseded"]);
    // Deltas have an order of their own; a full list may come between them.
    assert_eq!(
        play(&ca, &[full(5), delta(8, 5), delta(7, 5), full(6), delta(9, 6)]),
        ["new", "new", "number 7 is below the known 8: an old list", "new", "new"]
    );
    let unnumbered = Forge::new().sign(&ca);
    assert_eq!(play(&ca, &[unnumbered, delta(6, 5)]), ["new", &format!("{missing} none")]);
    let error = read(&delta(6, 5), &ca.issuers()).unwrap().after(&Known::default()).unwrap_err();
    assert_eq!(error, Error::Base { base: Number::from(5), known: None });
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
