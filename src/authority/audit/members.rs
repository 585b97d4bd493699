//! The members of a line that tie it to the chain.
//!
//! **Invariant:** no object in a line has two members of one name. Readers do not agree which of the two counts, so such
//! a line would say one thing here and another one elsewhere.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;

use super::damage::Damage;
use crate::clock::Timestamp;

/// What is read of a line; the rest is held against the invariant alone.
#[derive(Debug, Deserialize)]
pub(super) struct Members {
    pub(super) sequence: u64,
    pub(super) time: Timestamp,
    pub(super) action: String,
    pub(super) outcome: String,
    pub(super) reason: Option<String>,
    pub(super) actor: Option<String>,
    pub(super) damage: Option<Damage>,
    pub(super) prev: String,
}

impl Members {
    pub(super) fn parse(line: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice::<Unambiguous>(line)?;
        serde_json::from_slice(line)
    }
}

/// Any JSON whose objects have each member once.
struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Unambiguous;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unambiguous, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<Unambiguous>()?;
            if let Some(name) = names.replace(name) {
                return Err(A::Error::custom(format_args!("it has two members of the name `{name}`")));
            }
        }
        Ok(Unambiguous)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unambiguous, A::Error> {
        while items.next_element::<Unambiguous>()?.is_some() {}
        Ok(Unambiguous)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }

    fn visit_unit<E>(self) -> Result<Unambiguous, E> {
        Ok(Unambiguous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_there_twice_is_refused_at_any_depth() {
        let read = |text: &str| serde_json::from_str::<Unambiguous>(text).map(drop);
        read(r#"{"a":[1,-1,0.5,null,true,"a",{"a":{"a":1}}],"b":{"a":2}}"#).unwrap();
        let twice =
            [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#"{"b":{"a":1,"a":1}}"#, r#"[{"a":1,"a":1}]"#];
        for text in twice {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("it has two members of the name `a`"), "{error}");
        }
        assert!(read(r#"{"a":1} x"#).is_err());
        assert!(read(&"[".repeat(1_000_000)).is_err());
    }
}
