//! A certificate that is trusted because it is configured, checked before it is: what could never vouch for anything is
//! refused by name, and what it limits is kept to be enforced.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;
use webpki::VerifiedPath;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use super::Certificate;
use super::ChainError;
use crate::clock::Timestamp;

/// The critical extensions that path validation enforces (RFC 5280, section 4.2): key usage, subject alternative name,
/// basic constraints, name constraints, distribution points, extended key usage.
const ENFORCED: [&str; 6] = ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.31", "2.5.29.37"];

/// What an anchor is trusted to vouch for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnchorUse {
    /// The certificates of clients.
    Clients,
    /// The certificates of servers.
    Servers,
    /// Revocation lists, and other authorities that sign such.
    Lists,
}

/// A certificate that may be trusted for a use.
#[derive(Clone, Debug)]
pub struct Anchor {
    /// The certificate.
    pub certificate: Certificate,
    /// Whether its own key signed it.
    pub self_signed: bool,
    /// How many authorities may stand between it and a leaf, self-issued ones not counted (RFC 5280, section 4.2.1.9).
    path_length: Option<u32>,
}

impl Anchor {
    /// Reads a certificate that is to be trusted for `usage`.
    ///
    /// # Errors
    /// It is no authority (RFC 5280, section 4.2.1.9), may not sign certificates (4.2.1.3), is not for that use
    /// (4.2.1.12), or has a critical extension that nothing here enforces (4.2).
    pub fn read(der: &CertificateDer<'_>, usage: AnchorUse) -> Result<Self, ChainError> {
        let certificate = Certificate::parse(der)?;
        let (_, parsed) = X509Certificate::from_der(der).map_err(|e| ChainError::Malformed(e.to_string()))?;
        if parsed.version() != X509Version::V3 || !certificate.is_authority {
            return Err(ChainError::NotAnAuthority);
        }
        let unknown = parsed.extensions().iter().filter(|extension| extension.critical);
        let mut unknown = unknown.map(|extension| extension.oid.to_id_string());
        if let Some(oid) = unknown.find(|oid| !ENFORCED.contains(&oid.as_str())) {
            return Err(ChainError::CriticalExtension(oid));
        }
        if usage != AnchorUse::Lists && !certificate.issues {
            return Err(ChainError::AnchorUsage);
        }
        is_for(&parsed, usage)?;
        let constraints = parsed.basic_constraints().ok().flatten();
        let path_length = constraints.and_then(|found| found.value.path_len_constraint);
        let self_signed = parsed.subject().as_raw() == parsed.issuer().as_raw() && signs_itself(der, &parsed);
        Ok(Self { certificate, self_signed, path_length })
    }

    /// Whether it allows a path that ends at it.
    pub(super) fn judge(&self, path: &VerifiedPath<'_>, now: Timestamp) -> Result<(), ChainError> {
        // Self-issued ones do not count (RFC 5280, section 6.1.4, step l).
        let below = path.intermediate_certificates().filter(|above| above.subject() != above.issuer());
        self.allows(below.count(), now)
    }

    /// Whether it is valid at `now` and lets so many authorities, self-issued ones not counted, stand below it.
    pub(super) fn allows(&self, below: usize, now: Timestamp) -> Result<(), ChainError> {
        let Certificate { not_before, not_after, .. } = self.certificate;
        let time = super::chain::unix_time(now);
        if now < not_before {
            let not_before = super::chain::unix_time(not_before);
            return Err(ChainError::Path(webpki::Error::CertNotValidYet { time, not_before }));
        }
        if now >= not_after {
            let not_after = super::chain::unix_time(not_after);
            return Err(ChainError::Path(webpki::Error::CertExpired { time, not_after }));
        }
        let most = self.path_length.and_then(|most| usize::try_from(most).ok());
        if most.is_some_and(|most| below > most) {
            return Err(ChainError::PathLength(below));
        }
        Ok(())
    }
}

/// Whether its extended key usage, if it has one, allows the use (RFC 5280, section 4.2.1.12).
fn is_for(parsed: &X509Certificate<'_>, usage: AnchorUse) -> Result<(), ChainError> {
    let Ok(purposes) = parsed.extended_key_usage() else {
        return Err(ChainError::Malformed("its extended key usage cannot be read, or is there twice".into()));
    };
    let Some(purposes) = purposes.map(|found| found.value) else { return Ok(()) };
    let (fits, purpose) = match usage {
        AnchorUse::Clients => (purposes.client_auth, "client authentication"),
        AnchorUse::Servers => (purposes.server_auth, "server authentication"),
        AnchorUse::Lists => return Ok(()),
    };
    if fits || purposes.any { Ok(()) } else { Err(ChainError::AnchorPurpose(purpose)) }
}

