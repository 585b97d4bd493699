//! Routes: which upstreams serve a path, and what a client must bring.

use http::StatusCode;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;

use super::Dialect;
use super::Endpoint;
use super::Mode;
use super::Terms;

/// `[[route]]`. The longest matching path wins.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The path prefix that it serves, by whole segments.
    #[serde(default = "root", deserialize_with = "path")]
    pub path: String,
    /// Where it leads; tried in turn.
    pub upstream: Vec<Endpoint>,
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
    match path.starts_with('/') && !path.contains(['?', '#', '%']) && !path.contains("//") {
        true => Ok(path),
        false => Err(D::Error::custom(format!("`{path}`: a path starts with `/` and is written plainly"))),
    }
}

fn refusal_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    match u16::deserialize(deserializer)? {
        status @ (401 | 403) => Ok(status),
        status => Err(D::Error::custom(format!("`{status}`: 401 or 403"))),
    }
}

/// One route, ready to be matched.
pub struct Route<U> {
    /// Without the slash at its end.
    prefix: String,
    /// What a client must bring.
    pub demand: Demand,
    /// The status of `mtls_required`.
    pub mtls_required: StatusCode,
    /// What becomes of refusals about identity.
    pub terms: Terms,
    /// What serves it.
    pub upstreams: U,
}

impl<U> Route<U> {
    /// A route of the configuration, served by `upstreams`.
    pub fn new(config: &RouteConfig, upstreams: U) -> Self {
        let mtls_required = StatusCode::from_u16(config.mtls_required).unwrap_or(StatusCode::UNAUTHORIZED);
        let prefix = config.path.trim_end_matches('/').to_owned();
        let terms = Terms { mode: config.mode.unwrap_or_default(), dialect: config.refusals };
        Self { prefix, demand: config.demand, mtls_required, terms, upstreams }
    }

    fn matches(&self, path: &str) -> bool {
        path.strip_prefix(self.prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Routes in the order in which they are tried: the longest path first.
pub(super) fn ordered<U>(mut routes: Vec<Route<U>>) -> Vec<Route<U>> {
    routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
    routes
}

/// The route that serves a path.
pub(super) fn find<'a, U>(routes: &'a [Route<U>], path: &str) -> Option<&'a Route<U>> {
    routes.iter().find(|route| route.matches(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_wins_by_whole_segments() {
        let route = |path: &str| {
            let upstream = vec![Endpoint::parse("http://a").unwrap()];
            let config = RouteConfig {
                path: path.into(),
                upstream,
                demand: Demand::Mtls,
                mtls_required: 401,
                mode: None,
                refusals: Dialect::Portcullis,
            };
            Route::new(&config, path.to_owned())
        };
        let routes = ordered(vec![route("/"), route("/api/"), route("/api/v1")]);
        let found = |path| find(&routes, path).map(|route| route.upstreams.as_str());
        assert_eq!(found("/"), Some("/"));
        assert_eq!(found("/apiary"), Some("/"));
        assert_eq!(found("/api"), Some("/api/"));
        assert_eq!(found("/api/v1/x"), Some("/api/v1"));
        assert_eq!(found("/api/v10"), Some("/api/"));
        assert_eq!(find(&ordered(vec![route("/api")]), "/other").map(|_| ()), None);
    }
}
