//! A certificate file as a way to name what is meant.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::identity::Certificate;
use crate::revocation::Level;

/// The certificates of a file (PEM), in its order; at least one.
pub(super) fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unfit = |reason: &str| format!("{}: {reason}", file.display());
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err(unfit("holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(unfit(&error.to_string())),
    }
}

/// The SHA-256 of the first certificate of a file.
pub(super) fn sha256(file: &Path) -> Result<String, String> {
    let unfit = |reason: &str| format!("{}: {reason}", file.display());
    let all = read(file)?;
    let der = all.first().ok_or_else(|| unfit("holds no certificate"))?;
    Certificate::parse(der).map(|own| own.sha256.to_string()).map_err(|error| unfit(&error.to_string()))
}

/// What the first certificate of a file is called at a level, and, if that is its serial, the key id of its issuer.
pub(super) fn target(file: &Path, level: Level) -> Result<(String, Option<String>), String> {
    let unfit = |reason: &str| format!("{}: {reason}", file.display());
    let all = read(file)?;
    let der = all.first().ok_or_else(|| unfit("holds no certificate"))?;
    let certificate = Certificate::parse(der).map_err(|error| unfit(&error.to_string()))?;
    match level {
        Level::Certificate => {
            let issuer = certificate.authority_key_id.map(|id| id.to_string());
            Ok((certificate.serial.to_string(), issuer))
        }
        Level::Key => Ok((certificate.key.to_string(), None)),
        Level::Principal => {
            let subject = certificate.subject.map_err(|error| unfit(&error.to_string()))?;
            let name = match (subject.spiffe, subject.dns.as_slice()) {
                (Some(id), _) => id.to_string(),
                (None, [one]) => one.to_string(),
                (None, _) => return Err(unfit("has several DNS names: name the principal with --target")),
            };
            Ok((name, None))
        }
        Level::Issuer if !certificate.is_authority => Err(unfit("not the certificate of an authority")),
        // Its subject key id is what this certificate calls it; the key is the same in all of its certificates.
        Level::Issuer => Ok((certificate.key.to_string(), None)),
        Level::TrustDomain => {
            let subject = certificate.subject.map_err(|error| unfit(&error.to_string()))?;
            let id = subject.spiffe.ok_or_else(|| unfit("has no SPIFFE ID, and so no trust domain"))?;
            Ok((id.trust_domain().to_owned(), None))
        }
        level => Err(format!("--certificate names no {level}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::rig::pki::Pki;

    #[test]
    fn a_certificate_is_called_by_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path(), Timestamp::from_secs(1_800_000_000)).unwrap();
        let files = pki.client("alice", "agent/alice").unwrap();
        let parsed = Certificate::parse(&read(&files.certificate).unwrap()[0]).unwrap();
        let root = Certificate::parse(&read(&pki.ca()).unwrap()[0]).unwrap();
        let named = |level| target(&files.certificate, level).unwrap();
        let issuer = root.key_id.as_ref().map(|id| id.to_string());
        assert!(issuer.is_some());
        assert_eq!(named(Level::Certificate), (parsed.serial.to_string(), issuer));
        assert_eq!(named(Level::Key), (parsed.key.to_string(), None));
        assert_eq!(named(Level::Principal), ("spiffe://demo.test/agent/alice".into(), None));
        assert_eq!(named(Level::TrustDomain), ("demo.test".into(), None));
        assert_eq!(target(&pki.ca(), Level::Issuer), Ok((root.key.to_string(), None)));
        assert_eq!(sha256(&files.certificate), Ok(parsed.sha256.to_string()));
        assert!(target(&files.certificate, Level::Issuer).is_err());
        assert!(target(&files.certificate, Level::Task).is_err());
        assert!(target(&files.key, Level::Key).unwrap_err().ends_with("holds no certificate"));
    }
}
