//! The configuration: one TOML file, each room's part of it composed, and what must hold between them.
//!
//! `PORTCULLIS__A__B=value` overrides key `a.b`; `SB_AGENT_MTLS_CA_FILE` and `SB_AGENT_MTLS_REQUIRED` are honoured.
//! **Invariant:** a configuration that loads can be started as far as it alone can tell; one that does not names the
//! file, the line, the key and the reason.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Table;
use toml::Value;
use toml::de::DeTable;
use toml::de::DeValue;

use crate::authority;
use crate::authority::AuditConfig;
use crate::authority::Role;
use crate::authority::SecretConfig;
use crate::feed;
use crate::identity;
use crate::identity::ClaimSource;
use crate::identity::DnsName;
use crate::identity::SpiffeId;
use crate::proxy;
use crate::proxy::ClientCaConfig;
use crate::proxy::Demand;
use crate::proxy::RouteConfig;
use crate::proxy::RouteUpstream;
use crate::proxy::TlsConfig;
use crate::proxy::UpstreamConfig;
use crate::revocation;
use crate::telemetry::AccessConfig;
use crate::telemetry::LogFormat;
use crate::telemetry::TraceConfig;

const OVERRIDE: &str = "PORTCULLIS__";
/// HTTP/1.1 headers are read into a buffer of at least this size.
const MIN_HEADER: usize = 8192;
/// Whoever leaves enforcement off for longer means `gate.mode = "advisory"`.
const MAX_ADVISORY: Duration = Duration::from_secs(86_400);
/// More threads than any machine has use for: each takes descriptors and memory.
const MOST_THREADS: usize = 1024;
/// How a certificate or a key begins (RFC 7468).
const PEM: &str = "-----BEGIN ";
const CA_FILE: &str = "SB_AGENT_MTLS_CA_FILE";
const REQUIRED: &str = "SB_AGENT_MTLS_REQUIRED";

/// Everything that `portcullis run` needs to know.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listener that forwards.
    pub gate: proxy::Config,
    /// Whose names are accepted.
    pub identity: identity::Config,
    /// Where requests lead.
    #[serde(default)]
    pub route: Vec<RouteConfig>,
    /// What serves them, by name.
    #[serde(default)]
    pub upstream: BTreeMap<String, UpstreamConfig>,
    /// The listener that changes what is revoked.
    pub admin: Option<Admin>,
    /// The plain listener for metrics and health.
    pub metrics: Option<Listen>,
    /// Where what must survive a restart is kept.
    pub state: State,
    /// How events are taken in.
    #[serde(default)]
    pub revocation: revocation::Config,
    /// Where revocations come from, beside the admin API.
    #[serde(default)]
    pub feed: feed::Config,
    /// How the audit is kept.
    #[serde(default)]
    pub audit: AuditConfig,
    /// How the log looks.
    #[serde(default)]
    pub log: Log,
    /// Where traces go.
    pub trace: Option<TraceConfig>,
    #[serde(skip)]
    source: Source,
}

/// `[admin]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The principals that may do everything (role `admin`): SPIFFE IDs or DNS names.
    pub allow: Vec<String>,
    /// Those that may change what is one agent's (role `operator`).
    #[serde(default)]
    pub operators: Vec<String>,
    /// Those that may read (role `auditor`).
    #[serde(default)]
    pub auditors: Vec<String>,
    /// Secrets that buy a Bearer token.
    #[serde(default)]
    pub secret: Vec<SecretConfig>,
    /// How often one administrator may call.
    #[serde(default)]
    pub limits: authority::Limits,
    /// The longest break-glass that an administrator may declare (`portcullis advisory`); zero: none.
    #[serde(with = "humantime_serde", default = "default_advisory_max")]
    pub advisory_max: Duration,
    /// Its own certificate and authorities; the gate's if absent.
    pub tls: Option<TlsConfig>,
}

const fn default_advisory_max() -> Duration {
    Duration::from_secs(4 * 3600)
}

/// `[metrics]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Where it listens; plain HTTP.
    pub listen: SocketAddr,
}

/// `[state]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The directory of the journal and the audit, relative to the configuration file. One process alone uses it.
    pub dir: PathBuf,
    /// Feeds rebuild the state at each start: a start makes a missing one, where it otherwise refuses.
    #[serde(default)]
    pub ephemeral: bool,
}

