//! `portcullis bench revocation`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::ValueEnum;

use crate::cli::REFUSED;
use crate::cli::USAGE;
use crate::cli::complain;
use crate::cli::output::Page;
use crate::cli::output::counted;
use crate::cli::output::write_out;
use crate::cli::progress;
use crate::cli::signals::Signals;
use crate::clock::Clock;
use crate::rig::bench::revocation;
use crate::rig::bench::revocation::FeedOptions;
use crate::rig::bench::revocation::Mode;
use crate::rig::bench::revocation::Options;
use crate::rig::findings::Distribution;
use crate::rig::findings::FORMAT;
use crate::rig::findings::Findings;
use crate::rig::findings::Fleet;
use crate::rig::findings::Found;
use crate::rig::findings::Revocations;
use crate::rig::report;
use crate::rig::setup::setup;

/// The most gates of one fleet.
const MOST_GATES: usize = 256;
/// The most revocations: each has a certificate, which is kept in memory.
const MOST_REVOCATIONS: f64 = 1e6;
/// The most entries: their serials, and the list of them, are kept in memory.
const MOST_ENTRIES: u64 = 10_000_000;

/// A benchmark.
#[derive(Debug, Args)]
pub(in crate::cli) struct RevocationArgs {
    /// How many gates, one fleet after the other.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1")]
    gates: Vec<usize>,
    /// How revocations come to them: by a call to each, by a queue for each, by a list that each looks at.
    #[arg(long, value_enum, default_value_t = FeedName::Admin)]
    feed: FeedName,
    /// Use these queues instead of some in this process, one for each gate; with the credentials of the environment.
    #[arg(long, value_name = "URL,...", value_delimiter = ',')]
    queue_url: Vec<String>,
    /// Where the API of those queues is, if not at the region's address.
    #[arg(long, value_name = "URL", requires = "queue_url")]
    sqs_endpoint: Option<String>,
    /// How often each gate looks at the list; at least 1s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// How many entries each gate holds before anything is measured.
    #[arg(long, value_name = "N", default_value_t = 0)]
    entries: u64,
    /// Live connections of others, to all gates together; each asks once a second.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    connections: usize,
    /// Revocations a second.
    #[arg(long, value_name = "N", default_value_t = 20.0)]
    rate: f64,
    /// For how long revocations come.
    #[arg(long, value_name = "N", default_value_t = 10.0, conflicts_with = "revocations")]
    seconds: f64,
    /// How many revocations, instead.
    #[arg(long, value_name = "N")]
    revocations: Option<usize>,
    /// How long an agent that was revoked is watched until it counts as never refused; with a list, an interval longer.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    window: Duration,
    /// How long an agent that is about to be revoked rests between an answer and its next request; 0s: it asks as fast as
    /// it is answered. With many gates on few processors that alone keeps these busy.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pace: Duration,
    /// The program that is measured; default: this one.
    #[arg(long, value_name = "FILE")]
    portcullis: Option<PathBuf>,
    /// What it is called beside others.
    #[arg(long, value_name = "TEXT", default_value = "portcullis")]
    label: String,
    /// Print one JSON object, and nothing else.
    #[arg(long)]
    json: bool,
    /// Write the report, too.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// How revocations come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FeedName {
    Admin,
    Sqs,
    Crl,
}

