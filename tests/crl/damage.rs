//! Bytes that were damaged, by accident or on purpose: refused, or the very list that was signed.

use std::sync::OnceLock;

use bytes::Bytes;
use portcullis::revocation::crl::Issuers;
use proptest::prelude::*;

use super::forge::Ca;
use super::forge::Forge;
use super::forge::IDP;
use super::forge::Scheme;
use super::forge::extension;
use super::forge::params;
use super::forge::tlv;
use super::good;
use super::read;

/// A small list with something of everything, and who is believed.
fn sample() -> &'static (Bytes, Issuers) {
    static SAMPLE: OnceLock<(Bytes, Issuers)> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let ca = Ca::of(params("A"), Scheme::P256Sha256);
        let point = tlv(0x30, &tlv(0xa0, &tlv(0xa0, &tlv(0x86, b"http://a/1"))));
        let forge = Forge::number(3).revokes(1).revokes_for(2, 1).revokes_for(300, 6);
        (forge.with(extension(IDP, true, &point)).sign(&ca), ca.issuers())
    })
}

/// Seen failing where the signature was not looked at.
fn harmless(damaged: Vec<u8>) {
    let (list, issuers) = sample();
    let damaged = Bytes::from(damaged);
    if read(&damaged, issuers).is_ok() {
        assert_eq!(good(&damaged, issuers), good(list, issuers), "{damaged:x?}");
    }
}

#[test]
fn no_bit_can_be_flipped() {
    let (list, issuers) = sample();
    for at in 0..list.len() {
        for bit in 0..8 {
            let mut damaged = list.to_vec();
            damaged[at] ^= 1 << bit;
            assert!(read(&Bytes::from(damaged), issuers).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn no_byte_can_be_left_out_or_doubled() {
    let (list, _) = sample();
    for at in 0..list.len() {
        harmless([&list[..at], &list[at + 1..]].concat());
        harmless([&list[..=at], &list[at..]].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutations_are_harmless(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut damaged = sample().0.to_vec();
        for (at, byte) in edits {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        harmless(damaged);
    }

    #[test]
    fn any_bytes_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        harmless(bytes.clone());
        harmless(tlv(0x30, &tlv(0x30, &bytes)));
    }

    /// Signed nonsense is refused or read, never stumbled over.
    #[test]
    fn signed_nonsense_is_harmless(
        entries in proptest::collection::vec(any::<u8>(), 0..64),
        value in proptest::collection::vec(any::<u8>(), 0..32),
        id in 0x10..0x30_u8,
    ) {
        static CA: OnceLock<Ca> = OnceLock::new();
        let ca = CA.get_or_init(|| Ca::root("A"));
        let mut forge = Forge::new().with(extension(&[0x55, 0x1d, id], true, &value));
        forge.entries = Some(entries);
        let _ = read(&forge.sign(ca), &ca.issuers());
    }
}
