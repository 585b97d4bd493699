//! `portcullis bench proxy`: what requests and handshakes cost proxies that run already.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::ValueEnum;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;

use crate::cli::DONE;
use crate::cli::REFUSED;
use crate::cli::UNREACHABLE;
use crate::cli::USAGE;
use crate::cli::complain;
use crate::cli::output::Page;
use crate::cli::output::write_out;
use crate::cli::progress;
use crate::cli::signals::Signals;
use crate::clock::Clock;
use crate::rig::bench::proxy::Outcome;
use crate::rig::bench::proxy::Plan;
use crate::rig::bench::proxy::ProxyError;
use crate::rig::bench::proxy::Target;
use crate::rig::findings::Cost;
use crate::rig::findings::FORMAT;
use crate::rig::findings::Findings;
use crate::rig::findings::Found;
use crate::rig::findings::Kind;
use crate::rig::report;
use crate::rig::setup::setup;

/// Which proxies, and how they are measured.
#[derive(Debug, Args)]
pub(in crate::cli) struct ProxyArgs {
    /// The proxies, the first of which the others are compared with. CPU time and memory are those of the process
    /// and of all below it.
    #[arg(required = true, value_name = "NAME=URL,PID", value_parser = target)]
    proxies: Vec<Target>,
    /// The authority that vouches for the proxies (PEM).
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The client's certificate (PEM).
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What each request carries besides; may be given several times.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// What is done, in turn.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "WORK",
        default_value = "http1,http2,handshake,resumption"
    )]
    work: Vec<Work>,
    /// How often each is measured; what is told are the medians.
    #[arg(long, value_name = "COUNT", default_value = "3")]
    rounds: NonZeroUsize,
    /// How long each time.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// HTTP/1.1 connections.
    #[arg(long, value_name = "COUNT", default_value = "32")]
    connections: NonZeroUsize,
    /// Threads that put on the load [default: one for every two processors].
    #[arg(long, value_name = "COUNT")]
    threads: Option<NonZeroUsize>,
    /// What the result is called beside others [default: the names of the proxies].
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Write one HTML file of it, too.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Work {
    /// Requests on HTTP/1.1 connections that stay open.
    Http1,
    /// Requests on 8 HTTP/2 connections of 16 streams.
    Http2,
    /// Connections with a full handshake, for one request each; 8 at once.
    Handshake,
    /// The same with a TLS session from before.
    Resumption,
}

impl Work {
    fn kind(self) -> Kind {
        match self {
            Self::Http1 => Kind::Http1,
            Self::Http2 => Kind::Http2,
            Self::Handshake => Kind::Handshake,
            Self::Resumption => Kind::Resumption,
        }
    }
}

impl ProxyArgs {
    /// Measures, prints, and returns the exit code.
    pub(in crate::cli) fn run(self) -> u8 {
        let name = |at: usize| self.proxies.get(at).map(|target| target.name.as_str());
        if let Some(twice) =
            (1..self.proxies.len()).find(|at| (0..*at).any(|before| name(before) == name(*at)))
        {
            complain(&format_args!("two proxies are called {}", name(twice).unwrap_or_default()));
            return USAGE;
        }
        match self.measure() {
            Ok(Some(outcome)) => self.tell(outcome),
            Ok(None) => {
                complain(&"bench proxy: interrupted");
                REFUSED
            }
            Err(error) => {
                complain(&format_args!("bench proxy: {error}"));
                match error {
                    ProxyError::File(_) => USAGE,
                    ProxyError::Unreachable(..) => UNREACHABLE,
                    _ => REFUSED,
                }
            }
        }
    }

