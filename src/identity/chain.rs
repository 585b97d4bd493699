//! The path from a client's certificate to a configured authority: who vouches for it, and for how long.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::SignatureVerificationAlgorithm;
use rustls::pki_types::TrustAnchor;
use rustls::pki_types::UnixTime;
use webpki::EndEntityCert;
use webpki::KeyUsage;
use webpki::VerifiedPath;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::Anchor;
use super::AnchorUse;
use super::Authority;
use super::Certificate;
use super::ChainError;
use super::KeyId;
use super::TrustDomain;
use super::checks::SignatureChecks;
use super::path::Intermediates;
use super::path::limit_bytes;
use super::path::vouched_for;
use crate::clock::Timestamp;

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

/// The distinguished names in a configured certificate, DER.
struct AnchorNames {
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

impl AnchorNames {
    fn of(root: &Root) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(&root.anchor.certificate.der).ok()?;
        Some(Self { subject: parsed.subject().as_raw().to_vec(), issuer: parsed.issuer().as_raw().to_vec() })
    }
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
        self.link();
        Ok(certificate)
    }

    /// Gives each configured certificate that another configured authority issued the names of that authority: a path ends
    /// at the first anchor, and says nothing of what is above it.
    fn link(&mut self) {
        let names: Vec<Option<AnchorNames>> = self.roots.iter().map(AnchorNames::of).collect();
        for (root, below) in self.roots.iter().zip(&names) {
            let is_above = |above: &&Option<AnchorNames>| {
                above.as_ref().zip(below.as_ref()).is_some_and(|(above, below)| above.subject == below.issuer)
            };
            let above = names.iter().zip(&self.roots).filter(|(above, _)| is_above(above));
            let above: Vec<usize> = above.map(|(_, root)| root.authority).collect();
            let issuers = above.iter().filter(|at| **at != root.authority);
            let issuers = issuers.filter_map(|at| self.authorities.get(*at));
            let called: Vec<KeyId> = issuers
                .flat_map(|issuer| issuer.authority.safe_names().cloned().collect::<Vec<_>>())
                .collect();
            let own = self.authorities.get_mut(root.authority).into_iter();
            let certificates = own.flat_map(|own| &mut own.authority.certificates);
            certificates
                .filter(|own| own.sha256 == root.anchor.certificate.sha256)
                .for_each(|own| own.issuer_names.clone_from(&called));
        }
    }

    /// The authorities that are trusted, each once, with all of its certificates.
    pub fn authorities(&self) -> impl Iterator<Item = &Authority> + Clone {
        self.authorities.iter().map(|known| &known.authority)
    }

    /// Verifies what a client presented (RFC 5280, section 6; usage: client authentication). Of the intermediates the
    /// first six are looked at, configured ones and duplicates not counted; the verdict does not depend on their order.
    /// Costs at most 32 signature checks.
    ///
    /// Revocation is not looked at here: the engine decides it, once and for every request.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<VerifiedChain, ChainError> {
        limit_bytes(leaf, presented)?;
        self.verify_counting(leaf, presented, now, &SignatureChecks::default())
    }

    /// As [`Trust::verify`], with at most so many signature checks. The verdict comes with how many were made.
    pub fn verify_within(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: Timestamp,
        most: usize,
    ) -> (Result<VerifiedChain, ChainError>, usize) {
        let checks = SignatureChecks::at_most(most);
        let verdict =
            limit_bytes(leaf, presented).and_then(|()| self.verify_counting(leaf, presented, now, &checks));
        (verdict, checks.count())
    }

    pub(super) fn verify_counting(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: Timestamp,
        checks: &SignatureChecks,
    ) -> Result<VerifiedChain, ChainError> {
        let certificate = client_leaf(leaf)?;
        let is_useless = |der: &[u8]| {
            let is_it = |root: &Root| root.anchor.certificate.der.as_ref() == der;
            leaf.as_ref() == der || self.roots.iter().any(is_it)
        };
        let Intermediates { considered, truncated } = Intermediates::first(presented, is_useless);
        let end_entity = EndEntityCert::try_from(leaf).map_err(ChainError::Path)?;
        let algorithms = checks.algorithms();
        let vouched = vouched_for(&self.anchors, &algorithms, &end_entity, &considered);
        // webpki does not look at the key usage of authorities, nor at an anchor's own limits. Another path may do
        // without the certificate at fault.
        let fault = Cell::new(None);
        let judge = |path: &VerifiedPath<'_>| {
            self.judge(path, now).map_err(|found| {
                fault.set(Some(found));
                webpki::Error::UnknownIssuer
            })
        };
        let supported: Vec<&dyn SignatureVerificationAlgorithm> =
            algorithms.iter().map(|counted| counted as &dyn SignatureVerificationAlgorithm).collect();
        let path = end_entity.verify_for_usage(
            &supported,
            &self.anchors,
            &vouched,
            unix_time(now),
            KeyUsage::client_auth(),
            None,
            Some(&judge),
        );
        let explain = |error| match (fault.take(), error) {
            (Some(fault), _) => fault,
            _ if checks.are_exhausted() => ChainError::TooManyChecks(checks.most()),
            (None, webpki::Error::UnknownIssuer) if truncated => ChainError::TooMany(presented.len()),
            (None, error) => ChainError::Path(error),
        };
        self.describe(certificate, &path.map_err(explain)?)
    }

    /// Holds a path whose signatures are good against what its authorities and its anchor may do.
    fn judge(&self, path: &VerifiedPath<'_>, now: Timestamp) -> Result<(), ChainError> {
        let issues = |der: &CertificateDer<'_>| Certificate::parse(der).is_ok_and(|above| above.issues);
        match path.intermediate_certificates().all(|above| issues(&above.der())) {
            true => self.root(path)?.anchor.judge(path, now),
            false => Err(ChainError::IssuerUsage),
        }
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

/// Reads the certificate of a client, which may sign handshakes and nothing else.
fn client_leaf(der: &CertificateDer<'_>) -> Result<Certificate, ChainError> {
    let leaf = Certificate::parse(der)?;
    match (leaf.signs, leaf.authenticates) {
        (true, _) => Err(ChainError::LeafSigns),
        (false, false) => Err(ChainError::LeafUsage),
        (false, true) => Ok(leaf),
    }
}

/// Same name and same key: one authority.
fn is_same(one: &TrustAnchor<'_>, other: &TrustAnchor<'_>) -> bool {
    one.subject == other.subject && one.subject_public_key_info == other.subject_public_key_info
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

    /// A root with a path length and a validity, an authority below it, and one below that.
    fn ladder(
        below: u8,
        from_to: [i64; 2],
    ) -> (Trust, [CertificateDer<'static>; 2], CertificateDer<'static>) {
        let (mut params, key) = authority("root", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
        let moment = |secs| time::OffsetDateTime::from_unix_timestamp(secs).unwrap();
        (params.not_before, params.not_after) = (moment(from_to[0]), moment(from_to[1]));
        let mut trust = Trust::new();
        trust.add(params.self_signed(&key).unwrap().der(), None).unwrap();
        let root = Issuer::new(params, key);
        let (params, key) = authority("upper", &[]);
        let upper = params.signed_by(&key, &root).unwrap().der().clone();
        let above = Issuer::new(params, key);
        let (params, key) = authority("lower", &[]);
        let lower = params.signed_by(&key, &above).unwrap().der().clone();
        let leaf = CertificateParams::new(vec!["a.lab.test".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(params, key)).unwrap();
        (trust, [lower, upper], leaf.der().clone())
    }

    const NOW: i64 = 1_792_000_000;

    /// Seen failing with the path of webpki taken as it is: an anchor limited nothing.
    #[test]
    fn an_anchor_limits_what_is_below_it() {
        let now = Timestamp::from_secs(NOW);
        for (below, fault) in
            [(2, None), (1, Some(ChainError::PathLength(2))), (0, Some(ChainError::PathLength(2)))]
        {
            let (trust, presented, leaf) = ladder(below, [NOW - 10, NOW + 10]);
            assert_eq!(trust.verify(&leaf, &presented, now).err(), fault, "{below}");
        }
        let (trust, presented, leaf) = ladder(2, [NOW - 10, NOW + 10]);
        let verify = |secs| trust.verify(&leaf, &presented, Timestamp::from_secs(secs));
        let early = verify(NOW - 11).unwrap_err();
        assert!(matches!(early, ChainError::Path(webpki::Error::CertNotValidYet { .. })), "{early}");
        let late = verify(NOW + 10).unwrap_err();
        assert!(matches!(late, ChainError::Path(webpki::Error::CertExpired { .. })), "{late}");
        assert_eq!(verify(NOW).unwrap().not_after, Timestamp::from_secs(NOW + 10));
    }

    /// Seen failing with the limits of the certificate that was read first.
    #[test]
    fn of_several_certificates_of_an_anchor_any_that_allows_it_will_do() {
        let (params, key) = authority("root", &[]);
        let moment = |secs| time::OffsetDateTime::from_unix_timestamp(secs).unwrap();
        let certify = |from: i64, to: i64, is_ca| {
            let mut params = params.clone();
            params.is_ca = IsCa::Ca(is_ca);
            (params.not_before, params.not_after) = (moment(from), moment(to));
            params.self_signed(&key).unwrap().der().clone()
        };
        let anchors = [
            certify(NOW - 20, NOW + 30, BasicConstraints::Constrained(0)),
            certify(NOW - 20, NOW + 10, BasicConstraints::Unconstrained),
            certify(NOW + 5, NOW + 20, BasicConstraints::Unconstrained),
        ];
        let root = Issuer::from_params(&params, &key);
        let (below_params, below_key) = authority("below", &[]);
        let below = below_params.signed_by(&below_key, &root).unwrap().der().clone();
        let leaf = CertificateParams::new(vec!["a.lab.test".to_owned()]).unwrap();
        let leaf =
            leaf.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(below_params, below_key)).unwrap();
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]] {
            let mut trust = Trust::new();
            order.iter().for_each(|i: &usize| drop(trust.add(&anchors[*i], None).unwrap()));
            let until = |secs| {
                let chain =
                    trust.verify(leaf.der(), std::slice::from_ref(&below), Timestamp::from_secs(secs));
                chain.ok().map(|chain| chain.not_after.secs() - NOW)
            };
            let untils = [NOW - 21, NOW, NOW + 6, NOW + 12, NOW + 20].map(until);
            assert_eq!(untils, [None, Some(10), Some(20), Some(20), None], "{order:?}");
        }
    }

    /// Seen failing without the look at it: a certificate for key agreement authenticated its holder.
    #[test]
    fn a_leaf_that_may_not_sign_is_refused() {
        let (params, key) = authority("root", &[]);
        let mut trust = Trust::new();
        trust.add(params.self_signed(&key).unwrap().der(), None).unwrap();
        let root = Issuer::new(params, key);
        for (usages, fault) in [
            (vec![], None),
            (vec![KeyUsagePurpose::DigitalSignature], None),
            (vec![KeyUsagePurpose::KeyAgreement, KeyUsagePurpose::DigitalSignature], None),
            (vec![KeyUsagePurpose::KeyAgreement], Some(ChainError::LeafUsage)),
            (vec![KeyUsagePurpose::ContentCommitment], Some(ChainError::LeafUsage)),
        ] {
            let mut leaf = CertificateParams::new(vec!["a.lab.test".to_owned()]).unwrap();
            leaf.key_usages.clone_from(&usages);
            let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &root).unwrap();
            let verdict = trust.verify(leaf.der(), &[], Timestamp::from_secs(NOW));
            assert_eq!(verdict.err(), fault, "{usages:?}");
        }
    }
}
