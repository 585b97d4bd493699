//! Who may call the admin API: roles, secrets, tokens, and how often.
//!
//! An administrator is known by the principal of a client certificate, or by a Bearer token that was given for a
//! secret. Either is a credential like any other: it has a session in the engine's table, and a revocation ends it.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use governor::DefaultKeyedRateLimiter;
use governor::Quota;
use governor::RateLimiter;
use governor::clock::Clock as _;
use governor::clock::DefaultClock;
use serde::Deserialize;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::revocation::Level;
use crate::revocation::Target;
use crate::telemetry::network;

/// What the name of a secret's holder begins with.
const SECRET: &str = "secret:";
/// How long a token lasts.
pub(super) const TOKEN_LIFETIME: Duration = Duration::from_secs(300);
/// More tokens than this for one secret at once, and its oldest goes.
const MAX_TOKENS: usize = 64;
/// A shorter secret could be guessed.
const MIN_SECRET: usize = 32;
/// A longer one is a wrong file.
const MAX_SECRET: usize = 4096;
/// Logins from one address that come to nothing: a second, and at once.
const LOGINS: (u32, u32) = (5, 10);
/// Calls without a credential that counts, from one address: likewise.
const STRANGERS: (u32, u32) = (10, 20);
/// A limiter that knows more callers than this forgets those who have been quiet.
const MAX_CALLERS: usize = 10_000;

/// What an administrator may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything, changes nothing.
    Auditor,
    /// Revokes, suspends and reinstates what is one agent's, and ends sessions.
    Operator,
    /// Revokes whole issuers and trust domains too, and lifts revocations.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auditor, Self::Operator, Self::Admin];

    /// The name in the configuration, the audit and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auditor => "auditor",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// `[[admin.secret]]`: a secret that buys a Bearer token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretConfig {
    /// What the audit calls its holder: `secret:NAME`. Revoking the principal of that name disables it.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The file that holds it, relative to the configuration file; at least 32 characters, a last line end aside.
    pub file: PathBuf,
}

impl SecretConfig {
    /// What its holder is called: `secret:NAME`.
    pub fn actor(&self) -> String {
        format!("{SECRET}{}", self.name)
    }
}

/// `[admin.limits]`: how often one administrator may call.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Calls a second, in the long run. A batch is one call.
    pub calls_per_second: NonZeroU32,
    /// Calls at once.
    pub burst: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { calls_per_second: at_least_one(100), burst: at_least_one(1000) }
    }
}

/// A secret's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}", path = path.display())]
pub struct SecretError {
    path: PathBuf,
    reason: String,
}

/// A secret that was read, as no more than its digest.
pub struct Secret {
    name: String,
    role: Role,
    digest: Digest,
}

impl Secret {
    /// Reads a secret's file.
    ///
    /// # Errors
    /// A file that cannot be read, or whose content is too short to be a secret.
    pub fn read(config: &SecretConfig) -> Result<Self, SecretError> {
        let fail = |reason: String| SecretError { path: config.file.clone(), reason };
        let text = std::fs::read(&config.file).map(Zeroizing::new).map_err(|e| fail(e.to_string()))?;
        let secret = text.strip_suffix(b"\n").unwrap_or(&text);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.len() < MIN_SECRET || secret.len() > MAX_SECRET {
            return Err(fail(format!(
                "a secret of {} bytes; {MIN_SECRET} to {MAX_SECRET} are needed, such as `openssl rand -hex 32` makes",
                secret.len()
            )));
        }
        Ok(Self { name: config.name.clone(), role: config.role, digest: digest_of(secret) })
    }

    /// Its holder, under the id of a token that is not given yet.
    fn bearer(&self, now: Timestamp) -> Bearer {
        Bearer { actor: self.actor(), role: self.role, jti: Uuid::new_v4().to_string(), issued_at: now }
    }

    /// The name of its holder.
    fn actor(&self) -> String {
        format!("{SECRET}{}", self.name)
    }
}

