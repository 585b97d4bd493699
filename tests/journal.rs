//! The journal when things break: killed between effect and write, a full disk, a file that is torn or foreign. Killed at
//! any other moment: `tests/kill.rs`.
//!
//! What has to die or to run out of space is this test program itself, started again for one of the `helper_*` tests.
//!
//! Seen failing: unwritten events that are not kept, a reinstatement that is published before it is written (the full
//! disk); a panic of the database that nobody catches (the damaged file).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::fs::File;
use std::fs::OpenOptions;
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
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::Condvar;
use std::sync::Mutex;
use std::task::Context;
use std::task::Waker;
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::Error;
use portcullis::revocation::Event;
use portcullis::revocation::JournalError;
use portcullis::revocation::Level;
use portcullis::revocation::Outcome;
use portcullis::revocation::Registers;
use portcullis::revocation::Target;
use portcullis::session::Credential;
use redb::ReadableDatabase as _;
use redb::ReadableTableMetadata as _;
use redb::StorageBackend;
use redb::backends::FileBackend;
use redb::backends::InMemoryBackend;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const JOURNAL: &str = "revocations.redb";
const TARGETS: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("targets");
/// Tells a helper which state directory is its own. Without it a helper has nothing to do.
const STATE: &str = "PORTCULLIS_TEST_STATE";

fn clock() -> Clock {
    Clock::manual(Timestamp::from_secs(1_800_000_000))
}

fn open(directory: &Path) -> Result<Engine, Error> {
    Engine::open(directory, &Config::default(), clock())
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn event(action: Action, name: &str, secs: i64) -> Event {
    let target = Target::parse(Level::Principal, name, None).unwrap();
    Event { id: format!("{name}-{secs}"), ..Event::new(action, target, Timestamp::from_secs(secs)) }
}

fn apply(engine: &Engine, event: Event) -> Result<Outcome, Error> {
    runtime().block_on(engine.apply(event))
}

fn denied(engine: &Engine, name: &str) -> bool {
    let target = Target::parse(Level::Principal, name, None).unwrap();
    let own = engine.fingerprinter().all_carried([&target]);
    let credential = Credential { own, ..Credential::default() };
    engine.judge(&credential).is_err()
}

/// What a disk does to whoever syncs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Well,
    /// A sync never comes back.
    Stuck,
    /// No space is left: neither writes nor syncs succeed.
    Full,
    /// No space is left once so many syncs have succeeded.
    FullAfter(usize),
    /// It was mounted anew, as a system does with a disk that it no longer trusts.
    ReadOnly,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    /// How many syncs hang.
    stuck: usize,
}

/// A disk whose mood a test decides.
#[derive(Clone, Debug)]
struct Disk(Arc<(Mutex<State>, Condvar)>);

impl Disk {
    fn new() -> Self {
        let state = State { mood: Mood::Well, stuck: 0 };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    fn set(&self, mood: Mood) {
        self.0.0.lock().unwrap().mood = mood;
        self.0.1.notify_all();
    }

    /// Returns once a sync hangs.
    fn wait_until_stuck(&self) {
        let state = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(state, |state| state.stuck == 0).unwrap());
    }

