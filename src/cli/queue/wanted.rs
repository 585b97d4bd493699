//! How a gate's queues ought to be, and what differs.

use std::collections::HashMap;

use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::Value;
use serde_json::json;

/// After so many receives a message that was never deleted is poison.
const RECEIVES: u32 = 5;

/// Attributes by name.
pub(super) type Attributes = HashMap<QueueAttributeName, String>;

/// Of the queue that keeps what was not understood: for as long as SQS does, two weeks.
pub(super) fn dead_letter() -> Attributes {
    of([
        (QueueAttributeName::MessageRetentionPeriod, (14 * 24 * 3600).to_string()),
        (QueueAttributeName::SqsManagedSseEnabled, "true".to_owned()),
    ])
}

/// Of the gate's own queue. A gate that was down for four days has missed something else, too.
pub(super) fn queue(dead_letter_arn: &str) -> Attributes {
    let redrive = json!({ "deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": RECEIVES });
    of([
        (QueueAttributeName::ReceiveMessageWaitTimeSeconds, "20".to_owned()),
        (QueueAttributeName::VisibilityTimeout, "30".to_owned()),
        (QueueAttributeName::MessageRetentionPeriod, (4 * 24 * 3600).to_string()),
        (QueueAttributeName::SqsManagedSseEnabled, "true".to_owned()),
        (QueueAttributeName::RedrivePolicy, redrive.to_string()),
    ])
}

/// Lets one topic send, and nobody else of other accounts. Without the condition, every topic of everybody could.
pub(super) fn policy(queue_arn: &str, topic_arn: &str) -> Attributes {
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": "PortcullisTopic",
            "Effect": "Allow",
            "Principal": { "Service": "sns.amazonaws.com" },
            "Action": "sqs:SendMessage",
            "Resource": queue_arn,
            "Condition": { "ArnEquals": { "aws:SourceArn": topic_arn } },
        }],
    });
    of([(QueueAttributeName::Policy, policy.to_string())])
}

/// The topic that a policy of ours lets send.
pub(super) fn topic_of(attributes: &Attributes) -> Option<String> {
    let policy: Value = serde_json::from_str(attributes.get(&QueueAttributeName::Policy)?).ok()?;
    let ours =
        policy["Statement"].as_array()?.iter().find(|statement| statement["Sid"] == "PortcullisTopic")?;
    Some(ours["Condition"]["ArnEquals"]["aws:SourceArn"].as_str()?.to_owned())
}

/// What of `wanted` is not so, by name.
pub(super) fn differing(have: &Attributes, mut wanted: Attributes) -> Vec<(QueueAttributeName, String)> {
    // A key of one's own is more than what is asked for.
    if have.get(&QueueAttributeName::KmsMasterKeyId).is_some_and(|key| !key.is_empty()) {
        wanted.remove(&QueueAttributeName::SqsManagedSseEnabled);
    }
    let is_so =
        |name: &QueueAttributeName, value: &str| have.get(name).is_some_and(|now| means_the_same(now, value));
    let mut differing: Vec<_> = wanted.into_iter().filter(|(name, value)| !is_so(name, value)).collect();
    differing.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    differing
}

/// Documents are equal whatever their spelling; a number may be given as text.
fn means_the_same(one: &str, other: &str) -> bool {
    let read = |text: &str| serde_json::from_str::<Value>(text).map(plain);
    match (read(one), read(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number.to_string()),
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, plain(value))).collect(),
        other => other,
    }
}

fn of<const N: usize>(attributes: [(QueueAttributeName, String); N]) -> Attributes {
    attributes.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_means_something_else_differs() {
        let mut have = queue("arn:d");
        have.insert(
            QueueAttributeName::RedrivePolicy,
            "{\"maxReceiveCount\": \"5\", \"deadLetterTargetArn\": \"arn:d\"}".to_owned(),
        );
        assert_eq!(differing(&have, queue("arn:d")), []);
        have.insert(QueueAttributeName::VisibilityTimeout, "31".to_owned());
        have.remove(&QueueAttributeName::SqsManagedSseEnabled);
        let names: Vec<_> = differing(&have, queue("arn:d")).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [QueueAttributeName::SqsManagedSseEnabled, QueueAttributeName::VisibilityTimeout]);
        have.insert(QueueAttributeName::KmsMasterKeyId, "alias/ours".to_owned());
        assert_eq!(differing(&have, queue("arn:d")).len(), 1);
        assert_eq!(differing(&have, queue("arn:e")).len(), 2);
    }

    #[test]
    fn the_topic_is_read_from_our_own_statement() {
        assert_eq!(topic_of(&policy("arn:q", "arn:t")).as_deref(), Some("arn:t"));
        assert_eq!(topic_of(&queue("arn:d")), None);
        assert_ne!(differing(&policy("arn:q", "arn:t"), policy("arn:q", "arn:u")), []);
    }
}
