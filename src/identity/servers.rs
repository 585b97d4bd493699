//! The authorities whose servers are believed, as a configuration names them; with the limits that they have themselves.

use std::sync::Arc;

use rustls::CertificateError;
use rustls::DigitallySignedStruct;
use rustls::OtherError;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::TrustAnchor;
use rustls::pki_types::UnixTime;
use webpki::EndEntityCert;
use webpki::KeyUsage;
use webpki::VerifiedPath;

use super::Anchor;
use super::AnchorUse;
use super::ChainError;
use crate::clock::Timestamp;

/// Verifies servers: what webpki does, and what the anchor of a path limits (RFC 5280, section 6.1.1), which webpki does
/// not look at.
#[derive(Debug)]
pub struct ServerTrust {
    inner: Arc<WebPkiServerVerifier>,
    anchors: Vec<TrustAnchor<'static>>,
    /// One for each anchor, in the same order.
    limits: Vec<Anchor>,
}

impl ServerTrust {
    /// Believes the servers of these authorities.
    ///
    /// # Errors
    /// One of the certificates could never vouch for a server: which, and why. Or there is none.
    pub fn new(
        certificates: &[CertificateDer<'static>],
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let (mut roots, mut anchors, mut limits) = (RootCertStore::empty(), Vec::new(), Vec::new());
        for (i, der) in certificates.iter().enumerate() {
            let failed = |error: &dyn std::fmt::Display| format!("certificate {}: {error}", i + 1);
            limits.push(Anchor::read(der, AnchorUse::Servers).map_err(|e| failed(&e))?);
            anchors.push(webpki::anchor_from_trusted_cert(der).map_err(|e| failed(&e))?.to_owned());
            roots.add(der.clone()).map_err(|e| failed(&e))?;
        }
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { inner: inner.map_err(|e| e.to_string())?, anchors, limits })
    }

    /// Whether an anchor that allows it vouches for a server whose path is good otherwise.
    fn allows(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), ChainError> {
        let at = Timestamp::from_secs(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        if self.limits.iter().all(|anchor| anchor.allows(usize::MAX, at).is_ok()) {
            // None of them limits anything now.
            return Ok(());
        }
        let fault = std::cell::Cell::new(None);
        let judge = |path: &VerifiedPath<'_>| {
            let place = self.anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
            let anchor =
                place.and_then(|place| self.limits.get(place)).ok_or(webpki::Error::UnknownIssuer)?;
            anchor.judge(path, at).map_err(|found| {
                fault.set(Some(found));
                webpki::Error::UnknownIssuer
            })
        };
        let server = EndEntityCert::try_from(server).map_err(ChainError::Path)?;
        let path = server.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &self.anchors,
            intermediates,
            now,
            KeyUsage::server_auth(),
            None,
            Some(&judge),
        );
        path.map(drop).map_err(|error| fault.take().unwrap_or(ChainError::Path(error)))
    }
}

impl ServerCertVerifier for ServerTrust {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(server, intermediates, name, ocsp, now)?;
        let other = |error| CertificateError::Other(OtherError(Arc::new(error)));
        self.allows(server, intermediates, now).map_err(other)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, server, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, server, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
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
    use rustls::crypto::aws_lc_rs;

    use super::*;

    const NOW: i64 = 1_792_000_000;

    /// Seen failing with the verifier of rustls alone: neither was looked at.
    #[test]
    fn an_anchor_limits_its_servers() {
        let moment = |secs| time::OffsetDateTime::from_unix_timestamp(secs).unwrap();
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            (params.not_before, params.not_after) = (moment(NOW - 100), moment(NOW + 100));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        for (length, now, fits) in [(1, 0, true), (0, 0, false), (1, -51, false), (1, 50, false)] {
            let (mut root, root_key) = (params("root"), KeyPair::generate().unwrap());
            root.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
            (root.not_before, root.not_after) = (moment(NOW - 50), moment(NOW + 50));
            let anchor = root.self_signed(&root_key).unwrap().der().clone();
            let (below, below_key) = (params("below"), KeyPair::generate().unwrap());
            let between = below.signed_by(&below_key, &Issuer::new(root, root_key)).unwrap().der().clone();
            let mut server = params("server");
            server.is_ca = IsCa::NoCa;
            server.subject_alt_names = vec![rcgen::SanType::DnsName("a.test".try_into().unwrap())];
            let key = KeyPair::generate().unwrap();
            let server = server.signed_by(&key, &Issuer::new(below, below_key)).unwrap().der().clone();
            let provider = Arc::new(aws_lc_rs::default_provider());
            let trust = ServerTrust::new(&[anchor], provider).unwrap();
            let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs((NOW + now).unsigned_abs()));
            let name = ServerName::try_from("a.test").unwrap();
            let verified = trust.verify_server_cert(&server, &[between], &name, &[], at);
            assert_eq!(verified.is_ok(), fits, "{length} {now}: {verified:?}");
        }
    }
}
