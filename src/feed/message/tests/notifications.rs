//! Notifications of SNS that are signed, and what only looks like it.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::KeyPair;
use rcgen::SigningKey as _;
use serde_json::Value;
use serde_json::json;
use time::OffsetDateTime;

use super::ORIGIN;
use super::SENT;
use super::config;
use super::event;
use super::refusal;
use super::told;
use super::with;
use crate::clock::Timestamp;
use crate::feed::message::Origin;
use crate::feed::message::Reader;

const URL: &str = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a1b.pem";
const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:revocations";

fn key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap())
}

/// A certificate of `key`, valid for a day before and after `SENT`.
fn certificate(name: &str, key: &KeyPair) -> String {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let day = |days: i64| OffsetDateTime::from_unix_timestamp(SENT.secs() + days * 86_400).unwrap();
    (params.not_before, params.not_after) = (day(-1), day(1));
    params.self_signed(key).unwrap().pem()
}

fn reader() -> Reader {
    Reader::new(&config(json!({ "sns": { "verify": true, "topics": [TOPIC] } }))).unwrap()
}

/// One that knows the certificate.
fn learned() -> Reader {
    let reader = reader();
    reader.learn(URL, certificate("sns.amazonaws.com", key()).as_bytes(), SENT).unwrap();
    reader
}

fn notification(message: &str) -> Value {
    json!({
        "Type": "Notification", "MessageId": "n-1", "TopicArn": TOPIC, "Subject": "revoked", "Message": message,
        "Timestamp": "2026-11-22T15:58:00.000Z", "SignatureVersion": "2", "SigningCertURL": URL,
    })
}

/// Signs as SNS does, written down again here from its documentation.
fn sign(mut notification: Value) -> Value {
    let mut text = String::new();
    for name in ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"] {
        if let Some(value) = notification[name].as_str() {
            text += &format!("{name}\n{value}\n");
        }
    }
    let signature = key().sign(text.as_bytes()).unwrap();
    notification["Signature"] = Value::String(BASE64_STANDARD.encode(signature));
    notification
}

fn signed() -> Value {
    sign(notification(&event().to_string()))
}

#[track_caller]
fn why(reader: &Reader, body: &Value) -> String {
    refusal(reader.read(&body.to_string(), &ORIGIN))
}

#[test]
fn a_notification_that_is_signed_acts() {
    let reader = learned();
    let mut plain = notification(&event().to_string());
    plain.as_object_mut().unwrap().remove("Subject");
    for body in [signed(), sign(plain.clone()), with(sign(plain), "Subject", Value::Null)] {
        let message = reader.read(&body.to_string(), &ORIGIN);
        assert_eq!(told(&message), (vec![], vec!["e-1"]), "{message:?}");
    }
}

/// Seen failing with any region for any topic.
#[test]
fn its_certificate_is_asked_for_once() {
    let reader = reader();
    let body = signed();
    assert_eq!(reader.wants(&body.to_string()).as_deref(), Some(URL));
    assert_eq!(why(&reader, &body), format!("unknown_certificate: {URL} was not fetched"));
    reader.learn(URL, certificate("sns.amazonaws.com", key()).as_bytes(), SENT).unwrap();
    assert_eq!(reader.wants(&body.to_string()), None);
    assert_eq!(told(&reader.read(&body.to_string(), &ORIGIN)), (vec![], vec!["e-1"]));
    // Nothing is fetched for what would be refused anyway.
    for (name, value) in [
        ("TopicArn", json!("arn:aws:sns:eu-west-1:999999999999:revocations")),
        ("SignatureVersion", json!("1")),
        ("SigningCertURL", json!("https://sns.s3.amazonaws.com/SimpleNotificationService-0a1b.pem")),
        ("SigningCertURL", json!("https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a1b.pem")),
        ("SigningCertURL", json!(7)),
    ] {
        assert_eq!(reader.wants(&with(signed(), name, value).to_string()), None, "{name}");
    }
    assert_eq!(Reader::default().wants(&body.to_string()), None);
    assert_eq!(reader.wants("nonsense"), None);
}

/// Seen failing without the call of `verify_sig`, and with `SignatureVersion` 1 let through.
#[test]
fn a_signature_holds_for_all_that_is_used() {
    let reader = learned();
    for (name, value) in [
        ("Message", json!(with(event(), "target", json!("b")).to_string())),
        ("MessageId", json!("n-2")),
        ("Subject", json!("other")),
        ("Subject", json!(null)),
        ("Timestamp", json!("2026-11-22T15:58:00.001Z")),
        ("Signature", json!(BASE64_STANDARD.encode([0; 256]))),
    ] {
        let text = why(&reader, &with(signed(), name, value));
        assert!(text.starts_with("bad_signature: `Signature` does not hold"), "{name}: {text}");
    }
    for (name, value, expected) in [
        ("Signature", json!("!"), "bad_signature: `Signature` is missing or not base64"),
        ("Signature", json!(null), "bad_signature: `Signature` is missing or not base64"),
        (
            "SignatureVersion",
            json!("1"),
            "bad_signature: `SignatureVersion` 1 is SHA-1: set the topic's attribute",
        ),
        ("SignatureVersion", json!(2), "bad_signature: `SignatureVersion` is not 2"),
        ("SigningCertURL", json!("https://evil.example/x.pem"), "bad_certificate_url: "),
    ] {
        let text = why(&reader, &with(signed(), name, value));
        assert!(text.starts_with(expected), "{name}: {text}");
    }
}

