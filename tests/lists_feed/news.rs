//! What a good list does: to sessions, beside other lists, and as it gets old.

use std::time::Duration;

use portcullis::revocation::FeedState;

use crate::forge::Ca;
use crate::forge::Forge;
use crate::forge::IDP;
use crate::forge::extension;
use crate::forge::tlv;
use crate::server::Reply;
use crate::server::Server;
use crate::site::Site;
use crate::site::crl;

fn says(server: &Server, path: &str, list: &Forge, ca: &Ca) {
    server.says(path, Reply::ok(&list.sign(ca)));
}

/// A list of the part of an authority's certificates that has this distribution point.
pub(crate) fn part(number: u32, point: &str) -> Forge {
    let name = tlv(0xa0, &tlv(0xa0, &tlv(0x86, point.as_bytes())));
    Forge::number(number).with(extension(IDP, true, &tlv(0x30, &name)))
}

#[test]
fn a_new_list_ends_the_sessions_that_it_names_and_no_other() {
    let (ca, other, server, state) =
        (Ca::root("A"), Ca::root("B"), Server::start(), tempfile::tempdir().unwrap());
    says(&server, "/a", &Forge::number(6), &ca);
    let site = Site::start(&crl(&server.url("/a"), ""), &[&ca, &other], state.path());
    // A list without entries is a good list.
    assert_eq!(site.look("crl").map(|_| site.state("crl")), Ok("fresh"));
    let [hit, spared] = [1, 2].map(|serial| site.session(&ca, serial));
    let same_serial = site.session(&other, 1);
    says(&server, "/a", &Forge::number(7).revokes(1).revokes(3).revokes(4), &ca);
    let looked = std::thread::scope(|scope| {
        let looking = scope.spawn(|| site.look("crl"));
        // The session lets go when it sees its end, and is waited for.
        while hit.cause().is_none() {
            std::thread::yield_now();
        }
        drop(hit);
        looking.join().unwrap()
    });
    assert_eq!(looked.unwrap(), "new list 7 of CN=A, 3 entries, 1 session ended");
    assert!(spared.cause().is_none() && same_serial.cause().is_none());
    assert!(site.denies(&ca, 1) && !site.denies(&ca, 2) && !site.denies(&other, 1));
    assert_eq!(site.look("crl").unwrap(), "unchanged");
    let status = site.status("crl");
    assert_eq!((status.kind, status.entries, status.state), ("crl", Some(3), FeedState::Fresh));
}

