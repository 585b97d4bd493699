//! What operators see: metrics under one registry, and the log.
//!
//! Names: `mtls_*` and `cert_*` are those that mTLS runbooks alert on; everything of our own is `portcullis_*`.

mod access_log;
mod endpoint;
mod expiry;
mod limiter;
mod log;
mod log_queue;
mod network;
#[cfg(feature = "otel")]
mod otlp;
mod trace;
mod traffic;
mod warnings;

use prometheus::Encoder as _;
use prometheus::GaugeVec;
use prometheus::HistogramOpts;
use prometheus::HistogramVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::IntGaugeVec;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::TextEncoder;

pub use access_log::AccessConfig;
pub use access_log::AccessLines;
pub use access_log::AccessLog;
pub use access_log::AccessLogWriter;
pub use access_log::JsonLine;
pub use endpoint::Health;
pub use endpoint::serve;
pub use expiry::Expiries;
pub use limiter::LeftOut;
pub use limiter::LineKind;
pub use limiter::LineLimiter;
pub use limiter::LineSource;
pub use log::Format as LogFormat;
pub use log::LONGEST_NAME;
pub use log::LONGEST_REASON;
pub use log::Log;
pub use log::cut;
pub use log::init as init_log;
pub use log_queue::LostLines;
pub use network::network;
#[cfg(feature = "otel")]
pub use otlp::export;
pub use trace::Span;
pub use trace::TraceConfig;
pub use trace::TraceContext;
pub use trace::Tracer;
pub use traffic::TrafficMetrics;
pub use warnings::print as print_warnings;

/// Every metric of a process.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// `mtls_auth_total{result="success"|"failure"|"revoked", principal_type}`, one per request judged.
    pub auth: IntCounterVec,
    /// `mtls_cache_hits{type="certificate"|"principal"}`.
    pub cache_hits: IntCounterVec,
    /// `cert_expiry_days{principal_id, serial}` of certificates seen, and `portcullis_cert_expiry_left_out`.
    pub expiries: Expiries,
    /// `portcullis_refusals_total{code}`.
    pub refusals: IntCounterVec,
    /// `portcullis_passed_total{code}`: refusals that advisory mode or break-glass let pass.
    pub passed: IntCounterVec,
    /// `portcullis_handshakes_total{result="full"|"resumed"|"failed"}`.
    pub handshakes: IntCounterVec,
    /// `portcullis_limits_reached_total{listener, limit}`: limits that kept a client waiting, or refused it.
    pub limits_reached: IntCounterVec,
    /// `portcullis_limit_lasting{listener, limit}`: 1 while a limit keeps clients waiting.
    pub limit_lasting: IntGaugeVec,
    /// `portcullis_connections_evicted_total{listener, phase="silent"|"waiting"|"handshake"|"idle"|"unvouched"}`.
    pub evicted: IntCounterVec,
    /// `portcullis_sessions`: live now.
    pub sessions: IntGauge,
    /// `portcullis_sessions_ended_total{cause}`: ended by the gate, not by their peers.
    pub sessions_ended: IntCounterVec,
    /// Of requests and sessions.
    pub traffic: TrafficMetrics,
    /// `portcullis_revocation_events_total{feed, action, level}`.
    pub events: IntCounterVec,
    /// `portcullis_revocation_unknown_targets_total{feed, level}`: events of targets that the gate had never seen.
    pub unknown_targets: IntCounterVec,
    /// `portcullis_revocation_events_overtaken_total{feed, action}`: events that a later one of their target outranks.
    pub overtaken: IntCounterVec,
    /// `portcullis_revocation_entries`: targets revoked or suspended.
    pub entries: IntGauge,
    /// `portcullis_revocation_generation`.
    pub generation: IntGauge,
    /// `portcullis_revocation_enforced_seconds{feed, stage="received"|"effective"|"enforced"|"durable"|"acknowledged"}`:
    /// from an event's `at`; of a revocation list, from its `thisUpdate`.
    pub enforced: HistogramVec,
    /// Of each feed.
    pub feeds: FeedMetrics,
    /// `portcullis_journal_durable`: 1 while everything in effect is on disk.
    pub durable: IntGauge,
    /// `portcullis_audit_damages`: places where the audit is damaged, without those that are accepted.
    pub audit_damages: IntGauge,
    /// `portcullis_advisory`: 1 while break-glass lasts.
    pub advisory: IntGauge,
    /// `portcullis_advisory_remaining_seconds`: until it ends by itself.
    pub advisory_remaining: IntGauge,
    /// Of each upstream.
    pub upstream: UpstreamMetrics,
    /// `portcullis_start_time_seconds`.
    pub started: IntGauge,
}

impl Metrics {
    /// Fresh metrics, all registered.
    pub fn new() -> Result<Self, prometheus::Error> {
        Self::beside(&LostLines::new()?)
    }

