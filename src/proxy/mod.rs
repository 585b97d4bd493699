//! The gate: from an accepted socket to a forwarded request, on every listener alike.
//!
//! One request, straight through: `listener` accepts → `connection`: TLS handshake, who is it (`peer`), `admission`:
//! register, check → hyper, watched for the kill (`ending`) → `context`: route, check, judge → `request`: scrub headers →
//! `upstream` → response; or `error`, the only place where a refusal becomes a status.

mod accounts;
mod admission;
mod body;
mod connection;
mod connection_state;
mod context;
mod ending;
mod error;
mod exchange;
mod failures;
mod flight;
mod frames;
mod handshake;
mod headers;
mod hello;
mod limits;
mod listener;
mod names;
mod pace;
mod peer;
mod places;
mod presented;
mod request;
mod request_id;
mod reset;
mod resumption;
mod route;
mod socket;
mod streams;
mod tls;
mod tunnel;
mod upstream;
mod verdicts;
mod via;

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use body::Body;
pub use body::BodyError;
pub use body::BoxError;
pub use connection::Connection;
pub use context::Context;
pub use context::Handler;
pub use error::Refusal;
pub use exchange::Counter;
pub use exchange::Exchange;
pub use exchange::Exchanges;
pub use exchange::Telling;
pub use frames::FrameHead;
pub use frames::FrameReader;
pub use limits::Limit;
pub use limits::LimitSettings;
pub use limits::ListenerLimits;
pub use listener::Bounds;
pub use listener::accept;
pub use listener::bind;
pub use listener::share;
pub use names::ClaimHeaders;
pub use names::Section;
pub use names::may_pass;
pub use peer::Peer;
pub use peer::Peers;
pub use peer::Strangers;
pub use request::Gate;
pub use request_id::RequestId;
pub use request_id::RequestIds;
pub use route::Demand;
pub use route::Route;
pub use route::RouteConfig;
pub use tls::ClientCa;
pub use tls::TlsError;
pub use tls::load_trust;
pub use tls::server_config;
pub use upstream::Balance;
pub use upstream::Cluster;
pub use upstream::Clusters;
pub use upstream::Endpoint;
pub use upstream::HealthConfig;
pub use upstream::RestConfig;
pub use upstream::RetryConfig;
pub use upstream::RouteUpstream;
pub use upstream::UpstreamConfig;
pub use upstream::UpstreamTimeouts;
pub use upstream::UpstreamTls;
pub use upstream::watch_upstreams;

use crate::identity::TrustDomain;
use crate::problem::Disclose;

/// `[gate]`: the listener that forwards.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether refusals are enforced or only logged and counted, on routes that do not say it themselves.
    #[serde(default)]
    pub mode: Mode,
    /// How many threads serve it, each with connections of its own; default: one a core; at most 1024.
    pub threads: Option<usize>,
    /// How much of a refusal its client is told.
    #[serde(default)]
    pub disclose: Disclose,
    /// Whether a revoked certificate is refused with a problem document, or already in the handshake.
    #[serde(default)]
    pub reject_at: RejectAt,
    /// How long open connections may take to end after SIGTERM.
    #[serde(with = "humantime_serde", default = "default_drain")]
    pub drain: Duration,
    /// Its certificate, and whose certificates it accepts.
    pub tls: TlsConfig,
    /// How long it waits for what.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How much it takes in.
    #[serde(default)]
    pub limits: Limits,
}

const fn default_drain() -> Duration {
    Duration::from_secs(30)
}

/// What a refusal does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The request is refused, the session ended.
    #[default]
    Strict,
    /// Logged and counted; the request passes and no session is ended.
    Advisory,
}

/// What the modes of a listener's routes come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modes {
    /// All are strict.
    Strict,
    /// All are advisory.
    Advisory,
    /// There are both.
    Mixed,
}

impl Modes {
    /// Of routes; of none, strict.
    pub fn of(routes: &[RouteConfig]) -> Self {
        let strict = routes.iter().any(|route| route.mode != Some(Mode::Advisory));
        let advisory = routes.iter().any(|route| route.mode == Some(Mode::Advisory));
        match (strict, advisory) {
            (_, false) => Self::Strict,
            (false, true) => Self::Advisory,
            (true, true) => Self::Mixed,
        }
    }

    /// The name in the log and the admin API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Advisory => "advisory",
            Self::Mixed => "mixed",
        }
    }
}

/// What a refusal looks like to a client, where it is about identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// A problem document (RFC 9457).
    #[default]
    Portcullis,
    /// 401 `{"error": message}`, as the services of the mTLS operations runbook answer.
    Runbook,
    /// `{"error": {"code": "PROXY_AUTH_...", "message", "requestId"}}`, as clawdentity's proxy answers.
    Claw,
}