    fn try_to_write(&self) -> io::Result<()> {
        match self.0.0.lock().unwrap().mood {
            Mood::Full => Err(io::ErrorKind::StorageFull.into()),
            Mood::ReadOnly => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Mood::Well | Mood::Stuck | Mood::FullAfter(_) => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        if state.mood == Mood::Stuck {
            state.stuck += 1;
            self.0.1.notify_all();
            state = self.0.1.wait_while(state, |state| state.mood == Mood::Stuck).unwrap();
        }
        if let Mood::FullAfter(left) = state.mood {
            state.mood = left.checked_sub(1).map_or(Mood::Full, Mood::FullAfter);
        }
        drop(state);
        self.try_to_write()
    }

    fn engine(&self, journal: &Path) -> Result<Engine, Error> {
        self.engine_at(journal, clock())
    }

    fn engine_at(&self, journal: &Path, clock: Clock) -> Result<Engine, Error> {
        let (disk, journal) = (self.clone(), journal.to_owned());
        let storage = move || {
            let file = OpenOptions::new().read(true).write(true).open(&journal)?;
            Ok(Storage { disk: disk.clone(), file: FileBackend::new(file).map_err(io::Error::other)? })
        };
        Engine::on_storage(storage, &Config::default(), clock)
    }
}

/// Makes a disk well again when a helper fails: else its journal's thread, and with it both processes, would hang.
struct Relief(Disk);

impl Drop for Relief {
    fn drop(&mut self) {
        self.0.set(Mood::Well);
    }
}

/// The journal's file on such a disk.
#[derive(Debug)]
struct Storage {
    disk: Disk,
    file: FileBackend,
}

impl StorageBackend for Storage {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.try_to_write()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.try_to_write()?;
        self.file.write(offset, data)
    }
}

/// A state directory whose journal exists, and its path.
fn state() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let journal = directory.path().join(JOURNAL);
    (directory, journal)
}

/// This program again, for one helper; `limit` caps the size of the files that it writes, in blocks of 512 bytes.
fn start(helper: &str, state: &Path, limit: Option<u64>) -> (Child, BufReader<ChildStdout>) {
    let ulimit = limit.map(|blocks| format!("trap '' XFSZ; ulimit -f {blocks}; "));
    let script = format!(r#"{}exec "$0" "$@""#, ulimit.unwrap_or_default());
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", helper, "--nocapture", "--test-threads=1"])
        .env(STATE, state)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

/// The state directory, if this process is a helper.
fn helping() -> Option<PathBuf> {
    std::env::var_os(STATE).map(PathBuf::from)
}

/// Says something to the parent, at once. The test harness has printed half a line before.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    write!(out, "\n@{text}\n").and_then(|()| out.flush()).unwrap();
}

/// The next thing that the child says; `None` once it is gone.
fn heard(lines: &mut BufReader<ChildStdout>) -> Option<String> {
    lines.lines().map_while(Result::ok).find_map(|line| line.strip_prefix('@').map(str::to_owned))
}

#[test]
fn killed_between_effect_and_journal() {
    let (directory, _) = state();
    let (mut child, mut lines) = start("helper_stuck_in_sync", directory.path(), None);
    assert_eq!(heard(&mut lines).as_deref(), Some("acknowledged first"));
    assert_eq!(heard(&mut lines).as_deref(), Some("effective second"));
    child.kill().unwrap();
    child.wait().unwrap();
    let engine = open(directory.path()).unwrap();
    assert!(denied(&engine, "first"), "an acknowledged revocation is gone");
    assert!(engine.entries() <= 2);
    // The queue delivers again what nobody acknowledged.
    let outcome = apply(&engine, event(Action::Revoke, "second", 2)).unwrap();
    assert_eq!(outcome.durable, Ok(()));
    drop(engine);
    let engine = open(directory.path()).unwrap();
    assert!(denied(&engine, "first") && denied(&engine, "second"));
}

#[test]
fn helper_stuck_in_sync() {
    let Some(state) = helping() else { return };
    let disk = Disk::new();
    let engine = disk.engine(&state.join(JOURNAL)).unwrap();
    let _relief = Relief(disk.clone());
    assert_eq!(apply(&engine, event(Action::Revoke, "first", 1)).unwrap().durable, Ok(()));
    say("acknowledged first");
    disk.set(Mood::Stuck);
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut applied = std::pin::pin!(engine.apply(event(Action::Revoke, "second", 2)));
    let polled = applied.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending() && denied(&engine, "second"));
    disk.wait_until_stuck();
    say("effective second");
    // Until the parent's SIGKILL: a file that stays on its disk unsynced, and a caller that stays unanswered.
    loop {
        std::thread::park();
    }
}

