//! A throwaway PKI: one root, a server, an administrator and some agents, as PEM files that `curl` can use as well.

use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::SanType;
use time::Duration;
use time::OffsetDateTime;

use crate::clock::Timestamp;

/// The trust domain of everything that is issued here.
pub const TRUST_DOMAIN: &str = "demo.test";

/// How long a certificate is valid: nobody finds one of these at work next year.
const VALID: Duration = Duration::days(1);
/// How long before now it becomes valid, for clients whose clock is slow.
const BACKDATED: Duration = Duration::minutes(5);

/// Why a PKI could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A certificate could not be made.
    #[error("cannot make the certificate of {0}: {1}")]
    Certificate(String, #[source] rcgen::Error),
    /// A file could not be written.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: io::Error,
    },
}

/// A certificate authority that lives in a directory, and issues into it.
pub struct Pki {
    directory: PathBuf,
    authority: Issuer<'static, KeyPair>,
    now: OffsetDateTime,
}

/// Where a certificate and its key are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate (PEM).
    pub certificate: PathBuf,
    /// Its private key (PKCS#8, PEM; for the owner's eyes only).
    pub key: PathBuf,
}

impl Pki {
    /// Makes a root authority; its certificate becomes `ca.pem`, its key is kept in memory and never written.
    pub fn create(directory: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let failed = |e| PkiError::Certificate("the authority".into(), e);
        let now = OffsetDateTime::from_unix_timestamp(now.secs()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let mut params = params("Portcullis demo root", now);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        let pki = Self { directory: directory.to_owned(), authority: Issuer::new(params, key), now };
        write(&pki.ca(), &certificate.pem(), 0o644)?;
        Ok(pki)
    }

    /// The authority's certificate (PEM).
    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Issues a certificate for a server on this machine: `localhost` and 127.0.0.1.
    pub fn server(&self) -> Result<Files, PkiError> {
        let name = "localhost".try_into();
        let name = name.map_err(|e| PkiError::Certificate("server".into(), e))?;
        let names = vec![SanType::DnsName(name), SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        self.issue("server", names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Issues a certificate for a client with the SPIFFE ID `spiffe://demo.test/{path}`.
    pub fn client(&self, name: &str, path: &str) -> Result<Files, PkiError> {
        let id = spiffe_id(path).try_into();
        let id = id.map_err(|e| PkiError::Certificate(name.to_owned(), e))?;
        self.issue(name, vec![SanType::URI(id)], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        name: &str,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Files, PkiError> {
        let failed = |e| PkiError::Certificate(name.to_owned(), e);
        let mut params = params(name, self.now);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.authority).map_err(failed)?;
        let files = Files {
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        };
        write(&files.certificate, &certificate.pem(), 0o644)?;
        write(&files.key, &key.serialize_pem(), 0o600)?;
        Ok(files)
    }
}

/// The SPIFFE ID with this path in the trust domain of the PKI.
pub fn spiffe_id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{path}")
}

fn params(name: &str, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - BACKDATED;
    params.not_after = now + VALID;
    params
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| PkiError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer as _;

    use super::*;

    fn modulo_umask(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o077
    }

    #[test]
    fn a_client_certificate_names_one_principal_for_a_day() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::from_secs(1_800_000_000);
        let pki = Pki::create(directory.path(), now).unwrap();
        let files = pki.client("alice", "agent/alice").unwrap();
        let der = CertificateDer::from_pem_file(&files.certificate).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert!(format!("{:?}", names.value).contains("spiffe://demo.test/agent/alice"));
        let validity = certificate.validity();
        assert_eq!(validity.not_before.timestamp(), 1_800_000_000 - 300);
        assert_eq!(validity.not_after.timestamp(), 1_800_000_000 + 86_400);
        assert!(!certificate.is_ca());
    }

    #[test]
    fn keys_are_for_their_owner_and_nothing_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path(), Timestamp::from_secs(1_800_000_000)).unwrap();
        let files = pki.server().unwrap();
        assert_eq!(modulo_umask(&files.key), 0);
        assert!(matches!(pki.server(), Err(PkiError::File { .. })));
        let written = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(written, 3, "the key of the authority stays in memory");
    }
}
