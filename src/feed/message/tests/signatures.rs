//! Events that are signed, and what only looks like it.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::EncodingKey;
use rcgen::KeyPair;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use super::ORIGIN;
use super::config;
use super::event;
use super::refusal;
use super::told;
use super::with;
use crate::feed::message::Reader;

const SECRET: &str = "a secret of no less than 32 bytes, surely";

/// Three keys, of each kind one.
struct Signers {
    directory: TempDir,
    ed: KeyPair,
    p256: KeyPair,
}

impl Signers {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        std::fs::write(directory.path().join("ed.pem"), ed.public_key_pem()).unwrap();
        std::fs::write(directory.path().join("p256.pem"), p256.public_key_pem()).unwrap();
        std::fs::write(directory.path().join("secret"), format!("{SECRET}\r\n")).unwrap();
        Self { directory, ed, p256 }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn reader(&self, require_signed: bool) -> Reader {
        let keys =
            json!({ "ed": self.file("ed.pem"), "p256": self.file("p256.pem"), "hs": self.file("secret") });
        Reader::new(&config(json!({ "keys": keys, "require_signed": require_signed }))).unwrap()
    }

    fn key(&self, id: &str) -> (Algorithm, EncodingKey) {
        match id {
            "ed" => (Algorithm::EdDSA, EncodingKey::from_ed_pem(self.ed.serialize_pem().as_bytes()).unwrap()),
            "p256" => {
                (Algorithm::ES256, EncodingKey::from_ec_pem(self.p256.serialize_pem().as_bytes()).unwrap())
            }
            _ => (Algorithm::HS256, EncodingKey::from_secret(SECRET.as_bytes())),
        }
    }

    /// Signs with what another implementation makes of the key.
    fn sign(&self, id: &str, payload: &Value) -> String {
        let (algorithm, _) = self.key(id);
        let header = json!({ "alg": format!("{algorithm:?}"), "kid": id, "typ": "portcullis+jws" });
        self.sign_under(&header.to_string(), id, &payload.to_string())
    }

