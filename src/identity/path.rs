//! The search for a path: which presented certificates an anchor vouches for, found at a bounded cost.
//!
//! webpki joins certificates by their names and checks signatures last, so that certificates which nobody signed cost it
//! one check for each of their permutations. Here a certificate becomes part of a path only after its signature was found
//! good under the key of an anchor, or of an authority that an anchor vouches for. A stranger, who has no such key, costs
//! one check for each certificate that it presents and each anchor of the name of that certificate's issuer.
//!
//! **Invariant:** nothing is checked under a key that the presenter chose.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::SignatureVerificationAlgorithm;
use rustls::pki_types::TrustAnchor;
use webpki::EndEntityCert;
use x509_parser::asn1_rs::Any;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::ChainError;
use super::checks::CountedAlgorithm;

/// Presented intermediates that are looked at, the first ones; webpki builds no longer path.
pub(super) const MAX_INTERMEDIATES: usize = 6;
/// Intermediates of one name that may be part of a path: the permutations of more would take long without a signature.
const MAX_NAMESAKES: usize = 4;
/// All certificates that a client presents, the leaf included, bytes. Three of a post-quantum algorithm (ML-DSA-87) fit.
const MAX_BYTES: usize = 32 << 10;

/// Refuses more bytes of certificates than any chain needs (32 KiB), before any is parsed.
///
/// # Errors
/// [`ChainError::TooLarge`].
pub fn limit_bytes(leaf: &CertificateDer<'_>, presented: &[CertificateDer<'_>]) -> Result<(), ChainError> {
    let bytes = presented.iter().map(|der| der.len()).fold(leaf.len(), usize::saturating_add);
    if bytes <= MAX_BYTES { Ok(()) } else { Err(ChainError::TooLarge(bytes)) }
}

/// The presented intermediates that are looked at.
pub(super) struct Intermediates<'a> {
    /// In the order of their bytes: the client does not choose which path is tried first.
    pub(super) considered: Vec<CertificateDer<'a>>,
    /// True if there are more.
    pub(super) truncated: bool,
}

impl<'a> Intermediates<'a> {
    /// The first six, each once, that `is_useless` does not leave out.
    pub(super) fn first(presented: &'a [CertificateDer<'_>], is_useless: impl Fn(&[u8]) -> bool) -> Self {
        let mut first: Vec<&[u8]> = Vec::with_capacity(MAX_INTERMEDIATES);
        let mut truncated = false;
        for der in presented.iter().map(AsRef::as_ref) {
            if first.contains(&der) || is_useless(der) {
                continue;
            }
            if first.len() == MAX_INTERMEDIATES {
                truncated = true;
                break;
            }
            first.push(der);
        }
        first.sort_unstable();
        Self { considered: first.into_iter().map(CertificateDer::from).collect(), truncated }
    }
}

/// Those of `considered` that an anchor vouches for, over any number of them, and that the names above `leaf` lead to.
/// Every path that verifies consists of such. Those that are no authority are among them, and vouch for nothing.
pub(super) fn vouched_for<'a>(
    anchors: &[TrustAnchor<'_>],
    algorithms: &[CountedAlgorithm<'_>],
    leaf: &EndEntityCert<'_>,
    considered: &'a [CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    let mut open = above(leaf, considered);
    let mut vouched: Vec<Intermediate<'a>> = Vec::new();
    loop {
        let is_vouched = |below: &Intermediate<'a>| {
            let is_by_anchor = |anchor: &TrustAnchor<'_>| {
                anchor.subject.as_ref() == below.certificate.issuer()
                    && below.is_signed_by(&anchor.subject_public_key_info, algorithms)
            };
            let is_by = |above: &&Intermediate<'a>| {
                above.is_authority
                    && above.certificate.subject() == below.certificate.issuer()
                    && below.is_signed_by(&above.key, algorithms)
            };
            anchors.iter().any(is_by_anchor) || vouched.iter().any(|above| is_by(&above))
        };
        let (found, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(is_vouched);
        open = rest;
        if found.is_empty() {
            break;
        }
        for mut found in found {
            let namesakes =
                vouched.iter().filter(|other| other.certificate.subject() == found.certificate.subject());
            if namesakes.count() < MAX_NAMESAKES {
                found.is_authority = is_authority(found.der);
                vouched.push(found);
            }
        }
    }
    vouched.into_iter().map(|found| CertificateDer::from(found.der)).collect()
}

