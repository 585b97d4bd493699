//! What is appended is on disk in one chain, whatever happens at the same time.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use aws_lc_rs::digest;
use portcullis::authority::AuditError;
use portcullis::authority::audit::Entry;
use portcullis::authority::audit::Head;
use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::revocation::Timeline;

use crate::site::CURRENT;
use crate::site::HEAD;
use crate::site::Site;
use crate::site::append;
use crate::site::asked;
use crate::site::entry;
use crate::site::runtime;
use crate::site::try_append;

fn sha256(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The format, by hand: whoever reads the file without this program relies on it.
#[test]
fn a_line_is_flat_json_and_ends_with_its_hash() {
    let site = Site::new();
    let audit = site.open();
    let received = Timestamp::from_millis(1_799_999_999_990);
    let timeline = Timeline {
        feed: "admin".into(),
        at: received,
        received,
        effective_us: Some(40),
        enforced_us: Some(900),
        sessions_ended: 1,
        durable_us: None,
        acknowledged_us: None,
        is_news: true,
    };
    let entry = Entry { generation: Some(7), timeline: Some(timeline), ..entry(1) };
    let first = try_append(&audit, entry).unwrap();
    let second = try_append(&audit, Entry { reason: Some("\"\n".into()), ..Entry::default() }).unwrap();
    let zeros = "0".repeat(64);
    let text = std::fs::read_to_string(site.file(CURRENT)).unwrap();
    let hashed = format!(
        concat!(
            r#"{{"sequence":1,"time":"2027-01-15T08:00:00.000Z","action":"revoke","outcome":"applied","#,
            r#""actor":"spiffe://lab.test/admin/ops","role":"admin","address":"192.0.2.7:5555","#,
            r#""request_id":"request-1","correlation_id":"request-1","level":"principal","#,
            r#""target":"agent-1","generation":7,"timeline":{{"feed":"admin","at":"2027-01-15T07:59:59.990Z","#,
            r#""received":"2027-01-15T07:59:59.990Z","effective_us":40,"enforced_us":900,"sessions_ended":1}},"#,
            r#""prev":"{}""#
        ),
        zeros
    );
    let hash = sha256(&hashed);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    assert_eq!(lines[0], format!("{hashed},\"hash\":\"{hash}\"}}\n"));
    assert_eq!((first.sequence, &first.hash), (1, &hash));
    let hashed = format!(
        r#"{{"sequence":2,"time":"2027-01-15T08:00:00.000Z","action":"","outcome":"","reason":"\"\n","prev":"{hash}""#
    );
    assert_eq!(lines[1], format!("{hashed},\"hash\":\"{}\"}}\n", sha256(&hashed)));
    assert_eq!(audit.head(), Head { sequence: 2, hash: second.hash });
    assert!(audit.is_durable());
}

#[test]
fn the_chain_goes_over_the_files() {
    let site = Site::new();
    let audit = site.open();
    let receipts = append(&audit, 100);
    let names = site.files();
    assert!(names.len() > 5, "{names:?}");
    let mut sequence = 0;
    for name in &names {
        let file = site.file(name);
        assert!(file.metadata().unwrap().len() <= 4096);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(file).unwrap();
        let first = text.lines().next().unwrap();
        assert!(first.starts_with(&format!("{{\"sequence\":{},", sequence + 1)), "{first}");
        let opening = r#""action":"audit_continued","outcome":"applied","actor":"portcullis","prev""#;
        assert_eq!(first.contains(opening), sequence > 0, "{first}");
        assert!(text.lines().skip(1).all(|line| !line.contains("audit_continued")), "{text}");
        assert!(name == CURRENT || *name == format!("audit.{:020}.jsonl", sequence + 1), "{name}");
        sequence += text.lines().count();
    }
    assert_eq!(site.file(HEAD).metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let report = site.verify().unwrap();
    assert_eq!((report.files, asked(&report), report.first_sequence), (names.len(), 100, 1));
    assert_eq!(report.head, audit.head());
    assert!(!report.starts_midway && !report.torn_tail && report.recoveries.is_empty());
    // Whichever head was noted when, it is on the chain.
    for receipt in receipts {
        site.verify_with(&Head { sequence: receipt.sequence, hash: receipt.hash }).unwrap();
    }
    site.verify_with(&Head::default()).unwrap();
}

#[test]
fn a_line_that_no_file_has_room_for_has_one_of_its_own() {
    let site = Site::with(3);
    let audit = site.open();
    let target = Some("x".repeat(10_000));
    try_append(&audit, Entry { target, ..entry(3) }).unwrap();
    append(&audit, 3);
    assert_eq!(site.files().len(), 3);
    assert_eq!(asked(&site.verify().unwrap()), 7);
}

#[test]
fn a_restart_goes_on_where_the_last_one_ended() {
    let mut site = Site::new();
    for round in 1..=5 {
        let audit = site.open();
        append(&audit, 7);
        assert_eq!(audit.head().sequence, round * 7 + site.files().len() as u64 - 1);
        drop(audit);
        // A clock that is set back does not put the lines out of their order. Seen failing with its bare time.
        site.clock = Clock::manual(Timestamp::from_secs(1_800_000_000 - 100 * i64::try_from(round).unwrap()));
    }
    let report = site.verify().unwrap();
    assert_eq!((asked(&report), report.recoveries), (35, vec![]));
    assert!(site.lines().iter().all(|line| line["time"] == "2027-01-15T08:00:00.000Z"));
}

/// Seen failing with a writer that gives its answers in another order than its lines.
#[test]
fn a_thousand_at_once_are_in_one_order() {
    let site = Site { max_bytes: 100_000, ..Site::new() };
    let audit = site.open();
    let together = |numbers: std::ops::Range<usize>| {
        let mut tasks = tokio::task::JoinSet::new();
        runtime().block_on(async {
            for number in numbers {
                let (audit, clock) = (audit.clone(), site.clock.clone());
                tasks.spawn(async move {
                    clock.advance(Duration::from_millis(1));
                    (number, audit.append(entry(number)).await.unwrap())
                });
            }
            tasks.join_all().await
        })
    };
    let mut receipts: Vec<_> = std::thread::scope(|scope| {
        let threads =
            [0..250, 250..500, 500..750, 750..1000].map(|numbers| scope.spawn(|| together(numbers)));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    receipts.sort_by_key(|(_, receipt)| receipt.sequence);
    let lines: Vec<_> = site.lines().into_iter().filter(|line| line["action"] != "audit_continued").collect();
    assert_eq!(lines.len(), 1000);
    let mut time = String::new();
    for (line, (number, receipt)) in lines.iter().zip(&receipts) {
        assert_eq!(
            (&line["sequence"], &line["hash"]),
            (&receipt.sequence.into(), &receipt.hash.clone().into())
        );
        assert_eq!(line["target"], format!("agent-{number}"));
        let at = line["time"].as_str().unwrap();
        assert!(at >= time.as_str(), "{at} comes after {time}");
        time = at.to_owned();
    }
    assert_eq!(asked(&site.verify().unwrap()), 1000);
}

#[test]
fn dropping_the_last_handle_writes_what_waits() {
    let site = Site::new();
    let audit = site.open();
    let waiting = runtime();
    waiting.block_on(async {
        for number in 0..50 {
            let append = audit.append(entry(number));
            let mut append = std::pin::pin!(append);
            // Polled once: it is in the queue, and nobody waits for it any longer.
            std::future::poll_fn(|context| {
                let _ = append.as_mut().poll(context);
                std::task::Poll::Ready(())
            })
            .await;
        }
    });
    drop(audit);
    assert_eq!(asked(&site.verify().unwrap()), 50);
}

#[test]
fn two_never_share_a_directory() {
    let site = Site::new();
    let audit = site.open();
    let error = site.try_open().err().unwrap();
    assert_eq!(error, AuditError::InUse(site.file(HEAD)));
    assert!(!error.to_string().contains('\n'));
    let clone = audit.clone();
    drop(audit);
    assert!(site.try_open().is_err());
    drop(clone);
    append(&site.open(), 1);
}

#[test]
fn it_can_be_verified_while_it_is_written() {
    let site = Site::new();
    let audit = site.open();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            append(&audit, 500);
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        let mut seen = 0;
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            let report = site.verify().unwrap();
            assert!(report.events >= seen);
            seen = report.events;
            // The head as it was is on the chain of any later moment.
            site.verify_with(&report.head).unwrap();
        }
    });
    assert_eq!(asked(&site.verify().unwrap()), 500);
}

#[test]
fn the_progress_ends_with_all_that_there_is() {
    let site = Site::with(60);
    let mut steps = Vec::new();
    portcullis::authority::audit::verify(site.path(), None, &mut |done, all| steps.push((done, all)))
        .unwrap();
    let all: u64 = site.files().iter().map(|name| site.file(name).metadata().unwrap().len()).sum();
    assert!(steps.is_sorted());
    assert_eq!(steps.last(), Some(&(all, all)));
}
