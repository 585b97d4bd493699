//! JSON, read strictly. **Invariant:** no field counts twice, and no value is ever repeated in an error.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::DeserializeOwned;
use serde::de::Error as _;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::Poison;
use super::event::MAX_NAME;
use crate::clock::Timestamp;
use crate::identity::Serial;

/// The hexadecimal digits of the longest serial that RFC 5280, section 4.1.2.2, allows.
const MAX_DIGITS: usize = 40;
/// No message that is known has more.
const MAX_FIELDS: usize = 64;

/// The fields of one object, each as it was written.
#[derive(Debug)]
pub(super) struct Fields<'a>(BTreeMap<String, &'a RawValue>);

/// What kind of value a JSON text is. `text` is trimmed at its start.
pub(super) fn kind_of(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Reads a text whose faults may be told as they are: they are of the syntax, or our own.
pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Poison> {
    serde_json::from_str(text).map_err(|error| fault(&error))
}

fn fault(error: &serde_json::Error) -> Poison {
    match error.classify() {
        Category::Data => Poison::new("bad_event", error.to_string()),
        _ => Poison::new("not_json", error.to_string()),
    }
}

impl<'a> Fields<'a> {
    /// The fields of a text that begins with `{`.
    pub(super) fn read(text: &'a str) -> Result<Self, Poison> {
        parse(text)
    }

    /// Whether the field is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The field as it was written.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.get())
    }

    /// A field that is an object.
    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, Poison> {
        self.of_kind(name, "an object")?.map(Fields::read).transpose()
    }

    /// A field that is a string, whatever is in it.
    pub(super) fn string(&self, name: &str) -> Result<Option<String>, Poison> {
        self.of_kind(name, "a string")?.map(|text| value(name, text)).transpose()
    }

    /// A field that is a string of at most `max` bytes without control characters.
    pub(super) fn text(&self, name: &str, max: usize) -> Result<Option<String>, Poison> {
        let Some(text) = self.string(name)? else { return Ok(None) };
        if text.len() > max {
            return Err(bad(name, &format!("over {max} bytes")));
        }
        if text.contains(char::is_control) {
            return Err(bad(name, "control characters"));
        }
        Ok(Some(text))
    }

    /// A field that names something: 1 to 128 printable ASCII characters.
    pub(super) fn id(&self, name: &str) -> Result<Option<String>, Poison> {
        let Some(text) = self.string(name)? else { return Ok(None) };
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if fits { Ok(Some(text)) } else { Err(bad(name, "not 1 to 128 printable ascii characters")) }
    }

    /// A field that is true or false.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Poison> {
        self.of_kind(name, "true or false")?.map(|text| value(name, text)).transpose()
    }

    /// A field that is a whole number.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, Poison> {
        let Some(text) = self.of_kind(name, "a number")? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| bad(name, "not a whole number of 64 bits"))
    }

    /// A field that is a time: RFC 3339, or whole Unix seconds.
    pub(super) fn time(&self, name: &str) -> Result<Option<Timestamp>, Poison> {
        let text = match self.raw(name) {
            None => return Ok(None),
            Some(text) if kind_of(text) == "a number" => self.seconds(name)?.map(|secs| secs.to_string()),
            // Digits in a string are no RFC 3339.
            Some(_) => self.string(name)?.filter(|text| text.contains(['T', 't']) && text.len() <= 64),
        };
        let at = text.as_deref().and_then(Timestamp::parse);
        at.map(Some).ok_or_else(|| bad(name, "neither rfc 3339 nor whole unix seconds"))
    }

    /// A field that is a time in whole Unix seconds, of a year that can be written.
    pub(super) fn seconds(&self, name: &str) -> Result<Option<i64>, Poison> {
        let Some(secs) = self.integer(name)? else { return Ok(None) };
        match Timestamp::parse(&secs.to_string()) {
            Some(_) => Ok(Some(secs)),
            None => Err(bad(name, "no unix seconds of the years 0 to 9999")),
        }
    }

    /// A field that is a certificate's serial: a string is hexadecimal, also where it is all digits; a number is decimal.
    pub(super) fn serial(&self, name: &str) -> Result<Option<String>, Poison> {
        match self.raw(name) {
            Some(text) if kind_of(text) == "a number" => {
                let serial = Serial::from_decimal(text);
                let serial =
                    serial.ok_or_else(|| bad(name, "a number that is no serial: whole, 64 bytes at most"))?;
                Ok(Some(serial.to_string()))
            }
            _ => match self.text(name, MAX_NAME)? {
                Some(text) => hexadecimal(name, &text).map(|()| Some(text)),
                None => Ok(None),
            },
        }
    }

    /// Refuses every field but these.
    pub(super) fn only(&self, names: &[&str]) -> Result<(), Poison> {
        match self.0.keys().find(|name| !names.contains(&name.as_str())) {
            Some(name) => Err(Poison::new("bad_event", format!("unknown field {}", shown(name)))),
            None => Ok(()),
        }
    }

    fn of_kind(&self, name: &str, kind: &str) -> Result<Option<&'a str>, Poison> {
        match self.raw(name) {
            None => Ok(None),
            Some(text) if kind_of(text) == kind => Ok(Some(text)),
            Some(text) => Err(bad(name, &format!("{} where {kind} belongs", kind_of(text)))),
        }
    }
}

