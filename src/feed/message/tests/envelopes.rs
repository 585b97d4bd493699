//! What a message may be wrapped in.

use serde_json::Value;
use serde_json::json;

use super::ORIGIN;
use super::SENT;
use super::event;
use super::read;
use super::refusal;
use super::told;
use super::with;
use crate::clock::Timestamp;

fn notification(message: &str) -> Value {
    json!({
        "Type": "Notification", "MessageId": "n-1", "TopicArn": "arn:aws:sns:eu-west-1:123456789012:revocations",
        "Message": message, "Timestamp": "2026-11-22T15:58:00.000Z", "UnsubscribeURL": "https://example.org",
        "MessageAttributes": { "kind": { "Type": "String", "Value": "x" } },
    })
}

fn event_bridge(detail: &Value) -> Value {
    json!({
        "version": "0", "id": "b-1", "detail-type": "revocation", "source": "com.example", "account": "123456789012",
        "time": "2026-11-22T15:57:00Z", "region": "eu-west-1", "resources": [], "detail": detail,
    })
}

#[test]
fn envelopes_are_opened_and_lend_their_id_and_time() {
    let serial = json!({ "serial": "0a" });
    let (in_sns, in_bridge) = (notification(&serial.to_string()), event_bridge(&serial));
    for (body, id, at) in [
        (serial.clone(), ORIGIN.message_id, SENT),
        (in_sns.clone(), "n-1", Timestamp::parse("2026-11-22T15:58:00Z").unwrap()),
        (in_bridge.clone(), "b-1", Timestamp::parse("2026-11-22T15:57:00Z").unwrap()),
        // The innermost is the same for everybody, whatever it came through.
        (notification(&in_bridge.to_string()), "b-1", Timestamp::parse("2026-11-22T15:57:00Z").unwrap()),
        (event_bridge(&in_sns), "n-1", Timestamp::parse("2026-11-22T15:58:00Z").unwrap()),
        (with(in_bridge.clone(), "id", Value::Bool(false)), "", SENT),
    ] {
        let message = read(&body.to_string());
        match message.events.as_slice() {
            [event] => assert_eq!((event.id.as_str(), event.at), (id, at), "{body}"),
            _ => assert_eq!((id, message.poison[0].kind), ("", "bad_envelope"), "{message:?}"),
        }
    }
    let batch = read(&notification("[{\"serial\": \"0a\"}, {\"serial\": \"0b\"}]").to_string());
    assert_eq!(told(&batch), (vec![], vec!["n-1#0", "n-1#1"]));
    // What has an id of its own keeps it.
    assert_eq!(told(&read(&notification(&event().to_string()).to_string())), (vec![], vec!["e-1"]));
}

#[test]
fn a_message_of_sns_may_be_encoded_twice() {
    let quoted = Value::String(event().to_string()).to_string();
    assert_eq!(told(&read(&notification(&quoted).to_string())), (vec![], vec!["e-1"]));
}

#[test]
fn envelopes_have_an_end() {
    let mut body = event().to_string();
    for _ in 0..3 {
        body = notification(&body).to_string();
    }
    assert_eq!(told(&read(&body)), (vec![], vec!["e-1"]));
    let more = notification(&body).to_string();
    assert_eq!(refusal(read(&more)), "bad_envelope: over 3 envelopes around each other");
}

/// Seen failing with the last of two equal fields read, and with line breaks let into what is signed.
#[test]
fn an_envelope_that_is_torn_is_refused_by_name() {
    let good = notification("{}");
    for (name, value, expected) in [
        ("Type", json!("SubscriptionConfirmation"), "bad_envelope: sns: a subscription to be confirmed"),
        ("Type", json!("UnsubscribeConfirmation"), "bad_envelope: sns: `Type` is not Notification"),
        ("Type", json!(7), "bad_envelope: sns: `Type` is not Notification"),
        ("Message", json!({}), "bad_envelope: sns: `Message`: an object where a string belongs"),
        ("MessageId", json!("a\nb"), "bad_envelope: sns: `MessageId`: not 1 to 128 printable"),
        ("MessageId", json!("x".repeat(101)), "bad_envelope: sns: `MessageId`: over 100"),
        ("Timestamp", json!("1795364400"), "bad_envelope: sns: `Timestamp`: not rfc 3339"),
        ("TopicArn", json!("a\nb"), "bad_envelope: sns: `TopicArn`: control characters"),
        ("Subject", json!("a\nb"), "bad_envelope: sns: `Subject`: control characters"),
        ("Message", json!("not json"), "not_json: "),
    ] {
        let text = refusal(read(&with(good.clone(), name, value).to_string()));
        assert!(text.starts_with(expected), "{name}: {text}");
    }
    let twice = good.to_string().replacen('{', "{\"Message\": \"x\", ", 1);
    assert!(refusal(read(&twice)).contains("`Message` is there twice"));
    let bridge = refusal(read(&event_bridge(&json!("text")).to_string()));
    assert_eq!(bridge, "bad_envelope: eventbridge: `detail`: missing");
}
