//! A certificate that this gate has seen: its numbers, whose it is, and what can revoke it.

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;

use super::Level;
use super::Target;
use super::Targets;
use super::certificates::Digest;
use crate::clock::Timestamp;
use crate::identity::Authority;
use crate::identity::AuthorityCertificate;
use crate::identity::Identity;
use crate::identity::VerifiedChain;

/// How long a certificate is remembered after it has expired.
const AFTERWARDS: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate that was seen with a verified path, or that is trusted. All hexadecimal is lower-case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The serial number, even-length hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate.
    pub sha256: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: String,
    /// Who its holder is; `None` of an authority, and where its names were not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The agent id, where a template read one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The authorities above it, nearest first, as it was last seen: the subject key identifier of each, or the SHA-256
    /// of its key where it has none. Empty for a trusted authority.
    pub issuers: Vec<String>,
    /// SHA-256 of the key that signed it; `None` where that is not known: of a trusted authority that did not sign itself,
    /// and of what an older version noted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_key: Option<String>,
    /// When it was issued, whole Unix seconds: what `issued_before` is held against.
    pub issued_at: i64,
    /// The start of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// When it was first verified here.
    pub first_seen: Timestamp,
    /// When it was last verified here. A certificate that the gate still remembers the verdict of is not verified.
    pub last_seen: Timestamp,
    /// Everything that can revoke it, by any path that it was seen with; once each.
    pub targets: Vec<Target>,
    /// Whether it is an authority's.
    pub authority: bool,
}

impl Seen {
    /// A leaf, verified at `now`; without an identity if its names were not accepted.
    pub fn leaf(chain: &VerifiedChain, identity: Option<&Identity>, now: Timestamp) -> Self {
        let leaf = &chain.leaf;
        Self {
            serial: leaf.serial.to_string(),
            sha256: leaf.sha256.to_string(),
            key: leaf.key.to_string(),
            principal: identity.map(|known| known.principal.clone()),
            agent: identity.and_then(|known| known.agent.clone()),
            issuers: ids(&chain.issuers),
            issuer_key: chain.issuers.first().map(|issuer| issuer.key.to_string()),
            issued_at: leaf.not_before.secs(),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            first_seen: now,
            last_seen: now,
            targets: once(Targets::of(chain, identity)),
            authority: false,
        }
    }

    /// Each certificate of the first of `path`, the others being its own issuers, nearest first; none for no path.
    pub fn authority(path: &[Authority], now: Timestamp) -> Vec<Self> {
        let Some((authority, above)) = path.split_first() else { return Vec::new() };
        let targets = once(Targets::of_authority(path));
        let seen = |own: &AuthorityCertificate| Self {
            serial: own.serial.to_string(),
            sha256: own.sha256.to_string(),
            key: authority.key.to_string(),
            principal: None,
            agent: None,
            issuers: ids(above),
            issuer_key: match above.first() {
                Some(issuer) => Some(issuer.key.to_string()),
                None => own.self_signed.then(|| authority.key.to_string()),
            },
            issued_at: own.not_before.secs(),
            not_before: own.not_before,
            not_after: own.not_after,
            first_seen: now,
            last_seen: now,
            targets: targets.clone(),
            authority: true,
        };
        authority.certificates.iter().map(seen).collect()
    }

    /// Everything that a verified chain shows: its leaf, and each of its authorities.
    pub fn all(
        chain: &VerifiedChain,
        identity: Option<&Identity>,
        now: Timestamp,
    ) -> impl Iterator<Item = Self> {
        let issuers = &chain.issuers;
        let paths = (0..issuers.len()).filter_map(|i| issuers.get(i..));
        let paths = paths.flat_map(move |path| Self::authority(path, now));
        std::iter::once(Self::leaf(chain, identity, now)).chain(paths)
    }

    /// Whether a revocation of `target` hits it.
    pub fn is_hit_by(&self, target: &Target) -> bool {
        self.targets.iter().any(|carried| target.hits(carried))
    }

    /// The SHA-256 of the certificate itself; `None` if the text is none.
    pub(super) fn digest(&self) -> Option<Digest> {
        let mut digest = Digest::default();
        let mut pairs = self.sha256.as_bytes().chunks_exact(2);
        for byte in &mut digest {
            let pair = std::str::from_utf8(pairs.next()?).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(digest)
    }

    /// When it may be forgotten.
    pub(super) fn forgotten_at(&self) -> Timestamp {
        self.not_after.plus(AFTERWARDS)
    }

    /// Whether `target` is one that few other certificates share.
    pub(super) fn owns(&self, target: &Target) -> bool {
        match target.level() {
            Level::Certificate => target.name() == self.serial,
            Level::Key => target.name() == self.key,
            Level::Principal | Level::Task => true,
            Level::Token | Level::Chain | Level::Issuer | Level::TrustDomain => false,
        }
    }

    /// Makes one of the same certificate, seen before, and this.
    pub(super) fn absorb(&mut self, before: &Self) {
        self.first_seen = self.first_seen.min(before.first_seen);
        self.last_seen = self.last_seen.max(before.last_seen);
        self.principal = self.principal.take().or_else(|| before.principal.clone());
        self.agent = self.agent.take().or_else(|| before.agent.clone());
        self.issuer_key = self.issuer_key.take().or_else(|| before.issuer_key.clone());
        self.authority |= before.authority;
        if self.issuers.is_empty() {
            self.issuers.clone_from(&before.issuers);
        }
        for target in &before.targets {
            if !self.targets.contains(target) {
                self.targets.push(target.clone());
            }
        }
    }
}

fn ids(authorities: &[Authority]) -> Vec<String> {
    authorities.iter().map(|authority| authority.id().to_string()).collect()
}

fn once(targets: Targets) -> Vec<Target> {
    let mut known = HashSet::new();
    let all = targets.own.into_iter().chain(targets.mass);
    all.filter(|target| known.insert(target.clone())).collect()
}
