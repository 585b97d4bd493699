//! `portcullis queue`: what one gate needs is made, corrected, and taken away.

use aws_sdk_sqs::types::MessageSystemAttributeName;
use aws_sdk_sqs::types::QueueAttributeName;
use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::feed::message::Origin;
use portcullis::feed::message::Reader;
use serde_json::Value;
use serde_json::json;

use crate::server::ACCOUNT;
use crate::server::REGION;
use crate::site::Site;
use crate::site::section;

/// Seen failing with a policy that lets every topic send.
#[tokio::test]
async fn what_a_gate_needs_is_made_once() {
    let site = Site::new().await;
    let dry =
        site.provision(&["--dry-run"]).said(0, &["would create queue gate-1\n", "would subscribe queue"]);
    assert_eq!((dry.out.as_str(), site.url("gate-1").await), ("", None));
    let made = site.provision(&[]);
    let made =
        made.said(0, &["created queue gate-1-dead-letter\n", "created queue gate-1\n", "subscribed queue"]);
    let config = section(&made);
    assert_eq!(config.queue_url, site.url("gate-1").await.unwrap());
    assert!(config.sns.verify && config.sns.topics == [site.topic.clone()]);

    let queue = site.attributes("gate-1").await;
    let get = |name: QueueAttributeName| queue[&name].as_str();
    assert_eq!(get(QueueAttributeName::ReceiveMessageWaitTimeSeconds), "20");
    assert_eq!(get(QueueAttributeName::VisibilityTimeout), "30");
    assert_eq!(get(QueueAttributeName::MessageRetentionPeriod), "345600");
    assert_eq!(get(QueueAttributeName::SqsManagedSseEnabled), "true");
    let redrive: Value = serde_json::from_str(get(QueueAttributeName::RedrivePolicy)).unwrap();
    let dead_letter = format!("arn:aws:sqs:{REGION}:{ACCOUNT}:gate-1-dead-letter");
    assert_eq!(redrive["deadLetterTargetArn"], json!(dead_letter));
    let policy: Value = serde_json::from_str(get(QueueAttributeName::Policy)).unwrap();
    let statement = &policy["Statement"][0];
    assert_eq!(policy["Statement"].as_array().unwrap().len(), 1);
    assert_eq!(statement["Principal"], json!({ "Service": "sns.amazonaws.com" }));
    assert_eq!(statement["Condition"], json!({ "ArnEquals": { "aws:SourceArn": site.topic } }));
    let dead = site.attributes("gate-1-dead-letter").await;
    assert_eq!(dead[&QueueAttributeName::MessageRetentionPeriod], "1209600");
    let subscriptions = site.subscriptions().await;
    assert_eq!(subscriptions.len(), 1);
    assert_eq!(subscriptions[0]["Endpoint"], format!("arn:aws:sqs:{REGION}:{ACCOUNT}:gate-1"));
    assert_eq!(subscriptions[0]["RawMessageDelivery"], "false");

    // Of what a topic signs with, moto knows nothing; it always takes SHA-256.
    let silent = format!("portcullis: {} does not say whether SignatureVersion is 2 now\n", site.topic);
    let again = site.provision(&[]).said(0, &["queue gate-1: all is as it should be\n", &silent]);
    assert_eq!((again.err.lines().count(), again.out.as_str()), (2, made.out.as_str()));
    let document: Value = serde_json::from_str(&site.provision(&["--json"]).out).unwrap();
    assert_eq!((&document["changes"], &document["queue"]["url"]), (&json!([]), &json!(config.queue_url)));
    assert_eq!(site.subscriptions().await.len(), 1);
}

#[tokio::test]
async fn what_was_changed_is_corrected_and_said() {
    let site = Site::new().await;
    site.provision(&[]).said(0, &[]);
    let open = json!({ "Version": "2012-10-17", "Statement": [{
        "Sid": "PortcullisTopic", "Effect": "Allow", "Principal": "*", "Action": "sqs:*", "Resource": "*",
    }] });
    let set = site.sqs.set_queue_attributes().queue_url(site.url("gate-1").await.unwrap());
    let set = set.attributes(QueueAttributeName::VisibilityTimeout, "7");
    set.attributes(QueueAttributeName::Policy, open.to_string()).send().await.unwrap();
    let would = site.provision(&["--dry-run"]);
    would.said(0, &["would correct queue gate-1: VisibilityTimeout 7 to 30\n"]);
    assert_eq!(site.attributes("gate-1").await[&QueueAttributeName::VisibilityTimeout], "7");
    let did = site.provision(&["--raw"]);
    let did = did.said(
        0,
        &[
            "corrected queue gate-1: VisibilityTimeout 7 to 30\n",
            "corrected queue gate-1: Policy {",
            "corrected the subscription to arn:aws:sns:eu-west-1:123456789012:revocations: it delivers without",
        ],
    );
    assert_eq!((did.err.lines().count(), section(&did).sns.verify), (3, false));
    let attributes = site.attributes("gate-1").await;
    assert_eq!(attributes[&QueueAttributeName::VisibilityTimeout], "30");
    assert!(!attributes[&QueueAttributeName::Policy].contains("sqs:*"));
    assert_eq!(site.subscriptions().await[0]["RawMessageDelivery"], "true");
    site.provision(&["--raw"]).said(0, &["all is as it should be"]);
}

