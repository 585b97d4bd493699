//! Signed lists of revoked tokens: which are believed, what they deny, and what denies nothing any more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod forge;

use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::revocation::crl::Verdict;
use portcullis::revocation::token_list::Error;
use portcullis::revocation::token_list::Keys;
use portcullis::revocation::token_list::TokenList;
use portcullis::session::Credential;
use serde_json::Value;
use serde_json::json;

use forge::ISSUER;
use forge::NOW;
use forge::Registry;
use forge::claims;

fn keys(keys: &[Value]) -> Keys {
    Keys::read(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

/// The keys of a registry whose key is active.
fn active(registry: &Registry) -> Keys {
    keys(&[registry.key("active")])
}

fn read(json: &[u8], keys: &Keys) -> Result<TokenList, Error> {
    TokenList::read(json, keys, ISSUER, Timestamp::from_secs(NOW))
}

fn token(engine: &Engine, jti: &str) -> Credential {
    let target = Target::parse(Level::Token, jti, None).unwrap();
    Credential { own: vec![engine.fingerprinter().target(&target)], ..Credential::default() }
}

fn engine() -> Engine {
    let clock = Clock::manual(Timestamp::from_secs(NOW));
    Engine::in_memory(&Config::default(), clock).unwrap()
}

#[test]
fn a_list_denies_its_tokens_until_the_next_one() {
    let (registry, engine) = (Registry::new("k1"), engine());
    let list = read(&registry.list(&claims(NOW - 10, &["t-1", "t-2"])), &active(&registry)).unwrap();
    assert_eq!(engine.take_in_tokens(list.clone()).unwrap().verdict, Verdict::New);
    let denial = engine.judge(&token(&engine, "t-1")).unwrap_err();
    assert_eq!(denial.code(), "token_revoked");
    assert_eq!(denial.reason, format!("token list of {ISSUER}"));
    assert!(engine.judge(&token(&engine, "t-3")).is_ok());
    let target = Target::parse(Level::Token, "t-2", None).unwrap();
    let listed = engine.listed(std::slice::from_ref(&target));
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].standing.reason.as_deref(), Some("key leaked"));
    assert_eq!(listed[0].standing.stamp.0, Timestamp::from_secs(NOW - 60));
    let generation = engine.generation();
    let again = TokenList { issued_at: Timestamp::from_secs(NOW - 5), ..list };
    assert_eq!(engine.take_in_tokens(again).unwrap().verdict, Verdict::Unchanged);
    assert_eq!(engine.generation(), generation);
    let next = read(&registry.list(&claims(NOW - 1, &["t-3"])), &active(&registry)).unwrap();
    assert_eq!(engine.take_in_tokens(next).unwrap().verdict, Verdict::New);
    assert!(engine.judge(&token(&engine, "t-1")).is_ok());
    assert!(engine.judge(&token(&engine, "t-3")).is_err());
    assert_eq!(engine.token_counts(), [(ISSUER.to_owned(), 1)]);
}

/// Seen failing without the comparison of times: the older list lifted what the newer one revokes.
#[test]
fn an_older_list_lifts_nothing() {
    let (registry, engine) = (Registry::new("k1"), engine());
    let list = |at, tokens: &[&str]| read(&registry.list(&claims(at, tokens)), &active(&registry)).unwrap();
    assert_eq!(engine.take_in_tokens(list(NOW - 10, &["t-1"])).unwrap().verdict, Verdict::New);
    let error = engine.take_in_tokens(list(NOW - 20, &[])).unwrap_err();
    assert!(error.to_string().contains("before the one that is known"), "{error}");
    assert!(engine.judge(&token(&engine, "t-1")).is_err());
}

#[test]
fn lists_and_events_erase_nothing_of_each_other() {
    let (registry, engine) = (Registry::new("k1"), engine());
    let target = Target::parse(Level::Token, "t-1", None).unwrap();
    let event = Event::new(Action::Revoke, target, Timestamp::from_secs(NOW - 30));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    assert!(runtime.block_on(engine.apply(event)).unwrap().durable.is_ok());
    for tokens in [&["t-1", "t-2"][..], &["t-2"], &[]] {
        let list = read(&registry.list(&claims(NOW - 10, tokens)), &active(&registry)).unwrap();
        assert_eq!(engine.take_in_tokens(list).unwrap().verdict, Verdict::New);
        assert!(engine.judge(&token(&engine, "t-1")).is_err());
        assert_eq!(engine.judge(&token(&engine, "t-2")).is_err(), !tokens.is_empty());
    }
    assert_eq!(engine.entries(), 1);
}

/// Each seen failing with its check taken out, but for the signature, which the library checks.
#[test]
fn what_is_not_the_registrys_is_refused_by_name() {
    let (registry, other) = (Registry::new("k1"), Registry::new("k1"));
    let good = claims(NOW - 10, &["t-1"]);
    let header = |alg: &str, typ: &str| json!({"alg": alg, "typ": typ, "kid": "k1"});
    let foreign = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        registry.list(&claims)
    };
    let entry = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims["revocations"][0][key] = value;
        registry.list(&claims)
    };
    let mut crit = header("EdDSA", "CRL");
    crit["crit"] = json!(["b64"]);
    let cases = [
        (other.list(&good), "the signature does not hold"),
        (registry.signed(&header("HS256", "CRL"), &good), "HS256"),
        (registry.signed(&header("EdDSA", "AIT"), &good), "AIT"),
        (registry.signed(&json!({"alg": "EdDSA", "typ": "CRL"}), &good), "no kid"),
        (registry.signed(&crit, &good), "crit"),
        (foreign("iss", "https://evil.test".into()), "issued by `https://evil.test`"),
        (foreign("iat", (NOW + 1).into()), "in the future"),
        (foreign("exp", 1.into()), "before iat"),
        (foreign("exp", i64::MAX.into()), "is no time"),
        (foreign("revocations", Value::Null), "claims: "),
        (entry("jti", "".into()), "revocations[0]: "),
        (entry("jti", "a\u{0}b".into()), "revocations[0]: "),
        (entry("agentDid", "agent-a".into()), "agentDid is not a DID"),
        (entry("reason", "x".repeat(281).into()), "over 280 characters"),
        (b"<html>".to_vec(), "not {\"crl\": ...}"),
        (br#"{"crl": "abc"}"#.to_vec(), "not a JWS"),
    ];
    for (list, why) in cases {
        let error = read(&list, &active(&registry)).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn an_unknown_key_asks_for_the_keys_anew() {
    let (old, new) = (Registry::new("k1"), Registry::new("k2"));
    let list = new.list(&claims(NOW - 10, &["t-1"]));
    assert_eq!(read(&list, &active(&old)), Err(Error::UnknownKey("k2".into())));
    assert!(read(&list, &keys(&[old.key("active"), new.key("active")])).is_ok());
    // A key that was revoked signs nothing any more.
    assert_eq!(read(&list, &keys(&[new.key("revoked")])), Err(Error::UnknownKey("k2".into())));
    let twice = json!({"keys": [new.key("active"), new.key("active")]}).to_string();
    assert!(Keys::read(twice.as_bytes()).unwrap_err().to_string().contains("two keys"));
}