    fn sign_under(&self, header: &str, id: &str, payload: &str) -> String {
        let (algorithm, key) = self.key(id);
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(header), part(payload));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

fn header(alg: &str, kid: &str) -> Value {
    json!({ "alg": alg, "kid": kid, "typ": "portcullis+jws" })
}

#[test]
fn signed_events_act_however_they_come() {
    let signers = Signers::new();
    let reader = signers.reader(true);
    for id in ["ed", "p256", "hs"] {
        let jws = signers.sign(id, &event());
        let notification = json!({
            "Type": "Notification", "MessageId": "n-1", "TopicArn": "t", "Timestamp": "2026-11-22T15:58:00Z", "Message": jws,
        });
        let bridge = json!({ "detail-type": "x", "detail": { "jws": jws } });
        let bodies = [
            jws.clone(),
            Value::String(jws.clone()).to_string(),
            json!({ "jws": jws }).to_string(),
            notification.to_string(),
            bridge.to_string(),
        ];
        for body in bodies {
            let message = reader.read(&body, &ORIGIN);
            assert_eq!((message.format, told(&message)), ("portcullis", (vec![], vec!["e-1"])), "{body}");
        }
    }
    let batch = signers.sign("ed", &json!({ "events": [event(), with(event(), "id", json!("e-2"))] }));
    assert_eq!(told(&reader.read(&batch, &ORIGIN)), (vec![], vec!["e-1", "e-2"]));
    let lift = with(with(event(), "action", json!("reinstate")), "force", json!(true));
    let message = reader.read(&signers.sign("p256", &lift), &ORIGIN);
    assert!(message.events[0].force);
}

/// Seen failing without the check in `Reader::read`.
#[test]
fn what_is_not_signed_does_not_act_where_it_must_be() {
    let signers = Signers::new();
    let reader = signers.reader(true);
    for body in
        [event().to_string(), "{\"serial\": \"0a\"}".to_owned(), json!([event()]).to_string(), "x".to_owned()]
    {
        assert!(refusal(reader.read(&body, &ORIGIN)).starts_with("unsigned: "), "{body}");
    }
    // Where it need not be, a signature that does not hold is no better than none.
    let forged = signers.sign("ed", &event()).replacen('.', ".e", 1);
    assert!(refusal(signers.reader(false).read(&forged, &ORIGIN)).starts_with("bad_signature: "));
}

/// Seen failing without the call of `has_signed`.
#[test]
fn a_signature_holds_for_every_byte() {
    let signers = Signers::new();
    let reader = signers.reader(false);
    for id in ["ed", "p256", "hs"] {
        let jws = signers.sign(id, &event());
        let parts: Vec<&str> = jws.split('.').collect();
        let other = BASE64_URL_SAFE_NO_PAD.encode(with(event(), "target", json!("b")).to_string());
        let swapped = format!("{}.{other}.{}", parts[0], parts[2]);
        let signature = BASE64_URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
        let half = BASE64_URL_SAFE_NO_PAD.encode(&signature[..16]);
        let cut = format!("{}.{}.{half}", parts[0], parts[1]);
        let none = format!("{}.{}.", parts[0], parts[1]);
        for body in [swapped, cut, none] {
            let text = refusal(reader.read(&body, &ORIGIN));
            assert_eq!(text, "bad_signature: the signature of the jws does not hold", "{id}");
        }
    }
}

/// Seen failing without the check of `alg`. Even then the key decides: only what was said was another.
#[test]
fn the_key_says_which_algorithm_it_is_for() {
    let signers = Signers::new();
    let reader = signers.reader(false);
    let payload = event().to_string();
    // The classic: a public key taken for a secret.
    let public = signers.ed.public_key_pem();
    let confused = {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(&header("HS256", "ed").to_string()), part(&payload));
        let key = EncodingKey::from_secret(public.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    };
    let wrong = "`alg` of the jws is not that of its key, ";
    for (body, why) in [
        (confused, format!("{wrong}EdDSA")),
        (signers.sign_under(&header("none", "ed").to_string(), "ed", &payload), format!("{wrong}EdDSA")),
        (signers.sign_under(&header("HS512", "hs").to_string(), "hs", &payload), format!("{wrong}HS256")),
        (signers.sign_under(&header("EdDSA", "p256").to_string(), "ed", &payload), format!("{wrong}ES256")),
        (
            signers.sign_under(&json!({ "kid": "ed", "typ": "portcullis+jws" }).to_string(), "ed", &payload),
            format!("{wrong}EdDSA"),
        ),
    ] {
        assert_eq!(refusal(reader.read(&body, &ORIGIN)), format!("bad_signature: {why}"));
    }
}

/// Seen failing without the check of `typ`, of `crit`, and of what may be signed.
#[test]
fn a_jws_for_something_else_is_none_for_us() {
    let signers = Signers::new();
    let reader = signers.reader(false);
    let payload = event().to_string();
    let good = header("EdDSA", "ed");
    let twice = good.to_string().replacen('{', "{\"kid\": \"hs\", ", 1);
    for (header, why) in [
        (with(good.clone(), "typ", json!("JWT")).to_string(), "`typ` of the jws is not `portcullis+jws`"),
        (json!({ "alg": "EdDSA", "kid": "ed" }).to_string(), "`typ` of the jws is not"),
        (
            with(good.clone(), "kid", json!("other")).to_string(),
            "`kid` of the jws is none of `feed.sqs.keys`",
        ),
        (json!({ "alg": "EdDSA", "typ": "portcullis+jws" }).to_string(), "the jws names no key (`kid`)"),
        (with(good.clone(), "crit", json!(["exp"])).to_string(), "the jws asks for an extension"),
        (with(good.clone(), "b64", json!(false)).to_string(), "the jws asks for an extension"),
        (twice, "the header of the jws: field `kid` is there twice"),
        ("[]".to_owned(), "the header of the jws is no object"),
    ] {
        let text = refusal(reader.read(&signers.sign_under(&header, "ed", &payload), &ORIGIN));
        assert!(text.starts_with(&format!("bad_signature: {why}")), "{header}: {text}");
    }
    for payload in [json!({ "serial": "0a" }), json!({ "level": "task", "target": "t" })] {
        let text = refusal(reader.read(&signers.sign("ed", &payload), &ORIGIN));
        assert_eq!(text, "bad_event: what is signed must be an event of `version` 1");
    }
    let inner = signers.sign("ed", &json!({ "jws": signers.sign("ed", &event()) }));
    assert!(refusal(reader.read(&inner, &ORIGIN)).starts_with("unknown_shape: "));
    let unknown = Reader::default().read(&signers.sign("ed", &event()), &ORIGIN);
    assert!(refusal(unknown).starts_with("bad_signature: `kid` of the jws"));
}

/// Seen failing with a public key in DER taken for a secret.
#[test]
fn key_files_that_are_none_are_refused_by_name() {
    let signers = Signers::new();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let parameters = rcgen::CertificateParams::default();
    let certificate = parameters.self_signed(&signers.ed).unwrap();
    let ssh = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE someone@somewhere";
    let der = pem_bytes(&signers.ed.public_key_pem());
    for (name, bytes, why) in [
        ("empty", &b" \n"[..], "it is empty"),
        ("short", b"too short", "a secret of 9 bytes; 32 are needed"),
        ("private.pem", signers.ed.serialize_pem().as_bytes(), "PEM without a PUBLIC KEY"),
        ("certificate.pem", certificate.pem().as_bytes(), "PEM without a PUBLIC KEY"),
        ("p384.pem", p384.public_key_pem().as_bytes(), "not the public key of Ed25519 or P-256"),
        ("torn.pem", b"-----BEGIN PUBLIC KEY-----\nAAAA", "no PEM can be read: "),
        ("public.der", der.as_slice(), "a public key in DER; a public key must be PEM"),
        ("certificate.der", certificate.der(), "a certificate in DER; "),
        ("ssh.pub", ssh, "a key of ssh; "),
        ("key.jwk", b"{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"abc\"}", "a key in JSON; "),
        ("huge", &[b'x'; 20_000], "20000 bytes: no key is that long"),
    ] {
        let file = signers.file(name);
        std::fs::write(&file, bytes).unwrap();
        let error = Reader::new(&config(json!({ "keys": { "k": file } }))).unwrap_err().to_string();
        let start = format!("keys: `k`: {}: {why}", file.display());
        assert!(error.starts_with(&start), "{error}");
    }
    let missing = Reader::new(&config(json!({ "keys": { "k": "/nowhere/k.pem" } }))).unwrap_err().to_string();
    assert!(missing.starts_with("keys: `k`: /nowhere/k.pem: No such file"), "{missing}");
    assert!(!format!("{:?}", signers.reader(false)).contains("secret"));
}

fn pem_bytes(pem: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn signatures_are_not_asked_for_without_keys() {
    let error = config(json!({ "require_signed": true })).check().unwrap_err();
    assert_eq!(error.to_string(), "require_signed: nothing could be signed: there are no `keys`");
    let error = config(json!({ "sns": { "verify": true } })).check().unwrap_err();
    assert!(error.to_string().starts_with("sns.verify: SNS signs for everybody's topics"));
    let keys = json!({ "require_signed": true, "keys": { "k": Path::new("k.pem") } });
    assert!(config(keys).check().is_ok());
}

/// Seen failing with events that are left as they are made.
#[test]
fn an_event_says_whether_its_message_was_signed() {
    let signers = Signers::new();
    let reader = signers.reader(false);
    let unsigned = |body: &str| -> Vec<bool> {
        reader.read(body, &ORIGIN).events.iter().map(|event| event.unsigned).collect()
    };
    let batch = json!([event(), event()]);
    for key in ["ed", "p256", "hs"] {
        assert_eq!(unsigned(&signers.sign(key, &event())), [false], "{key}");
        assert_eq!(unsigned(&signers.sign(key, &batch)), [false, false], "{key}");
    }
    let bare = json!({"level": "agent", "target": "a"});
    for (body, expected) in [
        (event().to_string(), vec![true]),
        (batch.to_string(), vec![true, true]),
        (json!([bare, {"serial": "0a", "issuer": "abcd"}]).to_string(), vec![true, true]),
        (json!({"version": "0", "id": "i", "detail-type": "d", "detail": event()}).to_string(), vec![true]),
    ] {
        assert_eq!(unsigned(&body), expected, "{body}");
    }
}

/// Seen failing with targets that are read and not looked at.
#[test]
fn no_message_decides_about_a_secret_signed_or_not() {
    let signers = Signers::new();
    let reader = signers.reader(false);
    for target in ["secret:safe", " secret:safe ", "secret:"] {
        for (action, level) in
            [("revoke", "principal"), ("suspend", "agent"), ("reinstate", "principal"), ("revoke", "agent")]
        {
            let told = json!({"version": 1, "id": "e", "action": action, "level": level, "target": target,
                "at": "2026-11-22T16:00:00Z"});
            for body in [told.to_string(), signers.sign("ed", &told)] {
                let why = refusal(reader.read(&body, &ORIGIN));
                assert!(why.starts_with("secret_target: "), "{body}: {why}");
            }
        }
        let foreign = json!({"level": "agent", "target": target}).to_string();
        assert!(refusal(reader.read(&foreign, &ORIGIN)).starts_with("secret_target: "), "{foreign}");
    }
    // What else is in a batch takes effect.
    let batch = json!([event(), with(event(), "target", "secret:safe".into())]).to_string();
    assert_eq!(told(&reader.read(&batch, &ORIGIN)), (vec!["secret_target"], vec!["e-1"]));
    // No principal: no credential carries it as anything else.
    let other = with(with(event(), "level", "task".into()), "target", "secret:safe".into());
    assert_eq!(told(&reader.read(&other.to_string(), &ORIGIN)), (vec![], vec!["e-1"]));
}
