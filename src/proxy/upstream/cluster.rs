//! An upstream as every thread of the gate sees it: its endpoints, how they are, and how they are reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use prometheus::IntCounter;
use prometheus::IntGauge;
use tokio::time::Instant;

use super::Endpoint;
use super::RestConfig;
use super::RouteUpstream;
use super::UpstreamConfig;
use super::connect::Connector;
use super::connect::Tls;
use crate::proxy::RouteConfig;
use crate::proxy::Timeouts;
use crate::proxy::TlsError;
use crate::proxy::via::ViaName;
use crate::telemetry::Metrics;

/// The rest of an endpoint is at most doubled so many times.
const DOUBLINGS: u32 = 20;

/// Every upstream of a configuration.
pub struct Clusters {
    all: Vec<Arc<Cluster>>,
    /// Where in `all`, by route.
    by_route: Vec<usize>,
    room: Arc<Room>,
    /// The name under which requests are sent to them.
    via: ViaName,
}

/// How many connections to all upstreams there may be: each takes a file descriptor.
pub(super) struct Room {
    open: AtomicUsize,
    most: AtomicUsize,
}

impl Room {
    pub(super) fn take(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let more = |open: usize| (open < most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(super) fn give_back(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Clusters {
    /// Reads the files that a configuration names. An error names the upstream, too.
    ///
    /// # Errors
    /// What is wrong, with the key at which it stands.
    pub fn load(
        named: &BTreeMap<String, UpstreamConfig>,
        routes: &[RouteConfig],
        timeouts: &Timeouts,
        metrics: &Metrics,
    ) -> Result<Self, (String, TlsError)> {
        let room = Arc::new(Room { open: AtomicUsize::new(0), most: AtomicUsize::new(usize::MAX) });
        let open =
            |name: &str, config: &UpstreamConfig| Cluster::load(name, config, timeouts, metrics, &room);
        let load = |name: &str, config: &UpstreamConfig| {
            let loaded = open(name, config);
            loaded.map(Arc::new).map_err(|e| (format!("upstream.{name}.tls.{}", e.key), e))
        };
        let all = named.iter().map(|(name, config)| load(name, config)).collect::<Result<Vec<_>, _>>();
        let (by_route, via) = (Vec::new(), ViaName::new());
        let mut clusters = Self { all: all?, by_route, room: Arc::clone(&room), via };
        for (i, route) in routes.iter().enumerate() {
            let place = match &route.upstream {
                RouteUpstream::Named(name) => clusters.all.iter().position(|cluster| cluster.name == *name),
                RouteUpstream::Outright(endpoints) => {
                    let outright = UpstreamConfig::of(endpoints.clone());
                    let loaded = open(&route.name(), &outright);
                    clusters.all.push(Arc::new(loaded.map_err(|e| (format!("route[{i}].upstream"), e))?));
                    Some(clusters.all.len() - 1)
                }
            };
            // The configuration has been checked: there is one.
            clusters.by_route.extend(place);
        }
        Ok(clusters)
    }

    /// So many connections to all of them together, at most.
    pub fn bound(&self, connections: usize) {
        self.room.most.store(connections, Ordering::Relaxed);
    }

    /// All of them.
    pub fn all(&self) -> &[Arc<Cluster>] {
        &self.all
    }

    /// The name under which requests are sent to them, the same for all threads.
    pub(in crate::proxy) fn via(&self) -> &ViaName {
        &self.via
    }

    /// That of each route, in the order of the configuration.
    pub(in crate::proxy) fn of_routes(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.by_route.iter().filter_map(|place| self.all.get(*place))
    }
}

/// An upstream.
pub struct Cluster {
    /// What the configuration calls it.
    pub name: String,
    pub(super) config: UpstreamConfig,
    pub(super) waits: Waits,
    pub(super) members: Vec<Arc<Member>>,
    pub(super) metrics: Counts,
    /// Shared by all upstreams.
    pub(super) room: Arc<Room>,
}

/// How long it is waited for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    pub(super) connect: Duration,
    pub(super) queue: Duration,
    pub(super) answer: Duration,
    pub(super) body_idle: Duration,
    pub(super) idle: Duration,
}

/// What is counted of one upstream.
pub(super) struct Counts {
    pub(super) connections: IntGauge,
    pub(super) waiting: IntGauge,
    pub(super) retries: IntCounter,
    pub(super) over_budget: IntCounter,
    /// By the class of their status, from 1xx to 5xx.
    requests: [IntCounter; 5],
}

impl Counts {
    /// An endpoint has answered.
    pub(super) fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        self.requests.get(class).iter().for_each(|count| count.inc());
    }
}

impl Cluster {
    /// Reads the files that a configuration names.
    fn load(
        name: &str,
        config: &UpstreamConfig,
        timeouts: &Timeouts,
        metrics: &Metrics,
        room: &Arc<Room>,
    ) -> Result<Self, TlsError> {
        let tls =
            config.endpoints.iter().any(Endpoint::is_secured).then(|| Tls::load(&config.tls)).transpose()?;
        let own = &config.timeouts;
        let connect = own.connect.unwrap_or(timeouts.upstream_connect);
        let waits = Waits {
            connect,
            queue: own.queue.unwrap_or(connect),
            answer: own.answer.unwrap_or(timeouts.upstream_answer),
            body_idle: own.body_idle.unwrap_or(timeouts.body_idle),
            idle: own.idle.unwrap_or(timeouts.upstream_idle),
        };
        let upstream = &metrics.upstream;
        let members = config.endpoints.iter().map(|endpoint| {
            let up = upstream.endpoint_up.with_label_values(&[name, &endpoint.to_string()]);
            let failures = upstream.failures.with_label_values(&[name, &endpoint.to_string()]);
            let connector = Connector::new(endpoint.clone(), tls.clone(), config.streams);
            Arc::new(Member::new(connector, up, failures))
        });
        let counts = Counts {
            connections: upstream.connections.with_label_values(&[name]),
            waiting: upstream.waiting.with_label_values(&[name]),
            retries: upstream.retries.with_label_values(&[name, "sent"]),
            over_budget: upstream.retries.with_label_values(&[name, "over_budget"]),
            requests: ["1xx", "2xx", "3xx", "4xx", "5xx"]
                .map(|class| upstream.requests.with_label_values(&[name, class])),
        };
        Ok(Self {
            name: name.to_owned(),
            waits,
            members: members.collect(),
            config: config.clone(),
            metrics: counts,
            room: Arc::clone(room),
        })
    }

    /// Brings the gauges of its endpoints up to date.
    pub fn show(&self) {
        self.members.iter().for_each(|member| member.show());
    }

    /// An endpoint took a request and answered it.
    pub(super) fn succeeded(&self, member: &Member) {
        // Read first: nearly always there is nothing to write, and what is written is shared.
        if member.failures.load(Ordering::Relaxed) != 0 {
            member.failures.store(0, Ordering::Relaxed);
            member.rests.store(0, Ordering::Relaxed);
            member.resting_until.store(0, Ordering::Relaxed);
            member.show();
        }
    }

    /// An endpoint did not answer as it should.
    pub(super) fn failed(&self, member: &Member, reason: &dyn std::fmt::Display) {
        member.failed.inc();
        let rest = &self.config.rest;
        let failures = member.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if rest.after == 0 || failures < rest.after || member.is_resting() {
            return;
        }
        // Whether others fail in the same moment does not matter: each says the same.
        let time = rest_after(rest, member.rests.fetch_add(1, Ordering::Relaxed));
        // Apart from each other, so that not all of them are asked again at once.
        let time = time.mul_f64(0.9 + fastrand::f64() * 0.2);
        member.resting_until.store(member.moment().saturating_add(millis(time)), Ordering::Relaxed);
        member.show();
        let (upstream, endpoint) = (&self.name, &member.connector.endpoint);
        tracing::warn!(upstream, %endpoint, failures, rests_ms = millis(time), %reason, "an upstream's endpoint fails: it rests");
    }
}

/// One endpoint of an upstream.
pub(super) struct Member {
    pub(super) connector: Connector,
    /// In a row.
    failures: AtomicU32,
    rests: AtomicU32,
    /// Milliseconds since `born`; 0 if it does not rest.
    resting_until: AtomicU64,
    /// What active checks say.
    unhealthy: AtomicBool,
    born: Instant,
    up: IntGauge,
    failed: IntCounter,
}

impl Member {
    fn new(connector: Connector, up: IntGauge, failed: IntCounter) -> Self {
        up.set(1);
        Self {
            connector,
            failures: AtomicU32::default(),
            rests: AtomicU32::default(),
            resting_until: AtomicU64::default(),
            unhealthy: AtomicBool::default(),
            born: Instant::now(),
            up,
            failed,
        }
    }

    /// Whether active checks have not found it ill.
    pub(super) fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }

    /// Whether it has failed and is left alone for a while.
    pub(super) fn is_resting(&self) -> bool {
        let until = self.resting_until.load(Ordering::Relaxed);
        until != 0 && self.moment() < until
    }

    /// What an active check found; returns whether that is news.
    pub(super) fn set_healthy(&self, healthy: bool) -> bool {
        let changed = self.unhealthy.swap(!healthy, Ordering::Relaxed) == healthy;
        if changed {
            self.show();
        }
        changed
    }

    fn show(&self) {
        self.up.set(i64::from(self.is_healthy() && !self.is_resting()));
    }

    fn moment(&self) -> u64 {
        millis(self.born.elapsed())
    }
}

/// How long an endpoint rests that has rested so many times before.
fn rest_after(rest: &RestConfig, rests: u32) -> Duration {
    rest.first.saturating_mul(1 << rests.min(DOUBLINGS)).min(rest.most)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rest_is_twice_as_long_as_the_one_before() {
        let rest = RestConfig::default();
        let rests = [0, 1, 2, 5, 6, 7, 100, u32::MAX].map(|rests| rest_after(&rest, rests).as_secs());
        assert_eq!(rests, [1, 2, 4, 32, 60, 60, 60, 60]);
    }
}
