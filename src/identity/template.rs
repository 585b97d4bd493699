//! Templates: how an agent id is read from a SPIFFE ID, a DNS name or a request's path.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;

use super::Claim;
use super::DnsName;
use super::SpiffeId;

/// One segment or label of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(String),
}

impl Part {
    fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match name {
            Some(name) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
                Ok(Self::Variable(name.to_owned()))
            }
            None if !text.contains(['{', '}']) => Ok(Self::Literal(text.to_owned())),
            _ => Err(format!("`{text}`: a placeholder is a whole segment: `{{name}}`, lower-case letters")),
        }
    }

    fn is(&self, name: &str) -> bool {
        matches!(self, Self::Variable(own) if own == name)
    }
}

/// `spiffe://{trust_domain}/agent/{agent}` or `dns:{agent}.lab.test`.
///
/// Each placeholder stands for one whole path segment or label. `{agent}` is demanded; `{task}` is a task id;
/// others match anything, and may tell agents with the same id apart ([`Template::scope`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Spiffe { trust_domain: Part, segments: Vec<Part> },
    Dns { labels: Vec<Part> },
}

/// What a template read from a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Captures {
    /// The agent id.
    pub(super) agent: String,
    /// The task id.
    pub(super) task: Option<String>,
}

impl Template {
    /// Reads a template; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (form, mut parts) = if let Some(rest) = text.strip_prefix("spiffe://") {
            let (trust_domain, path) = rest.split_once('/').ok_or("a SPIFFE template needs a path")?;
            let trust_domain = Part::parse(trust_domain)?;
            let segments = parse_parts(path, '/')?;
            (Form::Spiffe { trust_domain, segments: segments.clone() }, segments)
        } else if let Some(rest) = text.strip_prefix("dns:") {
            let labels = parse_parts(&rest.to_ascii_lowercase(), '.')?;
            (Form::Dns { labels: labels.clone() }, labels)
        } else {
            return Err("a template starts with `spiffe://` or `dns:`".into());
        };
        if parts.iter().filter(|part| part.is("agent")).count() != 1 {
            return Err("a template holds `{agent}` exactly once".into());
        }
        parts.retain(|part| matches!(part, Part::Variable(_)));
        let distinct =
            parts.iter().enumerate().all(|(i, part)| !parts.iter().skip(i + 1).any(|other| other == part));
        if !distinct {
            return Err("a placeholder is used twice".into());
        }
        if parts.iter().any(|part| part.is("trust_domain")) {
            return Err("`{trust_domain}` stands right behind `spiffe://`, nowhere else".into());
        }
        Ok(Self { text: text.to_owned(), form })
    }

    /// The first variable beside the trust domain, the agent id and the task id. Where there is one, such as `{tenant}`, two
    /// agents may have the same agent id.
    pub fn scope(&self) -> Option<&str> {
        let (Form::Spiffe { segments: parts, .. } | Form::Dns { labels: parts }) = &self.form;
        parts.iter().find_map(|part| match part {
            Part::Variable(name) if name != "agent" && name != "task" => Some(name.as_str()),
            _ => None,
        })
    }

    /// Whether it reads SPIFFE IDs, not DNS names.
    pub fn reads_spiffe(&self) -> bool {
        matches!(self.form, Form::Spiffe { .. })
    }

    /// The kind of principal that it describes: the first literal segment of a SPIFFE template, or `dns`.
    pub(super) fn kind(&self) -> &str {
        match &self.form {
            Form::Dns { .. } => "dns",
            Form::Spiffe { segments, .. } => {
                let literal = segments.iter().find_map(|part| match part {
                    Part::Literal(text) => Some(text.as_str()),
                    Part::Variable(_) => None,
                });
                literal.unwrap_or("spiffe")
            }
        }
    }

    /// Whether it reads names from DNS names.
    pub(super) fn is_dns(&self) -> bool {
        matches!(self.form, Form::Dns { .. })
    }

    /// Whether it reads a task id.
    pub(super) fn reads_tasks(&self) -> bool {
        let (Form::Spiffe { segments: parts, .. } | Form::Dns { labels: parts }) = &self.form;
        parts.iter().any(|part| part.is("task"))
    }

    /// Whether a DNS name in `domain` could fit it.
    pub(super) fn reaches(&self, domain: &str) -> bool {
        let Form::Dns { labels } = &self.form else {
            return false;
        };
        let fits = |(part, label): (&Part, &str)| match part {
            Part::Literal(literal) => literal == label,
            Part::Variable(_) => true,
        };
        domain.split('.').count() <= labels.len() && labels.iter().rev().zip(domain.rsplit('.')).all(fits)
    }

    pub(super) fn match_spiffe(&self, id: &SpiffeId) -> Option<Captures> {
        let Form::Spiffe { trust_domain, segments } = &self.form else {
            return None;
        };
        match trust_domain {
            Part::Literal(name) if name != id.trust_domain() => None,
            _ => capture(segments, id.segments()),
        }
    }

    pub(super) fn match_dns(&self, name: &DnsName) -> Option<Captures> {
        let Form::Dns { labels } = &self.form else {
            return None;
        };
        capture(labels, name.as_str().split('.'))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|e| D::Error::custom(format!("template `{text}`: {e}")))
    }
}

