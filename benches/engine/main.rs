//! What the revocation set costs: `cargo bench --bench engine -- [--entries N] [--rounds N] [--only set|lists] [--json]`.
//! `--probe` does nothing but lookups that miss, for `valgrind --tool=callgrind --toggle-collect='*only_misses*'`.
//!
//! Three subjects, in turns, round by round: the set of the engine; `dashmap`; and `hashbrown`, which is the standard
//! library's `HashSet`: bare where it is read, behind an `ArcSwap` that each publication clones where it is written. The
//! others need not hash: fingerprints are hashes already. Figures are medians of rounds; times are nanoseconds, with what
//! it takes to read the clock taken off. `bytes_per_entry` and `rebuild_peak_bytes_per_entry` are what the resident memory
//! of a fresh process grew by (`/proc/self/statm`), what building left with the allocator included; `bytes_exact` is what
//! the tables themselves say.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run says so by a panic")]

mod lists;
mod subjects;

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use portcullis::clock::Clock;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::session::Credential;
use portcullis::session::Origin;
use serde_json::json;
use subjects::Brown;
use subjects::Credentials;
use subjects::Dash;
use subjects::Portcullis;
use subjects::Subject;

/// Credentials that are looked up in a round; their fingerprints lie all over the tables.
const LOOKUPS: u64 = 200_000;
/// Lookups that are timed together: the median of blocks leaves out those in which something else ran on this core.
const BLOCK: usize = 500;
/// How long readers are watched while a bulk replacement runs, at least.
const WATCH: Duration = Duration::from_millis(500);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, subject, list, ca] = arguments.as_slice()
        && flag == "--ingest"
    {
        return lists::ingest(subject, list.as_ref(), ca.as_ref());
    }
    if arguments.iter().any(|argument| argument == "--probe") {
        let (set, misses) = (Portcullis::build(100_000), Credentials::unknown(LOOKUPS));
        return println!("{} of {LOOKUPS} credentials are revoked", only_misses(&set, &misses));
    }
    let options = Options::parse();
    match options.memory.as_deref() {
        Some(Portcullis::NAME) => return memory::<Portcullis>(options.entries),
        Some(Dash::NAME) => return memory::<Dash>(options.entries),
        Some(_) => return memory::<Brown>(options.entries),
        None => {}
    }
    let mut report = Report { entries: options.entries, figures: BTreeMap::new() };
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        if options.asks_for("set") {
            subject::<Portcullis>(&mut report);
            subject::<Dash>(&mut report);
            subject::<Brown>(&mut report);
            unchanged(&mut report);
        }
        if options.asks_for("lists") {
            lists::measure(&mut report);
        }
    }
    if options.json { report.lines() } else { report.table() }
}

#[inline(never)]
fn only_misses(set: &Portcullis, misses: &Credentials) -> usize {
    misses.iter().filter(|prints| set.denies(prints)).count()
}

struct Options {
    entries: u64,
    rounds: usize,
    json: bool,
    only: Option<String>,
    /// Only that subject's memory is measured: what this program asks of another of its kind, which has used none yet.
    memory: Option<String>,
}

impl Options {
    fn asks_for(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }

    fn parse() -> Self {
        let mut options = Self { entries: 1_000_000, rounds: 5, json: false, only: None, memory: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--memory" {
                options.memory = arguments.next();
                continue;
            }
            let mut number =
                || arguments.next().and_then(|n| n.replace('_', "").parse().ok()).expect("a number");
            match argument.as_str() {
                "--entries" => options.entries = number(),
                "--rounds" => options.rounds = usize::try_from(number()).expect("a small number"),
                "--json" => options.json = true,
                "--only" => options.only = arguments.next(),
                _ => {} // cargo's own
            }
        }
        options
    }
}

