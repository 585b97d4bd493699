//! Entries: serials of every shape, reasons, extensions.

use portcullis::identity::KeyId;
use portcullis::identity::Serial;
use portcullis::revocation::Fingerprinter;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::revocation::crl::Reason;

use super::accept;
use super::entries;
use super::forge::CERTIFICATE_ISSUER;
use super::forge::Ca;
use super::forge::Forge;
use super::forge::INVALIDITY_DATE;
use super::forge::REASON;
use super::forge::UNKNOWN;
use super::forge::entry;
use super::forge::entry_with;
use super::forge::extension;
use super::forge::large;
use super::forge::serial_of;
use super::forge::tlv;
use super::good;
use super::refused;

fn with(entry: &[u8]) -> Forge {
    Forge::number(1).entry(entry)
}

#[test]
fn serials_are_numbers() {
    let ca = Ca::root("A");
    for (serial, text) in [
        (&[0][..], "00"),
        (&[0, 0], "00"),
        (&[1], "01"),
        (&[0, 0, 0x80], "80"),
        (&[0x80], "-80"),
        (&[0xff, 0xff], "-01"),
        (&[0x11; 21], &"11".repeat(21)),
        (&[0x11; 64], &"11".repeat(64)),
    ] {
        let (crl, revoked) = good(&with(&entry(serial, None)).sign(&ca), &ca.issuers());
        assert_eq!((crl.entries, crl.skipped), (1, 0));
        assert!(revoked.contains_key(text), "{revoked:?} lacks {text}");
    }
}

#[test]
fn a_serial_that_no_certificate_can_have_is_counted_and_passed_over() {
    let ca = Ca::root("A");
    let list = Forge::number(1).revokes(1).entry(&entry(&[0x11; 65], None)).revokes(2).sign(&ca);
    let (crl, revoked) = good(&list, &ca.issuers());
    assert_eq!((crl.entries, crl.skipped), (2, 1));
    assert_eq!(revoked.keys().collect::<Vec<_>>(), ["01", "02"]);
    refused(
        &Forge::number(1).revokes(1).entry(&entry(&[], None)).sign(&ca),
        &ca.issuers(),
        "entry 1 (serial",
    );
}

#[test]
fn reasons_are_read() {
    let ca = Ca::root("A");
    for (code, reason) in [
        (0, Reason::Unspecified),
        (1, Reason::KeyCompromise),
        (2, Reason::CaCompromise),
        (3, Reason::AffiliationChanged),
        (4, Reason::Superseded),
        (5, Reason::CessationOfOperation),
        (6, Reason::CertificateHold),
        (7, Reason::Unspecified),
        (9, Reason::PrivilegeWithdrawn),
        (10, Reason::AaCompromise),
        (11, Reason::Unspecified),
        (0xff, Reason::Unspecified),
    ] {
        // Alone, which is read in one go, and with company, which is not.
        let alone = with(&entry(&[1], Some(code)));
        let company = [extension(INVALIDITY_DATE, false, &tlv(0x18, b"20260101000000Z")), reason_of(&[code])];
        for forge in [alone, with(&entry_with(&[1], &company))] {
            let (_, lists) = accept(&forge.sign(&ca), &ca.issuers());
            let entry = entries(&lists)[0];
            assert_eq!(entry.reason, reason, "{code}");
            assert_eq!(entry.is_held(), code == 6);
            assert!(!entry.is_removed());
        }
    }
}

fn reason_of(contents: &[u8]) -> Vec<u8> {
    extension(REASON, false, &tlv(0x0a, contents))
}

#[test]
fn extensions_of_entries_are_understood_or_refused() {
    let ca = Ca::root("A");
    let twice = |one: Vec<u8>| vec![one.clone(), one];
    good(&with(&entry_with(&[1], &[extension(UNKNOWN, false, &[])])).sign(&ca), &ca.issuers());
    good(&with(&entry_with(&[1], &[extension(REASON, true, &[0x0a, 1, 1])])).sign(&ca), &ca.issuers());
    for (extensions, part) in [
        (vec![extension(UNKNOWN, true, &[])], "unknown critical extension 2.999.1"),
        (vec![extension(CERTIFICATE_ISSUER, true, &[0x30, 0])], "certificateIssuer: an indirect list"),
        (vec![extension(CERTIFICATE_ISSUER, false, &[0x30, 0])], "certificateIssuer: an indirect list"),
        (vec![reason_of(&[8])], "removeFromCRL in a list that is not a delta"),
        (vec![reason_of(&[])], "a reason that is not one byte"),
        (vec![reason_of(&[0, 1])], "a reason that is not one byte"),
        (vec![extension(REASON, false, &[2, 1, 1])], "a reason that is not ENUMERATED"),
        (vec![extension(REASON, false, &[])], "a reason that is not ENUMERATED"),
        (vec![extension(REASON, false, &[0x0a, 1, 1, 0])], "more behind"),
        (twice(reason_of(&[1])), "for the second time"),
        (twice(extension(INVALIDITY_DATE, false, &[])), "for the second time"),
    ] {
        let list = Forge::number(1).revokes(7).entry(&entry_with(&[0x0a, 0x1b], &extensions)).sign(&ca);
        refused(&list, &ca.issuers(), part);
        refused(&list, &ca.issuers(), "entry 1 (serial 0a1b): ");
    }
}

#[test]
fn entries_that_are_no_entries_are_refused() {
    let ca = Ca::root("A");
    let time = tlv(0x17, b"261001120000Z");
    for (bytes, part) in [
        (vec![5, 0], "not an entry"),
        (tlv(0x30, &[]), "without a serial"),
        (tlv(0x30, &tlv(2, &[1])), "truncated"),
        (tlv(0x30, &[tlv(2, &[1]), tlv(0x17, b"261301120000Z")].concat()), "not a time"),
        (tlv(0x30, &[tlv(2, &[1]), time.clone(), vec![5, 0]].concat()), "neither a time nor extensions"),
        (tlv(0x30, &[tlv(2, &[1]), time.clone(), vec![0x30, 0]].concat()), "an empty list of extensions"),
        (
            tlv(0x30, &[tlv(2, &[1]), time, vec![0x30, 0, 5, 0]].concat()),
            "more behind the extensions of an entry",
        ),
    ] {
        refused(&with(&bytes).sign(&ca), &ca.issuers(), part);
    }
}

#[test]
fn a_serial_may_be_there_twice() {
    let ca = Ca::root("A");
    let (crl, lists) = accept(&Forge::number(1).revokes(1).revokes_for(1, 6).sign(&ca), &ca.issuers());
    assert_eq!((crl.entries, entries(&lists).len()), (2, 2));
}

#[test]
fn every_entry_of_a_large_list_is_seen() {
    let ca = Ca::root("A");
    let (crl, lists) = accept(&large(&ca, 20_000), &ca.issuers());
    assert_eq!((crl.entries, entries(&lists).len()), (20_000, 20_000));
    let prints = Fingerprinter::random().unwrap();
    let of_issuer = prints.certificates_of(&crl.issuer.key);
    for (index, entry) in entries(&lists).into_iter().enumerate() {
        assert_eq!(entry.serial.as_bytes(), serial_of(index as u64));
        if index % 1000 == 0 {
            let serial = Serial::from(entry.serial);
            let issuer = KeyId::parse(crl.issuer.key.as_str()).unwrap();
            let target = Target::parse(Level::Certificate, serial.as_str(), Some(issuer.as_str())).unwrap();
            assert_eq!(of_issuer.serial(entry.serial), prints.target(&target));
        }
    }
}
