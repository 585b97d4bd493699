//! What can revoke a verified certificate: every target that hits it. The one place that says so.

use std::collections::HashSet;

use super::Level;
use super::Target;
use crate::identity::Authority;
use crate::identity::AuthorityCertificate;
use crate::identity::Identity;
use crate::identity::KeyId;
use crate::identity::Serial;
use crate::identity::VerifiedChain;

/// The targets that hit one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Those that few certificates share: certificate, key, principal, task. Once each, narrowest level first: where
    /// several are revoked, the answer always names the same one.
    pub own: Vec<Target>,
    /// Those that most share: its authorities' certificates and keys, issuers, trust domain.
    pub mass: Vec<Target>,
}

impl Targets {
    /// Those of a verified certificate; without an identity, those of one whose names were not accepted: its
    /// certificate, key and issuers can be revoked all the same.
    pub fn of(chain: &VerifiedChain, identity: Option<&Identity>) -> Self {
        let issuer = chain.issuers.first().into_iter();
        let mut own = certificate(&chain.leaf.serial, issuer.flat_map(Authority::safe_names));
        own.push(Target::of(Level::Key, None, chain.leaf.key.as_str()));
        let mut mass = path(&chain.issuers);
        if let Some(named) = identity.map(Self::of_identity) {
            own.extend(named.own);
            mass.extend(named.mass);
        }
        let mut known = HashSet::new();
        own.retain(|target| known.insert(target.clone()));
        Self { own, mass }
    }

    /// The targets of an identity, whatever the certificate.
    pub fn of_identity(identity: &Identity) -> Self {
        // The names of a certificate without a SPIFFE ID are read from its DNS name.
        let is_dns = identity.trust_domain.is_none();
        let read = |level, name: &str| match is_dns {
            true => Target::of_dns(level, name),
            false => Target::of(level, None, name),
        };
        let names = std::iter::once(identity.principal.as_str()).chain(identity.agent.as_deref());
        let names = names.map(|name| read(Level::Principal, name));
        let dns = identity.dns.iter().map(|name| Target::of_dns(Level::Principal, name.as_str()));
        let task = identity.task.as_deref().map(|task| read(Level::Task, task));
        let domain = identity.trust_domain.as_deref();
        let domain = domain.map(|name| Target::of(Level::TrustDomain, None, name));
        Self { own: names.chain(dns).chain(task).collect(), mass: domain.into_iter().collect() }
    }

    /// Those of an authority: the first of `authorities`, the others being its own issuers, nearest first.
    pub fn of_authority(authorities: &[Authority]) -> Self {
        let above = authorities.get(1..).unwrap_or_default();
        let own = authorities.first().map_or_else(Vec::new, |first| authority(first, above.first()));
        Self { own, mass: path(above) }
    }
}

/// Revoking an authority's own certificate, or its key, ends every leaf under it.
fn path(authorities: &[Authority]) -> Vec<Target> {
    let of = authorities.iter().enumerate().map(|(i, issuer)| authority(issuer, authorities.get(i + 1)));
    let mut targets: Vec<Target> = of.flatten().collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// Those of an authority under its issuer; of an anchor, which has none here, under what its certificates say.
fn authority(authority: &Authority, issuer: Option<&Authority>) -> Vec<Target> {
    let of_one = |own: &AuthorityCertificate| match issuer {
        Some(issuer) => certificate(&own.serial, issuer.safe_names()),
        None => {
            let itself = authority.safe_names().filter(|_| own.self_signed);
            let other = own.issuer_id.iter().chain(&own.issuer_names).filter(|_| !own.self_signed);
            certificate(&own.serial, itself.chain(other))
        }
    };
    let mut targets: Vec<Target> = authority.certificates.iter().flat_map(of_one).collect();
    targets.push(Target::of(Level::Key, None, authority.key.as_str()));
    targets.extend(authority.safe_names().map(|id| Target::of(Level::Issuer, None, id.as_str())));
    targets
}

/// A certificate by its serial alone, and by its serial under each name of its issuer's key.
fn certificate<'a>(serial: &Serial, issuer: impl Iterator<Item = &'a KeyId>) -> Vec<Target> {
    let ids = std::iter::once(None).chain(issuer.map(|id| Some(id.as_str())));
    ids.map(|id| Target::of(Level::Certificate, id, serial.as_str())).collect()
}
