//! Poison: it neither blocks the rest nor disappears unseen.

use std::os::unix::fs::PermissionsExt as _;

use portcullis::feed::sqs;
use portcullis::rig::queue::Call;
use portcullis::rig::queue::Fault;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;
use serde_json::Value;
use serde_json::json;

use crate::site::Site;
use crate::site::config;
use crate::site::revocation;
use crate::site::until;

/// Every kind of it.
fn poison() -> Vec<String> {
    let deep = "[".repeat(100_000);
    vec![
        "this is not JSON".into(),
        "{\"version\": 1, \"id\": \"x\", \"action\": \"explode\"}".into(),
        "{}".into(),
        format!("\"{}\"", "x".repeat(1 << 20)),
        deep,
        "{\"version\": 1,\0 \"id\": \"x\"}".into(),
        "null".into(),
        "".into(),
    ]
}

/// Poison and what is none, by turns.
fn mixed(queue: &Queue) {
    for (i, bad) in poison().into_iter().enumerate() {
        queue.push(bad);
        queue.push(revocation(&format!("agent-{i}")));
    }
}

fn all_denied(site: &Site) -> bool {
    (0..poison().len()).all(|i| site.denies(&format!("agent-{i}")))
}

#[tokio::test]
async fn with_a_redrive_policy_it_ends_among_the_dead_letters() {
    let queue = Queue::start(Settings { max_receives: Some(3), ..Settings::default() }).unwrap();
    mixed(&queue);
    let site = Site::start(&queue);
    until(|| all_denied(&site)).await;
    until(|| queue.left() == 0).await;
    let mut dead = queue.dead_letters();
    let mut poison = poison();
    dead.sort_unstable();
    poison.sort_unstable();
    assert!(dead == poison, "{} dead letters of {}", dead.len(), poison.len());
    assert_eq!((site.counted("applied"), site.counted("poison")), (poison.len(), 3 * poison.len()));
    assert!(!site.state().join("quarantine.jsonl").exists());
    assert_eq!(site.error(), "");
}

#[tokio::test]
async fn without_one_it_is_put_into_quarantine() {
    let queue = Queue::start(Settings::default()).unwrap();
    mixed(&queue);
    let site = Site::with(sqs::Config { quarantine_after: 2, ..config(&queue) });
    until(|| all_denied(&site)).await;
    until(|| queue.left() == 0).await;
    let file = site.state().join("quarantine.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), site.counted("quarantined")), (poison().len(), poison().len()));
    for body in poison() {
        let line = lines.iter().find(|line| line["body"] == body.as_str()).unwrap();
        assert!(line["receives"].as_u64() >= Some(2), "{}", line["receives"]);
        for key in ["time", "message_id", "kind", "reason", "sha256"] {
            assert!(line[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {}", line[key]);
        }
    }
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn where_nothing_is_known_of_redrive_nothing_is_deleted() {
    let queue = Queue::start(Settings::default()).unwrap();
    queue.inject(Call::Attributes, Fault::Denied, usize::MAX);
    let bad = queue.push("this is not JSON");
    let site = Site::with(sqs::Config { quarantine_after: 1, ..config(&queue) });
    queue.push(revocation("a"));
    until(|| site.denies("a") && queue.receives(&bad.id) >= 3).await;
    until(|| queue.left() == 1).await;
    assert!(!site.state().join("quarantine.jsonl").exists());
}

#[tokio::test]
async fn what_cannot_be_put_into_quarantine_stays_in_the_queue() {
    let queue = Queue::start(Settings::default()).unwrap();
    let site = Site::with(sqs::Config { quarantine_after: 1, ..config(&queue) });
    let file = site.state().join("quarantine.jsonl");
    std::fs::create_dir(&file).unwrap();
    let bad = queue.push("this is not JSON");
    until(|| queue.receives(&bad.id) >= 3).await;
    assert_eq!(queue.left(), 1);
    std::fs::remove_dir(&file).unwrap();
    until(|| queue.left() == 0).await;
    assert!(std::fs::read_to_string(&file).unwrap().contains(&bad.id));
}

/// The signature of a notification cannot be verified while its certificate cannot be had: that says nothing of it.
#[tokio::test]
async fn a_notification_that_cannot_be_verified_yet_is_not_to_blame() {
    let queue = Queue::start(Settings::default()).unwrap();
    let topic = "arn:aws:sns:eu-west-1:123456789012:revocations";
    let rules = sqs::SnsConfig { verify: true, topics: vec![topic.to_owned()], ..sqs::SnsConfig::default() };
    let site = Site::with(sqs::Config { quarantine_after: 1, sns: rules, ..config(&queue) });
    let notification = json!({
        "Type": "Notification", "MessageId": "9f86d081-884c-4d65-9a2f-ea0c55ad015a", "TopicArn": topic,
        "Message": revocation("a"), "Timestamp": "2026-11-22T12:00:00.000Z", "SignatureVersion": "2",
        "Signature": "AAAA",
        "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-no-such.pem",
    });
    let kept = queue.push(notification.to_string());
    until(|| queue.receives(&kept.id) >= 3).await;
    assert!(!site.denies("a"));
    assert_eq!((queue.left(), site.counted("quarantined")), (1, 0));
    // One that is not signed at all is no notification, and goes.
    queue.push(revocation("b"));
    until(|| site.counted("quarantined") == 1).await;
    assert!(!site.denies("b"));
}
