//! `portcullis status`: how a gate is.

use clap::Args;
use serde_json::Value;

use super::DONE;
use super::advisory::lasting;
use super::answer::Answer;
use super::change::unenforced;
use super::complain;
use super::output::Page;
use super::output::cell;
use super::output::counted;
use super::output::shown;
use super::question;
use super::server::ServerArgs;

/// Which gate.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,
}

impl StatusArgs {
    /// Asks, prints, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        question::ask(&self.server, "status", "/v1/status", "version", show)
    }
}

fn show(answer: &Answer, page: &mut Page) -> u8 {
    let document = &answer.document;
    let ready = match (&document["ready"], answer.text("not_ready")) {
        (Value::Bool(true), _) => "yes".to_owned(),
        (_, "") => "no".to_owned(),
        (_, reason) => format!("no: {reason}"),
    };
    page.field("ready", &ready);
    for name in ["mode", "version", "started", "now", "generation", "durable", "sessions"] {
        page.field_if(name, &cell(document, name));
    }
    if let Some(advisory) = document.get("advisory") {
        let (by, reason) = (cell(advisory, "by"), cell(advisory, "reason"));
        page.field("BREAK-GLASS", &format!("{}, by {by}: {reason}", lasting(advisory)));
    }
    page.field_if("certificates", &known(document));
    let entries = &document["entries"];
    page.field_if("entries", &format!("{}{}", cell(entries, "total"), parts(&entries["by_level"])));
    page.field_if("layers", parts(&entries["by_layer"]).trim_start_matches(": "));
    page.field_if("CONTRADICTING LISTS", parts(&entries["contradicting_lists"]).trim_start_matches(": "));
    for feed in document["feeds"].as_array().into_iter().flatten() {
        page.field("feed", &told(feed));
    }
    for warning in document["warnings"].as_array().into_iter().flatten() {
        page.field("WARNING", &shown(warning));
    }
    let audit = &document["audit"];
    page.field_if("audit", [cell(audit, "sequence"), cell(audit, "hash")].join(":").trim_matches(':'));
    page.field_if("AUDIT FAULT", &cell(audit, "fault"));
    let number = |name: &str| audit[name].as_u64().unwrap_or_default();
    match (number("waiting"), number("lost")) {
        (0, 0) => {}
        (waiting, 0) => page.field("AUDIT WAITING", &counted(waiting, "line")),
        (waiting, lost) => page.field("AUDIT WAITING", &format!("{}, {lost} lost", counted(waiting, "line"))),
    }
    let caller = &document["caller"];
    page.field_if(
        "you are",
        [cell(caller, "actor"), cell(caller, "role")].join(", ").trim_matches([',', ' ']),
    );
    if answer.text("mode") == "advisory" {
        complain(&unenforced(&document["advisory"]["until"]));
    }
    if [&document["durable"], &audit["durable"]].contains(&&Value::Bool(false)) {
        complain(&"WARNING: what is revoked now is not on disk: it would be forgotten in a restart");
    }
    DONE
}

fn known(document: &Value) -> String {
    match cell(document, "certificates_known") {
        none if none.is_empty() => none,
        some => format!("{some} seen or told of"),
    }
}

/// The members that are not zero: `: certificate 2, key 1`.
fn parts(counts: &Value) -> String {
    let some = counts.as_object().into_iter().flatten().filter(|(_, count)| **count != 0);
    let some: Vec<String> = some.map(|(name, count)| format!("{name} {}", shown(count))).collect();
    if some.is_empty() { String::new() } else { format!(": {}", some.join(", ")) }
}

/// One feed in a line: what it is called, how fresh it is, and what is wrong with it.
fn told(feed: &Value) -> String {
    let mut text = format!("{} {}", cell(feed, "name"), cell(feed, "state"));
    for (name, words) in [
        ("stale_since", "since"),
        ("age_seconds", "age"),
        ("entries", "entries"),
        ("next_update", "next update"),
        ("last_error", "last error:"),
    ] {
        let value = cell(feed, name);
        if !value.is_empty() {
            let unit = if name == "age_seconds" { " s" } else { "" };
            text = format!("{text}, {words} {value}{unit}");
        }
    }
    if feed["required"] == Value::Bool(true) {
        text.push_str(", required");
    }
    text
}