/// What a route makes of refusals about identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whether they are enforced.
    pub mode: Mode,
    /// How they are told.
    pub dialect: Dialect,
}

/// Where a revoked certificate is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RejectAt {
    /// After the handshake, with one problem document.
    #[default]
    Request,
    /// In the handshake, with the alert `certificate_revoked`; a resumed session, after it.
    Handshake,
}

/// `[gate.tls]`, `[admin.tls]`: PEM files, relative to the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The server's certificate chain, leaf first.
    pub cert: PathBuf,
    /// Its private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// Whose client certificates are accepted.
    pub client_ca: Vec<ClientCaConfig>,
}

/// A file of certificate authorities, for every trust domain or only for some.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a file name, or `{ file = \"...\", trust_domains = [...] }`")]
pub enum ClientCaConfig {
    /// A file whose authorities vouch for every configured trust domain.
    File(PathBuf),
    /// A file whose authorities vouch for these only.
    Scoped(ScopedCaConfig),
}

/// A file of certificate authorities that vouch for some trust domains only.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopedCaConfig {
    /// The PEM file.
    pub file: PathBuf,
    /// The trust domains: of SPIFFE IDs, and the domains in which DNS names lie.
    pub trust_domains: Vec<TrustDomain>,
}

impl TlsConfig {
    /// Makes relative paths relative to `base`.
    pub fn rebase(&mut self, base: &Path) {
        let files = self.client_ca.iter_mut().map(|ca| match ca {
            ClientCaConfig::File(file) => file,
            ClientCaConfig::Scoped(scoped) => &mut scoped.file,
        });
        for path in files.chain([&mut self.cert, &mut self.key]) {
            *path = base.join(&*path);
        }
    }
}

/// `[gate.timeouts]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For the TLS handshake, from the accepted socket on.
    #[serde(with = "humantime_serde")]
    pub handshake: Duration,
    /// For a request's header. An idle HTTP/1.1 connection is closed after it, an idle HTTP/2 one is pinged.
    #[serde(with = "humantime_serde")]
    pub header: Duration,
    /// Without progress in a body, in either direction, at either end.
    #[serde(with = "humantime_serde")]
    pub body_idle: Duration,
    /// For a connection to an upstream.
    #[serde(with = "humantime_serde")]
    pub upstream_connect: Duration,
    /// For the header of an upstream's answer, from the end of the request on.
    #[serde(with = "humantime_serde")]
    pub upstream_answer: Duration,
    /// How long an unused upstream connection is kept; keep it below the upstream's own keep-alive.
    #[serde(with = "humantime_serde")]
    pub upstream_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(60),
            body_idle: Duration::from_secs(60),
            upstream_connect: Duration::from_secs(5),
            upstream_answer: Duration::from_secs(60),
            upstream_idle: Duration::from_secs(30),
        }
    }
}

/// `[gate.limits]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// A request's header, bytes.
    pub header_bytes: usize,
    /// Header fields of an HTTP/1.1 request.
    pub headers: usize,
    /// A request's target, path and query, bytes.
    pub uri_bytes: usize,
    /// A request's body, bytes; 0: any.
    pub body_bytes: u64,
    /// How slow a client may be while it is waited for, sending a body or taking an answer: bytes a second, on average over
    /// `timeouts.body_idle`; 0: any.
    pub body_rate: u32,
    /// Streams that one HTTP/2 connection may have open.
    pub streams: u32,
    /// Connections that shake hands or are served at once; default, and at most: a quarter of the file descriptors that the process may have, 128
    /// aside. Each takes two; three eighths are for connections to upstreams, and the rest for feeds and administrators.
    pub connections: Option<usize>,
    /// Those of one principal; 0: any.
    pub connections_per_principal: u32,
    /// Those from one address, or from one IPv6 network of 64 bits; 0: any. Counted before the handshake.
    pub connections_per_address: u32,
    /// Handshakes that go on at once, each from its whole ClientHello on.
    pub handshakes: usize,
    /// Requests of one principal a second, or of one address where a client has no name; 0: any.
    pub requests_per_second: u32,
    /// Of those, at once; 0: as many as in a second.
    pub burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            headers: 128,
            uri_bytes: 16 * 1024,
            body_bytes: 0,
            body_rate: 0,
            streams: 128,
            connections: None,
            connections_per_principal: 0,
            connections_per_address: 0,
            handshakes: 1024,
            requests_per_second: 0,
            burst: 0,
        }
    }
}
