//! What a session stands on: the credential, what could revoke it, and whose it is.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::identity::VerifiedChain;

/// What a revocation is looked up by: a keyed 128-bit fingerprint of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

/// Which entries count against a credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heeds {
    /// All of them: a credential of the gate.
    #[default]
    All,
    /// Those that an administrator, a signed message or a signed list vouches for: a credential of the admin listener,
    /// where a queue's unsigned messages shut nobody out.
    Signed,
}

/// All that can revoke one credential.
#[derive(Clone, Debug, Default)]
pub struct Credential {
    /// Fingerprints that few sessions share: certificate, key, principal, task, ...
    pub own: Vec<Fingerprint>,
    /// Fingerprints that most sessions share (issuers, trust domain): killed by a scan of the table, not by its index.
    /// The same one twice is counted twice, both ways.
    pub mass: Vec<Fingerprint>,
    /// When the credential was issued, whole Unix seconds.
    pub issued_at: i64,
    /// Which entries count against it.
    pub heeds: Heeds,
    /// Whose it is. For those who list sessions; nothing is decided by it.
    pub holder: Arc<Holder>,
}

impl Credential {
    /// The same holder's, under nothing that could end it: what a session stands on that no revocation ends.
    pub fn untouchable(&self) -> Self {
        Self {
            own: Vec::new(),
            mass: Vec::new(),
            issued_at: self.issued_at,
            heeds: self.heeds,
            holder: Arc::clone(&self.holder),
        }
    }
}

/// Who holds a credential, as those who list sessions are told it; made once a chain. All of it is absent of a client
/// without a certificate, and the names of one whose names were not accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The SPIFFE ID, or the DNS name where there is none.
    pub principal: Option<String>,
    /// The agent id, where a template reads one.
    pub agent: Option<String>,
    /// The kind of principal, of bounded variety.
    pub kind: Option<String>,
    /// The trust domain, of a SPIFFE ID.
    pub trust_domain: Option<String>,
    /// The certificate's serial number, even-length lower-case hexadecimal.
    pub serial: Option<String>,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub sha256: Option<String>,
    /// SHA-256 of its SubjectPublicKeyInfo, lower-case hexadecimal.
    pub key: Option<String>,
    /// The authorities of the verified path, nearest first, anchor included: the subject key identifier of each, or
    /// the SHA-256 of its key where it has none. Lower-case hexadecimal.
    pub issuers: Vec<String>,
    /// The end of the path's validity.
    pub not_after: Option<Timestamp>,
}

impl Holder {
    /// The holder of a verified certificate, with its identity if its names were accepted.
    pub fn of(chain: &VerifiedChain, identity: Option<&Identity>) -> Self {
        Self {
            principal: identity.map(|known| known.principal.clone()),
            agent: identity.and_then(|known| known.agent.clone()),
            kind: identity.map(|known| known.kind.clone()),
            trust_domain: identity.and_then(|known| known.trust_domain.clone()),
            serial: Some(chain.leaf.serial.to_string()),
            sha256: Some(chain.leaf.sha256.to_string()),
            key: Some(chain.leaf.key.to_string()),
            issuers: chain.issuers.iter().map(|issuer| issuer.id().to_string()).collect(),
            not_after: Some(chain.not_after),
        }
    }
}

/// Why a session was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The machine-readable code, such as `certificate_revoked` or `certificate_expired`.
    pub code: &'static str,
    /// The reason in words, as far as one was given.
    pub reason: String,
}

impl Cause {
    /// The code of a session that somebody ended by its name, whatever its credential.
    pub const ENDED: &'static str = "session_ended";
}