/// The wall clock is set back meanwhile, so that the times alone would put the later decision first. Seen failing with a
/// ledger that does not know of reinstatements on their way to the journal: the reinstatement cleared both.
#[test]
fn a_denial_that_is_accepted_while_a_reinstatement_waits_for_the_disk_outlives_it() {
    let (_directory, journal) = state();
    let (disk, clock) = (Disk::new(), clock());
    let start = clock.now();
    let engine = disk.engine_at(&journal, clock.clone()).unwrap();
    let _relief = Relief(disk.clone());
    let runtime = runtime();
    let all = [("a", Action::Revoke), ("b", Action::Suspend), ("c", Action::Revoke), ("d", Action::Suspend)];
    for (name, action) in all {
        assert!(runtime.block_on(engine.decide(event(action, name, 0))).unwrap().as_asked);
    }
    clock.advance(Duration::from_secs(10));
    disk.set(Mood::Stuck);
    let lift = |name| engine.decide(Event { force: true, ..event(Action::Reinstate, name, 0) });
    let mut lifts: Vec<_> = all.iter().map(|(name, _)| Box::pin(lift(name))).collect();
    let _entered = runtime.enter();
    let mut context = Context::from_waker(Waker::noop());
    for lift in &mut lifts {
        assert!(lift.as_mut().poll(&mut context).is_pending());
    }
    disk.wait_until_stuck();
    clock.set(start);
    let again = |(name, action)| {
        let event = Event { at: start, ..event(action, name, 1) };
        let is_local = name < "c";
        let engine = &engine;
        Box::pin(async move { if is_local { engine.decide(event).await } else { engine.apply(event).await } })
    };
    let mut denials: Vec<_> = all.map(again).into();
    for denial in &mut denials {
        assert!(denial.as_mut().poll(&mut context).is_pending());
    }
    disk.set(Mood::Well);
    let [lifted, denials] = [
        runtime.block_on(futures_util::future::join_all(lifts)),
        runtime.block_on(futures_util::future::join_all(denials)),
    ];
    assert!(lifted.into_iter().all(|outcome| !outcome.unwrap().as_asked), "it says that nothing is denied");
    assert!(denials.into_iter().all(|outcome| outcome.unwrap().as_asked));
    let check =
        |engine: &Engine| all.iter().for_each(|(name, _)| assert!(denied(engine, name), "{name} is let in"));
    check(&engine);
    drop(engine);
    check(&disk.engine_at(&journal, clock).unwrap());
}

#[test]
fn a_full_disk_denies_all_the_same_and_catches_up_by_itself() {
    let (directory, journal) = state();
    let disk = Disk::new();
    let engine = disk.engine(&journal).unwrap();
    assert_eq!(apply(&engine, event(Action::Suspend, "paused", 1)).unwrap().durable, Ok(()));
    disk.set(Mood::Full);
    let outcome = apply(&engine, event(Action::Revoke, "a", 2)).unwrap();
    assert!(matches!(outcome.durable, Err(JournalError::Write(_))), "{outcome:?}");
    assert!(denied(&engine, "a") && !engine.is_durable());
    // A second one meets a journal that cannot even be opened.
    let outcome = apply(&engine, event(Action::Revoke, "b", 3)).unwrap();
    assert!(outcome.durable.is_err() && denied(&engine, "b"));
    let refused = apply(&engine, event(Action::Reinstate, "paused", 4));
    assert!(matches!(refused, Err(Error::Journal(_))), "{refused:?}");
    assert!(denied(&engine, "paused"), "a reinstatement that is not on disk took effect");
    disk.set(Mood::Well);
    wait_until(|| engine.is_durable());
    drop(engine);
    let engine = open(directory.path()).unwrap();
    assert!(denied(&engine, "a") && denied(&engine, "b") && denied(&engine, "paused"));
}

/// Whichever sync of its commit fails: redb may find that commit whole when it opens the file anew.
///
/// Seen failing with commits of one phase; and with two at the second sync, before the row was put back.
#[test]
fn a_reinstatement_that_failed_is_not_in_effect_after_the_next_start() {
    for closes_at_once in [false, true] {
        let failed = (0..10).take_while(|syncs| !is_lifted(*syncs, closes_at_once)).count();
        assert_eq!(failed, 2, "of a commit's syncs");
    }
}

