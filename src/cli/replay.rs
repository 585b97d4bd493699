//! `portcullis audit replay`: the journal, rebuilt from the audit.

use std::path::PathBuf;

use clap::Args;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::REFUSED;
use super::USAGE;
use super::complain;
use super::configured;
use super::output::Page;
use super::output::counted;
use super::output::print_document;
use super::progress;
use crate::authority::audit;
use crate::authority::audit::Acceptance;
use crate::authority::audit::HeldAudit;
use crate::authority::audit::Report;
use crate::authority::audit::VerifyError;
use crate::clock::Clock;
use crate::config::Config;
use crate::revocation::Engine;
use crate::revocation::JournalReplay;
use crate::revocation::ReadableJournal;
use crate::revocation::StandingCount;

pub(super) const REPLAY: &str = "Examples:
  portcullis audit replay --config gate.toml --dry-run
  portcullis audit replay --config gate.toml
  portcullis audit replay --config gate.toml --merge
It verifies the audit first, and rebuilds what administrators and feeds revoked, suspended and
reinstated. The gate must not run meanwhile. A file that is no readable journal is kept under
another name; a readable one is never replaced, but with --merge it is added to. What the audit
could not record any more is not in it, nor is a revocation on damaged lines that were accepted:
revoke that anew. Revocation lists are not part of the journal.
Exit codes: 0 rebuilt, 1 refused or failed, 2 usage or configuration.";

/// From what, and into what.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// The configuration file (TOML) of the gate.
    #[arg(long, env = "PORTCULLIS_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Older files were archived: only lines from this sequence on must be here, and are replayed.
    #[arg(long, value_name = "SEQUENCE", default_value_t = 1, hide_default_value = true,
        value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// Add to a readable journal, instead of refusing.
    #[arg(long)]
    merge: bool,
    /// Say what the journal would hold, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What a replay found and made.
struct Replayed {
    journal: PathBuf,
    report: Report,
    changes: u64,
    /// How many of the changes a readable journal lacked; `None` if there was none.
    added: Option<u64>,
    targets: usize,
    denied: usize,
    standing: Vec<StandingCount>,
    /// Where a file that was no readable journal is now.
    aside: Option<PathBuf>,
}

impl ReplayArgs {
    pub(super) fn run(self) -> u8 {
        configured(self.config.as_deref(), |file| match Config::load(file) {
            Ok(config) => self.replay(&config),
            Err(error) => {
                complain(&format_args!("configuration {error}"));
                USAGE
            }
        })
    }

    fn replay(&self, config: &Config) -> u8 {
        match self.rebuild(config) {
            Ok(replayed) => self.tell(&replayed),
            Err(error) => {
                complain(&format_args!("audit replay: {error}"));
                if self.json {
                    let journal = config.state.dir.join(Engine::JOURNAL).display().to_string();
                    let document = json!({"journal": journal, "written": false, "error": error.to_string()});
                    print_document(document.to_string().as_bytes());
                }
                REFUSED
            }
        }
    }

    fn rebuild(&self, config: &Config) -> anyhow::Result<Replayed> {
        let dir = &config.state.dir;
        let _held = HeldAudit::take(dir)?;
        if !audit::exists(dir) {
            let dir = dir.display();
            anyhow::bail!(
                "{dir}: there is no audit to rebuild from; restore the state directory from a backup"
            );
        }
        let bar = if self.json { progress::none() } else { progress::bytes("audit") };
        let verified = audit::verify_from(dir, self.from, None, &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let report = verified.map_err(|error| match &error {
            VerifyError::Broken(_) => {
                let advice = "examine the damage, and accept it with `portcullis audit accept`; the replay leaves it out";
                anyhow::anyhow!("{error}; {advice}")
            }
            VerifyError::Read { .. } => error.into(),
        })?;
        let readable = if self.merge { ReadableJournal::Extended } else { ReadableJournal::Refused };
        let mut replay = JournalReplay::begin(dir, &config.revocation, readable, Clock::system().now())?;
        let mut changes = 0;
        audit::changes(dir, &mut |change| {
            changes += 1;
            replay.merge(&change.event, change.time);
        })?;
        let (added, journal) = (replay.added(), dir.join(Engine::JOURNAL));
        let (targets, denied, standing) = (replay.targets(), replay.denied(), replay.standing());
        let aside = if self.dry_run { None } else { replay.write()? };
        Ok(Replayed { journal, report, changes, added, targets, denied, standing, aside })
    }

    fn tell(&self, replayed: &Replayed) -> u8 {
        let Replayed { journal, report, standing, aside, .. } = replayed;
        if report.starts_midway {
            let first = report.first_sequence;
            complain(&format_args!(
                "the audit begins with line {first}: what was revoked before that is not replayed"
            ));
        }
        for (sequence, reason) in &report.recoveries {
            complain(&format_args!(
                "at line {sequence} the audit was mended, and may lack changes: {reason}"
            ));
        }
        for Acceptance { damage, .. } in &report.accepted {
            complain(&format_args!(
                "the damaged lines are not replayed, and a revocation on them is not rebuilt: {damage}"
            ));
        }
        if let Some(aside) = aside {
            complain(&format_args!("the file that was no readable journal is now {}", aside.display()));
        }
        if self.json {
            let levels: Map<String, Value> = standing.iter().map(level).collect();
            let document = json!({
                "journal": journal.display().to_string(), "written": !self.dry_run, "lines": report.events,
                "changes": replayed.changes, "added": replayed.added, "targets": replayed.targets,
                "standing": levels, "set_aside": aside.as_ref().map(|aside| aside.display().to_string()),
            });
            return print_document(document.to_string().as_bytes());
        }
        let mut page = Page::new();
        page.line(&self.sentence(replayed));
        let rows = standing.iter().filter(|count| count.revoked + count.suspended > 0);
        let row = |count: &StandingCount| {
            vec![count.level.name().to_owned(), count.revoked.to_string(), count.suspended.to_string()]
        };
        page.table(&["LEVEL", "REVOKED", "SUSPENDED"], rows.map(row).collect());
        page.print()
    }

    /// What was done, on one line.
    fn sentence(&self, replayed: &Replayed) -> String {
        let Replayed { journal, report, changes, added, targets, denied, .. } = replayed;
        let (changes, lines) = (counted(*changes, "change"), counted(report.events, "line"));
        let done = match (added, self.dry_run) {
            (None, false) => format!("rebuilt from {changes} in {lines}"),
            (None, true) => format!("would be rebuilt from {changes} in {lines}"),
            (Some(added), is_dry) => {
                let verb = if is_dry { "would be added" } else { "added" };
                let added = counted(*added, "change");
                format!("{added} {verb} that the journal lacked, of {changes} in {lines}")
            }
        };
        let targets = counted(*targets as u64, "target");
        format!("{}: {done}: {targets}, {denied} of them revoked or suspended", journal.display())
    }
}

fn level(count: &StandingCount) -> (String, Value) {
    let StandingCount { level, revoked, suspended } = count;
    (level.name().to_owned(), json!({"revoked": revoked, "suspended": suspended}))
}
