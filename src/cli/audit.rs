//! `portcullis audit`: who did what, and whether the record of it is whole.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use serde_json::Value;
use serde_json::json;

use super::DONE;
use super::REFUSED;
use super::accept::ACCEPT;
use super::accept::AcceptArgs;
use super::complain;
use super::order::level;
use super::output::Page;
use super::output::counted;
use super::output::print_document;
use super::progress;
use super::question;
use super::question::Window;
use super::question::moment;
use super::question::number;
use super::replay::REPLAY;
use super::replay::ReplayArgs;
use super::server::ServerArgs;
use super::server::query;
use crate::authority::audit;
use crate::authority::audit::Acceptance;
use crate::authority::audit::Damage;
use crate::authority::audit::Head;
use crate::authority::audit::Query;
use crate::authority::audit::Report;
use crate::authority::audit::VerifyError;
use crate::clock::Timestamp;
use crate::revocation::Level;

/// What to do with the audit.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List what was done, newest first.
    #[command(after_help = LIST)]
    List(Box<ListArgs>),
    /// Say whether the record is whole: every line, in its place, unchanged.
    #[command(after_help = VERIFY)]
    Verify(VerifyArgs),
    /// Accept damage that was examined, so that only new damage is an alert.
    #[command(after_help = ACCEPT)]
    Accept(AcceptArgs),
    /// Rebuild a lost journal from the record.
    #[command(after_help = REPLAY)]
    Replay(ReplayArgs),
}

const LIST: &str = "Examples:
  portcullis audit list --since 1h
  portcullis audit list --action revoke --outcome refused
  portcullis audit list --actor spiffe://lab.test/admin/ops --json
  portcullis audit list --dir state --target spiffe://lab.test/agent/a";

const VERIFY: &str = "Examples:
  portcullis audit verify --dir state
  portcullis audit verify --dir state --expect 1204:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  portcullis audit verify --dir state --from 733
A head that was noted outside of this machine (`portcullis status` shows it) is
what tells if the newest lines were cut off, or all of it was written anew or put
back as it once was. If whole older files were archived, say with --from what is
left: the sequence in the name of the oldest file that is here.
Damage that was examined and accepted (`portcullis audit accept`) counts as whole.
Exit codes: 0 it is whole, 1 it is not, or it cannot be read.";

/// Which audit.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The state directory.
    #[arg(long, value_name = "STATE")]
    dir: PathBuf,
    /// A head that was noted before: it must be part of the record.
    #[arg(long, value_name = "SEQUENCE:HASH")]
    expect: Option<Head>,
    /// Older files were archived: only lines from this sequence on must be here.
    #[arg(long, value_name = "SEQUENCE", default_value_t = 1, hide_default_value = true,
        value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Which events.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Done by this actor alone: a principal, or secret:NAME.
    #[arg(long)]
    actor: Option<String>,
    /// This alone.
    #[arg(long, value_parser = ACTIONS)]
    action: Option<String>,
    /// The same, under the name that other systems use.
    #[arg(long)]
    event_type: Option<String>,
    /// With this outcome alone.
    #[arg(long, value_parser = OUTCOMES)]
    outcome: Option<String>,
    /// Of this level alone.
    #[arg(long, value_parser = level())]
    level: Option<Level>,
    /// About this target alone.
    #[arg(long)]
    target: Option<String>,
    /// About this principal alone.
    #[arg(long)]
    principal: Option<String>,
    /// About this agent alone.
    #[arg(long)]
    agent_id: Option<String>,
    /// About this serial alone.
    #[arg(long)]
    serial: Option<String>,
    /// About this task alone.
    #[arg(long)]
    task_id: Option<String>,
    /// About this change alone.
    #[arg(long)]
    id: Option<String>,
    /// Of calls with this --correlation-id alone.
    #[arg(long, value_name = "ID")]
    correlated: Option<String>,
    /// At this time or later: RFC 3339, Unix seconds, or how long ago (1h).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<String>,
    /// Not after this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<String>,
    /// Read the files in this state directory, and ask no server.
    #[arg(long, value_name = "STATE")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    server: ServerArgs,
}

