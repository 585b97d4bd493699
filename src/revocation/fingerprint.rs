//! One keyed 128-bit fingerprint for every level.
//!
//! SipHash-1-3-128 under a random key of this process, over the level and the length-prefixed parts of the target. A
//! false match can only deny, and nobody outside can look for one.

use std::hash::Hasher as _;
use std::sync::Arc;

use aws_lc_rs::rand;
use siphasher::sip128::Hasher128 as _;
use siphasher::sip128::SipHasher13;

use super::Level;
use super::Spelling;
use super::Target;
use super::Targets;
use crate::identity::Error;
use crate::identity::Identity;
use crate::identity::KeyId;
use crate::identity::SerialRef;
use crate::identity::SerialText;
use crate::identity::VerifiedChain;
use crate::session::Credential;
use crate::session::Fingerprint;
use crate::session::Heeds;
use crate::session::Holder;

/// Makes fingerprints under one key.
#[derive(Clone, Copy)]
pub struct Fingerprinter {
    key: [u8; 16],
}

impl Fingerprinter {
    /// A fingerprinter under a fresh random key. `None` if the system has no randomness.
    pub fn random() -> Option<Self> {
        let mut key = [0; 16];
        rand::fill(&mut key).ok()?;
        Some(Self { key })
    }

    /// The fingerprint of a target.
    pub fn target(&self, target: &Target) -> Fingerprint {
        let start = self.start(target.level(), target.issuer().unwrap_or_default());
        match target.level() {
            Level::Certificate => serial(start, target.name()),
            _ => finish(start, target.name().as_bytes(), 0),
        }
    }

    /// The fingerprints under which an event of `target` is published.
    pub fn published(&self, target: &Target) -> NamePrints {
        let alias = match target.spelling() {
            Spelling::Exact => target.folded().map(|folded| self.alias(target.level(), &folded, FOLDED)),
            Spelling::AnyCase => {
                let folded = target.folded();
                Some(self.alias(target.level(), folded.as_deref().unwrap_or(target.name()), ANY_CASE))
            }
            Spelling::Dns => None,
        };
        NamePrints { exact: self.target(target), alias }
    }

    /// The fingerprints by which a credential that carries `target` is looked up.
    pub fn carried(&self, target: &Target) -> NamePrints {
        let alias = match target.spelling() {
            Spelling::Dns => Some(self.alias(target.level(), target.name(), FOLDED)),
            _ => target.folded().map(|folded| self.alias(target.level(), &folded, ANY_CASE)),
        };
        NamePrints { exact: self.target(target), alias }
    }

    /// The fingerprints by which a credential is looked up that carries all of these, once each, in their order.
    pub fn all_carried<'a>(&self, targets: impl IntoIterator<Item = &'a Target>) -> Vec<Fingerprint> {
        let mut prints = Vec::new();
        for print in targets.into_iter().flat_map(|target| self.carried(target).iter()) {
            if !prints.contains(&print) {
                prints.push(print);
            }
        }
        prints
    }

    fn alias(&self, level: Level, folded: &str, mark: u64) -> Fingerprint {
        finish(self.start(level, ""), folded.as_bytes(), mark)
    }

    /// Everything that can revoke a verified certificate.
    ///
    /// The identity may be one that was refused: its certificate, key and issuers can be revoked all the same.
    pub fn credential(&self, chain: &VerifiedChain, identity: &Result<Identity, Error>) -> Credential {
        let targets = Targets::of(chain, identity.as_ref().ok());
        let prints = |targets: &[Target]| targets.iter().map(|target| self.target(target)).collect();
        Credential {
            own: self.all_carried(&targets.own),
            mass: prints(&targets.mass),
            issued_at: chain.leaf.not_before.secs(),
            heeds: Heeds::All,
            holder: Arc::new(Holder::of(chain, identity.as_ref().ok())),
        }
    }

    /// Makes the fingerprints of one issuer's certificates: what they have in common is hashed once.
    pub fn certificates_of(&self, issuer: &KeyId) -> CertificateFingerprinter {
        CertificateFingerprinter { start: self.start(Level::Certificate, issuer.as_str()) }
    }

    fn start(&self, level: Level, issuer: &str) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u8(level as u8);
        hasher.write_u64(issuer.len() as u64);
        hasher.write(issuer.as_bytes());
        hasher
    }
}