/// Whether the key of a certificate signed it. An algorithm that is not known (a root that was signed with SHA-1)
/// decides nothing: then the authority key identifier does.
fn signs_itself(der: &CertificateDer<'_>, parsed: &X509Certificate<'_>) -> bool {
    let Ok(own) = EndEntityCert::try_from(der) else { return false };
    let (message, signature) = (parsed.tbs_certificate.as_ref(), &parsed.signature_value.data);
    let verifies = webpki::ALL_VERIFICATION_ALGS
        .iter()
        .any(|algorithm| own.verify_signature(*algorithm, message, signature).is_ok());
    verifies || {
        let certificate = Certificate::parse(der).ok();
        certificate.is_some_and(|own| {
            own.authority_key_id
                .as_ref()
                .is_none_or(|id| Some(id) == own.key_id.as_ref() || *id == own.key_sha1)
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::BasicConstraints;
    use rcgen::CertificateParams;
    use rcgen::CustomExtension;
    use rcgen::ExtendedKeyUsagePurpose;
    use rcgen::IsCa;
    use rcgen::KeyPair;
    use rcgen::KeyUsagePurpose;

    use super::*;

    fn read(usage: AnchorUse, shape: impl FnOnce(&mut CertificateParams)) -> Option<ChainError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        shape(&mut params);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        Anchor::read(&der, usage).err()
    }

    /// Seen failing with `webpki::anchor_from_trusted_cert` alone: all of them were trusted.
    #[test]
    fn what_could_never_vouch_is_refused() {
        use ExtendedKeyUsagePurpose::Any;
        use ExtendedKeyUsagePurpose::ClientAuth;
        use ExtendedKeyUsagePurpose::ServerAuth;
        let both =
            [(AnchorUse::Clients, ClientAuth, ServerAuth), (AnchorUse::Servers, ServerAuth, ClientAuth)];
        for (usage, own, other) in both {
            let is_refused = |shape: fn(&mut CertificateParams)| read(usage, shape);
            assert_eq!(is_refused(|_| ()), None);
            assert_eq!(is_refused(|params| params.is_ca = IsCa::NoCa), Some(ChainError::NotAnAuthority));
            let explicit = is_refused(|params| params.is_ca = IsCa::ExplicitNoCa);
            assert_eq!(explicit, Some(ChainError::NotAnAuthority));
            let lists_only = is_refused(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
            assert_eq!(lists_only, Some(ChainError::AnchorUsage));
            let unknown = is_refused(|params| {
                let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0x05, 0x00]);
                extension.set_criticality(true);
                params.custom_extensions.push(extension);
            });
            assert_eq!(unknown, Some(ChainError::CriticalExtension("1.2.3.4".into())));
            for (purposes, fits) in
                [(vec![own.clone()], true), (vec![other.clone(), Any], true), (vec![other], false)]
            {
                let refused = read(usage, |params| params.extended_key_usages = purposes);
                assert_eq!(matches!(refused, Some(ChainError::AnchorPurpose(_))), !fits, "{refused:?}");
            }
        }
        let old = CertificateDer::from(&include_bytes!("../../fuzz/corpus/certificate/version_1.der")[..]);
        assert_eq!(Anchor::read(&old, AnchorUse::Clients).err(), Some(ChainError::NotAnAuthority));
    }

    #[test]
    fn what_signs_lists_need_not_sign_certificates() {
        let lists = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
        assert_eq!(read(AnchorUse::Lists, lists), None);
        let leaf = |params: &mut CertificateParams| params.is_ca = IsCa::NoCa;
        assert_eq!(read(AnchorUse::Lists, leaf), Some(ChainError::NotAnAuthority));
    }

    #[test]
    fn who_signed_it_is_told_by_the_signature() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let keys = [KeyPair::generate().unwrap(), KeyPair::generate().unwrap()];
        let [own, other] = keys.each_ref();
        // The same name, signed by another key: a key that took over (RFC 4210, section 4.4).
        params.use_authority_key_identifier_extension = true;
        let rolled = params.signed_by(own, &rcgen::Issuer::from_params(&params, other)).unwrap();
        let itself = params.self_signed(own).unwrap();
        let self_signed = |der| Anchor::read(der, AnchorUse::Clients).unwrap().self_signed;
        assert_eq!((self_signed(itself.der()), self_signed(rolled.der())), (true, false));
    }
}
