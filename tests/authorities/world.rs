//! A random PKI: roots that are renewed, cross-signed or re-keyed, intermediates with several certificates, and key
//! identifiers that are absent, usual, odd or stolen.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::OnceLock;

use aws_lc_rs::digest;
use fastrand::Rng;
use portcullis::identity::Trust;
use rcgen::CertificateParams;
use rcgen::CustomExtension;
use rcgen::DnType;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::PublicKeyData as _;
use rcgen::SanType;
use rcgen::SerialNumber;
use rustls::pki_types::CertificateDer;
use time::Duration;
use time::OffsetDateTime;

/// When every certificate here is valid.
pub(crate) const NOW: i64 = 1_800_000_000;
/// Keys that all worlds draw from.
const KEYS: usize = 12;
/// The places of keys that no party has: there are six parties and four leaves at most.
const STRANGERS: [usize; 2] = [6, 7];
/// Intermediates of a chain that are looked at.
const MOST_PRESENTED: usize = 6;
/// Lists of intermediates that are presented with one leaf, at most.
const MOST_PATHS: usize = 8;

/// A key and the names that it has by itself, hexadecimal.
pub(crate) struct Key {
    pub(crate) pair: KeyPair,
    pub(crate) sha256: String,
    pub(crate) sha1: String,
}

/// The keys of all worlds.
pub(crate) fn keys() -> &'static [Key] {
    static POOL: OnceLock<Vec<Key>> = OnceLock::new();
    POOL.get_or_init(|| (0..KEYS).map(|_| Key::generate()).collect())
}

impl Key {
    fn generate() -> Self {
        let pair = KeyPair::generate().unwrap();
        let sha256 = hex(digest::digest(&digest::SHA256, &pair.subject_public_key_info()).as_ref());
        let sha1 = hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, pair.der_bytes()).as_ref());
        Self { pair, sha256, sha1 }
    }
}

/// A name with a key.
#[derive(Clone)]
pub(crate) struct Party {
    pub(crate) name: String,
    /// The place of its key.
    pub(crate) key: usize,
}

/// A certificate of the world.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) der: CertificateDer<'static>,
    /// The place of the key that it is for, among [`keys`].
    pub(crate) key: usize,
    /// The place of the key that signed it.
    pub(crate) issuer: usize,
    /// Hexadecimal, of even length.
    pub(crate) serial: String,
    pub(crate) ski: Option<String>,
    pub(crate) aki: Option<String>,
}

/// What a certificate is to say of itself.
#[derive(Clone, Default)]
pub(crate) struct Wish {
    pub(crate) serial: u8,
    pub(crate) ski: Option<Vec<u8>>,
    pub(crate) aki: Option<Vec<u8>>,
    /// A leaf's principal; an authority where there is none.
    pub(crate) agent: Option<String>,
}

/// Issues a certificate of `subject` by `issuer`.
pub(crate) fn issue(subject: &Party, issuer: &Party, wish: &Wish) -> Issued {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject.name.clone());
    params.serial_number = Some(SerialNumber::from(u64::from(wish.serial)));
    let now = OffsetDateTime::from_unix_timestamp(NOW).unwrap();
    (params.not_before, params.not_after) = (now - Duration::hours(1), now + Duration::days(30));
    let mut extend = |oid: &[u64], content: Vec<u8>| {
        params.custom_extensions.push(CustomExtension::from_oid_content(oid, content));
    };
    if let Some(ski) = &wish.ski {
        extend(&[2, 5, 29, 14], der(0x04, ski));
    }
    if let Some(aki) = &wish.aki {
        extend(&[2, 5, 29, 35], der(0x30, &der(0x80, aki)));
    }
    if let Some(agent) = &wish.agent {
        let id = format!("spiffe://lab.test/agent/{agent}");
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
    } else {
        extend(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xff]);
    }
    let mut above = CertificateParams::default();
    above.distinguished_name = rcgen::DistinguishedName::new();
    above.distinguished_name.push(DnType::CommonName, issuer.name.clone());
    let signer = Issuer::from_params(&above, &keys()[issuer.key].pair);
    let certificate = params.signed_by(&keys()[subject.key].pair, &signer).unwrap();
    Issued {
        der: certificate.der().clone(),
        key: subject.key,
        issuer: issuer.key,
        serial: format!("{:02x}", wish.serial),
        ski: wish.ski.as_deref().map(hex),
        aki: wish.aki.as_deref().map(hex),
    }
}

/// A PKI and all that its clients could present.
pub(crate) struct World {
    pub(crate) rng: Rng,
    parties: Vec<Party>,
    /// The certificates of each party.
    certificates: Vec<Vec<(usize, Issued)>>,
    /// Parties whose self-signed certificates are configured, in the order in which they are.
    roots: Vec<usize>,
    leaves: Vec<(usize, Issued)>,
    /// How many certificates each key has signed.
    signed: [u8; KEYS],
}