/// The intermediates that names lead to from `leaf`, whoever signed them.
fn above<'a>(leaf: &EndEntityCert<'_>, considered: &'a [CertificateDer<'a>]) -> Vec<Intermediate<'a>> {
    let mut rest: Vec<Intermediate<'a>> = considered.iter().filter_map(Intermediate::read).collect();
    let mut above: Vec<Intermediate<'a>> = Vec::new();
    loop {
        let is_next = |one: &Intermediate<'a>| {
            let name = one.certificate.subject();
            name == leaf.issuer() || above.iter().any(|below| below.certificate.issuer() == name)
        };
        let (next, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_next);
        if next.is_empty() {
            break;
        }
        above.extend(next);
        rest = others;
    }
    above.sort_unstable_by_key(|one| one.der);
    above
}

/// A presented certificate, read as far as the search needs it.
struct Intermediate<'a> {
    der: &'a [u8],
    certificate: EndEntityCert<'a>,
    /// The contents of its SubjectPublicKeyInfo.
    key: Vec<u8>,
    /// The signed bytes: the TBSCertificate (RFC 5280, section 4.1).
    message: &'a [u8],
    /// The contents of the signature's AlgorithmIdentifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
    /// True if it may vouch for others (RFC 5280, section 4.2.1.9); read once it is vouched for itself.
    is_authority: bool,
}

impl<'a> Intermediate<'a> {
    /// `None` of what webpki cannot read either.
    fn read(der: &'a CertificateDer<'a>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(der).ok()?;
        let key = Element::read(&certificate.subject_public_key_info())?.body.to_vec();
        let message = Element::read(Element::read(der)?.body)?;
        let algorithm = Element::read(message.behind)?;
        let signature = Element::read(algorithm.behind)?;
        Some(Self {
            der,
            certificate,
            key,
            message: message.whole,
            algorithm: algorithm.body,
            signature: signature.bits()?,
            is_authority: false,
        })
    }

    /// True if the holder of a key (the contents of its SubjectPublicKeyInfo) signed it.
    fn is_signed_by(&self, key: &[u8], algorithms: &[CountedAlgorithm<'_>]) -> bool {
        let Some(kind) = Element::read(key) else { return false };
        let Some(bits) = Element::read(kind.behind).and_then(|key| key.bits()) else { return false };
        let fits = |algorithm: &&CountedAlgorithm<'_>| {
            algorithm.signature_alg_id().as_ref() == self.algorithm
                && algorithm.public_key_alg_id().as_ref() == kind.body
        };
        let mut fitting = algorithms.iter().filter(fits);
        fitting.any(|algorithm| algorithm.verify_signature(bits, self.message, self.signature).is_ok())
    }
}

fn is_authority(der: &[u8]) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return false };
    parsed.basic_constraints().is_ok_and(|found| found.is_some_and(|found| found.value.ca))
}

/// One DER element.
struct Element<'a> {
    whole: &'a [u8],
    body: &'a [u8],
    behind: &'a [u8],
}

impl<'a> Element<'a> {
    fn read(input: &'a [u8]) -> Option<Self> {
        let (behind, any) = Any::from_der(input).ok()?;
        let whole = input.get(..input.len() - behind.len())?;
        Some(Self { whole, body: any.data, behind })
    }

