//! Whose list a feed takes, and what is said of a configuration that cannot be.

use std::fmt::Write as _;
use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::forge::Ca;
use crate::forge::Forge;
use crate::forge::params;
use crate::server::Reply;
use crate::server::Server;
use crate::site::Site;
use crate::site::crl;
use crate::site::refusal;

/// Their certificates, in a file.
pub(crate) fn pem(authorities: &[&Ca]) -> String {
    authorities.iter().fold(String::new(), |mut text, ca| {
        let der = STANDARD.encode(&ca.der);
        write!(text, "-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n").unwrap();
        text
    })
}

/// Seen failing where the list of any authority that is believed was taken.
#[test]
fn with_an_issuer_no_other_authority_has_a_say() {
    let (root, other) = (Ca::root("R"), Ca::root("Other"));
    let middle = root.below(params("Middle"));
    let lowest = middle.below(params("Lowest"));
    let (server, state) = (Server::start(), tempfile::tempdir().unwrap());
    let file = state.path().join("issuer.pem");
    for order in [[&lowest, &middle], [&middle, &lowest]] {
        fs::write(&file, pem(&order)).unwrap();
        let config = crl(&server.url("/a"), &format!("issuer = \"{}\"", file.display()));
        let site = Site::start(&config, &[&root, &other], state.path());
        for (ca, name) in [(&root, "CN=R"), (&middle, "CN=Middle"), (&other, "CN=Other")] {
            server.says("/a", Reply::ok(&Forge::number(1).revokes(1).sign(ca)));
            let why = site.look("crl").unwrap_err();
            assert!(why.contains(name) && why.contains("another authority is expected"), "{why}");
            assert!(!site.denies(ca, 1));
        }
        server.says("/a", Reply::ok(&Forge::number(1).revokes(1).sign(&lowest)));
        assert!(site.look("crl").is_ok() && site.denies(&lowest, 1));
    }
    // One of the client authorities; and without an issuer, any of them, and nobody below.
    fs::write(&file, pem(&[&other])).unwrap();
    let config = crl(&server.url("/b"), &format!("issuer = \"{}\"", file.display()));
    let site = Site::start(
        &[config, crl(&server.url("/a"), "")].concat(),
        &[&root, &other],
        &state.path().join("2"),
    );
    server.says("/b", Reply::ok(&Forge::number(1).revokes(1).sign(&other)));
    assert!(site.look("crl").is_ok() && site.denies(&other, 1));
    assert!(site.look("crl-2").unwrap_err().contains("no authority of this name is known"));
    server.says("/a", Reply::ok(&Forge::number(1).revokes(1).sign(&root)));
    assert!(site.look("crl-2").is_ok() && site.denies(&root, 1));
}

#[test]
fn what_cannot_be_is_refused_with_its_key() {
    let (root, stranger) = (Ca::root("R"), Ca::root("Stranger"));
    let directory = tempfile::tempdir().unwrap();
    let issuer = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        crl("http://pki.test/a.crl", &format!("issuer = \"{}\"", file.display()))
    };
    let two = [root.below(params("A")), root.below(params("B"))];
    let below = stranger.below(params("Below"));
    let url = |url: &str| crl(url, "");
    let with = |lines: &str| crl("http://pki.test/a.crl", lines);
    for (config, expected) in [
        (issuer("stranger", &pem(&[&stranger])), "crl[0].issuer: CN=Stranger: no known authority signed it"),
        (issuer("below", &pem(&[&below])), "crl[0].issuer: CN=Below: no known authority signed it"),
        (
            issuer("two", &pem(&two.each_ref())),
            "crl[0].issuer: two authorities, CN=A and CN=B: a feed is for one",
        ),
        (issuer("empty", ""), "holds no certificate (PEM)"),
        (with("issuer = \"/nowhere.pem\""), "crl[0].issuer: /nowhere.pem: "),
        (crl("https://pki.test/a.crl", "ca = \"/nowhere.pem\""), "crl[0].ca: /nowhere.pem: "),
        (with("ca = \"/web.pem\""), "crl[0].ca: only an `https:` server"),
        (with("interval = \"999ms\""), "crl[0].interval: at least 1s"),
        (with("interval = \"2h\""), "crl[0].max_age: shorter than `interval`"),
        (with("max_age = \"0s\""), "crl[0].max_age: zero"),
        (with("timeout = \"0s\""), "crl[0].timeout: zero"),
        (with("max_bytes = 63"), "crl[0].max_bytes: at least 64"),
        (with("on_stale = \"deny\""), "crl[0].on_stale: `deny` needs `required = true`"),
        (url("ldap://pki.test/a"), "neither `https:` nor `http:` nor `file:`"),
        (url("http://169.254.169.254/a"), "link-local"),
        (url("http://[fe80::1]/a"), "link-local"),
        (url("file:a.crl"), "an absolute path"),
    ] {
        let why = refusal(&config, &[&root]);
        assert!(why.contains(expected), "{why}");
    }
}

/// Seen failing where each feed knew only its own authorities: the second look undid what the first said of the old
/// key.
#[test]
fn the_same_list_speaks_for_the_same_keys_whichever_feed_brings_it() {
    let root = Ca::root("R");
    let (old, new) = (root.below(params("A")), root.below(params("A")));
    let (server, state) = (Server::start(), tempfile::tempdir().unwrap());
    let feeds = [("1", vec![&old, &new]), ("2", vec![&new])].map(|(name, authorities)| {
        let file = state.path().join(name);
        fs::write(&file, pem(&authorities)).unwrap();
        crl(&server.url("/a"), &format!("name = \"{name}\"\nissuer = \"{}\"", file.display()))
    });
    let site = Site::start(&feeds.concat(), &[&root], state.path());
    server.says("/a", Reply::ok(&Forge::number(1).revokes(1).sign(&new)));
    for name in ["1", "2", "1"] {
        let _ = site.look(name).unwrap();
        assert!(site.denies(&old, 1) && site.denies(&new, 1), "{name}");
    }
    assert_eq!(site.look("2").unwrap(), "unchanged");
}
