//! Refusals: the only place where one becomes a status, a code, a log line and a metric.

use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header::CONNECTION;
use http::header::CONTENT_TYPE;
use http::header::RETRY_AFTER;

use serde_json::json;

use super::Body;
use super::Dialect;
use super::Exchange;
use super::Peer;
use super::RequestId;
use super::accounts::retry_after;
use super::body::BodyError;
use super::presented::Presented;
use super::upstream::UpstreamError;
use crate::identity;
use crate::problem;
use crate::problem::Disclose;
use crate::problem::Problem;
use crate::revocation::Denial;
use crate::revocation::Level;
use crate::revocation::Stale;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::LONGEST_REASON;
use crate::telemetry::LineKind;
use crate::telemetry::Metrics;
use crate::telemetry::cut;

/// The message of a refusal for what is revoked or suspended.
pub(super) const REVOKED: &str = "authentication error: revoked certificate";
/// That of any other refusal about identity.
const UNAUTHENTICATED: &str = "authentication error";
/// That of a client that takes too much.
const REFUSED: &str = "request refused";
/// That of all others.
const FAILED: &str = "request failed";

/// Why a request was not served.
#[derive(Debug)]
pub enum Refusal {
    /// Something of the credential is revoked or suspended.
    Denied(Denial),
    /// The certificate, or one on its path, has expired since the handshake.
    Expired,
    /// The chain that a resumed session brought back does not verify any more.
    Untrusted(identity::ChainError),
    /// A feed that its credential depends on has not been read for too long.
    Stale(Stale),
    /// A certificate is required here.
    MtlsRequired(StatusCode),
    /// The names in the certificate, or the claim of the request, are not accepted.
    Identity(identity::Error),
    /// The request cannot be understood in one way only.
    Malformed(&'static str),
    /// A method that a reverse proxy does not serve.
    Method,
    /// No route leads there.
    NoRoute,
    /// The request has passed this gate before.
    Loop,
    /// The client stopped in the middle of its request.
    RequestTimeout,
    /// Its client asks too often; what it may do again after so long.
    TooManyRequests(Duration),
    /// Its client has too many connections.
    TooManyConnections,
    /// Its target is too long.
    UriTooLong,
    /// Its header is larger than the upstream takes.
    HeaderTooLarge,
    /// Its body is too large.
    BodyTooLarge,
    /// The upstream gave no answer.
    Upstream(UpstreamError),
}

impl Refusal {
    /// What became of sending a request upstream.
    pub(super) fn of_upstream(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Host(_) => return Self::Malformed("a Host that is none"),
            UpstreamError::Header(_) => return Self::HeaderTooLarge,
            _ => {}
        }
        match error.of_body() {
            Some(BodyError::Idle) => Self::RequestTimeout,
            Some(BodyError::TooLarge) => Self::BodyTooLarge,
            Some(BodyError::Broken) => Self::Malformed("its body cannot be read, or was broken off"),
            Some(BodyError::Killed) | None => Self::Upstream(error),
        }
    }

    /// Whether it concerns who the client is, so that advisory mode lets it pass.
    pub(super) fn is_about_identity(&self) -> bool {
        match self {
            Self::Denied(_)
            | Self::Expired
            | Self::Untrusted(_)
            | Self::Stale(_)
            | Self::MtlsRequired(_)
            | Self::Identity(_) => true,
            Self::Malformed(_)
            | Self::Method
            | Self::NoRoute
            | Self::Loop
            | Self::RequestTimeout
            | Self::TooManyRequests(_)
            | Self::TooManyConnections
            | Self::UriTooLong
            | Self::HeaderTooLarge
            | Self::BodyTooLarge
            | Self::Upstream(_) => false,
        }
    }

    /// The status that a client of a route with this dialect sees.
    fn status_in(&self, dialect: Dialect) -> StatusCode {
        match (dialect, self) {
            (Dialect::Portcullis, _) | (Dialect::Claw, Self::Stale(_)) => self.status().0,
            _ if self.is_about_identity() => StatusCode::UNAUTHORIZED,
            _ => self.status().0,
        }
    }

