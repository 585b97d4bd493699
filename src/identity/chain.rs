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

use super::Anchor;
use super::AnchorUse;
use super::Authority;
use super::Certificate;
use super::ChainError;
use super::TrustDomain;
use crate::clock::Timestamp;

/// More certificates than this beside the leaf are refused unread: with look-alikes among them, the number of paths
/// to try grows with the factorial.
const MAX_PRESENTED: usize = 6;

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

/// A configured certificate, as the anchor of paths.
struct Root {
    anchor: Anchor,
    /// The place of its authority.
    authority: usize,
}

/// A configured authority: one name and one key, whatever the number of its certificates.
struct TrustedAuthority {
    authority: Authority,
    trust_domains: Option<Arc<[TrustDomain]>>,
}

/// The configured certificate authorities.
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    /// One for each anchor, in the same order. Of one authority's certificates the one that lasts longest comes first.
    roots: Vec<Root>,
    authorities: Vec<TrustedAuthority>,
}

impl Trust {
    /// Trusts nobody yet.
    pub fn new() -> Self {
        Self { anchors: Vec::new(), roots: Vec::new(), authorities: Vec::new() }
    }

    /// Trusts one more authority, for every trust domain or only for those named.
    pub fn add(
        &mut self,
        der: &CertificateDer<'_>,
        trust_domains: Option<Arc<[TrustDomain]>>,
    ) -> Result<Certificate, ChainError> {
        let root = Anchor::read(der, AnchorUse::Clients)?;
        let certificate = root.certificate.clone();
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(ChainError::Path)?.to_owned();
        let same = self.anchors.iter().zip(&self.roots).find(|(known, _)| is_same(known, &anchor));
        let authority = match same.map(|(_, root)| root.authority) {
            Some(at) => {
                // Renewed on the same key.
                let known = self.authorities.get_mut(at).filter(|known| known.trust_domains == trust_domains);
                let known = known.ok_or(ChainError::Conflict)?;
                known.authority.add(&certificate, root.self_signed);
                at
            }
            None => {
                let authority = Authority::of(&certificate, root.self_signed);
                self.authorities.push(TrustedAuthority { authority, trust_domains });
                self.authorities.len() - 1
            }
        };
        let is_known = |known: &Root| known.anchor.certificate.sha256 == certificate.sha256;
        if !self.roots.iter().any(is_known) {
            let lasts_less = |known: &Root| {
                known.authority == authority && known.anchor.certificate.not_after < certificate.not_after
            };
            let at = self.roots.iter().position(lasts_less).unwrap_or(self.roots.len());
            self.anchors.insert(at, anchor);
            self.roots.insert(at, Root { anchor: root, authority });
        }
        Ok(certificate)
    }

    /// The authorities that are trusted, each once, with all of its certificates.
    pub fn authorities(&self) -> impl Iterator<Item = &Authority> + Clone {
        self.authorities.iter().map(|known| &known.authority)
    }

    /// Verifies what a client presented (RFC 5280, section 6; usage: client authentication). The verdict does not
    /// depend on the order in which it presented them.
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
        if !certificate.authenticates {
            return Err(ChainError::LeafUsage);
        }
        let presented = in_canonical_order(presented);
        let end_entity = EndEntityCert::try_from(leaf).map_err(ChainError::Path)?;
        // webpki does not look at the key usage of authorities, nor at an anchor's own limits. Another path may do
        // without the certificate at fault.
        let fault = Cell::new(None);
        let judge = |path: &VerifiedPath<'_>| {
            self.judge(path, now).map_err(|found| {
                fault.set(Some(found));
                webpki::Error::UnknownIssuer
            })
        };
        let path = end_entity.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors,
            &presented,
            unix_time(now),
            KeyUsage::client_auth(),
            None,
            Some(&judge),
        );
        let path = path.map_err(|error| fault.take().unwrap_or(ChainError::Path(error)))?;
        self.describe(certificate, &path)
    }

    /// Holds a path whose signatures are good against what its authorities and its anchor may do.
    fn judge(&self, path: &VerifiedPath<'_>, now: Timestamp) -> Result<(), ChainError> {
        let mut below = 0;
        for above in path.intermediate_certificates() {
            if !Certificate::parse(&above.der()).is_ok_and(|above| above.issues) {
                return Err(ChainError::IssuerUsage);
            }
            below += usize::from(above.subject() != above.issuer());
        }
        self.root(path)?.anchor.allows(below, now)
    }

    fn root(&self, path: &VerifiedPath<'_>) -> Result<&Root, ChainError> {
        let at = self.anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
        at.and_then(|at| self.roots.get(at)).ok_or(ChainError::Path(webpki::Error::UnknownIssuer))
    }

    fn describe(&self, leaf: Certificate, path: &VerifiedPath<'_>) -> Result<VerifiedChain, ChainError> {
        let root = self.root(path)?;
        let known = self.authorities.get(root.authority);
        let known = known.ok_or(ChainError::Path(webpki::Error::UnknownIssuer))?;
        let mut not_after = leaf.not_after.min(root.anchor.certificate.not_after);
        let mut issuers = Vec::new();
        // What each certificate calls the authority above it.
        let mut called = vec![leaf.authority_key_id.clone()];
        for intermediate in path.intermediate_certificates() {
            let certificate = Certificate::parse(&intermediate.der())?;
            not_after = not_after.min(certificate.not_after);
            issuers.push(Authority::of(&certificate, false));
            called.push(certificate.authority_key_id);
        }
        issuers.push(known.authority.clone());
        for (issuer, name) in issuers.iter_mut().zip(called) {
            name.iter().for_each(|name| issuer.call(name));
        }
        Ok(VerifiedChain { leaf, issuers, not_after, trust_domains: known.trust_domains.clone() })
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

/// The certificates, each once, in the order of their bytes: the client does not choose which path is tried first.
fn in_canonical_order<'a>(presented: &'a [CertificateDer<'_>]) -> Vec<CertificateDer<'a>> {
    let mut sorted: Vec<&[u8]> = presented.iter().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted.into_iter().map(CertificateDer::from).collect()
}

pub(super) fn unix_time(at: Timestamp) -> UnixTime {
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
