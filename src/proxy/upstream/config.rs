//! `[upstream.NAME]`: several endpoints that serve the same, and how they are used.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::PathAndQuery;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use serde::de::SeqAccess;
use serde::de::Visitor;

use super::Endpoint;
use super::Protocol;

/// `[upstream.NAME]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Its endpoints, all of which serve the same.
    pub endpoints: Vec<Endpoint>,
    /// Which of them serves a request.
    #[serde(default)]
    pub balance: Balance,
    /// Connections open at once to one endpoint; each of the gate's threads has its share.
    #[serde(default = "connections")]
    pub connections: usize,
    /// Requests that may wait for a connection to one endpoint; each of the gate's threads has its share.
    #[serde(default = "queue")]
    pub queue: usize,
    /// Requests at once on one HTTP/2 connection, if the endpoint allows as many.
    #[serde(default = "streams")]
    pub streams: usize,
    /// The header of a request over HTTP/2, bytes; a quarter of them for one field: 431. Endpoints may end a connection over
    /// more, and with it the streams of everybody.
    #[serde(default = "header_bytes")]
    pub header_bytes: usize,
    /// For `https://`: whom to trust, and what the gate shows.
    #[serde(default)]
    pub tls: UpstreamTls,
    /// Looks whether endpoints are well; absent, only their answers tell.
    pub health: Option<HealthConfig>,
    /// What becomes of an endpoint that fails.
    #[serde(default)]
    pub rest: RestConfig,
    /// What is sent again.
    #[serde(default)]
    pub retry: RetryConfig,
    /// How long it is waited for; default: `[gate.timeouts]`.
    #[serde(default)]
    pub timeouts: UpstreamTimeouts,
}

const fn connections() -> usize {
    1024
}

const fn queue() -> usize {
    1024
}

const fn header_bytes() -> usize {
    32_000
}

const fn streams() -> usize {
    100
}

/// Which endpoint serves a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Of two chosen at random, the one with fewer requests under way (by the same thread).
    LeastRequests,
}

/// `tls` of an upstream: PEM files, relative to the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// Whose certificates are accepted; default: the system's authorities.
    pub ca: Option<PathBuf>,
    /// The name that the endpoints' certificates must be for; default: the endpoint's host.
    pub name: Option<String>,
    /// The gate's own certificate chain, for endpoints that demand one.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// `health` of an upstream.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthConfig {
    /// What is asked for with GET; an answer of 200 to 399 is well. Absent: a connection is enough.
    #[serde(default, deserialize_with = "path")]
    pub path: Option<PathAndQuery>,
    /// How often.
    #[serde(with = "humantime_serde", default = "HealthConfig::interval")]
    pub interval: Duration,
    /// For the answer.
    #[serde(with = "humantime_serde", default = "HealthConfig::timeout")]
    pub timeout: Duration,
    /// So many failures in a row take an endpoint out.
    #[serde(default = "HealthConfig::unhealthy_after")]
    pub unhealthy_after: u32,
    /// So many successes in a row bring it back.
    #[serde(default = "HealthConfig::healthy_after")]
    pub healthy_after: u32,
}

impl HealthConfig {
    const fn interval() -> Duration {
        Duration::from_secs(5)
    }

    const fn timeout() -> Duration {
        Duration::from_secs(2)
    }

    const fn unhealthy_after() -> u32 {
        3
    }

    const fn healthy_after() -> u32 {
        2
    }
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathAndQuery>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let path = text.parse().ok().filter(|_| text.starts_with('/'));
    path.map(Some).ok_or_else(|| D::Error::custom(format!("`{text}`: a path starts with `/`")))
}

/// `rest` of an upstream: an endpoint that fails rests, longer each time, and is asked only if no other is left.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestConfig {
    /// So many failures in a row make an endpoint rest: no connection, no answer in time, an answer that broke off.
    /// 0: it never does.
    pub after: u32,
    /// How long the first time; twice as long each further time.
    #[serde(with = "humantime_serde")]
    pub first: Duration,
    /// How long at most.
    #[serde(with = "humantime_serde")]
    pub most: Duration,
}

impl Default for RestConfig {
    fn default() -> Self {
        Self { after: 3, first: Duration::from_secs(1), most: Duration::from_secs(60) }
    }
}

/// `retry` of an upstream: only of what was provably not sent, or is idempotent and has no body.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Times that a request is tried, the first included.
    pub attempts: u32,
    /// The share of requests that may be sent again, 0 to 1.
    pub budget: f64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts: 3, budget: 0.2 }
    }
}

