//! The command line.

mod accept;
mod advisory;
mod answer;
mod audit;
mod batch;
mod bench;
mod blast;
mod certificate;
mod change;
mod check;
mod demo;
mod drill;
mod failure;
mod fate;
mod list;
mod obstacles;
mod order;
mod output;
mod pages;
mod progress;
mod question;
mod queue;
mod refresh;
mod replay;
mod report;
mod revocations;
mod run;
mod server;
mod sessions;
mod signals;
mod state;
mod status;

use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Arg;
use clap::ArgMatches;
use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use clap::Subcommand;
use clap::builder::OsStr;
use clap::builder::Resettable;

use advisory::AdvisoryArgs;
use audit::AuditCommand;
use bench::BenchCommand;
use check::CheckArgs;
use demo::DemoArgs;
use drill::DrillArgs;
use order::ChangeArgs;
use order::Order;
use order::Unseen;
use pages::CompletionsArgs;
use pages::ManArgs;
use queue::QueueCommand;
use refresh::RefreshArgs;
use report::ReportArgs;
use revocations::RevocationsArgs;
use sessions::SessionsArgs;
use state::StateCommand;
use status::StatusArgs;

/// Done.
pub(crate) const DONE: u8 = 0;
/// Refused, or failed.
pub(crate) const REFUSED: u8 = 1;
/// The command line or the configuration is wrong.
pub(crate) const USAGE: u8 = 2;
/// Nobody answers there.
pub(crate) const UNREACHABLE: u8 = 3;
/// Some of it is done, and some is not.
pub(crate) const PARTLY: u8 = 4;

/// The command line as it was given.
#[derive(Debug)]
pub struct Cli(Line);

/// A TLS-terminating reverse proxy whose revocations bite at once.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = EXAMPLES)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  portcullis demo
  portcullis validate --config config/sidecar.toml
  portcullis state init --config config/sidecar.toml
  portcullis run --config config/sidecar.toml
  portcullis revoke --level principal --target spiffe://lab.test/agent/a --reason 'key leaked' \\
    --server https://localhost:9443 --cacert ca.pem --client-cert admin.pem --client-key admin.key

Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 unreachable, 4 partly done.
Environment: PORTCULLIS_LOG=debug (log filter), PORTCULLIS__GATE__LISTEN=... (any configuration key);
  PORTCULLIS_SERVER, PORTCULLIS_CACERT, PORTCULLIS_CLIENT_CERT and PORTCULLIS_CLIENT_KEY spare typing;
  NO_COLOR=1 (no colours).";

const VALIDATE: &str = "Examples:
  portcullis validate --config gate.toml
  PORTCULLIS__GATE__LISTEN=0.0.0.0:443 portcullis validate --config gate.toml
A state that is not there yet, or whose journal is missing, is a note on standard error; the exit code stays 0.";

const RUN: &str = "Examples:
  portcullis run --config gate.toml
  PORTCULLIS_LOG=debug portcullis run --config gate.toml
The state must be there: `portcullis state init --config gate.toml` makes it, once.";

const STATE: &str = "Examples:
  portcullis state init --config gate.toml";

const DEMO: &str = "Examples:
  portcullis demo
  portcullis demo --once
  portcullis demo --json | jq .";

const REVOKE: &str = "Examples:
  portcullis revoke --level principal --target spiffe://lab.test/agent/a --reason 'key leaked'
  portcullis revoke --certificate a.pem
  portcullis revoke --level principal --target a --issued-before now --reason 'key leaked'
  portcullis revoke --level trust_domain --target lab.test --dry-run
  portcullis revoke --level certificate --file serials.txt --reason 'CA breach' --yes
