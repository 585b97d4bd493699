//! Killed with SIGKILL some hundred times, at no moment in particular: what was acknowledged stands, and nothing else does
//! that nobody sent.
//!
//! What is killed is this test program itself, started again for `helper_takes_in_whatever_comes`.
//!
//! Seen failing: an answer before the commit (at the 19th kill, of a reinstatement), and commits that redb keeps in the
//! process (`Durability::None`; at the 4th, of a revocation). A sync that is missing cannot be seen here: what was written
//! outlives the process, and goes only with the power.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::session::Credential;

/// Tells a helper which state directory is its own, and where its numbers begin. Without it a helper has nothing to do.
const STATE: &str = "PORTCULLIS_TEST_STATE";
const FIRST: &str = "PORTCULLIS_TEST_FIRST";
const START: i64 = 1_800_000_000;
/// By how much the clock of a helper is wrong, seconds.
const OFFSETS: [i64; 5] = [0, -86_400, 86_400, -3600, 61];
const KILLS: u64 = 300;
/// After so many kills it is begun anew: what grows takes longer to open, and is killed less often.
const LIFE: u64 = 30;
/// How many events a helper takes in at once: they share a commit, or are torn between two.
const AT_ONCE: u64 = 8;
/// Each helper's numbers are its own.
const NUMBERS: u64 = 1_000_000;

/// Opens the engine under a clock that is wrong by another time at each kill.
fn open(directory: &Path, kill: u64) -> Engine {
    let offset = OFFSETS[usize::try_from(kill).unwrap() % OFFSETS.len()];
    let clock = Clock::manual(Timestamp::from_secs(START + offset));
    Engine::open(directory, &Config::default(), clock).expect("it must open whenever it was killed")
}

/// What becomes of a number: every third target is suspended and lifted again, the others are revoked.
fn events(number: u64) -> Vec<Event> {
    let target = Target::parse(Level::Principal, &format!("agent-{number}"), None).unwrap();
    let event = |action, secs| {
        let at = Timestamp::from_secs(START - 100 + secs);
        let reason = Some("r".repeat(usize::try_from(number % 7 * 100).unwrap()));
        Event { reason, ..Event::new(action, target.clone(), at) }
    };
    match number % 3 {
        0 => vec![event(Action::Suspend, 0), event(Action::Reinstate, 1)],
        _ => vec![event(Action::Revoke, 0)],
    }
}

/// How far a number was taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Told {
    /// How many of its events were about to be sent.
    sent: usize,
    /// How many were acknowledged.
    acknowledged: usize,
}

/// What a helper says: `+ NUMBER` before it sends an event, `= NUMBER` once it was acknowledged. The last line may be
/// half a line.
fn hear(told: &mut BTreeMap<u64, Told>, line: &str) {
    let number = |text: &str| text.strip_suffix(';').and_then(|number| number.parse().ok());
    if let Some(number) = line.strip_prefix("+ ").and_then(number) {
        told.entry(number).or_default().sent += 1;
    } else if let Some(number) = line.strip_prefix("= ").and_then(number) {
        told.entry(number).or_default().acknowledged += 1;
    }
}

fn start(state: &Path, first: u64) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_takes_in_whatever_comes", "--nocapture", "--test-threads=1"])
        .env(STATE, state)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

/// Holds what stands against what was said.
fn verify(engine: &Engine, told: &BTreeMap<u64, Told>, kill: u64) {
    for (number, told) in told {
        let event = events(*number).remove(0);
        let own = vec![engine.fingerprinter().target(&event.target)];
        let is_denied = engine.judge(&Credential { own, ..Credential::default() }).is_err();
        let revocable = number % 3 != 0;
        let must = told.acknowledged == 1 && (revocable || told.sent == 1);
        let may = told.sent >= 1 && (revocable || told.acknowledged < 2);
        assert!(is_denied || !must, "kill {kill}: {number} was acknowledged, and is gone: {told:?}");
        assert!(!is_denied || may, "kill {kill}: {number} was lifted, and is denied: {told:?}");
    }
    let strangers = engine.select(|target, _| {
        let number = target.name().strip_prefix("agent-").and_then(|number| number.parse().ok());
        (!number.is_some_and(|number| told.contains_key(&number))).then(|| target.to_string())
    });
    assert_eq!(strangers, Vec::<String>::new(), "kill {kill}: nobody ever sent these");
}

#[test]
fn what_was_acknowledged_survives_three_hundred_kills() {
    let mut acknowledged = 0;
    for life in 0..KILLS / LIFE {
        let directory = tempfile::tempdir().unwrap();
        let mut told = BTreeMap::new();
        for kill in life * LIFE..(life + 1) * LIFE {
            kill_one(directory.path(), kill, &mut told);
            // Now and then the next one starts on what this one left, without anybody having looked.
            if kill % 3 == 0 {
                verify(&open(directory.path(), kill + 1), &told, kill);
            }
        }
        verify(&open(directory.path(), life), &told, KILLS);
        acknowledged += told.values().map(|told| told.acknowledged).sum::<usize>();
    }
    assert!(acknowledged > 5000, "{acknowledged} is too few to tell");
}

fn kill_one(directory: &Path, kill: u64, told: &mut BTreeMap<u64, Told>) {
    let (mut child, lines) = start(directory, kill * NUMBERS);
    let mut lines = lines.lines().map_while(Result::ok);
    // From right after the start of the process, while the journal is opened, to some hundred events later; and then
    // wherever it happens to be.
    let wait = kill * 37 % 101;
    for line in lines.by_ref().take(usize::try_from(wait * wait / 50).unwrap()) {
        hear(told, &line);
    }
    (0..kill * 7_919 % 100_003).for_each(|_| std::hint::spin_loop());
    child.kill().unwrap();
    lines.for_each(|line| hear(told, &line));
    child.wait().unwrap();
}

#[test]
fn helper_takes_in_whatever_comes() {
    let Some(state) = std::env::var_os(STATE).map(PathBuf::from) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let engine = open(&state, first / NUMBERS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    say("");
    for round in 0..NUMBERS / AT_ONCE {
        let numbers = (0..AT_ONCE).map(|i| first + round * AT_ONCE + i);
        let taken_in = numbers.map(|number| {
            let engine = &engine;
            async move {
                for event in events(number) {
                    say(&format!("+ {number};"));
                    // Half of them are told by a feed.
                    let outcome = match number % 2 {
                        0 => engine.decide(event).await.unwrap(),
                        _ => engine.apply(event).await.unwrap(),
                    };
                    assert_eq!((outcome.durable, outcome.as_asked), (Ok(()), true));
                    say(&format!("= {number};"));
                }
            }
        });
        let all = async { tokio::time::timeout(Duration::from_secs(60), join_all(taken_in)).await };
        runtime.block_on(all).expect("the parent is gone, or the disk hangs");
    }
}

/// In one piece and at once: what was said is in the pipe, whatever becomes of this process.
fn say(line: &str) {
    io::stdout()
        .lock()
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| io::stdout().flush())
        .unwrap();
}
