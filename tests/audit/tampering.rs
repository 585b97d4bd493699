//! Whatever is done to the files, `verify` names the file and the line.
//!
//! Nothing in the directory is secret: whoever can write to all of it can write another chain, whole. Only a head that
//! was noted elsewhere tells that one (`a_chain_written_anew_is_told_by_a_head_that_was_noted`).
//!
//! Seen failing: without the comparison of `prev` (a file that another audit wrote), of sequences (a deleted middle
//! file), of the head file (a cut tail), and with hashes compared whatever their case (a changed byte).

use aws_lc_rs::digest;
use portcullis::authority::audit;
use portcullis::authority::audit::Head;
use portcullis::authority::audit::Query;
use portcullis::authority::audit::find_in;
use portcullis::authority::audit::verify;
use proptest::prelude::Just;
use proptest::prelude::ProptestConfig;
use proptest::prelude::Strategy;
use proptest::prelude::any;
use proptest::prelude::prop;
use proptest::prelude::prop_oneof;
use proptest::prelude::proptest;

use crate::site::CURRENT;
use crate::site::HEAD;
use crate::site::Site;
use crate::site::append;
use crate::site::fault;
use crate::site::read;
use crate::site::wait_until;

/// A line as the format has it, with its hash made to fit.
fn sealed(hashed: &str) -> String {
    let digest = digest::digest(&digest::SHA256, hashed.as_bytes());
    let hash: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hashed},\"hash\":\"{hash}\"}}\n")
}

/// Lets the head file name the last line of the current file, as its own format has it.
fn forge_head(site: &Site) {
    let text = std::fs::read(site.file(CURRENT)).unwrap();
    let last = String::from_utf8(text).unwrap().lines().last().unwrap().to_owned();
    let hash = &last[last.len() - 66..last.len() - 2];
    let slot = format!("{:020} {hash}", 3);
    let sum = &sealed(&slot)[slot.len() + 9..][..16];
    site.meddle(HEAD, |bytes| *bytes = format!("{slot} {sum}\n").repeat(2).into_bytes());
}

/// What stands before the hash.
fn hashed(line: &str) -> String {
    line.split(",\"hash\":").next().unwrap().to_owned()
}

/// Any change, and often that of a letter's case, which leaves a hash the same number.
fn flips() -> impl Strategy<Value = u8> {
    prop_oneof![Just(b'a' ^ b'A'), 1_u8..]
}

#[test]
fn any_byte_of_any_line_can_be_changed_and_is_named() {
    let site = Site::with(30);
    let files: Vec<(String, Vec<u8>)> = site
        .files()
        .into_iter()
        .map(|name| (name.clone(), std::fs::read(site.file(&name)).unwrap()))
        .collect();
    assert!(files.len() >= 3);
    proptest!(|(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), flip in flips())| {
        let (name, bytes) = file.get(&files);
        let at = at.index(bytes.len());
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        site.meddle(name, |bytes| bytes[at] ^= flip);
        let (place, reason) = site.named();
        std::fs::write(site.file(name), bytes).unwrap();
        assert_eq!(place, format!("{name}:{line}"), "byte {at}: {reason}");
    });
    site.verify().unwrap();
}

#[test]
fn the_tail_can_be_cut_at_any_byte_and_is_missed() {
    let site = Site::with(25);
    let whole = std::fs::read(site.file(CURRENT)).unwrap();
    for len in 0..whole.len() {
        site.cut(CURRENT, len as u64);
        let left = whole[..len].iter().filter(|byte| **byte == b'\n').count();
        let (place, reason) = site.named();
        assert_eq!(place, format!("{CURRENT}:{}", left + 1), "{reason}");
        assert!(reason.contains("cut off"), "{reason}");
        std::fs::write(site.file(CURRENT), &whole).unwrap();
    }
}

