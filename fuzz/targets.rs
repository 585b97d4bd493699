//! What must hold for any bytes at all: one function for each fuzz target, shared with `tests/fuzz_corpus.rs`.
//!
//! **Invariant:** whatever these parsers accept has one spelling, and can be named by a revocation; what the journal accepts
//! is all that was written.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderName;
use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::feed::message::Origin;
use portcullis::feed::message::Reader;
use portcullis::identity::Binding;
use portcullis::identity::Certificate;
use portcullis::identity::Claim;
use portcullis::identity::ClaimScope;
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
use portcullis::proxy::ClaimHeaders;
use portcullis::proxy::FrameHead;
use portcullis::proxy::FrameReader;
use portcullis::proxy::Section;
use portcullis::proxy::may_pass;
use portcullis::revocation::Action;
use portcullis::revocation::Engine;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Registers;
use portcullis::revocation::Target;
use portcullis::revocation::crl::Issuers;
use portcullis::revocation::crl::Kind;
use portcullis::revocation::crl::Limits;
use portcullis::revocation::crl::Lists;
use portcullis::revocation::crl::Verified;
use portcullis::revocation::token_list::Keys;
use portcullis::revocation::token_list::TokenList;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::SigningKey as _;
use redb::Database;
use redb::StorageBackend;
use redb::TableDefinition;
use rustls::pki_types::CertificateDer;

const PREFIX: &str = "/api/v1/agents/";
/// What signs these bytes where a message's signature has to hold.
const SECRET: &[u8] = b"a secret of 32 bytes for fuzzing";

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

/// The name of a header or trailer: none that is the variable of the gate's own, of a claim or of the framing passes.
pub(crate) fn header_name(bytes: &[u8]) {
    let Ok(name) = HeaderName::from_bytes(bytes) else {
        return;
    };
    let all = CLAIMED.map(HeaderName::from_static);
    let claims = ClaimHeaders { own: Some(&all[0]), all: &all };
    let passes = |section| may_pass(&name, section, claims);
    let is_guarded = |known: &[&str]| known.iter().any(|known| is_one_variable(name.as_str(), known));
    let is_family = FAMILIES.iter().any(|family| is_below(name.as_str(), family));
    let is_own = name == all[0];
    let is_never = is_family || is_guarded(&OWN) || is_guarded(&HOP);
    let is_framing = is_guarded(&FRAMING) && !FRAMING.contains(&name.as_str());
    if is_never || is_framing || (is_guarded(&CLAIMED) && !is_own) {
        assert!(!passes(Section::Header), "{name}");
    }
    if is_never || is_guarded(&CLAIMED) || is_guarded(&FRAMING) {
        assert!(!passes(Section::Trailer), "{name}");
    }
    assert!(!is_own || passes(Section::Header));
    // What has nothing to do with any of them passes.
    let starts = |known: &&str| known.bytes().next() == name.as_str().bytes().next();
    let known = || OWN.iter().chain(&CLAIMED).chain(&FRAMING).chain(&HOP).chain(&FAMILIES);
    assert!(known().any(starts) || passes(Section::Header) && passes(Section::Trailer), "{name}");
}

/// Headers in which some route expects a claim; the gate has bound the first.
const CLAIMED: [&str; 2] = ["x-agent-id", "agent"];
/// Headers that the gate sets, and those by which upstreams learn the same from other proxies.
const OWN: [&str; 10] = [
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "proxy",
    "remote-user",
    "ssl-cert",
    "x-forwarded-client-cert",
    "x-portcullis-principal",
    "x-real-ip",
    "x-request-id",
];
/// Headers that frame a request: in a header each is the gate's to read, in its own spelling.
const FRAMING: [&str; 6] = ["content-length", "content-type", "expect", "host", "te", "trailer"];
/// Headers of one hop: none of them passes in any spelling.
const HOP: [&str; 6] =
    ["connection", "keep-alive", "proxy-authorization", "proxy-connection", "transfer-encoding", "upgrade"];
