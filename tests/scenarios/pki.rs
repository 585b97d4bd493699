//! A certificate authority of a test's own: roots, intermediates, and leaves of every shape, good and bad.

use aws_lc_rs::digest;
use portcullis::clock::Clock;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertificateRevocationListParams;
use rcgen::CustomExtension;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyIdMethod;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::PublicKeyData as _;
use rcgen::RevokedCertParams;
use rcgen::SanType;
use rcgen::SerialNumber;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// The object identifier of subject alternative names.
const SAN_OID: [u64; 4] = [2, 5, 29, 17];

/// Now, by the system.
pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(Clock::system().now().secs()).unwrap()
}

/// A certificate authority, with the certificates between it and its root.
pub(crate) struct Ca {
    pub(crate) der: CertificateDer<'static>,
    /// What its leaves send beside themselves: intermediates, nearest first.
    path: Vec<CertificateDer<'static>>,
    /// Its subject key identifier, hexadecimal.
    pub(crate) key_id: String,
    /// The SHA-256 of its key, hexadecimal.
    pub(crate) key_sha256: String,
    /// Its common name.
    name: String,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// A root. Two of one name have the same subject and different keys.
    pub(crate) fn root(name: &str) -> Self {
        let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self::of(name, (params, key), &certificate, Vec::new())
    }

    /// A root with this key identifier.
    pub(crate) fn root_with_id(name: &str, key_id: &[u8]) -> Self {
        let (mut params, key) = (authority_params(name), KeyPair::generate().unwrap());
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.to_vec());
        let certificate = params.self_signed(&key).unwrap();
        Self::of(name, (params, key), &certificate, Vec::new())
    }

    /// An authority that this one vouches for, whose certificate calls it by this authority key identifier.
    pub(crate) fn intermediate_calling(&self, name: &str, id: &[u8]) -> Self {
        let (mut params, key) = (authority_params(name), KeyPair::generate().unwrap());
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 35], der(0x30, &der(0x80, id)));
        params.custom_extensions.push(extension);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = vec![certificate.der().clone()];
        Self::of(name, (params, key), &certificate, path)
    }

    /// Another certificate of this authority, on the same name and key, that `by` vouches for.
    pub(crate) fn cross_signed(&self, by: &Self, key_id: &[u8]) -> rcgen::Certificate {
        let mut params = authority_params(&self.name);
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.to_vec());
        params.signed_by(self.issuer.key(), &by.issuer).unwrap()
    }

    /// An authority that this one vouches for.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_until(name, now() + Duration::days(30))
    }

    /// The same, until the given time.
    pub(crate) fn intermediate_until(&self, name: &str, end: OffsetDateTime) -> Self {
        let (mut params, key) = (authority_params(name), KeyPair::generate().unwrap());
        params.not_after = end;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut path = vec![certificate.der().clone()];
        path.extend(self.path.iter().cloned());
        Self::of(name, (params, key), &certificate, path)
    }

    /// A leaf that signs others, though nobody made it an authority.
    pub(crate) fn leaf_that_signs(&self) -> Self {
        let leaf = self.agent_leaf("signer");
        let certificate = leaf.params.signed_by(&leaf.key, &self.issuer).unwrap();
        let path = vec![certificate.der().clone()];
        Self::of("leaf", (leaf.params, leaf.key), &certificate, path)
    }

    fn of(
        name: &str,
        (params, key): (CertificateParams, KeyPair),
        certificate: &rcgen::Certificate,
        path: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self {
            der: certificate.der().clone(),
            path,
            key_id: hex(&params.key_identifier(&key)),
            key_sha256: sha256(&key.subject_public_key_info()),
            name: name.to_owned(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its revocation list of this number, DER.
    pub(crate) fn crl(&self, number: u64, revoked: &[&Cert]) -> Vec<u8> {
        let revoked = revoked.iter().map(|cert| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&unhex(&cert.serial)),
            revocation_time: now() - Duration::minutes(1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now() - Duration::minutes(1),
            next_update: now() + Duration::days(7),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    /// PEM of its certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate of `spiffe://lab.test/agent/NAME`, which claims NAME.
    pub(crate) fn agent(&self, name: &str) -> Cert {
        self.agent_leaf(name).claim(name).issue()
    }

    fn agent_leaf(&self, name: &str) -> Leaf<'_> {
        self.leaf().uri(&format!("spiffe://lab.test/agent/{name}"))
    }

    /// A client's certificate, to be filled in.
    pub(crate) fn leaf(&self) -> Leaf<'_> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("leaf");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = now() - Duration::hours(1);
        params.not_after = now() + Duration::hours(24);
        // Sixteen bytes, positive and without a leading zero.
        let mut serial = *Uuid::new_v4().as_bytes();
        serial[0] = 0x40 | serial[0] & 0x3f;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        Leaf { ca: self, params, key: KeyPair::generate().unwrap(), claim: None }
    }

    /// A server's certificate for `localhost`, and its key, PEM.
    pub(crate) fn server(&self) -> (String, String) {
        let mut leaf = self.leaf().dns("localhost").usage(&[ExtendedKeyUsagePurpose::ServerAuth]);
        leaf.params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        let certificate = leaf.params.signed_by(&leaf.key, &self.issuer).unwrap();
        (certificate.pem(), leaf.key.serialize_pem())
    }
}

/// A client's certificate in the making.
pub(crate) struct Leaf<'a> {
    ca: &'a Ca,
    params: CertificateParams,
    key: KeyPair,
    claim: Option<String>,
}

impl Leaf<'_> {
    /// One more URI name.
    pub(crate) fn uri(mut self, uri: &str) -> Self {
        self.params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        self
    }

    /// One more DNS name.
    pub(crate) fn dns(mut self, name: &str) -> Self {
        self.params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
        self
    }

    /// Names as they are: context tag and content of each (RFC 5280, section 4.2.1.6).
    pub(crate) fn raw_names(mut self, names: &[(u8, &[u8])]) -> Self {
        let inner: Vec<u8> = names.iter().flat_map(|(tag, content)| der(0x80 | tag, content)).collect();
        let extension = CustomExtension::from_oid_content(&SAN_OID, der(0x30, &inner));
        self.params.custom_extensions.push(extension);
        self
    }

    /// What requests of this certificate claim.
    pub(crate) fn claim(mut self, claim: &str) -> Self {
        self.claim = Some(claim.to_owned());
        self
    }

    /// Extended key usages.
    pub(crate) fn usage(mut self, usages: &[ExtendedKeyUsagePurpose]) -> Self {
        self.params.extended_key_usages = usages.to_vec();
        self
    }

    /// Key usages.
    pub(crate) fn key_usage(mut self, usages: &[KeyUsagePurpose]) -> Self {
        self.params.key_usages = usages.to_vec();
        self
    }

    /// `CA:TRUE`.
    pub(crate) fn authority(mut self) -> Self {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// This authority key identifier (RFC 5280, section 4.2.1.1).
    pub(crate) fn authority_key_id(mut self, id: &[u8]) -> Self {
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 35], der(0x30, &der(0x80, id)));
        self.params.custom_extensions.push(extension);
        self
    }

    /// Valid from and until.
    pub(crate) fn valid(mut self, from: OffsetDateTime, until: OffsetDateTime) -> Self {
        (self.params.not_before, self.params.not_after) = (from, until);
        self
    }

    /// This serial number.
    pub(crate) fn serial(mut self, serial: &[u8]) -> Self {
        self.params.serial_number = Some(SerialNumber::from_slice(serial));
        self
    }

    /// On the key of another certificate.
    pub(crate) fn key_of(mut self, other: &Cert) -> Self {
        self.key = KeyPair::from_pem(&other.key_pem).unwrap();
        self
    }

    /// Signs it.
    pub(crate) fn issue(self) -> Cert {
        let certificate = self.params.signed_by(&self.key, &self.ca.issuer).unwrap();
        let serial = self.params.serial_number.as_ref().map(|serial| hex(&serial.to_bytes()));
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.ca.path.iter().cloned());
        Cert {
            chain,
            serial: serial.unwrap(),
            key_sha256: sha256(&self.key.subject_public_key_info()),
            pem: certificate.pem(),
            key_pem: self.key.serialize_pem(),
            key_der: self.key.serialize_der(),
            claim: self.claim,
        }
    }
}

