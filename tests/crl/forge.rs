//! Authorities and revocation lists of every shape, good and bad, of any size.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::Ed25519KeyPair;
use aws_lc_rs::signature::RsaKeyPair;
use bytes::Bytes;
use portcullis::clock::Timestamp;
use portcullis::identity::Certificate;
use portcullis::revocation::crl::Issuers;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::SignatureAlgorithm;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::alg_id;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer as _;

/// 2026-10-14T17:46:40Z: now, wherever a list is read.
pub(crate) const NOW: i64 = 1_792_000_000;
/// What lists say by default: an hour before now, and a week after.
pub(crate) const THIS_UPDATE: &str = "261014164640Z";
pub(crate) const NEXT_UPDATE: &str = "261021174640Z";

pub(crate) fn now() -> Timestamp {
    Timestamp::from_secs(NOW)
}

/// How a list is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    RsaSha256,
    RsaSha384,
    RsaSha512,
    PssSha256,
    PssSha384,
    PssSha512,
    P256Sha256,
    P384Sha384,
    P521Sha512,
    Ed25519,
}

impl Scheme {
    pub(crate) const ALL: [Self; 10] = [
        Self::RsaSha256,
        Self::RsaSha384,
        Self::RsaSha512,
        Self::PssSha256,
        Self::PssSha384,
        Self::PssSha512,
        Self::P256Sha256,
        Self::P384Sha384,
        Self::P521Sha512,
        Self::Ed25519,
    ];

    fn key(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256Sha256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384Sha384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::P521Sha512 => &rcgen::PKCS_ECDSA_P521_SHA512,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
            _ => &rcgen::PKCS_RSA_SHA256,
        }
    }

    /// The contents of the AlgorithmIdentifier.
    pub(crate) fn id(self) -> Vec<u8> {
        let id = match self {
            Self::RsaSha256 => alg_id::RSA_PKCS1_SHA256,
            Self::RsaSha384 => alg_id::RSA_PKCS1_SHA384,
            Self::RsaSha512 => alg_id::RSA_PKCS1_SHA512,
            Self::PssSha256 => alg_id::RSA_PSS_SHA256,
            Self::PssSha384 => alg_id::RSA_PSS_SHA384,
            Self::PssSha512 => alg_id::RSA_PSS_SHA512,
            Self::P256Sha256 => alg_id::ECDSA_SHA256,
            Self::P384Sha384 => alg_id::ECDSA_SHA384,
            Self::P521Sha512 => alg_id::ECDSA_SHA512,
            Self::Ed25519 => alg_id::ED25519,
        };
        id.as_ref().to_vec()
    }

    fn sign(self, pkcs8: &[u8], message: &[u8]) -> Vec<u8> {
        match self {
            Self::RsaSha256 => rsa(pkcs8, &signature::RSA_PKCS1_SHA256, message),
            Self::RsaSha384 => rsa(pkcs8, &signature::RSA_PKCS1_SHA384, message),
            Self::RsaSha512 => rsa(pkcs8, &signature::RSA_PKCS1_SHA512, message),
            Self::PssSha256 => rsa(pkcs8, &signature::RSA_PSS_SHA256, message),
            Self::PssSha384 => rsa(pkcs8, &signature::RSA_PSS_SHA384, message),
            Self::PssSha512 => rsa(pkcs8, &signature::RSA_PSS_SHA512, message),
            Self::P256Sha256 => ecdsa(pkcs8, &signature::ECDSA_P256_SHA256_ASN1_SIGNING, message),
            Self::P384Sha384 => ecdsa(pkcs8, &signature::ECDSA_P384_SHA384_ASN1_SIGNING, message),
            Self::P521Sha512 => ecdsa(pkcs8, &signature::ECDSA_P521_SHA512_ASN1_SIGNING, message),
            Self::Ed25519 => Ed25519KeyPair::from_pkcs8(pkcs8).unwrap().sign(message).as_ref().to_vec(),
        }
    }
}

fn rsa(pkcs8: &[u8], encoding: &'static dyn signature::RsaEncoding, message: &[u8]) -> Vec<u8> {
    let key = RsaKeyPair::from_pkcs8(pkcs8).unwrap();
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

fn ecdsa(pkcs8: &[u8], algorithm: &'static signature::EcdsaSigningAlgorithm, message: &[u8]) -> Vec<u8> {
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).unwrap();
    key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
}