/// Families of headers that the gate speaks for.
const FAMILIES: [&str; 4] = ["x-forwarded-", "x-portcullis-", "x-ssl-client", "ssl-client"];

/// The variables that common servers and languages make of a header's name.
fn variables(name: &str) -> [String; 5] {
    let each = |fold: fn(char) -> char| name.chars().map(fold).collect::<String>();
    let cgi = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    [
        // CGI (RFC 3875, section 4.1.18), as Apache and lighttpd make it, for PHP-FPM too.
        format!("HTTP_{}", each(cgi)),
        // WSGI (PEP 3333) and Rack: dashes alone.
        format!("HTTP_{}", each(|c| if c == '-' { '_' } else { c.to_ascii_uppercase() })),
        // nginx's $http_name, and its FastCGI.
        format!("http_{}", each(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() })),
        // PHP's own names of variables: dots and spaces are underscores as well.
        format!("php_{}", each(|c| if "-. ".contains(c) { '_' } else { c.to_ascii_uppercase() })),
        // Servers that keep names as they are, in any case.
        format!("as-is {}", each(|c| c.to_ascii_lowercase())),
    ]
}

fn is_one_variable(name: &str, known: &str) -> bool {
    variables(name).iter().zip(variables(known)).any(|(one, other)| *one == other)
}

fn is_below(name: &str, family: &str) -> bool {
    variables(name).iter().zip(variables(family)).any(|(name, family)| name.starts_with(&family))
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

/// A registry's keys; a signed list of tokens; and the claims of one, which are signed here.
pub(crate) fn token_list(bytes: &[u8]) {
    const ISSUER: &str = "https://registry.lab.test";
    let now = Timestamp::from_secs(1_792_000_000);
    let (keys, pair) = registry();
    let read = |json: &[u8]| match TokenList::read(json, keys, ISSUER, now) {
        Ok(list) => Some(list),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains(char::is_control) && text.len() < 2048, "{text:?}");
            None
        }
    };
    let _ = Keys::read(bytes);
    read(bytes);
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"CRL","kid":"k"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(bytes));
    let Ok(signature) = pair.sign(signed.as_bytes()) else {
        return;
    };
    let jws = format!(r#"{{"crl":"{signed}.{}"}}"#, URL_SAFE_NO_PAD.encode(signature));
    let Some(list) = read(jws.as_bytes()) else {
        return;
    };
    for entry in &list.entries {
        assert_eq!(revocable(Level::Token, entry.target.name()), entry.target.name());
    }
    assert!(list.issued_at <= now && list.issued_at <= list.expires_at && list.issuer == ISSUER);
}

/// A registry with one key.
fn registry() -> &'static (Keys, KeyPair) {
    static REGISTRY: OnceLock<(Keys, KeyPair)> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap_or_else(|e| panic!("{e}"));
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        let key = format!(r#"{{"kid":"k","alg":"EdDSA","crv":"Ed25519","x":"{x}","status":"active"}}"#);
        let keys = Keys::read(format!(r#"{{"keys":[{key}]}}"#).as_bytes());
        (keys.unwrap_or_else(|e| panic!("{e}")), pair)
    })
}

/// A queue's message: as it came, and as if one of our keys had signed these very bytes.
pub(crate) fn message(bytes: &[u8]) {
    let Ok(body) = std::str::from_utf8(bytes) else {
        return;
    };
    let origin = Origin { message_id: "m-1", sent: Timestamp::from_secs(1_792_000_000) };
    let [plain, strict, signed] = readers();
    for reader in [plain, strict, signed] {
        understood(reader, body, &origin);
    }
    assert!(strict.read(body, &origin).events.is_empty(), "it acts without a signature");
    assert!(plain.wants(body).is_none());
    if let Some(url) = strict.wants(body) {
        assert!(url.starts_with("https://sns.") && url.ends_with(".pem"), "{url:?}");
    }
    understood(signed, &signed_by_us(bytes), &origin);
}

