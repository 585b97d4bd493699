//! `portcullis drill`: one revocation on a running deployment, and what is seen of it.

mod plan;
mod tell;

use std::fs::Permissions;
use std::io;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use clap::ArgGroup;
use clap::Args;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use indicatif::ProgressBar;
use tempfile::NamedTempFile;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::sleep;

use super::DONE;
use super::PARTLY;
use super::REFUSED;
use super::UNREACHABLE;
use super::USAGE;
use super::complain;
use super::output;
use super::progress;
use super::signals::Signals;
use crate::clock::Clock;
use crate::rig::drill;
use crate::rig::drill::Plan;
use crate::rig::findings::FORMAT;
use crate::rig::findings::Findings;
use crate::rig::findings::Found;
use crate::rig::findings::Kind;
use crate::rig::report;
use crate::rig::setup::setup;

/// Whom to revoke, where, how, and what to look at.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("means").required(true))]
pub(super) struct DrillArgs {
    /// Where requests go: something that the victim may GET and POST.
    #[arg(long, value_parser = https, value_name = "URL")]
    url: Uri,
    /// Which address of its name is asked; else the first that answers.
    #[arg(long, value_name = "IP:PORT")]
    connect_to: Option<SocketAddr>,
    /// The authority that vouches for the server (PEM).
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The certificate that is revoked (PEM).
    #[arg(long, value_name = "FILE")]
    victim_cert: PathBuf,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE")]
    victim_key: PathBuf,
    /// What the victim's requests carry besides; may be given again.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    victim_header: Vec<(HeaderName, HeaderValue)>,
    /// The certificate of somebody who must not notice (PEM).
    #[arg(long, value_name = "FILE", requires = "bystander_key")]
    bystander_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "bystander_cert")]
    bystander_key: Option<PathBuf>,
    /// What the bystander's requests carry besides; may be given again.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header, requires = "bystander_cert")]
    bystander_header: Vec<(HeaderName, HeaderValue)>,
    /// How the victim's name must begin: the last part of its SPIFFE ID, its DNS name or its common name.
    #[arg(long, value_name = "PREFIX", default_value = "drill05-test-")]
    allow_prefix: String,
    /// Over what is asked: all that the server offers, unless some are named, which must be offered.
    #[arg(long, value_delimiter = ',', value_name = "KIND", value_parser = kind)]
    kinds: Vec<Kind>,
    /// How many of each kind.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// Tries a second, of each connection.
    #[arg(long, default_value_t = 50.0, value_name = "N", value_parser = rate)]
    rate: f64,
    /// How long before the revocation.
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = duration)]
    before: Duration,
    /// How long after it: what is served until then is called never refused.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration)]
    window: Duration,
    /// Not passed if the victim is served later than this after the revocation was asked for.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_last_served: Option<Duration>,
    /// How many tries the bystander may lose after the call.
    #[arg(long, default_value_t = 0, value_name = "N", requires = "bystander_cert")]
    max_bystander_errors: usize,
    /// A command that writes a fresh certificate for the victim to $DRILL_CERT and its key to $DRILL_KEY: it must work.
    #[arg(long, value_name = "COMMAND")]
    recover_with: Option<String>,
    /// A file to which the server adds a line about the revocation.
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// Be the service behind the server, at this address, and see what still comes of an upload after the answer.
    #[arg(long, value_name = "IP:PORT")]
    upstream: Option<SocketAddr>,
    /// Also post a serial that nobody has to --revoke-url, which should say so; whoever takes it may keep it for good.
    #[arg(long, requires = "revoke_url", conflicts_with = "skip_checks")]
    unknown_serial: bool,
    /// Revoke once, and check nothing besides: whether revoking again succeeds is found out by doing so.
    #[arg(long, conflicts_with = "recover_with")]
    skip_checks: bool,
    /// What it is called in reports.
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
    /// Print everything that was seen as one JSON object.
    #[arg(long)]
    json: bool,
    /// Write a report for browsers.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    means: MeansArgs,
}

