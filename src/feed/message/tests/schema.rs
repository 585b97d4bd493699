//! `docs/event.schema.json` says what the parser does.

use serde_json::Value;
use serde_json::json;

use super::super::event;
use super::super::event::Signed;
use super::super::json::Fields;
use super::event as good;
use super::with;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../../docs/event.schema.json")).unwrap()
}

/// As much of JSON Schema as ours uses; patterns and formats are not looked at.
fn allows(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(rules) = schema else { return schema == &Value::Bool(true) };
    rules.iter().all(|(rule, wanted)| match rule.as_str() {
        "type" => is_of_type(wanted.as_str().unwrap(), value),
        "const" => wanted == value,
        "enum" => wanted.as_array().unwrap().contains(value),
        "minLength" => {
            value.as_str().is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap())
        }
        "maxLength" => {
            value.as_str().is_none_or(|text| text.chars().count() as u64 <= wanted.as_u64().unwrap())
        }
        "minimum" => value.as_i64().is_none_or(|number| number >= wanted.as_i64().unwrap()),
        "maximum" => value.as_i64().is_none_or(|number| number <= wanted.as_i64().unwrap()),
        "required" => {
            wanted.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
        }
        "properties" => wanted
            .as_object()
            .unwrap()
            .iter()
            .all(|(name, schema)| value.get(name).is_none_or(|value| allows(root, schema, value))),
        "additionalProperties" => value
            .as_object()
            .is_none_or(|fields| fields.keys().all(|name| rules["properties"].get(name).is_some())),
        "anyOf" => wanted.as_array().unwrap().iter().any(|schema| allows(root, schema, value)),
        "allOf" => wanted.as_array().unwrap().iter().all(|schema| allows(root, schema, value)),
        "if" => !allows(root, wanted, value) || allows(root, &rules["then"], value),
        "$ref" => allows(root, root.pointer(&wanted.as_str().unwrap()[1..]).unwrap(), value),
        "$schema" | "$id" | "$defs" | "title" | "description" | "examples" | "pattern" | "format"
        | "then" => true,
        other => panic!("a rule that is not checked: {other}"),
    })
}

fn is_of_type(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        other => panic!("{other}"),
    }
}

fn parses(value: &Value) -> bool {
    let text = value.to_string();
    Fields::read(&text).and_then(|fields| event::read(&fields, Signed::Yes)).is_ok()
}

#[test]
fn the_schema_and_the_parser_agree() {
    let schema = schema();
    let long = "x".repeat(5000);
    let certificate = with(with(good(), "level", json!("certificate")), "target", json!("0a"));
    let lifts = with(good(), "action", json!("reinstate"));
    let mut right = schema["examples"].as_array().unwrap().clone();
    right.extend([
        good(),
        lifts.clone(),
        with(lifts, "force", json!(true)),
        with(certificate, "issuer", json!("ab")),
    ]);
    right.extend(["revoke", "suspend"].map(|action| with(good(), "action", json!(action))));
    right.extend([json!(0), json!("2026-11-22T16:00:00+01:00")].map(|at| with(good(), "at", at)));
    for value in &right {
        assert!(allows(&schema, &schema, value) && parses(value), "{value}");
    }
    let mut wrong = vec![with(good(), "source", json!("admin")), with(good(), "force", json!(true))];
    for name in schema["required"].as_array().unwrap() {
        let mut value = good();
        value.as_object_mut().unwrap().remove(name.as_str().unwrap());
        wrong.push(value);
    }
    for name in schema["properties"].as_object().unwrap().keys() {
        wrong.extend(
            [json!(null), json!([]), json!({}), json!(1.5), json!(i64::MAX)].map(|v| with(good(), name, v)),
        );
        if !["at", "expires_at"].contains(&name.as_str()) {
            wrong.push(with(good(), name, json!(long)));
        }
    }
    wrong.extend([json!(2), json!("1"), json!(true)].map(|version| with(good(), "version", version)));
    wrong.extend([json!("Revoke"), json!("")].map(|action| with(good(), "action", action)));
    wrong.extend([
        with(good(), "id", json!("")),
        with(good(), "target", json!("")),
        with(good(), "level", json!("x")),
    ]);
    wrong.push(with(good(), "issuer", json!("ab")));
    for value in &wrong {
        assert!(!allows(&schema, &schema, value), "the schema allows {value}");
        assert!(!parses(value), "the parser reads {value}");
    }
}

#[test]
fn every_level_and_action_is_in_the_schema() {
    let schema = schema();
    for level in crate::revocation::Level::ALL {
        assert!(
            schema["properties"]["level"]["enum"].as_array().unwrap().contains(&json!(level.name())),
            "{level}"
        );
    }
}

#[test]
fn what_the_documentation_shows_is_understood() {
    let text = include_str!("../../../../docs/messages.md");
    let blocks = |kind: &'static str| {
        text.split(kind).skip(1).map(|rest| rest.split_once("\n```").unwrap().0).collect::<Vec<_>>()
    };
    let (messages, configs) = (blocks("```json\n"), blocks("```toml\n"));
    assert_eq!((messages.len(), configs.len()), (3, 2));
    for body in messages {
        let message = super::read(body);
        assert!(message.poison.is_empty() && !message.events.is_empty(), "{body}: {message:?}");
    }
    for config in configs {
        let config: toml::Table = toml::from_str(config).unwrap();
        let config: crate::feed::Config = config["feed"].clone().try_into().unwrap();
        assert!(config.check().is_ok(), "{config:?}");
    }
}
