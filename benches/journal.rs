//! What the journal costs: `cargo bench --bench journal`, with the number of rows behind `--`, and `--json` for one
//! object a line. The state lies in the current directory, whose disk is what is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench that cannot run says so")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream;
use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use serde_json::Value;
use serde_json::json;
use tokio::runtime::Runtime;

const JOURNAL: &str = "revocations.redb";
const START: i64 = 1_800_000_000;
/// How many appends are under way at once where rows are made.
const AT_ONCE: usize = 4096;
/// How many appends are timed one after the other.
const ALONE: u64 = 2000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [asked, directory, ..] = arguments.as_slice()
        && asked == "open"
    {
        return opened(Path::new(directory));
    }
    let rows = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let json = arguments.iter().any(|argument| argument == "--json");
    let say = |what: &str, figures: Value| match json {
        true => println!("{}", json!({"what": what, "rows": rows, "figures": figures})),
        false => println!("{what}: {figures}"),
    };
    let directory = tempfile::tempdir_in(".").unwrap();
    say("appends, one after the other", alone(directory.path()));
    say("appends, 1,000 at once", at_once(directory.path()));
    say("rows made", filled(directory.path(), rows));
    for _ in 0..3 {
        say("open", open_in_child(directory.path(), rows));
    }
    say("appends on top, one after the other", alone(directory.path()));
    say("revocations while all rows lapse", lapsing(rows));
    say("churn over a thousandth of the rows", churned((rows / 1000).max(1)));
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn open(directory: &Path) -> Engine {
    let clock = Clock::manual(Timestamp::from_secs(START));
    Engine::open(directory, &Config::default(), clock).unwrap()
}

/// As an administrator or a feed would revoke an agent.
fn event(kind: &str, count: u64) -> Event {
    let name = format!("spiffe://lab.test/{kind}/agent-{count:07}");
    let target = Target::parse(Level::Principal, &name, None).unwrap();
    Event {
        reason: Some("key compromise".into()),
        actor: Some("spiffe://lab.test/admin/ops".into()),
        source: Some("admin".into()),
        ..Event::new(Action::Revoke, target, Timestamp::from_secs(START))
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// In milliseconds.
fn spread(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |share: usize| millis(times[(times.len() * share / 100).min(times.len() - 1)]);
    json!({"p50_ms": at(50), "p99_ms": at(99), "max_ms": at(100)})
}

fn alone(directory: &Path) -> Value {
    let engine = open(directory);
    let runtime = runtime();
    let times = (0..ALONE).map(|count| {
        let outcome = runtime.block_on(engine.apply(event("alone", count))).unwrap();
        assert_eq!(outcome.durable, Ok(()));
        outcome.durable_after
    });
    spread(times.collect())
}

fn at_once(directory: &Path) -> Value {
    let engine = open(directory);
    let times = (0..20_u64).flat_map(|round| {
        let events = (0..1000).map(|count| engine.apply(event("at-once", round * 1000 + count)));
        let outcomes = runtime().block_on(futures_util::future::join_all(events));
        outcomes.into_iter().map(|outcome| outcome.unwrap().durable_after)
    });
    spread(times.collect())
}

fn filled(directory: &Path, rows: u64) -> Value {
    let engine = open(directory);
    let started = Instant::now();
    let events = stream::iter(0..rows).map(|count| engine.apply(event("row", count)));
    let outcomes = events.buffer_unordered(AT_ONCE).map(|outcome| outcome.unwrap());
    let times: Vec<Duration> = runtime().block_on(outcomes.map(|outcome| outcome.effective_after).collect());
    let seconds = started.elapsed().as_secs_f64();
    json!({"a_second": (rows as f64 / seconds).round(), "effective": spread(times)})
}

/// In a process of its own, so that nothing else is in its memory.
fn open_in_child(directory: &Path, rows: u64) -> Value {
    let bytes = std::fs::metadata(directory.join(JOURNAL)).unwrap().len();
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).arg("open").arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    figures["file_bytes_a_row"] = json!((bytes as f64 / rows as f64).round());
    figures
}

fn opened(directory: &Path) {
    let started = Instant::now();
    let engine = open(directory);
    let seconds = millis(started.elapsed()) / 1e3;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap() / 1024
    };
    let figures = json!({
        "seconds": seconds, "entries": engine.entries(), "rss_mib": mib("VmRSS:"), "peak_mib": mib("VmHWM:"),
    });
    println!("{figures}");
}

/// How soon revocations are in effect while everything that is known has its time at once.
fn lapsing(rows: u64) -> Value {
    let clock = Clock::manual(Timestamp::from_secs(START));
    let engine = Arc::new(Engine::in_memory(&Config::default(), clock.clone()).unwrap());
    let until = Some(Timestamp::from_secs(START + 10));
    let events = stream::iter(0..rows)
        .map(|count| engine.apply(Event { expires_at: until, ..event("brief", count) }))
        .buffer_unordered(AT_ONCE);
    runtime().block_on(events.for_each(|_| std::future::ready(())));
    clock.advance(Duration::from_secs(1000));
    let expiring = {
        let engine = Arc::clone(&engine);
        std::thread::spawn(move || {
            let started = Instant::now();
            (engine.expire(), started.elapsed())
        })
    };
    let mut times = Vec::new();
    let runtime = runtime();
    while !expiring.is_finished() || times.is_empty() {
        let mut applied = std::pin::pin!(engine.apply(event("meanwhile", times.len() as u64)));
        let started = Instant::now();
        let entered = runtime.enter();
        // The first poll publishes, kills, and hands the event to the journal.
        let polled = applied.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        times.push(started.elapsed());
        drop(entered);
        assert!(polled.is_pending());
    }
    let (lapsed, took) = expiring.join().unwrap();
    json!({"lapsed": lapsed, "took_ms": millis(took), "revocations": times.len(), "effective": spread(times)})
}

/// How the file grows while the same targets are suspended and reinstated again and again.
fn churned(targets: u64) -> Value {
    let directory = tempfile::tempdir_in(".").unwrap();
    let engine = open(directory.path());
    let runtime = runtime();
    let mut sizes = Vec::new();
    for round in 0..200_i64 {
        for (action, odd) in [(Action::Suspend, 0), (Action::Reinstate, 1)] {
            let at = Timestamp::from_secs(START - 1000 + round * 2 + odd);
            let events =
                (0..targets).map(|count| engine.apply(Event { action, at, ..event("churn", count) }));
            let outcomes = runtime.block_on(futures_util::future::join_all(events));
            assert!(outcomes.into_iter().all(|outcome| outcome.is_ok_and(|outcome| outcome.durable.is_ok())));
        }
        sizes.push(std::fs::metadata(directory.path().join(JOURNAL)).unwrap().len() / 1024);
    }
    let at = |round: usize| sizes[round - 1];
    json!({"events": targets * 400, "kib_after_rounds": {"1": at(1), "10": at(10), "100": at(100), "200": at(200)}})
}
