//! Whose certificate a drill works with.

use std::path::Path;
use std::path::PathBuf;

use http::HeaderMap;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::identity::Serial;
use crate::rig::client;
use crate::rig::client::ClientError;
use crate::rig::findings::Party;

/// Files of a certificate and its key, and the headers that its requests carry.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate, and those between it and the authority (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// What its requests carry besides, the agent id that it claims for one.
    pub headers: HeaderMap,
}

/// One who asks: a certificate that was read, and how it is shown.
#[derive(Clone)]
pub struct Visitor {
    /// Its names.
    pub party: Party,
    /// When its certificate ends, seconds since 1970.
    pub not_after: i64,
    /// How it is shown; no application protocol is named in it.
    pub tls: ClientConfig,
    /// What its requests carry besides.
    pub headers: HeaderMap,
}

impl Visitor {
    /// Reads the files. `ca` vouches for the server.
    ///
    /// # Errors
    /// [`ClientError::File`] or [`ClientError::OtherKey`], which name the file.
    pub fn read(ca: &Path, files: &Files) -> Result<Self, ClientError> {
        let tls = client::config_from_files(ca, Some((&files.certificate, &files.key)))?;
        let (party, not_after) = party(&files.certificate)?;
        Ok(Self { party, not_after, tls, headers: files.headers.clone() })
    }
}

/// Whose certificate is in a file, and when it ends.
fn party(file: &Path) -> Result<(Party, i64), ClientError> {
    let unfit = |reason: String| ClientError::File(file.display().to_string(), reason);
    let der = CertificateDer::from_pem_file(file).map_err(|e| unfit(e.to_string()))?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|e| unfit(e.to_string()))?;
    let serial = Serial::from_der(certificate.raw_serial()).to_string();
    let not_after = certificate.validity().not_after.timestamp();
    Ok((Party { name: name(&certificate).unwrap_or_default(), serial }, not_after))
}

/// The SPIFFE ID, else the first DNS name, else the common name.
fn name(certificate: &X509Certificate<'_>) -> Option<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    let uri = names.clone().find_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some((*uri).to_owned()),
        _ => None,
    });
    let dns = || {
        names.clone().find_map(|name| match name {
            GeneralName::DNSName(dns) => Some((*dns).to_owned()),
            _ => None,
        })
    };
    let common = || certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    uri.or_else(dns).or_else(|| common().map(str::to_owned))
}

/// Whether a party is one that a drill may revoke: the last segment of a SPIFFE ID, a DNS name or a common name begins so.
pub fn may_be_revoked(party: &Party, prefix: &str) -> bool {
    let own = match party.name.strip_prefix("spiffe://") {
        Some(id) => id.rsplit_once('/').map_or("", |(_, last)| last),
        None => &party.name,
    };
    !prefix.is_empty() && own.starts_with(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::rig::pki::Pki;

    #[test]
    fn a_party_is_called_by_its_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path(), Timestamp::from_secs(1_800_000_000)).unwrap();
        let read = |files: crate::rig::pki::Files| party(&files.certificate).unwrap().0;
        assert_eq!(read(pki.client("a", "agent/a").unwrap()).name, "spiffe://demo.test/agent/a");
        let server = read(pki.server().unwrap());
        assert_eq!(server.name, "localhost");
        assert!(server.serial.len() >= 8 && Serial::parse(&server.serial).is_some());
    }

    #[test]
    fn only_its_own_name_lets_it_be_revoked() {
        let called = |name: &str| Party { name: name.into(), serial: String::new() };
        for name in ["drill-a", "drill-a.lab.test", "spiffe://lab.test/agent/drill-a"] {
            assert!(may_be_revoked(&called(name), "drill-"), "{name}");
        }
        assert!(!may_be_revoked(&called(""), "") && !may_be_revoked(&called("a"), ""));
        for name in ["", "a", "a.drill-a", "spiffe://drill-a/b", "spiffe://drill-a", "spiffe://t/drill-a/b"] {
            assert!(!may_be_revoked(&called(name), "drill-"), "{name}");
        }
    }
}