    /// Fresh metrics, and the lost lines of a log that runs already.
    pub fn beside(lost: &LostLines) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(lost.counters().clone()))?;
        let maker = Maker(&registry);
        Ok(Self {
            auth: maker.auth()?,
            cache_hits: maker.cache_hits()?,
            expiries: Expiries::new(
                maker.expiry()?,
                maker.gauge("portcullis_cert_expiry_left_out", "Certificates seen that have no series.")?,
            ),
            refusals: maker.counters("portcullis_refusals_total", "Refusals, by code.", &["code"])?,
            passed: maker.counters(
                "portcullis_passed_total",
                "Refusals that advisory mode or break-glass let pass.",
                &["code"],
            )?,
            handshakes: maker.counters(
                "portcullis_handshakes_total",
                "TLS handshakes, by result.",
                &["result"],
            )?,
            limits_reached: maker.limits_reached()?,
            limit_lasting: maker.limit_lasting()?,
            evicted: maker.evicted()?,
            sessions: maker.gauge("portcullis_sessions", "Live sessions.")?,
            sessions_ended: maker.sessions_ended()?,
            traffic: TrafficMetrics::new(&maker)?,
            events: maker.events()?,
            unknown_targets: maker.unknown_targets()?,
            overtaken: maker.overtaken()?,
            entries: maker.gauge("portcullis_revocation_entries", "Targets revoked or suspended.")?,
            generation: maker
                .gauge("portcullis_revocation_generation", "Generation of the revocation set.")?,
            enforced: maker.enforced()?,
            feeds: FeedMetrics::new(&maker)?,
            durable: maker.gauge("portcullis_journal_durable", "1 while everything in effect is on disk.")?,
            audit_damages: maker.gauge(
                "portcullis_audit_damages",
                "Places where the audit is damaged, without those that are accepted.",
            )?,
            advisory: maker.gauge("portcullis_advisory", "1 while break-glass lasts: nothing is refused.")?,
            advisory_remaining: maker
                .gauge("portcullis_advisory_remaining_seconds", "Until break-glass ends by itself.")?,
            upstream: UpstreamMetrics::new(&maker)?,
            started: maker
                .gauge("portcullis_start_time_seconds", "When the process started, Unix seconds.")?,
            registry,
        })
    }

    /// All of them, in the text format of Prometheus.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing into memory cannot fail; a metric that cannot be encoded is left out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

/// What is told of each upstream.
#[derive(Clone)]
pub struct UpstreamMetrics {
    /// `portcullis_upstream_connections{upstream}`: open.
    pub connections: IntGaugeVec,
    /// `portcullis_upstream_waiting{upstream}`: requests that wait for a connection.
    pub waiting: IntGaugeVec,
    /// `portcullis_upstream_requests_total{upstream, status="1xx"..."5xx"}`: answered.
    pub requests: IntCounterVec,
    /// `portcullis_upstream_retries_total{upstream, result="sent"|"over_budget"}`.
    pub retries: IntCounterVec,
    /// `portcullis_upstream_failures_total{upstream, endpoint}`: no connection, no answer in time, an answer broken off.
    pub failures: IntCounterVec,
    /// `portcullis_upstream_endpoint_up{upstream, endpoint}`: 0 while it is ill or rests.
    pub endpoint_up: IntGaugeVec,
}

impl UpstreamMetrics {
    fn new(maker: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            connections: maker.gauges(
                "portcullis_upstream_connections",
                "Open upstream connections.",
                &["upstream"],
            )?,
            waiting: maker.gauges(
                "portcullis_upstream_waiting",
                "Requests that wait for an upstream connection.",
                &["upstream"],
            )?,
            requests: maker.counters(
                "portcullis_upstream_requests_total",
                "Requests that an upstream has answered, by class of status.",
                &["upstream", "status"],
            )?,
            retries: maker.counters(
                "portcullis_upstream_retries_total",
                "Requests that were sent again, or not for lack of budget.",
                &["upstream", "result"],
            )?,
            failures: maker.counters(
                "portcullis_upstream_failures_total",
                "Failures of an upstream's endpoint.",
                &["upstream", "endpoint"],
            )?,
            endpoint_up: maker.gauges(
                "portcullis_upstream_endpoint_up",
                "0 while an upstream's endpoint is ill or rests.",
                &["upstream", "endpoint"],
            )?,
        })
    }
}

/// What is told of each feed.
#[derive(Clone)]
pub struct FeedMetrics {
    /// `portcullis_feed_polls_total{feed, result="ok"|"failed"}`: looks at where a feed's news is.
    pub polls: IntCounterVec,
    /// `portcullis_feed_messages_total{feed, format, result}`: messages of a queue. `format` is what they were recognised
    /// as, `unknown` if as nothing; `result` is `applied`, `ignored`, `refused`, `poison` or `quarantined`.
    pub messages: IntCounterVec,
    /// `portcullis_feed_poison_total{feed, kind}`: parts of messages that are not understood, by what is wrong with them.
    pub poison: IntCounterVec,
    /// `portcullis_feed_age_seconds{feed}`: since it was read last; `+Inf` if never.
    pub age: GaugeVec,
    /// `portcullis_feed_fresh{feed}`: 1 while it is.
    pub fresh: GaugeVec,
    /// `portcullis_feed_entries{feed}`: what a list holds; what a queue has brought.
    pub entries: GaugeVec,
    /// `portcullis_feed_last_error_seconds{feed}`: how long ago it failed, until it is read again.
    pub last_error: GaugeVec,
    /// `portcullis_crl_next_update_seconds{feed}`: until its list is out of date; negative after.
    pub next_update: GaugeVec,
}

