//! `portcullis revocations`: what is revoked and suspended, and what became of one change.

use clap::Args;
use clap::ValueEnum;
use serde_json::Value;

use super::DONE;
use super::answer::Answer;
use super::order::level;
use super::output::Page;
use super::output::cell;
use super::question;
use super::question::Window;
use super::question::moment;
use super::question::number;
use super::server::ServerArgs;
use super::server::encoded;
use super::server::query;
use crate::revocation::Level;

/// Which revocations.
#[derive(Debug, Args)]
pub(super) struct RevocationsArgs {
    /// Tell what became of this change, instead.
    #[arg(conflicts_with_all = ["level", "target", "issuer", "state", "source", "since", "until", "limit", "offset"])]
    id: Option<String>,
    /// Of this level alone.
    #[arg(long, value_parser = level())]
    level: Option<Level>,
    /// Of this target alone.
    #[arg(long)]
    target: Option<String>,
    /// Under this issuer's key id alone.
    #[arg(long)]
    issuer: Option<String>,
    /// In this state alone.
    #[arg(long)]
    state: Option<State>,
    /// From this source alone.
    #[arg(long)]
    source: Option<String>,
    /// Decided at this time or later: RFC 3339, Unix seconds, or how long ago (1h).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<String>,
    /// Decided not after this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<String>,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    Revoked,
    Suspended,
}

const COLUMNS: [(&str, &str); 9] = [
    ("STATE", "state"),
    ("LEVEL", "level"),
    ("TARGET", "target"),
    ("ISSUER", "issuer"),
    ("AT", "at"),
    ("ACTOR", "actor"),
    ("ISSUED BEFORE", "issued_before"),
    ("ID", "id"),
    ("REASON", "reason"),
];

impl RevocationsArgs {
    /// Asks, prints, and returns the exit code.
    pub(super) fn run(self) -> u8 {
        if let Some(id) = &self.id {
            let path = format!("/v1/revocations/{}", encoded(id));
            let name = format!("revocations: change {id}");
            return question::ask(&self.server, &name, &path, "id", story);
        }
        let pairs = [
            ("level", self.level.map(|level| level.name().to_owned())),
            ("target", self.target),
            ("issuer", self.issuer),
            ("state", self.state.and_then(|state| Some(state.to_possible_value()?.get_name().to_owned()))),
            ("source", self.source),
            ("since", self.since),
            ("until", self.until),
            ("limit", number(self.window.limit)),
            ("offset", number(self.window.offset)),
        ];
        let path = format!("{}{}", super::change::REVOCATIONS, query(&pairs));
        question::ask(&self.server, "revocations", &path, "revocations", |answer, page| {
            question::table_of(&answer.document, page, "revocations", &COLUMNS, entry_cell)
        })
    }
}

/// One change, and all that happened to its target.
fn story(answer: &Answer, page: &mut Page) -> u8 {
    let is_in_effect = answer.document["in_effect"] == Value::Bool(true);
    let effect = if is_in_effect { "in effect" } else { "not in effect" };
    page.field("id", &answer.text("id"));
    let events = answer.document["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    // What is in effect no more has no entry, and what was brought before there was an audit has no event.
    let event = events.iter().find(|event| event["id"] == answer.document["id"]).unwrap_or(&Value::Null);
    let entry = &answer.document["entry"];
    let change = [&cell(event, "action"), answer.text("level"), answer.text("target")].join(" ");
    page.field("change", &change.trim_start());
    page.field("state", &format_args!("{}{}, {effect}", answer.text("state"), mark(entry)));
    page.field_if("issuer", answer.text("issuer"));
    for (name, in_event) in [("principal", "principal"), ("serial", "serial"), ("at", "time")] {
        page.field_if(name, &either(entry, name, event, in_event));
    }
    for name in ["actor", "source", "reason"] {
        page.field_if(name, &either(entry, name, event, name));
    }
    for (words, name) in [("issued before", "issued_before"), ("expires", "expires_at")] {
        page.field_if(words, &cell(entry, name));
    }
    timeline(&answer.document["timeline"], page);
    if !events.is_empty() {
        page.line(&"");
        events.iter().for_each(|event| page.line(&told(event)));
    }
    DONE
}

/// A member of an entry as a cell of a table; its state with the [`mark`].
pub(super) fn entry_cell(entry: &Value, name: &str) -> String {
    let cell = cell(entry, name);
    if name == "state" { cell + mark(entry) } else { cell }
}

/// Marks an entry that counts at the gate alone.
fn mark(entry: &Value) -> &'static str {
    if entry["unsigned"] == Value::Bool(true) { " (unsigned)" } else { "" }
}

/// A member of the entry; else what the event calls the same.
fn either(entry: &Value, name: &str, event: &Value, in_event: &str) -> String {
    match cell(entry, name) {
        none if none.is_empty() => cell(event, in_event),
        some => some,
    }
}

fn timeline(timeline: &Value, page: &mut Page) {
    page.field_if("received", &cell(timeline, "received"));
    let steps = [
        ("in effect", "effective_us"),
        ("enforced", "enforced_us"),
        ("on disk", "durable_us"),
        ("acknowledged", "acknowledged_us"),
    ];
    for (words, name) in steps {
        if let Some(micros) = timeline[name].as_u64() {
            page.field(words, &format_args!("{}.{:03} ms after that", micros / 1000, micros % 1000));
        }
    }
    page.field_if("recorded", &cell(timeline, "recorded"));
}

/// An event of the audit in one line.
pub(super) fn told(event: &Value) -> String {
    let words = ["time", "action", "outcome"].map(|name| cell(event, name));
    let more = [
        ("by", "actor"),
        ("from", "address"),
        ("correlation id", "correlation_id"),
        ("code", "code"),
        ("id", "id"),
    ];
    let more = more.into_iter().filter_map(|(word, name)| {
        let value = cell(event, name);
        (!value.is_empty()).then(|| format!(" {word} {value}"))
    });
    let reason = match cell(event, "reason") {
        reason if reason.is_empty() => reason,
        reason => format!(": {reason}"),
    };
    format!("{}{}{reason}", words.join("  "), more.collect::<String>())
}
