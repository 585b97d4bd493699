//! SPIFFE IDs and trust domains, to the letter of the SPIFFE-ID standard, section 2.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;

/// The longest SPIFFE ID, bytes (SPIFFE-ID, section 2.3).
const MAX_ID: usize = 2048;
/// The longest trust domain name, bytes (SPIFFE-ID, section 2.1).
const MAX_TRUST_DOMAIN: usize = 255;
const SCHEME: &str = "spiffe://";

/// A trust domain name: lower-case letters, digits, dots, dashes, underscores; at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Reads a bare trust domain name.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.is_empty() {
            return Err(SpiffeError::EmptyTrustDomain);
        }
        if text.len() > MAX_TRUST_DOMAIN {
            return Err(SpiffeError::TooLong);
        }
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if !text.bytes().all(allowed) {
            return Err(SpiffeError::TrustDomainCharacter);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|e| D::Error::custom(format!("trust domain `{text}`: {e}")))
    }
}

/// A SPIFFE ID: `spiffe://TRUST-DOMAIN/SEGMENT/...`, kept as it was written, which is canonical.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: String,
    path_at: usize,
}

impl SpiffeId {
    /// Reads a SPIFFE ID; the scheme is lower case, the path may be empty (then it names the trust domain itself).
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_ID {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let path_at = SCHEME.len() + rest.find('/').unwrap_or(rest.len());
        let (_, path) = text.split_at(path_at);
        TrustDomain::parse(text.get(SCHEME.len()..path_at).unwrap_or_default())?;
        if let Some(segments) = path.strip_prefix('/') {
            segments.split('/').try_for_each(check_segment)?;
        }
        Ok(Self { text: text.to_owned(), path_at })
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.path_at).unwrap_or_default()
    }

    /// The path's segments; none if the ID names the trust domain itself.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.text.get(self.path_at..).unwrap_or_default().split('/').skip(1)
    }

    /// Whether the ID names a workload, not the trust domain itself.
    pub fn has_path(&self) -> bool {
        self.path_at < self.text.len()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check_segment(segment: &str) -> Result<(), SpiffeError> {
    match segment {
        "" => return Err(SpiffeError::EmptySegment),
        "." | ".." => return Err(SpiffeError::DotSegment),
        _ => {}
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if segment.bytes().all(allowed) { Ok(()) } else { Err(SpiffeError::PathCharacter) }
}

/// What is wrong with a SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// The scheme is not `spiffe://`, in lower case.
    #[error("the scheme is not `spiffe://`")]
    Scheme,
    /// Nothing between the scheme and the path.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// An upper-case letter, a port, userinfo, a percent sign, ...
    #[error("the trust domain may hold only lower-case letters, digits, dots, dashes and underscores")]
    TrustDomainCharacter,
    /// `//`, or a slash at the end.
    #[error("a path segment is empty")]
    EmptySegment,
    /// `.` or `..`.
    #[error("a path segment is `.` or `..`")]
    DotSegment,
    /// A percent sign, a query, a fragment, a space, ...
    #[error("a path segment may hold only letters, digits, dots, dashes and underscores")]
    PathCharacter,
    /// Over 2,048 bytes, or over 255 in the trust domain.
    #[error("too long")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_to_the_letter() {
        let long_domain = format!("spiffe://{}/a", "d".repeat(256));
        let longest_domain = format!("spiffe://{}/a", "d".repeat(255));
        let long_id = format!("spiffe://td/{}", "p".repeat(2048));
        let longest_id = format!("spiffe://td/{}", "p".repeat(2048 - 12));
        for good in [
            "spiffe://td",
            "spiffe://td/a",
            "spiffe://td-1.x_y/Agent/A.b-c_d/...",
            &longest_domain,
            &longest_id,
        ] {
            assert_eq!(SpiffeId::parse(good).map(|id| id.to_string()), Ok(good.to_owned()));
        }
        for (bad, why) in [
            ("", SpiffeError::Scheme),
            ("spiffe:/td/a", SpiffeError::Scheme),
            ("SPIFFE://td/a", SpiffeError::Scheme),
            ("Spiffe://td/a", SpiffeError::Scheme),
            ("http://td/a", SpiffeError::Scheme),
            (" spiffe://td/a", SpiffeError::Scheme),
            ("spiffe://", SpiffeError::EmptyTrustDomain),
            ("spiffe:///a", SpiffeError::EmptyTrustDomain),
            ("spiffe://TD/a", SpiffeError::TrustDomainCharacter),
            ("spiffe://td:443/a", SpiffeError::TrustDomainCharacter),
            ("spiffe://user@td/a", SpiffeError::TrustDomainCharacter),
            ("spiffe://t%64/a", SpiffeError::TrustDomainCharacter),
            ("spiffe://td?q/a", SpiffeError::TrustDomainCharacter),
            ("spiffe://[::1]/a", SpiffeError::TrustDomainCharacter),
            ("spiffe://tд/a", SpiffeError::TrustDomainCharacter),
            ("spiffe://td/", SpiffeError::EmptySegment),
            ("spiffe://td//a", SpiffeError::EmptySegment),
            ("spiffe://td/a/", SpiffeError::EmptySegment),
            ("spiffe://td/./a", SpiffeError::DotSegment),
            ("spiffe://td/a/..", SpiffeError::DotSegment),
            ("spiffe://td/%61", SpiffeError::PathCharacter),
            ("spiffe://td/a?q", SpiffeError::PathCharacter),
            ("spiffe://td/a#f", SpiffeError::PathCharacter),
            ("spiffe://td/a\0", SpiffeError::PathCharacter),
            ("spiffe://td/a b", SpiffeError::PathCharacter),
            ("spiffe://td/ä", SpiffeError::PathCharacter),
            (&long_domain, SpiffeError::TooLong),
            (&long_id, SpiffeError::TooLong),
        ] {
            assert_eq!(SpiffeId::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn parts() {
        let id = SpiffeId::parse("spiffe://lab.test/agent/a").unwrap();
        assert_eq!((id.trust_domain(), id.segments().collect::<Vec<_>>()), ("lab.test", vec!["agent", "a"]));
        let bare = SpiffeId::parse("spiffe://lab.test").unwrap();
        assert_eq!((bare.trust_domain(), bare.has_path(), bare.segments().count()), ("lab.test", false, 0));
    }
}