/// `[log]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// `auto`, `json` or `plain`.
    #[serde(default)]
    pub format: LogFormat,
    /// A line for each request; none if absent.
    pub access: Option<AccessConfig>,
}

/// Where in the configuration something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    key: String,
    reason: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.iter().try_for_each(|line| write!(f, ":{line}"))?;
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for ConfigError {}

/// The text that a configuration came from, to tell where in it a key stands.
#[derive(Clone, Debug, Default)]
struct Source {
    file: PathBuf,
    text: String,
    /// Keys that an environment variable set, and which.
    overrides: Vec<(String, String)>,
}

impl Source {
    fn error(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        let overridden = self.overrides.iter().find(|(path, _)| key.starts_with(path.as_str()));
        match overridden {
            Some((_, variable)) => ConfigError {
                file: PathBuf::from(format!("environment variable {variable}")),
                line: None,
                key: key.to_owned(),
                reason: reason.into(),
            },
            None => ConfigError {
                file: self.file.clone(),
                line: line_of(&self.text, key),
                key: key.to_owned(),
                reason: reason.into(),
            },
        }
    }
}

impl Config {
    /// Reads a file and the environment, and checks what can be checked without opening anything else.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let text = std::fs::read_to_string(file).map_err(|e| ConfigError {
            file: file.to_owned(),
            line: None,
            key: String::new(),
            reason: e.to_string(),
        })?;
        Self::parse(file, text, &environment)
    }

    /// The same, from text: `file` names it in errors, and relative paths are relative to its directory.
    pub fn parse(file: &Path, text: String, environment: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut source = Source { file: file.to_owned(), text, overrides: Vec::new() };
        let mut table: Table = source.text.parse().map_err(|e: toml::de::Error| ConfigError {
            file: file.to_owned(),
            line: e.span().map(|span| line_at(&source.text, span.start)),
            key: String::new(),
            reason: match source.text.trim_start().starts_with(PEM) {
                true => "a PEM file, and no TOML: name the configuration file here".to_owned(),
                false => format!("no TOML: {}", e.message()),
            },
        })?;
        for (variable, value) in environment {
            override_key(&mut table, &mut source, variable, value);
        }
        let mut config: Self = serde_path_to_error::deserialize(Value::Table(table)).map_err(|e| {
            let reason = e.inner().message().to_owned();
            source.error(&key_of(&e.path().to_string(), &reason), reason)
        })?;
        config.source = source;
        config.require_mtls(environment)?;
        let mode = config.gate.mode;
        config.route.iter_mut().for_each(|route| route.mode = route.mode.or(Some(mode)));
        config.rebase(file.parent().unwrap_or(Path::new("")));
        config.check()?;
        Ok(config)
    }

    /// An error at a key of this configuration.
    pub fn error(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        self.source.error(key, reason)
    }

    fn rebase(&mut self, base: &Path) {
        self.gate.tls.rebase(base);
        if let Some(tls) = self.admin.as_mut().and_then(|admin| admin.tls.as_mut()) {
            tls.rebase(base);
        }
        for secret in self.admin.iter_mut().flat_map(|admin| &mut admin.secret) {
            secret.file = base.join(&secret.file);
        }
        self.state.dir = base.join(&self.state.dir);
        self.log.access.iter_mut().for_each(|access| access.rebase(base));
        self.feed.rebase(base);
        self.upstream.values_mut().for_each(|upstream| upstream.rebase(base));
    }

    fn require_mtls(&mut self, environment: &[(String, String)]) -> Result<(), ConfigError> {
        let Some((_, value)) = environment.iter().find(|(name, _)| name == REQUIRED) else {
            return Ok(());
        };
        let demand = match value.to_ascii_lowercase().as_str() {
            "true" | "1" => Demand::Mtls,
            "false" | "0" => Demand::None,
            _ => {
                self.source.overrides.push(("route".into(), REQUIRED.into()));
                return Err(self.error("route", format!("`{value}`: true or false")));
            }
        };
        self.route.iter_mut().for_each(|route| route.demand = demand);
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.check_routes()?;
        if self.gate.threads == Some(0) {
            return Err(self.error("gate.threads", "at least 1"));
        }
        if self.gate.threads.is_some_and(|threads| threads > MOST_THREADS) {
            return Err(self.error("gate.threads", format!("at most {MOST_THREADS}")));
        }
        if self.gate.tls.client_ca.is_empty() {
            return Err(self.error("gate.tls.client_ca", "names no file"));
        }
        if self.identity.templates.is_empty() {
            return Err(self.error("identity.templates", "names no template: no agent id could be read"));
        }
        self.check_numbers()?;
        self.check_trace()?;
        if self.audit.max_bytes < AuditConfig::MIN_BYTES {
            return Err(self.error("audit.max_bytes", format!("at least {}", AuditConfig::MIN_BYTES)));
        }
        self.check_scopes(&self.gate.tls, "gate.tls")?;
        self.feed.check().map_err(|e| self.error(&format!("feed.{}", e.key), e.reason))?;
        self.check_listeners()?;
        self.admin.as_ref().map_or(Ok(()), |admin| self.check_admin(admin))
    }

    /// No two listeners have one address: with a socket for each thread the system would deal clients out to both.
    fn check_listeners(&self) -> Result<(), ConfigError> {
        let admin = self.admin.as_ref().map(|admin| ("admin.listen", admin.listen));
        let metrics = self.metrics.as_ref().map(|metrics| ("metrics.listen", metrics.listen));
        let mut taken = vec![("gate.listen", self.gate.listen)];
        for (key, listen) in [admin, metrics].into_iter().flatten() {
            let at = |of: SocketAddr| (of.ip().to_canonical(), of.port());
            let is_same = |other: SocketAddr| listen.port() != 0 && at(other) == at(listen);
            if let Some((other, _)) = taken.iter().find(|(_, other)| is_same(*other)) {
                return Err(self.error(key, format!("the same address as {other}")));
            }
            taken.push((key, listen));
        }
        Ok(())
    }

    fn check_trace(&self) -> Result<(), ConfigError> {
        let Some(trace) = &self.trace else { return Ok(()) };
        if !cfg!(feature = "otel") {
            return Err(
                self.error("trace", "this program was built without traces: build it with `--features otel`")
            );
        }
        trace.check().map_err(|reason| self.error("trace.endpoint", reason))
    }

    fn check_routes(&self) -> Result<(), ConfigError> {
        if self.route.is_empty() {
            return Err(self.error("route", "at least one [[route]] is needed"));
        }
        for (i, route) in self.route.iter().enumerate() {
            let wrong = match &route.upstream {
                RouteUpstream::Named(name) if !self.upstream.contains_key(name) => {
                    Some(format!("there is no [upstream.{name}]"))
                }
                RouteUpstream::Outright(endpoints) if endpoints.is_empty() => {
                    Some("names no upstream".into())
                }
                _ => None,
            };
            if let Some(reason) = wrong {
                return Err(self.error(&format!("route[{i}].upstream"), reason));
            }
            if self.route.iter().take(i).any(|other| other.is_same(route)) {
                let reason = format!("`{}` is routed twice", route.name());
                return Err(self.error(&format!("route[{i}].path"), reason));
            }
        }
        for (name, upstream) in &self.upstream {
            let checked = upstream.check();
            checked.map_err(|(key, reason)| self.error(&format!("upstream.{name}.{key}"), reason))?;
        }
        self.check_loops()
    }

    /// No upstream is the gate itself, nor its admin listener, which administrators reach by its own address alone, nor the
    /// plain listener.
    fn check_loops(&self) -> Result<(), ConfigError> {
        let outright = self.route.iter().enumerate().filter_map(|(i, route)| match &route.upstream {
            RouteUpstream::Outright(endpoints) => Some((format!("route[{i}].upstream"), endpoints)),
            RouteUpstream::Named(_) => None,
        });
        let named = self.upstream.iter();
        let named = named.map(|(name, upstream)| (format!("upstream.{name}.endpoints"), &upstream.endpoints));
        for (key, endpoints) in outright.chain(named) {
            let leads_to = |listen| endpoints.iter().position(|endpoint| endpoint.leads_to(listen));
            if let Some(at) = leads_to(self.gate.listen) {
                let reason = format!("`{}` is gate.listen: requests would go round", endpoints[at]);
                return Err(self.error(&format!("{key}[{at}]"), reason));
            }
            if let Some(at) = self.admin.as_ref().and_then(|admin| leads_to(admin.listen)) {
                let reason =
                    format!("`{}` is admin.listen: clients would reach the admin API", endpoints[at]);
                return Err(self.error(&format!("{key}[{at}]"), reason));
            }
            if let Some(at) = self.metrics.as_ref().and_then(|metrics| leads_to(metrics.listen)) {
                let reason =
                    format!("`{}` is metrics.listen: clients would reach the metrics", endpoints[at]);
                return Err(self.error(&format!("{key}[{at}]"), reason));
            }
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let (waits, limits) = (&self.gate.timeouts, &self.gate.limits);
        for (key, wait) in [
            ("handshake", waits.handshake),
            ("header", waits.header),
            ("body_idle", waits.body_idle),
            ("upstream_connect", waits.upstream_connect),
            ("upstream_answer", waits.upstream_answer),
        ] {
            if wait.is_zero() {
                return Err(
                    self.error(&format!("gate.timeouts.{key}"), "zero: nothing could ever be done in time")
                );
            }
        }
        for (key, value, least) in [
            ("header_bytes", limits.header_bytes, MIN_HEADER),
            ("headers", limits.headers, 1),
            ("streams", usize::try_from(limits.streams).unwrap_or(usize::MAX), 1),
            ("connections", limits.connections.unwrap_or(1), 1),
            ("handshakes", limits.handshakes, 1),
            ("uri_bytes", limits.uri_bytes, 1),
        ] {
            if value < least {
                return Err(self.error(&format!("gate.limits.{key}"), format!("at least {least}")));
            }
        }
        if limits.burst > 0 && limits.requests_per_second == 0 {
            return Err(self.error("gate.limits.burst", "of nothing: requests_per_second is not limited"));
        }
        Ok(())
    }

    /// An authority may be narrowed to configured trust domains only; and a path names an agent by its bare id, which
    /// says who it is only where one trust domain has agents.
    fn check_scopes(&self, tls: &TlsConfig, key: &str) -> Result<(), ConfigError> {
        let domains = &self.identity.trust_domains;
        for (i, ca) in tls.client_ca.iter().enumerate() {
            let ClientCaConfig::Scoped(scoped) = ca else { continue };
            if let Some(unknown) = scoped.trust_domains.iter().find(|domain| !domains.contains(domain)) {
                let reason = format!("`{unknown}` is not among identity.trust_domains");
                return Err(self.error(&format!("{key}.client_ca[{i}].trust_domains"), reason));
            }
        }
        let own = self.route.iter().enumerate();
        let own = own.filter_map(|(i, route)| Some((format!("route[{i}].claim"), route.claim.as_ref()?)));
        let mut claims = own.chain([("identity.claim".to_owned(), &self.identity.claim)]);
        let by_path = claims.find(|(_, claim)| matches!(claim, ClaimSource::Path { .. }));
        let Some((key, _)) = by_path else { return Ok(()) };
        if domains.len() > 1 {
            return Err(self.error(
                &key,
                "with several trust domains an agent id is not unique: claim the SPIFFE ID in a header",
            ));
        }
        match self.identity.scoped_templates().find(|template| template.reads_spiffe()) {
            Some(template) => Err(self.error(
                &key,
                format!(
                    "two agents under `{template}` may have the same agent id: claim the SPIFFE ID in a header, \
                     or vouch with `identity.claim_scope = \"agent\"` that no two do"
                ),
            )),
            None => Ok(()),
        }
    }

    fn check_admin(&self, admin: &Admin) -> Result<(), ConfigError> {
        if let Some(tls) = &admin.tls {
            self.check_scopes(tls, "admin.tls")?;
        }
        if admin.advisory_max > MAX_ADVISORY {
            return Err(self.error("admin.advisory_max", "a day at most: it ends by itself, and is extended"));
        }
        let mut roles: HashMap<&str, Role> = HashMap::new();
        for (role, list, names) in admin.roles() {
            for (i, name) in names.iter().enumerate() {
                let key = format!("admin.{list}[{i}]");
                self.check_principal(&key, name)?;
                if let Some(other) = roles.insert(name, role) {
                    let reason = format!("`{name}` is {} already", other.name());
                    return Err(self.error(&key, reason));
                }
            }
        }
        for (i, secret) in admin.secret.iter().enumerate() {
            let name = &secret.name;
            let fits = (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            let twice = admin.secret.iter().take(i).any(|other| other.name == *name);
            let key = format!("admin.secret[{i}].name");
            if !fits {
                return Err(self.error(&key, format!("`{name}`: up to 64 letters, digits, `-`, `_` and `.`")));
            }
            if twice {
                return Err(self.error(&key, format!("`{name}` is named twice")));
            }
        }
        Ok(())
    }

    fn check_principal(&self, key: &str, name: &str) -> Result<(), ConfigError> {
        if !name.starts_with("spiffe:") {
            let fits = DnsName::parse(name).is_some_and(|dns| dns.as_str() == name);
            let reason = || format!("`{name}`: a SPIFFE ID, or a DNS name in lower case");
            return if fits { Ok(()) } else { Err(self.error(key, reason())) };
        }
        let id = SpiffeId::parse(name).map_err(|e| self.error(key, format!("`{name}`: {e}")))?;
        match self.identity.trust_domains.iter().any(|domain| domain.as_str() == id.trust_domain()) {
            true => Ok(()),
            false => {
                Err(self.error(key, format!("`{name}` is of no trust domain in identity.trust_domains")))
            }
        }
    }
}

impl Admin {
    /// Who has which role, and under which key the configuration says so.
    pub fn roles(&self) -> [(Role, &'static str, &[String]); 3] {
        [
            (Role::Admin, "allow", &self.allow),
            (Role::Operator, "operators", &self.operators),
            (Role::Auditor, "auditors", &self.auditors),
        ]
    }

    /// The names of all who have a role: principals, and `secret:NAME`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let principals = self.roles().into_iter().flat_map(|(.., names)| names.iter().cloned());
        principals.chain(self.secret.iter().map(SecretConfig::actor))
    }
}

/// Lets an environment variable take the place of a key.
fn override_key(table: &mut Table, source: &mut Source, variable: &str, value: &str) {
    let (path, value) = match variable.strip_prefix(OVERRIDE) {
        Some(path) => {
            // What reads as a TOML value is one; anything else is a string.
            let parsed = format!("v = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
            let path = path.to_ascii_lowercase().split("__").map(str::to_owned).collect::<Vec<_>>();
            (path, parsed.unwrap_or_else(|| Value::String(value.to_owned())))
        }
        None if variable == CA_FILE => {
            let path = ["gate", "tls", "client_ca"].map(str::to_owned).to_vec();
            (path, Value::Array(vec![Value::String(value.to_owned())]))
        }
        None => return,
    };
    source.overrides.push((path.join("."), variable.to_owned()));
    let mut place = table;
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    for parent in parents {
        let entry = place.entry(parent.clone()).or_insert_with(|| Value::Table(Table::new()));
        if !entry.is_table() {
            *entry = Value::Table(Table::new());
        }
        let Value::Table(inner) = entry else { return };
        place = inner;
    }
    place.insert(last.clone(), value);
}

/// The key that an error is about: for an unknown one, its own name below the table it stands in.
fn key_of(path: &str, reason: &str) -> String {
    let path = if path == "." { "" } else { path };
    let named = ["unknown field `", "missing field `"].iter().find_map(|intro| reason.strip_prefix(intro));
    match named.and_then(|rest| rest.split('`').next()) {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) if path != name && !path.ends_with(&format!(".{name}")) => format!("{path}.{name}"),
        _ => path.to_owned(),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The line of a key such as `route[0].upstream`, or of the nearest table around it.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut value = DeValue::Table(root.into_inner());
    let mut offset = None;
    for name in key.split(['.', '[', ']']).filter(|name| !name.is_empty()) {
        let next = match value {
            DeValue::Table(mut table) => {
                let entry = table.remove_entry(name);
                entry.map(|(key, value)| (key.span().start, value.into_inner()))
            }
            DeValue::Array(array) => {
                let item = name.parse().ok().and_then(|index| array.into_iter().nth(index));
                item.map(|item| (item.span().start, item.into_inner()))
            }
            _ => None,
        };
        let Some((at, inner)) = next else { break };
        offset = Some(at);
        value = inner;
    }
    offset.map(|offset| line_at(text, offset))
}