    /// `None` if it was interrupted.
    fn measure(&self) -> Result<Option<Outcome>, ProxyError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut signals = Signals::listen()?;
            let plan = self.plan();
            let bar = progress::bar(plan.windows(), "measuring");
            let tell = |done| bar.set_position(done);
            let outcome = tokio::select! {
                biased;
                () = signals.received() => None,
                outcome = plan.run(&tell) => Some(outcome),
            };
            bar.finish_and_clear();
            outcome.transpose()
        })
    }

    fn plan(&self) -> Plan {
        let mut works: Vec<Kind> = self.work.iter().map(|work| work.kind()).collect();
        works.sort_unstable();
        works.dedup();
        let half = || std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
        Plan {
            targets: self.proxies.clone(),
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            headers: self.header.iter().cloned().collect::<HeaderMap>(),
            works,
            rounds: self.rounds.get(),
            window: self.seconds,
            connections: self.connections.get(),
            threads: self.threads.map_or_else(half, NonZeroUsize::get),
        }
    }

    fn tell(&self, outcome: Outcome) -> u8 {
        let names: Vec<&str> = self.proxies.iter().map(|target| target.name.as_str()).collect();
        for note in &outcome.notes {
            complain(&format_args!("bench proxy: {note}"));
        }
        let findings = Findings {
            format: FORMAT,
            label: self.label.clone().unwrap_or_else(|| names.join(", ")),
            at: Clock::system().now(),
            setup: setup(),
            found: Found::Proxies(outcome.proxies),
        };
        if let Some(file) = &self.report
            && let Err(error) = std::fs::write(file, report::html(std::slice::from_ref(&findings)))
        {
            complain(&format_args!("{}: {error}", file.display()));
            return REFUSED;
        }
        if self.json {
            return print(&findings);
        }
        match &findings.found {
            Found::Proxies(proxies) => table(&proxies.costs).print(),
            _ => DONE,
        }
    }
}

fn print(findings: &Findings) -> u8 {
    match serde_json::to_string(findings) {
        Ok(text) => write_out(format!("{text}\n").as_bytes()),
        Err(error) => {
            complain(&format_args!("bench proxy: {error}"));
            REFUSED
        }
    }
}

fn table(costs: &[Cost]) -> Page {
    let row = |cost: &Cost| {
        vec![
            cost.work.to_string(),
            cost.proxy.clone(),
            format!("{:.1}", cost.cpu_us),
            format!("{:.2}", cost.ratio),
            format!("{:.0}", cost.per_second),
            cost.errors.to_string(),
            format!("{:.1}", cost.memory as f64 / f64::from(1 << 20)),
        ]
    };
    let mut page = Page::new();
    let head = ["WORK", "PROXY", "CPU US A REQUEST", "RATIO", "REQUESTS/S", "ERRORS", "MEMORY MIB"];
    page.table(&head, costs.iter().map(row).collect());
    page
}

fn target(text: &str) -> Result<Target, String> {
    let form = "it is NAME=URL,PID, such as nginx=https://localhost:8443,1234";
    let (name, rest) = text.split_once('=').ok_or(form)?;
    let (url, pid) = rest.rsplit_once(',').ok_or(form)?;
    let url: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    if url.scheme_str() != Some("https") || url.host().is_none_or(str::is_empty) {
        return Err(format!("{url}: not an https:// URL"));
    }
    let pid = pid.parse().ok().filter(|pid| *pid > 0).ok_or_else(|| format!("{pid}: not a process id"))?;
    match name.is_empty() {
        true => Err(form.to_owned()),
        false => Ok(Target { name: name.to_owned(), url, pid }),
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("it is NAME: VALUE")?;
    let name = name.trim().parse().map_err(|error| format!("{name}: {error}"))?;
    let value = value.trim().parse().map_err(|error| format!("{value}: {error}"))?;
    Ok((name, value))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let fit = |seconds: &f64| (0.1..=3600.0).contains(seconds);
    let seconds = text.parse().ok().filter(fit).ok_or("it is a number from 0.1 to 3600")?;
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_name_a_url_and_a_process() {
        let read = target("nginx=https://localhost:8443/a,b=c?d,1234").unwrap();
        assert_eq!((read.name.as_str(), read.pid), ("nginx", 1234));
        assert_eq!(read.url, "https://localhost:8443/a,b=c?d");
        for wrong in
            ["", "nginx", "=https://a,1", "a=http://b,1", "a=https://b,0", "a=https://b,-1", "a=https://b"]
        {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_header_is_a_name_and_a_value() {
        let (name, value) = header("X-Agent-Id: a:b").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-agent-id", "a:b"));
        assert!(header("x-agent-id").is_err() && header("a b: c").is_err());
    }
}
