//! What must hold for any bytes at all: one function for each fuzz target, shared with `tests/fuzz_corpus.rs`.
//!
//! **Invariant:** whatever these parsers accept has one spelling, and can be named by a revocation.

use std::sync::OnceLock;

use bytes::Bytes;
use portcullis::clock::Timestamp;
use portcullis::identity::Binding;
use portcullis::identity::Certificate;
use portcullis::identity::Claim;
use portcullis::identity::ClaimSource;
use portcullis::identity::Config;
use portcullis::identity::DnsName;
use portcullis::identity::Identity;
use portcullis::identity::KeyId;
use portcullis::identity::PathClaim;
use portcullis::identity::Serial;
use portcullis::identity::SerialRef;
use portcullis::identity::SerialText;
use portcullis::identity::SpiffeId;
use portcullis::identity::Subject;
use portcullis::identity::Template;
use portcullis::identity::TrustDomain;
use portcullis::identity::ambiguous_path;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::revocation::crl::Issuers;
use portcullis::revocation::crl::Kind;
use portcullis::revocation::crl::Limits;
use portcullis::revocation::crl::Lists;
use portcullis::revocation::crl::Verified;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::SigningKey as _;
use rustls::pki_types::CertificateDer;

const PREFIX: &str = "/api/v1/agents/";

/// A client's certificate, as it comes off the wire.
pub(crate) fn certificate(bytes: &[u8]) {
    let Ok(parsed) = Certificate::parse(&CertificateDer::from(bytes)) else {
        return;
    };
    let serial = parsed.serial.as_str();
    assert_eq!(Serial::parse(serial).as_ref(), Some(&parsed.serial));
    assert_eq!(revocable(Level::Certificate, serial), serial);
    assert_eq!(revocable(Level::Key, parsed.key.as_str()), parsed.key.as_str());
    for id in [&parsed.key, &parsed.sha256].into_iter().chain(&parsed.key_id) {
        assert_eq!(KeyId::parse(id.as_str()).as_ref(), Some(id));
    }
    let printable = parsed.subject_dn.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    assert!(printable, "{:?}", parsed.subject_dn);
    let Ok(subject) = &parsed.subject else {
        return;
    };
    names(subject);
    let binding = binding();
    if let Ok(identity) = binding.identify(subject, None) {
        identified(&binding, subject, &identity);
    }
}

/// A SPIFFE ID, from a certificate, an event or an administrator.
pub(crate) fn spiffe_id(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(id) = SpiffeId::parse(text) else {
        return;
    };
    assert_eq!(id.as_str(), text);
    let path: String = id.segments().map(|segment| format!("/{segment}")).collect();
    assert_eq!(format!("spiffe://{}{path}", id.trust_domain()), text);
    assert_eq!(SpiffeId::parse(id.as_str()).as_ref(), Ok(&id));
    assert_eq!(id.has_path(), id.segments().next().is_some());
    assert_eq!(revocable(Level::TrustDomain, id.trust_domain()), id.trust_domain());
    assert_eq!(revocable(Level::Principal, text), text);
    assert!(text.len() <= 2048 && text.bytes().all(|byte| byte.is_ascii_graphic()));
}

/// The claim in a request's path.
pub(crate) fn path_claim(bytes: &[u8]) {
    let Ok(path) = std::str::from_utf8(bytes) else {
        return;
    };
    let claim = match PathClaim::parse(&format!("{PREFIX}{{agent}}/")) {
        Ok(claim) => claim.read(path),
        Err(error) => panic!("{error}"),
    };
    match claim {
        Claim::Value(agent) => {
            assert_eq!(ambiguous_path(path), None);
            assert!(!agent.is_empty() && !agent.contains(['/', '\\', '%', ';']), "{agent:?}");
            let rest = path.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(agent));
            assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')), "{path:?}");
        }
        Claim::Absent => {
            let claimed = path.strip_prefix(PREFIX).and_then(|rest| rest.split('/').next());
            assert!(claimed.is_none_or(str::is_empty), "{path:?} claims {claimed:?}");
        }
        Claim::Ambiguous(why) => assert!(!why.is_empty()),
    }
}

