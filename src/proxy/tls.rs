//! TLS: files → a server configuration, and the verifier that asks [`Peers`] who a client is.
//!
//! Revocation lists never go into rustls, and its verifier is not the last word: a resumed session skips it. What
//! counts is the check after every handshake and on every request.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::CertificateError;
use rustls::DigitallySignedStruct;
use rustls::DistinguishedName;
use rustls::InconsistentKeys;
use rustls::ServerConfig;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::danger::ClientCertVerified;
use rustls::server::danger::ClientCertVerifier;
use rustls::time_provider::TimeProvider;

use super::ClientCaConfig;
use super::Peers;
use super::TlsConfig;
use super::handshake::Handshake;
use super::resumption::ResumptionCache;
use crate::clock::Clock;
use crate::identity::Certificate;
use crate::identity::ChainError;
use crate::identity::Trust;

/// A file that TLS needs and cannot use.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}", file = file.display())]
pub struct TlsError {
    /// The configuration key that names the file.
    pub key: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// A configured authority, for warnings at start-up.
pub struct ClientCa {
    /// The file it came from.
    pub file: PathBuf,
    /// The authority's certificate.
    pub certificate: Certificate,
}

/// Reads the certificate authorities whose clients are accepted.
pub fn load_trust(config: &TlsConfig) -> Result<(Trust, Vec<ClientCa>), TlsError> {
    let mut trust = Trust::new();
    let mut authorities = Vec::new();
    for ca in &config.client_ca {
        let (file, scope) = match ca {
            ClientCaConfig::File(file) => (file, None),
            ClientCaConfig::Scoped(scoped) => (&scoped.file, Some(scoped.trust_domains.as_slice().into())),
        };
        for (i, der) in certificates(file, "client_ca")?.iter().enumerate() {
            let added = trust.add(der, scope.clone());
            let certificate = added.map_err(|e| of_number("client_ca", file, i, &e))?;
            authorities.push(ClientCa { file: file.clone(), certificate });
        }
    }
    if authorities.is_empty() {
        return Err(failure("client_ca", Path::new("client_ca"), &"names no file"));
    }
    Ok((trust, authorities))
}

/// Builds the configuration of one listener. Its session cache is its own: no ticket crosses from one to another.
pub fn server_config(config: &TlsConfig, peers: Arc<Peers>, clock: Clock) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&config.cert, "cert")?;
    for der in &chain {
        Certificate::parse(der).map_err(|e| failure("cert", &config.cert, &e))?;
    }
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|e| failure("key", &config.key, &pem_reason(&e)))?;
    let provider = Arc::new(provider());
    let verifier = Arc::new(Verifier { peers, provider: Arc::clone(&provider) });
    let mut tls = ServerConfig::builder_with_details(provider, Arc::new(Time(clock)))
        .with_safe_default_protocol_versions()
        .map_err(|e| failure("cert", &config.cert, &e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| unfit_key(&config.key, &config.cert, &e))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls.session_storage = Arc::new(ResumptionCache::new());
    tls.send_tls13_tickets = 1;
    Ok(tls)
}

/// A key that cannot be used with a certificate.
pub(super) fn unfit_key(key: &Path, cert: &Path, error: &rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            failure("key", key, &format_args!("not the key of the certificate in {}", cert.display()))
        }
        error => failure("key", key, error),
    }
}

pub(super) fn certificates(file: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(failure(key, file, &"holds no certificate (PEM)")),
        Ok(found) => Ok(found),
        Err(e) => Err(failure(key, file, &pem_reason(&e))),
    }
}

pub(super) fn pem_reason(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(e) => e.to_string(),
        pem::Error::NoItemsFound => "holds no private key (PEM)".into(),
        pem::Error::MissingSectionEnd { .. } => "is cut off: a PEM section has no end".into(),
        e => format!("not PEM: {e}"),
    }
}

pub(super) fn failure(key: &'static str, file: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError { key, file: file.to_owned(), reason: reason.to_string() }
}

/// A failure of one certificate of a file, by its place.
pub(super) fn of_number(
    key: &'static str,
    file: &Path,
    place: usize,
    reason: &dyn std::fmt::Display,
) -> TlsError {
    failure(key, file, &format_args!("certificate {}: {reason}", place + 1))
}

/// aws-lc with `TLS_AES_128_GCM_SHA256` first: 25 µs less a handshake than the 256-bit suite.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let first =
        |suite: &rustls::SupportedCipherSuite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(first);
    provider
}

#[derive(Debug)]
struct Time(Clock);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.0.now().secs()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
    }
}

/// Requests a client certificate; its absence is judged later, by the route.
struct Verifier {
    peers: Arc<Peers>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: a client then sends what it has, and a long list of authorities costs nothing.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let recognised = self.peers.recognise(end_entity, intermediates);
        let peer = match recognised.inspect_err(Handshake::note) {
            Ok(peer) => peer,
            // That it has the key is proved all the same; who it is, is not, and each of its requests is told so.
            Err(_) if self.peers.lets_strangers_in() => return Ok(ClientCertVerified::assertion()),
            Err(error) => {
                self.peers.refuse_stranger(end_entity, &error);
                return Err(alert(error));
            }
        };
        match self.peers.rejects(&peer) {
            true => Err(CertificateError::Revoked.into()),
            false => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn alert(error: ChainError) -> rustls::Error {
    let certificate = match error {
        ChainError::Conflict | ChainError::Malformed(_) => CertificateError::BadEncoding,
        ChainError::TooLarge(_) | ChainError::TooManyChecks(_) | ChainError::TooManyFailures => {
            CertificateError::Other(rustls::OtherError(Arc::new(error)))
        }
        ChainError::LeafSigns
        | ChainError::LeafUsage
        | ChainError::IssuerUsage
        | ChainError::PathLength(_)
        | ChainError::AnchorUsage
        | ChainError::AnchorPurpose(_) => CertificateError::InvalidPurpose,
        ChainError::NotAnAuthority | ChainError::CriticalExtension(_) | ChainError::TooMany(_) => {
            CertificateError::UnknownIssuer
        }
        ChainError::Path(webpki::Error::CertExpired { .. }) => CertificateError::Expired,
        ChainError::Path(webpki::Error::CertNotValidYet { .. }) => CertificateError::NotValidYet,
        ChainError::Path(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
        ChainError::Path(webpki::Error::InvalidSignatureForPublicKey) => CertificateError::BadSignature,
        ChainError::Path(e) => CertificateError::Other(rustls::OtherError(Arc::new(e))),
    };
    certificate.into()
}