/// How the victim is revoked.
#[derive(Debug, Args)]
#[command(next_help_heading = "How to revoke")]
struct MeansArgs {
    /// Over Portcullis's admin API, by the serial.
    #[arg(long, value_name = "URL", value_parser = https, group = "means")]
    admin: Option<Uri>,
    /// By a POST to this URL.
    #[arg(long, value_name = "URL", value_parser = https, group = "means")]
    revoke_url: Option<Uri>,
    /// What is posted; {serial} and {principal} are the victim's.
    #[arg(long, value_name = "TEXT", requires = "revoke_url", default_value = "")]
    revoke_body: String,
    /// What the POST carries besides; may be given again.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header, requires = "revoke_url")]
    revoke_header: Vec<(HeaderName, HeaderValue)>,
    /// By a command of the shell; $DRILL_SERIAL and $DRILL_PRINCIPAL are the victim's.
    #[arg(long, value_name = "COMMAND", group = "means")]
    revoke_with: Option<String>,
    /// The administrator's certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "admin_key")]
    admin_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "admin_cert")]
    admin_key: Option<PathBuf>,
    /// The authority that vouches for that server (PEM), if it is not --ca.
    #[arg(long, value_name = "FILE")]
    admin_ca: Option<PathBuf>,
}

impl DrillArgs {
    /// Drills, tells, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(&format_args!("drill: {error}"));
                return UNREACHABLE;
            }
        };
        let code = runtime.block_on(self.perform());
        // A command that was interrupted is not waited for.
        runtime.shutdown_background();
        code
    }

    async fn perform(&self) -> u8 {
        let (plan, report) = match (self.plan().await, self.page()) {
            (Ok(plan), Ok(report)) => (plan, report),
            (Err(reason), _) | (_, Err(reason)) => {
                complain(&format_args!("drill: {reason}"));
                return USAGE;
            }
        };
        let mut ends = match Ends::listen() {
            Ok(ends) => ends,
            Err(error) => {
                complain(&format_args!("drill: {error}"));
                return UNREACHABLE;
            }
        };
        let (at, revoking) = (Clock::system().now(), AtomicBool::new(false));
        let revoke = || {
            revoking.store(true, Ordering::SeqCst);
            complain(&format_args!("drill: revoking; {}", tell::standing(&plan, true)));
        };
        let seen = tokio::select! {
            biased;
            () = ends.received() => None,
            seen = drill::watch(&plan, &revoke) => Some(seen),
            () = self.tick() => None,
        };
        let seen = match seen {
            None => {
                let standing = revoking.load(Ordering::SeqCst).then(|| tell::standing(&plan, false));
                let told = standing.as_deref().unwrap_or("nothing was revoked");
                complain(&format_args!("drill: interrupted; {told}"));
                return PARTLY;
            }
            Some(Err(error)) => {
                complain(&format_args!("drill: {error}; nothing was revoked"));
                return UNREACHABLE;
            }
            Some(Ok(seen)) => seen,
        };
        let (found, interrupted) = seen.checked(&plan, ends.received()).await;
        let code = match (interrupted, found.failures.is_empty()) {
            (true, _) => PARTLY,
            (false, true) => DONE,
            (false, false) => REFUSED,
        };
        let label = self.label.clone().unwrap_or_else(|| found.url.clone());
        let found = Findings { format: FORMAT, label, at, setup: setup(), found: Found::Drill(found) };
        match self.tell(&found, report, &plan) {
            DONE => code,
            failed => failed,
        }
    }

    /// Shows on a terminal how far it is. Never ends.
    async fn tick(&self) {
        let all = self.before + self.window;
        let bar = match self.json {
            true => ProgressBar::hidden(),
            false => progress::bar(u64::try_from(all.as_millis()).unwrap_or(u64::MAX), "drill, ms"),
        };
        let begun = Instant::now();
        loop {
            bar.set_position(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Where the report is written before it has its name: who cannot write there is told before anybody is revoked.
    fn page(&self) -> Result<Option<NamedTempFile>, String> {
        let Some(file) = &self.report else { return Ok(None) };
        let failed = |error: io::Error| format!("--report {}: {error}", file.display());
        if file.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let permissions = Permissions::from_mode(0o644);
        let mut page = tempfile::Builder::new();
        page.prefix(".drill-").permissions(permissions);
        page.tempfile_in(parent.unwrap_or(Path::new("."))).map(Some).map_err(failed)
    }

    fn tell(&self, findings: &Findings, report: Option<NamedTempFile>, plan: &Plan) -> u8 {
        let mut code = DONE;
        if let (Some(file), Some(mut page)) = (&self.report, report) {
            let html = report::html(std::slice::from_ref(findings));
            let written = page.write_all(html.as_bytes()).and_then(|()| Ok(page.persist(file)?));
            if let Err(error) = written {
                complain(&format_args!("drill: --report {}: {error}", file.display()));
                code = REFUSED;
            }
        }
        let Found::Drill(found) = &findings.found else { return code };
        if self.json {
            let text = serde_json::to_string(findings).unwrap_or_default();
            code = code.max(output::write_out(format!("{text}\n").as_bytes()));
            found.said.iter().for_each(|said| complain(&format_args!("drill: said: {said}")));
            complain(&format_args!("drill: {}", tell::standing(plan, found.call.succeeded)));
        } else {
            code = code.max(tell::page(found, plan).print());
        }
        code
    }
}

/// What ends a drill: the signals of others, and the terminal that is closed.
struct Ends {
    signals: Signals,
    hang_up: Signal,
}

impl Ends {
    fn listen() -> io::Result<Self> {
        Ok(Self { signals: Signals::listen()?, hang_up: signal(SignalKind::hangup())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            () = self.signals.received() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

fn https(text: &str) -> Result<Uri, &'static str> {
    const WRONG: &str = "a URL such as https://gate.lab.test:8443/";
    let uri: Uri = text.parse().map_err(|_| WRONG)?;
    if uri.scheme_str() == Some("https") && uri.host().is_some() { Ok(uri) } else { Err(WRONG) }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    const WRONG: &str = "a header such as 'x-agent-id: a'";
    let (name, value) = text.split_once(':').ok_or(WRONG)?;
    let name = name.trim().parse().map_err(|_| WRONG)?;
    Ok((name, value.trim().parse().map_err(|_| WRONG)?))
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(lasts) if lasts.is_zero() || lasts > Duration::from_secs(3600) => {
            Err("up to an hour, such as 5s".into())
        }
        Ok(lasts) => Ok(lasts),
        Err(error) => Err(format!("{error}; write it like 5s or 500ms")),
    }
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.5..=2000.0).contains(rate));
    rate.ok_or("a number from 0.5 to 2000")
}

fn kind(text: &str) -> Result<Kind, String> {
    let word = serde_json::Value::String(text.to_owned());
    serde_json::from_value(word).map_err(|_| {
        let all = Kind::ALL.map(|kind| serde_json::to_string(&kind).unwrap_or_default().replace('"', ""));
        format!("one of {}", all.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_strictly() {
        assert!(https("http://a/").is_err() && https("a").is_err() && https("https://a:1/x?y").is_ok());
        assert!(header("x").is_err() && header("x y: z").is_err());
        assert_eq!(header("X-Agent-Id:  a ").unwrap().0, "x-agent-id");
        assert!(duration("0s").is_err() && duration("5").is_err() && duration("2h").is_err());
        assert!(rate("0").is_err() && rate("NaN").is_err() && rate("50").is_ok());
        assert_eq!(kind("stream"), Ok(Kind::Stream));
        assert!(kind("x").unwrap_err().contains("http1, http2, stream, body, websocket"));
    }
}
