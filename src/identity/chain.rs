//! The path from a client's certificate to a configured authority: who vouches for it, and for how long.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::TrustAnchor;
use rustls::pki_types::UnixTime;
use webpki::EndEntityCert;
use webpki::KeyUsage;
use webpki::VerifiedPath;

use super::Certificate;
use super::ChainError;
use super::KeyId;
use super::Serial;
use super::TrustDomain;
use crate::clock::Timestamp;

/// More certificates than this beside the leaf are refused unread: with look-alikes among them, the number of paths
/// to try grows with the factorial.
const MAX_PRESENTED: usize = 6;

/// A certificate authority on a verified path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: KeyId,
    /// Its subject key identifier, if it has one.
    pub key_id: Option<KeyId>,
    /// The serial number of its certificate.
    pub serial: Serial,
    /// SHA-256 of its certificate.
    pub sha256: KeyId,
    /// The start of its certificate's validity.
    pub not_before: Timestamp,
    /// The end of its certificate's validity.
    pub not_after: Timestamp,
}

impl Authority {
    /// The name of its key: the subject key identifier, or the SHA-256 where it has none.
    pub fn id(&self) -> &KeyId {
        self.key_id.as_ref().unwrap_or(&self.key)
    }

    fn of(certificate: &Certificate) -> Self {
        Self {
            key: certificate.key.clone(),
            key_id: certificate.key_id.clone(),
            serial: certificate.serial.clone(),
            sha256: certificate.sha256.clone(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        }
    }
}

/// A certificate with the path that vouches for it.
#[derive(Clone, Debug)]
pub struct VerifiedChain {
    /// The client's own certificate.
    pub leaf: Certificate,
    /// The authorities of the verified path, the leaf's issuer first, the anchor last; not what the client sent.
    pub issuers: Vec<Authority>,
    /// The end of the path's validity: the earliest `notAfter` on it.
    pub not_after: Timestamp,
    /// The trust domains that the anchor may vouch for; `None` if the configuration does not narrow it.
    pub trust_domains: Option<Arc<[TrustDomain]>>,
}

struct Root {
    authority: Authority,
    not_after: Timestamp,
    trust_domains: Option<Arc<[TrustDomain]>>,
}

/// The configured certificate authorities.
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    roots: Vec<Root>,
}

impl Trust {
    /// Trusts nobody yet.
    pub fn new() -> Self {
        Self { anchors: Vec::new(), roots: Vec::new() }
    }

    /// Trusts one more authority, for every trust domain or only for those named.
    pub fn add(
        &mut self,
        der: &CertificateDer<'_>,
        trust_domains: Option<Arc<[TrustDomain]>>,
    ) -> Result<Certificate, ChainError> {
        let certificate = Certificate::parse(der)?;
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(ChainError::Path)?.to_owned();
        if let Some(at) = self.anchors.iter().position(|known| is_same(known, &anchor)) {
            // Renewed on the same key: the one that lasts longer counts.
            let root = self.roots.get_mut(at).filter(|root| root.trust_domains == trust_domains);
            let root = root.ok_or(ChainError::Conflict)?;
            root.not_after = root.not_after.max(certificate.not_after);
            return Ok(certificate);
        }
        self.anchors.push(anchor);
        let authority = Authority::of(&certificate);
        self.roots.push(Root { authority, not_after: certificate.not_after, trust_domains });
        Ok(certificate)
    }

    /// The authorities that are trusted, each once.
    pub fn authorities(&self) -> impl Iterator<Item = &Authority> {
        self.roots.iter().map(|root| &root.authority)
    }