/// A revocation list: as it was fetched, and as if the authority `CN=A` (Ed25519) had signed these very bytes, because
/// nothing else gets past the signature.
pub(crate) fn crl(bytes: &[u8]) {
    let (issuers, key) = authority();
    let now = Timestamp::from_secs(1_792_000_000);
    let read = |bytes: Bytes| match Verified::read(&bytes, issuers, &Limits::default(), now) {
        Ok(verified) => Some(verified),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains(char::is_control) && text.len() < 2048, "{text:?}");
            None
        }
    };
    read(Bytes::copy_from_slice(bytes));
    let Ok(signature) = key.sign(bytes) else {
        return;
    };
    let algorithm = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
    let body = [bytes, &algorithm, &[3, 65, 0], &signature].concat();
    let length = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let skip = length.iter().take_while(|byte| **byte == 0).count();
    let header = match body.len() {
        0..=0x7f => vec![0x30, length[3]],
        _ => [&[0x30, 0x84 - skip as u8], &length[skip..]].concat(),
    };
    if let Some(verified) = read(Bytes::from([header, body].concat())) {
        entries_of(verified);
    }
}

fn authority() -> &'static (Issuers, KeyPair) {
    static AUTHORITY: OnceLock<(Issuers, KeyPair)> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let make = || {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "A");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::CrlSign];
            let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
            let certificate = params.self_signed(&key)?;
            Ok::<_, rcgen::Error>((certificate.der().clone(), key))
        };
        let (der, key) = make().unwrap_or_else(|error| panic!("{error}"));
        let mut issuers = Issuers::new();
        issuers.add_anchor(&der).unwrap_or_else(|error| panic!("{error}"));
        (issuers, key)
    })
}

fn entries_of(verified: Verified) {
    let (crl, mut lists) = (verified.crl().clone(), Lists::default());
    assert!(crl.this_update <= crl.next_update);
    assert!(lists.accept(verified.clone()).is_ok());
    assert!(lists.accept(verified).is_ok());
    let mut count = 0;
    lists.each(|_, entry| {
        let serial = Serial::from(entry.serial);
        assert_eq!(entry.serial.write(&mut SerialText::default()), serial.as_str().as_bytes());
        assert_eq!(SerialRef::from_der(entry.serial.as_bytes()), Some(entry.serial));
        assert_eq!(revocable(Level::Certificate, serial.as_str()), serial.as_str());
        assert!(!entry.is_removed());
        count += 1;
    });
    assert!(count == crl.entries || (count < crl.entries && crl.kind != Kind::Full));
}

fn binding() -> Binding {
    let template = |text: &str| Template::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    Binding::new(&Config {
        trust_domains: TrustDomain::parse("lab.test").into_iter().collect(),
        templates: vec![
            template("spiffe://{trust_domain}/agent/{agent}"),
            template("spiffe://lab.test/task/{task}/agent/{agent}"),
            template("dns:{agent}.lab.test"),
        ],
        claim: ClaimSource::Header { name: http::HeaderName::from_static("x-agent-id"), optional: false },
    })
}

fn names(subject: &Subject) {
    assert!(subject.spiffe.is_some() || !subject.dns.is_empty());
    assert!(subject.dns.len() <= 64);
    if let Some(id) = &subject.spiffe {
        assert!(id.has_path());
        spiffe_id(id.as_str().as_bytes());
    }
    for name in &subject.dns {
        assert_eq!(DnsName::parse(name.as_str()).as_ref(), Some(name));
        assert!(!name.as_str().bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'*' || byte == 0));
        assert_eq!(revocable(Level::Principal, name.as_str()), name.as_str());
    }
}

fn identified(binding: &Binding, subject: &Subject, identity: &Identity) {
    match &subject.spiffe {
        Some(id) => {
            assert_eq!(identity.principal, id.as_str());
            assert_eq!(identity.trust_domain.as_deref(), Some("lab.test"));
            assert_eq!(id.trust_domain(), "lab.test");
        }
        None => {
            assert_eq!(identity.trust_domain, None);
            assert!(subject.dns.iter().any(|name| name.as_str() == identity.principal));
        }
    }
    for name in std::iter::once(&identity.principal).chain(&identity.agent) {
        revocable(Level::Principal, name);
        assert_eq!(binding.judge(identity, Claim::Value(name)), Ok(()));
    }
    assert!(identity.task.iter().all(|task| revocable(Level::Task, task) == *task));
    assert!(binding.judge(identity, Claim::Absent).is_err());
    assert!(binding.judge(identity, Claim::Value("")).is_err());
    assert!(
        binding.judge(identity, Claim::Value("somebody-else")).is_err()
            || identity.agent.as_deref() == Some("somebody-else")
    );
}

/// The canonical name under which a revocation hits `name`.
fn revocable(level: Level, name: &str) -> String {
    match Target::parse(level, name, None) {
        Ok(target) => target.name().to_owned(),
        Err(error) => panic!("cannot be revoked: {error}"),
    }
}
