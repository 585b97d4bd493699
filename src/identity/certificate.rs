//! A client certificate, parsed once: its numbers, its keys and the names in it.

use std::fmt;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::KeyUsage;
use x509_parser::extensions::ParsedExtension;
use x509_parser::objects::oid_registry;
use x509_parser::objects::oid2abbrev;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::ChainError;
use super::DnsName;
use super::Error;
use super::Serial;
use super::SpiffeId;
use super::serial::MAX_BYTES as MAX_SERIAL;
use super::serial::hex;
use super::serial::unhex;
use crate::clock::Timestamp;

/// More subject alternative names than this in one certificate are not read.
const MAX_NAMES: usize = 64;

/// What identifies a key: the SHA-256 of its SubjectPublicKeyInfo, or a subject key identifier (RFC 5280, section
/// 4.2.1.2). Lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// From the bytes themselves.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(hex(bytes))
    }

    /// Reads hexadecimal of either case, colons allowed; `None` if it is not, or is not whole bytes, or is over 64.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
        if !digits.is_multiple_of(2) {
            return None;
        }
        unhex(text, 64).map(|bytes| Self::from_bytes(&bytes))
    }

    /// The hexadecimal text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names that a certificate gives its holder: one SPIFFE ID, or DNS names, or one with the others beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The one URI name, if there is one; it names a workload, never a bare trust domain.
    pub spiffe: Option<SpiffeId>,
    /// The DNS names, canonical, in the order of the certificate.
    pub dns: Vec<DnsName>,
}

/// A parsed certificate. Nothing here says that anybody vouches for it: see [`super::Trust`].
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The serial number.
    pub serial: Serial,
    /// SHA-256 of the whole certificate.
    pub sha256: KeyId,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: KeyId,
    /// SHA-1 of its key: the contents of the BIT STRING (RFC 5280, section 4.2.1.2, method 1).
    pub key_sha1: KeyId,
    /// Its subject key identifier, if it has one.
    pub key_id: Option<KeyId>,
    /// Its authority key identifier, if it has one (RFC 5280, section 4.2.1.1): what it calls its issuer's key.
    pub authority_key_id: Option<KeyId>,
    /// The subject's distinguished name (RFC 2253).
    pub subject_dn: String,
    /// The subject alternative names, or why they cannot be read.
    pub subject: Result<Subject, Error>,
    /// The start of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// Whether its key usage lets it sign certificates or revocation lists.
    pub signs: bool,
    /// Whether its key usage, if it has one, lets it sign certificates (RFC 5280, section 4.2.1.3).
    pub issues: bool,
    /// Whether its key usage, if it has one, lets it sign revocation lists (RFC 5280, section 4.2.1.3).
    pub signs_lists: bool,
    /// Whether its key usage, if it has one, lets its holder sign a handshake (RFC 8446, section 4.4.2.2).
    pub authenticates: bool,
    /// Whether its basic constraints say that it is an authority (RFC 5280, section 4.2.1.9).
    pub is_authority: bool,
    /// Whether it constrains URI names (RFC 5280, section 4.2.1.10), which path validation here refuses altogether.
    pub constrains_uris: bool,
    /// The certificate itself, DER.
    pub der: CertificateDer<'static>,
}

impl Certificate {
    /// Parses one DER certificate.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, ChainError> {
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|e| ChainError::Malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(ChainError::Malformed(format!("{} bytes behind it", rest.len())));
        }
        // No revocation could name it: what cannot be revoked is not let in.
        let serial_length = parsed.raw_serial().len();
        if serial_length > MAX_SERIAL {
            return Err(ChainError::Malformed(format!("a serial of {serial_length} bytes")));
        }
        Ok(Self {
            serial: Serial::from_der(parsed.raw_serial()),
            sha256: sha256(der),
            key: sha256(parsed.public_key().raw),
            key_sha1: KeyId::from_bytes(
                digest::digest(
                    &digest::SHA1_FOR_LEGACY_USE_ONLY,
                    &parsed.public_key().subject_public_key.data,
                )
                .as_ref(),
            ),
            key_id: key_id(&parsed),
            authority_key_id: authority_key_id(&parsed),
            subject_dn: distinguished_name(parsed.subject()),
            subject: subject(&parsed),
            not_before: Timestamp::from_secs(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_secs(parsed.validity().not_after.timestamp()),
            signs: signs(&parsed),
            issues: may(&parsed, KeyUsage::key_cert_sign),
            signs_lists: may(&parsed, KeyUsage::crl_sign),
            authenticates: may(&parsed, KeyUsage::digital_signature),
            is_authority: parsed
                .basic_constraints()
                .is_ok_and(|found| found.is_some_and(|found| found.value.ca)),
            constrains_uris: constrains_uris(&parsed),
            der: der.clone().into_owned(),
        })
    }
}

