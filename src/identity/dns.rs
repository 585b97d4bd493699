//! DNS names as identities: canonical in lower case, without the root's dot.

use std::fmt;

/// A DNS host name (RFC 1123, section 2.1, and underscores): lower case, no trailing dot, no wildcard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

impl DnsName {
    /// Reads a host name in any case, with or without the root's dot; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let last = text.rsplit('.').next()?;
        let numeric = last.bytes().all(|b| b.is_ascii_digit());
        if text.len() > 253 || numeric || !text.split('.').all(is_label) {
            return None;
        }
        Some(Self(text.to_ascii_lowercase()))
    }

    /// The canonical name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text`, in any case and with or without the root's dot, is this name.
    pub fn is(&self, text: &str) -> bool {
        text.strip_suffix('.').unwrap_or(text).eq_ignore_ascii_case(&self.0)
    }

    /// Whether it is `domain`, or lies in it.
    pub(super) fn is_below(&self, domain: &str) -> bool {
        let rest = self.0.strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=63).contains(&label.len())
        && label.bytes().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_or_nothing() {
        let canonical = |text: &str| DnsName::parse(text).map(|name| name.to_string());
        assert_eq!(canonical("A.Lab.Test."), Some("a.lab.test".into()));
        assert_eq!(canonical("my_agent-1.lab.test"), Some("my_agent-1.lab.test".into()));
        let long = format!("{}.test", "a".repeat(64));
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            "*.lab.test",
            "-a.test",
            "a-.test",
            "10.0.0.1",
            "a b",
            "a\0.test",
            "ä.test",
            &long,
        ] {
            assert_eq!(canonical(bad), None, "{bad}");
        }
        let name = DnsName::parse("a.test").unwrap();
        assert!(name.is("A.TEST.") && name.is_below("a.test") && name.is_below("test"));
        assert!(!name.is_below("b.a.test") && !DnsName::parse("ba.test").unwrap().is_below("a.test"));
    }
}
