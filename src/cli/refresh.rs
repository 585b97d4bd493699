//! `portcullis refresh`: feeds look now.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::Value;
use serde_json::json;

use super::DONE;
use super::PARTLY;
use super::REFUSED;
use super::answer::Answer;
use super::failure::CallError;
use super::failure::Effect;
use super::output::Page;
use super::output::cell;
use super::question;
use super::server::Server;
use super::server::ServerArgs;
use super::server::talk;

/// Longer than the gate waits for its feeds.
const PATIENCE: Duration = Duration::from_secs(90);

/// Which feed.
#[derive(Debug, Args)]
pub(super) struct RefreshArgs {
    /// This feed alone, as `portcullis status` names it.
    #[arg(long, value_name = "NAME")]
    feed: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

impl RefreshArgs {
    /// Asks, waits, prints, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        talk(async move {
            match self.call().await {
                Ok(answer) => question::print(&self.server, "refresh", &answer, ("feeds", show)),
                Err(error) => error.told(Effect::Changes),
            }
        })
    }

    async fn call(&self) -> Result<Answer, CallError> {
        let body = self.feed.as_ref().map_or_else(|| json!({}), |feed| json!({ "feed": feed }));
        let mut server = Server::open(&self.server).await?.patient(PATIENCE);
        server.call(&Method::POST, "/v1/feeds/refresh", Some(&body)).await
    }
}

fn show(answer: &Answer, page: &mut Page) -> u8 {
    let looked: Vec<&Value> = answer.document["feeds"].as_array().into_iter().flatten().collect();
    if looked.is_empty() {
        page.line(&"no feed is configured");
    }
    let mut failed = 0;
    for one in &looked {
        let (name, state) = (cell(&one["feed"], "name"), cell(&one["feed"], "state"));
        let error = cell(one, "error");
        failed += usize::from(!error.is_empty());
        let text = if error.is_empty() { cell(one, "found") } else { format!("FAILED: {error}") };
        page.field(&name, &format!("{text} ({state})"));
    }
    match failed {
        0 => DONE,
        some if some == looked.len() => REFUSED,
        _ => PARTLY,
    }
}