/// An authority.
pub(crate) struct Ca {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) scheme: Scheme,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// A root on P-256 that may sign certificates and lists. Two of one name have different keys.
    pub(crate) fn root(name: &str) -> Self {
        Self::of(params(name), Scheme::P256Sha256)
    }

    pub(crate) fn of(params: CertificateParams, scheme: Scheme) -> Self {
        let key = KeyPair::generate_for(scheme.key()).unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { der, scheme, issuer: Issuer::new(params, key) }
    }

    /// An authority below this one.
    pub(crate) fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate_for(Scheme::P256Sha256.key()).unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { der, scheme: Scheme::P256Sha256, issuer: Issuer::new(params, key) }
    }

    /// Another certificate for the key of `ca`, by this one.
    pub(crate) fn crosses(&self, ca: &Self, params: &CertificateParams) -> CertificateDer<'static> {
        params.signed_by(ca.issuer.key(), &self.issuer).unwrap().der().clone()
    }

    /// The subject, DER.
    pub(crate) fn name(&self) -> Vec<u8> {
        self.parsed(|parsed| parsed.subject().as_raw().to_vec())
    }

    pub(crate) fn key_id(&self) -> Vec<u8> {
        let id = Certificate::parse(&self.der).unwrap().key_id.unwrap();
        let digits = id.as_str().as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn parsed<T>(&self, read: impl Fn(&x509_parser::certificate::X509Certificate<'_>) -> T) -> T {
        read(&x509_parser::certificate::X509Certificate::from_der(&self.der).unwrap().1)
    }

    pub(crate) fn issuers(&self) -> Issuers {
        let mut issuers = Issuers::new();
        issuers.add_anchor(&self.der).unwrap();
        issuers
    }
}

/// An authority's parameters: it may sign certificates and lists, and is valid now.
pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::from_unix_timestamp(NOW - 86_400).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp(NOW + 86_400).unwrap();
    params
}

/// A list in the making: version 2 with a number and the key identifier of its signer, unless changed.
#[derive(Clone, Debug)]
pub(crate) struct Forge {
    pub(crate) version: Vec<u8>,
    pub(crate) algorithm: Option<Vec<u8>>,
    pub(crate) outer_algorithm: Option<Vec<u8>>,
    pub(crate) issuer: Option<Vec<u8>>,
    pub(crate) times: Vec<Vec<u8>>,
    /// The entries, one behind the other; `None` leaves the field out.
    pub(crate) entries: Option<Vec<u8>>,
    /// The extensions; `None` leaves the field out.
    pub(crate) extensions: Option<Vec<Vec<u8>>>,
    pub(crate) key_id: Option<Vec<u8>>,
}

impl Forge {
    pub(crate) fn new() -> Self {
        Self {
            version: int(&[1]),
            algorithm: None,
            outer_algorithm: None,
            issuer: None,
            times: vec![tlv(0x17, THIS_UPDATE.as_bytes()), tlv(0x17, NEXT_UPDATE.as_bytes())],
            entries: None,
            extensions: Some(Vec::new()),
            key_id: None,
        }
    }

    /// With this number.
    pub(crate) fn number(number: u32) -> Self {
        Self::new().with(extension(CRL_NUMBER, false, &int(&number_bytes(number))))
    }

    /// A delta with this number on that base.
    pub(crate) fn delta(number: u32, base: u32) -> Self {
        Self::number(number).with(extension(DELTA, true, &int(&number_bytes(base))))
    }

    pub(crate) fn with(mut self, extension: Vec<u8>) -> Self {
        self.extensions.get_or_insert_default().push(extension);
        self
    }

    pub(crate) fn entry(mut self, entry: &[u8]) -> Self {
        self.entries.get_or_insert_default().extend_from_slice(entry);
        self
    }

    pub(crate) fn revokes(self, serial: u32) -> Self {
        self.entry(&entry(&number_bytes(serial), None))
    }

    pub(crate) fn revokes_for(self, serial: u32, reason: u8) -> Self {
        self.entry(&entry(&number_bytes(serial), Some(reason)))
    }

    pub(crate) fn this_update(mut self, time: &str) -> Self {
        self.times[0] = time_of(time);
        self
    }

    pub(crate) fn next_update(mut self, time: &str) -> Self {
        self.times.truncate(1);
        self.times.push(time_of(time));
        self
    }

    /// Version 1: no version, no extensions.
    pub(crate) fn version_1(mut self) -> Self {
        self.version = Vec::new();
        self.extensions = None;
        self
    }

    pub(crate) fn sign(&self, ca: &Ca) -> Bytes {
        self.sign_with(ca, ca.scheme)
    }

    pub(crate) fn sign_with(&self, ca: &Ca, scheme: Scheme) -> Bytes {
        let tbs = self.tbs(ca, scheme);
        let outer =
            self.outer_algorithm.clone().or_else(|| self.algorithm.clone()).unwrap_or_else(|| scheme.id());
        let signature = scheme.sign(&ca.issuer.key().serialize_der(), &tbs);
        let body = [tbs, tlv(0x30, &outer), tlv(0x03, &[&[0][..], &signature].concat())].concat();
        Bytes::from(tlv(0x30, &body))
    }

