//! Routes: which upstreams serve a host and a path, and what a client must bring.

use std::fmt;
use std::rc::Rc;

use http::StatusCode;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;

use super::Dialect;
use super::Mode;
use super::RouteUpstream;
use super::Terms;
use crate::identity::ClaimSource;

/// `[[route]]`. The most specific one that fits wins: by host first, then by path.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The host that it serves, or `*.` and what it ends in; default: any.
    pub host: Option<Host>,
    /// The path prefix that it serves, by whole segments.
    #[serde(default = "root", deserialize_with = "path")]
    pub path: String,
    /// Where it leads.
    pub upstream: RouteUpstream,
    /// Where a request says which agent it speaks for; default: `identity.claim`.
    pub claim: Option<ClaimSource>,
    /// What a client must bring.
    #[serde(default)]
    pub demand: Demand,
    /// The status of `mtls_required`: 401 or 403.
    #[serde(default = "unauthorized", deserialize_with = "refusal_status")]
    pub mtls_required: u16,
    /// Whether refusals about identity are enforced or only logged and counted; default: `gate.mode`.
    pub mode: Option<Mode>,
    /// How refusals about identity are told.
    #[serde(default)]
    pub refusals: Dialect,
}

/// What a client must bring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Demand {
    /// A client certificate whose identity is the one that the request claims.
    #[default]
    Mtls,
    /// Nothing. A certificate that is brought all the same is judged like any other.
    None,
}

fn root() -> String {
    "/".into()
}

const fn unauthorized() -> u16 {
    401
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let path = String::deserialize(deserializer)?;
    let plain = path.starts_with('/') && !path.contains(['?', '#', '%']) && !path.contains("//");
    let wrong = match path.split('/').find(|segment| matches!(*segment, "." | ".." | "*" | "**")) {
        Some("." | "..") => Some("dot segments are refused in requests: it would never serve any"),
        Some(_) => Some("a prefix has no wildcard: write what comes before it"),
        None if plain => None,
        None => Some("a path starts with `/` and is written plainly"),
    };
    wrong.map_or(Ok(()), |reason| Err(D::Error::custom(format!("`{path}`: {reason}"))))?;
    Ok(path)
}

fn refusal_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    match u16::deserialize(deserializer)? {
        status @ (401 | 403) => Ok(status),
        status => Err(D::Error::custom(format!("`{status}`: 401 or 403"))),
    }
}

/// A host name, or `*.` and a domain: every name below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// In lower case, without a dot at its end.
    name: String,
    wildcard: bool,
}

