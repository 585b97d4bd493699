//! What a start finds on disk, whatever became of it.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::clock::Timestamp;

use crate::authorities::pem;
use crate::forge;
use crate::forge::Ca;
use crate::forge::Forge;
use crate::news::kept;
use crate::server::Reply;
use crate::server::Server;
use crate::site::Site;
use crate::site::crl;

fn later(seconds: u64) -> Clock {
    let clock = Clock::manual(forge::now());
    clock.advance(Duration::from_secs(seconds));
    clock
}

/// Has a feed of this configuration read what its server has.
fn read(config: &str, anchors: &[&Ca], state: &Path) {
    let site = Site::start(config, anchors, state);
    let _ = site.look("crl").unwrap();
}

/// The one kept list.
fn list(state: &Path) -> PathBuf {
    let mut files = fs::read_dir(state.join("lists")).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|end| end == "crl")).unwrap()
}

/// Seen failing where nothing was taken in before the feeds ran.
#[test]
fn what_was_refused_is_refused_without_a_network() {
    let (ca, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    let config = crl(&server.url("/a"), "");
    server.says("/a", Reply::Tagged("\"1\"", Forge::number(1).revokes(1).sign(&ca).to_vec()));
    read(&config, &[&ca], state.path());
    let mut site = Site::restored(&config, &[&ca], state.path(), &later(60));
    assert!(site.denies(&ca, 1) && !site.denies(&ca, 2));
    let status = site.status("crl");
    assert_eq!((site.state("crl"), status.age_seconds, status.entries), ("fresh", Some(60), Some(1)));
    // It remembers what to ask.
    site.run();
    assert_eq!(site.look("crl").unwrap(), "unchanged");
    assert_eq!(site.status("crl").age_seconds, Some(0));
    drop(site);
    // As old as it is.
    let site = Site::restored(&config, &[&ca], state.path(), &later(3660));
    assert_eq!((site.denies(&ca, 1), site.state("crl")), (true, "stale"));
    drop(site);
    drop(server);
    let site = Site::start(&config, &[&ca], state.path());
    assert!(site.look("crl").unwrap_err().contains("cannot connect"));
    assert!(site.denies(&ca, 1));
}

/// Seen failing where the server was asked with the tag of a list that is not in force: it said 304, and nothing was;
/// and where a feed tried only the list that its record names.
#[test]
fn what_is_damaged_is_left_out_and_fetched_again() {
    let (ca, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    let config = crl(&server.url("/a"), "");
    server.says("/a", Reply::Tagged("\"1\"", Forge::number(1).revokes(1).sign(&ca).to_vec()));
    let damages: [fn(Vec<u8>) -> Vec<u8>; 5] = [
        |mut bytes| {
            *bytes.last_mut().unwrap() ^= 1;
            bytes
        },
        |bytes| bytes[..bytes.len() / 2].to_vec(),
        |_| Vec::new(),
        |_| b"<html>".to_vec(),
        |bytes| [bytes.clone(), bytes].concat(),
    ];
    for damage in damages {
        read(&config, &[&ca], state.path());
        let file = list(state.path());
        fs::write(&file, damage(fs::read(&file).unwrap())).unwrap();
        let mut site = Site::restored(&config, &[&ca], state.path(), &later(1));
        assert_eq!((site.denies(&ca, 1), site.state("crl")), (false, "never"));
        site.run();
        assert!(site.look("crl").is_ok() && site.denies(&ca, 1));
        drop(site);
        // And is good again.
        assert!(Site::restored(&config, &[&ca], state.path(), &later(2)).denies(&ca, 1));
    }
    // Without its record it counts; nothing is known of how old it is.
    fs::write(state.path().join("lists/crl.json"), "{").unwrap();
    let mut site = Site::restored(&config, &[&ca], state.path(), &later(3));
    assert_eq!((site.denies(&ca, 1), site.state("crl")), (true, "never"));
    site.run();
    let _ = site.look("crl").unwrap();
    assert_eq!(site.state("crl"), "fresh");
    drop(site);
    fs::remove_file(list(state.path())).unwrap();
    assert_eq!(Site::restored(&config, &[&ca], state.path(), &later(4)).state("crl"), "never");
}

#[test]
fn only_who_is_believed_today_counts() {
    let (a, b, server, state) = (Ca::root("A"), Ca::root("B"), Server::start(), tempfile::tempdir().unwrap());
    server.says("/a", Reply::Tagged("\"1\"", Forge::number(1).revokes(1).sign(&a).to_vec()));
    server.says("/new", Reply::Tagged("\"1\"", Forge::number(2).revokes(1).revokes(2).sign(&a).to_vec()));
    read(&crl(&server.url("/a"), ""), &[&a], state.path());
    // The authority is gone: so is its list.
    let site = Site::restored(&crl(&server.url("/a"), ""), &[&b], state.path(), &later(1));
    assert_eq!((site.denies(&a, 1), site.state("crl"), site.engine.lists().len()), (false, "never", 0));
    drop(site);
    let file = state.path().join("b.pem");
    fs::write(&file, pem(&[&b])).unwrap();
    let lines = format!("issuer = \"{}\"", file.display());
    let site = Site::restored(&crl(&server.url("/a"), &lines), &[&a, &b], state.path(), &later(1));
    assert_eq!(site.engine.lists().len(), 0);
    drop(site);
    // The URL is another: the list counts, but nothing is known of what is there, and the server is asked for all it
    // has.
    let mut site = Site::restored(&crl(&server.url("/new"), ""), &[&a], state.path(), &later(1));
    assert_eq!((site.denies(&a, 1), site.state("crl")), (true, "never"));
    site.run();
    assert!(site.look("crl").is_ok() && site.denies(&a, 2));
    drop(site);
}

/// Seen failing where a kept list was judged by the clock once more: who was refused was let in.
#[test]
fn a_clock_that_was_set_back_lifts_nothing() {
    let (ca, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    let config = crl(&server.url("/a"), "");
    server.says("/a", Reply::Tagged("\"1\"", Forge::number(1).revokes(1).sign(&ca).to_vec()));
    read(&config, &[&ca], state.path());
    // Before the list was read, and before it was issued: then nothing is known of how old it is.
    for (early, expected) in [(60, "fresh"), (7200, "never")] {
        let clock = Clock::manual(Timestamp::from_secs(forge::NOW - early));
        let mut site = Site::restored(&config, &[&ca], state.path(), &clock);
        assert_eq!((site.denies(&ca, 1), site.state("crl")), (true, expected), "{early}");
        site.run();
        assert_eq!(site.look("crl").unwrap(), "unchanged");
    }
}

/// Seen failing where a feed found its record by its name alone.
#[test]
fn feeds_may_change_their_places() {
    let (a, b, server, state) = (Ca::root("A"), Ca::root("B"), Server::start(), tempfile::tempdir().unwrap());
    let feeds = [("/a", &a), ("/b", &b)].map(|(path, ca)| {
        server.says(path, Reply::Tagged("\"1\"", Forge::number(1).revokes(1).sign(ca).to_vec()));
        let file = state.path().join(format!("{}.pem", &path[1..]));
        fs::write(&file, pem(&[ca])).unwrap();
        crl(&server.url(path), &format!("issuer = \"{}\"", file.display()))
    });
    let site = Site::start(&feeds.concat(), &[&a, &b], state.path());
    assert!(site.look("crl").is_ok() && site.look("crl-2").is_ok());
    drop(site);
    let [first, second] = &feeds;
    let mut site = Site::restored(&[second.as_str(), first].concat(), &[&a, &b], state.path(), &later(1));
    assert!(site.denies(&a, 1) && site.denies(&b, 1));
    assert_eq!((site.state("crl"), site.state("crl-2")), ("fresh", "fresh"));
    site.run();
    assert_eq!(site.look("crl").unwrap(), "unchanged");
    assert_eq!(kept(state.path()), 2);
}

#[test]
fn a_disk_that_takes_nothing_keeps_no_list_out_of_force() {
    let (ca, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    let config = crl(&server.url("/a"), "");
    server.says("/a", Reply::Tagged("\"1\"", Forge::number(1).revokes(1).sign(&ca).to_vec()));
    // A file in the way of the directory.
    fs::write(state.path().join("lists"), "").unwrap();
    let site = Site::start(&config, &[&ca], state.path());
    let why = site.look("crl").unwrap_err();
    assert!(why.contains("in effect, but not kept for the next start"), "{why}");
    assert!(site.denies(&ca, 1));
    let status = site.status("crl");
    assert_eq!((status.state.name(), status.last_error.as_deref()), ("fresh", Some(why.as_str())));
    // It is fetched in whole until it is kept.
    assert!(site.look("crl").is_err());
    fs::remove_file(state.path().join("lists")).unwrap();
    assert_eq!(site.look("crl").unwrap(), "unchanged");
    assert!(!server.asked("/a").unwrap().contains("if-none-match"));
    assert_eq!((kept(state.path()), site.status("crl").last_error), (1, None));
    assert_eq!(site.look("crl").unwrap(), "unchanged");
    assert!(server.asked("/a").unwrap().contains("if-none-match"));
    drop(site);
    // Nor does a record that cannot be written lose the list before.
    let record = state.path().join("lists/crl.json");
    let before = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    let site = Site::start(&config, &[&ca], state.path());
    server.says("/a", Reply::Tagged("\"2\"", Forge::number(2).revokes(1).revokes(2).sign(&ca).to_vec()));
    assert!(site.look("crl").unwrap_err().contains("crl.json"));
    assert!(site.denies(&ca, 2));
    drop(site);
    assert_eq!(kept(state.path()), 2);
    fs::remove_dir(&record).unwrap();
    fs::write(&record, before).unwrap();
    let site = Site::restored(&config, &[&ca], state.path(), &later(1));
    assert!(site.denies(&ca, 1) && site.denies(&ca, 2));
}
