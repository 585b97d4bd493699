//! What a client presented that nobody vouches for: so that it can be found and given another, never to be believed.

use rustls::pki_types::CertificateDer;

use crate::identity::Certificate;
use crate::identity::ChainError;
use crate::identity::limit_bytes;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::cut;

/// Who a client says that it is, unverified.
pub(super) struct Presented {
    /// Its SPIFFE ID, its first DNS name or its distinguished name, cut after 256 characters.
    pub(super) id: String,
    /// Its certificate's serial.
    pub(super) serial: String,
}

impl Presented {
    /// Reads the names in a certificate; empty if it cannot be read, or is too large.
    pub(super) fn read(leaf: &CertificateDer<'_>) -> Self {
        let parsed = limit_bytes(leaf, &[]).and_then(|()| Certificate::parse(leaf)).ok();
        parsed.as_ref().map_or_else(|| Self { id: String::new(), serial: String::new() }, Self::of)
    }

    /// What a certificate says.
    pub(super) fn of(certificate: &Certificate) -> Self {
        let subject = certificate.subject.as_ref().ok();
        let spiffe = subject.and_then(|names| names.spiffe.as_ref()).map(ToString::to_string);
        let dns = || subject.and_then(|names| names.dns.first()).map(ToString::to_string);
        let id = spiffe.or_else(dns).unwrap_or_else(|| certificate.subject_dn.clone());
        Self { id: cut(&id, LONGEST_NAME).into_owned(), serial: certificate.serial.to_string() }
    }
}

/// The code that a chain which does not verify is refused with.
pub(super) fn code_of(error: &ChainError) -> &'static str {
    match error {
        ChainError::Path(webpki::Error::CertExpired { .. }) => "certificate_expired",
        ChainError::TooManyFailures => "too_many_failures",
        _ => "certificate_untrusted",
    }
}
