//! `portcullis audit accept`: damage that a person has examined.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::REFUSED;
use super::USAGE;
use super::complain;
use super::configured;
use super::output::Page;
use super::output::counted;
use super::output::print_document;
use crate::authority::audit;
use crate::authority::audit::DamagePlace;
use crate::authority::audit::SignOff;
use crate::authority::audit::VerifyError;
use crate::clock::Clock;
use crate::config::Config;

pub(super) const ACCEPT: &str = "Examples:
  portcullis audit accept --config gate.toml --at audit.jsonl:733 \\
    --actor 'J. Doe, on call' --reason 'the disk was full, INC-42; no line is missing from the SIEM'
`portcullis audit verify` names the damage and its place. The gate must not run meanwhile: one process
alone writes the audit. Each acceptance is a line of the audit, and covers this damage as it is now:
anything that changes there later is new damage. Damage at the very end is set aside first, and
has another place then. A revocation on damaged lines is not rebuilt by `portcullis audit replay`.
Exit codes: 0 accepted, 1 no such damage, or the audit cannot be written, 2 usage or configuration.";

/// Which damage, and who says so.
#[derive(Debug, Args)]
pub(super) struct AcceptArgs {
    /// The configuration file (TOML) of the gate.
    #[arg(long, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The place of the damage, as `audit verify` names it; may be repeated.
    #[arg(long, value_name = "FILE:LINE", required = true)]
    at: Vec<DamagePlace>,
    /// The person who examined it.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    actor: String,
    /// What the person found.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl AcceptArgs {
    pub(super) fn run(self) -> u8 {
        let Self { config, at, actor, reason, json } = self;
        configured(config.as_deref(), |file| accept(file, &SignOff { places: at, actor, reason }, json))
    }
}

fn accept(file: &Path, sign_off: &SignOff, json: bool) -> u8 {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            complain(&format_args!("configuration {error}"));
            return USAGE;
        }
    };
    let dir = &config.state.dir;
    let accepted = match audit::accept(dir, &config.audit, Clock::system(), sign_off) {
        Ok(accepted) => accepted,
        Err(error) => {
            complain(&format_args!("audit accept: {}: {error}", dir.display()));
            if json {
                let document = json!({"accepted": [], "error": error.to_string()});
                print_document(document.to_string().as_bytes());
            }
            return REFUSED;
        }
    };
    let left = match audit::verify(dir, None, &mut |_, _| {}) {
        Ok(_) => 0,
        Err(VerifyError::Broken(fault)) => fault.count,
        Err(_) => 1,
    };
    complain(&"a revocation on these lines is not rebuilt by `portcullis audit replay`: revoke it anew");
    if json {
        let document = json!({"accepted": accepted, "left": left});
        return print_document(document.to_string().as_bytes());
    }
    let mut page = Page::new();
    for damage in &accepted {
        page.line(&format_args!("accepted {damage}"));
    }
    if left > 0 {
        let left = counted(left as u64, "fault");
        complain(&format_args!("{left} left; `portcullis audit verify` names all"));
    }
    page.print()
}