/// Whether a reinstatement succeeds on a disk that is full after so many syncs. If not, it must stay without effect.
fn is_lifted(syncs: usize, closes_at_once: bool) -> bool {
    let (directory, journal) = state();
    let disk = Disk::new();
    let engine = disk.engine(&journal).unwrap();
    assert_eq!(apply(&engine, event(Action::Suspend, "paused", 1)).unwrap().durable, Ok(()));
    disk.set(Mood::FullAfter(syncs));
    let lifted = apply(&engine, event(Action::Reinstate, "paused", 2));
    disk.set(Mood::Well);
    if !closes_at_once {
        wait_until(|| engine.is_durable());
    }
    assert_eq!(denied(&engine, "paused"), lifted.is_err());
    drop(engine);
    let engine = open(directory.path()).unwrap();
    assert_eq!(denied(&engine, "paused"), lifted.is_err(), "full after {syncs} syncs: {lifted:?}");
    lifted.is_ok()
}

#[test]
fn what_a_full_disk_refused_is_written_when_the_engine_closes() {
    let (directory, journal) = state();
    let disk = Disk::new();
    let engine = disk.engine(&journal).unwrap();
    disk.set(Mood::Full);
    assert!(apply(&engine, event(Action::Revoke, "a", 1)).unwrap().durable.is_err());
    disk.set(Mood::Well);
    drop(engine);
    assert!(denied(&open(directory.path()).unwrap(), "a"));
}

/// Waits for another thread's work; the runtime of the test gives up after a minute.
fn wait_until(done: impl Fn() -> bool) {
    runtime().block_on(async {
        let polling = async {
            let mut often = tokio::time::interval(Duration::from_millis(5));
            while !done() {
                often.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), polling).await.expect("it never came");
    });
}

#[test]
fn a_file_that_may_not_grow_fails_writes_and_keeps_what_it_has() {
    let (directory, journal) = state();
    let blocks = std::fs::metadata(&journal).unwrap().len() / 512;
    let (mut child, mut lines) = start("helper_fills_the_disk", directory.path(), Some(blocks));
    let acknowledged: Vec<String> = std::iter::from_fn(|| heard(&mut lines)).collect();
    assert!(child.wait().unwrap().success(), "{acknowledged:?}");
    let (last, acknowledged) = acknowledged.split_last().unwrap();
    assert_eq!(last, "full");
    assert!(!acknowledged.is_empty(), "not even one fitted");
    let engine = open(directory.path()).unwrap();
    for name in acknowledged {
        assert!(denied(&engine, name), "{name} was acknowledged, and is gone");
    }
}

#[test]
fn helper_fills_the_disk() {
    let Some(state) = helping() else { return };
    let engine = open(&state).unwrap();
    for count in 0_u64.. {
        let name = format!("agent-{count}");
        let reason = Some("r".repeat(50_000));
        let outcome = apply(&engine, Event { reason, ..event(Action::Revoke, &name, 1) }).unwrap();
        assert!(denied(&engine, &name), "it must deny whether it could be written or not");
        if let Err(error) = outcome.durable {
            assert!(matches!(error, JournalError::Write(_)), "{error}");
            assert!(!engine.is_durable());
            return say("full");
        }
        say(&name);
    }
}

/// What opening a directory whose journal was meddled with says.
fn refusal(meddle: impl FnOnce(&Path)) -> String {
    let (directory, journal) = state();
    let engine = open(directory.path()).unwrap();
    for count in 0..20 {
        let _ = apply(&engine, event(Action::Revoke, &format!("agent-{count}"), 1)).unwrap();
    }
    drop(engine);
    meddle(&journal);
    let error = open(directory.path()).err().expect("it was opened all the same").to_string();
    assert!(error.contains(journal.to_str().unwrap()), "the file is not named: {error}");
    assert!(!error.contains('\n'), "more than one line: {error}");
    error
}

