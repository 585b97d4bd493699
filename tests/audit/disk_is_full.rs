//! What a full disk refuses is kept, and written once there is room; whoever is killed has lost nothing that was
//! answered.
//!
//! What has to meet a full disk or to die is this test program itself, started again for one of the `helper_*` tests.
//! Seen failing: an answer before the write, lines that are let go with the error, a torn write that is not cut off,
//! a head file that is written before the lines.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use portcullis::authority::Audit;
use portcullis::authority::AuditConfig;
use portcullis::authority::AuditError;
use portcullis::authority::audit::Query;
use portcullis::authority::audit::verify;
use portcullis::clock::Clock;

use crate::site::CURRENT;
use crate::site::Site;
use crate::site::append;
use crate::site::entry;
use crate::site::runtime;
use crate::site::try_append;
use crate::site::wait_until;

/// Tells a helper which state directory is its own. Without it a helper has nothing to do.
const STATE: &str = "PORTCULLIS_TEST_STATE";

/// This program again, for one helper; a file that may not grow fails its writes, and kills nobody.
fn start(helper: &str, state: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", helper, "--nocapture", "--test-threads=1"])
        .env(STATE, state)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

fn helping() -> Option<PathBuf> {
    std::env::var_os(STATE).map(PathBuf::from)
}

/// Says something to the parent, at once. The test harness has printed half a line before.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    write!(out, "\n@{text}\n").and_then(|()| out.flush()).unwrap();
}

/// The next thing that the child says; `None` once it is gone.
fn heard(lines: &mut BufReader<ChildStdout>) -> Option<String> {
    lines.lines().map_while(Result::ok).find_map(|line| line.strip_prefix('@').map(str::to_owned))
}

fn open(state: &Path) -> Audit {
    Audit::open(state, &AuditConfig::default(), Clock::system()).unwrap()
}

fn limit(bytes: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes, hard).unwrap();
}

#[test]
fn a_full_disk_is_said_and_loses_no_line() {
    let site = Site::new();
    let (mut child, mut lines) = start("disk_is_full::helper_meets_a_full_disk", site.path());
    let said: Vec<String> = std::iter::from_fn(|| heard(&mut lines)).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    assert_eq!(said, ["full", "room", "done"]);
    let report = site.verify().unwrap();
    assert_eq!((report.events, report.recoveries), (300, vec![]));
    let targets: Vec<String> =
        site.lines().iter().map(|line| line["target"].as_str().unwrap().to_owned()).collect();
    let wanted: Vec<String> = (0..300).map(|number| format!("agent-{number}")).collect();
    assert_eq!(targets, wanted, "lines are lost, repeated or out of their order");
}

#[test]
fn helper_meets_a_full_disk() {
    let Some(state) = helping() else { return };
    let audit = open(&state);
    append(&audit, 20);
    let len = state.join(CURRENT).metadata().unwrap().len();
    // Room for two lines and a half.
    limit(len + len / 8);
    let mut full = None;
    let (mut log, writer) = std::io::pipe().unwrap();
    let written_to = tracing_subscriber::fmt().with_ansi(false).with_writer(Mutex::new(writer)).finish();
    tracing::subscriber::with_default(written_to, || {
        for number in 20..40 {
            match try_append(&audit, entry(number)) {
                Ok(receipt) => assert!(full.is_none(), "{receipt:?} after {full:?}"),
                Err(error) => {
                    full.get_or_insert(error);
                }
            }
        }
    });
    let mut said = String::new();
    log.read_to_string(&mut said).unwrap();
    // The first five, and perhaps one after ten seconds. Seen failing with a line for each.
    assert!((5..=6).contains(&said.matches("ERROR").count()), "{said}");
    let full = full.expect("the disk is never full");
    assert!(matches!(&full, AuditError::Write { .. }), "{full}");
    assert!(full.to_string().contains("audit.jsonl: cannot write: File too large"), "{full}");
    assert!(!audit.is_durable());
    let written = audit.head().sequence;
    assert!((20..30).contains(&written), "{written}");
    // What is there is whole, and is found.
    let report = verify(&state, None, &mut |_, _| {}).unwrap();
    assert_eq!((report.events, report.torn_tail), (written, false));
    assert_eq!(audit.find(&Query::default()).unwrap().total as u64, written);
    say("full");
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    limit(hard);
    wait_until(|| audit.is_durable());
    assert_eq!(audit.head().sequence, 40);
    say("room");
    for number in 40..300 {
        try_append(&audit, entry(number)).unwrap();
    }
    say("done");
}

#[test]
fn whoever_is_killed_at_any_moment_has_kept_what_was_answered() {
    let site = Site::new();
    let mut answered = 0;
    for round in 0..12_usize {
        let (mut child, mut lines) = start("disk_is_full::helper_appends_for_ever", site.path());
        for _ in 0..1 + round * 7 % 23 {
            answered = heard(&mut lines).expect("the child ended by itself").parse().unwrap();
        }
        (0..round * 9_973).for_each(|_| std::hint::spin_loop());
        child.kill().unwrap();
        while let Some(sequence) = heard(&mut lines) {
            answered = sequence.parse().unwrap();
        }
        child.wait().unwrap();
        let report = site.verify().unwrap();
        assert!(report.head.sequence >= answered, "round {round}: {answered} was answered, and is gone");
    }
    let report = site.verify().unwrap();
    assert!(report.recoveries.iter().all(|(_, reason)| reason.starts_with("a torn line")), "{report:?}");
}

#[test]
fn helper_appends_for_ever() {
    let Some(state) = helping() else { return };
    let audit = Audit::open(&state, &AuditConfig { max_bytes: 4096 }, Clock::system()).unwrap();
    let runtime = runtime();
    for number in 0.. {
        let both = async { tokio::join!(audit.append(entry(number)), audit.append(entry(number))) };
        let (first, second) = runtime.block_on(both);
        say(&first.unwrap().sequence.max(second.unwrap().sequence).to_string());
    }
}
