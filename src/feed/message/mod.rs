//! What is in a message: bytes in, events out. No network, no clock.
//!
//! An envelope (SNS, EventBridge) is opened, a signature is verified where one is asked for, and what is inside is
//! recognised by its shape. **Invariant:** the same message gives the same events with the same ids and times, however
//! often it comes.

use crate::clock::Timestamp;
use crate::revocation::Event;

/// What is known of a message beside its body.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its id, the same at each receive.
    pub message_id: &'a str,
    /// When it was sent: the `at` of what names none.
    pub sent: Timestamp,
}

/// What a message says. One with several parts may be understood in some and not in others.
#[derive(Debug, Default)]
pub struct Message {
    /// What it was recognised as, for metrics: `portcullis`, `clawdentity`, `serial`, `agentwrit`, `unknown`; of several
    /// parts, that of the first.
    pub format: &'static str,
    /// What is to be done.
    pub events: Vec<Event>,
    /// Parts that are known and concern nobody here, each in a few words.
    pub irrelevant: Vec<String>,
    /// Parts that are not understood. With any of these the message is not to be acknowledged.
    pub poison: Vec<Poison>,
}

/// Why a message, or a part of it, is not understood. Says nothing of the body but where and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {reason}")]
pub struct Poison {
    /// What kind of fault, for metrics: `not_json`, `unknown_shape`, `bad_event`, `unsigned`, `bad_signature`, ...
    pub kind: &'static str,
    /// Where and why, in one line.
    pub reason: String,
}

/// Reads messages by the rules of one queue.
#[derive(Debug, Default)]
pub struct Reader {}

impl Reader {
    /// Reads one message; what cannot be read is in [`Message::poison`].
    pub fn read(&self, body: &str, origin: &Origin<'_>) -> Message {
        let poison = |kind, reason: String| Message {
            format: "unknown",
            poison: vec![Poison { kind, reason }],
            ..Message::default()
        };
        let mut value: serde_json::Value = match serde_json::from_str(body) {
            Ok(value) => value,
            Err(error) => return poison("not_json", error.to_string()),
        };
        let Some(fields) = value.as_object_mut().filter(|fields| fields.get("version") == Some(&1.into()))
        else {
            return poison("unknown_shape", "no shape is known but version 1".to_owned());
        };
        fields.remove("version");
        fields.entry("at").or_insert_with(|| origin.sent.to_string().into());
        match serde_json::from_value(value) {
            Ok(event) => Message { format: "portcullis", events: vec![event], ..Message::default() },
            Err(error) => poison("bad_event", error.to_string()),
        }
    }
}