/// One round of one subject.
fn subject<S: Subject>(report: &mut Report) {
    let entries = report.entries;
    let (bytes, peak) = memory_of::<S>(entries);
    report.value::<S>("bytes_per_entry", bytes);
    report.value::<S>("rebuild_peak_bytes_per_entry", peak);
    let (subject, built_in) = timed(|| S::build(entries));
    let per_entry = |bytes: u64| bytes as f64 / entries as f64;
    report.value::<S>("build_ns", per_entry(built_in));
    if let Some(bytes) = subject.bytes() {
        report.value::<S>("bytes_exact", per_entry(bytes));
    }
    let misses = Credentials::unknown(LOOKUPS);
    lookups(report, "miss6_ns", &subject, &misses);
    lookups(report, "hit_ns", &subject, &Credentials::known(LOOKUPS, entries));
    report.times::<S>("reader_idle_ns", watched(&subject, &misses, WATCH, || {}));
    report
        .times::<S>("reader_bulk_ns", watched(&subject, &misses, WATCH, || subject.replace_in_bulk(entries)));
    publications(report, &subject);
    if let Some(bytes) = subject.bytes() {
        report.value::<S>("bytes_exact_grown", bytes as f64 / (entries + S::publications(entries)) as f64);
    }
    subject.settle();
}

fn lookups<S: Subject>(report: &mut Report, metric: &'static str, subject: &S, credentials: &Credentials) {
    let in_block = |block: &[_]| {
        timed(|| black_box(block.iter().filter(|prints| subject.denies_bare(prints)).count())).1
    };
    let mut blocks: Vec<u64> = credentials.all().chunks_exact(BLOCK).map(in_block).collect();
    report.value::<S>(metric, percentile(&mut blocks, 0.5) as f64 / BLOCK as f64);
    let single = |prints| timed(|| black_box(subject.denies_bare(prints))).1;
    report.times::<S>(metric, credentials.iter().map(single).collect());
}

/// What each lookup took while `work` was done again and again, for at least so long.
fn watched<S: Subject>(
    subject: &S,
    credentials: &Credentials,
    least: Duration,
    work: impl Fn() + Sync,
) -> Vec<u64> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let started = Instant::now();
            while started.elapsed() < least {
                work();
                // Idle, it must not keep the other core busy.
                thread::park_timeout(Duration::from_millis(1));
            }
            done.store(true, Ordering::Release);
        });
        let mut times = Vec::with_capacity(1 << 22);
        let endless = std::iter::repeat(credentials).flat_map(Credentials::iter);
        for prints in endless.take_while(|_| !done.load(Ordering::Relaxed)) {
            times.push(timed(|| black_box(subject.denies(prints))).1);
        }
        times
    })
}

/// One after the other, as fast as it goes, far enough for the table to grow meanwhile.
fn publications<S: Subject>(report: &mut Report, subject: &S) {
    let (from, count) = (report.entries, S::publications(report.entries));
    let started = Instant::now();
    let publish = |number| timed(|| subject.publish(subjects::print(number))).1;
    let times: Vec<u64> = (from..from + count).map(publish).collect();
    report.value::<S>("publish_per_s", count as f64 / started.elapsed().as_secs_f64());
    report.value::<S>("publish_max_ns", times.iter().copied().max().unwrap_or_default() as f64);
    report.times::<S>("publish_ns", times);
    assert!(subject.denies(&[subjects::print(from + count - 1); 6]), "what was published is not found");
}

/// Bytes an entry: once the subject is built, and at most while it grows, over the entries that it has at that time.
fn memory_of<S: Subject>(entries: u64) -> (f64, f64) {
    let program = std::env::current_exe().expect("this program");
    let asked = Command::new(program).args(["--memory", S::NAME, "--entries", &entries.to_string()]).output();
    let told = String::from_utf8(asked.expect("an answer").stdout).expect("text");
    let mut figures = told.split_whitespace().map(|figure| figure.parse().expect("a figure"));
    (figures.next().expect("the bytes"), figures.next().expect("the peak"))
}

fn memory<S: Subject>(entries: u64) {
    let before = resident();
    let per_entry = |known: u64| resident().saturating_sub(before) as f64 / known as f64;
    let subject = S::build(entries);
    let built = per_entry(entries);
    let (done, published) = (AtomicBool::new(false), AtomicU64::new(entries));
    let peak = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0.0_f64;
            while !done.load(Ordering::Acquire) {
                peak = peak.max(per_entry(published.load(Ordering::Relaxed)));
                thread::park_timeout(Duration::from_micros(500));
            }
            peak
        });
        for number in entries..entries + S::publications(entries) {
            subject.publish(subjects::print(number));
            published.store(number + 1, Ordering::Relaxed);
        }
        subject.settle();
        done.store(true, Ordering::Release);
        watcher.join().expect("the watcher")
    });
    println!("{built} {peak}");
}