    /// What a client is told by a route whose upstreams speak as the runbook's services do: always 401.
    fn in_runbook(&self, disclose: Disclose) -> String {
        use identity::Error as Id;
        let (message, detail) = match self {
            Self::Denied(denial) => match (denial.level, denial.suspended) {
                (Level::Principal, false) => ("principal deleted", ""),
                // There a certificate is revoked or it is not.
                (Level::Certificate | Level::Key | Level::Issuer, _) | (_, false) => {
                    ("certificate revoked", denial.reason.as_str())
                }
                (_, true) => ("principal suspended", denial.reason.as_str()),
            },
            Self::Identity(Id::Foreign(name)) => ("principal not found", name.as_str()),
            Self::Identity(Id::Mismatch { claimed, .. }) => ("principal mismatch", claimed.as_str()),
            Self::Identity(Id::Unclaimed) => ("principal required", ""),
            Self::Stale(_) => ("revocation state unavailable", ""),
            _ => ("valid client certificate required", ""),
        };
        let message = match disclose {
            Disclose::None => "unauthorized".to_owned(),
            Disclose::Reason if !detail.is_empty() => format!("{message}: {detail}"),
            Disclose::Code | Disclose::Reason => message.to_owned(),
        };
        json!({ "error": message }).to_string()
    }

    /// What a client is told by a route whose upstreams speak as clawdentity's proxy does.
    fn in_claw(&self, id: RequestId, disclose: Disclose) -> String {
        use identity::Error as Id;
        let code = match self {
            // The status says as much.
            Self::Stale(_) => "PROXY_AUTH_DEPENDENCY_UNAVAILABLE",
            _ if disclose == Disclose::None => "PROXY_AUTH_REFUSED",
            Self::Denied(denial) if denial.suspended => "PROXY_AUTH_SUSPENDED",
            Self::Denied(_) => "PROXY_AUTH_REVOKED",
            Self::MtlsRequired(_) => "PROXY_AUTH_MISSING",
            Self::Expired => "PROXY_AUTH_EXPIRED",
            Self::Identity(Id::Mismatch { .. } | Id::Unclaimed) => "PROXY_AUTH_MISMATCH",
            _ => "PROXY_AUTH_INVALID",
        };
        let message = match disclose {
            Disclose::None => "refused".to_owned(),
            Disclose::Code => self.status().1.replace('_', " "),
            Disclose::Reason => self.reason(),
        };
        let error = json!({ "code": code, "message": message, "requestId": id.to_string() });
        json!({ "error": error }).to_string()
    }

    /// The status, media type and body that a client is answered with. Only refusals about identity have dialects.
    fn told(&self, told: Told) -> (StatusCode, &'static str, Vec<u8>) {
        let Told { id, disclose, dialect } = told;
        let dialect = if self.is_about_identity() { dialect } else { Dialect::Portcullis };
        let body = match dialect {
            Dialect::Portcullis => {
                let (status, code) = self.status();
                let problem = Problem { status, code, reason: self.reason(), request_id: id.to_string() };
                return (status, problem::CONTENT_TYPE, problem.to_json(disclose));
            }
            Dialect::Runbook => self.in_runbook(disclose),
            Dialect::Claw => self.in_claw(id, disclose),
        };
        (self.status_in(dialect), "application/json", format!("{body}\n").into_bytes())
    }