impl World {
    /// The world of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        let mut world = Self {
            rng,
            parties: Vec::new(),
            certificates: Vec::new(),
            roots: Vec::new(),
            leaves: Vec::new(),
            signed: [0; KEYS],
        };
        let roots = world.rng.usize(1..=3);
        (0..roots).for_each(|i| world.root(i));
        let intermediates = world.rng.usize(1..=3);
        (0..intermediates).for_each(|i| world.intermediate(i));
        let leaves = world.rng.usize(2..=4);
        (0..leaves).for_each(|i| world.leaf(i));
        world
    }

    /// What the gate trusts.
    pub(crate) fn trust(&self) -> Trust {
        let mut trust = Trust::new();
        self.anchors().for_each(|anchor| drop(trust.add(&anchor.der, None).unwrap()));
        trust
    }

    /// Every configured certificate.
    pub(crate) fn anchors(&self) -> impl Iterator<Item = &Issued> {
        self.roots.iter().flat_map(|root| self.certificates[*root].iter()).filter_map(|(issuer, issued)| {
            let of_root =
                self.roots.iter().any(|root| root == issuer && self.parties[*root].key == issued.key);
            of_root.then_some(issued).filter(|issued| issued.issuer == issued.key)
        })
    }

    /// Every certificate.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Issued> {
        self.certificates.iter().flatten().chain(&self.leaves).map(|(_, issued)| issued)
    }

    /// The configured certificates of the authority of this one.
    pub(crate) fn renewals<'a>(&'a self, anchor: &'a Issued) -> impl Iterator<Item = &'a Issued> {
        let of = |sought: &Issued| {
            let has =
                |root: &&usize| self.certificates[**root].iter().any(|(_, issued)| issued.der == sought.der);
            self.roots.iter().find(has).copied()
        };
        let root = of(anchor);
        self.anchors().filter(move |other| of(other) == root)
    }

    /// Each leaf with each list of intermediates that may lead to an anchor, shuffled.
    pub(crate) fn presented(&mut self) -> Vec<(Issued, Vec<CertificateDer<'static>>)> {
        let mut all = Vec::new();
        for (issuer, leaf) in self.leaves.clone() {
            let mut paths = Vec::new();
            self.climb(issuer, &mut Vec::new(), &mut paths);
            self.rng.shuffle(&mut paths);
            paths.truncate(MOST_PATHS);
            for mut path in paths {
                self.rng.shuffle(&mut path);
                all.push((leaf.clone(), path));
            }
        }
        all
    }

    /// These intermediates among certificates that bear the names of this world and that nobody in it signed.
    pub(crate) fn among_look_alikes(
        &mut self,
        presented: &[CertificateDer<'static>],
    ) -> Vec<CertificateDer<'static>> {
        let mut all = presented.to_vec();
        while all.len() < MOST_PRESENTED {
            let [subject, issuer] = STRANGERS.map(|key| {
                let name = self.parties[self.rng.usize(..self.parties.len())].name.clone();
                Party { name, key }
            });
            all.push(issue(&subject, &issuer, &Wish { serial: self.rng.u8(1..), ..Wish::default() }).der);
        }
        self.rng.shuffle(&mut all);
        all
    }

    fn climb(
        &self,
        party: usize,
        below: &mut Vec<CertificateDer<'static>>,
        paths: &mut Vec<Vec<CertificateDer<'static>>>,
    ) {
        if self.roots.contains(&party) {
            paths.push(below.clone());
        }
        if below.len() >= 3 {
            return;
        }
        for (issuer, issued) in self.certificates[party].iter().filter(|(issuer, _)| *issuer != party) {
            below.push(issued.der.clone());
            self.climb(*issuer, below, paths);
            below.pop();
        }
    }

    fn root(&mut self, i: usize) {
        let name = if i > 0 && self.rng.u8(..3) == 0 { "root 0".to_owned() } else { format!("root {i}") };
        let party = self.party(name);
        for _ in 0..self.rng.usize(1..=2) {
            self.certify(party, party);
        }
        if i == 0 || self.rng.u8(..3) > 0 {
            let at = self.rng.usize(..=self.roots.len());
            self.roots.insert(at, party);
        }
        if i > 0 && self.rng.bool() {
            self.certify(party, 0);
        }
    }

    fn intermediate(&mut self, i: usize) {
        let others = self.parties.len();
        let name = if i > 0 && self.rng.u8(..3) == 0 { "below 0".to_owned() } else { format!("below {i}") };
        let party = self.party(name);
        if self.rng.u8(..5) == 0 {
            // The key of another authority, under another name.
            self.parties[party].key = self.parties[self.rng.usize(..others)].key;
        }
        for _ in 0..self.rng.usize(1..=3) {
            let issuer = self.rng.usize(..others);
            self.certify(party, issuer);
        }
    }

    fn leaf(&mut self, i: usize) {
        let issuer = self.rng.usize(..self.parties.len());
        let key = KEYS - 1 - i;
        let subject = Party { name: format!("leaf {i}"), key };
        let aki = self.aki(issuer);
        let wish = Wish { serial: self.serial(issuer), aki, agent: Some(format!("a{i}")), ..Wish::default() };
        let issued = issue(&subject, &self.parties[issuer], &wish);
        self.leaves.push((issuer, issued));
    }

    fn party(&mut self, name: String) -> usize {
        self.parties.push(Party { name, key: self.parties.len() });
        self.certificates.push(Vec::new());
        self.parties.len() - 1
    }

    fn certify(&mut self, party: usize, issuer: usize) {
        let (ski, aki) = (self.ski(party), self.aki(issuer));
        let wish = Wish { serial: self.serial(issuer), ski, aki, ..Wish::default() };
        let issued = issue(&self.parties[party], &self.parties[issuer], &wish);
        self.certificates[party].push((issuer, issued));
    }

    fn serial(&mut self, issuer: usize) -> u8 {
        let signed = &mut self.signed[self.parties[issuer].key];
        *signed += 1;
        *signed
    }

    fn ski(&mut self, party: usize) -> Option<Vec<u8>> {
        match self.rng.u8(..10) {
            0 | 1 => None,
            2..=5 => Some(unhex(&keys()[self.parties[party].key].sha1)),
            _ => Some(self.odd()),
        }
    }

    fn aki(&mut self, issuer: usize) -> Option<Vec<u8>> {
        let usual: Vec<String> =
            self.certificates[issuer].iter().filter_map(|(_, issued)| issued.ski.clone()).collect();
        match self.rng.u8(..10) {
            0 | 1 => None,
            2 => Some(unhex(&keys()[self.parties[issuer].key].sha1)),
            3..=7 => self.rng.choice(&usual).map(|ski| unhex(ski)),
            _ => Some(self.odd()),
        }
    }

    /// A key identifier that says nothing of its key, or something of another.
    fn odd(&mut self) -> Vec<u8> {
        let some = |rng: &mut Rng, length: usize| (0..length).map(|_| rng.u8(..)).collect();
        match self.rng.u8(..6) {
            0 => vec![self.rng.u8(1..4)],
            1 => some(&mut self.rng, 20),
            2 => some(&mut self.rng, 32),
            3 => some(&mut self.rng, 8),
            4 => unhex(&keys()[self.rng.usize(..self.parties.len())].sha1),
            _ => unhex(&keys()[self.rng.usize(..self.parties.len())].sha256),
        }
    }
}