/// What the audit calls what was asked, and what became of it.
const ACTIONS: [&str; 13] = [
    "revoke",
    "suspend",
    "reinstate",
    "end_session",
    "advisory",
    "refresh",
    "list",
    "authenticate",
    "call",
    "state_init",
    "audit_recovered",
    "audit_continued",
    "audit_accepted",
];
const OUTCOMES: [&str; 13] = [
    "applied",
    "effective_not_durable",
    "asked",
    "refused",
    "left_out",
    "failed",
    "begun",
    "extended",
    "ended",
    "lapsed",
    "ended_with_process",
    "recovered",
    "lost",
];

const COLUMNS: [(&str, &str); 10] = [
    ("TIME", "time"),
    ("ACTION", "action"),
    ("OUTCOME", "outcome"),
    ("LEVEL", "level"),
    ("TARGET", "target"),
    ("ACTOR", "actor"),
    ("ADDRESS", "address"),
    ("CODE", "code"),
    ("ID", "id"),
    ("REASON", "reason"),
];

impl AuditCommand {
    /// Does it, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        match self {
            Self::List(list) => list.run(),
            Self::Verify(verify) => verify.run(),
            Self::Accept(accept) => accept.run(),
            Self::Replay(replay) => replay.run(),
        }
    }
}

impl ListArgs {
    fn run(self) -> u8 {
        if self.dir.is_some() {
            return self.read();
        }
        let pairs = [
            ("actor", self.actor),
            ("action", self.action),
            ("event_type", self.event_type),
            ("outcome", self.outcome),
            ("level", self.level.map(|level| level.name().to_owned())),
            ("target", self.target),
            ("principal", self.principal),
            ("agent_id", self.agent_id),
            ("serial", self.serial),
            ("task_id", self.task_id),
            ("id", self.id),
            ("correlation_id", self.correlated),
            ("since", self.since),
            ("until", self.until),
            ("limit", number(self.window.limit)),
            ("offset", number(self.window.offset)),
        ];
        let path = format!("/v1/audit/events{}", query(&pairs));
        question::ask(&self.server, "audit list", &path, "events", |answer, page| {
            question::table(&answer.document, page, "events", &COLUMNS)
        })
    }

    /// The same from files, as a server would answer.
    fn read(self) -> u8 {
        let Some(dir) = &self.dir else { return DONE };
        let (query, task) = (self.query(), self.task_id.as_ref());
        if task.is_some() && (self.level.is_some() || self.target.is_some()) {
            complain(&"audit list: in files a task is a target: give --task-id, or --level and --target");
            return super::USAGE;
        }
        let found = match audit::find_in(dir, &query) {
            Ok(found) => found,
            Err(error) => {
                complain(&format_args!("audit list: {error}"));
                return REFUSED;
            }
        };
        if found.unreadable > 0 {
            let lines = counted(found.unreadable as u64, "line");
            complain(&format_args!("{lines} cannot be read; portcullis audit verify says what is wrong"));
        }
        let document = json!({
            "events": found.events, "total": found.total, "offset": query.offset, "limit": query.limit,
        });
        if self.server.json {
            return print_document(document.to_string().as_bytes());
        }
        let mut page = Page::new();
        question::table(&document, &mut page, "events", &COLUMNS).max(page.print())
    }

