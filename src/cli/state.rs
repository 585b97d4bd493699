//! `portcullis state`: what a gate keeps on disk.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use serde_json::json;

use super::DONE;
use super::REFUSED;
use super::USAGE;
use super::complain;
use super::configured;
use super::output::Page;
use super::output::print_document;
use crate::app;
use crate::clock::Clock;
use crate::config::Config;

/// What to do with the state.
#[derive(Debug, Subcommand)]
pub(super) enum StateCommand {
    /// Make the state of a new gate, once: the directory, the journal, the audit.
    #[command(after_help = INIT)]
    Init(InitArgs),
}

const INIT: &str = "Examples:
  portcullis state init --config gate.toml
  sudo -u portcullis portcullis state init --config /etc/portcullis/gate.toml
`portcullis run` starts on this state and never makes one: a gate whose volume is not mounted
refuses to start, instead of serving clients that were revoked. To move or restore a gate, put
its state directory back; do not make a new one.
Exit codes: 0 made, 1 there is a state already or it cannot be made, 2 usage or configuration.";

/// Which state.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The configuration file (TOML), whose state.dir is made.
    #[arg(long, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl StateCommand {
    /// Does it, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        match self {
            Self::Init(init) => configured(init.config.as_deref(), |file| init.run(file)),
        }
    }
}

impl InitArgs {
    fn run(&self, file: &Path) -> u8 {
        let config = match Config::load(file) {
            Ok(config) => config,
            Err(error) => {
                complain(&format_args!("configuration {error}"));
                return USAGE;
            }
        };
        let dir = config.state.dir.display();
        let made = app::init_state(&config, &Clock::system());
        if let Err(error) = &made {
            complain(&format_args!("state init: {error}"));
        }
        let code = if made.is_ok() { DONE } else { REFUSED };
        if self.json {
            let error = made.err().map(|error| error.to_string());
            let mut document = json!({"state": dir.to_string(), "made": error.is_none()});
            error.into_iter().for_each(|error| document["error"] = error.into());
            return code.max(print_document(document.to_string().as_bytes()));
        }
        if code != DONE {
            return code;
        }
        let mut page = Page::new();
        page.line(&format_args!("{dir}: a new state; nothing is revoked in it"));
        page.print()
    }
}
