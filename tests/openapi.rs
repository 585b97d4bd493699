//! The OpenAPI document: complete, consistent, and the one that is committed. That the gate keeps to it is shown by
//! `schemathesis`, and by the scenarios `roles_decide` and `bad_calls_are_refused`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// Operations that need no credential.
const PUBLIC: [&str; 2] = ["/openapi.json", "/v1/admin/auth"];
const PROBLEM: &str = "application/problem+json";
/// Set, it makes [`the_committed_copy_is_what_the_program_prints`] write the copy.
const UPDATE: &str = "UPDATE_OPENAPI";

fn document() -> Value {
    serde_json::from_str(&portcullis::authority::openapi()).unwrap()
}

/// Every operation: method, path, what is said of it.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(["get", "post", "delete"].contains(&method.as_str()), "{path}: {method}");
            operations.push((method.clone(), path.clone(), operation));
        }
    }
    operations
}

/// Calls `with` on every value of a document, and the place where it is.
fn walk(place: &str, value: &Value, with: &mut impl FnMut(&str, &Value)) {
    with(place, value);
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| walk(&format!("{place}/{name}"), value, with));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| walk(&format!("{place}/{i}"), value, with));
        }
        _ => {}
    }
}

#[test]
fn it_says_what_it_is() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    for member in ["title", "description"] {
        assert!(!document["info"][member].as_str().unwrap().is_empty(), "{member}");
    }
}

#[test]
fn every_operation_says_all_of_itself() {
    let document = document();
    let tags: BTreeSet<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let place = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{place}: no operationId"));
        assert!(ids.insert(id), "{place}: another operation is called {id}");
        let of = operation["tags"].as_array().unwrap();
        assert!(of.len() == 1 && tags.contains(of[0].as_str().unwrap()), "{place}: {of:?}");
        assert!(operation["summary"].is_string(), "{place}");
        let is_public = operation.get("security").is_none();
        assert_eq!(is_public, PUBLIC.contains(&path.as_str()), "{place}: security");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.contains_key("200"), "{place}");
        assert!(responses.contains_key("429"), "{place}: every call is counted");
        if !is_public {
            assert!(["401", "403"].iter().all(|status| responses.contains_key(*status)), "{place}");
        }
        assert_eq!(operation.get("requestBody").is_some(), method == "post", "{place}");
        for (status, response) in responses {
            assert!(response["description"].is_string(), "{place}: {status}");
            let kinds: Vec<&String> = response["content"].as_object().unwrap().keys().collect();
            match status.parse::<u16>().unwrap() {
                200..400 => assert_eq!(kinds, ["application/json"], "{place}: {status}"),
                // It may also say what is in effect.
                409 | 503 => assert!(kinds.iter().any(|kind| *kind == PROBLEM), "{place}: {status}"),
                _ => assert_eq!(kinds, [PROBLEM], "{place}: {status}"),
            }
        }
        let named: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        let none = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&none);
        let of_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
        assert_eq!(of_path.map(|parameter| parameter["name"].as_str().unwrap()).collect::<Vec<_>>(), named);
        for parameter in parameters {
            assert!(
                parameter["schema"].is_object() && parameter["description"].is_string(),
                "{place}: {parameter}"
            );
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = document();
    let mut used = BTreeSet::new();
    walk("", &document, &mut |place, value| {
        if let Some(reference) = value.get("$ref") {
            let reference = reference.as_str().unwrap();
            let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{place}: {reference}"));
            assert!(document.pointer(pointer).is_some(), "{place}: {reference} leads nowhere");
            used.insert(pointer.to_owned());
        }
    });
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(used.contains(&format!("/components/schemas/{name}")), "{name} is used nowhere");
    }
}

/// In a schema a type is one that there is, what is required is described, and bounds are in order.
#[test]
fn every_schema_can_be_met() {
    const TYPES: [&str; 7] = ["string", "integer", "number", "boolean", "object", "array", "null"];
    walk("", &document(), &mut |place, value| {
        let Some(kind) = value.get("type").filter(|_| !place.ends_with("/properties")) else { return };
        let kinds = kind.as_array().cloned().unwrap_or_else(|| vec![kind.clone()]);
        if !place.contains("/securitySchemes/") {
            assert!(kinds.iter().all(|kind| TYPES.contains(&kind.as_str().unwrap())), "{place}: {kind}");
        }
        for name in value["required"].as_array().into_iter().flatten() {
            assert!(value["properties"].get(name.as_str().unwrap()).is_some(), "{place}: {name}");
        }
        for (least, most) in [("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems")] {
            if let (Some(least), Some(most)) = (value[least].as_f64(), value[most].as_f64()) {
                assert!(least <= most, "{place}");
            }
        }
    });
}

#[test]
fn the_committed_copy_is_what_the_program_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let printed = portcullis::authority::openapi() + "\n";
    if std::env::var_os(UPDATE).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &printed).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == printed,
        "{} is not what the program prints; `{UPDATE}=1 cargo test --test openapi` writes it anew",
        path.display()
    );
}