#[tokio::test]
async fn what_is_published_arrives_and_is_read() {
    let site = Site::new().await;
    let event = json!({
        "version": 1, "id": "event-1", "action": "revoke", "level": "principal", "target": "a", "at": 1_795_364_400,
    });
    for raw in [false, true] {
        let config = section(&site.provision(if raw { &["--raw"] } else { &[] }).said(0, &[]));
        assert_eq!(config.sns.verify, !raw);
        site.sns.publish().topic_arn(&site.topic).message(event.to_string()).send().await.unwrap();
        let receive = site.sqs.receive_message().queue_url(&config.queue_url);
        let receive = receive.message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
        let [message] = &receive.send().await.unwrap().messages.unwrap()[..] else {
            panic!("not one message")
        };
        let (body, id) = (message.body.as_deref().unwrap(), message.message_id.as_deref().unwrap());
        let sent = &message.attributes.as_ref().unwrap()[&MessageSystemAttributeName::SentTimestamp];
        let origin = Origin { message_id: id, sent: Timestamp::from_millis(sent.parse().unwrap()) };
        let reader = Reader::new(&config).unwrap();
        let wanted = reader.wants(body);
        assert_eq!(wanted.is_some(), !raw);
        if let Some(url) = wanted {
            assert_eq!(reader.read(body, &origin).poison[0].kind, "unknown_certificate");
            reader.learn(&url, &site.moto.certificate(&url), Clock::system().now()).unwrap();
            // No name that could be part of an identifier at random, or of the certificate's URL.
            let forged = body.replace("event-1", "event-2");
            assert_eq!(reader.read(&forged, &origin).poison[0].kind, "bad_signature");
        }
        let read = reader.read(body, &origin);
        assert!(read.poison.is_empty(), "{body}: {:?}", read.poison);
        assert_eq!((read.format, read.events[0].id.as_str()), ("portcullis", "event-1"));
        let delete = site.sqs.delete_message().queue_url(&config.queue_url);
        delete.receipt_handle(message.receipt_handle.as_deref().unwrap()).send().await.unwrap();
    }
}

/// Seen failing with messages thrown away unasked, and with nobody asked at all.
#[tokio::test]
async fn all_of_it_is_taken_away_again() {
    let site = Site::new().await;
    site.provision(&[]).said(0, &[]);
    let url = site.url("gate-1-dead-letter").await.unwrap();
    site.sqs.send_message().queue_url(&url).message_body("poison").send().await.unwrap();
    let kept = site.queue("deprovision", &["--yes"]);
    kept.said(1, &["queue gate-1-dead-letter still holds 1 message; nothing was changed; add --force"]);
    site.queue("deprovision", &["--force"]).said(2, &["nothing was changed; add --yes"]);
    let would = site.queue("deprovision", &["--force", "--dry-run"]);
    would.said(0, &["would remove subscription arn:", "would delete queue gate-1\n"]);
    assert_eq!((site.url("gate-1").await.is_some(), site.subscriptions().await.len()), (true, 1));
    // The topic is known from the queue's own policy.
    let gone = site.queue("deprovision", &["--force", "--yes"]);
    gone.said(
        0,
        &["removed subscription arn:", "deleted queue gate-1\n", "deleted queue gate-1-dead-letter\n"],
    );
    assert_eq!((site.url("gate-1").await, site.url("gate-1-dead-letter").await), (None, None));
    assert!(site.subscriptions().await.is_empty());
    site.queue("deprovision", &["--yes"]).said(0, &["queue gate-1: nothing is left of it\n"]);
}

#[tokio::test]
async fn a_subscription_that_was_left_behind_is_found() {
    let site = Site::new().await;
    site.provision(&[]).said(0, &[]);
    for name in ["gate-1", "gate-1-dead-letter"] {
        site.sqs.delete_queue().queue_url(site.url(name).await.unwrap()).send().await.unwrap();
    }
    let gone = site.queue("deprovision", &["--yes", "--topic-arn", &site.topic]);
    gone.said(0, &["removed subscription arn:"]);
    assert!(site.subscriptions().await.is_empty());
}

#[tokio::test]
async fn a_call_that_fails_names_itself() {
    let site = Site::new().await;
    let nowhere = format!("arn:aws:sns:{REGION}:{ACCOUNT}:nowhere");
    let refused = site.queue("provision", &["--topic-arn", &nowhere]);
    refused.said(1, &["portcullis: queue provision: sns:", &nowhere, "NotFound"]);
    let mut program = site.moto.program();
    program.args([
        "queue",
        "provision",
        "--name",
        "g",
        "--region",
        REGION,
        "--endpoint",
        "http://127.0.0.1:9",
    ]);
    let output = program.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(
        err.starts_with("portcullis: queue provision: sqs:GetQueueUrl g-dead-letter: dispatch failure"),
        "{err}"
    );
    assert_eq!(err.lines().count(), 1, "{err}");
}