/// Reads a message, twice alike; each event of it can be written and read again as the same.
fn understood(reader: &Reader, body: &str, origin: &Origin<'_>) {
    let (message, again) = (reader.read(body, origin), reader.read(body, origin));
    assert_eq!(message.events, again.events);
    assert_eq!((&message.poison, &message.irrelevant), (&again.poison, &again.irrelevant));
    for poison in &message.poison {
        let text = poison.to_string();
        assert!(!text.contains(char::is_control) && text.len() < 300, "{text:?}");
    }
    for event in &message.events {
        let mut written = serde_json::to_value(event).unwrap_or_else(|error| panic!("{error}"));
        written["version"] = 1.into();
        // A message cannot say of itself that nobody signed it.
        written.as_object_mut().map(|members| members.remove("unsigned"));
        let [plain, _, signed] = readers();
        let read = match event.unsigned {
            true => plain.read(&written.to_string(), origin),
            false => signed.read(&signed_by_us(written.to_string().as_bytes()), origin),
        };
        assert_eq!(read.events.as_slice(), std::slice::from_ref(event), "{:?}", read.poison);
    }
}

fn signed_by_us(payload: &[u8]) -> String {
    let header = br#"{"alg":"HS256","kid":"fuzz","typ":"portcullis+jws"}"#;
    let text = [&header[..], payload].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// One that takes what it gets, one that asks for SNS's signature, one that asks for ours.
fn readers() -> &'static [Reader; 3] {
    static READERS: OnceLock<[Reader; 3]> = OnceLock::new();
    READERS.get_or_init(|| {
        let file = std::env::temp_dir().join(format!("portcullis-fuzz-{}", std::process::id()));
        std::fs::write(&file, SECRET).unwrap_or_else(|error| panic!("{error}"));
        let reader = |more: &str| {
            let config = format!("queue_url = \"https://localhost/q\"\n{more}");
            let config: portcullis::feed::sqs::Config =
                toml::from_str(&config).unwrap_or_else(|e| panic!("{e}"));
            Reader::new(&config).unwrap_or_else(|error| panic!("{error}"))
        };
        let keys = format!("require_signed = true\nkeys = {{ fuzz = {file:?} }}");
        let topics = "sns = { verify = true, topics = [\"arn:aws:sns:eu-west-1:123456789012:t\"] }";
        let readers = [reader(""), reader(topics), reader(&keys)];
        let _ = std::fs::remove_file(&file);
        readers
    })
}

/// The journal's file. The first byte says what the others are: a whole file, damage to a good one (three bytes each:
/// where, in 1/65536 of it, and what to flip), or the value of a row in one that is good otherwise.
pub(crate) fn journal(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let good = good_journal();
    match kind % 3 {
        0 => {
            reopened(rest.to_vec());
        }
        1 => {
            let mut damaged = good.bytes.clone();
            for change in rest.chunks_exact(3) {
                let at = (usize::from(u16::from_le_bytes([change[0], change[1]])) * damaged.len()) >> 16;
                damaged[at] ^= change[2];
            }
            if let Some(known) = reopened(damaged) {
                assert!(known == good.known, "half of it was read");
            }
        }
        _ => {
            let shared = SharedBytes::of(good.bytes.clone());
            let rows = TableDefinition::<&str, &[u8]>::new("targets");
            let database =
                Database::builder().create_with_backend(shared.clone()).unwrap_or_else(|e| panic!("{e}"));
            let transaction = database.begin_write().unwrap_or_else(|e| panic!("{e}"));
            let key = "principal\0\0agent-3";
            let mut table = transaction.open_table(rows).unwrap_or_else(|e| panic!("{e}"));
            table.insert(key, rest).unwrap_or_else(|e| panic!("{e}"));
            drop(table);
            transaction.commit().unwrap_or_else(|e| panic!("{e}"));
            drop(database);
            if let Some(known) = reopened(shared.take()) {
                assert!(known == good.known, "a row that nobody wrote was read");
            }
        }
    }
}

type KnownTargets = BTreeMap<Target, Registers>;

struct GoodJournal {
    bytes: Vec<u8>,
    known: KnownTargets,
}