fn parse_parts(text: &str, separator: char) -> Result<Vec<Part>, String> {
    let parts: Vec<Part> = text.split(separator).map(Part::parse).collect::<Result<_, _>>()?;
    match parts.iter().any(|part| *part == Part::Literal(String::new())) {
        true => Err("an empty segment".into()),
        false => Ok(parts),
    }
}

fn capture<'a>(parts: &[Part], mut actual: impl Iterator<Item = &'a str>) -> Option<Captures> {
    let mut captures = Captures { agent: String::new(), task: None };
    for part in parts {
        let text = actual.next()?;
        match part {
            Part::Literal(literal) if literal != text => return None,
            Part::Variable(name) if name == "agent" => captures.agent = text.to_owned(),
            Part::Variable(name) if name == "task" => captures.task = Some(text.to_owned()),
            _ => {}
        }
    }
    actual.next().is_none().then_some(captures)
}

/// `/api/v1/agents/{agent}/`: the path prefix in which a request claims its agent id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathClaim {
    parts: Vec<Part>,
}

impl PathClaim {
    /// Reads a path template with `{agent}` exactly once.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = text.strip_prefix('/').ok_or("a path starts with `/`")?;
        let parts = parse_parts(inner.strip_suffix('/').unwrap_or(inner), '/')?;
        match parts.iter().filter(|part| part.is("agent")).count() {
            1 => Ok(Self { parts }),
            _ => Err("a path claim holds `{agent}` exactly once".into()),
        }
    }

    /// Reads the claim from the raw path of a request, without its query.
    pub fn read<'a>(&self, path: &'a str) -> Claim<'a> {
        if let Some(why) = ambiguous_path(path) {
            return Claim::Ambiguous(why);
        }
        // What stands before the first slash is no segment here, and might be one to the upstream.
        if !path.starts_with('/') && !matches!(path, "" | "*") {
            return Claim::Ambiguous("a path without its first slash");
        }
        let mut segments = path.split('/').skip(1);
        let mut claimed = Claim::Absent;
        for part in &self.parts {
            match (part, segments.next()) {
                (_, None) => return Claim::Absent,
                (Part::Literal(literal), Some(segment)) if literal != segment => return Claim::Absent,
                (Part::Variable(name), Some(segment)) if name == "agent" => claimed = Claim::Value(segment),
                _ => {}
            }
        }
        match claimed {
            Claim::Value("") => Claim::Absent,
            Claim::Value(value) if value.contains(['%', ';']) => Claim::Ambiguous("an encoded claim"),
            other => other,
        }
    }
}

/// Says why two servers might disagree about which resource a raw path names; `None` if they cannot.
///
/// Refused: dot segments, empty segments, backslashes, path parameters, and every percent-encoding that a server may
/// undo to something that needed none (RFC 3986, section 6.2.2.2) or that separates (`/`, `\\`, `;`, `%`, NUL).
pub fn ambiguous_path(path: &str) -> Option<&'static str> {
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Some("a dot segment");
    }
    if path.contains("//") {
        return Some("an empty segment");
    }
    if path.contains(['\\', ';']) {
        return Some("a backslash or a path parameter");
    }
    let mut encoded = path.split('%').skip(1);
    encoded.any(|rest| is_needless(rest.as_bytes())).then_some("a needless or separating percent-encoding")
}

