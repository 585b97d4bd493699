//! What operators see: metrics under one registry, and the log.
//!
//! Names: `mtls_*` and `cert_*` are those that mTLS runbooks alert on; everything of our own is `portcullis_*`.

mod endpoint;
mod log;

use prometheus::Encoder as _;
use prometheus::Gauge;
use prometheus::GaugeVec;
use prometheus::HistogramOpts;
use prometheus::HistogramVec;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::TextEncoder;

pub use endpoint::Health;
pub use endpoint::serve;
pub use log::Format as LogFormat;
pub use log::init as init_log;

/// The series of `cert_expiry_days` at most: a million principals do not make a million series.
pub const MAX_CERTIFICATE_SERIES: usize = 1000;

/// Every metric of a process.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// `mtls_auth_total{result="success"|"failure"|"revoked", principal_type}`, one per request judged.
    pub auth: IntCounterVec,
    /// `mtls_cache_hits{type="certificate"|"principal"}`.
    pub cache_hits: IntCounterVec,
    /// `cert_expiry_days{principal_id, serial}` of certificates seen.
    pub cert_expiry_days: GaugeVec,
    /// `portcullis_refusals_total{code}`.
    pub refusals: IntCounterVec,
    /// `portcullis_handshakes_total{result="full"|"resumed"|"failed"}`.
    pub handshakes: IntCounterVec,
    /// `portcullis_sessions`: live now.
    pub sessions: IntGauge,
    /// `portcullis_sessions_ended_total{cause}`: ended by the gate, not by their peers.
    pub sessions_ended: IntCounterVec,
    /// `portcullis_revocation_events_total{feed, action, level}`.
    pub events: IntCounterVec,
    /// `portcullis_revocation_entries`: targets revoked or suspended.
    pub entries: IntGauge,
    /// `portcullis_revocation_generation`.
    pub generation: IntGauge,
    /// `portcullis_revocation_enforced_seconds{feed, stage="enforced"|"durable"}`: from an event's `at`.
    pub enforced: HistogramVec,
    /// `portcullis_journal_durable`: 1 while everything in effect is on disk.
    pub durable: IntGauge,
    /// `portcullis_upstream_connections`: open to upstreams.
    pub upstream_connections: IntGauge,
    /// `portcullis_start_time_seconds`.
    pub started: Gauge,
}

impl Metrics {
    /// Fresh metrics, all registered.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let seconds = prometheus::exponential_buckets(0.000_1, 2.0, 20)?;
        let enforced = "From a revocation's decision to its enforcement, by feed and stage.";
        let enforced =
            HistogramOpts::new("portcullis_revocation_enforced_seconds", enforced).buckets(seconds);
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let expiry = Opts::new(
            "cert_expiry_days",
            "Days until a certificate that was seen expires.",
        );
        let metrics = Self {
            auth: counter(
                "mtls_auth_total",
                "Requests judged, by result.",
                &["result", "principal_type"],
            )?,
            cache_hits: counter(
                "mtls_cache_hits",
                "Verified chains and identities used again.",
                &["type"],
            )?,
            cert_expiry_days: GaugeVec::new(expiry, &["principal_id", "serial"])?,
            refusals: counter("portcullis_refusals_total", "Refusals, by code.", &["code"])?,
            handshakes: counter(
                "portcullis_handshakes_total",
                "TLS handshakes, by result.",
                &["result"],
            )?,
            sessions: gauge("portcullis_sessions", "Live sessions.")?,
            sessions_ended: counter(
                "portcullis_sessions_ended_total",
                "Sessions that the gate ended.",
                &["cause"],
            )?,
            events: counter(
                "portcullis_revocation_events_total",
                "Revocation events taken in.",
                &["feed", "action", "level"],
            )?,
            entries: gauge("portcullis_revocation_entries", "Targets revoked or suspended.")?,
            generation: gauge(
                "portcullis_revocation_generation",
                "Generation of the revocation set.",
            )?,
            enforced: HistogramVec::new(enforced, &["feed", "stage"])?,
            durable: gauge(
                "portcullis_journal_durable",
                "1 while everything in effect is on disk.",
            )?,
            upstream_connections: gauge("portcullis_upstream_connections", "Open upstream connections.")?,
            started: Gauge::new(
                "portcullis_start_time_seconds",
                "When the process started, Unix seconds.",
            )?,
            registry: registry.clone(),
        };
        registry.register(Box::new(metrics.cert_expiry_days.clone()))?;
        registry.register(Box::new(metrics.enforced.clone()))?;
        registry.register(Box::new(metrics.started.clone()))?;
        Ok(metrics)
    }

    /// All of them, in the text format of Prometheus.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing into memory cannot fail; a metric that cannot be encoded is left out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}