/// Refuses a string that is no hexadecimal serial and may be a decimal one: read wrongly, it would revoke another
/// certificate, and nothing would say so.
pub(super) fn hexadecimal(name: &str, text: &str) -> Result<(), Poison> {
    let digits = text.trim();
    if digits.len() <= MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    let decimal =
        Serial::from_decimal(digits).map_or_else(|| "over 64 bytes".to_owned(), |serial| serial.to_string());
    let why = format!(
        "{} digits without a letter: in hexadecimal {} bytes, where 20 are the most; in decimal {decimal}, which is sent \
         like this or as a number",
        digits.len(),
        digits.len().div_ceil(2)
    );
    Err(bad(name, &why))
}

/// What must be there.
pub(super) fn required<T>(name: &str, value: Option<T>) -> Result<T, Poison> {
    value.ok_or_else(|| bad(name, "missing"))
}

/// A field that is not what it should be.
pub(super) fn bad(name: &str, why: &str) -> Poison {
    Poison::new("bad_event", format!("`{name}`: {why}"))
}

fn value<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, Poison> {
    // A string that is no text, such as half of a surrogate pair: the syntax's fault, which repeats nothing.
    serde_json::from_str(text).map_err(|error| bad(name, &error.to_string()))
}

/// A field's name, if it is one that somebody might have meant.
fn shown(name: &str) -> String {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=40).contains(&name.len()) && name.bytes().all(word) {
        format!("`{name}`")
    } else {
        "with a name that is no word".to_owned()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    // Whoever verifies might read the one, and whoever acts the other.
                    if fields.contains_key(&name) {
                        return Err(A::Error::custom(format!("field {} is there twice", shown(&name))));
                    }
                    if fields.len() == MAX_FIELDS {
                        return Err(A::Error::custom(format!("over {MAX_FIELDS} fields")));
                    }
                    fields.insert(name, map.next_value::<&RawValue>()?);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// The elements of an array, each as it was written; one more than `MAX` is refused.
#[derive(Debug)]
pub(super) struct Elements<'a, const MAX: usize>(pub(super) Vec<&'a RawValue>);

impl<'de: 'a, 'a, const MAX: usize> Deserialize<'de> for Elements<'a, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<const MAX: usize>;
        impl<'de, const MAX: usize> Visitor<'de> for Each<MAX> {
            type Value = Elements<'de, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element::<&RawValue>()? {
                    if elements.len() == MAX {
                        return Err(A::Error::custom(format!("over {MAX} parts: split it")));
                    }
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }
        deserializer.deserialize_seq(Each::<MAX>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields<'_> {
        Fields::read(text).unwrap()
    }

    fn refused<T: fmt::Debug>(result: Result<T, Poison>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_field_counts_once_whatever_its_spelling() {
        let twice = Fields::read(r#"{"id": 1, "\u0069d": 2}"#);
        assert_eq!(refused(twice), "bad_event: field `id` is there twice at line 1 column 19");
        let many: Vec<String> = (0..65).map(|i| format!("\"f{i}\":0")).collect();
        assert!(refused(Fields::read(&format!("{{{}}}", many.join(",")))).contains("over 64 fields"));
    }

    #[test]
    fn values_have_one_type_and_are_never_repeated() {
        let text = r#"{"n": "secret", "s": 1, "c": "secret\u0000", "l": "\ud800", "f": 1.5, "big": 99999999999999999999}"#;
        let fields = fields(text);
        assert_eq!(refused(fields.integer("n")), "bad_event: `n`: a string where a number belongs");
        assert_eq!(refused(fields.text("s", 9)), "bad_event: `s`: a number where a string belongs");
        assert_eq!(refused(fields.text("c", 9)), "bad_event: `c`: control characters");
        assert_eq!(refused(fields.text("n", 3)), "bad_event: `n`: over 3 bytes");
        assert!(refused(fields.text("l", 9)).starts_with("bad_event: `l`: unexpected end of hex escape"));
        assert!(refused(fields.integer("f")).ends_with("not a whole number of 64 bits"));
        assert!(refused(fields.seconds("big")).ends_with("not a whole number of 64 bits"));
        assert!(refused(fields.only(&["n"])).ends_with("unknown field `big`"));
        let strange = Fields::read("{\"a secret, perhaps\": 1}").unwrap().only(&[]);
        assert_eq!(refused(strange), "bad_event: unknown field with a name that is no word");
    }

    #[test]
    fn times_are_rfc_3339_or_whole_seconds() {
        let text = r#"{"a": "2026-10-14T17:46:40.123Z", "b": 1792000000, "c": "1792000000", "d": 1e9, "e": 99999999999999}"#;
        let fields = fields(text);
        assert_eq!(fields.time("a").unwrap(), Some(Timestamp::from_millis(1_792_000_000_123)));
        assert_eq!(fields.time("b").unwrap(), Some(Timestamp::from_secs(1_792_000_000)));
        assert_eq!(fields.time("none").unwrap(), None);
        for name in ["c", "d", "e"] {
            assert!(fields.time(name).is_err(), "{name}");
        }
    }
}