/// Whether what stands behind a percent sign is no encoding, or one that could have been, or hides, a plain character.
fn is_needless(encoded: &[u8]) -> bool {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (Some(high), Some(low)) = (digit(encoded.first()), digit(encoded.get(1))) else { return true };
    let Ok(byte) = u8::try_from(high << 4 | low) else { return true };
    byte.is_ascii_alphanumeric() || byte.is_ascii_control() || b"-._~/\\;%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_read_agents_and_tasks() {
        let spiffe = |template: &str, id: &str| {
            Template::parse(template).unwrap().match_spiffe(&SpiffeId::parse(id).unwrap())
        };
        let agent = |agent: &str, task: Option<&str>| {
            Some(Captures { agent: agent.into(), task: task.map(Into::into) })
        };
        assert_eq!(spiffe("spiffe://{trust_domain}/agent/{agent}", "spiffe://td/agent/a"), agent("a", None));
        assert_eq!(
            spiffe("spiffe://td/agent/{orch}/{task}/{agent}", "spiffe://td/agent/o/t/a"),
            agent("a", Some("t"))
        );
        assert_eq!(spiffe("spiffe://td/agent/{agent}", "spiffe://other/agent/a"), None);
        assert_eq!(spiffe("spiffe://td/agent/{agent}", "spiffe://td/agent/a/b"), None);
        assert_eq!(spiffe("spiffe://td/agent/{agent}", "spiffe://td/agent"), None);
        let dns = Template::parse("dns:{agent}.Lab.Test").unwrap();
        assert_eq!(dns.match_dns(&DnsName::parse("A.lab.test").unwrap()), agent("a", None));
        assert_eq!(dns.match_dns(&DnsName::parse("b.a.lab.test").unwrap()), None);
        assert_eq!(
            (dns.kind(), Template::parse("spiffe://td/agent/{agent}").unwrap().kind()),
            ("dns", "agent")
        );
    }

    #[test]
    fn further_variables_are_a_scope() {
        for (template, scope) in [
            ("spiffe://{trust_domain}/agent/{agent}", None),
            ("spiffe://td/tenant/task/{task}/agent/{agent}", None),
            ("spiffe://{trust_domain}/{tenant}/agent/{agent}", Some("tenant")),
            ("spiffe://td/{task}/{orch}/{agent}", Some("orch")),
            ("dns:{agent}.lab.test", None),
            ("dns:{agent}.{tenant}.lab.test", Some("tenant")),
        ] {
            assert_eq!(Template::parse(template).unwrap().scope(), scope, "{template}");
        }
    }

    #[test]
    fn a_template_reaches_the_domains_that_its_names_may_be_in() {
        let reaches = |template: &str, domain| Template::parse(template).unwrap().reaches(domain);
        assert!(reaches("dns:{agent}.lab.test", "lab.test") && reaches("dns:{agent}.Lab.Test", "test"));
        assert!(
            reaches("dns:{agent}.{zone}.test", "lab.test") && reaches("dns:{agent}.lab.test", "a.lab.test")
        );
        assert!(!reaches("dns:{agent}.lab.test", "prod.test"));
        assert!(!reaches("dns:{agent}.lab.test", "x.a.lab.test"));
        assert!(!reaches("spiffe://lab.test/{agent}", "lab.test"));
    }

    #[test]
    fn bad_templates_are_refused() {
        for bad in [
            "",
            "http://a/{agent}",
            "spiffe://td",
            "spiffe://td/agent",
            "spiffe://td/x{agent}",
            "spiffe://td/{agent}/{agent}",
            "spiffe://td/{x}/{x}/{agent}",
            "spiffe://td/{agent}/",
            "spiffe://td/{agent}/{trust_domain}",
            "spiffe://td/{}",
            "dns:lab.test",
            "dns:{agent}..test",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn encodings_that_are_needed_may_stay() {
        assert_eq!(ambiguous_path("/files/a%20b/%C3%A4/x+y,z=1"), None);
        assert!(ambiguous_path("/%61dmin").is_some());
    }

    #[test]
    fn a_path_claim_is_read_raw() {
        let claim = PathClaim::parse("/api/v1/agents/{agent}/").unwrap();
        assert_eq!(claim.read("/api/v1/agents/a/secrets"), Claim::Value("a"));
        assert_eq!(claim.read("/api/v1/agents/a"), Claim::Value("a"));
        assert_eq!(claim.read("/api/v1/agents/"), Claim::Absent);
        assert_eq!(claim.read("/api/v1/other/a"), Claim::Absent);
        assert_eq!(claim.read("/API/v1/agents/a"), Claim::Absent);
        for tricky in [
            "/api/v1/agents/a/../b/",
            "/api/v1/agents/./a/",
            "/api/v1//agents/a/",
            "/api/v1/agents/a%2Fb/",
            "/api/v1/agents/%2e%2e/b",
            "/api/v1/agents/%61/",
            "/api/v1/agents/a;b/",
            "/api/v1/agents/a/..;/b/",
            "/api/v1/agents/a/..%5cb/",
            "/api/v1/agents\\a/",
            "/api/v1/agents/a%00/",
            "/api/v1/%61gents/a/",
            "/api/v1/agents;x/a/",
            "/api/v1/agents/a%252fb/",
            "/api/v1/agents/a%zz/",
            "/api/v1/agents/a%2",
            "x/api/v1/agents/a/",
        ] {
            assert!(matches!(claim.read(tricky), Claim::Ambiguous(_)), "{tricky}");
        }
    }
}