/// The fingerprints of one name: that of its exact text, and of a second reading where it has one.
///
/// A typed name with upper case is also published as the DNS name that it may be; a name that an earlier version kept
/// is also published for every case. A credential carries the counterpart, so one side of each match has two at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamePrints {
    /// The exact text: what the ledger keeps a target by.
    pub exact: Fingerprint,
    /// The second reading.
    pub alias: Option<Fingerprint>,
}

impl NamePrints {
    /// Both.
    pub fn iter(self) -> impl Iterator<Item = Fingerprint> {
        std::iter::once(self.exact).chain(self.alias)
    }
}

/// Makes the fingerprints of one issuer's certificates, for lists that name millions of them.
#[derive(Clone, Copy)]
pub struct CertificateFingerprinter {
    start: SipHasher13,
}

impl CertificateFingerprinter {
    /// The fingerprint of the certificate with this serial, the same as [`Fingerprinter::target`] has for it.
    #[inline]
    pub fn serial(&self, serial: SerialRef<'_>) -> Fingerprint {
        match serial.magnitude() {
            Some(magnitude) => finish(self.start, magnitude, 0),
            None => negative(self.start, serial),
        }
    }
}

/// Marks the length of what is not the bytes of a positive number.
const NEGATIVE: u64 = 1 << 63;
/// Marks the length of a name that a DNS name spells in lower case.
const FOLDED: u64 = 1 << 62;
/// Marks the length of a name of an earlier version, in lower case.
const ANY_CASE: u64 = 1 << 61;

/// Of a canonical serial: positive ones are hashed as the bytes that they are, which lists have millions of.
fn serial(start: SipHasher13, text: &str) -> Fingerprint {
    let mut bytes = [0; 64];
    let pairs = text.as_bytes().chunks_exact(2);
    let is_positive = !text.starts_with('-') && text.len() <= 2 * bytes.len();
    for (byte, pair) in bytes.iter_mut().zip(pairs.clone()) {
        *byte =
            pair.iter().fold(0, |byte, digit| byte << 4 | char::from(*digit).to_digit(16).unwrap_or(0) as u8);
    }
    match bytes.get(..pairs.len()) {
        Some(magnitude) if is_positive => finish(start, magnitude, 0),
        _ => finish(start, text.as_bytes(), NEGATIVE),
    }
}

#[cold]
fn negative(start: SipHasher13, serial: SerialRef<'_>) -> Fingerprint {
    finish(start, serial.write(&mut SerialText::default()), NEGATIVE)
}

#[inline]
fn finish(mut hasher: SipHasher13, name: &[u8], mark: u64) -> Fingerprint {
    hasher.write_u64(name.len() as u64 | mark);
    hasher.write(name);
    Fingerprint(hasher.finish128().as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_the_key_does() {
        let one = Fingerprinter::random().unwrap();
        let of = |prints: Fingerprinter, level, issuer, name: &str| {
            finish(prints.start(level, issuer), name.as_bytes(), 0)
        };
        let print = |level, issuer, name| of(one, level, issuer, name);
        let all = [
            print(Level::Certificate, "", "aabb"),
            print(Level::Certificate, "aa", "bb"),
            print(Level::Certificate, "aabb", ""),
            print(Level::Key, "", "aabb"),
            of(Fingerprinter::random().unwrap(), Level::Certificate, "", "aabb"),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
        assert_eq!(print(Level::Task, "", "t"), print(Level::Task, "", "t"));
    }

    #[test]
    fn a_serial_in_a_list_and_its_target_have_one_fingerprint() {
        let prints = Fingerprinter::random().unwrap();
        let issuer = KeyId::from_bytes(&[0xab; 32]);
        let all =
            [(&[0, 0x0a, 0x1b][..], "0a1b"), (&[0xff], "-01"), (&[0], "00"), (&[0x7f; 64], &"7f".repeat(64))];
        for (der, text) in all {
            let target = Target::parse(Level::Certificate, text, Some(issuer.as_str())).unwrap();
            let serial = SerialRef::from_der(der).unwrap();
            assert_eq!(prints.certificates_of(&issuer).serial(serial), prints.target(&target));
        }
    }
}
