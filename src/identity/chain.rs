//! The path from a client's certificate to a configured authority: who vouches for it, and for how long.

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
use super::TrustDomain;
use crate::clock::Timestamp;

/// A certificate authority on a verified path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: KeyId,
    /// Its subject key identifier, if it has one.
    pub key_id: Option<KeyId>,
    /// Its distinguished name (RFC 2253).
    pub subject_dn: String,
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
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(ChainError::Path)?;
        self.anchors.push(anchor.to_owned());
        let authority = authority(&certificate);
        self.roots.push(Root { authority, not_after: certificate.not_after, trust_domains });
        Ok(certificate)
    }

    /// The authorities, as configured.
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
        let certificate = Certificate::parse(leaf)?;
        if certificate.signs {
            return Err(ChainError::LeafSigns);
        }
        let end_entity = EndEntityCert::try_from(leaf).map_err(ChainError::Path)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.secs()).unwrap_or(0)));
        let path = end_entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                presented,
                now,
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map_err(ChainError::Path)?;
        self.describe(certificate, &path)
    }

    fn describe(&self, leaf: Certificate, path: &VerifiedPath<'_>) -> Result<VerifiedChain, ChainError> {
        let mut issuers = Vec::new();
        let mut not_after = leaf.not_after;
        for intermediate in path.intermediate_certificates() {
            let certificate = Certificate::parse(&intermediate.der())?;
            not_after = not_after.min(certificate.not_after);
            issuers.push(authority(&certificate));
        }
        let anchor = path.anchor();
        let root = self.anchors.iter().zip(&self.roots).find_map(|(known, root)| {
            let same = known.subject == anchor.subject
                && known.subject_public_key_info == anchor.subject_public_key_info;
            same.then_some(root)
        });
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

fn authority(certificate: &Certificate) -> Authority {
    Authority {
        key: certificate.key.clone(),
        key_id: certificate.key_id.clone(),
        subject_dn: certificate.subject_dn.clone(),
    }
}