type Digest = [u8; 32];

/// Whom a secret or token stands for.
#[derive(Clone, Debug)]
pub(super) struct Bearer {
    /// `secret:NAME`.
    pub(super) actor: String,
    pub(super) role: Role,
    /// The token's id, by which it can be revoked.
    pub(super) jti: String,
    pub(super) issued_at: Timestamp,
}

impl Bearer {
    /// What can revoke it.
    pub(super) fn targets(&self) -> impl Iterator<Item = Target> {
        let names = [(Level::Principal, &self.actor), (Level::Token, &self.jti)];
        names.into_iter().filter_map(|(level, name)| Target::parse(level, name, None).ok())
    }
}

/// Who may call, and how often.
pub struct Access {
    roles: HashMap<String, Role>,
    secrets: Vec<Secret>,
    tokens: Mutex<HashMap<Digest, Bearer>>,
    calls: Limiter<String>,
    logins: Limiter<IpAddr>,
    strangers: Limiter<IpAddr>,
}

impl Access {
    /// Lets these principals in, and who knows one of these secrets.
    pub fn new(roles: HashMap<String, Role>, secrets: Vec<Secret>, limits: Limits) -> Self {
        let fixed = |(rate, burst): (u32, u32)| (at_least_one(rate), at_least_one(burst));
        Self {
            roles,
            secrets,
            tokens: Mutex::default(),
            calls: Limiter::new((limits.calls_per_second, limits.burst)),
            logins: Limiter::new(fixed(LOGINS)),
            strangers: Limiter::new(fixed(STRANGERS)),
        }
    }

    /// The role of a principal, if it has one.
    pub(super) fn role(&self, principal: &str) -> Option<Role> {
        self.roles.get(principal).copied()
    }

