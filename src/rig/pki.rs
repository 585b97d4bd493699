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
use rcgen::CertificateRevocationListParams;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyIdMethod;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::RevokedCertParams;
use rcgen::SanType;
use rcgen::SerialNumber;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::PrivateKeyDer;
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

/// A certificate that is in memory only.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its serial, bytes.
    pub serial: [u8; 16],
}

/// A key that any number of certificates can be for.
pub struct SharedKey(KeyPair);

impl SharedKey {
    /// Makes one, on P-256.
    pub fn generate() -> Result<Self, PkiError> {
        KeyPair::generate().map(Self).map_err(|e| PkiError::Certificate("a key".into(), e))
    }

    /// The private key (PKCS#8).
    pub fn der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.serialize_der().into())
    }
}

/// A serial that nothing else has: random, positive and of full length.
pub fn serial() -> [u8; 16] {
    let mut serial = [0; 16];
    fastrand::fill(&mut serial);
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
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

    /// Issues a certificate for a client with the SPIFFE ID `spiffe://demo.test/{path}` and writes nothing.
    pub fn client_in_memory(&self, path: &str, key: &SharedKey) -> Result<Issued, PkiError> {
        let failed = |e| PkiError::Certificate(path.to_owned(), e);
        let id = spiffe_id(path).try_into().map_err(failed)?;
        let mut params = self.leaf(path, vec![SanType::URI(id)], ExtendedKeyUsagePurpose::ClientAuth);
        let serial = serial();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let certificate = params.signed_by(&key.0, &self.authority).map_err(failed)?;
        Ok(Issued { certificate: certificate.der().clone(), serial })
    }

    /// Signs a full revocation list of these serials, which is valid for a day from `now`.
    pub fn revocation_list(
        &self,
        number: u64,
        serials: &[[u8; 16]],
        now: Timestamp,
    ) -> Result<CertificateRevocationListDer<'static>, PkiError> {
        let failed = |e| PkiError::Certificate("the revocation list".into(), e);
        let now = OffsetDateTime::from_unix_timestamp(now.secs()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let revoked = |serial: &[u8; 16]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + VALID,
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.authority).map_err(failed)?.der().clone())
    }

    fn leaf(&self, name: &str, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
        let mut params = params(name, self.now);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        params
    }

    fn issue(
        &self,
        name: &str,
        names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Files, PkiError> {
        let failed = |e| PkiError::Certificate(name.to_owned(), e);
        let params = self.leaf(name, names, usage);
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
    fn many_certificates_can_share_a_key_and_be_on_a_list() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::from_secs(1_800_000_000);
        let pki = Pki::create(directory.path(), now).unwrap();
        let key = SharedKey::generate().unwrap();
        let issued: Vec<_> =
            ["a", "b"].iter().map(|name| pki.client_in_memory(name, &key).unwrap()).collect();
        let serials: Vec<_> = issued.iter().map(|issued| issued.serial).collect();
        for Issued { certificate, serial } in &issued {
            let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
            assert_eq!(certificate.raw_serial(), serial);
        }
        assert_ne!(serials[0], serials[1]);
        let list = pki.revocation_list(7, &serials, now).unwrap();
        let (_, list) = x509_parser::revocation_list::CertificateRevocationList::from_der(&list).unwrap();
        let listed: Vec<_> = list.iter_revoked_certificates().map(|entry| entry.raw_serial()).collect();
        assert_eq!(listed, serials);
        assert_eq!(list.crl_number(), Some(&7_u32.into()));
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
