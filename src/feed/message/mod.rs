//! What is in a message: bytes in, events out. No network, no clock.
//!
//! An envelope (SNS, EventBridge) is opened, a signature is verified where one is asked for, and what is inside is
//! recognised by its shape. **Invariant:** the same message gives the same events with the same ids and times, however
//! often it comes. `docs/messages.md` says the same for those who send them.
//!
//! | shape | format |
//! |---|---|
//! | `{"version": 1, "id", "action", "level", "target", "at", ..}` | `portcullis`: `docs/event.schema.json` |
//! | `{"jws": ".."}`, or the compact JWS itself | `portcullis`, signed: see `signed.rs` |
//! | `{"type": "agent.auth.revoked", "data": {..}, ..}` and its siblings | `clawdentity` |
//! | `{"serial", "issuer"?, "reason"?, "at"?}` | `serial` |
//! | `{"level", "target"}` | `agentwrit` |
//! | `[..]` or `{"events": [..]}` | a batch of any of these |

mod envelope;
mod event;
mod foreign;
mod json;
mod signed;
mod sns;
mod sns_url;

#[cfg(test)]
mod tests;

use crate::clock::Timestamp;
use crate::feed::sqs;
use crate::revocation::Event;
use envelope::Content;
use envelope::Opener;
use event::Signed;
use foreign::Derived;
use foreign::Part;
use json::Elements;
use json::Fields;

/// The longest body, bytes: what a queue of Amazon's takes.
const MAX_BODY: usize = 1024 * 1024;
/// The most parts in one message.
const MAX_PARTS: usize = 10_000;
/// The longest reason of a [`Poison`], bytes.
const MAX_REASON: usize = 256;

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
    /// What kind of fault, for metrics: `too_large`, `not_json`, `unknown_shape`, `unknown_version`, `unknown_type`,
    /// `bad_event`, `bad_envelope`, `not_sns`, `wrong_topic`, `unsigned`, `force_unsigned`, `bad_signature`,
    /// `bad_certificate_url`, `bad_certificate`, `unknown_certificate`, `ambiguous_issuer`, `secret_target`.
    pub kind: &'static str,
    /// Where and why, in one line.
    pub reason: String,
}

/// Reads messages by the rules of one queue.
#[derive(Debug, Default)]
pub struct Reader {
    keys: signed::Keys,
    require_signed: bool,
    sns: sns::Rules,
}

impl Reader {
    /// Reads the keys and certificates that the configuration names.
    pub fn new(config: &sqs::Config) -> Result<Self, sqs::Error> {
        let fail = |key| move |reason| sqs::Error { key, reason };
        let sns = &config.sns;
        Ok(Self {
            keys: signed::Keys::read(&config.keys).map_err(fail("keys"))?,
            require_signed: config.require_signed,
            sns: sns::Rules::read(sns.verify, &sns.topics, &sns.certificates)
                .map_err(fail("sns.certificates"))?,
        })
    }

    /// Reads one message; what cannot be read is in [`Message::poison`]. A certificate that [`Reader::wants`] asks for, and
    /// was not learned, is `unknown_certificate`.
    pub fn read(&self, body: &str, origin: &Origin<'_>) -> Message {
        let opened = self.open(body, origin, true).and_then(|content| {
            if self.require_signed && content.signed == Signed::No {
                let why = "no signature, which `feed.sqs.require_signed` asks for";
                return Err(Poison::new("unsigned", why).into());
            }
            Ok(read_content(&content)?)
        });
        opened.unwrap_or_else(|closed| Message {
            format: "unknown",
            poison: vec![closed.into()],
            ..Message::default()
        })
    }

    /// The address of a certificate that has to be fetched (over TLS) and learned before this message can be read. Only
    /// ever one of Amazon SNS. Ask again after each that was learned: there may be several envelopes.
    pub fn wants(&self, body: &str) -> Option<String> {
        let origin = Origin { message_id: "", sent: Timestamp::MAX };
        match self.open(body, &origin, false) {
            Err(Closed::Wants(url)) => Some(url),
            _ => None,
        }
    }

    /// Takes in the certificate that was fetched from `url`, as PEM.
    ///
    /// # Errors
    /// It is none that Amazon SNS signs with at `now`. The message that wants it stays poison.
    pub fn learn(&self, url: &str, pem: &[u8], now: Timestamp) -> Result<(), Poison> {
        self.sns.learn(url, pem, now)
    }

    fn open<'a>(&self, body: &'a str, origin: &Origin<'_>, verify: bool) -> Result<Content<'a>, Closed> {
        if body.len() > MAX_BODY {
            return Err(Poison::new("too_large", format!("{} bytes, over {MAX_BODY}", body.len())).into());
        }
        Opener { keys: &self.keys, sns: &self.sns, verify }.open(body, origin)
    }
}

impl Poison {
    /// The kind of a notification whose certificate was not learned.
    pub const UNKNOWN_CERTIFICATE: &str = "unknown_certificate";

    pub(super) fn new(kind: &'static str, reason: impl AsRef<str>) -> Self {
        Self { kind, reason: clip(reason.as_ref()) }
    }
}

