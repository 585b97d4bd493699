//! What can revoke a verified certificate: every target that hits it. The one place that says so.

use std::collections::HashSet;

use super::Level;
use super::Target;
use crate::identity::Authority;
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
    /// Those that most share: its authorities' certificates and keys, issuers, trust domain. One may be in it twice.
    pub mass: Vec<Target>,
}

impl Targets {
    /// Those of a verified certificate; without an identity, those of one whose names were not accepted: its
    /// certificate, key and issuers can be revoked all the same.
    pub fn of(chain: &VerifiedChain, identity: Option<&Identity>) -> Self {
        let mut own = certificate(&chain.leaf.serial, chain.issuers.first());
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
    of.flatten().collect()
}

fn authority(authority: &Authority, issuer: Option<&Authority>) -> Vec<Target> {
    let mut targets = certificate(&authority.serial, issuer);
    targets.push(Target::of(Level::Key, None, authority.key.as_str()));
    targets.extend(key_ids(authority).map(|id| Target::of(Level::Issuer, None, id.as_str())));
    targets
}

/// A certificate by its serial alone, and by its serial under each name of its issuer's key.
fn certificate(serial: &Serial, issuer: Option<&Authority>) -> Vec<Target> {
    let ids = std::iter::once(None).chain(issuer.into_iter().flat_map(key_ids).map(|id| Some(id.as_str())));
    ids.map(|id| Target::of(Level::Certificate, id, serial.as_str())).collect()
}

fn key_ids(authority: &Authority) -> impl Iterator<Item = &KeyId> {
    std::iter::once(&authority.key).chain(&authority.key_id)
}
