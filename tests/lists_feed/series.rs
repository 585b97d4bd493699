//! Which list a feed is for: whoever answers for its URL may choose among all that are public, and only its own
//! counts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use portcullis::clock::Clock;

use crate::forge;
use crate::forge::Ca;
use crate::forge::Forge;
use crate::forge::IDP;
use crate::forge::extension;
use crate::forge::params;
use crate::forge::tlv;
use crate::news::kept;
use crate::news::part;
use crate::server::Reply;
use crate::server::Server;
use crate::site::Site;
use crate::site::crl;

const PATH: &str = "/a";

/// A list of the certificates of authorities.
fn of_authorities(number: u32) -> Forge {
    Forge::number(number).with(extension(IDP, true, &tlv(0x30, &tlv(0x82, &[0xff]))))
}

fn tagged(tag: &'static str, list: &Bytes) -> Reply {
    Reply::Tagged(tag, list.to_vec())
}

/// Seen failing where any list that is genuine counted.
#[test]
fn another_list_at_its_url_does_not_make_a_feed_fresh() {
    let (a, b) = (Ca::root("A"), Ca::root("B"));
    let (server, state) = (Server::start(), tempfile::tempdir().unwrap());
    let config = crl(&server.url(PATH), "");
    server.says(PATH, tagged("\"1\"", &Forge::number(1).revokes(1).sign(&a)));
    let mut site = Site::start(&config, &[&a, &b], state.path());
    let _ = site.look("crl").unwrap();
    let own = "not the full list of CN=A for all certificates that this feed is for";
    let others = [
        (Forge::number(1).revokes(2).sign(&b), "the full list of CN=B for all certificates"),
        (of_authorities(1).sign(&a), "the full list of CN=A for certificates of authorities"),
        (part(1, "http://pki.test/1").sign(&a), "all certificates of http://pki.test/1"),
        (Forge::delta(3, 2).revokes(3).sign(&a), "the delta of CN=A for all certificates"),
    ];
    for turn in 0..2 {
        site.clock.advance(Duration::from_secs(600));
        let (read, polls) = (site.status("crl").age_seconds, site.polls("crl", "ok"));
        for (other, words) in &others {
            // The same tag every time: what is known by it is the feed's own list, or nothing.
            server.says(PATH, tagged("\"x\"", other));
            for _ in 0..2 {
                let why = site.look("crl").unwrap_err();
                assert!(why.contains(words) && why.contains(own) && why.contains("lists/crl.json"), "{why}");
                assert!(!server.asked(PATH).unwrap().contains("\"x\""), "{words}");
                let status = site.status("crl");
                assert_eq!((status.age_seconds, status.last_error), (read, Some(why)));
            }
        }
        assert_eq!(site.polls("crl", "ok"), polls);
        // They are genuine, and count for what they say.
        assert!(site.denies(&a, 1) && site.denies(&b, 2) && site.denies(&a, 3));
        assert_eq!((site.engine.lists().len(), kept(state.path())), (5, 5));
        if turn == 0 {
            // Nor after a start.
            let clock = site.clock.clone();
            drop(site);
            site = Site::restored(&config, &[&a, &b], state.path(), &clock);
            assert!(site.denies(&b, 2) && site.denies(&a, 3));
            site.run();
        }
    }
    site.clock.advance(Duration::from_secs(3000));
    assert_eq!(site.state("crl"), "stale");
    server.says(PATH, tagged("\"1\"", &Forge::number(1).revokes(1).sign(&a)));
    assert_eq!(site.look("crl").unwrap(), "unchanged");
    assert_eq!((site.state("crl"), site.status("crl").age_seconds), ("fresh", Some(0)));
}

