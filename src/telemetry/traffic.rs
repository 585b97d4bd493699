//! What is counted of requests and sessions.

use prometheus::HistogramOpts;
use prometheus::HistogramTimer;
use prometheus::HistogramVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;

use super::Maker;

/// What is counted of requests and sessions.
#[derive(Clone)]
pub struct TrafficMetrics {
    /// `portcullis_requests_total{listener, protocol, status="1xx".."5xx"}`; up to a second old, as the next two are.
    pub requests: IntCounterVec,
    /// `portcullis_request_seconds{listener}`: from a request's header to the end of its answer.
    pub request_seconds: HistogramVec,
    /// `portcullis_streams`: open HTTP/2 streams.
    pub streams: IntGauge,
    /// `portcullis_tunnels`: open tunnels.
    pub tunnels: IntGauge,
    /// `portcullis_sessions_opened_total{listener, protocol}`.
    pub sessions_opened: IntCounterVec,
    /// `portcullis_session_seconds{listener}`: how long sessions were, however they ended.
    pub session_seconds: HistogramVec,
    /// `portcullis_access_log_lost_total`: lines that were not written.
    pub access_log_lost: IntCounter,
    /// `portcullis_spans_lost_total`: spans that were not exported.
    pub spans_lost: IntCounter,
}

impl TrafficMetrics {
    pub(super) fn new(maker: &Maker<'_>) -> Result<Self, prometheus::Error> {
        // From half a millisecond to a minute.
        let requests = [1e-3, 1e-2, 0.1, 1.0].into_iter().flat_map(|one| [one * 0.5, one, one * 2.5]);
        let requests = requests.chain([5.0, 10.0, 30.0, 60.0]).collect();
        let sessions = vec![0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0];
        let histograms = |name: &str, help: &str, buckets| {
            maker.histograms(HistogramOpts::new(name, help).buckets(buckets), &["listener"])
        };
        Ok(Self {
            requests: maker.counters(
                "portcullis_requests_total",
                "Requests answered, by class of status.",
                &["listener", "protocol", "status"],
            )?,
            request_seconds: histograms(
                "portcullis_request_seconds",
                "From a request's header to the end of its answer.",
                requests,
            )?,
            streams: maker.gauge("portcullis_streams", "Open HTTP/2 streams.")?,
            tunnels: maker.gauge("portcullis_tunnels", "Open tunnels.")?,
            sessions_opened: maker.counters(
                "portcullis_sessions_opened_total",
                "Sessions that began.",
                &["listener", "protocol"],
            )?,
            session_seconds: histograms("portcullis_session_seconds", "How long sessions were.", sessions)?,
            access_log_lost: maker
                .counter("portcullis_access_log_lost_total", "Lines of the access log that were lost.")?,
            spans_lost: maker.counter("portcullis_spans_lost_total", "Spans that were not exported.")?,
        })
    }

    /// A session begins; what is returned tells how long it was when it is dropped.
    pub fn session(&self, listener: &str, protocol: &str) -> HistogramTimer {
        self.sessions_opened.with_label_values(&[listener, protocol]).inc();
        self.session_seconds.with_label_values(&[listener]).start_timer()
    }
}
