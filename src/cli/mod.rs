//! The command line.

mod change;
mod demo;
mod run;
mod signals;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use change::ChangeArgs;
use demo::DemoArgs;

/// Done.
pub(crate) const DONE: u8 = 0;
/// Refused, or failed.
pub(crate) const REFUSED: u8 = 1;
/// The command line or the configuration is wrong.
pub(crate) const USAGE: u8 = 2;
/// Nobody answers there.
pub(crate) const UNREACHABLE: u8 = 3;

/// A TLS-terminating reverse proxy whose revocations bite at once.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  portcullis demo
  portcullis run --config config/sidecar.toml
  portcullis validate --config config/sidecar.toml
  portcullis revoke --level principal --target spiffe://lab.test/agent/a --reason 'key leaked' \\
    --server https://localhost:9443 --cacert ca.pem --client-cert admin.pem --client-key admin.key

Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 unreachable.
Environment: PORTCULLIS_LOG=debug (log filter), PORTCULLIS__GATE__LISTEN=... (any configuration key).";

const TARGETS: &str = "Examples of targets:
  --level principal    --target spiffe://lab.test/agent/a
  --level principal    --target a                (an agent id; or a DNS name)
  --level certificate  --target 0a:1b:2c         (a serial; also as openssl prints it, serial=0A1B2C)
  --level key          --target 9f86d0...        (the SHA-256 of a SubjectPublicKeyInfo)
  --level issuer       --target 3B:55:...        (a CA's subject key identifier)
  --level task         --target t-42
  --level trust_domain --target lab.test
How to find them:
  openssl x509 -in a.pem -noout -serial
  openssl x509 -in a.pem -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum | cut -d' ' -f1
  openssl x509 -in ca.pem -noout -ext subjectKeyIdentifier | tail -1";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start what a configuration names, until SIGTERM or Ctrl-C; then drain.
    Run {
        /// The configuration file (TOML).
        #[arg(long, env = "PORTCULLIS_CONFIG")]
        config: PathBuf,
    },
    /// Say whether a configuration would start, without taking a port or the state directory.
    Validate {
        /// The configuration file (TOML).
        #[arg(long, env = "PORTCULLIS_CONFIG")]
        config: PathBuf,
    },
    /// Show it: a throwaway PKI, a gate on loopback, two agents at work, one of them revoked.
    Demo(DemoArgs),
    /// Revoke a target for good: its requests, connections and streams end now.
    #[command(after_help = TARGETS)]
    Revoke(ChangeArgs),
    /// Suspend a target until it is reinstated.
    #[command(after_help = TARGETS)]
    Suspend(ChangeArgs),
    /// Lift a suspension; with --force, a revocation too.
    Reinstate {
        #[command(flatten)]
        change: ChangeArgs,
        /// Lift a revocation too.
        #[arg(long)]
        force: bool,
    },
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> ExitCode {
        let code = match self.command {
            Command::Run { config } => run::run(&config),
            Command::Validate { config } => run::validate(&config),
            Command::Demo(demo) => demo.run(),
            Command::Revoke(change) => change.send("revoke", false),
            Command::Suspend(change) => change.send("suspend", false),
            Command::Reinstate { change, force } => change.send("reinstate", force),
        };
        ExitCode::from(code)
    }
}

/// Says on standard error why a command ends.
pub(crate) fn complain(error: &dyn std::fmt::Display) {
    eprintln!("portcullis: {error}");
}
