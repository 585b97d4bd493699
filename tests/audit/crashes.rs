//! What a crash leaves is gone on with; what a crash cannot leave is said, and the gate starts all the same.

use portcullis::authority::audit::Head;

use crate::site::CURRENT;
use crate::site::HEAD;
use crate::site::Site;
use crate::site::append;
use crate::site::asked;
use crate::site::read;

/// Opens, appends a line, and returns what the audit says of itself: outcome and reason.
fn reopened(site: &Site) -> Vec<(String, String)> {
    let audit = site.open();
    append(&audit, 1);
    drop(audit);
    let lines = site.files().iter().map(|name| std::fs::read(site.file(name)).unwrap()).collect::<Vec<_>>();
    let lines = lines.join(&b'\n');
    let notices = lines.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    notices
        .filter(|line| line.contains("\"action\":\"audit_recovered\""))
        .map(|line| {
            let line = read(line);
            (line["outcome"].as_str().unwrap().to_owned(), line["reason"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn a_torn_line_is_cut_off_and_kept_in_words() {
    let site = Site::with(3);
    let torn = b"{\"sequence\":4,\"time\":\"20\x07\xff";
    site.meddle(CURRENT, |bytes| bytes.extend(torn));
    let report = site.verify().unwrap();
    assert!(report.torn_tail && report.events == 3);
    let notices = reopened(&site);
    let (outcome, reason) = &notices[0];
    assert_eq!((notices.len(), outcome.as_str()), (1, "recovered"));
    let escaped = r#"a torn line was cut off, 26 bytes: {\"sequence\":4,\"time\":\"20\x07\xff"#;
    assert_eq!(reason, escaped);
    let report = site.verify().unwrap();
    assert_eq!((report.events, report.torn_tail), (5, false));
    assert_eq!(report.recoveries, [(4, escaped.to_owned())]);
}

#[test]
fn of_a_long_torn_line_the_beginning_is_kept() {
    let site = Site::with(3);
    site.meddle(CURRENT, |bytes| bytes.extend([b'x'; 300_000]));
    let notices = reopened(&site);
    assert_eq!(notices[0].1, format!("a torn line was cut off, 300000 bytes: {}", "x".repeat(1024)));
    assert_eq!(site.verify().unwrap().events, 5);
}

/// Pages that did not reach the disk before the power went read as zeros, even where later ones did. Seen failing
/// where such a line is one that is not chained.
#[test]
fn a_torn_batch_may_have_holes() {
    let site = Site::with(3);
    let lines = std::fs::read(site.file(CURRENT)).unwrap();
    site.meddle(CURRENT, |bytes| {
        bytes.extend([0; 700]);
        bytes.extend(&lines[lines.len() - 90..]);
    });
    assert_eq!(reopened(&site)[0].0, "recovered");
    assert_eq!(asked(&site.verify().unwrap()), 5);
}

/// One batch, or the last step of one, is all that the head file may lag behind.
#[test]
fn a_head_that_lags_behind_is_caught_up_with() {
    let site = Site::with(3);
    let head = std::fs::read(site.file(HEAD)).unwrap();
    append(&site.open(), 4);
    std::fs::write(site.file(HEAD), head).unwrap();
    assert_eq!(site.verify().unwrap().events, 7);
    assert_eq!(reopened(&site), []);
    assert_eq!(site.verify().unwrap().events, 8);
}

#[test]
fn a_crash_between_the_files_is_gone_on_with() {
    let aside = "audit.00000000000000000001.jsonl";
    // Put aside, and no new file begun.
    let site = Site::with(3);
    std::fs::rename(site.file(CURRENT), site.file(aside)).unwrap();
    site.verify().unwrap();
    assert_eq!(reopened(&site), []);
    // Begun, and not written to.
    let site = Site::with(3);
    std::fs::rename(site.file(CURRENT), site.file(aside)).unwrap();
    std::fs::write(site.file(CURRENT), "").unwrap();
    site.verify().unwrap();
    assert_eq!(reopened(&site), []);
    // Half of its first line written.
    let site = Site::with(3);
    std::fs::rename(site.file(CURRENT), site.file(aside)).unwrap();
    std::fs::write(site.file(CURRENT), "{\"seq").unwrap();
    assert!(site.verify().unwrap().torn_tail);
    assert_eq!(reopened(&site)[0].0, "recovered");
    assert_eq!((asked(&site.verify().unwrap()), site.files().len()), (5, 2));
    // Its first line, which says that it goes on, and half of the next.
    let site = Site::with(12);
    let line = std::fs::read_to_string(site.file(CURRENT)).unwrap().lines().next().unwrap().len() + 1;
    site.cut(CURRENT, line as u64 + 20);
    let head = Site::with(10);
    std::fs::copy(head.file(HEAD), site.file(HEAD)).unwrap();
    assert_eq!(reopened(&site)[0].0, "recovered");
    assert_eq!((asked(&site.verify().unwrap()), site.files().len()), (12, 2));
    // Its first lines written, and the head file still at the file before.
    let site = Site::with(30);
    let files = site.files().len();
    let mut head = Vec::new();
    while site.files().len() == files {
        head = std::fs::read(site.file(HEAD)).unwrap();
        // Closed each time: an answer does not wait for the head file.
        append(&site.open(), 1);
    }
    std::fs::write(site.file(HEAD), head).unwrap();
    site.verify().unwrap();
    assert_eq!(reopened(&site), []);
    // The head file made, and nothing else; or not even that.
    let site = Site::new();
    drop(site.open());
    std::fs::remove_file(site.file(CURRENT)).unwrap();
    std::fs::write(site.file("audit.head.new"), "0000").unwrap();
    assert_eq!(reopened(&site), []);
    let site = Site::new();
    std::fs::write(site.file(CURRENT), "").unwrap();
    assert_eq!(reopened(&site), []);
    assert_eq!(site.verify().unwrap().events, 1);
}

/// What no crash leaves: the files are kept as they are, the line that follows says what was found, its sequence is
/// one that was never given, and `verify` fails from then on.
#[test]
fn damage_is_put_aside_and_said() {
    type Damage = fn(&Site);
    let damages: [(&str, Damage); 9] = [
        ("it ends with 3: lines 4 to 5 are cut off", |site| {
            site.meddle_lines(CURRENT, |lines| lines.truncate(3));
        }),
        ("it ends with 4: line 5 is cut off", |site| {
            let len = site.file(CURRENT).metadata().unwrap().len();
            site.cut(CURRENT, len - 1);
        }),
        ("it was changed: its hash does not fit it", |site| {
            site.meddle(CURRENT, |bytes| {
                let at = bytes.len() - 200;
                bytes[at] ^= 1;
            });
        }),
        ("where line 6 should be: it is not a line of an audit", |site| {
            site.meddle(CURRENT, |bytes| bytes.extend(b"a foreign line\n"));
        }),
        ("it is not a line of an audit", |site| {
            std::fs::write(site.file(CURRENT), "{\"id\":\"of another program\"}\n").unwrap();
        }),
        ("there are no lines, but 5 was written", |site| {
            site.cut(CURRENT, 0);
        }),
        ("there are no lines, but 5 was written", |site| {
            std::fs::remove_file(site.file(CURRENT)).unwrap();
        }),
        ("audit.head is missing", |site| std::fs::remove_file(site.file(HEAD)).unwrap()),
        ("audit.head cannot be read", |site| std::fs::write(site.file(HEAD), "").unwrap()),
    ];
    for (wanted, damage) in damages {
        let site = Site::with(5);
        damage(&site);
        let found = std::fs::read(site.file(CURRENT)).unwrap_or_default();
        let notices = reopened(&site);
        let (outcome, reason) = &notices[0];
        assert_eq!((notices.len(), outcome.as_str()), (1, "failed"), "{wanted}");
        assert!(reason.contains(wanted), "{wanted}: {reason}");
        let names = site.files();
        if !found.is_empty() {
            assert_eq!(names.len(), 2, "{wanted}");
            assert_eq!(std::fs::read(site.file(&names[0])).unwrap(), found, "{wanted}");
            assert!(reason.contains(&names[0]), "{reason}");
        }
        let new = std::fs::read_to_string(site.file(CURRENT)).unwrap();
        let first = read(new.lines().next().unwrap());
        assert!(first["sequence"].as_u64() >= Some(6), "{wanted}: a sequence is given twice: {first}");
        assert!(site.verify().is_err(), "{wanted}");
        // Once is enough.
        assert_eq!(reopened(&site).len(), 1, "{wanted}");
    }
}

#[test]
fn what_was_expected_is_named_by_the_line_and_by_verify() {
    let site = Site::with(5);
    let head = site.verify().unwrap().head;
    site.meddle_lines(CURRENT, |lines| lines.truncate(3));
    reopened(&site);
    let fault = site.fault();
    assert_eq!((fault.file, fault.line, fault.sequence), (site.file(CURRENT), Some(1), Some(6)));
    assert!(fault.reason.contains(&head.to_string()), "{}", fault.reason);
    assert!(fault.reason.contains("audit.00000000000000000001.jsonl"), "{}", fault.reason);
    assert_eq!(fault.recoveries.len(), 1);
}

#[test]
fn damage_to_older_files_is_put_aside_under_names_of_their_own() {
    let site = Site::with(5);
    for _ in 0..3 {
        std::fs::write(site.file(CURRENT), "foreign\n").unwrap();
        reopened(&site);
    }
    let foreign = |name: &&String| std::fs::read(site.file(name)).unwrap() == b"foreign\n";
    let names = site.files();
    assert_eq!((names.iter().filter(foreign).count(), names.len()), (3, 4), "{names:?}");
    assert_eq!(site.open().head().sequence, 11, "a sequence is given twice");
}

/// Seen failing with a writer that only looks at the file that it has open: it wrote into one without a name.
#[test]
fn files_that_are_taken_away_while_they_are_in_use_are_missed() {
    type Damage = fn(&Site);
    let damages: [(&str, Damage); 5] = [
        ("there are no lines, but 5 was written", |site| std::fs::remove_file(site.file(CURRENT)).unwrap()),
        ("it ends with 3: lines 4 to 5 are cut off", |site| {
            site.meddle_lines(CURRENT, |lines| lines.truncate(3));
        }),
        ("it holds more than was written up to 5", |site| site.meddle(CURRENT, |bytes| bytes.push(b'x'))),
        ("there are no lines, but 5 was written", |site| site.cut(CURRENT, 0)),
        ("audit.head was removed or replaced", |site| std::fs::remove_file(site.file(HEAD)).unwrap()),
    ];
    for (wanted, damage) in damages {
        let site = Site::new();
        let audit = site.open();
        append(&audit, 5);
        damage(&site);
        append(&audit, 1);
        assert!(audit.is_durable());
        assert_eq!(site.fault().sequence, Some(6));
        assert_eq!(audit.head().sequence, 7);
        drop(audit);
        let notices = reopened(&site);
        assert!(notices.len() == 1 && notices[0].1.contains(wanted), "{wanted}: {notices:?}");
    }
}

#[test]
fn sequences_that_a_forged_line_claims_do_not_run_out() {
    let site = Site::with(2);
    let aside = "audit.09007199254740991000.jsonl";
    std::fs::write(site.file(aside), "x\n").unwrap();
    std::fs::remove_file(site.file(HEAD)).unwrap();
    reopened(&site);
    let head: Head = site.open().head();
    assert_eq!(head.sequence, 4);
}