impl Host {
    fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let ipv6 = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = ipv6.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        let wildcard = name.len() != text.len();
        match name.trim_end_matches('.').split('.').all(label) || (address && !wildcard) {
            true => Ok(Self { name: plain(name).to_ascii_lowercase(), wildcard }),
            false => Err(format!("`{text}`: a host is a name without a port, or `*.` and a domain")),
        }
    }

    /// Whether it is the host of a request, given without its port.
    fn serves(&self, host: &str) -> bool {
        let (host, name) = (plain(host).as_bytes(), self.name.as_bytes());
        if !self.wildcard {
            return host.eq_ignore_ascii_case(name);
        }
        host.len().checked_sub(name.len()).and_then(|at| host.split_at_checked(at)).is_some_and(
            |(below, domain)| below.len() > 1 && below.ends_with(b".") && domain.eq_ignore_ascii_case(name),
        )
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*." } else { "" }, self.name)
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// `a.test.` is `a.test`, of which it says that it is complete.
fn plain(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// The host in an authority or a `Host`, without its port: a name or an address, in brackets if it is of IPv6
/// (RFC 3986, section 3.2.2). `None` of anything else.
pub(super) fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.find(']') {
        Some(end) => {
            let (host, rest) = authority.split_at(end + 1);
            let inner = host.strip_prefix('[')?.strip_suffix(']')?;
            inner.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest.strip_prefix(':').or(Some("").filter(|_| rest.is_empty()))?)
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let named = host.starts_with('[') || host.bytes().all(is_name);
    (named && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(host)
}

impl RouteConfig {
    /// Whether another serves just the same requests.
    pub fn is_same(&self, other: &Self) -> bool {
        self.host == other.host && self.path.trim_end_matches('/') == other.path.trim_end_matches('/')
    }

    /// What log and metrics call it: its host, if it has one, and its path.
    pub fn name(&self) -> String {
        format!("{}{}", self.host.as_ref().map(Host::to_string).unwrap_or_default(), self.path)
    }
}

/// One route, ready to be matched.
pub struct Route<U> {
    host: Option<Host>,
    /// Without the slash at its end.
    prefix: String,
    /// What log and metrics call it.
    pub name: Rc<str>,
    /// What a client must bring.
    pub demand: Demand,
    /// The status of `mtls_required`.
    pub mtls_required: StatusCode,
    /// What becomes of refusals about identity.
    pub terms: Terms,
    /// What serves it.
    pub serves: U,
}

impl<U> Route<U> {
    /// A route of the configuration, served by `serves`.
    pub fn new(config: &RouteConfig, serves: U) -> Self {
        let mtls_required = StatusCode::from_u16(config.mtls_required).unwrap_or(StatusCode::UNAUTHORIZED);
        let prefix = config.path.trim_end_matches('/').to_owned();
        let (name, host) = (config.name().into(), config.host.clone());
        let terms = Terms { mode: config.mode.unwrap_or_default(), dialect: config.refusals };
        Self { host, prefix, name, demand: config.demand, mtls_required, terms, serves }
    }

    /// Whether it serves every path.
    pub(super) fn is_root(&self) -> bool {
        self.prefix.is_empty()
    }

    fn matches(&self, host: &str, path: &str) -> bool {
        path.strip_prefix(self.prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            && self.host.as_ref().is_none_or(|own| own.serves(host))
    }
}

/// Routes in the order in which they are tried: a host before `*.` and its domain, that before any; then the longest
/// path first.
pub(super) fn ordered<U>(mut routes: Vec<Route<U>>) -> Vec<Route<U>> {
    routes.sort_by_key(|route| {
        let host = route.host.as_ref().map(|host| (!host.wildcard, host.name.len()));
        std::cmp::Reverse((host, route.prefix.len()))
    });
    routes
}

/// The route that serves a path of a host.
pub(super) fn find<'a, U>(routes: &'a [Route<U>], host: &str, path: &str) -> Option<&'a Route<U>> {
    routes.iter().find(|route| route.matches(host, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, path: &str) -> Route<String> {
        let host = Some(host).filter(|host| !host.is_empty()).map(|host| Host::parse(host).unwrap());
        let upstream = RouteUpstream::Named("app".into());
        let path = path.to_owned();
        let config = RouteConfig {
            host,
            path,
            upstream,
            claim: None,
            demand: Demand::Mtls,
            mtls_required: 401,
            mode: None,
            refusals: Dialect::Portcullis,
        };
        Route::new(&config, config.name())
    }

    #[test]
    fn the_longest_path_wins_by_whole_segments() {
        let routes = ordered(vec![route("", "/"), route("", "/api/"), route("", "/api/v1")]);
        let found = |path| find(&routes, "any", path).map(|route| route.serves.as_str());
        assert_eq!(found("/"), Some("/"));
        assert_eq!(found("/apiary"), Some("/"));
        assert_eq!(found("/api"), Some("/api/"));
        assert_eq!(found("/api/v1/x"), Some("/api/v1"));
        assert_eq!(found("/api/v10"), Some("/api/"));
        assert_eq!(find(&ordered(vec![route("", "/api")]), "", "/other").map(|_| ()), None);
    }

    #[test]
    fn the_most_specific_host_wins_before_any_path() {
        let hosts =
            [("", "/"), ("", "/long/path"), ("*.lab.test", "/"), ("*.a.lab.test", "/"), ("A.lab.test", "/")];
        let routes = ordered(hosts.map(|(host, path)| route(host, path)).into());
        let found = |host, path| find(&routes, host, path).unwrap().serves.clone();
        for (host, expected) in [
            ("a.lab.test", "a.lab.test/"),
            ("A.LAB.TEST.", "a.lab.test/"),
            ("b.lab.test", "*.lab.test/"),
            ("b.a.lab.test", "*.a.lab.test/"),
            ("lab.test", "/long/path"),
            (".lab.test", "/long/path"),
            ("evil-lab.test", "/long/path"),
            ("", "/long/path"),
        ] {
            assert_eq!(found(host, "/long/path"), expected, "{host}");
        }
        // Nothing at the host serves it: what serves any host does.
        let routes = ordered(vec![route("a.test", "/api"), route("", "/")]);
        assert_eq!(find(&routes, "a.test", "/x").unwrap().serves, "/");
    }

    #[test]
    fn hosts_are_read_without_their_port() {
        let hosts = [
            ("a.test", Some("a.test")),
            ("a.test:8443", Some("a.test")),
            ("a.test:", Some("a.test")),
            ("[::1]", Some("[::1]")),
            ("[::1]:80", Some("[::1]")),
            ("", Some("")),
            ("a.test:80:90", None),
            ("a.test:1:", None),
            ("a.test:x]", None),
            ("a.test]", None),
            ("[a.test]", None),
            ("[::1]x", None),
            ("::1", None),
            ("a.test:x", None),
            ("a,b", None),
            ("user@a", None),
            ("a%2etest", None),
        ];
        for (authority, host) in hosts {
            assert_eq!(host_of(authority), host, "{authority}");
        }
        for bad in ["", "a..test", "a.test:80", "https://a", "*", "*.", "a.*.test", "a b", "[::1", "*.[::1]"]
        {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
    }
}
