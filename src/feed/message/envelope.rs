//! What a message is wrapped in: SNS, EventBridge, one signature, and one pair of quotes by mistake.

use std::borrow::Cow;

use super::Closed;
use super::Origin;
use super::Poison;
use super::event::Signed;
use super::foreign::Derived;
use super::json;
use super::json::Fields;
use super::json::required;
use super::signed;
use super::signed::Keys;
use super::sns::Rules;

/// More envelopes than this around each other are nobody's setup.
const MAX_ENVELOPES: usize = 3;

/// What is inside of all envelopes.
#[derive(Debug)]
pub(super) struct Content<'a> {
    pub(super) text: Cow<'a, str>,
    /// What stands in for an id and a time: of the innermost envelope, which is the same for every gate.
    pub(super) derived: Derived,
    pub(super) signed: Signed,
}

/// What may be opened, and with what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opener<'r> {
    pub(super) keys: &'r Keys,
    pub(super) sns: &'r Rules,
    /// Whether signatures are verified; if not, the content is nothing to act on.
    pub(super) verify: bool,
}

/// What one look at a text says.
enum Step {
    /// An envelope, with what is in it, and its id and time if it has them.
    Inside(String, Option<Derived>),
    /// A string where something else belongs: some producers encode twice.
    Quoted(String),
    /// A signature.
    Compact(String),
    /// Nothing to open.
    Content,
}

impl Opener<'_> {
    /// Opens all that a message is wrapped in.
    pub(super) fn open<'a>(self, body: &'a str, origin: &Origin<'_>) -> Result<Content<'a>, Closed> {
        let derived = Derived { id: origin.message_id.to_owned(), at: origin.sent };
        let mut content = Content { text: Cow::Borrowed(body), derived, signed: Signed::No };
        let (mut envelopes, mut quotes) = (0, 0);
        loop {
            match self.look(&content.text, envelopes, origin)? {
                Step::Inside(text, derived) => {
                    envelopes += 1;
                    if envelopes > MAX_ENVELOPES {
                        let why = format!("over {MAX_ENVELOPES} envelopes around each other");
                        return Err(Poison::new("bad_envelope", why).into());
                    }
                    content.text = Cow::Owned(text);
                    content.derived = derived.unwrap_or(content.derived);
                }
                Step::Quoted(text) => {
                    quotes += 1;
                    if quotes > 1 {
                        return Err(Poison::new("unknown_shape", "a string in a string").into());
                    }
                    content.text = Cow::Owned(text);
                }
                Step::Compact(_) if !self.verify => return Ok(content),
                Step::Compact(jws) => {
                    content.text = Cow::Owned(self.keys.open(&jws)?);
                    content.signed = Signed::Yes;
                    return Ok(content);
                }
                Step::Content => return Ok(content),
            }
        }
    }

    fn look(self, text: &str, envelopes: usize, origin: &Origin<'_>) -> Result<Step, Closed> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(Poison::new("not_json", "it is empty").into());
        }
        let step = match text.as_bytes().first() {
            Some(b'"') => return Ok(Step::Quoted(json::parse(text)?)),
            Some(b'{') => {
                let fields = Fields::read(text)?;
                if fields.has("Type") && fields.has("MessageId") {
                    let notification = self.sns.open(&fields, self.verify.then_some(origin.sent))?;
                    let derived = Derived { id: notification.id, at: notification.at };
                    return Ok(Step::Inside(notification.message, Some(derived)));
                }
                of_object(&fields)?
            }
            _ if signed::is_compact(text) => Step::Compact(text.to_owned()),
            _ => Step::Content,
        };
        // Whatever is around a notification could have been put there, and so could what is beside it.
        if envelopes == 0 && self.sns.are_strict() {
            let why = "not an SNS notification, which `feed.sqs.sns` asks for";
            return Err(Poison::new("not_sns", why).into());
        }
        Ok(step)
    }
}

fn of_object(fields: &Fields<'_>) -> Result<Step, Poison> {
    if fields.has("jws") {
        fields.only(&["jws"])?;
        return Ok(Step::Compact(required("jws", fields.string("jws")?)?));
    }
    if fields.has("detail-type") && fields.has("detail") {
        return event_bridge(fields)
            .map_err(|poison| Poison::new("bad_envelope", format!("eventbridge: {}", poison.reason)));
    }
    Ok(Step::Content)
}

/// <https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html>
fn event_bridge(fields: &Fields<'_>) -> Result<Step, Poison> {
    let detail = required("detail", fields.raw("detail").filter(|text| text.starts_with('{')))?;
    let id = fields.id("id")?.filter(|id| id.len() <= 100);
    let derived = match (id, fields.time("time")?) {
        (Some(id), Some(at)) => Some(Derived { id, at }),
        // A transformer in a rule can leave them out.
        _ => None,
    };
    Ok(Step::Inside(detail.to_owned(), derived))
}
