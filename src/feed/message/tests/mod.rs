//! Messages of every kind, good and bad.

mod envelopes;
mod formats;
mod notifications;
mod schema;
mod signatures;

use serde_json::Value;
use serde_json::json;

use super::Message;
use super::Origin;
use super::Reader;
use crate::clock::Timestamp;
use crate::feed::sqs;

/// When every message of these tests was sent.
const SENT: Timestamp = Timestamp::from_secs(1_795_364_400);
const ORIGIN: Origin<'static> = Origin { message_id: "m-1", sent: SENT };

/// A queue's configuration; `more` is beside its URL.
fn config(more: Value) -> sqs::Config {
    let mut config = json!({ "queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/gate-1" });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(config).unwrap()
}

fn read(body: &str) -> Message {
    Reader::default().read(body, &ORIGIN)
}

/// An event of ours.
fn event() -> Value {
    json!({
        "version": 1, "id": "e-1", "action": "revoke", "level": "principal", "target": "spiffe://lab.test/agent/a",
        "at": "2026-11-22T16:00:00Z",
    })
}

fn with(mut value: Value, name: &str, field: Value) -> Value {
    value[name] = field;
    value
}

/// The kinds of what is not understood, and the ids of what is.
fn told(message: &Message) -> (Vec<&'static str>, Vec<&str>) {
    let kinds = message.poison.iter().map(|poison| poison.kind).collect();
    (kinds, message.events.iter().map(|event| event.id.as_str()).collect())
}

/// Of a message that is refused as a whole: why.
#[track_caller]
fn refusal(message: Message) -> String {
    assert!(message.events.is_empty() && message.irrelevant.is_empty(), "{message:?}");
    let [poison] = message.poison.as_slice() else { panic!("{message:?}") };
    let text = poison.to_string();
    assert!(text.len() < 300 && !text.contains(char::is_control), "{text:?}");
    text
}
