//! Events are found, by whatever is known of them, page by page, while others are written.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portcullis::authority::audit::Entry;
use portcullis::authority::audit::Page;
use portcullis::authority::audit::Query;
use portcullis::authority::audit::find_in;
use portcullis::clock::Timestamp;

use crate::site::CURRENT;
use crate::site::Site;
use crate::site::append;
use crate::site::entry;
use crate::site::try_append;

fn sequences(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect()
}

/// Ten lines a second apart; the fifth is unlike the others.
fn site() -> Site {
    let site = Site::new();
    let audit = site.open();
    for number in 1..=10 {
        let mut entry = entry(number);
        if number == 5 {
            entry = Entry {
                action: "suspend".into(),
                outcome: "refused".into(),
                actor: "secret:console".into(),
                level: Some("certificate".into()),
                target: Some("0a1b".into()),
                issuer: Some("9f".into()),
                principal: Some("spiffe://lab.test/agent/five".into()),
                id: Some("id-5".into()),
                correlation_id: "ticket-5".into(),
                ..entry
            };
        }
        if number == 6 {
            entry.serial = Some("0a1b".into());
            entry.target = Some("spiffe://lab.test/agent/five".into());
        }
        try_append(&audit, entry).unwrap();
        site.clock.advance(Duration::from_secs(1));
    }
    site
}

#[test]
fn each_filter_finds_its_own() {
    let site = site();
    assert!(site.files().len() > 1);
    let at = |second: i64| Some(Timestamp::from_secs(1_800_000_000 + second));
    let some = |text: &str| Some(text.to_owned());
    let all = Query::default();
    // Line 10 says that the second file goes on with the first.
    let wanted: [(Query, &[u64]); 15] = [
        (Query { action: some("audit_continued"), ..all.clone() }, &[10]),
        (all.clone(), &[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (Query { actor: some("secret:console"), ..all.clone() }, &[5]),
        (Query { action: some("suspend"), ..all.clone() }, &[5]),
        (Query { outcome: some("refused"), ..all.clone() }, &[5]),
        (Query { level: some("certificate"), ..all.clone() }, &[5]),
        (Query { target: some("agent-7"), ..all.clone() }, &[7]),
        (Query { issuer: some("9f"), ..all.clone() }, &[5]),
        (Query { id: some("id-5"), ..all.clone() }, &[5]),
        (Query { correlation_id: some("ticket-5"), ..all.clone() }, &[5]),
        (Query { principal: some("spiffe://lab.test/agent/five"), ..all.clone() }, &[6, 5]),
        (Query { serial: some("0a1b"), ..all.clone() }, &[6, 5]),
        (Query { since: at(7), ..all.clone() }, &[11, 10, 9, 8]),
        (Query { since: at(2), until: at(4), newest_first: false, ..all.clone() }, &[3, 4, 5]),
        (Query { action: some("suspend"), actor: some("nobody"), ..all.clone() }, &[]),
    ];
    for (query, found) in wanted {
        let page = find_in(site.path(), &query).unwrap();
        assert_eq!((sequences(&page).as_slice(), page.total), (found, found.len()), "{query:?}");
        assert_eq!(page.unreadable, 0);
    }
}

#[test]
fn pages_follow_each_other_without_gap_or_overlap() {
    let site = Site::with(57);
    let lines = site.lines().len();
    for newest_first in [true, false] {
        let mut all = Vec::new();
        for offset in (0..80).step_by(10) {
            let query = Query { limit: 10, offset, newest_first, ..Query::default() };
            let page = find_in(site.path(), &query).unwrap();
            assert_eq!(page.total, lines);
            all.extend(sequences(&page));
        }
        let mut wanted: Vec<u64> = (1..=lines as u64).collect();
        if newest_first {
            wanted.reverse();
        }
        assert_eq!(all, wanted);
    }
    let none = Query { limit: 0, ..Query::default() };
    assert_eq!(find_in(site.path(), &none).unwrap(), Page { total: lines, ..Page::default() });
    let far = Query { limit: usize::MAX, offset: usize::MAX, newest_first: false, ..Query::default() };
    assert_eq!(find_in(site.path(), &far).unwrap().events.len(), 0);
}

#[test]
fn what_cannot_be_read_is_counted_and_passed_over() {
    let site = Site::with(30);
    let (first, readable) = (site.files()[0].clone(), site.lines().len() - 2);
    site.meddle_lines(&first, |lines| {
        lines[1] = "nonsense\n".into();
        lines[2] = format!("{}\n", "x".repeat(3 << 20));
    });
    site.meddle(CURRENT, |bytes| bytes.extend(b"{\"sequence\":99,"));
    let page = find_in(site.path(), &Query::default()).unwrap();
    assert_eq!((page.events.len(), page.total, page.unreadable), (readable, readable, 2));
}

/// Seen failing with a view that lists the files before it opens the current one.
#[test]
fn a_view_is_whole_while_others_write_and_files_are_put_aside() {
    let site = Site::new();
    let audit = site.open();
    append(&audit, 1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            append(&audit, 600);
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            let (least, query) = (audit.head().sequence, Query { limit: 20, ..Query::default() });
            let page = audit.find(&query).unwrap();
            let newest = page.events[0]["sequence"].as_u64().unwrap();
            assert!(newest >= least, "{newest} {least}");
            assert_eq!((page.total as u64, page.unreadable), (newest, 0));
            let wanted: Vec<u64> = (1..=newest).rev().take(20).collect();
            assert_eq!(sequences(&page), wanted);
        }
    });
}
