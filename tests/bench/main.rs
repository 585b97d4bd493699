//! `portcullis bench revocation`, run as its users run it, with small numbers: what it counts, what it says of itself, and
//! what it leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use portcullis::rig::bench::revocation;
use portcullis::rig::bench::revocation::FeedOptions;
use portcullis::rig::bench::revocation::Mode;
use portcullis::rig::bench::revocation::Options;
use portcullis::rig::findings::Findings;
use portcullis::rig::findings::Fleet;
use portcullis::rig::findings::Found;
use portcullis::rig::findings::Kind;
use portcullis::rig::findings::Revocations;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;
use tempfile::TempDir;
use tokio::time::sleep;

const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");
const KINDS: [Kind; 5] = [Kind::Http1, Kind::Http2, Kind::Stream, Kind::Body, Kind::WebSocket];

/// One fleet at a time: a machine that is too slow for the rate is told so, and that is no fault.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A benchmark whose temporary files go into a directory of the test's own.
fn bench(temporary: &TempDir, arguments: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["bench", "revocation"]).args(arguments.split(' ')).env("TMPDIR", temporary.path());
    // Not for the gates: they would not start.
    command.env("PORTCULLIS__GATE__LISTEN", "nonsense");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs one to its end; nothing is left of it.
fn run(arguments: &str) -> Output {
    let temporary = tempfile::tempdir().unwrap();
    let output = bench(&temporary, arguments).output().unwrap();
    assert_nothing_left(&temporary);
    output
}

fn assert_nothing_left(temporary: &TempDir) {
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    assert_eq!(gates(temporary.path()), Vec::<i32>::new());
}

/// The processes that run with a configuration in this directory.
fn gates(directory: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        // Others come and go.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(directory.to_str().unwrap()) {
            found.extend(entry.file_name().to_str().unwrap().parse::<i32>());
        }
    }
    found
}

fn found(output: &Output) -> Revocations {
    let (told, complaint) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{told}{complaint}");
    assert_eq!((told.lines().count(), complaint.as_str()), (1, ""));
    let findings: Findings = serde_json::from_str(&told).unwrap();
    match findings.found {
        Found::Revocations(found) => found,
        other => panic!("{other:?}"),
    }
}

/// Whether everything was counted that there was to count.
fn assert_whole(fleet: &Fleet, gates: usize, revocations: u64) {
    assert_eq!(fleet.gates.len(), gates);
    for times in fleet.gates.iter().chain([&fleet.last_gate, &fleet.since_sent, &fleet.answered]) {
        assert_eq!((times.count, times.never), (revocations, 0));
        assert!(times.p50_us > 0.0 && times.p50_us <= times.p999_us && times.p999_us <= times.max_us);
        assert!(!times.ecdf.is_empty());
    }
    let kinds: Vec<Kind> = fleet.kinds.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, KINDS);
    let counted: u64 = fleet.kinds.iter().map(|(_, times)| times.count).sum();
    assert_eq!(counted, revocations * gates as u64);
    assert_eq!(fleet.served_after_answer, 0);
    assert!(fleet.tried_after_answer >= revocations * gates as u64);
    assert_eq!(fleet.bystander_errors, 0);
    assert!(fleet.requests_per_second > 0.0 && fleet.cpu_seconds > 0.0 && fleet.memory > 0);
}

fn measure(arguments: &str) -> Revocations {
    let _turn = turn();
    let small = "--gates 1,2 --revocations 20 --connections 8 --entries 1000 --window 20s --json";
    let found = found(&run(&format!("{small} {arguments}")));
    assert_eq!((found.entries, found.connections, found.fleets.len()), (1000, 8, 2));
    assert_whole(&found.fleets[0], 1, 20);
    assert_whole(&found.fleets[1], 2, 20);
    found
}

#[test]
fn every_call_is_counted_on_every_gate() {
    let found = measure("--feed admin");
    assert_eq!(found.feed, "admin");
    // Each journal has put each of them on record.
    assert_eq!(found.fleets[0].durable.count, 20);
    assert_eq!(found.fleets[1].durable.count, 40);
}

#[test]
fn every_message_is_counted_on_every_gate() {
    let found = measure("--feed sqs --pace 1ms");
    assert_eq!(found.feed, "sqs");
    assert_eq!(found.fleets[1].durable.count, 40);
}

/// Queues that are not its own: the benchmark sends to them, and the gates say when they have deleted a message.
#[test]
fn queues_elsewhere_do_as_well() {
    let _turn = turn();
    let queues = [(); 2].map(|()| Queue::start(Settings::default()).unwrap());
    // More than there are gates: the last is left alone.
    let urls = queues.iter().map(Queue::url).collect::<Vec<_>>().join(",");
    let temporary = tempfile::tempdir().unwrap();
    let endpoint = format!("http://{}", queues[0].address());
    let arguments = format!(
        "--feed sqs --gates 1 --queue-url {urls} --sqs-endpoint {endpoint} --revocations 5 --connections 2 --window 20s --json"
    );
    let mut command = bench(&temporary, &arguments);
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "us-east-1");
    let found = found(&command.output().unwrap());
    assert_whole(&found.fleets[0], 1, 5);
    assert_eq!((queues[0].deleted().len(), queues[1].deleted().len()), (5, 0));
    assert_nothing_left(&temporary);
}

#[test]
fn every_list_is_counted_on_every_gate() {
    let found = measure("--feed crl --interval 1s");
    assert_eq!(found.feed, "crl");
}