#[test]
fn lines_that_are_deleted_swapped_or_repeated_are_named() {
    type Change = fn(&mut Vec<String>);
    let site = Site::with(30);
    let first = site.files()[0].clone();
    let changes: [(Change, u64, &str); 5] = [
        (|lines| drop(lines.remove(3)), 4, "it follows 3: line 4 is missing"),
        (|lines| drop(lines.drain(3..6)), 4, "it follows 3: lines 4 to 6 are missing"),
        (|lines| lines.swap(3, 4), 4, "it follows 3: line 4 is missing"),
        (|lines| lines.insert(3, lines[2].clone()), 4, "it follows 3: a line is repeated"),
        (|lines| lines.insert(3, "\n".into()), 4, "it is not a line of an audit"),
    ];
    let whole = std::fs::read(site.file(&first)).unwrap();
    for (change, line, reason) in changes {
        site.meddle_lines(&first, change);
        let found = site.named();
        assert_eq!(found.0, format!("{first}:{line}"));
        assert!(found.1.contains(reason), "{}", found.1);
        std::fs::write(site.file(&first), &whole).unwrap();
    }
}

/// Where the front of a file is gone, the rest of it is chained all the same. Seen failing with a walk that begins
/// with whatever line comes first.
#[test]
fn the_front_of_a_file_can_be_cut_away_anywhere_and_is_missed() {
    let beheaded = "no file begins with this line: those before it were cut away";
    let named = |site: &Site, from| site.name(fault(site.verify_from(from)));
    // One that was never put aside, with a line in it that the audit wrote about itself.
    let site = Site { max_bytes: 1 << 20, ..Site::with(3) };
    site.meddle(CURRENT, |bytes| bytes.extend(b"{\"torn"));
    append(&site.open(), 3);
    let all = [(site, CURRENT.to_owned())];
    let rotated = || Site::with(30);
    let names = rotated().files();
    for (site, name) in all.into_iter().chain(names.into_iter().map(|name| (rotated(), name))) {
        let whole = std::fs::read(site.file(&name)).unwrap();
        let lines = whole.iter().filter(|byte| **byte == b'\n').count();
        for cut in 1..lines {
            site.meddle_lines(&name, |lines| drop(lines.drain(..cut)));
            let expected = (format!("{name}:1"), beheaded.to_owned());
            assert_eq!(site.named(), expected, "{cut}");
            // However much is said to be archived.
            assert_eq!(named(&site, 1 << 50), expected, "{cut}");
            std::fs::write(site.file(&name), &whole).unwrap();
        }
        site.verify().unwrap();
    }
}

/// Opening looks at the newest lines alone. Seen failing without the check that comes after it.
#[test]
fn what_was_changed_long_ago_is_said_once_a_gate_has_started() {
    let site = Site::with(60);
    let first = site.files()[0].clone();
    site.meddle_lines(&first, |lines| lines[3] = lines[3].replace("agent-3", "agent-9"));
    let audit = site.open();
    wait_until(|| audit.fault().is_some());
    let reason = "sequence 4: it was changed: its hash does not fit it";
    let advice = "see `portcullis audit verify`, then `portcullis audit accept`";
    let named = format!("{}:4: {reason}", site.file(&first).display());
    assert_eq!(audit.fault(), Some(format!("{named}; {advice}")));
    append(&audit, 1);
    drop(audit);
    // Only the first of several is named, so the others are counted.
    for line in [6, 8] {
        site.meddle_lines(&first, |lines| lines[line] = lines[line].replace("agent-", "AGENT-"));
    }
    let audit = site.open();
    wait_until(|| audit.damages() == 3);
    assert_eq!(audit.fault(), Some(format!("{named} (and 2 more); {advice}")));
}

/// Seen failing with a fault that the check alone can set.
#[test]
fn what_is_changed_while_a_gate_runs_is_a_fault_too() {
    let site = Site::new();
    let audit = site.open();
    append(&audit, 5);
    assert_eq!(audit.fault(), None);
    site.cut(CURRENT, 0);
    append(&audit, 1);
    assert!(audit.fault().unwrap().contains("there are no lines, but 5 was written"));
}

