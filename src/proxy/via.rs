//! `Via` (RFC 9110, section 7.6.3): each gate writes its name into the requests that it forwards, and refuses one in which it
//! finds it: an upstream leads back to the gate.
//!
//! A client that forges the name refuses its own request, and needs to be told the name by an upstream first: answers have
//! no `Via`.

use http::HeaderMap;
use http::HeaderValue;
use http::Version;
use http::header::Entry;
use http::header::VIA;
use uuid::Uuid;

use super::Refusal;
use super::headers::members;

/// The name of a gate in `Via`: random, so that no two gates share it, and gates behind each other are no loop.
#[derive(Clone, Debug)]
pub(super) struct ViaName(String);

impl ViaName {
    /// A new one.
    pub(super) fn new() -> Self {
        Self(format!("portcullis-{:016x}", Uuid::new_v4().as_u64_pair().0))
    }
}

/// The name that a gate writes into `Via`. Each thread has its own: threads that share a value would count its uses in one place.
#[derive(Debug)]
pub(super) struct Via {
    name: ViaName,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    pub(super) fn new(name: &ViaName) -> Self {
        let entry = |version: &str| {
            let entry = HeaderValue::try_from(format!("{version} {}", name.0));
            // Its letters all fit into a header.
            entry.unwrap_or_else(|_| HeaderValue::from_static("1.1 portcullis"))
        };
        Self { name: name.clone(), http10: entry("1.0"), http11: entry("1.1"), http2: entry("2") }
    }

    /// Adds this gate to those that a request has passed, which came by `version`.
    ///
    /// # Errors
    /// [`Refusal::Loop`] if it has passed this gate before.
    pub(super) fn pass(&self, headers: &mut HeaderMap, version: Version) -> Result<(), Refusal> {
        let own = match version {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_10 => &self.http10,
            _ => &self.http11,
        };
        let mut others = match headers.entry(VIA) {
            Entry::Vacant(entry) => {
                entry.insert(own.clone());
                return Ok(());
            }
            Entry::Occupied(entry) => entry,
        };
        if others.iter().any(|line| self.is_in(line)) {
            return Err(Refusal::Loop);
        }
        let lines = others.iter().chain([own]).map(HeaderValue::as_bytes);
        let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
        // What came in header lines fits into one.
        if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b", "[..])) {
            others.insert(joined);
        }
        Ok(())
    }

    /// True if a line names this gate: by the second word of a member, which may be followed by a comment.
    fn is_in(&self, line: &HeaderValue) -> bool {
        let received_by = |member: &[u8]| {
            let mut words = member.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.nth(1).is_some_and(|name| name.eq_ignore_ascii_case(self.name.0.as_bytes()))
        };
        members(line).any(received_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (VIA, HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn entries_of_others_are_kept_on_one_line() {
        let via = Via::new(&ViaName::new());
        for (version, prefix) in
            [(Version::HTTP_10, "1.0"), (Version::HTTP_11, "1.1"), (Version::HTTP_2, "2")]
        {
            let own = format!("{prefix} {}", via.name.0);
            for (lines, before) in [
                (&[][..], ""),
                (&["1.0 fred"], "1.0 fred, "),
                (&["1.0 fred, 1.1 a (b, c)", "2 d"], "1.0 fred, 1.1 a (b, c), 2 d, "),
                (&["", "1.0 fred"], "1.0 fred, "),
            ] {
                let mut headers = headers(lines);
                assert!(via.pass(&mut headers, version).is_ok());
                let all: Vec<_> = headers.get_all(VIA).iter().collect();
                assert_eq!(all, [format!("{before}{own}").as_str()]);
            }
        }
    }

    /// Seen failing with the first line alone, and with the whole member compared.
    #[test]
    fn its_own_name_is_found_on_any_line() {
        let via = Via::new(&ViaName::new());
        let name = &via.name.0;
        for (lines, found) in [
            (&[format!("1.1 {name}")][..], true),
            (&["1.1 a".into(), format!("1.0 b,2\t{} (c)", name.to_uppercase())], true),
            (&[format!("HTTP/1.1  {name} ,")], true),
            (&[format!("1.1 {name}0"), format!("1.1 x{name}")], false),
            (&[format!("1.1 a ({name})"), name.clone()], false),
            (&[format!("1.1 {}", ViaName::new().0)], false),
        ] {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let looped = matches!(via.pass(&mut headers(&lines), Version::HTTP_11), Err(Refusal::Loop));
            assert_eq!(looped, found, "{lines:?}");
        }
    }
}