impl RevocationArgs {
    /// Measures, prints, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        let options = match self.options() {
            Ok(options) => options,
            Err(wrong) => {
                complain(&format_args!("bench revocation: {wrong}"));
                return USAGE;
            }
        };
        let at = Clock::system().now();
        match self.measure(&options) {
            Ok(found) => {
                let found = Found::Revocations(found);
                let (format, label, setup) = (FORMAT, self.label.clone(), setup());
                self.tell(&Findings { format, label, at, setup, found })
            }
            Err(error) => {
                // The log of a gate has several lines.
                let text = format!("{error:#}");
                text.lines().for_each(|line| complain(&format_args!("bench revocation: {line}")));
                REFUSED
            }
        }
    }

    fn options(&self) -> Result<Options, String> {
        let most_gates = self.gates.iter().copied().max().unwrap_or_default();
        if self.gates.contains(&0) || most_gates == 0 || most_gates > MOST_GATES {
            return Err(format!("--gates: 1 to {MOST_GATES}"));
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return Err("--rate: above 0".into());
        }
        let revocations = self.revocations.map_or(self.seconds * self.rate, |number| number as f64);
        if !(1.0..=MOST_REVOCATIONS).contains(&revocations) {
            return Err(format!("{revocations} revocations: 1 to {MOST_REVOCATIONS}"));
        }
        if self.entries > MOST_ENTRIES {
            return Err(format!("--entries: at most {MOST_ENTRIES}"));
        }
        if self.window.is_zero() || self.window > Duration::from_secs(60) {
            return Err("--window: above 0, and at most 1m".into());
        }
        let portcullis = match &self.portcullis {
            Some(given) => std::path::absolute(given),
            None => std::env::current_exe(),
        };
        Ok(Options {
            portcullis: portcullis.map_err(|e| format!("--portcullis: {e}"))?,
            gates: self.gates.clone(),
            feed: self.feed(most_gates)?,
            entries: self.entries,
            connections: self.connections,
            rate: self.rate,
            revocations: revocations.round() as usize,
            window: self.window,
            pace: self.pace,
            mode: Mode::Strict,
        })
    }

    fn feed(&self, most_gates: usize) -> Result<FeedOptions, String> {
        if !self.queue_url.is_empty() && self.feed != FeedName::Sqs {
            return Err("--queue-url: only with --feed sqs".into());
        }
        match self.feed {
            FeedName::Admin => Ok(FeedOptions::Admin),
            FeedName::Sqs if self.queue_url.is_empty() => Ok(FeedOptions::Sqs),
            FeedName::Sqs if self.queue_url.len() < most_gates => {
                Err(format!("--queue-url: one for each gate, {most_gates} in all"))
            }
            FeedName::Sqs => Ok(FeedOptions::RemoteSqs {
                urls: self.queue_url.clone(),
                endpoint: self.sqs_endpoint.clone(),
            }),
            FeedName::Crl if self.interval < Duration::from_secs(1) => Err("--interval: at least 1s".into()),
            FeedName::Crl if self.interval > Duration::from_secs(60) => Err("--interval: at most 1m".into()),
            FeedName::Crl => Ok(FeedOptions::Crl { interval: self.interval }),
        }
    }

    fn measure(&self, options: &Options) -> anyhow::Result<Revocations> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // From here on a signal ends the measuring, and what it leaves behind is cleaned up.
        let mut signals = {
            let _context = runtime.enter();
            Signals::listen()?
        };
        let bar = match self.json {
            true => progress::none(),
            false => progress::bar((options.revocations * options.gates.len()) as u64, "revocations"),
        };
        let found = runtime.block_on(revocation::run(options, &|| bar.inc(1), signals.received()));
        bar.finish_and_clear();
        Ok(found?)
    }

    fn tell(&self, findings: &Findings) -> u8 {
        if let Some(file) = &self.report
            && let Err(error) = std::fs::write(file, report::html(std::slice::from_ref(findings)))
        {
            complain(&format_args!("bench revocation: {}: {error}", file.display()));
            return REFUSED;
        }
        let Found::Revocations(found) = &findings.found else { return REFUSED };
        let printed = match self.json {
            true => match json(findings) {
                Ok(text) => write_out(text.as_bytes()),
                Err(error) => {
                    complain(&format_args!("bench revocation: {error}"));
                    REFUSED
                }
            },
            false => table(found).print(),
        };
        let faults = found.fleets.iter().filter_map(fault).collect::<Vec<_>>();
        faults.iter().for_each(|fault| complain(&format_args!("bench revocation: {fault}")));
        if faults.is_empty() { printed } else { REFUSED }
    }
}

fn json(findings: &Findings) -> io::Result<String> {
    Ok(serde_json::to_string(findings)? + "\n")
}

/// What must not be.
fn fault(fleet: &Fleet) -> Option<String> {
    let gates = counted(fleet.gates.len() as u64, "gate");
    let never = fleet.last_gate.never;
    match (fleet.served_after_answer, never) {
        (0, 0) => None,
        (0, never) => Some(format!("{gates}: {} never took effect", counted(never, "revocation"))),
        (served, _) => Some(format!("{gates}: {} served after the answer", counted(served, "request"))),
    }
}

fn table(found: &Revocations) -> Page {
    let mut page = Page::new();
    let Revocations { feed, entries, connections, rate, .. } = found;
    page.line(&format_args!(
        "feed {feed}, {entries} entries, {connections} connections of others, {rate} revocations a second"
    ));
    page.line(&"From when a revocation was due until the last answer that served, milliseconds:");
    for fleet in &found.fleets {
        page.line(&"");
        let mut rows =
            vec![row("last gate", &fleet.last_gate), row("last gate, since sent", &fleet.since_sent)];
        if fleet.gates.len() > 1 {
            rows.extend(fleet.gates.iter().enumerate().map(|(at, gate)| row(&format!("gate {at}"), gate)));
        }
        rows.extend(fleet.kinds.iter().map(|(kind, times)| row(kind.name(), times)));
        rows.push(row("answered", &fleet.answered));
        if fleet.durable.count > 0 {
            rows.push(row("journal's commit", &fleet.durable));
        }
        let head = counted(fleet.gates.len() as u64, "gate").to_uppercase();
        page.table(&[&head, "COUNT", "NEVER", "P50", "P90", "P99", "P99.9", "MAX"], rows);
        let Fleet { served_after_answer: served, tried_after_answer: tried, seconds, .. } = fleet;
        page.line(&format_args!("after the answer: {served} of {tried} tries served"));
        page.line(&format_args!(
            "others: {:.0} requests a second, {} lost; gates: {:.1} s of processor time in {seconds:.1} s, {:.0} MiB",
            fleet.requests_per_second,
            fleet.bystander_errors,
            fleet.cpu_seconds,
            fleet.memory as f64 / 1_048_576.0,
        ));
    }
    page
}

fn row(name: &str, times: &Distribution) -> Vec<String> {
    let ms = |us: f64| format!("{:.3}", us / 1000.0);
    let quantiles = [times.p50_us, times.p90_us, times.p99_us, times.p999_us, times.max_us].map(ms);
    [name.to_owned(), times.count.to_string(), times.never.to_string()].into_iter().chain(quantiles).collect()
}