#[test]
fn older_files_may_be_archived_if_it_is_said() {
    let site = Site::with(60);
    let names = site.files();
    let archived = std::fs::read_to_string(site.file(&names[0])).unwrap().lines().count() as u64;
    std::fs::remove_file(site.file(&names[0])).unwrap();
    let from = archived + 1;
    let reason = format!(
        "all begins here: lines 1 to {archived} are missing; if older files were archived on purpose, verify with --from {from}"
    );
    assert_eq!(site.named(), (format!("{}:1", names[1]), reason.clone()));
    assert_eq!(fault(site.verify_from(archived)).reason, reason);
    for from in [from, from + 3] {
        let report = site.verify_from(from).unwrap();
        assert!(report.starts_midway);
        assert_eq!(report.first_sequence, archived + 1);
    }
    let old = Head { sequence: 2, hash: "a".repeat(64) };
    let verified = audit::verify_from(site.path(), from, Some(&old), &mut |_, _| {});
    assert!(fault(verified).reason.contains("older than the oldest line"));
    // One more is missing than was archived.
    std::fs::remove_file(site.file(&names[1])).unwrap();
    assert_eq!(site.name(fault(site.verify_from(from))).0, format!("{}:1", names[2]));
}

#[test]
fn a_line_that_is_changed_and_hashed_anew_breaks_with_the_next() {
    let site = Site::with(5);
    site.meddle_lines(CURRENT, |lines| {
        lines[2] = sealed(&hashed(&lines[2]).replace("agent-2", "agent-9"));
    });
    let (place, reason) = site.named();
    assert_eq!(place, format!("{CURRENT}:4"));
    assert!(reason.contains("one of them was replaced"), "{reason}");
    // Of the last line, no next one tells; the head does.
    let site = Site::with(5);
    site.meddle_lines(CURRENT, |lines| {
        lines[4] = sealed(&hashed(&lines[4]).replace("agent-4", "agent-9"));
    });
    assert_eq!(site.named(), (format!("{CURRENT}:5"), format!("it is not the line that {HEAD} names")));
}