/// What an engine makes of a journal's bytes, once and after it was closed; `None` if it refuses them.
fn reopened(bytes: Vec<u8>) -> Option<KnownTargets> {
    if bytes.is_empty() {
        return None;
    }
    let shared = SharedBytes::of(bytes);
    let known = known_to(&journal_on(&shared)?);
    let again = journal_on(&shared).map(|engine| known_to(&engine));
    assert!(again.as_ref() == Some(&known), "it changes from one start to the next");
    Some(known)
}

fn journal_on(shared: &SharedBytes) -> Option<Engine> {
    let (config, clock) =
        (portcullis::revocation::Config::default(), Clock::manual(Timestamp::from_secs(1_792_000_000)));
    let storage = shared.clone();
    match Engine::on_storage(move || Ok(storage.clone()), &config, clock) {
        Ok(engine) => Some(engine),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains(char::is_control) && text.len() < 2048, "{text:?}");
            None
        }
    }
}

fn known_to(engine: &Engine) -> KnownTargets {
    engine.select(|target, registers| Some((target.clone(), registers.clone()))).into_iter().collect()
}

fn good_journal() -> &'static GoodJournal {
    static GOOD: OnceLock<GoodJournal> = OnceLock::new();
    GOOD.get_or_init(|| {
        let shared = SharedBytes::default();
        let engine = journal_on(&shared).unwrap_or_else(|| panic!("a new journal"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
        for count in 0..12_u8 {
            let target = Target::parse(Level::Principal, &format!("agent-{count}"), None);
            let target = target.unwrap_or_else(|error| panic!("{error}"));
            let action = if count % 3 == 0 { Action::Suspend } else { Action::Revoke };
            let event = Event::new(action, target, Timestamp::from_secs(1_791_999_000 + i64::from(count)));
            let event = Event { id: count.to_string(), reason: Some("leaked".into()), ..event };
            let _ = runtime.block_on(engine.apply(event)).unwrap_or_else(|error| panic!("{error}"));
        }
        let known = known_to(&engine);
        drop(engine);
        GoodJournal { bytes: shared.take(), known }
    })
}

/// A file in memory that outlives who has it open.
#[derive(Clone, Debug, Default)]
struct SharedBytes(Arc<Mutex<Vec<u8>>>);

impl SharedBytes {
    fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.bytes())
    }
}

impl StorageBackend for SharedBytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)?.get(..out.len()));
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // What is damaged may ask for anything.
        if len > 1 << 28 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let to =
            usize::try_from(offset).ok().and_then(|offset| bytes.get_mut(offset..)?.get_mut(..data.len()));
        to.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
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
        claim: ClaimSource::Header { name: HeaderName::from_static("x-agent-id"), optional: false },
        claim_scope: ClaimScope::default(),
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

/// HTTP/2 frames: the reader finds the frames that there are (RFC 9113, section 4.1), however the bytes are cut. The first
/// 16 bytes say how.
pub(crate) fn frames(bytes: &[u8]) {
    let Some((cuts, bytes)) = bytes.split_at_checked(16) else { return };
    let (mut expected, mut rest) = (Vec::new(), bytes);
    while let Some((&[a, b, c, kind, flags, s, t, u, v], payload)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
        expected.push(FrameHead { length, kind, flags, stream });
        rest = payload.get(usize::try_from(length).unwrap()..).unwrap_or_default();
    }
    let (mut found, mut rest, mut reader) = (Vec::new(), bytes, FrameReader::default());
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut piece, after) = rest.split_at(usize::from(*cut).clamp(1, rest.len()));
        found.extend(std::iter::from_fn(|| reader.next(&mut piece)));
        assert!(piece.is_empty());
        rest = after;
    }
    assert_eq!(found, expected);
}

/// The canonical name under which a revocation hits `name`.
fn revocable(level: Level, name: &str) -> String {
    match Target::parse(level, name, None) {
        Ok(target) => target.name().to_owned(),
        Err(error) => panic!("cannot be revoked: {error}"),
    }
}