    /// True if the holder of a name (of a principal, or `secret:NAME`) has a role.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.roles.contains_key(name) || self.secrets.iter().any(|secret| secret.actor() == name)
    }

    /// True if the holder of a name (of a principal, or `secret:NAME`) has the role admin.
    pub(super) fn is_admin(&self, name: &str) -> bool {
        self.admins().any(|admin| admin == name)
    }

    /// The names of those who may do everything: principals, and `secret:NAME`.
    pub(super) fn admins(&self) -> impl Iterator<Item = String> {
        let principals = self.roles.iter().filter(|(_, role)| **role == Role::Admin);
        let secrets = self.secrets.iter().filter(|secret| secret.role == Role::Admin);
        principals.map(|(name, _)| name.clone()).chain(secrets.map(Secret::actor))
    }

    /// The holders of the secrets that may do everything, under tokens that are not given.
    pub(super) fn admin_secrets(&self, now: Timestamp) -> impl Iterator<Item = Bearer> {
        let secrets = self.secrets.iter().filter(|secret| secret.role == Role::Admin);
        secrets.map(move |secret| secret.bearer(now))
    }

    /// True if the token with this id is valid and has the role admin.
    pub(super) fn is_admins_token(&self, jti: &str) -> bool {
        self.tokens().values().any(|bearer| bearer.role == Role::Admin && bearer.jti == jti)
    }

    /// Whether the secret is one of ours: the holder, under the id of a token that is not given yet. Takes as long for
    /// any secret of one length.
    pub(super) fn holder(&self, secret: &[u8], now: Timestamp) -> Option<Bearer> {
        let presented = digest_of(secret);
        let mut found = None;
        for secret in &self.secrets {
            if verify_slices_are_equal(&secret.digest, &presented).is_ok() {
                found = Some(secret);
            }
        }
        found.map(|secret| secret.bearer(now))
    }

    /// Gives a token, 43 characters of which nothing is kept but the digest. `None` if the system has no randomness.
    pub(super) fn issue(&self, bearer: Bearer) -> Option<Zeroizing<String>> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut()).ok()?;
        let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_ref()));
        let mut tokens = self.tokens();
        tokens.retain(|_, other| is_fresh(other, bearer.issued_at));
        let own = || tokens.iter().filter(|(_, other)| other.actor == bearer.actor);
        if own().count() >= MAX_TOKENS {
            let oldest = own().min_by_key(|(_, other)| other.issued_at).map(|(digest, _)| *digest);
            oldest.map(|digest| tokens.remove(&digest));
        }
        tokens.insert(digest_of(token.as_bytes()), bearer);
        Some(token)
    }

    /// Whom a token was given to, while it lasts. Looked up by its digest, so that no time tells how much of it fits.
    pub(super) fn bearer(&self, token: &[u8], now: Timestamp) -> Option<Bearer> {
        self.tokens().get(&digest_of(token)).filter(|bearer| is_fresh(bearer, now)).cloned()
    }

    /// Counts a call of an administrator. The error is how long to wait.
    pub(super) fn count_call(&self, actor: &str) -> Result<(), Duration> {
        self.calls.count(&actor.to_owned())
    }

    /// Counts a login that comes to nothing.
    pub(super) fn count_login(&self, address: IpAddr) -> Result<(), Duration> {
        self.logins.count(&network(address))
    }

    /// Counts a call of somebody who is no administrator.
    pub(super) fn count_stranger(&self, address: IpAddr) -> Result<(), Duration> {
        self.strangers.count(&network(address))
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<Digest, Bearer>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many a second, and so many at once, for each key.
struct Limiter<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    fn new((rate, burst): (NonZeroU32, NonZeroU32)) -> Self {
        Self { limiter: RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)) }
    }

    fn count(&self, key: &K) -> Result<(), Duration> {
        if self.limiter.len() > MAX_CALLERS {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(key).map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

fn is_fresh(bearer: &Bearer, now: Timestamp) -> bool {
    // Either way: with a clock that was set back nothing lasts longer.
    now.since(bearer.issued_at) < TOKEN_LIFETIME && bearer.issued_at.since(now) < TOKEN_LIFETIME
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn access() -> Access {
        let secret = Secret { name: "ci".into(), role: Role::Operator, digest: digest_of(SECRET.as_bytes()) };
        Access::new(HashMap::new(), vec![secret], Limits::default())
    }

    #[test]
    fn a_token_lasts_its_time_whatever_the_clock_does() {
        let access = access();
        let now = Timestamp::from_secs(1_000_000);
        assert!(access.holder(b"0123456789abcdef0123456789abcdeX", now).is_none());
        let token = access.issue(access.holder(SECRET.as_bytes(), now).unwrap()).unwrap();
        let at = |seconds: i64| access.bearer(token.as_bytes(), Timestamp::from_secs(1_000_000 + seconds));
        assert_eq!(at(299).map(|bearer| bearer.actor), Some("secret:ci".to_owned()));
        assert!(at(300).is_none() && at(-300).is_none());
        assert!(access.bearer(b"", now).is_none());
    }

    #[test]
    fn tokens_are_bounded_and_the_oldest_go() {
        let access = access();
        let give = |millis| {
            let now = Timestamp::from_millis(millis);
            access.issue(access.holder(SECRET.as_bytes(), now).unwrap()).unwrap()
        };
        let first = give(0);
        let rest: Vec<_> = (1..=MAX_TOKENS).map(|i| give(i64::try_from(i).unwrap())).collect();
        let now = Timestamp::from_millis(5000);
        assert!(access.bearer(first.as_bytes(), now).is_none());
        assert!(rest.iter().all(|token| access.bearer(token.as_bytes(), now).is_some()));
    }

    #[test]
    fn one_address_cannot_try_for_ever() {
        let access = access();
        let address: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert!((0..LOGINS.1).all(|_| access.count_login(address).is_ok()));
        assert!(access.count_login("192.0.2.1".parse().unwrap()).is_err());
        assert!(access.count_login("192.0.2.2".parse().unwrap()).is_ok());
    }
}