/// The last line and the head file are forged together, so that only the form of the line is left to tell. Seen
/// failing with a reader that passes over members it does not know.
#[test]
fn a_line_that_can_be_read_in_two_ways_is_named() {
    type Change = fn(&str) -> String;
    let target = r#""target":"agent-2""#;
    let changes: [(Change, &str); 8] = [
        (
            |line| line.replace(r#""target""#, r#""target":"agent-9","target""#),
            "two members of the name `target`",
        ),
        (
            |line| line.replace(r#""target""#, r#""tar\u0067et":"x","target""#),
            "two members of the name `target`",
        ),
        (
            |line| line.replace(r#""target""#, r#""sequence":3,"target""#),
            "two members of the name `sequence`",
        ),
        (|line| line.replace(r#""target""#, r#""hash":"x","target""#), "two members of the name `hash`"),
        (
            |line| line.replace(r#""target""#, r#""timeline":{"a":1,"a":2},"target""#),
            "two members of the name `a`",
        ),
        (|line| line.replace("agent-2", "agent-\0"), "it does not parse"),
        (|line| format!("\0{line}"), "it does not parse"),
        (|line| line.replace("agent-2", &"x".repeat(1024 * 1024)), "it is"),
    ];
    for (change, wanted) in changes {
        let site = Site::with(3);
        site.meddle_lines(CURRENT, |lines| {
            assert!(lines[2].contains(target));
            lines[2] = sealed(&change(&hashed(&lines[2])));
        });
        forge_head(&site);
        let (place, reason) = site.named();
        assert_eq!(place, format!("{CURRENT}:3"), "{reason}");
        assert!(reason.contains(wanted), "{wanted}: {reason}");
    }
    // The same by the same means, but for the form, is what the noted head is for.
    let site = Site::with(3);
    let noted = site.verify().unwrap().head;
    site.meddle_lines(CURRENT, |lines| lines[2] = sealed(&hashed(&lines[2]).replace("agent-2", "agent-9")));
    forge_head(&site);
    assert_eq!(site.verify().unwrap().events, 3);
    assert_eq!(fault(site.verify_with(&noted)).line, Some(3));
}

#[test]
fn other_line_ends_and_bytes_between_the_lines_are_named() {
    type Change = fn(&mut Vec<String>);
    let changes: [(Change, u64); 5] = [
        (|lines| lines.iter_mut().for_each(|line| *line = line.replace('\n', "\r\n")), 1),
        (|lines| lines[1] = lines[1].replace('\n', "\r\n"), 2),
        (|lines| lines[1] = lines[1].replace('\n', "\0\n"), 2),
        (|lines| lines.insert(1, "\0\n".into()), 2),
        (|lines| lines[1] = format!("{}\n", "x".repeat(2 << 20)), 2),
    ];
    for (change, line) in changes {
        let site = Site::with(3);
        site.meddle_lines(CURRENT, change);
        let (place, reason) = site.named();
        assert_eq!(place, format!("{CURRENT}:{line}"), "{reason}");
    }
}

/// What an old copy of all lacks, nothing in it tells.
#[test]
fn an_old_copy_that_is_put_back_is_told_by_a_head_that_was_noted() {
    let site = Site::with(3);
    let old = [CURRENT, HEAD].map(|name| (name, std::fs::read(site.file(name)).unwrap()));
    append(&site.open(), 3);
    let noted = site.verify().unwrap().head;
    let [(lines, bytes), head] = old;
    std::fs::write(site.file(lines), bytes).unwrap();
    assert_eq!(site.named().0, format!("{CURRENT}:4"));
    std::fs::write(site.file(head.0), head.1).unwrap();
    site.verify().unwrap();
    let reason = fault(site.verify_with(&noted)).reason;
    assert_eq!(
        reason,
        "the chain ends with 3, but the head that was noted names 6: lines 4 to 6 are cut off"
    );
}

#[test]
fn a_time_that_falls_is_named() {
    let site = Site::with(3);
    site.meddle_lines(CURRENT, |lines| {
        lines[2] = sealed(&hashed(&lines[2]).replace("2027", "2026"));
    });
    assert!(site.named().1.contains("its time, 2026-01-15T08:00:00.000Z, is before"));
}

#[test]
fn files_that_are_deleted_are_named() {
    let site = Site::with(60);
    let names = site.files();
    let keep = |name: &str| (site.file(name), std::fs::read(site.file(name)).unwrap());
    let lines = |name: &str| std::fs::read_to_string(site.file(name)).unwrap().lines().count();
    let (path, content) = keep(&names[1]);
    let (gone, before) = (lines(&names[1]), lines(&names[0]));
    std::fs::remove_file(&path).unwrap();
    let (place, reason) = site.named();
    assert_eq!(place, format!("{}:1", names[2]));
    let (from, to) = (before + 1, before + gone);
    assert_eq!(reason, format!("it follows {before}: lines {from} to {to} are missing"));
    std::fs::write(path, content).unwrap();

    // The newest.
    let (path, content) = keep(CURRENT);
    std::fs::remove_file(&path).unwrap();
    let last = &names[names.len() - 2];
    let (place, reason) = site.named();
    assert_eq!(place, format!("{last}:{}", lines(last) + 1));
    assert!(reason.contains("cut off"), "{reason}");
    std::fs::write(path, content).unwrap();

    let (path, content) = keep(HEAD);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(site.named(), (HEAD.into(), "it is missing".into()));
    std::fs::write(&path, b"garbage").unwrap();
    assert_eq!(site.named(), (HEAD.into(), "it cannot be read".into()));
    std::fs::write(path, content).unwrap();
    site.verify().unwrap();
}

#[test]
fn where_all_is_gone_nothing_is_said_to_be_well() {
    let site = Site::with(5);
    site.files().iter().for_each(|name| std::fs::remove_file(site.file(name)).unwrap());
    let (place, reason) = site.named();
    assert_eq!(place, CURRENT);
    assert!(reason.contains("lines 1 to 5 are cut off"), "{reason}");
    std::fs::remove_file(site.file(HEAD)).unwrap();
    assert_eq!(site.named(), (CURRENT.into(), "there is no audit here".into()));
    // One that was begun and never written to is whole.
    drop(site.open());
    assert_eq!(site.verify().unwrap().events, 0);
}

#[test]
fn foreign_files_are_named() {
    let site = Site::with(30);
    let foreign = "audit.old.jsonl";
    std::fs::write(site.file(foreign), "").unwrap();
    assert_eq!(site.named().0, foreign);
    std::fs::remove_file(site.file(foreign)).unwrap();
    // A copy under another name, and a file of another audit, whole in itself.
    let copy = "audit.00000000000000000009.jsonl";
    std::fs::copy(site.file(&site.files()[0]), site.file(copy)).unwrap();
    let names = site.files();
    let (place, reason) = site.named();
    assert_eq!(place, format!("{}:1", names[1]), "{reason}");
    std::fs::remove_file(site.file(copy)).unwrap();

    let other = Site::new();
    other.clock.advance(std::time::Duration::from_secs(1));
    append(&other.open(), 30);
    let names = site.files();
    assert_eq!(names, other.files());
    std::fs::copy(other.file(&names[1]), site.file(&names[1])).unwrap();
    let (place, reason) = site.named();
    assert_eq!(place, format!("{}:1", names[1]));
    assert!(reason.contains("one of them was replaced"), "{reason}");
}

/// A line that is chained to the last one looks like one that was written just before a crash. What tells is a head
/// that was noted elsewhere, once the true line 6 is there, or the process itself, if it runs.
#[test]
fn a_forged_line_at_the_end_is_told_by_a_head_that_was_noted() {
    let site = Site::with(5);
    let forge = |site: &Site| {
        site.meddle_lines(CURRENT, |lines| {
            let last = read(&lines[4])["hash"].as_str().unwrap().to_owned();
            let before = read(&lines[4])["prev"].as_str().unwrap().to_owned();
            let forged =
                hashed(&lines[4]).replace("\"sequence\":5", "\"sequence\":6").replace(&before, &last);
            lines.push(sealed(&forged));
        });
    };
    forge(&site);
    assert_eq!(site.verify().unwrap().events, 6);
    let other = Site::with(5);
    let audit = other.open();
    let noted = Head { sequence: 6, hash: append(&audit, 1).remove(0).hash };
    drop(audit);
    let (place, reason) = (fault(site.verify_with(&noted)).line, fault(site.verify_with(&noted)).reason);
    assert_eq!((place, reason), (Some(6), "it is not the line that the head that was noted names".into()));

    let site = Site::with(5);
    let audit = site.open();
    forge(&site);
    append(&audit, 1);
    let (_, reason) = site.named();
    assert!(reason.contains("found damaged") && reason.contains("holds more than was written"), "{reason}");
}

#[test]
fn a_chain_written_anew_is_told_by_a_head_that_was_noted() {
    let (site, other) = (Site::with(20), Site::new());
    let noted = site.verify().unwrap().head;
    other.clock.advance(std::time::Duration::from_secs(1));
    append(&other.open(), 30);
    for name in other.files().iter().map(String::as_str).chain([HEAD]) {
        std::fs::copy(other.file(name), site.file(name)).unwrap();
    }
    site.verify().unwrap();
    let fault = fault(site.verify_with(&noted));
    assert_eq!((fault.sequence, fault.line.is_some()), (Some(noted.sequence), true));
    assert!(fault.to_string().contains("it is not the line that the head that was noted names"), "{fault}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Seen failing with a split of a line that is shorter than a hash.
    #[test]
    fn nothing_that_a_directory_may_hold_panics(
        current in prop::collection::vec(any::<u8>(), 0..600),
        aside in "(\\{\"sequence\":[0-9]{1,20},|\"time\":\"20..\"|[a-f0-9]{64}|,\"hash\":\"|\"\\}|\n|.){0,40}",
        head in prop::collection::vec(any::<u8>(), 0..300),
        number in any::<u64>(),
    ) {
        let site = Site::new();
        std::fs::write(site.file(CURRENT), current).unwrap();
        std::fs::write(site.file(&format!("audit.{number:020}.jsonl")), aside).unwrap();
        std::fs::write(site.file(HEAD), head).unwrap();
        assert!(verify(site.path(), None, &mut |_, _| {}).is_err());
        find_in(site.path(), &Query::default()).unwrap();
        // And it starts, and goes on.
        let audit = site.open();
        append(&audit, 2);
        assert!(site.verify().is_err());
    }
}

/// Each slot of two has a checksum: the other one is then at most a batch behind.
#[test]
fn a_head_file_with_a_changed_byte_is_behind() {
    let site = Site::with(5);
    let len = std::fs::read(site.file(HEAD)).unwrap().len();
    for at in 0..len {
        site.meddle(HEAD, |bytes| bytes[at] ^= 1);
        site.verify().unwrap();
        site.meddle(HEAD, |bytes| bytes[at] ^= 1);
    }
    site.meddle(HEAD, |bytes| bytes[len / 4] ^= 1);
    append(&site.open(), 1);
    assert_eq!(site.verify().unwrap().recoveries, vec![]);
}
