//! `portcullis advisory`: break-glass, declared, ended and shown.

use clap::Args;
use http::Method;
use serde_json::Value;
use serde_json::json;

use super::DONE;
use super::answer::Answer;
use super::change::unenforced;
use super::complain;
use super::failure::CallError;
use super::failure::Effect;
use super::output::Page;
use super::output::cell;
use super::output::counted;
use super::question;
use super::server::Server;
use super::server::ServerArgs;
use super::server::talk;

/// Whether it begins or ends; without either it is shown.
#[derive(Debug, Args)]
pub(super) struct AdvisoryArgs {
    /// Begin it, or extend it: for so long from now on, such as 30m or 1h30m.
    #[arg(
        long = "for", value_name = "DURATION", requires = "reason", conflicts_with = "end", value_parser = duration
    )]
    lasts: Option<String>,
    /// Why; it is logged every minute, and audited.
    #[arg(long, requires = "lasts")]
    reason: Option<String>,
    /// End it: what is denied by now is out when this returns.
    #[arg(long)]
    end: bool,
    #[command(flatten)]
    server: ServerArgs,
}

const PATH: &str = "/v1/advisory";

/// A duration as the gate reads it; how long it may be, the gate says.
fn duration(text: &str) -> Result<String, String> {
    match humantime::parse_duration(text) {
        Ok(lasts) if lasts.is_zero() => Err("more than nothing, such as 30m".to_owned()),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; write it like 30m or 1h30m")),
    }
}

impl AdvisoryArgs {
    /// Asks, prints, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        if self.lasts.is_none() && !self.end {
            return question::ask(&self.server, "advisory", PATH, "max_seconds", show);
        }
        talk(async move {
            match self.call().await {
                Ok(answer) => question::print(&self.server, "advisory", &answer, ("max_seconds", show)),
                Err(error) => error.told(Effect::Changes),
            }
        })
    }

    async fn call(&self) -> Result<Answer, CallError> {
        let mut server = Server::open(&self.server).await?;
        match &self.lasts {
            Some(lasts) => {
                let body = json!({ "for": lasts, "reason": self.reason });
                server.call(&Method::POST, PATH, Some(&body)).await
            }
            None => server.call(&Method::DELETE, PATH, None).await,
        }
    }
}

fn show(answer: &Answer, page: &mut Page) -> u8 {
    let document = &answer.document;
    let active = document["active"] == Value::Bool(true);
    page.field("break-glass", &lasting(document));
    for name in ["mode", "by", "reason", "since", "until"] {
        page.field_if(name, &cell(document, name));
    }
    if document["sessions_ended"].is_u64() {
        page.field("ended", &counted(answer.number("sessions_ended"), "session"));
    }
    match answer.number("sessions_pending") {
        0 => {}
        some => page.field("NOT ENDED YET", &counted(some, "session")),
    }
    if active {
        complain(&unenforced(&document["until"]));
    }
    DONE
}

/// Whether break-glass lasts, and for how long.
pub(super) fn lasting(advisory: &Value) -> String {
    if advisory["active"] != Value::Bool(true) {
        return "no".to_owned();
    }
    let left = advisory["remaining_seconds"].as_u64().unwrap_or_default();
    format!("yes, {} left", humantime::format_duration(std::time::Duration::from_secs(left)))
}