    /// The contents of a BIT STRING of whole bytes.
    fn bits(&self) -> Option<&'a [u8]> {
        self.body.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bits)| bits)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::BasicConstraints;
    use rcgen::CertificateParams;
    use rcgen::DnType;
    use rcgen::IsCa;
    use rcgen::Issuer;
    use rcgen::KeyPair;
    use rcgen::PKCS_ECDSA_P256_SHA256;
    use rcgen::PKCS_ECDSA_P384_SHA384;
    use rcgen::PKCS_RSA_SHA256;

    use super::*;
    use crate::clock::Timestamp;
    use crate::identity::Trust;
    use crate::identity::VerifiedChain;
    use crate::identity::checks::MAX_CHECKS;
    use crate::identity::checks::SignatureChecks;

    const NOW: Timestamp = Timestamp::from_secs(1_792_000_000);

    /// A name with a key.
    struct Party {
        params: CertificateParams,
        key: KeyPair,
    }

    impl Party {
        fn new(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self { params, key: KeyPair::generate_for(algorithm).unwrap() }
        }

        /// On a P-256 key.
        fn named(name: &str) -> Self {
            Self::new(name, &PKCS_ECDSA_P256_SHA256)
        }

        fn by(&self, issuer: &Self) -> CertificateDer<'static> {
            let issuer = Issuer::from_params(&issuer.params, &issuer.key);
            self.params.signed_by(&self.key, &issuer).unwrap().der().clone()
        }

        fn leaf(&self) -> CertificateDer<'static> {
            let params = CertificateParams::new(vec!["a.lab.test".to_owned()]).unwrap();
            let issuer = Issuer::from_params(&self.params, &self.key);
            params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
        }
    }

    fn trust(roots: &[&Party]) -> Trust {
        let mut trust = Trust::new();
        roots.iter().for_each(|root| drop(trust.add(&root.by(root), None).unwrap()));
        trust
    }

    type Outcome = (Result<VerifiedChain, ChainError>, usize);

    /// The verdict and how many checks it cost, the same in whichever order they are presented.
    fn verify(trust: &Trust, leaf: &CertificateDer<'_>, presented: &[CertificateDer<'static>]) -> Outcome {
        let once = |presented: &[CertificateDer<'static>]| {
            let checks = SignatureChecks::default();
            (trust.verify_counting(leaf, presented, NOW, &checks), checks.count())
        };
        let (first, mut presented) = (once(presented), presented.to_vec());
        for _ in 0..presented.len().min(MAX_INTERMEDIATES) {
            presented.rotate_left(1);
            let other = once(&presented);
            let is_same = (first.0.is_ok(), first.1) == (other.0.is_ok(), other.1);
            assert!(is_same || presented.len() > MAX_INTERMEDIATES, "{first:?} {other:?}");
        }
        first
    }

    /// Chains of a stranger, who has no key of an authority, below a root: a leaf and six intermediates.
    fn strangers_chains(
        root: &Party,
        below: &Party,
    ) -> Vec<(&'static str, CertificateDer<'static>, Vec<CertificateDer<'static>>)> {
        let six = |one: &dyn Fn(usize) -> CertificateDer<'static>| (0..6).map(one).collect::<Vec<_>>();
        let [imposter, of_root] = ["below", "root"].map(Party::named);
        let genuine = below.by(root);
        let with_genuine = |mut others: Vec<CertificateDer<'static>>| {
            others[0] = genuine.clone();
            others
        };
        let levels = |i: usize| match i % 2 {
            0 => Party::named("below").by(&Party::named("upper")),
            _ => Party::named("upper").by(&of_root),
        };
        let ladder = |i: usize| match i {
            5 => Party::named("level 5").by(&of_root),
            i => Party::named(&format!("level {i}")).by(&Party::named(&format!("level {}", i + 1))),
        };
        vec![
            (
                "self-issued, of no anchor's name",
                imposter.leaf(),
                six(&|_| Party::named("below").by(&imposter)),
            ),
            ("look-alikes under the anchor", imposter.leaf(), six(&|_| Party::named("below").by(&of_root))),
            ("of the anchor's name", of_root.leaf(), six(&|_| Party::named("root").by(&of_root))),
            ("look-alikes on each level", imposter.leaf(), six(&levels)),
            ("many names", Party::named("level 0").leaf(), six(&ladder)),
            (
                "with the true one",
                imposter.leaf(),
                with_genuine(six(&|_| Party::named("below").by(&of_root))),
            ),
            (
                "under the true one",
                imposter.leaf(),
                with_genuine(six(&|_| Party::named("below").by(&imposter))),
            ),
        ]
    }

    /// Seen failing with all intermediates handed to webpki, and its checks counted: 100 for the look-alikes under the
    /// anchor, on each level and of the anchor's name.
    #[test]
    fn a_strangers_chain_costs_a_check_for_each_certificate() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256] {
            let root = Party::new("root", algorithm);
            let (below, other_root) = (Party::new("below", algorithm), Party::new("root", algorithm));
            let (trust_one, trust_two) = (trust(&[&root]), trust(&[&root, &other_root]));
            for (kind, leaf, presented) in strangers_chains(&root, &below) {
                let (verdict, checks) = verify(&trust_one, &leaf, &presented);
                assert!(verdict.is_err() && checks <= 7, "{kind}: {checks}");
                let (verdict, checks) = verify(&trust_two, &leaf, &presented);
                assert!(verdict.is_err() && checks <= MAX_CHECKS, "two anchors of a name: {kind}: {checks}");
            }
        }
    }

    /// Seen failing without the bound in [`SignatureChecks::once`]: 38 checks.
    #[test]
    fn whatever_is_presented_the_checks_are_bounded() {
        // Whoever has the key of an authority can make others cross-sign each other.
        let (root, below) = (Party::named("root"), Party::named("below"));
        let twins: Vec<Party> = (0..6).map(|_| Party::named("below")).collect();
        let forger = Party::named("root");
        let roots: Vec<Party> = (0..7).map(|_| Party::named("root")).collect();
        let all: Vec<&Party> = std::iter::once(&root).chain(&roots).collect();
        let (one, many) = (trust(&[&root]), trust(&all));
        let mut crossed: Vec<CertificateDer<'static>> =
            twins.iter().zip(twins.iter().skip(1)).map(|(above, twin)| twin.by(above)).collect();
        crossed.push(twins[0].by(&root));
        let direct: Vec<CertificateDer<'static>> = twins.iter().map(|twin| twin.by(&root)).collect();
        let forged: Vec<CertificateDer<'static>> = twins.iter().map(|twin| twin.by(&forger)).collect();
        for presented in [&crossed, &direct, &forged] {
            for trust in [&one, &many] {
                let (verdict, checks) = verify(trust, &below.leaf(), presented);
                assert!(verdict.is_err() && checks <= MAX_CHECKS, "{checks}: {verdict:?}");
            }
        }
        let (verdict, _) = verify(&many, &below.leaf(), &forged);
        assert_eq!(verdict.err(), Some(ChainError::TooManyChecks(MAX_CHECKS)));
    }

    /// Seen failing with the look-alikes left out by their number instead of their signature.
    #[test]
    fn a_path_among_look_alikes_is_found() {
        let (root, upper, below) = (Party::named("root"), Party::named("upper"), Party::named("below"));
        let trust = trust(&[&root]);
        let path = [below.by(&upper), upper.by(&root)];
        for other in ["below", "upper", "root"] {
            for issuer in ["below", "upper", "root"].map(Party::named) {
                let junk = (0..4).map(|_| Party::named(other).by(&issuer));
                let presented: Vec<_> = path.iter().cloned().chain(junk).collect();
                let (verdict, checks) = verify(&trust, &below.leaf(), &presented);
                assert_eq!(verdict.unwrap().issuers.len(), 3);
                assert!(checks <= 12, "{other}: {checks}");
            }
        }
        let (verdict, checks) = verify(&trust, &below.leaf(), &path);
        assert!(verdict.is_ok());
        assert_eq!(checks, 3, "each signature of a path is checked once");
    }

    /// Seen failing with a chain of more than six refused unread.
    #[test]
    fn a_path_among_the_first_six_is_found_in_a_longer_chain() {
        let (root, below) = (Party::named("root"), Party::named("below"));
        let (trust, leaf) = (trust(&[&root]), below.leaf());
        let junk: Vec<_> = (0..20).map(|i| Party::named(&format!("junk {i}"))).collect();
        let junk: Vec<_> = junk.iter().map(|party| party.by(party)).collect();
        let path = below.by(&root);
        let at = |place: usize| {
            let mut presented = junk.clone();
            presented.insert(place, path.clone());
            verify(&trust, &leaf, &presented).0.map(|chain| chain.issuers.len())
        };
        assert_eq!([0, 5].map(at), [Ok(2), Ok(2)]);
        assert_eq!(at(6), Err(ChainError::TooMany(21)));
        // Duplicates, anchors and the leaf itself do not count.
        let mut presented = vec![leaf.clone(), root.by(&root)];
        presented.extend(std::iter::repeat_n(junk[0].clone(), 20));
        presented.push(path.clone());
        assert!(trust.verify(&leaf, &presented, NOW).is_ok());
    }

    /// Seen failing without the look at the size.
    #[test]
    fn more_bytes_than_any_chain_needs_are_refused_unread() {
        let root = Party::named("root");
        let (trust, leaf) = (trust(&[&root]), root.leaf());
        let junk = |bytes: usize| [CertificateDer::from(vec![0; bytes - leaf.len()])];
        assert!(trust.verify(&leaf, &junk(MAX_BYTES), NOW).is_ok());
        let refused = trust.verify(&leaf, &junk(MAX_BYTES + 1), NOW).err();
        assert_eq!(refused, Some(ChainError::TooLarge(MAX_BYTES + 1)));
    }

    /// Seen failing without the look at basic constraints: a leaf vouched for what its holder signed.
    #[test]
    fn the_holder_of_a_leaf_vouches_for_nothing() {
        let root = Party::named("root");
        let trust = trust(&[&root]);
        let mut agent = Party::named("agent");
        agent.params.is_ca = IsCa::ExplicitNoCa;
        let twins = (0..5).map(|_| Party::named("agent").by(&agent));
        let presented: Vec<_> = std::iter::once(agent.by(&root)).chain(twins).collect();
        let (verdict, checks) = verify(&trust, &agent.leaf(), &presented);
        assert_eq!(verdict.err(), Some(ChainError::Path(webpki::Error::EndEntityUsedAsCa)));
        assert!(checks <= 1, "{checks}");
    }
}
