//! The chains that verified, by the SHA-256 of what was presented, bounded in bytes.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Peer;
use crate::identity::Authority;

/// The most that one listener remembers, bytes: about ten thousand chains of certificates of usual size.
const MAX_BYTES: u64 = 64 << 20;
/// Chains of usual size that fit, for which room is prepared.
const USUAL_CHAINS: usize = 8192;
/// The size of each beside its certificates, bytes.
const BASE: usize = 2048;
/// The size of a key id, bytes.
const KEY_ID: usize = 96;

/// The SHA-256 of the certificates that a client presented.
pub(super) type ChainDigest = [u8; 32];

/// The chains of one listener.
pub(super) struct VerifiedChains {
    peers: Cache<ChainDigest, Arc<Peer>, PeerWeight>,
}

impl VerifiedChains {
    /// Remembers none yet.
    pub(super) fn new() -> Self {
        Self { peers: Cache::with_weighter(USUAL_CHAINS, MAX_BYTES, PeerWeight) }
    }

    /// The peer that these certificates verified as.
    pub(super) fn get(&self, digest: &ChainDigest) -> Option<Arc<Peer>> {
        self.peers.get(digest)
    }

    /// Remembers what was made of these certificates.
    pub(super) fn insert(&self, digest: ChainDigest, peer: Arc<Peer>) {
        self.peers.insert(digest, peer);
    }
}

/// How much memory a peer takes, bytes, about.
#[derive(Clone)]
struct PeerWeight;

impl Weighter<ChainDigest, Arc<Peer>> for PeerWeight {
    fn weight(&self, _: &ChainDigest, peer: &Arc<Peer>) -> u64 {
        weight(peer) as u64
    }
}

fn weight(peer: &Peer) -> usize {
    let leaf = &peer.chain.leaf;
    let names = leaf.subject.as_ref().map_or(0, |names| {
        let dns = names.dns.iter().map(|name| name.as_str().len());
        dns.map(|length| length + size_of::<String>()).sum::<usize>()
    });
    let fingerprints = size_of_val(&*peer.credential.own) + size_of_val(&*peer.credential.mass);
    let issuers: usize = peer.chain.issuers.iter().map(of_authority).sum();
    // The DNS names are in the identity as well, and the principal in the holder.
    let texts = leaf.der.len() + leaf.subject_dn.len() + 2 * names + 3 * peer.principal().len();
    BASE + texts + peer.headers.bytes() + fingerprints + issuers
}

fn of_authority(authority: &Authority) -> usize {
    let of_certificates =
        authority.certificates.iter().map(|own| size_of_val(own) + (2 + own.issuer_names.len()) * KEY_ID);
    size_of_val(authority) + (3 + authority.names.len()) * KEY_ID + of_certificates.sum::<usize>()
}
