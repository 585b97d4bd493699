//! One message as it was received.

use std::time::Duration;

use aws_sdk_sqs::types::Message;
use aws_sdk_sqs::types::MessageSystemAttributeName as Attribute;

use crate::clock::Timestamp;

/// What is asked to be told of each message.
pub(super) const ATTRIBUTES: [Attribute; 3] = [
    Attribute::ApproximateReceiveCount,
    Attribute::SentTimestamp,
    Attribute::ApproximateFirstReceiveTimestamp,
];

/// One message as it was received.
#[derive(Debug, Default)]
pub(super) struct Letter {
    /// The same at each receive.
    pub(super) id: String,
    /// What this receive is called: with it the message is deleted, or kept hidden.
    pub(super) receipt: String,
    pub(super) body: String,
    /// How often it was received, this time included.
    pub(super) receives: u32,
    /// When it was sent, by the queue's clock.
    pub(super) sent: Option<Timestamp>,
    /// How long it lay there, by the queue's clock alone; unknown once it was received before.
    pub(super) lay: Option<Duration>,
}

impl Letter {
    /// Reads what the queue says. Of what it leaves out, the cautious is assumed.
    pub(super) fn new(message: Message) -> Self {
        let told = |name: &Attribute| message.attributes.as_ref()?.get(name)?.parse::<i64>().ok();
        let moment = |name: &Attribute| {
            told(name).filter(|millis| (0..=YEAR_9999).contains(millis)).map(Timestamp::from_millis)
        };
        let receives = told(&Attribute::ApproximateReceiveCount).and_then(|count| u32::try_from(count).ok());
        let sent = moment(&Attribute::SentTimestamp);
        let first = moment(&Attribute::ApproximateFirstReceiveTimestamp).filter(|_| receives == Some(1));
        Self {
            receives: receives.unwrap_or(1).max(1),
            sent,
            lay: sent.zip(first).map(|(sent, first)| first.since(sent)),
            id: message.message_id.unwrap_or_default(),
            receipt: message.receipt_handle.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
        }
    }
}

/// Milliseconds: what is later cannot be written as text.
const YEAR_9999: i64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(attributes: &[(Attribute, &str)]) -> Letter {
        let message = Message::builder().message_id("m").receipt_handle("r").body("b");
        let message = attributes.iter().fold(message, |m, (name, value)| m.attributes(name.clone(), *value));
        Letter::new(message.build())
    }

    #[test]
    fn how_long_it_lay_is_told_by_the_queues_clock_alone() {
        let sent = (Attribute::SentTimestamp, "1000000");
        let first = (Attribute::ApproximateFirstReceiveTimestamp, "1007000");
        let once = (Attribute::ApproximateReceiveCount, "1");
        let told = letter(&[sent.clone(), first.clone(), once.clone()]);
        assert_eq!((told.lay, told.receives), (Some(Duration::from_secs(7)), 1));
        assert_eq!(
            letter(&[sent.clone(), first.clone(), (Attribute::ApproximateReceiveCount, "2")]).lay,
            None
        );
        assert_eq!(letter(&[sent.clone(), once.clone()]).lay, None);
        assert_eq!(letter(&[sent, first]).lay, None);
    }

    #[test]
    fn nonsense_is_as_good_as_nothing() {
        for nonsense in ["", "-1", "soon", "99999999999999999999", "9999999999999999"] {
            let told = letter(&[
                (Attribute::SentTimestamp, nonsense),
                (Attribute::ApproximateReceiveCount, nonsense),
            ]);
            assert_eq!(told.sent, None, "{nonsense}");
            assert_eq!(told.receives, 1, "{nonsense}");
        }
    }
}