    /// Verifies what a client presented (RFC 5280, section 6; usage: client authentication).
    ///
    /// Revocation is not looked at here: the engine decides it, once and for every request.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<VerifiedChain, ChainError> {
        if presented.len() > MAX_PRESENTED {
            return Err(ChainError::TooMany(presented.len()));
        }
        let certificate = Certificate::parse(leaf)?;
        if certificate.signs {
            return Err(ChainError::LeafSigns);
        }
        let end_entity = EndEntityCert::try_from(leaf).map_err(ChainError::Path)?;
        let time = unix_time(now);
        // webpki does not look at the key usage of authorities. Another path may do without this one.
        let misused = Cell::new(false);
        let may_issue = |path: &VerifiedPath<'_>| {
            let issues = |der: &CertificateDer<'_>| Certificate::parse(der).is_ok_and(|above| above.issues);
            if path.intermediate_certificates().all(|above| issues(&above.der())) {
                return Ok(());
            }
            misused.set(true);
            Err(webpki::Error::UnknownIssuer)
        };
        let path = end_entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                presented,
                time,
                KeyUsage::client_auth(),
                None,
                Some(&may_issue),
            )
            .map_err(|error| if misused.get() { ChainError::IssuerUsage } else { ChainError::Path(error) })?;
        let chain = self.describe(certificate, &path)?;
        match chain.not_after <= now {
            // webpki does not look at an anchor's own validity.
            true => Err(ChainError::Path(webpki::Error::CertExpired {
                time,
                not_after: unix_time(chain.not_after),
            })),
            false => Ok(chain),
        }
    }

    fn describe(&self, leaf: Certificate, path: &VerifiedPath<'_>) -> Result<VerifiedChain, ChainError> {
        let mut issuers = Vec::new();
        let mut not_after = leaf.not_after;
        for intermediate in path.intermediate_certificates() {
            let certificate = Certificate::parse(&intermediate.der())?;
            not_after = not_after.min(certificate.not_after);
            issuers.push(Authority::of(&certificate));
        }
        let anchor = path.anchor();
        let found = self.anchors.iter().zip(&self.roots).find(|(known, _)| is_same(known, anchor));
        let root = found.map(|(_, root)| root);
        let root = root.ok_or(ChainError::Path(webpki::Error::UnknownIssuer))?;
        issuers.push(root.authority.clone());
        not_after = not_after.min(root.not_after);
        Ok(VerifiedChain { leaf, issuers, not_after, trust_domains: root.trust_domains.clone() })
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self::new()
    }
}

/// Same name and same key: one authority.
fn is_same(one: &TrustAnchor<'_>, other: &TrustAnchor<'_>) -> bool {
    one.subject == other.subject && one.subject_public_key_info == other.subject_public_key_info
}

fn unix_time(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.secs()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use rcgen::BasicConstraints;
    use rcgen::CertificateParams;
    use rcgen::DnType;
    use rcgen::IsCa;
    use rcgen::Issuer;
    use rcgen::KeyPair;
    use rcgen::KeyUsagePurpose;

    use super::*;

    fn authority(name: &str, usages: &[KeyUsagePurpose]) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = usages.to_vec();
        (params, KeyPair::generate().unwrap())
    }

    /// Seen failing with the path of webpki taken as it is: the authority for lists vouched for a leaf.
    #[test]
    fn an_authority_that_may_not_sign_certificates_vouches_for_nobody() {
        let (params, key) = authority("root", &[]);
        let root = params.self_signed(&key).unwrap().der().clone();
        let root_issuer = Issuer::new(params, key);
        let mut trust = Trust::new();
        trust.add(&root, None).unwrap();
        for (usages, expected) in [
            (vec![], None),
            (vec![KeyUsagePurpose::KeyCertSign], None),
            (vec![KeyUsagePurpose::CrlSign], Some(ChainError::IssuerUsage)),
        ] {
            let (params, key) = authority("below", &usages);
            let below = params.signed_by(&key, &root_issuer).unwrap().der().clone();
            let leaf_params = CertificateParams::new(vec!["a.lab.test".to_owned()]).unwrap();
            let leaf_key = KeyPair::generate().unwrap();
            let leaf = leaf_params.signed_by(&leaf_key, &Issuer::new(params, key)).unwrap().der().clone();
            let verdict = trust.verify(&leaf, &[below], Timestamp::from_secs(1_792_000_000));
            assert_eq!(verdict.err(), expected, "{usages:?}");
        }
    }
}
