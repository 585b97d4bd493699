//! `portcullis audit`: who did what, and whether the record of it is whole.

use clap::Args;
use clap::Subcommand;

use super::question;
use super::question::Window;
use super::question::moment;
use super::question::number;
use super::server::ServerArgs;
use super::server::query;
use crate::revocation::Level;

/// What to do with the audit.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List what was done, newest first.
    #[command(after_help = LIST)]
    List(Box<ListArgs>),
}

const LIST: &str = "Examples:
  portcullis audit list --since 1h
  portcullis audit list --action revoke --outcome refused
  portcullis audit list --actor spiffe://lab.test/admin/ops --json";

/// Which events.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Done by this actor alone: a principal, or secret:NAME.
    #[arg(long)]
    actor: Option<String>,
    /// revoke, suspend, reinstate, end_session, authenticate, call or audit_recovered alone.
    #[arg(long)]
    action: Option<String>,
    /// The same, under the name that other systems use.
    #[arg(long)]
    event_type: Option<String>,
    /// applied, effective_not_durable, asked, refused, failed ... alone.
    #[arg(long)]
    outcome: Option<String>,
    /// Of this level alone.
    #[arg(long)]
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
    /// At this time or later: RFC 3339, Unix seconds, or how long ago (1h).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<String>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<String>,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    server: ServerArgs,
}

const COLUMNS: [(&str, &str); 10] = [
    ("TIME", "time"),
    ("ACTION", "action"),
    ("OUTCOME", "outcome"),
    ("LEVEL", "level"),
    ("TARGET", "target"),
    ("ACTOR", "actor"),
    ("ADDRESS", "address"),
    ("CODE", "code"),
    ("REASON", "reason"),
    ("ID", "id"),
];

impl AuditCommand {
    /// Does it, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        match self {
            Self::List(list) => list.run(),
        }
    }
}

impl ListArgs {
    fn run(self) -> u8 {
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
            ("since", self.since),
            ("until", self.until),
            ("limit", number(self.window.limit)),
            ("offset", number(self.window.offset)),
        ];
        let path = format!("/v1/audit/events{}", query(&pairs));
        question::ask(&self.server, "audit list", &path, "events", |answer, page| {
            question::table(answer, page, "events", &COLUMNS)
        })
    }
}