/// Seen failing where a delta counted as soon as it was read.
#[test]
fn a_delta_is_read_once_its_full_list_is() {
    let (ca, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    let config = [crl(&server.url("/delta"), ""), crl(&server.url("/full"), "")].concat();
    server.says("/delta", tagged("\"d\"", &Forge::delta(4, 3).revokes(1).sign(&ca)));
    let site = Site::start(&config, &[&ca], state.path());
    // The part of another distribution point is no full list to it.
    server.says("/full", Reply::ok(&part(3, "http://pki.test/1").sign(&ca)));
    assert!(site.look("crl-2").is_ok());
    let why = site.look("crl").unwrap_err();
    assert!(why.contains("no full list of CN=A for all certificates") && site.denies(&ca, 1), "{why}");
    assert_eq!(site.state("crl"), "never");
    drop(site);
    // It is kept all the same, and nothing is learned from it.
    fs::remove_file(state.path().join("lists/crl-2.json")).unwrap();
    server.says("/full", Reply::ok(&Forge::number(3).sign(&ca)));
    let site = Site::start(&config, &[&ca], state.path());
    assert!(site.denies(&ca, 1));
    assert!(site.look("crl-2").is_ok() && site.look("crl").is_ok());
    assert_eq!((site.state("crl"), site.state("crl-2")), ("fresh", "fresh"));
    assert_eq!(site.look("crl").unwrap(), "unchanged");
    drop(site);
    let site = Site::restored(&config, &[&ca], state.path(), &Clock::manual(forge::now()));
    assert_eq!((site.state("crl"), site.state("crl-2")), ("fresh", "fresh"));
    drop(site);
    // The feed of the delta is for deltas from now on.
    let site = Site::start(&config, &[&ca], state.path());
    server.says("/delta", Reply::ok(&Forge::number(5).revokes(1).sign(&ca)));
    assert!(site.look("crl").unwrap_err().contains("not the delta of CN=A"));
}

#[test]
fn what_is_meant_is_taken() {
    let root = Ca::root("R");
    let (old, new) = (root.below(params("A")), root.below(params("A")));
    let (server, state) = (Server::start(), tempfile::tempdir().unwrap());
    let file = state.path().join("a.pem");
    fs::write(&file, crate::authorities::pem(&[&old, &new])).unwrap();
    let config = |path: &str| crl(&server.url(path), &format!("issuer = \"{}\"", file.display()));
    let look = |path: &str, list: Bytes| {
        server.says(path, Reply::ok(&list));
        let site = Site::start(&config(path), &[&root], state.path());
        site.look("crl")
    };
    assert!(look("/a", Forge::number(1).sign(&old)).is_ok());
    // An authority with a new key is the same.
    assert!(look("/a", Forge::number(2).sign(&new)).is_ok());
    assert!(look("/a", of_authorities(1).sign(&new)).is_err());
    // Another URL, and one of which nothing is known any more.
    assert!(look("/b", of_authorities(2).sign(&new)).is_ok());
    assert!(look("/b", Forge::number(3).sign(&new)).is_err());
    fs::remove_file(record(state.path())).unwrap();
    assert!(look("/b", Forge::number(4).sign(&new)).is_ok());
}

/// Seen failing where a start forgot every record of another name.
#[test]
fn a_feed_with_a_new_name_is_for_the_same_list() {
    let (a, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    let config = |name: &str| crl(&server.url(PATH), &format!("name = \"{name}\""));
    server.says(PATH, Reply::ok(&Forge::number(1).sign(&a)));
    let site = Site::start(&config("old"), &[&a], state.path());
    let _ = site.look("old").unwrap();
    drop(site);
    server.says(PATH, Reply::ok(&of_authorities(1).sign(&a)));
    for _ in 0..3 {
        let site = Site::start(&config("new"), &[&a], state.path());
        assert!(site.look("new").unwrap_err().contains("not the full list"));
    }
    // What is not needed any more goes.
    server.says(PATH, Reply::ok(&Forge::number(2).sign(&a)));
    let site = Site::start(&config("new"), &[&a], state.path());
    let _ = site.look("new").unwrap();
    drop(site);
    drop(Site::restored(&config("new"), &[&a], state.path(), &Clock::manual(forge::now())));
    let [old, new] = ["old", "new"].map(|name| state.path().join(format!("lists/{name}.json")).exists());
    assert_eq!((old, new), (false, true));
}

/// What was written before a record said which list it is of: that of the list it names.
#[test]
fn an_old_record_is_read() {
    let (a, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    let config = crl(&server.url(PATH), "");
    server.says(PATH, tagged("\"1\"", &Forge::number(1).sign(&a)));
    let site = Site::start(&config, &[&a], state.path());
    let _ = site.look("crl").unwrap();
    drop(site);
    let record = record(state.path());
    let mut old: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    assert_eq!(old["of"]["kind"], "full");
    let _ = old.as_object_mut().unwrap().remove("of");
    fs::write(&record, old.to_string()).unwrap();
    let mut site = Site::restored(&config, &[&a], state.path(), &Clock::manual(forge::now()));
    assert_eq!(site.state("crl"), "fresh");
    site.run();
    server.says(PATH, Reply::ok(&of_authorities(2).sign(&a)));
    assert!(site.look("crl").unwrap_err().contains("not the full list of CN=A for all certificates"));
}

fn record(state: &Path) -> std::path::PathBuf {
    state.join("lists/crl.json")
}
