//! Issuing distribution points: partitions are told apart, what cannot be honoured is refused by name.

use portcullis::revocation::crl::Scope;

use super::forge::Ca;
use super::forge::Forge;
use super::forge::IDP;
use super::forge::extension;
use super::forge::tlv;
use super::good;
use super::refused;

const TRUE: &[u8] = &[0xff];

fn full_name(uris: &[&str]) -> Vec<u8> {
    let names: Vec<u8> = uris.iter().flat_map(|uri| tlv(0x86, uri.as_bytes())).collect();
    tlv(0xa0, &tlv(0xa0, &names))
}

fn forge(fields: &[Vec<u8>]) -> Forge {
    Forge::number(1).revokes(1).with(extension(IDP, true, &tlv(0x30, &fields.concat())))
}

fn scope(fields: &[Vec<u8>]) -> Scope {
    let ca = Ca::root("A");
    good(&forge(fields).sign(&ca), &ca.issuers()).0.scope
}

#[test]
fn partitions_are_told_apart() {
    let one = scope(&[full_name(&["http://a/1"])]);
    assert_eq!(one.uris().collect::<Vec<_>>(), ["http://a/1"]);
    assert_eq!(one.to_string(), "all certificates of http://a/1");
    assert_ne!(one, scope(&[full_name(&["http://a/2"])]));
    assert_eq!(scope(&[full_name(&["b", "a"])]), scope(&[full_name(&["a", "b", "a"])]));
    let users = scope(&[tlv(0x81, TRUE)]);
    let authorities = scope(&[tlv(0x82, TRUE)]);
    assert_ne!(users, authorities);
    assert_eq!(users.to_string(), "end-entity certificates");
    assert_eq!(authorities.to_string(), "certificates of authorities");
    assert_ne!(scope(&[full_name(&["a"]), tlv(0x81, TRUE)]), scope(&[full_name(&["a"])]));
    assert!(!users.is_all());
    let relative = scope(&[tlv(0xa0, &tlv(0xa1, &[0x31, 0]))]);
    assert_eq!(relative.to_string(), "all certificates of one distribution point");
    // A FALSE that might have been left out says nothing.
    assert!(scope(&[tlv(0x81, &[0]), tlv(0x84, &[0])]).is_all());
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let ca = Ca::root("A");
    let long = "x".repeat(16 * 1024);
    for (fields, part) in [
        (vec![tlv(0x84, TRUE)], "an indirect list (indirectCRL)"),
        (vec![tlv(0x85, TRUE)], "onlyContainsAttributeCerts"),
        (vec![tlv(0x83, &[1, 0x40])], "for some reasons only (onlySomeReasons)"),
        (vec![tlv(0x83, &[])], "onlySomeReasons is not a BIT STRING"),
        (vec![tlv(0x83, &[0])], "onlySomeReasons is not a BIT STRING"),
        (vec![tlv(0x83, &[9, 1])], "onlySomeReasons is not a BIT STRING"),
        (vec![tlv(0x81, TRUE), tlv(0x82, TRUE)], "only users and only authorities at once"),
        (vec![tlv(0x82, TRUE), tlv(0x81, TRUE)], "an unknown field"),
        (vec![tlv(0x81, &[1])], "a BOOLEAN that is neither"),
        (vec![tlv(0x86, &[1])], "an unknown field"),
        (vec![], "an empty issuing distribution point"),
        (vec![tlv(0xa0, &[])], "truncated"),
        (vec![tlv(0xa0, &tlv(0xa0, &[]))], "without a name"),
        (vec![tlv(0xa0, &tlv(0x86, &[]))], "not a name of a distribution point"),
        (vec![full_name(&[&long])], "over 16 KiB"),
    ] {
        refused(&forge(&fields).sign(&ca), &ca.issuers(), part);
    }
    let twice = forge(&[full_name(&["a"])]).with(extension(IDP, true, &tlv(0x30, &full_name(&["a"]))));
    refused(&twice.sign(&ca), &ca.issuers(), "for the second time");
}
