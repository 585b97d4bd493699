//! One keyed 128-bit fingerprint for every level.
//!
//! SipHash-1-3-128 under a random key of this process, over the level and the length-prefixed parts of the target. A
//! false match can only deny, and nobody outside can look for one.

use std::collections::HashSet;
use std::hash::Hasher as _;
use std::sync::Arc;

use aws_lc_rs::rand;
use siphasher::sip128::Hasher128 as _;
use siphasher::sip128::SipHasher13;

use super::Level;
use super::Target;
use super::target::canonical_principal;
use crate::identity::Authority;
use crate::identity::Error;
use crate::identity::Identity;
use crate::identity::KeyId;
use crate::identity::Serial;
use crate::identity::VerifiedChain;
use crate::session::Credential;
use crate::session::Fingerprint;
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
        self.parts(target.level(), target.issuer().unwrap_or_default(), target.name())
    }

    /// Everything that can revoke a verified certificate.
    ///
    /// The identity may be one that was refused: its certificate, key and issuers can be revoked all the same.
    pub fn credential(&self, chain: &VerifiedChain, identity: &Result<Identity, Error>) -> Credential {
        let mut own = self.certificate(&chain.leaf.serial, chain.issuers.first());
        own.push(self.parts(Level::Key, "", chain.leaf.key.as_str()));
        let mut mass = Vec::new();
        for (i, issuer) in chain.issuers.iter().enumerate() {
            // Revoking an authority's own certificate, or its key, ends every leaf under it.
            mass.extend(self.certificate(&issuer.serial, chain.issuers.get(i + 1)));
            mass.push(self.parts(Level::Key, "", issuer.key.as_str()));
            mass.extend(key_ids(issuer).map(|id| self.parts(Level::Issuer, "", id.as_str())));
        }
        if let Ok(identity) = identity {
            let names = std::iter::once(identity.principal.as_str())
                .chain(identity.agent.as_deref())
                .chain(identity.dns.iter().map(|name| name.as_str()));
            own.extend(names.map(|name| self.parts(Level::Principal, "", &canonical_principal(name))));
            own.extend(identity.task.as_deref().map(|task| self.parts(Level::Task, "", task)));
            mass.extend(
                identity.trust_domain.as_deref().map(|name| self.parts(Level::TrustDomain, "", name)),
            );
        }
        // Once each, narrowest level first: where several are revoked, the answer always names the same one.
        let mut known = HashSet::new();
        own.retain(|fingerprint| known.insert(*fingerprint));
        let holder = Arc::new(Holder::of(chain, identity.as_ref().ok()));
        Credential { own, mass, issued_at: chain.leaf.not_before.secs(), holder }
    }

    /// A certificate by its serial alone, and by its serial under each name of its issuer's key.
    fn certificate(&self, serial: &Serial, issuer: Option<&Authority>) -> Vec<Fingerprint> {
        let ids = std::iter::once("").chain(issuer.into_iter().flat_map(key_ids).map(KeyId::as_str));
        ids.map(|id| self.parts(Level::Certificate, id, serial.as_str())).collect()
    }

    fn parts(&self, level: Level, issuer: &str, name: &str) -> Fingerprint {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u8(level as u8);
        hasher.write_u64(issuer.len() as u64);
        hasher.write(issuer.as_bytes());
        hasher.write_u64(name.len() as u64);
        hasher.write(name.as_bytes());
        Fingerprint(hasher.finish128().as_u128())
    }
}

fn key_ids(authority: &Authority) -> impl Iterator<Item = &KeyId> {
    std::iter::once(&authority.key).chain(&authority.key_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_the_key_does() {
        let one = Fingerprinter::random().unwrap();
        let print = |level, issuer, name| one.parts(level, issuer, name);
        let all = [
            print(Level::Certificate, "", "aabb"),
            print(Level::Certificate, "aa", "bb"),
            print(Level::Certificate, "aabb", ""),
            print(Level::Key, "", "aabb"),
            Fingerprinter::random().unwrap().parts(Level::Certificate, "", "aabb"),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
        assert_eq!(print(Level::Task, "", "t"), print(Level::Task, "", "t"));
    }
}