/// `timeouts` of an upstream.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTimeouts {
    /// For a connection, its TLS handshake included; default: `gate.timeouts.upstream_connect`.
    #[serde(with = "humantime_serde")]
    pub connect: Option<Duration>,
    /// For a free connection where all are in use; default: as for a connection.
    #[serde(with = "humantime_serde")]
    pub queue: Option<Duration>,
    /// For the header of an answer, from the end of the request on; default: `gate.timeouts.upstream_answer`.
    #[serde(with = "humantime_serde")]
    pub answer: Option<Duration>,
    /// Without progress in a body, in either direction; default: `gate.timeouts.body_idle`.
    #[serde(with = "humantime_serde")]
    pub body_idle: Option<Duration>,
    /// How long an unused connection is kept; default: `gate.timeouts.upstream_idle`.
    #[serde(with = "humantime_serde")]
    pub idle: Option<Duration>,
}

impl UpstreamConfig {
    /// What endpoints that are written at their route alone stand for.
    pub fn of(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            balance: Balance::default(),
            connections: connections(),
            queue: queue(),
            streams: streams(),
            header_bytes: header_bytes(),
            tls: UpstreamTls::default(),
            health: None,
            rest: RestConfig::default(),
            retry: RetryConfig::default(),
            timeouts: UpstreamTimeouts::default(),
        }
    }

    /// Makes relative paths relative to `base`.
    pub fn rebase(&mut self, base: &Path) {
        let tls = &mut self.tls;
        for file in [&mut tls.ca, &mut tls.cert, &mut tls.key].into_iter().flatten() {
            *file = base.join(&*file);
        }
    }

    /// What is wrong with it, and at which key.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let wrong = |key, reason: &str| Err((key, reason.to_owned()));
        let over_tls = self.endpoints.iter().any(|endpoint| endpoint.protocol == Protocol::Https);
        if self.endpoints.is_empty() {
            return wrong("endpoints", "names no endpoint");
        }
        let mut others = self.endpoints.iter().enumerate();
        if others.any(|(i, endpoint)| self.endpoints.iter().take(i).any(|other| other == endpoint)) {
            return wrong("endpoints", "names an endpoint twice");
        }
        if !over_tls && self.tls != UpstreamTls::default() {
            return wrong("tls", "none of its endpoints is `https://`");
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return wrong("tls", "`cert` and `key` go together");
        }
        for (key, count) in [
            ("connections", self.connections),
            ("streams", self.streams),
            ("header_bytes", self.header_bytes / 1024),
            ("retry.attempts", usize::try_from(self.retry.attempts).unwrap_or(usize::MAX)),
        ] {
            if count == 0 {
                return wrong(key, "at least 1");
            }
        }
        if !(0.0..=1.0).contains(&self.retry.budget) {
            return wrong("retry.budget", "from 0 to 1");
        }
        if self.rest.first.is_zero() || self.rest.most < self.rest.first {
            return wrong("rest", "`first` is more than nothing, and not more than `most`");
        }
        let waits = &self.timeouts;
        let waits = [
            ("timeouts.connect", waits.connect),
            ("timeouts.answer", waits.answer),
            ("timeouts.body_idle", waits.body_idle),
        ];
        let waits = waits.into_iter().filter_map(|(key, wait)| wait.map(|wait| (key, wait)));
        let health = self
            .health
            .iter()
            .flat_map(|health| [("health.interval", health.interval), ("health.timeout", health.timeout)]);
        if let Some((key, _)) = waits.chain(health).find(|(_, wait)| wait.is_zero()) {
            return wrong(key, "zero: nothing could ever be done in time");
        }
        let counts = self.health.iter().flat_map(|health| {
            [
                ("health.unhealthy_after", health.unhealthy_after),
                ("health.healthy_after", health.healthy_after),
            ]
        });
        counts.into_iter().find(|(_, count)| *count == 0).map_or(Ok(()), |(key, _)| wrong(key, "at least 1"))
    }
}

/// `upstream` of a route: the name of an `[upstream.NAME]`, or endpoints outright.
#[derive(Clone, Debug)]
pub enum RouteUpstream {
    /// `upstream = "NAME"`.
    Named(String),
    /// `upstream = ["http://HOST:PORT", ...]`: everything else stands at its default.
    Outright(Vec<Endpoint>),
}

impl<'de> Deserialize<'de> for RouteUpstream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RouteUpstream;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an [upstream.NAME], or a list of endpoints")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<RouteUpstream, E> {
                Ok(RouteUpstream::Named(name.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RouteUpstream, A::Error> {
                let mut endpoints = Vec::new();
                while let Some(endpoint) = list.next_element()? {
                    endpoints.push(endpoint);
                }
                Ok(RouteUpstream::Outright(endpoints))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
