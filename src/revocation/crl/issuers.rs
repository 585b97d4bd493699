//! Whose revocation lists are believed.

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::extensions::X509Extension;
use x509_parser::prelude::FromDer;

use super::Signer;
use super::algorithm::Signed;
use super::der::BIT_STRING;
use super::der::Reader;
use super::der::SEQUENCE;
use crate::clock::Timestamp;
use crate::identity::Certificate;
use crate::identity::ChainError;
use crate::identity::KeyId;
use crate::identity::name_text;

/// The authorities that may sign lists: those that are trusted as they are, and those that lead to them.
///
/// One name may belong to several keys (an authority with a new key); a list is then by the one whose key verifies it.
/// One key may have several certificates (renewed, cross-signed); a list is good if it is by any one of them.
#[derive(Clone, Debug, Default)]
pub struct Issuers {
    candidates: Vec<Candidate>,
    /// The keys whose lists are taken; `None`: any candidate's.
    only: Option<Vec<KeyId>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    /// The subject, DER, and how it is written.
    name: Vec<u8>,
    text: String,
    spki: Vec<u8>,
    key: KeyId,
    key_id: Option<KeyId>,
    signs_lists: bool,
    signs_certificates: bool,
    /// How many authorities may stand between it and a leaf (RFC 5280, section 4.2.1.9).
    below: Option<u32>,
    /// When it, and all above it, is valid.
    not_before: Timestamp,
    not_after: Timestamp,
    /// The key of the anchor that vouches for it.
    anchor: KeyId,
}

impl Issuers {
    /// Believes nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Believes an authority that is trusted as it is.
    pub fn add_anchor(&mut self, der: &CertificateDer<'_>) -> Result<(), IssuerError> {
        let certificate = Certificate::parse(der).map_err(IssuerError::Malformed)?;
        let parsed = parse(der)?;
        if parsed.extensions().iter().any(is_unknown) {
            return Err(IssuerError::Extensions(certificate.subject_dn));
        }
        let candidate = Candidate::of(&certificate, &parsed, None)?;
        self.push(candidate);
        Ok(())
    }

    /// Believes an authority if one that is believed already signed its certificate, and may sign such (RFC 5280,
    /// section 6.1, but for names and policies, which do not bind a list's signer).
    ///
    /// Its own certificate has to say that it is an authority: a key that signs lists only has issued nothing, so that
    /// what it revokes would be looked up under a key that no certificate is signed with.
    pub fn add_intermediate(&mut self, der: &CertificateDer<'_>) -> Result<(), IssuerError> {
        let certificate = Certificate::parse(der).map_err(IssuerError::Malformed)?;
        let parsed = parse(der)?;
        if parsed.extensions().iter().any(is_unknown) {
            return Err(IssuerError::Extensions(certificate.subject_dn));
        }
        let above = self.candidates.iter().filter(|above| above.name == parsed.issuer().as_raw());
        let above: Vec<&Candidate> = above.filter(|above| is_signed_by(der, &above.spki)).collect();
        let may = above.iter().filter(|above| above.signs_certificates && above.below != Some(0));
        let candidates = may
            .map(|above| Candidate::of(&certificate, &parsed, Some(above)))
            .collect::<Result<Vec<_>, _>>()?;
        if candidates.is_empty() {
            return Err(match above.is_empty() {
                true => IssuerError::Unknown(certificate.subject_dn),
                false => IssuerError::NotAllowed(certificate.subject_dn),
            });
        }
        candidates.into_iter().for_each(|candidate| self.push(candidate));
        Ok(())
    }

    /// From now on only lists that one of these keys signed are taken; the others vouch for these keys, and no more.
    #[must_use]
    pub fn only(mut self, keys: Vec<KeyId>) -> Self {
        self.only = Some(keys);
        self
    }

    fn push(&mut self, new: Candidate) {
        if !self.candidates.contains(&new) {
            self.candidates.push(new);
        }
    }

    /// Who signed: the candidate of this name (DER) whose key verifies.
    ///
    /// Names are compared byte by byte, as webpki does when it builds a path: certificates and lists of one authority
    /// spell its name alike (RFC 5280, section 5.1.2.3).
    pub(super) fn signer(
        &self,
        name: &[u8],
        key_id: Option<&[u8]>,
        signed: &Signed<'_>,
        now: Timestamp,
    ) -> Result<Signer, SignerFault> {
        let key_id = key_id.map(KeyId::from_bytes);
        let mut fault = self.unknown(name);
        for candidate in self.candidates.iter().filter(|candidate| candidate.name == name) {
            let verdict = match candidate.may_sign(key_id.as_ref(), now) {
                // Last, so that it is said of a list that is good otherwise.
                Ok(()) if signed.is_by(&candidate.spki) => match self.takes(&candidate.key) {
                    true => return Ok(self.describe(candidate)),
                    false => SignerFault::Other,
                },
                Ok(()) => SignerFault::Signature,
                Err(fault) => fault,
            };
            fault = fault.max(verdict);
        }
        Err(fault)
    }

    fn takes(&self, key: &KeyId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(key))
    }

    /// Why nobody is found under a name: two spellings of one look alike where they are shown.
    fn unknown(&self, name: &[u8]) -> SignerFault {
        let text = name_text(name).unwrap_or_default();
        let shown = |candidate: &Candidate| name_text(&candidate.name).unwrap_or_default();
        let looks_alike = self.candidates.iter().any(|other| shown(other).eq_ignore_ascii_case(&text));
        if looks_alike { SignerFault::Spelling } else { SignerFault::Unknown }
    }

    fn describe(&self, found: &Candidate) -> Signer {
        let named = || self.candidates.iter().filter(|other| other.name == found.name);
        // Every anchor that its key stands under: which certificate came first makes no difference.
        let anchors: Vec<&KeyId> =
            named().filter(|other| other.key == found.key).map(|other| &other.anchor).collect();
        let same = named().filter(|other| anchors.contains(&&other.anchor));
        let mut also: Vec<KeyId> =
            same.map(|other| other.key.clone()).filter(|key| *key != found.key).collect();
        also.sort();
        also.dedup();
        Signer { name: found.text.clone(), key: found.key.clone(), key_id: found.key_id.clone(), also }
    }
}