    fn query(&self) -> Query {
        let time = |text: &Option<String>| text.as_deref().and_then(Timestamp::parse);
        let size =
            |number: Option<u64>, usual| number.map_or(usual, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let level = self.level.or(self.task_id.as_ref().map(|_| Level::Task));
        let usual = Query::default();
        Query {
            actor: self.actor.clone(),
            action: self.action.clone().or(self.event_type.clone()),
            outcome: self.outcome.clone(),
            level: level.map(|level| level.name().to_owned()),
            target: self.target.clone().or(self.task_id.clone()),
            principal: self.principal.clone().or(self.agent_id.clone()),
            serial: self.serial.clone(),
            id: self.id.clone(),
            correlation_id: self.correlated.clone(),
            since: time(&self.since),
            until: time(&self.until),
            limit: size(self.window.limit, usual.limit),
            offset: size(self.window.offset, usual.offset),
            ..usual
        }
    }
}

impl VerifyArgs {
    fn run(self) -> u8 {
        let bar = if self.json { progress::none() } else { progress::bytes("audit") };
        let verified = audit::verify_from(&self.dir, self.from, self.expect.as_ref(), &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        match verified {
            Ok(report) => self.whole(&report),
            Err(error) => self.broken(&error),
        }
    }

    fn whole(&self, report: &Report) -> u8 {
        if self.json {
            return print_document(document(report).to_string().as_bytes());
        }
        let mut page = Page::new();
        let (events, files) = (counted(report.events, "event"), counted(report.files as u64, "file"));
        let dir = self.dir.display();
        match report.starts_midway {
            true => page
                .line(&format_args!("{dir}: whole from {} on: {events} in {files}", report.first_sequence)),
            false => page.line(&format_args!("{dir}: whole: {events} in {files}")),
        }
        page.field("first", &report.first_sequence);
        page.field("head", &report.head);
        for (sequence, reason) in &report.recoveries {
            page.field("mended", &format_args!("at {sequence}: {reason}"));
        }
        for acceptance in &report.accepted {
            let Acceptance { sequence, actor, reason, damage } = acceptance;
            page.field("accepted", &format_args!("{damage} (at {sequence}, by {actor}: {reason})"));
        }
        if report.torn_tail {
            complain(&"the last line is not complete: it is being written, or a gate was killed");
        }
        page.print()
    }

    fn broken(&self, error: &VerifyError) -> u8 {
        complain(&format_args!("audit verify: {error}"));
        let mut document = json!({"whole": false, "error": error.to_string()});
        if let VerifyError::Broken(fault) = error {
            for (sequence, reason) in &fault.recoveries {
                complain(&format_args!("before that it was mended at {sequence}: {reason}"));
            }
            let more = |damage: &&Damage| {
                fault.line != Some(damage.line)
                    || fault.file.file_name() != Some(OsStr::new(damage.file.as_str()))
            };
            for damage in fault.damages.iter().filter(more) {
                complain(&format_args!("and at {damage}"));
            }
            if !fault.damages.is_empty() || (self.expect.is_none() && audit::exists(&self.dir)) {
                complain(
                    &"next: examine the damage; then stop the gate, and run `portcullis audit accept --config FILE --at FILE:LINE`",
                );
            }
            document["damages"] = json!(fault.damages);
            document["file"] = fault.file.display().to_string().into();
            document["line"] = fault.line.into();
            document["sequence"] = fault.sequence.into();
            document["recoveries"] = mended(&fault.recoveries);
        }
        if self.json {
            print_document(document.to_string().as_bytes());
        }
        REFUSED
    }
}

fn mended(recoveries: &[(u64, String)]) -> Value {
    recoveries.iter().map(|(sequence, reason)| json!({"sequence": sequence, "reason": reason})).collect()
}

fn accepted(acceptance: &Acceptance) -> Value {
    let Acceptance { sequence, actor, reason, damage } = acceptance;
    json!({"sequence": sequence, "actor": actor, "reason": reason, "damage": damage})
}

fn document(report: &Report) -> Value {
    json!({
        "whole": true,
        "files": report.files,
        "events": report.events,
        "first_sequence": report.first_sequence,
        "head": {"sequence": report.head.sequence, "hash": report.head.hash},
        "starts_midway": report.starts_midway,
        "torn_tail": report.torn_tail,
        "recoveries": mended(&report.recoveries),
        "accepted": report.accepted.iter().map(accepted).collect::<Vec<_>>(),
    })
}
