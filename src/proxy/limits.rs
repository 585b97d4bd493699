//! Limits, as operators see them reached: a metric, a line of the log that names the setting, and a warning of `/readyz`
//! while a limit of a whole listener lasts.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use prometheus::IntCounter;

use super::Limits;
use super::Refusal;
use super::upstream::UpstreamError;
use crate::clock::Clock;
use crate::telemetry::LineKind;
use crate::telemetry::LineLimiter;
use crate::telemetry::LineSource;
use crate::telemetry::Metrics;

const GATE_LINE: &str = "the gate has reached a limit";
const ADMIN_LINE: &str = "the admin listener has reached a limit";

/// A limit that can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Open connections of the listener.
    Connections,
    /// Its handshakes at once.
    Handshakes,
    /// The file descriptors of the process.
    Descriptors,
    /// Connections from one address.
    ConnectionsPerAddress,
    /// Connections of one principal.
    ConnectionsPerPrincipal,
    /// Requests of one principal or address.
    RequestsPerSecond,
    /// Connections to an upstream, for which its requests queue.
    UpstreamConnections,
}

impl Limit {
    const ALL: [Self; 7] = [
        Self::Connections,
        Self::Handshakes,
        Self::Descriptors,
        Self::ConnectionsPerAddress,
        Self::ConnectionsPerPrincipal,
        Self::RequestsPerSecond,
        Self::UpstreamConnections,
    ];

    /// The label in metrics and the field in the log: the setting's own name, where it has one.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Descriptors => "descriptors",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::ConnectionsPerPrincipal => "connections_per_principal",
            Self::RequestsPerSecond => "requests_per_second",
            Self::UpstreamConnections => "upstream_connections",
        }
    }

    /// What becomes of those beyond it.
    const fn effect(self) -> &'static str {
        match self {
            Self::Connections => "new clients wait until a connection ends",
            Self::Handshakes => "new clients wait until a handshake ends",
            Self::Descriptors => "no connection is accepted",
            Self::ConnectionsPerAddress => "more connections from that address are closed",
            Self::ConnectionsPerPrincipal | Self::RequestsPerSecond => "the client is answered 429",
            Self::UpstreamConnections => "requests are answered 503 upstream_busy",
        }
    }

    /// The limit that a refusal says was reached.
    pub(super) fn of_refusal(refusal: &Refusal) -> Option<Self> {
        match refusal {
            Refusal::TooManyRequests(_) => Some(Self::RequestsPerSecond),
            Refusal::TooManyConnections => Some(Self::ConnectionsPerPrincipal),
            Refusal::Upstream(UpstreamError::Busy(_)) => Some(Self::UpstreamConnections),
            _ => None,
        }
    }
}

/// The limits of one listener, for all of its threads.
pub struct ListenerLimits {
    listener: &'static str,
    clock: Clock,
    /// By [`Limit`], like all of these: the setting and its value.
    settings: [String; 7],
    reached: [IntCounter; 7],
    lines: Arc<LineLimiter>,
    /// In how many threads it keeps somebody waiting.
    lasting: [AtomicUsize; 7],
}

impl ListenerLimits {
    /// None of them reached. `connections` and `handshakes` say what sets these two, and how many it allows.
    pub fn new(
        listener: &'static str,
        limits: &Limits,
        [connections, handshakes]: [String; 2],
        clock: Clock,
        metrics: &Metrics,
    ) -> Self {
        let of_each = |name, value| format!("gate.limits.{name} = {value}");
        let settings = [
            connections,
            handshakes,
            "file descriptors of the process (LimitNOFILE=)".to_owned(),
            of_each("connections_per_address", limits.connections_per_address),
            of_each("connections_per_principal", limits.connections_per_principal),
            of_each("requests_per_second", limits.requests_per_second),
            "upstream.NAME.connections, or file descriptors (LimitNOFILE=)".to_owned(),
        ];
        let counter = |limit: Limit| metrics.limits_reached.with_label_values(&[listener, limit.name()]);
        Self {
            listener,
            clock,
            settings,
            reached: Limit::ALL.map(counter),
            lines: Arc::default(),
            lasting: Default::default(),
        }
    }

    /// The same, with the lines of the log limited by `lines`, together with all others that clients cause.
    #[must_use]
    pub fn limiting_lines(self, lines: Arc<LineLimiter>) -> Self {
        Self { lines, ..self }
    }

    pub(super) fn listener(&self) -> &'static str {
        self.listener
    }

    /// Counts that a client was kept waiting or refused by a limit, and says so now and then.
    pub(super) fn reached(&self, limit: Limit) {
        let at = limit as usize;
        self.reached[at].inc();
        let line = if self.listener == "gate" { GATE_LINE } else { ADMIN_LINE };
        let (kind, now) = (LineKind::warning(line, limit.name()), self.clock.elapsed());
        if let Some(unsaid) = self.lines.admit(kind, LineSource::Unknown, now) {
            let (listener, setting, effect) = (self.listener, &self.settings[at], limit.effect());
            tracing::warn!(listener, limit = limit.name(), setting, effect, unsaid, "{line}");
        }
    }

    /// Notes that a limit is reached, until what comes back is dropped.
    pub(super) fn last(self: &Arc<Self>, limit: Limit) -> LastingLimit {
        self.reached(limit);
        self.lasting[limit as usize].fetch_add(1, Ordering::Relaxed);
        LastingLimit { limits: Arc::clone(self), limit }
    }

    /// The limits that keep clients waiting at present, in words.
    pub fn lasting(&self) -> Vec<String> {
        let lasts = |limit: &Limit| self.lasting[*limit as usize].load(Ordering::Relaxed) > 0;
        let words = |limit: Limit| {
            format!(
                "{}: a limit is reached ({}): {}",
                self.listener,
                self.settings[limit as usize],
                limit.effect()
            )
        };
        Limit::ALL.into_iter().filter(lasts).map(words).collect()
    }
}

/// A limit that is reached in one thread.
pub(super) struct LastingLimit {
    limits: Arc<ListenerLimits>,
    limit: Limit,
}

impl Drop for LastingLimit {
    fn drop(&mut self) {
        self.limits.lasting[self.limit as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn a_limit_is_counted_each_time_and_warned_of_while_it_lasts() {
        let metrics = Metrics::new().unwrap();
        let clock = Clock::manual(Timestamp::from_secs(1));
        let settings = ["gate.limits.connections = 8".into(), "gate.limits.handshakes = 4".into()];
        let limits = Arc::new(ListenerLimits::new("gate", &Limits::default(), settings, clock, &metrics));
        let (one, two) = (limits.last(Limit::Connections), limits.last(Limit::Connections));
        limits.reached(Limit::RequestsPerSecond);
        drop(one);
        let warnings = limits.lasting();
        assert_eq!(warnings.len(), 1);
        assert!(warnings.first().unwrap().contains("gate.limits.connections = 8"), "{warnings:?}");
        drop(two);
        assert!(limits.lasting().is_empty());
        let count = |limit: Limit| limits.reached[limit as usize].get();
        assert_eq!(
            (count(Limit::Connections), count(Limit::RequestsPerSecond), count(Limit::Handshakes)),
            (2, 1, 0)
        );
    }
}