    /// What is signed.
    pub(crate) fn tbs(&self, ca: &Ca, scheme: Scheme) -> Vec<u8> {
        let algorithm = tlv(0x30, &self.algorithm.clone().unwrap_or_else(|| scheme.id()));
        let mut tbs =
            [self.version.clone(), algorithm, self.issuer.clone().unwrap_or_else(|| ca.name())].concat();
        tbs.extend(self.times.concat());
        if let Some(entries) = &self.entries {
            tbs.extend(tlv(0x30, entries));
        }
        if let Some(extensions) = &self.extensions {
            let key_id = self.key_id.clone().unwrap_or_else(|| ca.key_id());
            let key_id = extension(AUTHORITY_KEY_ID, false, &tlv(0x30, &tlv(0x80, &key_id)));
            tbs.extend(tlv(0xa0, &tlv(0x30, &[key_id, extensions.concat()].concat())));
        }
        tlv(0x30, &tbs)
    }
}

pub(crate) const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
pub(crate) const REASON: &[u8] = &[0x55, 0x1d, 0x15];
pub(crate) const INVALIDITY_DATE: &[u8] = &[0x55, 0x1d, 0x18];
pub(crate) const DELTA: &[u8] = &[0x55, 0x1d, 0x1b];
pub(crate) const IDP: &[u8] = &[0x55, 0x1d, 0x1c];
pub(crate) const CERTIFICATE_ISSUER: &[u8] = &[0x55, 0x1d, 0x1d];
pub(crate) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
/// 2.999.1: nobody knows it.
pub(crate) const UNKNOWN: &[u8] = &[0x88, 0x37, 0x01];

/// One value of DER.
pub(crate) fn tlv(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let header = match body.len() {
        0..=0x7f => vec![tag, length[3]],
        0x80..=0xff => vec![tag, 0x81, length[3]],
        0x100..=0xffff => vec![tag, 0x82, length[2], length[3]],
        0x1_0000..=0xff_ffff => vec![tag, 0x83, length[1], length[2], length[3]],
        _ => vec![tag, 0x84, length[0], length[1], length[2], length[3]],
    };
    [&header, body].concat()
}

/// An INTEGER with these contents.
pub(crate) fn int(contents: &[u8]) -> Vec<u8> {
    tlv(0x02, contents)
}

/// A number as the contents of an INTEGER, shortest form.
pub(crate) fn number_bytes(number: u32) -> Vec<u8> {
    let bytes = [&[0][..], &number.to_be_bytes()].concat();
    let needed = |i: &usize| bytes[*i] != 0 || *i == 4 || bytes[*i + 1] & 0x80 != 0;
    bytes[(0..5).find(needed).unwrap()..].to_vec()
}

fn time_of(time: &str) -> Vec<u8> {
    tlv(if time.len() == 13 { 0x17 } else { 0x18 }, time.as_bytes())
}

pub(crate) fn extension(oid: &[u8], is_critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if is_critical { vec![1, 1, 0xff] } else { Vec::new() };
    tlv(0x30, &[tlv(0x06, oid), critical, tlv(0x04, value)].concat())
}

/// An entry with a serial of these contents.
pub(crate) fn entry(serial: &[u8], reason: Option<u8>) -> Vec<u8> {
    let extensions: Vec<_> =
        reason.map(|code| extension(REASON, false, &[0x0a, 1, code])).into_iter().collect();
    entry_with(serial, &extensions)
}

pub(crate) fn entry_with(serial: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = if extensions.is_empty() { Vec::new() } else { tlv(0x30, &extensions.concat()) };
    tlv(0x30, &[int(serial), tlv(0x17, b"261001120000Z"), extensions].concat())
}

/// A full list that revokes this many certificates, with serials of 16 bytes that have no order, a reason on every
/// fourth, like those that large authorities publish.
pub(crate) fn large(ca: &Ca, count: u64) -> Bytes {
    let plain = entry(&serial_of(0), None);
    let with_reason = entry(&serial_of(0), Some(1));
    let mut forge = Forge::number(1);
    let mut entries = Vec::with_capacity(usize::try_from(count).unwrap() * plain.len() * 5 / 4);
    for index in 0..count {
        let start = entries.len() + 4;
        entries.extend_from_slice(if index % 4 == 0 { &with_reason } else { &plain });
        entries[start..start + 16].copy_from_slice(&serial_of(index));
    }
    forge.entries = Some(entries);
    forge.sign(ca)
}

/// The serial of entry `index` of [`large`].
pub(crate) fn serial_of(index: u64) -> [u8; 16] {
    // splitmix64: each index has a number of its own.
    let mix = |seed: u64| {
        let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut serial = [0; 16];
    serial[..8].copy_from_slice(&mix(index).to_be_bytes());
    serial[8..].copy_from_slice(&mix(!index).to_be_bytes());
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}