/// A notification that SNS signed for somebody else's topic is as well signed as ours. Seen failing without the check of
/// the topic.
#[test]
fn only_the_topics_that_are_named_count() {
    let reader = learned();
    let other =
        with(notification(&event().to_string()), "TopicArn", json!("arn:aws:sns:eu-west-1:999999999999:r"));
    assert!(why(&reader, &sign(other)).starts_with("wrong_topic: "));
}

/// Else whoever may send to the queue would leave the signature out. Seen failing without the check, with it after
/// EventBridge's envelope only, and with `topics` alone not asking for it.
#[test]
fn nothing_walks_around_the_check() {
    let reader = learned();
    let quoted = Value::String(event().to_string());
    let bridge = json!({ "detail-type": "x", "detail": signed() });
    for body in
        [event(), json!([event()]), quoted, bridge, json!({ "serial": "0a" }), json!({ "jws": "a.b.c" })]
    {
        assert!(why(&reader, &body).starts_with("not_sns: "), "{body}");
    }
    assert!(refusal(reader.read("a.b.c", &ORIGIN)).starts_with("not_sns: "));
    // An inner notification is held to the same.
    let unsigned = notification(&event().to_string());
    assert!(why(&reader, &sign(notification(&unsigned.to_string()))).starts_with("bad_signature: "));
    let topics = Reader::new(&config(json!({ "sns": { "topics": [TOPIC] } }))).unwrap();
    assert!(why(&topics, &event()).starts_with("not_sns: "));
    assert_eq!(told(&topics.read(&unsigned.to_string(), &ORIGIN)), (vec![], vec!["e-1"]));
}

/// Seen failing without the check in `Rules::verify`.
#[test]
fn a_certificate_counts_while_it_is_valid() {
    let reader = learned();
    for (days, fits) in [(-2, false), (0, true), (2, false)] {
        let sent = Timestamp::from_secs(SENT.secs() + days * 86_400);
        let message = reader.read(&signed().to_string(), &Origin { message_id: "m-1", sent });
        assert_eq!(message.poison.is_empty(), fits, "{days}: {message:?}");
    }
}

/// Seen failing with a certificate of any name, of any time, and from any address.
#[test]
fn only_certificates_of_sns_are_learned() {
    let reader = reader();
    let learn = |name: &str| reader.learn(URL, certificate(name, key()).as_bytes(), SENT);
    for good in ["sns.amazonaws.com", "sns.eu-west-1.amazonaws.com", "sns-signing.eu-west-1.amazonaws.com"] {
        assert_eq!(learn(good), Ok(()), "{good}");
    }
    for bad in ["evil.example", "sns.us-east-1.amazonaws.com", "sns.amazonaws.com.evil.example"] {
        let error = learn(bad).unwrap_err().to_string();
        assert!(error.ends_with("issued to somebody else than Amazon SNS"), "{error}");
    }
    let pem = certificate("sns.amazonaws.com", key());
    let late = reader.learn(URL, pem.as_bytes(), SENT.plus(Duration::from_secs(2 * 86_400))).unwrap_err();
    assert!(late.to_string().ends_with("not valid now"), "{late}");
    let elsewhere = reader.learn("https://evil.example/x.pem", pem.as_bytes(), SENT).unwrap_err();
    assert_eq!(elsewhere.kind, "bad_certificate_url");
    let weak = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let weak = reader.learn(URL, certificate("sns.amazonaws.com", &weak).as_bytes(), SENT).unwrap_err();
    assert!(weak.to_string().contains("not the certificate of an rsa key"), "{weak}");
    for nonsense in [&b""[..], b"<html>", &[0; 100_000]] {
        assert_eq!(reader.learn(URL, nonsense, SENT).unwrap_err().kind, "bad_certificate");
    }
}

#[test]
fn no_more_certificates_are_kept_than_anybody_needs() {
    let reader = reader();
    let pem = certificate("sns.amazonaws.com", key());
    for i in 0..40 {
        let url = format!("https://sns.eu-west-1.amazonaws.com/{i}.pem");
        reader.learn(&url, pem.as_bytes(), SENT).unwrap();
        reader.learn(&url, pem.as_bytes(), SENT).unwrap();
    }
    let wants = |i: i32| {
        let url = format!("https://sns.eu-west-1.amazonaws.com/{i}.pem");
        reader.wants(&with(signed(), "SigningCertURL", json!(url)).to_string()).is_some()
    };
    assert!(wants(0) && wants(23) && !wants(24) && !wants(39));
}

#[test]
fn pinned_certificates_take_the_place_of_fetched_ones() {
    let directory = tempfile::tempdir().unwrap();
    let (file, empty) = (directory.path().join("sns.pem"), directory.path().join("empty.pem"));
    std::fs::write(&file, certificate("our own sns", key())).unwrap();
    std::fs::write(&empty, "").unwrap();
    let sns = |file| json!({ "sns": { "verify": true, "topics": [TOPIC], "certificates": [file] } });
    let reader = Reader::new(&config(sns(&file))).unwrap();
    let mut body = signed();
    body.as_object_mut().unwrap().remove("SigningCertURL");
    assert_eq!(reader.wants(&body.to_string()), None);
    assert_eq!(told(&reader.read(&body.to_string(), &ORIGIN)), (vec![], vec!["e-1"]));
    assert!(why(&reader, &with(body, "MessageId", json!("n-2"))).starts_with("bad_signature: "));
    let error = Reader::new(&config(sns(&empty))).unwrap_err().to_string();
    assert!(
        error.starts_with("sns.certificates: ") && error.ends_with("no certificate in it (PEM)"),
        "{error}"
    );
}
