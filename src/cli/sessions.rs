//! `portcullis sessions`: who is connected, and how one of them is cut off.

use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;
use http::Method;

use super::DONE;
use super::answer::Answer;
use super::failure::CallError;
use super::failure::Effect;
use super::output::Page;
use super::output::counted;
use super::question;
use super::question::Window;
use super::question::number;
use super::server::Server;
use super::server::ServerArgs;
use super::server::encoded;
use super::server::query;
use super::server::talk;

/// Which sessions.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct SessionsArgs {
    #[command(subcommand)]
    command: Option<SessionsCommand>,
    /// Of this principal alone: SPIFFE ID, DNS name or agent id.
    #[arg(long)]
    principal: Option<String>,
    /// Under this serial alone.
    #[arg(long)]
    serial: Option<String>,
    /// On this key alone: the SHA-256 of its SubjectPublicKeyInfo.
    #[arg(long)]
    key: Option<String>,
    /// Under this issuer's key id alone.
    #[arg(long)]
    issuer: Option<String>,
    /// In this trust domain alone.
    #[arg(long)]
    trust_domain: Option<String>,
    /// From this address alone.
    #[arg(long)]
    address: Option<String>,
    /// At this listener alone.
    #[arg(long)]
    listener: Option<Listener>,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// End one session; its credential may connect again.
    #[command(after_help = END)]
    End(EndArgs),
}

const END: &str = "Examples:
  portcullis sessions --principal spiffe://lab.test/agent/a
  portcullis sessions end 5f0c2a9b00000011 --reason 'stuck upload'
To keep it out, revoke or suspend its certificate, key or principal.";

/// Which session ends.
#[derive(Debug, Args)]
struct EndArgs {
    /// The session, as `portcullis sessions` shows it.
    id: String,
    /// Why; it is logged and audited.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Listener {
    Gate,
    Admin,
}

const COLUMNS: [(&str, &str); 9] = [
    ("ID", "id"),
    ("PRINCIPAL", "principal"),
    ("SERIAL", "serial"),
    ("ISSUER", "issuer"),
    ("ADDRESS", "address"),
    ("LISTENER", "listener"),
    ("PROTOCOL", "protocol"),
    ("SINCE", "since"),
    ("NOT AFTER", "not_after"),
];

impl SessionsArgs {
    /// Asks or ends, prints, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        if let Some(SessionsCommand::End(end)) = self.command {
            return talk(end.run());
        }
        let pairs = [
            ("principal", self.principal),
            ("serial", self.serial),
            ("key", self.key),
            ("issuer", self.issuer),
            ("trust_domain", self.trust_domain),
            ("address", self.address),
            ("listener", self.listener.and_then(|at| Some(at.to_possible_value()?.get_name().to_owned()))),
            ("limit", number(self.window.limit)),
            ("offset", number(self.window.offset)),
        ];
        let path = format!("/v1/sessions{}", query(&pairs));
        question::ask(&self.server, "sessions", &path, "sessions", |answer, page| {
            question::table(&answer.document, page, "sessions", &COLUMNS)
        })
    }
}

impl EndArgs {
    async fn run(self) -> u8 {
        match self.call().await {
            Ok(answer) => {
                let name = format!("sessions end: session {}", self.id);
                question::print(&self.server, &name, &answer, ("ended", ended))
            }
            Err(error) => error.told(Effect::Changes),
        }
    }

    async fn call(&self) -> Result<Answer, CallError> {
        let path = format!("/v1/sessions/{}{}", encoded(&self.id), query(&[("reason", self.reason.clone())]));
        Server::open(&self.server).await?.call(&Method::DELETE, &path, None).await
    }
}

fn ended(answer: &Answer, page: &mut Page) -> u8 {
    let whose = match (answer.text("principal"), answer.text("serial")) {
        ("", "") => String::new(),
        ("", serial) => format!(" of serial {serial}"),
        (principal, _) => format!(" of {principal}"),
    };
    let pending = match answer.number("sessions_pending") {
        0 => String::new(),
        some => format!(", {} still closing", counted(some, "session")),
    };
    let id = super::output::cell(&answer.document, "id");
    page.line(&format_args!("session {id}{whose} ended{pending}; its credential may connect again"));
    DONE
}
