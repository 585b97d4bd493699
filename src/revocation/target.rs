//! What a revocation is aimed at: a level and a canonical name.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;
use utoipa::ToSchema;

use super::Spelling;
use super::spelling;
use crate::identity::KeyId;
use crate::identity::Serial;
use crate::identity::SpiffeId;
use crate::identity::TrustDomain;

/// The longest name of a principal, token, task or chain, bytes.
const MAX_NAME: usize = 2048;
/// The prefix of the principal of a secret of the admin API.
const SECRET: &str = "secret:";

/// The levels of a revocation, from one certificate to a whole trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// One certificate: serial number, and issuer where it is known.
    Certificate,
    /// Every certificate on one key: SHA-256 of its SubjectPublicKeyInfo.
    Key,
    /// Every certificate and token of one subject: SPIFFE ID, DNS name, agent id or DID.
    #[serde(alias = "agent")]
    Principal,
    /// One token: its `jti`.
    Token,
    /// Everything of one task: its id.
    Task,
    /// A root's tokens and every token delegated from it: the root's subject.
    Chain,
    /// Everything under one certificate authority: its key id.
    Issuer,
    /// Everything in one SPIFFE trust domain.
    TrustDomain,
}

impl Level {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Certificate,
        Self::Key,
        Self::Principal,
        Self::Token,
        Self::Task,
        Self::Chain,
        Self::Issuer,
        Self::TrustDomain,
    ];

    /// The name in events, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Key => "key",
            Self::Principal => "principal",
            Self::Token => "token",
            Self::Task => "task",
            Self::Chain => "chain",
            Self::Issuer => "issuer",
            Self::TrustDomain => "trust_domain",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let canonical = if text == "agent" { "principal" } else { text };
        let found = Self::ALL.into_iter().find(|level| level.name() == canonical);
        found.ok_or_else(|| TargetError::Level(text.to_owned()))
    }
}

/// A level and a canonical name. Two spellings of one serial, key or DNS-only name are equal; see [`Spelling`] for the
/// names of agents and tasks, whose origin a person who types them does not state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    level: Level,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(rename = "target")]
    name: String,
    #[serde(skip)]
    spelling: Spelling,
}

impl Target {
    /// Reads a target; `issuer` is the key id of the issuing authority and goes with `certificate` alone.
    pub fn parse(level: Level, name: &str, issuer: Option<&str>) -> Result<Self, TargetError> {
        let issuer = match (level, issuer) {
            (_, None) => None,
            (Level::Certificate, Some(text)) => Some(key_id(text)?),
            (level, Some(_)) => return Err(TargetError::Issuer(level)),
        };
        let name = canonical(level, name)?;
        Ok(Self { level, issuer, name, spelling: Spelling::Exact })
    }

    /// A target whose parts are canonical already.
    pub(super) fn of(level: Level, issuer: Option<&str>, name: &str) -> Self {
        Self { level, issuer: issuer.map(str::to_owned), name: name.to_owned(), spelling: Spelling::Exact }
    }

    /// A name that was read from a DNS name, which is lower case.
    pub(super) fn of_dns(level: Level, name: &str) -> Self {
        Self { spelling: Spelling::Dns, ..Self::of(level, None, name) }
    }

    /// The same name as a credential carries it that it was read from a DNS name of.
    #[must_use]
    pub fn as_dns(&self) -> Self {
        Self {
            name: self.folded().unwrap_or_else(|| self.name.clone()),
            spelling: Spelling::Dns,
            ..self.clone()
        }
    }

    /// The target as earlier versions meant it: they kept bare names in lower case, and hit every spelling.
    #[must_use]
    pub fn of_earlier_version(self) -> Self {
        let spelling = if self.is_bare() { Spelling::AnyCase } else { self.spelling };
        Self { spelling, ..self }
    }

    /// Returns whether this is a principal or chain without a scheme, which earlier versions kept in lower case.
    pub fn is_bare(&self) -> bool {
        matches!(self.level, Level::Principal | Level::Chain) && !self.name.contains(':')
    }