impl Candidate {
    fn of(
        certificate: &Certificate,
        parsed: &X509Certificate<'_>,
        above: Option<&Self>,
    ) -> Result<Self, IssuerError> {
        let unreadable = |_| IssuerError::Extensions(certificate.subject_dn.clone());
        let constraints = parsed.basic_constraints().map_err(unreadable)?.map(|found| found.value);
        if !constraints.is_some_and(|found| found.ca) {
            return Err(IssuerError::NotAnAuthority(certificate.subject_dn.clone()));
        }
        let usage = parsed.key_usage().map_err(unreadable)?.map(|found| found.value);
        let own = constraints.and_then(|found| found.path_len_constraint);
        let left = above.and_then(|above| above.below).map(|below| below.saturating_sub(1));
        Ok(Self {
            name: parsed.subject().as_raw().to_vec(),
            text: certificate.subject_dn.clone(),
            spki: parsed.public_key().raw.to_vec(),
            key: certificate.key.clone(),
            key_id: certificate.key_id.clone(),
            signs_lists: usage.is_none_or(|usage| usage.crl_sign()),
            signs_certificates: usage.is_none_or(|usage| usage.key_cert_sign()),
            below: own.into_iter().chain(left).min(),
            not_before: above
                .map_or(certificate.not_before, |above| above.not_before.max(certificate.not_before)),
            not_after: above
                .map_or(certificate.not_after, |above| above.not_after.min(certificate.not_after)),
            anchor: above.map_or(&certificate.key, |above| &above.anchor).clone(),
        })
    }

    /// Whether it may sign a list now that says it is by `key_id` (RFC 5280, sections 4.2.1.3, 5.2.1 and 6.3.3).
    fn may_sign(&self, key_id: Option<&KeyId>, now: Timestamp) -> Result<(), SignerFault> {
        if key_id.zip(self.key_id.as_ref()).is_some_and(|(said, own)| said != own) {
            return Err(SignerFault::KeyId);
        }
        if !self.signs_lists {
            return Err(SignerFault::Usage);
        }
        if now < self.not_before || now > self.not_after {
            return Err(SignerFault::Validity);
        }
        Ok(())
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IssuerError> {
    let (_, parsed) = X509Certificate::from_der(der)
        .map_err(|error| IssuerError::Malformed(ChainError::Malformed(error.to_string())))?;
    Ok(parsed)
}

/// Whether an extension must be understood and is not (RFC 5280, section 4.2).
fn is_unknown(extension: &X509Extension<'_>) -> bool {
    let is_read = !matches!(
        extension.parsed_extension(),
        ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. }
    );
    extension.critical && !is_read
}

fn is_signed_by(der: &CertificateDer<'_>, spki: &[u8]) -> bool {
    let read = || {
        let mut outer = Reader::new(der, 0).expect(SEQUENCE, "not a certificate")?.inside();
        let signed = outer.expect(SEQUENCE, "not a certificate")?;
        let algorithm = outer.expect(SEQUENCE, "not a certificate")?;
        let signature = outer.expect(BIT_STRING, "not a certificate")?.whole_bytes()?;
        Ok::<_, super::der::Fault>((signed.whole, algorithm.body, signature))
    };
    let Ok((message, algorithm, signature)) = read() else {
        return false;
    };
    Signed::new(message, algorithm, signature).is_ok_and(|signed| signed.is_by(spki))
}

/// Why an authority's lists are not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// Not a certificate.
    #[error("{0}")]
    Malformed(ChainError),
    /// Its extensions cannot be read, are there twice, or must be understood and are not.
    #[error("{0}: an extension that cannot be read, or is critical and unknown")]
    Extensions(String),
    /// Its certificate does not say that it is an authority (RFC 5280, section 4.2.1.9).
    #[error("{0}: not an authority")]
    NotAnAuthority(String),
    /// No authority that is believed signed it.
    #[error("{0}: no known authority signed it")]
    Unknown(String),
    /// The authority that signed it may not (RFC 5280, sections 4.2.1.3 and 4.2.1.9).
    #[error("{0}: its issuer may not sign authorities: key usage or path length")]
    NotAllowed(String),
}

/// Why none of the authorities signed a list; where several were asked, the one that came closest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum SignerFault {
    /// No authority of that name.
    #[error("no authority of this name is known")]
    Unknown,
    /// An authority's name looks the same, and has other bytes (RFC 5280, section 5.1.2.3).
    #[error("an authority spells this name in other bytes: string types, upper and lower case")]
    Spelling,
    /// The name is right, the key that the list names is another (RFC 5280, section 5.2.1).
    #[error("the list names another key than the authority of this name has")]
    KeyId,
    /// The authority may not sign lists (RFC 5280, section 4.2.1.3).
    #[error("the key usage of the authority lacks cRLSign")]
    Usage,
    /// The authority's certificate, or one above it, is not yet or no longer valid.
    #[error("the certificate of the authority, or one above it, is not valid now")]
    Validity,
    /// The signature is not by the authority.
    #[error("the signature does not hold: forged or damaged")]
    Signature,
    /// It is good, and by an authority that is known, whose lists are not looked for here.
    #[error("its signature holds, but the list of another authority is expected here")]
    Other,
}