impl FeedMetrics {
    fn new(maker: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            polls: maker.counters(
                "portcullis_feed_polls_total",
                "Looks at where a feed's news is, by result.",
                &["feed", "result"],
            )?,
            messages: maker.counters(
                "portcullis_feed_messages_total",
                "Messages of a queue, by format and result.",
                &["feed", "format", "result"],
            )?,
            poison: maker.counters(
                "portcullis_feed_poison_total",
                "Parts of messages that are not understood, by what is wrong with them.",
                &["feed", "kind"],
            )?,
            age: maker.of_feed("portcullis_feed_age_seconds", "Since a feed was read last.")?,
            fresh: maker.of_feed("portcullis_feed_fresh", "1 while a feed is fresh.")?,
            entries: maker.of_feed("portcullis_feed_entries", "What a feed holds, or has brought.")?,
            last_error: maker.of_feed(
                "portcullis_feed_last_error_seconds",
                "Since a feed failed, until it is read again.",
            )?,
            next_update: maker
                .of_feed("portcullis_crl_next_update_seconds", "Until a revocation list is out of date.")?,
        })
    }
}

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn auth(&self) -> Result<IntCounterVec, prometheus::Error> {
        self.counters("mtls_auth_total", "Requests judged, by result.", &["result", "principal_type"])
    }

    fn cache_hits(&self) -> Result<IntCounterVec, prometheus::Error> {
        self.counters("mtls_cache_hits", "Verified chains and identities used again.", &["type"])
    }

    fn sessions_ended(&self) -> Result<IntCounterVec, prometheus::Error> {
        let help = "Sessions that the gate ended, by cause.";
        self.counters("portcullis_sessions_ended_total", help, &["cause"])
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let counter = IntCounter::new(name, help)?;
        self.0.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let gauge = IntGauge::new(name, help)?;
        self.0.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn of_feed(&self, name: &str, help: &str) -> Result<GaugeVec, prometheus::Error> {
        let gauges = GaugeVec::new(Opts::new(name, help), &["feed"])?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn expiry(&self) -> Result<GaugeVec, prometheus::Error> {
        let opts = Opts::new("cert_expiry_days", "Days until a certificate that was seen expires.");
        let gauges = GaugeVec::new(opts, &["principal_id", "serial"])?;
        self.0.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    fn events(&self) -> Result<IntCounterVec, prometheus::Error> {
        let help = "Revocation events taken in.";
        self.counters("portcullis_revocation_events_total", help, &["feed", "action", "level"])
    }

    fn unknown_targets(&self) -> Result<IntCounterVec, prometheus::Error> {
        let help = "Events of targets that the gate had never seen.";
        self.counters("portcullis_revocation_unknown_targets_total", help, &["feed", "level"])
    }

    fn overtaken(&self) -> Result<IntCounterVec, prometheus::Error> {
        let help = "Revocation events that a later event of their target outranks.";
        self.counters("portcullis_revocation_events_overtaken_total", help, &["feed", "action"])
    }

    fn limits_reached(&self) -> Result<IntCounterVec, prometheus::Error> {
        let help = "Limits that kept a client waiting, or refused it.";
        self.counters("portcullis_limits_reached_total", help, &["listener", "limit"])
    }

    fn limit_lasting(&self) -> Result<IntGaugeVec, prometheus::Error> {
        let help = "1 while a limit keeps clients waiting.";
        self.gauges("portcullis_limit_lasting", help, &["listener", "limit"])
    }

    fn evicted(&self) -> Result<IntCounterVec, prometheus::Error> {
        let help = "Connections that made room for others, by what they were at.";
        self.counters("portcullis_connections_evicted_total", help, &["listener", "phase"])
    }

    fn enforced(&self) -> Result<HistogramVec, prometheus::Error> {
        let help = "From a revocation's decision to its enforcement, by feed and stage.";
        // From 1 µs to 1 h, a factor of 2.6 apart at most.
        let decades = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0];
        let mut buckets: Vec<f64> = decades.iter().flat_map(|one| [*one, one * 2.5, one * 5.0]).collect();
        buckets.extend([10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0]);
        let opts = HistogramOpts::new("portcullis_revocation_enforced_seconds", help).buckets(buckets);
        self.histograms(opts, &["feed", "stage"])
    }

    fn histograms(&self, opts: HistogramOpts, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        let histograms = HistogramVec::new(opts, labels)?;
        self.0.register(Box::new(histograms.clone()))?;
        Ok(histograms)
    }
}