/// Why an envelope stays closed.
#[derive(Debug)]
enum Closed {
    Poison(Poison),
    /// The certificate at this address has to be learned first.
    Wants(String),
}

impl From<Poison> for Closed {
    fn from(poison: Poison) -> Self {
        Self::Poison(poison)
    }
}

impl From<Closed> for Poison {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Poison(poison) => poison,
            Closed::Wants(url) => Self::new(Self::UNKNOWN_CERTIFICATE, format!("{url} was not fetched")),
        }
    }
}

/// What a part was recognised as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Portcullis,
    Clawdentity,
    Serial,
    Agentwrit,
}

impl Shape {
    fn of(fields: &Fields<'_>) -> Option<Self> {
        let all = |names: &[&str]| names.iter().all(|name| fields.has(name));
        match () {
            () if fields.has("action") => Some(Self::Portcullis),
            () if fields.has("type") => Some(Self::Clawdentity),
            () if fields.has("version") => Some(Self::Portcullis),
            () if fields.has("serial") => Some(Self::Serial),
            () if all(&["level", "target"]) => Some(Self::Agentwrit),
            () => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::Clawdentity => "clawdentity",
            Self::Serial => "serial",
            Self::Agentwrit => "agentwrit",
        }
    }
}

fn read_content(content: &Content<'_>) -> Result<Message, Poison> {
    let text = content.text.trim_ascii();
    let mut message = Message { format: "unknown", ..Message::default() };
    let Some(parts) = parts_of(text)? else {
        take(&mut message, text, content.derived.clone(), (content.signed, None));
        return Ok(message);
    };
    if parts.is_empty() {
        message.irrelevant.push("an empty batch".to_owned());
    }
    for (i, part) in parts.into_iter().enumerate() {
        let derived = Derived { id: format!("{}#{i}", content.derived.id), ..content.derived };
        take(&mut message, part, derived, (content.signed, Some(i)));
    }
    Ok(message)
}

/// The parts of a batch, `[..]` or `{"events": [..]}`; `None` of anything else.
fn parts_of(text: &str) -> Result<Option<Vec<&str>>, Poison> {
    let array = match text.as_bytes().first() {
        Some(b'[') => text,
        Some(b'{') => {
            let fields = Fields::read(text)?;
            match fields.raw("events") {
                Some(events) if events.starts_with('[') => {
                    fields.only(&["events"])?;
                    events
                }
                _ => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    let Elements::<MAX_PARTS>(parts) = json::parse(array)?;
    Ok(Some(parts.into_iter().map(|part| part.get()).collect()))
}

/// Reads one part, the `i`th of a batch, into what it is.
fn take(message: &mut Message, text: &str, derived: Derived, (signed, i): (Signed, Option<usize>)) {
    let first = i.is_none_or(|i| i == 0);
    let mut note = |shape: Shape| {
        if first {
            message.format = shape.name();
        }
    };
    match read_part(text, derived, signed, &mut note) {
        Ok(Part::Event(event)) => {
            message.events.push(Event { unsigned: signed == Signed::No, ..*event });
        }
        Ok(Part::Irrelevant(what)) => message.irrelevant.push(what),
        Err(poison) => message.poison.push(match i {
            Some(i) => Poison::new(poison.kind, format!("part {i}: {}", poison.reason)),
            None => poison,
        }),
    }
}

fn read_part(
    text: &str,
    derived: Derived,
    signed: Signed,
    note: &mut impl FnMut(Shape),
) -> Result<Part, Poison> {
    if !text.starts_with('{') {
        // Whatever it is, it is read to its end: what is no JSON at all is called that.
        let _: &serde_json::value::RawValue = json::parse(text)?;
        let what = format!("{} where an event belongs", json::kind_of(text));
        return Err(Poison::new("unknown_shape", what));
    }
    let fields = Fields::read(text)?;
    let shape = Shape::of(&fields).ok_or_else(|| unknown(&fields))?;
    note(shape);
    let part = match shape {
        Shape::Portcullis => event::read(&fields, signed).map(|event| Part::Event(Box::new(event))),
        // Without an id and a time that were signed with it, it could be sent again for ever.
        _ if signed == Signed::Yes => {
            Err(Poison::new("bad_event", "what is signed must be an event of `version` 1"))
        }
        Shape::Clawdentity => foreign::clawdentity(&fields, derived),
        Shape::Serial => foreign::serial(&fields, derived),
        Shape::Agentwrit => foreign::agentwrit(&fields, derived),
    }?;
    match part {
        Part::Event(event) if event.target.is_secret() => {
            let why = "`target`: a secret of the admin API, about which no feed decides, signed or not";
            Err(Poison::new("secret_target", why))
        }
        part => Ok(part),
    }
}

fn unknown(fields: &Fields<'_>) -> Poison {
    let why = match fields.has("jws") {
        true => "a signature in a batch: sign the batch, or send it alone",
        false => "an object that is no event that is known",
    };
    Poison::new("unknown_shape", why)
}

/// One line of bounded length.
fn clip(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().find(|(i, c)| i + c.len_utf8() > MAX_REASON) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
