//! A certificate authority: its key, the names that certificates give that key, and its certificates.

use super::Certificate;
use super::KeyId;
use super::Serial;
use crate::clock::Timestamp;

/// The length of a SHA-256 as text. Another name of this length could be taken for the key of another authority.
const KEY_LENGTH: usize = 64;

/// A certificate authority on a verified path. Two certificates of one key are one authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// SHA-256 of its SubjectPublicKeyInfo: what identifies it.
    pub key: KeyId,
    /// SHA-1 of its key (RFC 5280, section 4.2.1.2, method 1).
    pub key_sha1: KeyId,
    /// The subject key identifier of its first certificate, if that has one.
    pub key_id: Option<KeyId>,
    /// Further names of its key, each once: the subject key identifiers of its certificates, and the authority key
    /// identifier of each certificate that it signed and that stands below it. Certificates choose both freely.
    pub names: Vec<KeyId>,
    /// Its certificates: one, or all that are configured for an anchor.
    pub certificates: Vec<AuthorityCertificate>,
}

/// One certificate of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityCertificate {
    /// The serial number.
    pub serial: Serial,
    /// SHA-256 of the certificate.
    pub sha256: KeyId,
    /// The start of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// Its authority key identifier, if it has one: a name of its issuer.
    pub issuer_id: Option<KeyId>,
    /// Whether its own key signed it.
    pub self_signed: bool,
    /// Of a configured certificate: the names of the configured authorities that bear its issuer's distinguished name.
    pub issuer_names: Vec<KeyId>,
}

impl Authority {
    /// The name that is shown: the subject key identifier, or the SHA-256 of the key where there is none.
    pub fn id(&self) -> &KeyId {
        self.key_id.as_ref().unwrap_or(&self.key)
    }

    /// Every name of its key: the SHA-256, the SHA-1, and what certificates call it.
    pub fn all_names(&self) -> impl Iterator<Item = &KeyId> {
        [&self.key, &self.key_sha1].into_iter().chain(&self.names)
    }

    /// The names that cannot be the key of another authority: all but those that are as long as a SHA-256 and are not
    /// its own. Only the directory of authorities resolves the others.
    pub fn safe_names(&self) -> impl Iterator<Item = &KeyId> {
        self.all_names().filter(|name| **name == self.key || name.as_str().len() != KEY_LENGTH)
    }

    /// An authority by one of its certificates.
    pub(super) fn of(certificate: &Certificate, self_signed: bool) -> Self {
        let mut authority = Self {
            key: certificate.key.clone(),
            key_sha1: certificate.key_sha1.clone(),
            key_id: certificate.key_id.clone(),
            names: Vec::new(),
            certificates: Vec::new(),
        };
        authority.add(certificate, self_signed);
        authority
    }

    /// Adds another certificate of its key.
    pub(super) fn add(&mut self, certificate: &Certificate, self_signed: bool) {
        certificate.key_id.iter().for_each(|id| self.call(id));
        let issuer_id = certificate.authority_key_id.clone();
        issuer_id.iter().filter(|_| self_signed).for_each(|id| self.call(id));
        let added = AuthorityCertificate {
            serial: certificate.serial.clone(),
            sha256: certificate.sha256.clone(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            issuer_id,
            self_signed,
            issuer_names: Vec::new(),
        };
        if self.certificates.iter().all(|known| known.sha256 != added.sha256) {
            self.certificates.push(added);
        }
    }

    /// Adds a name.
    pub fn call(&mut self, name: &KeyId) {
        if self.all_names().all(|known| known != name) {
            self.names.push(name.clone());
        }
    }
}