/// How a distinguished name (DER) is written (RFC 2253), cut after 256 characters; `None` if it cannot be read.
pub fn name_text(der: &[u8]) -> Option<String> {
    let (_, name) = X509Name::from_der(der).ok()?;
    Some(distinguished_name(&name).chars().take(256).collect())
}

/// SHA-256, as a key id.
pub(super) fn sha256(bytes: &[u8]) -> KeyId {
    KeyId::from_bytes(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn key_id(parsed: &X509Certificate<'_>) -> Option<KeyId> {
    parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => key_id_of(id.0),
        _ => None,
    })
}

fn authority_key_id(parsed: &X509Certificate<'_>) -> Option<KeyId> {
    parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => {
            authority.key_identifier.as_ref().and_then(|id| key_id_of(id.0))
        }
        _ => None,
    })
}

/// A key identifier; `None` of one that no target could name.
fn key_id_of(bytes: &[u8]) -> Option<KeyId> {
    (1..=64).contains(&bytes.len()).then(|| KeyId::from_bytes(bytes))
}

fn signs(parsed: &X509Certificate<'_>) -> bool {
    match parsed.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign() || usage.value.crl_sign(),
        Ok(None) => false,
        // Given twice or unreadable: assume the worst.
        Err(_) => true,
    }
}

/// Whether the key usage allows something, or there is none.
fn may(parsed: &X509Certificate<'_>, allows: fn(&KeyUsage) -> bool) -> bool {
    // Given twice or unreadable: assume the worst.
    parsed.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| allows(usage.value)))
}

fn constrains_uris(parsed: &X509Certificate<'_>) -> bool {
    let Ok(Some(constraints)) = parsed.name_constraints() else {
        return false;
    };
    let trees = [&constraints.value.permitted_subtrees, &constraints.value.excluded_subtrees];
    trees.into_iter().flatten().flatten().any(|tree| matches!(tree.base, GeneralName::URI(_)))
}

fn subject(parsed: &X509Certificate<'_>) -> Result<Subject, Error> {
    let names = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names,
        Ok(None) => return Err(Error::Ambiguous("no subject alternative name".into())),
        Err(e) => return Err(Error::Ambiguous(format!("subject alternative names: {e}"))),
    };
    if names.len() > MAX_NAMES {
        return Err(Error::Ambiguous(format!("{} subject alternative names", names.len())));
    }
    let mut subject = Subject { spiffe: None, dns: Vec::new() };
    for name in names {
        read_name(name, &mut subject)?;
    }
    if subject.spiffe.is_none() && subject.dns.is_empty() {
        return Err(Error::Ambiguous("neither a SPIFFE ID nor a DNS name".into()));
    }
    Ok(subject)
}

fn read_name(name: &GeneralName<'_>, subject: &mut Subject) -> Result<(), Error> {
    match name {
        GeneralName::URI(uri) => {
            let id = SpiffeId::parse(uri)
                .map_err(|e| Error::Ambiguous(format!("URI name {}: {e}", shown(uri))))?;
            if !id.has_path() {
                return Err(Error::Ambiguous(format!(
                    "URI name {}: a trust domain, not a workload",
                    shown(uri)
                )));
            }
            if subject.spiffe.replace(id).is_some() {
                return Err(Error::Ambiguous("more than one URI name".into()));
            }
        }
        GeneralName::DNSName(text) => match DnsName::parse(text) {
            Some(name) => subject.dns.push(name),
            None => {
                return Err(Error::Ambiguous(format!("DNS name {}: not a host name", shown(text))));
            }
        },
        GeneralName::Invalid(tag, _) => {
            return Err(Error::Ambiguous(format!("unreadable name, tag {}", tag.0)));
        }
        // Mail and IP addresses, directory names: identities of other systems, never ours.
        _ => {}
    }
    Ok(())
}

/// A name for the log: quoted, escaped, and not as long as a certificate may make it.
fn shown(name: &str) -> String {
    format!("{:?}", name.chars().take(128).collect::<String>())
}

/// RFC 2253: most specific first; what is not printable ASCII as escaped bytes.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| {
            let attributes = rdn.iter().map(|attribute| {
                let oid = attribute.attr_type();
                let kind = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
                format!("{kind}={}", escaped(attribute.as_slice()))
            });
            attributes.collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn escaped(value: &[u8]) -> String {
    value.iter().fold(String::new(), |mut text, byte| {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'#' | b'=' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                text.push('\\');
                text.push_str(&hex(&[*byte]));
            }
        }
        text
    })
}