Examples of targets:
  --level principal    --target a                (an agent id; or a DNS name, a SPIFFE ID)
  --level certificate  --target 0a:1b:2c         (a serial; also as openssl prints it, serial=0A1B2C)
  --level key          --target 9f86d0...        (the SHA-256 of a SubjectPublicKeyInfo)
  --level issuer       --target 3B:55:...        (a CA's subject key identifier)
  --level task         --target t-42
  --level trust_domain --target lab.test
How to find them:
  openssl x509 -in a.pem -noout -serial
  openssl x509 -in a.pem -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum | cut -d' ' -f1
  openssl x509 -in ca.pem -noout -ext subjectKeyIdentifier | tail -1";

const SUSPEND: &str = "Examples:
  portcullis suspend --level task --target t-42 --reason 'looking into it'
  portcullis suspend --level key --certificate a.pem
  cat agents.txt | portcullis suspend --level principal --file -
See `portcullis revoke --help` for what a target may be.";

const REINSTATE: &str = "Examples:
  portcullis reinstate --level task --target t-42
  portcullis reinstate --level principal --target spiffe://lab.test/agent/a --force --reason 'false alarm'
  portcullis reinstate --level principal --target agent-7 --all-names
  portcullis reinstate --file lifted.txt --dry-run
See `portcullis revoke --help` for what a target may be.";

const REVOCATIONS: &str = "Examples:
  portcullis revocations --since 1h
  portcullis revocations --level principal --state suspended --json
  portcullis revocations 0192f0c1-7a11-7c3e-9d55-0123456789ab";

const SESSIONS: &str = "Examples:
  portcullis sessions
  portcullis sessions --principal spiffe://lab.test/agent/a
  portcullis sessions end 5f0c2a9b00000011 --reason 'stuck upload'";

const STATUS: &str = "Examples:
  portcullis status
  portcullis status --json | jq .audit";

const REFRESH: &str = "Examples:
  portcullis refresh
  portcullis refresh --feed crl
Exit codes: 0 every feed was read, 4 some were, 1 none was.";

const ADVISORY: &str = "Examples:
  portcullis advisory --for 30m --reason 'the CA has expired, INC-42'
  portcullis advisory
  portcullis advisory --end
It ends by itself, and with a restart of the gate. What is revoked meanwhile takes effect when it ends.";

const CHECK: &str = "Examples:
  portcullis check --certificate a.pem
  portcullis check --principal spiffe://lab.test/agent/a
  portcullis check --serial 0a:1b:2c --issuer 3B:55:...
Exit codes: 0 would be let in, 1 would be refused (or the question was).";

const AUDIT: &str = "Examples:
  portcullis audit list --since 1h
  portcullis audit verify --dir state
  portcullis audit accept --config gate.toml --at audit.jsonl:733 --actor 'J. Doe' --reason 'full disk, INC-42'
  portcullis audit replay --config gate.toml";

const QUEUE: &str = "Examples:
  portcullis queue provision --name gate-1 --topic-arn arn:aws:sns:eu-west-1:123456789012:revocations
  portcullis queue deprovision --name gate-1 --region eu-west-1";

const DRILL: &str = "Examples:
  portcullis drill --url https://gate.lab.test/ --ca ca.pem \\
    --victim-cert drill05-test-a.pem --victim-key drill05-test-a.key \\
    --bystander-cert b.pem --bystander-key b.key \\
    --admin https://gate.lab.test:9443 --admin-cert admin.pem --admin-key admin.key
  portcullis drill ... --revoke-with './revoke.sh && nginx -s reload' --max-last-served 5s --report drill.html
Exit codes: 0 passed, 1 not passed, 2 usage, 3 could not begin and nothing was revoked, 4 interrupted: what it says stays revoked.";

const BENCH: &str = "Examples:
  portcullis bench revocation --gates 1,4,16 --feed sqs
  portcullis bench proxy --ca ca.pem --cert a.pem --key a.key nginx=https://localhost:8443,1234";

const REPORT: &str = "Examples:
  portcullis report --out report.html ours.json nginx.json haproxy.json
  portcullis drill ... --json > ours.json && portcullis report ours.json > report.html";

const COMPLETIONS: &str = "Examples:
  portcullis completions bash > /usr/share/bash-completion/completions/portcullis
  portcullis completions zsh > ~/.zfunc/_portcullis";

const MAN: &str = "Examples:
  portcullis man | man -l -
  portcullis man --dir /usr/local/share/man/man1";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start what a configuration names, until SIGTERM or Ctrl-C; then drain.
    #[command(after_help = RUN)]
    Run {
        /// The configuration file (TOML).
        #[arg(long, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Say whether a configuration would start, without taking a port or the state directory.
    #[command(after_help = VALIDATE)]
    Validate {
        /// The configuration file (TOML).
        #[arg(long, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make what a gate keeps on disk, once, before its first start.
    #[command(subcommand, after_help = STATE)]
    State(StateCommand),
    /// Show it: a throwaway PKI, a gate on loopback, two agents at work, one of them revoked.
    #[command(after_help = DEMO)]
    Demo(DemoArgs),
    /// Revoke a target for good: its requests, connections and streams end now.
    #[command(after_help = REVOKE)]
    Revoke(DenyArgs),
    /// Suspend a target until it is reinstated.
    #[command(after_help = SUSPEND)]
    Suspend(DenyArgs),
    /// Lift a suspension; with --force, a revocation too.
    #[command(after_help = REINSTATE)]
    Reinstate {
        /// Lift a revocation too.
        #[arg(long)]
        force: bool,
        /// Lift what stands under the other names of the same principal too: its SPIFFE ID, its agent id, its DNS names,
        /// as far as the gate has seen its certificates. Agents of other tenants may share an agent id: --dry-run and
        /// the answer name them.
        #[arg(long)]
        all_names: bool,
        #[command(flatten)]
        change: Box<ChangeArgs>,
    },
    /// List what is revoked and suspended, newest first; or tell what became of one change.
    #[command(after_help = REVOCATIONS)]
    Revocations(Box<RevocationsArgs>),
    /// List who is connected, oldest first; or end a session.
    #[command(after_help = SESSIONS)]
    Sessions(Box<SessionsArgs>),
    /// Say how a gate is: ready, on disk, how much it holds.
    #[command(after_help = STATUS)]
    Status(Box<StatusArgs>),
    /// Have feeds look now, instead of when it is their time; what is new is in effect when this returns.
    #[command(after_help = REFRESH)]
    Refresh(Box<RefreshArgs>),
    /// Break the glass: for a while the gate judges and logs, but refuses nobody for who they are. Or show it, or end it.
    #[command(after_help = ADVISORY)]
    Advisory(Box<AdvisoryArgs>),
    /// Say whether a credential would be let in, and if not, why.
    #[command(after_help = CHECK)]
    Check(Box<CheckArgs>),
    /// Read the audit: who did what, and whether the record of it is whole.
    #[command(subcommand, after_help = AUDIT)]
    Audit(AuditCommand),
    /// Make, correct or take away the queue that a gate has its revocations from.
    #[command(subcommand, after_help = QUEUE)]
    Queue(QueueCommand),
    /// Revoke somebody on a running deployment, ours or not, and see from outside when that bites.
    #[command(after_help = DRILL)]
    Drill(Box<DrillArgs>),
    /// Measure: how long revocations take on gates that are started for it; what requests cost any proxy.
    #[command(subcommand, after_help = BENCH)]
    Bench(BenchCommand),
    /// Make one HTML file of what drills and benchmarks found.
    #[command(after_help = REPORT)]
    Report(ReportArgs),
    /// Print a script that completes commands and options in a shell.
    #[command(after_help = COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print or write the manual.
    #[command(after_help = MAN)]
    Man(ManArgs),
}

/// What is denied.
#[derive(Debug, clap::Args)]
struct DenyArgs {
    /// Also a serial that the gate has neither seen nor been told of.
    #[arg(long)]
    preemptive: bool,
    #[command(flatten)]
    change: Box<ChangeArgs>,
}

impl DenyArgs {
    fn unseen(&self) -> Unseen {
        if self.preemptive { Unseen::Denied } else { Unseen::Refused }
    }
}

impl Parser for Cli {}

impl CommandFactory for Cli {
    fn command() -> clap::Command {
        usable(<Line as CommandFactory>::command(), "portcullis")
    }

    fn command_for_update() -> clap::Command {
        usable(<Line as CommandFactory>::command_for_update(), "portcullis")
    }
}

impl FromArgMatches for Cli {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Line::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> ExitCode {
        let code = match self.0.command {
            Command::Run { config } => configured(config.as_deref(), run::run),
            Command::Validate { config } => configured(config.as_deref(), run::validate),
            Command::State(state) => state.run(),
            Command::Demo(demo) => demo.run(),
            Command::Revoke(deny) => deny.change.run(Order::Revoke(deny.unseen())),
            Command::Suspend(deny) => deny.change.run(Order::Suspend(deny.unseen())),
            Command::Reinstate { force, all_names, change } => {
                change.run(Order::Reinstate { force, all_names })
            }
            Command::Revocations(revocations) => revocations.run(),
            Command::Sessions(sessions) => sessions.run(),
            Command::Status(status) => status.run(),
            Command::Refresh(refresh) => refresh.run(),
            Command::Advisory(advisory) => advisory.run(),
            Command::Check(check) => check.run(),
            Command::Audit(audit) => audit.run(),
            Command::Queue(queue) => queue.run(),
            Command::Drill(drill) => drill.run(),
            Command::Bench(bench) => bench.run(),
            Command::Report(report) => report.run(),
            Command::Completions(completions) => completions.run(),
            Command::Man(man) => man.run(),
        };
        ExitCode::from(code)
    }
}

/// The command, with what `derive` cannot say of it and of all below it.
fn usable(command: clap::Command, path: &str) -> clap::Command {
    // The options of a change are one set; a reinstatement refuses these.
    let is_refused = |arg: &Arg| {
        path.ends_with(" reinstate") && ["issued_before", "expires_at"].contains(&arg.get_id().as_str())
    };
    let command = command.mut_args(|arg| match arg.get_env().and_then(std::env::var_os) {
        // Whoever empties a variable wants it to count for nothing; an empty path would be an error.
        Some(value) if value.is_empty() => arg.env(Resettable::<OsStr>::Reset),
        _ if is_refused(&arg) => arg.hide(true),
        _ => arg,
    });
    // Beside an error, clap's own usage names every option that the environment sets, as if all were required.
    let usage = command.clone().bin_name(path).render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    let command = command.override_usage(usage).mut_subcommands(|below| {
        let path = format!("{path} {}", below.get_name());
        usable(below, &path)
    });
    // What stands behind the options is filled like prose, unless it is part of the template: a command line that was
    // broken somewhere cannot be copied.
    match command.get_after_help().map(ToString::to_string) {
        Some(examples) => command.help_template(format!("{TEMPLATE}{examples}")),
        None => command,
    }
}

/// As clap has it, up to the options.
const TEMPLATE: &str = "{before-help}{about-with-newline}\n{usage-heading} {usage}\n\n{all-args}\n\n";

fn configured(config: Option<&Path>, run: impl FnOnce(&Path) -> u8) -> u8 {
    match config.filter(|config| !config.as_os_str().is_empty()) {
        Some(config) => run(config),
        None => {
            complain(&"--config is missing: the configuration file (or PORTCULLIS_CONFIG)");
            USAGE
        }
    }
}

/// Says on standard error why a command ends.
pub(crate) fn complain(error: &dyn std::fmt::Display) {
    // Nobody is left to tell if that fails.
    let _ = writeln!(io::stderr(), "portcullis: {}", output::clean(error));
}