/// What names lead to, as a reader of the certificates would say.
#[derive(Default)]
pub(crate) struct Names {
    known: BTreeSet<String>,
    claimed: BTreeMap<String, BTreeSet<String>>,
}

impl Names {
    /// Notes a key.
    pub(crate) fn know(&mut self, key: usize) {
        self.known.insert(keys()[key].sha256.clone());
        self.call(key, Some(&keys()[key].sha1));
    }

    /// Notes a name of a key.
    pub(crate) fn call(&mut self, key: usize, name: Option<&String>) {
        let claimed =
            |name: &String| self.claimed.entry(name.clone()).or_default().insert(keys()[key].sha256.clone());
        name.map(claimed);
    }

    /// The keys that a name leads to: a name that is computed from a key leads to that key, whatever claims it.
    pub(crate) fn keys_of(&self, name: &str) -> Vec<String> {
        let computed = keys().iter().find(|key| key.sha1 == name && self.known.contains(&key.sha256));
        match (self.known.contains(name), computed) {
            (true, _) => vec![name.to_owned()],
            (false, Some(key)) => vec![key.sha256.clone()],
            (false, None) => self.claimed.get(name).into_iter().flatten().cloned().collect(),
        }
    }

    /// All names that certificates or people may use for a key.
    pub(crate) fn of(&self, key: usize) -> Vec<String> {
        let sha256 = &keys()[key].sha256;
        let leads_there = |name: &String| self.keys_of(name).contains(sha256);
        let claimed = self.claimed.iter().filter(|(name, _)| leads_there(name));
        std::iter::once(sha256.clone()).chain(claimed.map(|(name, _)| name.clone())).collect()
    }
}

/// One DER element of up to 127 bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