#[test]
fn a_person_gets_a_table_and_a_report() {
    let _turn = turn();
    let temporary = tempfile::tempdir().unwrap();
    let report = temporary.path().join("report.html");
    let output =
        run(&format!("--gates 2 --revocations 5 --connections 4 --window 20s --report {}", report.display()));
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}{}", text(&output.stderr));
    for name in ["last gate", "gate 1", "HTTP/2 stream", "WebSocket", "journal's commit"] {
        assert!(told.lines().any(|line| line.starts_with(name)), "{name}: {told}");
    }
    assert!(told.contains("after the answer: 0 of "), "{told}");
    assert!(report.exists());
}

/// Gates in advisory mode refuse nobody, so every revocation is "never", on every kind of connection, and what is tried
/// after the answer is served. Whatever was measured wrong in favour of the gate would show here.
#[test]
fn gates_that_let_everybody_be_are_told_so() {
    let _turn = turn();
    let options = Options {
        portcullis: PROGRAM.into(),
        gates: vec![2],
        feed: FeedOptions::Admin,
        entries: 0,
        connections: 4,
        rate: 10.0,
        revocations: 5,
        window: Duration::from_secs(1),
        pace: Duration::ZERO,
        mode: Mode::Advisory,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(revocation::run(&options, &|| {}, std::future::pending())).unwrap();
    let fleet = &found.fleets[0];
    for times in fleet.gates.iter().chain([&fleet.last_gate, &fleet.since_sent]) {
        assert_eq!((times.count, times.never), (0, 5));
    }
    assert_eq!(fleet.kinds.len(), KINDS.len());
    for (kind, times) in &fleet.kinds {
        assert_eq!((times.count, times.never), (0, 2), "{kind}");
    }
    // Over each connection, and over a new one.
    assert!(fleet.served_after_answer >= 2 * 5 * 2, "{}", fleet.served_after_answer);
    assert_eq!(fleet.served_after_answer, fleet.tried_after_answer);
    assert_eq!(fleet.bystander_errors, 0);
}

#[test]
fn what_cannot_be_measured_is_a_usage_error() {
    let wrong = [
        ("--gates 0", "--gates"),
        ("--gates 1,0", "--gates"),
        ("--rate 0", "--rate"),
        ("--rate nan", "--rate"),
        ("--feed pigeon", "pigeon"),
        ("--revocations 0", "revocations"),
        ("--revocations 5 --seconds 5", "--seconds"),
        ("--feed crl --interval 10ms", "--interval"),
        ("--queue-url http://127.0.0.1:1/q", "--queue-url"),
        ("--feed sqs --gates 2 --queue-url http://127.0.0.1:1/q", "one for each gate"),
        ("--window 0s", "--window"),
    ];
    for (arguments, named) in wrong {
        let output = run(arguments);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {complaint}");
        assert!(complaint.contains(named) && output.stdout.is_empty(), "{arguments}: {complaint}");
    }
}

#[test]
fn more_connections_than_open_files_are_refused_early() {
    let output = run("--connections 100000000");
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint.contains("ulimit -n"), "{complaint}");
}

#[test]
fn a_gate_that_cannot_start_is_told_with_its_log() {
    let temporary = tempfile::tempdir().unwrap();
    let broken = temporary.path().join("broken");
    fs::write(&broken, "#!/bin/sh\necho the disk is on fire >&2\nexit 7\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o700)).unwrap();
    let output = run(&format!("--portcullis {}", broken.display()));
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint.contains("gate 0 has ended"), "{complaint}");
    assert!(complaint.contains("the disk is on fire"), "{complaint}");
    let output = run("--portcullis /nowhere/portcullis");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nowhere/portcullis"));
}

/// A benchmark that is under way; ended if the test fails.
struct Live {
    child: Child,
    temporary: TempDir,
}

impl Live {
    /// Starts one, and waits until its gate has put a revocation on record.
    async fn at_work() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = bench(&temporary, "--gates 1 --seconds 600 --connections 4 --json");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut live = Self { child, temporary };
        while !live.has_revoked() {
            assert!(live.child.try_wait().unwrap().is_none(), "it has ended");
            sleep(Duration::from_millis(5)).await;
        }
        live
    }

    fn has_revoked(&self) -> bool {
        let directory = fs::read_dir(self.temporary.path()).unwrap().flatten().next();
        let audit = directory.map(|entry| entry.path().join("0-of-1/state/audit.jsonl"));
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        audit.is_some_and(|path| read(path).contains(r#""action":"revoke""#))
    }

    /// Waits for its end: the exit code, and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let (out, err) = (self.child.stdout.take().unwrap(), self.child.stderr.take().unwrap());
        let complaint = std::io::read_to_string(err).unwrap();
        assert_eq!(std::io::read_to_string(out).unwrap(), "");
        let code = self.child.wait().unwrap().code();
        assert_nothing_left(&self.temporary);
        (code, complaint)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for gate in gates(self.temporary.path()) {
            let _ = kill(Pid::from_raw(gate), Signal::SIGKILL);
        }
    }
}

#[test]
fn an_interrupted_one_leaves_nothing() {
    let _turn = turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let live = runtime.block_on(Live::at_work());
    assert_eq!(gates(live.temporary.path()).len(), 1);
    kill(Pid::from_raw(live.child.id().cast_signed()), Signal::SIGINT).unwrap();
    let (code, complaint) = live.end();
    assert_eq!(code, Some(1));
    assert!(complaint.contains("interrupted"), "{complaint}");
}

#[test]
fn a_gate_that_dies_is_the_reason() {
    let _turn = turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let live = runtime.block_on(Live::at_work());
    for gate in gates(live.temporary.path()) {
        kill(Pid::from_raw(gate), Signal::SIGKILL).unwrap();
    }
    let (code, complaint) = live.end();
    assert_eq!(code, Some(1));
    assert!(complaint.contains("gate 0 has ended"), "{complaint}");
}