/// A request on a session whose set has not moved, beside a bare load.
fn unchanged(report: &mut Report) {
    let engine = Engine::in_memory(&Config::default(), Clock::default()).expect("an engine");
    let origin = Origin { peer: ([127, 0, 0, 1], 1).into(), listener: "gate", protocol: "http/1.1" };
    let guard = engine.admit(Arc::new(Credential::default()), origin).expect("a session");
    let session = guard.session();
    let generation = AtomicUsize::new(0);
    // The same number of pointers is hidden from the compiler in both.
    let both = (&engine, session);
    let check = || {
        let (engine, session) = black_box(both);
        engine.check(session).is_err()
    };
    let two = (&generation, session);
    let load = || black_box(two).0.load(Ordering::Acquire) == 1;
    report.put("unchanged_ns", "portcullis", "value", in_blocks(check));
    report.put("unchanged_ns", "atomic load", "value", in_blocks(load));
}

fn in_blocks(work: impl Fn() -> bool) -> f64 {
    const TIMES: usize = 10_000;
    let block = |_| timed(|| assert_eq!((0..TIMES).filter(|_| work()).count(), 0)).1;
    let mut blocks: Vec<u64> = (0..1000).map(block).collect();
    percentile(&mut blocks, 0.5) as f64 / TIMES as f64
}

/// Nanoseconds, without those that it takes to read the clock.
fn timed<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let started = Instant::now();
    let result = work();
    let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    (result, took.saturating_sub(clock_overhead()))
}

fn clock_overhead() -> u64 {
    static OVERHEAD: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *OVERHEAD.get_or_init(|| {
        let mut times: Vec<_> = (0..100_000).map(|_| Instant::now().elapsed().as_nanos() as u64).collect();
        percentile(&mut times, 0.5)
    })
}

fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096
}

fn percentile(times: &mut [u64], part: f64) -> u64 {
    let at = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
    if times.is_empty() { 0 } else { *times.select_nth_unstable(at).1 }
}

/// The rounds' figures by metric, subject and kind.
struct Report {
    entries: u64,
    figures: BTreeMap<(&'static str, &'static str), BTreeMap<&'static str, Vec<f64>>>,
}

impl Report {
    fn put(&mut self, metric: &'static str, subject: &'static str, kind: &'static str, figure: f64) {
        self.figures.entry((metric, subject)).or_default().entry(kind).or_default().push(figure);
    }

    fn value<S: Subject>(&mut self, metric: &'static str, figure: f64) {
        self.put(metric, S::NAME, "value", figure);
    }

    fn times<S: Subject>(&mut self, metric: &'static str, mut times: Vec<u64>) {
        for (kind, part) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            self.put(metric, S::NAME, kind, percentile(&mut times, part) as f64);
        }
    }

    /// Medians of rounds.
    fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str, BTreeMap<&'static str, f64>)> {
        self.figures.iter().map(|((metric, subject), kinds)| {
            let median = |figures: &Vec<f64>| {
                let mut figures = figures.clone();
                figures.sort_by(f64::total_cmp);
                figures.get(figures.len() / 2).copied().unwrap_or_default()
            };
            (*metric, *subject, kinds.iter().map(|(kind, figures)| (*kind, median(figures))).collect())
        })
    }

    fn lines(&self) {
        for (metric, subject, kinds) in self.rows() {
            let mut line = json!({ "metric": metric, "subject": subject, "entries": self.entries });
            kinds.iter().for_each(|(kind, figure)| line[kind] = json!((figure * 100.0).round() / 100.0));
            println!("{line}");
        }
    }

    fn table(&self) {
        println!("{} entries", self.entries);
        println!("{:<30}{:<14}{:>14}{:>12}{:>12}{:>12}", "metric", "subject", "value", "p50", "p99", "p99.9");
        for (metric, subject, kinds) in self.rows() {
            let cell = |kind| kinds.get(kind).map_or(String::new(), |figure| format!("{figure:.1}"));
            let [value, p50, p99, p999] = ["value", "p50", "p99", "p999"].map(cell);
            println!("{metric:<30}{subject:<14}{value:>14}{p50:>12}{p99:>12}{p999:>12}");
        }
    }
}