#[test]
fn a_torn_or_foreign_file_is_refused_by_name() {
    let cut = |keep: u64| {
        move |journal: &Path| {
            let file = OpenOptions::new().write(true).open(journal).unwrap();
            file.set_len(file.metadata().unwrap().len() * keep / 100).unwrap();
        }
    };
    for keep in [0, 1, 10, 50, 90, 99] {
        let error = refusal(cut(keep));
        assert!(error.contains("not a readable journal"), "{keep} %: {error}");
    }
    let noise: Vec<u8> = (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for content in [noise.as_slice(), b"[gate]\nlisten = \"0.0.0.0:8443\"\n", b"x"] {
        let error = refusal(|journal| std::fs::write(journal, content).unwrap());
        assert!(error.contains("not a readable journal"), "{error}");
    }
}

/// Seen failing: the missing end passed for a disk that cannot be written.
#[test]
fn what_a_kill_left_is_refused_by_name_if_its_end_is_missing() {
    let (directory, journal) = state();
    let engine = open(directory.path()).unwrap();
    for count in 0..100 {
        let reason = Some("why ".repeat(2500));
        let _ = apply(
            &engine,
            Event { reason, ..event(Action::Revoke, &format!("agent-{count}"), 1_799_999_901) },
        );
    }
    let left = std::fs::read(&journal).unwrap();
    drop(engine);
    let mut refused = 0;
    for pages in [1, 2, 10, 50, 100] {
        std::fs::write(&journal, &left[..left.len() - pages * 4096]).unwrap();
        match open(directory.path()) {
            // The last pages may be empty.
            Ok(engine) => assert_eq!(engine.entries(), 100, "{pages} pages less"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("not a readable journal"), "{pages} pages less: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "nothing was missing");
}

/// The bytes of a journal of twenty targets in every state: as they are while it is open, and closed.
fn open_and_closed() -> [Vec<u8>; 2] {
    let (directory, journal) = state();
    let engine = open(directory.path()).unwrap();
    for count in 0..20 {
        let name = format!("agent-{count}");
        let action = if count % 2 == 0 { Action::Revoke } else { Action::Suspend };
        let issued_before = (count % 3 == 0).then_some(1_700_000_000);
        let reason = Some(format!("reason {count}"));
        let _ =
            apply(&engine, Event { issued_before, reason, ..event(action, &name, 1_799_999_901) }).unwrap();
        if count % 10 == 1 {
            let _ = apply(&engine, event(Action::Reinstate, &name, 1_799_999_902)).unwrap();
        }
    }
    let open = std::fs::read(&journal).unwrap();
    drop(engine);
    [open, std::fs::read(&journal).unwrap()]
}

fn contents(engine: &Engine) -> BTreeMap<Target, Registers> {
    engine.select(|target, registers| Some((target.clone(), registers.clone()))).into_iter().collect()
}

/// One bit is left out: which of the header's two roots counts. No checksum covers it, and a file that was not closed may
/// have the one before in the other.
///
/// Seen failing without the rows' checksums on a database that checks its pages only after a crash; and, of the file that
/// was not closed, at byte 193 with commits of one phase, of which the last was silently gone.
#[test]
fn whatever_byte_is_damaged_the_file_is_refused_by_name_or_all_of_it_is_there() {
    for good in open_and_closed() {
        let all = contents(&on_bytes(&good).unwrap());
        assert_eq!(all.len(), 20);
        let mut refused = 0;
        // Every byte of the header and of the rows' own pages, and a sample of the others, one bit or all of them.
        let last = good.iter().rposition(|byte| *byte != 0).unwrap();
        let is_row = |at: &usize| good[at / 4096 * 4096..][..4096].windows(6).any(|bytes| bytes == b"agent-");
        let (rows, rest): (Vec<usize>, Vec<usize>) = (4096..=last).partition(is_row);
        let places = (0..400).chain(rows.into_iter().step_by(23)).chain(rest.into_iter().step_by(997));
        for (count, at) in places.enumerate() {
            let mut damaged = good.clone();
            damaged[at] ^= if count % 3 == 0 { 0xff } else { 1 << (count % 8) };
            damaged[9] = (damaged[9] & !1) | (good[9] & 1);
            match on_bytes(&damaged) {
                Ok(engine) => assert!(contents(&engine) == all, "byte {at}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains(JOURNAL) && !text.contains('\n'), "{text}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 50, "{refused}");
    }
}

fn on_bytes(bytes: &[u8]) -> Result<Engine, Error> {
    let bytes = bytes.to_owned();
    let storage = move || {
        let memory = InMemoryBackend::new();
        memory.set_len(bytes.len() as u64)?;
        memory.write(0, &bytes).map(|()| memory)
    };
    Engine::on_storage(storage, &Config::default(), clock())
}

#[test]
fn a_damaged_row_is_named() {
    let [_, mut bytes] = open_and_closed();
    let places: Vec<usize> =
        (0..bytes.len() - 9).filter(|at| bytes[*at..].starts_with(b"reason 14")).collect();
    assert!(!places.is_empty());
    // Older copies of the page may lie about, too.
    places.iter().for_each(|at| bytes[at + 8] = b'5');
    let (directory, journal) = state();
    std::fs::write(&journal, &bytes).unwrap();
    let error = open(directory.path()).err().expect("it was opened all the same").to_string();
    for part in [journal.to_str().unwrap(), "principal  agent-14", "checksum", "restore it from a backup"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn rows_of_the_first_format_are_read_and_rewritten() {
    let (directory, journal) = state();
    let rows = [
        (
            "principal\0\0a",
            r#"{"level":"principal","target":"a","registers":{"revoked":[{"stamp":["2027-01-14T17:46:40.123Z","1"],"reason":"leaked"}],"cleared":null,"suspension":null}}"#,
        ),
        (
            "principal\0\0b",
            r#"{"level":"principal","target":"b","registers":{"suspension":[{"stamp":["2027-01-14T17:46:40.123Z","2"],"issued_before":5},true]}}"#,
        ),
        (
            "principal\0\0c",
            r#"{"level":"principal","target":"c","registers":{"suspension":[{"stamp":["2027-01-14T17:46:40.123Z","3"]},false]}}"#,
        ),
    ];
    let write = |rows: &[(&str, &str)]| {
        let database = redb::Database::open(&journal).unwrap();
        let transaction = database.begin_write().unwrap();
        let (meta, targets) = (redb::TableDefinition::<&str, u64>::new("meta"), TARGETS);
        transaction.open_table(meta).unwrap().insert("format", 1).unwrap();
        for (key, row) in rows {
            transaction.open_table(targets).unwrap().insert(*key, row.as_bytes()).unwrap();
        }
        transaction.commit().unwrap();
    };
    write(&rows);
    let read = contents(&open(directory.path()).unwrap());
    let state = |name: &str| {
        let (_, registers) = read.iter().find(|(target, _)| target.name() == name).unwrap();
        (registers.is_revoked(), registers.is_suspended())
    };
    assert_eq!([state("a"), state("b"), state("c")], [(true, false), (false, true), (false, false)]);
    // What was rewritten is the same, and an older version refuses it.
    let engine = open(directory.path()).unwrap();
    assert_eq!(contents(&engine), read);
    assert!(denied(&engine, "a") && denied(&engine, "A"), "what an earlier version wrote hits every case");
    drop(engine);
    let database = redb::Database::open(&journal).unwrap();
    let meta =
        database.begin_read().unwrap().open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap();
    assert_eq!(meta.get("format").unwrap().unwrap().value(), 3);
    drop((meta, database));
    write(&[("principal\0\0a", rows[1].1)]);
    let error = open(directory.path()).err().unwrap().to_string();
    assert!(error.contains("principal  a"), "{error}");
}

#[test]
fn a_read_only_disk_is_said_at_the_start() {
    let (_directory, journal) = state();
    // A root user writes to files whatever their mode: the storage itself refuses.
    let storage = {
        let journal = journal.clone();
        move || FileBackend::new(File::open(&journal)?).map_err(io::Error::other)
    };
    let error = Engine::on_storage(storage, &Config::default(), clock()).err().expect("it was opened");
    assert!(matches!(&error, Error::Open { error: JournalError::Write(_), .. }), "{error}");
}

#[test]
fn a_disk_that_becomes_read_only_denies_all_the_same_and_lifts_nothing() {
    let (directory, journal) = state();
    let disk = Disk::new();
    let engine = disk.engine(&journal).unwrap();
    assert_eq!(apply(&engine, event(Action::Suspend, "paused", 1)).unwrap().durable, Ok(()));
    disk.set(Mood::ReadOnly);
    let outcome = apply(&engine, event(Action::Revoke, "a", 2)).unwrap();
    assert!(
        matches!(&outcome.durable, Err(JournalError::Write(why)) if why.contains("read-only")),
        "{outcome:?}"
    );
    assert!(denied(&engine, "a") && !engine.is_durable());
    assert!(matches!(apply(&engine, event(Action::Reinstate, "paused", 3)), Err(Error::Journal(_))));
    assert!(denied(&engine, "paused"));
    disk.set(Mood::Well);
    wait_until(|| engine.is_durable());
    drop(engine);
    let engine = open(directory.path()).unwrap();
    assert!(denied(&engine, "a") && denied(&engine, "paused"));
}

/// The file after so many rounds of suspending and reinstating the same targets, and of targets that come and lapse.
#[test]
fn a_file_under_churn_does_not_grow() {
    let (directory, journal) = state();
    let clock = clock();
    let engine = Engine::open(directory.path(), &Config::default(), clock.clone()).unwrap();
    let mut sizes = Vec::new();
    for round in 0..24_i64 {
        let names = (0..10).map(|count| (format!("agent-{count}"), format!("brief-{round}-{count}")));
        for (steady, brief) in names {
            let at = clock.now().secs();
            let until = Some(clock.now().plus(Duration::from_secs(10)));
            let _ = apply(&engine, event(Action::Suspend, &steady, at)).unwrap();
            let _ = apply(&engine, event(Action::Reinstate, &steady, at + 1)).unwrap();
            let _ = apply(&engine, Event { expires_at: until, ..event(Action::Revoke, &brief, at) }).unwrap();
        }
        clock.advance(Duration::from_secs(1000));
        assert_eq!(engine.expire(), 10);
        sizes.push(std::fs::metadata(&journal).unwrap().len());
    }
    let (early, late) = (sizes[..8].iter().max(), sizes[20..].iter().max());
    assert!(late <= early, "{sizes:?}");
    drop(engine);
    assert_eq!(contents(&open(directory.path()).unwrap()).len(), 10);
}

/// Seen failing without the compaction at the start.
#[test]
fn a_file_that_is_mostly_empty_is_made_smaller_by_the_next_start() {
    let (directory, journal) = state();
    let clock = clock();
    let engine = Engine::open(directory.path(), &Config::default(), clock.clone()).unwrap();
    let until = Some(clock.now().plus(Duration::from_secs(10)));
    let large = (0..400).map(|count| {
        let reason = Some("r".repeat(50_000));
        engine.apply(Event {
            reason,
            expires_at: until,
            ..event(Action::Revoke, &format!("brief-{count}"), 1)
        })
    });
    let outcomes = runtime().block_on(futures_util::future::join_all(large));
    assert!(outcomes.into_iter().all(|outcome| outcome.unwrap().durable == Ok(())));
    clock.advance(Duration::from_secs(1000));
    assert_eq!(engine.expire(), 400);
    let _ = apply(&engine, event(Action::Revoke, "lasting", 1)).unwrap();
    // As a SIGKILL leaves it: an orderly end gives back what it can by itself.
    let killed = tempfile::tempdir().unwrap();
    let left = killed.path().join(JOURNAL);
    let before = std::fs::copy(&journal, &left).unwrap();
    let engine = Engine::open(killed.path(), &Config::default(), clock.clone()).unwrap();
    assert!(denied(&engine, "lasting") && contents(&engine).len() == 1);
    let after = std::fs::metadata(&left).unwrap().len();
    assert!(before > 16 << 20 && after < before / 4, "from {before} to {after}");
}

#[test]
fn tombstones_leave_memory_and_file_and_what_comes_too_late_stands() {
    let (directory, journal) = state();
    let clock = clock();
    let config = Config { remember: Duration::from_secs(3600), ..Config::default() };
    let open = || Engine::open(directory.path(), &config, clock.clone()).unwrap();
    let engine = open();
    let start = clock.now().secs();
    let suspended = event(Action::Suspend, "a", start);
    let _ = apply(&engine, suspended.clone()).unwrap();
    let lifted = Event { force: true, ..event(Action::Reinstate, "a", start + 1) };
    let _ = apply(&engine, lifted).unwrap();
    clock.advance(Duration::from_secs(3600));
    assert_eq!(engine.expire(), 0);
    let _ = apply(&engine, suspended.clone()).unwrap();
    assert!(!denied(&engine, "a"), "a late duplicate undid the reinstatement");
    assert_eq!(contents(&engine).len(), 1);
    clock.advance(Duration::from_secs(1));
    assert_eq!((engine.expire(), contents(&engine).len()), (0, 0));
    drop(engine);
    let database = redb::Database::open(&journal).unwrap();
    assert!(database.begin_read().unwrap().open_table(TARGETS).unwrap().is_empty().unwrap());
    drop(database);
    let engine = open();
    let _ = apply(&engine, suspended).unwrap();
    assert!(denied(&engine, "a"), "in doubt it is denied");
}

#[test]
fn a_newer_format_is_refused() {
    let error = refusal(|journal| {
        let database = redb::Database::open(journal).unwrap();
        let transaction = database.begin_write().unwrap();
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        transaction.open_table(meta).unwrap().insert("format", 4).unwrap();
        transaction.commit().unwrap();
    });
    assert!(error.contains("format 4 is newer"), "{error}");
}

#[test]
fn another_database_is_not_a_journal() {
    let error = refusal(|journal| {
        std::fs::remove_file(journal).unwrap();
        let database = redb::Database::create(journal).unwrap();
        assert!(database.begin_read().is_ok());
    });
    assert!(error.contains("not a journal"), "{error}");
}

#[test]
fn two_never_share_a_state_directory() {
    let (directory, journal) = state();
    let first = open(directory.path()).unwrap();
    let error = open(directory.path()).err().unwrap();
    assert!(
        matches!(&error, Error::Open { path, error: JournalError::InUse } if *path == journal),
        "{error}"
    );
    drop(first);
    assert!(open(directory.path()).is_ok());
}

#[test]
fn a_journal_that_was_never_finished_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    // Creations that were killed before their end, by this version and by older ones.
    for leftover in ["revocations.redb.new", "revocations.redb.new-0123456789abcdef"] {
        File::create(directory.path().join(leftover)).unwrap().write_all(b"half").unwrap();
    }
    assert_eq!(open(directory.path()).unwrap().entries(), 0);
    let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), [JOURNAL]);
}

/// Seen failing with one name for all and a rename: they took each other's files away, and none started.
#[test]
fn of_first_starts_at_once_one_has_the_journal() {
    for round in 0..50 {
        let directory = tempfile::tempdir().unwrap();
        let ready = Barrier::new(4);
        let opened: Vec<_> = std::thread::scope(|scope| {
            let starting = || {
                ready.wait();
                open(directory.path())
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(starting)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (engines, errors): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
        assert_eq!(engines.len(), 1, "round {round}");
        for error in errors.into_iter().filter_map(Result::err) {
            assert!(matches!(error, Error::Open { error: JournalError::InUse, .. }), "{error}");
        }
        for engine in engines.into_iter().flatten() {
            assert_eq!(apply(&engine, event(Action::Revoke, "a", 1)).unwrap().durable, Ok(()));
        }
        assert!(denied(&open(directory.path()).unwrap(), "a"), "round {round}: it was replaced");
    }
}