    /// Whether nothing more can be said on this connection: its credential is dead, or it is one too many.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Expired | Self::Untrusted(_) | Self::TooManyConnections)
    }

    /// After how long to try again, where its client takes too much.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests(wait) => Some(*wait),
            Self::TooManyConnections => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The status and the code.
    pub fn status(&self) -> (StatusCode, &'static str) {
        use identity::Error as Id;
        match self {
            Self::Denied(denial) if denial.suspended => (StatusCode::UNAUTHORIZED, denial.code()),
            Self::Denied(denial) => (StatusCode::FORBIDDEN, denial.code()),
            Self::Expired => (StatusCode::FORBIDDEN, "certificate_expired"),
            Self::Untrusted(identity::ChainError::TooManyFailures) => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_failures")
            }
            Self::Untrusted(_) => (StatusCode::FORBIDDEN, "certificate_untrusted"),
            Self::Stale(_) => (StatusCode::SERVICE_UNAVAILABLE, "revocation_state_stale"),
            Self::MtlsRequired(status) => (*status, "mtls_required"),
            Self::Identity(Id::Ambiguous(_)) => (StatusCode::FORBIDDEN, "identity_ambiguous"),
            Self::Identity(Id::Foreign(_)) => (StatusCode::FORBIDDEN, "trust_domain_denied"),
            Self::Identity(Id::Mismatch { .. }) => (StatusCode::FORBIDDEN, "identity_mismatch"),
            Self::Identity(Id::Unclaimed) => (StatusCode::FORBIDDEN, "identity_unclaimed"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Method => (StatusCode::NOT_IMPLEMENTED, "method_not_supported"),
            Self::NoRoute => (StatusCode::NOT_FOUND, "no_route"),
            Self::Loop => (StatusCode::LOOP_DETECTED, "loop_detected"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::TooManyRequests(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            Self::TooManyConnections => (StatusCode::TOO_MANY_REQUESTS, "too_many_connections"),
            Self::UriTooLong => (StatusCode::URI_TOO_LONG, "uri_too_long"),
            Self::HeaderTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "header_too_large"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::Upstream(UpstreamError::AnswerTimeout(_) | UpstreamError::ConnectTimeout(_)) => {
                (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout")
            }
            Self::Upstream(UpstreamError::Busy(_)) => (StatusCode::SERVICE_UNAVAILABLE, "upstream_busy"),
            Self::Upstream(UpstreamError::Ill(_)) => (StatusCode::SERVICE_UNAVAILABLE, "upstream_unhealthy"),
            Self::Upstream(_) => (StatusCode::BAD_GATEWAY, "upstream_failed"),
        }
    }

    /// The reason in words.
    pub fn reason(&self) -> String {
        match self {
            Self::Denied(denial) if denial.reason.is_empty() => denial.code().replace('_', " "),
            Self::Denied(denial) => format!("{}: {}", denial.code().replace('_', " "), denial.reason),
            Self::Expired => "the client certificate, or one on its path, has expired".into(),
            Self::Untrusted(error) => error.to_string(),
            Self::Stale(stale) => stale.to_string(),
            Self::MtlsRequired(_) => "valid client certificate required".into(),
            Self::Identity(error) => error.to_string(),
            Self::Malformed(why) => format!("malformed request: {why}"),
            Self::Method => "CONNECT and TRACE are not served".into(),
            Self::NoRoute => "no route leads there".into(),
            Self::Loop => "the request has passed this gate before: its upstream leads back here".into(),
            Self::RequestTimeout => "the request made no progress, or too little".into(),
            Self::TooManyRequests(_) => "too many requests of this client".into(),
            Self::TooManyConnections => "too many connections of this client".into(),
            Self::UriTooLong => "the request's target is too long".into(),
            Self::HeaderTooLarge => "the request's header is too large".into(),
            Self::BodyTooLarge => "the request's body is too large".into(),
            Self::Upstream(error) => {
                let (mut text, mut source) = (error.to_string(), error.source());
                while let Some(cause) = source {
                    text = format!("{text}: {cause}");
                    source = cause.source();
                }
                text
            }
        }
    }

    /// The kind of its line in the log.
    pub(super) fn line(&self) -> LineKind {
        LineKind::warning(self.message(), self.status().1)
    }

    fn message(&self) -> &'static str {
        match self {
            Self::Denied(_) => REVOKED,
            _ if self.is_about_identity() => UNAUTHENTICATED,
            Self::TooManyRequests(_) | Self::TooManyConnections => REFUSED,
            _ => FAILED,
        }
    }

    /// The result that `mtls_auth_total` counts it under.
    fn result(&self) -> &'static str {
        if matches!(self, Self::Denied(_)) { "revoked" } else { "failure" }
    }
}