    /// True if it names the holder of a secret of the admin API (`secret:NAME`), which no certificate carries.
    pub fn is_secret(&self) -> bool {
        self.level == Level::Principal && self.name.starts_with(SECRET)
    }

    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The canonical name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key id of the issuer, of a certificate whose issuer is known.
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Where the name comes from, which decides how it compares.
    pub fn spelling(&self) -> Spelling {
        self.spelling
    }

    /// The name as a DNS name would spell it, where that is another spelling.
    pub fn folded(&self) -> Option<String> {
        match self.level {
            Level::Principal | Level::Chain | Level::Task => spelling::folded(&self.name),
            _ => None,
        }
    }

    /// Whether an event of this target hits a credential that carries `carried`.
    pub fn hits(&self, carried: &Self) -> bool {
        match (self.spelling, carried.spelling) {
            _ if self.name == carried.name => self.is_beside(carried),
            (Spelling::Exact, Spelling::Dns) | (Spelling::AnyCase, _) => self.is_spelling_of(carried),
            _ => false,
        }
    }

    /// Whether both names are one, if case does not count.
    pub fn is_spelling_of(&self, other: &Self) -> bool {
        let fold = |target: &Self| target.folded().unwrap_or_else(|| target.name.clone());
        self.is_beside(other) && (self.name == other.name || fold(self) == fold(other))
    }

    fn is_beside(&self, other: &Self) -> bool {
        (self.level, &self.issuer) == (other.level, &other.issuer)
    }

    /// The name of the authority that it is about: of an issuer, or of the issuer of a certificate.
    pub fn authority(&self) -> Option<&str> {
        match self.level {
            Level::Issuer => Some(&self.name),
            _ => self.issuer(),
        }
    }

    /// The same target with another name for that authority.
    pub(super) fn under(&self, name: &str) -> Self {
        match self.level {
            Level::Issuer => Self { name: name.to_owned(), ..self.clone() },
            _ => Self { issuer: self.issuer.as_ref().map(|_| name.to_owned()), ..self.clone() },
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.level, self.name)?;
        self.issuer.iter().try_for_each(|issuer| write!(f, " of issuer {issuer}"))
    }
}

fn canonical(level: Level, name: &str) -> Result<String, TargetError> {
    let bad =
        |why: &str| TargetError::Name { level, name: name.chars().take(128).collect(), why: why.to_owned() };
    match level {
        Level::Certificate => Serial::parse(name)
            .map(|s| s.to_string())
            .ok_or_else(|| bad("a serial is hexadecimal, 64 bytes at most")),
        Level::Key => {
            let id = key_id(name.trim().strip_prefix("sha256:").unwrap_or(name.trim()))?;
            if id.len() == 64 {
                Ok(id)
            } else {
                Err(bad("a key is the SHA-256 of its SubjectPublicKeyInfo, 64 hexadecimal digits"))
            }
        }
        Level::Issuer => key_id(name),
        Level::TrustDomain => {
            let domain = TrustDomain::parse(name.strip_prefix("spiffe://").unwrap_or(name));
            domain.map(|d| d.to_string()).map_err(|e| bad(&e.to_string()))
        }
        Level::Principal | Level::Token | Level::Task | Level::Chain => {
            let name = name.trim();
            if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
                return Err(bad("it is empty, over 2048 bytes or has control characters"));
            }
            match level {
                Level::Principal => principal(name).map_err(|why| bad(&why)),
                Level::Chain if is_spiffe(name) => spiffe(name).map_err(|why| bad(&why)),
                _ => Ok(name.to_owned()),
            }
        }
    }
}