/// Seen failing where a 304 counted whatever was in force: the gate took the other feed's list for that of this
/// server.
#[test]
fn a_304_speaks_of_a_list_that_is_in_force() {
    let (ca, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    let tagged = |tag, list: Forge| Reply::Tagged(tag, list.sign(&ca).to_vec());
    server.says("/a", tagged("\"5\"", Forge::number(5).revokes(1)));
    let config = [crl(&server.url("/a"), ""), crl(&server.url("/b"), "")].concat();
    let site = Site::start(&config, &[&ca], state.path());
    let _ = site.look("crl").unwrap();
    assert_eq!(site.look("crl").unwrap(), "unchanged");
    assert!(server.asked("/a").unwrap().contains("if-none-match: \"5\"\r\n"));
    assert!(server.asked("/a").unwrap().contains("cache-control: no-cache\r\n"));
    // The other feed is behind: what it is told does not count as read.
    says(&server, "/b", &Forge::number(4), &ca);
    assert!(site.look("crl-2").unwrap_err().contains("number 4 is below the known 5"));
    assert_eq!(site.state("crl-2"), "never");
    // And now it is ahead: what the first server has is not in force any more.
    says(&server, "/b", &Forge::number(6).revokes(1), &ca);
    let _ = site.look("crl-2").unwrap();
    let why = site.look("crl").unwrap_err();
    assert!(why.contains("number 5 is below the known 6"), "{why}");
    assert!(!server.asked("/a").unwrap().contains("if-none-match"));
    server.says("/a", tagged("\"7\"", Forge::number(7).revokes(1)));
    assert!(site.look("crl").unwrap().starts_with("new list 7"));
    assert_eq!(site.look("crl").unwrap(), "unchanged");
    // A bad list has no say in what is asked the next time.
    server.says("/a", Reply::Tagged("\"8\"", b"<html>".to_vec()));
    assert!(site.look("crl").is_err());
    server.says("/a", tagged("\"8\"", Forge::number(8).revokes(1)));
    assert!(site.look("crl").unwrap().starts_with("new list 8"));
}

/// Seen failing where every `Last-Modified` was repeated: the second list of a second was never read. And where it was
/// repeated beside an entity tag: there are servers that look at both, and say 304 if either fits.
#[test]
fn a_second_list_of_the_same_second_is_not_missed() {
    const DATES: [&str; 2] = ["Wed, 14 Oct 2026 17:46:40 GMT", "Wed, 14 Oct 2026 17:46:42 GMT"];
    let (ca, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    let list = |number: u32| Forge::number(number).revokes(number).sign(&ca).to_vec();
    server.says("/a", Reply::Dated([DATES[0], DATES[0]], list(1)));
    let site = Site::start(&crl(&server.url("/a"), ""), &[&ca], state.path());
    let _ = site.look("crl").unwrap();
    server.says("/a", Reply::Dated([DATES[0], DATES[0]], list(2)));
    assert!(site.look("crl").unwrap().starts_with("new list 2"));
    assert!(site.denies(&ca, 2));
    // Nothing is published in a second that is over.
    server.says("/a", Reply::Dated(DATES, list(2)));
    for _ in 0..2 {
        assert_eq!(site.look("crl").unwrap(), "unchanged");
    }
    assert!(server.asked("/a").unwrap().contains("if-modified-since: wed, 14 oct 2026 17:46:40 gmt\r\n"));
    let headers = [("etag", "\"3\""), ("last-modified", DATES[0]), ("date", DATES[1])];
    server.says("/a", Reply::with("200 OK", &headers, &list(3)));
    for said in ["new list 3", "unchanged"] {
        assert!(site.look("crl").unwrap().starts_with(said));
    }
    let asked = server.asked("/a").unwrap();
    assert!(asked.contains("if-none-match: \"3\"\r\n") && !asked.contains("if-modified-since"), "{asked}");
}

#[test]
fn a_list_whose_next_update_has_passed_counts_and_is_not_fresh() {
    let (ca, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    says(&server, "/a", &Forge::number(1).revokes(1).next_update("261014170000Z"), &ca);
    let site = Site::start(&crl(&server.url("/a"), ""), &[&ca], state.path());
    let said = site.look("crl").unwrap();
    assert!(said.ends_with("; out of date since 2026-10-14T17:00:00.000Z"), "{said}");
    assert!(site.denies(&ca, 1));
    assert_eq!((site.state("crl"), site.status("crl").last_error), ("stale", None));
    says(&server, "/a", &Forge::number(2).revokes(1), &ca);
    let _ = site.look("crl").unwrap();
    assert_eq!(site.state("crl"), "fresh");
    // As time goes by.
    site.clock.advance(Duration::from_secs(3601));
    assert_eq!(site.state("crl"), "stale");
    let _ = site.look("crl").unwrap();
    assert_eq!(site.state("crl"), "fresh");
}

#[test]
fn partitions_and_deltas_stand_beside_each_other() {
    let (ca, server, state) = (Ca::root("A"), Server::start(), tempfile::tempdir().unwrap());
    says(&server, "/1", &part(1, "http://pki.test/1").revokes(1), &ca);
    says(&server, "/2", &part(9, "http://pki.test/2").revokes(2), &ca);
    says(&server, "/delta", &Forge::delta(4, 3).revokes(3), &ca);
    says(&server, "/full", &Forge::number(3).revokes(4), &ca);
    let config: String = ["/1", "/2", "/delta", "/full"]
        .map(|path| crl(&server.url(path), &format!("name = \"{}\"", &path[1..])))
        .concat();
    let check = |site: &Site, names: &[&str]| {
        for name in names {
            let _ = site.look(name).unwrap();
        }
        for serial in 1..=4 {
            assert!(site.denies(&ca, serial), "{serial}");
        }
        assert!(!site.denies(&ca, 5));
    };
    let names = ["1", "2", "full", "delta"];
    check(&Site::start(&config, &[&ca], state.path()), &names);
    assert_eq!(kept(state.path()), 4);
    // Each is still there after a start without a network.
    let site =
        Site::restored(&config, &[&ca], state.path(), &portcullis::clock::Clock::manual(crate::forge::now()));
    check(&site, &[]);
    assert!(names.iter().all(|name| site.state(name) == "fresh"));
    drop(site);
    // A full list takes the place of the delta that it includes, and of nothing else.
    let site = Site::start(&config, &[&ca], state.path());
    says(&server, "/full", &Forge::number(4).revokes(3).revokes(4), &ca);
    check(&site, &["full"]);
    assert_eq!(site.engine.lists().len(), 3);
    let said = site.look("delta").unwrap();
    assert_eq!(said, "delta 4 of CN=A, which a newer full list includes");
    assert_eq!(site.state("delta"), "fresh");
    drop(site);
    let site =
        Site::restored(&config, &[&ca], state.path(), &portcullis::clock::Clock::manual(crate::forge::now()));
    check(&site, &[]);
    assert!(names.iter().all(|name| site.state(name) == "fresh"));
}

/// How many lists are on disk.
pub(crate) fn kept(state: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(state.join("lists")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "crl")).count()
}

#[test]
fn a_list_for_one_authority_is_not_demanded_of_another() {
    let (a, b, server, state) = (Ca::root("A"), Ca::root("B"), Server::start(), tempfile::tempdir().unwrap());
    let file = state.path().join("a.pem");
    std::fs::write(&file, crate::authorities::pem(&[&a])).unwrap();
    let lines = format!("issuer = \"{}\"\nrequired = true\non_stale = \"deny\"", file.display());
    let site = Site::start(&crl(&server.url("/a"), &lines), &[&a, &b], state.path());
    assert!(site.look("crl").is_err());
    let stale = |ca: &Ca| site.feeds.check(&site.credential(ca, 1), site.clock.now()).is_err();
    assert!(stale(&a) && !stale(&b));
    says(&server, "/a", &Forge::number(1), &a);
    let _ = site.look("crl").unwrap();
    assert!(!stale(&a) && !stale(&b));
    site.clock.advance(Duration::from_secs(3601));
    assert!(stale(&a) && !stale(&b));
}