/// Whom a refusal concerns, for the log.
pub(super) struct Concerned<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) peer: Option<&'a Peer>,
    /// Who the client says that it is, where its chain does not verify.
    pub(super) presented: Option<&'a Presented>,
    pub(super) address: SocketAddr,
    pub(super) passed: Passed,
    pub(super) dialect: Dialect,
    /// How many like it were left out of the log before; `None`: so is this one.
    pub(super) unsaid: Option<u64>,
}

/// How much of a refusal its client is told, and in which words.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) id: RequestId,
    pub(super) disclose: Disclose,
    pub(super) dialect: Dialect,
}

/// Whether a refused request was let through all the same, by advisory mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    Yes,
    No,
}

/// Counts a refusal, and writes its line.
pub(super) fn report(refusal: &Refusal, concerned: &Concerned<'_>, metrics: &Metrics) {
    let (_, code) = refusal.status();
    let counted = if concerned.passed == Passed::Yes { &metrics.passed } else { &metrics.refusals };
    counted.with_label_values(&[code]).inc();
    if refusal.is_about_identity() {
        let kind = concerned.peer.map_or("none", Peer::kind);
        metrics.auth.with_label_values(&[refusal.result(), kind]).inc();
    }
    if let Some(unsaid) = concerned.unsaid {
        log(refusal, concerned, unsaid);
    }
}

fn log(refusal: &Refusal, concerned: &Concerned<'_>, unsaid: u64) {
    let Concerned { exchange, peer, presented, address, .. } = concerned;
    let (request_id, passed, reason) = (exchange.id(), concerned.passed == Passed::Yes, refusal.reason());
    let (_, code) = refusal.status();
    let status = refusal.status_in(concerned.dialect).as_u16();
    let (principal_id, reason) =
        (&*cut(peer.map_or("", Peer::principal), LONGEST_NAME), &*cut(&reason, LONGEST_REASON));
    let serial = peer.map_or("", |peer| peer.chain.leaf.serial.as_str());
    let ((host, path), route) = (exchange.target(), exchange.route());
    match refusal {
        Refusal::Denied(denial) => tracing::warn!(
            %request_id, %address, status, code, principal_id, serial, route, host, path, passed,
            revocation_reason = &*cut(&denial.reason, LONGEST_REASON), unsaid, "{REVOKED}"
        ),
        Refusal::TooManyRequests(_) | Refusal::TooManyConnections => {
            tracing::warn!(
                %request_id, %address, status, code, principal_id, route, host, path, unsaid, "{REFUSED}"
            );
        }
        _ if !refusal.is_about_identity() => {
            tracing::warn!(
                %request_id, %address, status, code, principal_id, route, host, path, reason, unsaid, "{FAILED}"
            );
        }
        _ => tracing::warn!(
            %request_id, %address, status, code, principal_id, serial, route, host, path, passed, reason,
            presented_id = presented.map(|presented| presented.id.as_str()),
            presented_serial = presented.map(|presented| presented.serial.as_str()),
            unsaid, "{UNAUTHENTICATED}"
        ),
    }
}

/// The answer to a refused request. `close` ends an HTTP/1.1 connection after it.
pub(super) fn respond(refusal: &Refusal, told: Told, close: bool) -> Response<Body> {
    let (status, media_type, body) = refusal.told(told);
    let mut response = Response::new(Body::Whole(Some(Bytes::from(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    if let Some(wait) = refusal.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(retry_after(wait)));
    }
    if close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