/// A client's certificate with its key.
#[derive(Clone)]
pub(crate) struct Cert {
    /// The leaf, then intermediates.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Hexadecimal.
    pub(crate) serial: String,
    /// The SHA-256 of its key, hexadecimal.
    pub(crate) key_sha256: String,
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    key_der: Vec<u8>,
    /// What its requests claim.
    pub(crate) claim: Option<String>,
}

impl Cert {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key_der.clone().into())
    }

    /// The same, presented with these intermediates.
    pub(crate) fn over(mut self, path: &[&CertificateDer<'static>]) -> Self {
        self.chain.truncate(1);
        self.chain.extend(path.iter().copied().cloned());
        self
    }

    /// The same, in the hands of one who has the key of another.
    pub(crate) fn with_the_key_of(mut self, other: &Self) -> Self {
        self.key_der.clone_from(&other.key_der);
        self
    }

    /// The same, with requests that claim something else.
    pub(crate) fn claiming(mut self, claim: Option<&str>) -> Self {
        self.claim = claim.map(str::to_owned);
        self
    }
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now() - Duration::hours(2);
    params.not_after = now() + Duration::days(30);
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// One DER element of up to 65,535 × 256 bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let mut element = vec![tag];
    match content.len() {
        short @ 0..128 => element.push(u8::try_from(short).unwrap()),
        128..65536 => element.extend([0x82, length[2], length[3]]),
        _ => element.extend([0x83, length[1], length[2], length[3]]),
    }
    element.extend_from_slice(content);
    element
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}