/// A principal that a credential could carry. Anything else would stand for ever and hit nothing.
fn principal(name: &str) -> Result<String, String> {
    if is_spiffe(name) {
        return spiffe(name);
    }
    let is_schemed = ["did:", SECRET].iter().any(|scheme| name.starts_with(scheme));
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    match is_schemed || name.bytes().all(is_bare) {
        true => Ok(name.to_owned()),
        false if name.contains('*') => Err("no credential carries a pattern; name each principal".into()),
        false => {
            Err("neither a SPIFFE ID, a DID, a DNS name nor an agent id (letters, digits, `.`, `-`, `_`)"
                .into())
        }
    }
}

fn is_spiffe(name: &str) -> bool {
    name.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}

fn spiffe(name: &str) -> Result<String, String> {
    SpiffeId::parse(name).map(|id| id.to_string()).map_err(|e| e.to_string())
}

fn key_id(text: &str) -> Result<String, TargetError> {
    KeyId::parse(text)
        .map(|id| id.to_string())
        .ok_or_else(|| TargetError::KeyId(text.chars().take(128).collect()))
}

/// What is wrong with a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No such level.
    #[error(
        "unknown level `{0}`: one of certificate, key, principal (agent), token, task, chain, issuer, trust_domain"
    )]
    Level(String),
    /// A name that the level cannot have.
    #[error("{level} `{name}`: {why}")]
    Name {
        /// The level.
        level: Level,
        /// The name, shortened.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not a key id.
    #[error("key id `{0}`: hexadecimal, whole bytes, 64 at most")]
    KeyId(String),
    /// An issuer where none belongs.
    #[error("level {0} takes no issuer")]
    Issuer(Level),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(level: Level, name: &str) -> Option<String> {
        Target::parse(level, name, None).ok().map(|target| target.name().to_owned())
    }

    #[test]
    fn names_are_canonical() {
        assert_eq!(name(Level::Certificate, "00:0A:1b"), Some("0a1b".into()));
        assert_eq!(name(Level::Principal, "A.Lab.Test."), Some("A.Lab.Test.".into()));
        assert_eq!(name(Level::Principal, " Agent-7"), Some("Agent-7".into()));
        assert_eq!(name(Level::Principal, "secret:ci"), Some("secret:ci".into()));
        assert_eq!(name(Level::Principal, "did:cdi:x:agent:01H"), Some("did:cdi:x:agent:01H".into()));
        assert_eq!(name(Level::Principal, "spiffe://td/a"), Some("spiffe://td/a".into()));
        assert_eq!(name(Level::Task, "T.1"), Some("T.1".into()));
        assert_eq!(name(Level::TrustDomain, "spiffe://td"), Some("td".into()));
        assert_eq!(name(Level::Issuer, "00:AB"), Some("00ab".into()));
        assert_eq!(name(Level::Key, &format!("sha256:{}", "AB".repeat(32))), Some("ab".repeat(32)));
        assert_eq!("agent".parse(), Ok(Level::Principal));
    }

    #[test]
    fn nonsense_is_refused() {
        for (level, bad) in [
            (Level::Certificate, "xyz"),
            (Level::Key, "abcd"),
            (Level::Principal, ""),
            (Level::Principal, "a\0b"),
            (Level::Principal, "SPIFFE://td/a"),
            (Level::Principal, "spiffe://td//a"),
            (Level::Principal, "*.lab.test"),
            (Level::Principal, "DNS:a.lab.test"),
            (Level::Principal, "CN=a"),
            (Level::Principal, "a/b"),
            (Level::Principal, "ä"),
            (Level::TrustDomain, "*.lab.test"),
            (Level::Issuer, "abc"),
            (Level::TrustDomain, "TD"),
        ] {
            assert_eq!(name(level, bad), None, "{level} {bad}");
        }
        let why = Target::parse(Level::Principal, "*.lab.test", None).unwrap_err().to_string();
        assert_eq!(why, "principal `*.lab.test`: no credential carries a pattern; name each principal");
        assert!(Target::parse(Level::Key, &"ab".repeat(32), Some("ab")).is_err());
        assert!("leaf".parse::<Level>().is_err());
    }
}
