//! The one shape in which the API says no.

use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use axum::response::Response;
use http::HeaderValue;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::header::RETRY_AFTER;
use http::header::WWW_AUTHENTICATE;
use serde::Serialize;
use serde_json::json;
use utoipa::IntoResponses;
use utoipa::ToSchema;

use super::names::Obstacle;
use super::names::OtherNames;
use crate::problem;
use crate::problem::Problem;
use crate::revocation;
use crate::revocation::AmbiguousIssuer;
use crate::revocation::Target;

/// The longest reason in words, characters: it is answered, logged and audited.
const MAX_REASON: usize = 512;
/// Entries, and principals, that a reason names.
const MAX_NAMED: usize = 3;

/// Why a call is refused. As a response it is unfinished: the gatekeeper gives it its request id and its audit line.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) reason: String,
    /// What the call was about, where it got that far.
    pub(super) about: Option<Box<About>>,
    pub(super) retry_after: Option<Duration>,
    /// Of a reinstatement: the entries that still refuse its principal.
    pub(super) others: Option<Box<OtherNames>>,
}

/// What a refused call was about.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) action: &'static str,
    pub(super) target: Option<Target>,
    /// The id of an event that is on record already.
    pub(super) event: Option<String>,
}

/// A problem document (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument {
    /// `urn:portcullis:error:CODE`.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What went wrong, in words.
    error: String,
    /// The machine-readable code.
    code: String,
    /// What went wrong, in words.
    detail: String,
    /// What the log and the audit call the request.
    request_id: String,
    /// Of a reinstatement that lifted nothing: the entries that still refuse the same principal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    still_refused: Vec<Obstacle>,
    /// Other principals that share a name with those entries, and that `all_names` lets in as well unless another entry
    /// refuses them; the first hundred.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    also_lets_in: Vec<String>,
}

/// How every call may be refused.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers")]
pub(super) enum Refusals {
    /// Malformed; nothing was changed.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemDocument),
    /// No credential that counts.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(ProblemDocument),
    /// Not by this caller.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(ProblemDocument),
    /// Too many calls.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(ProblemDocument),
}

/// How a call that has a body may be refused besides.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers")]
pub(super) enum BodyRefusals {
    /// The body made no progress.
    #[response(status = 408, content_type = "application/problem+json")]
    Timeout(ProblemDocument),
    /// Too long.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemDocument),
    /// Not JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(ProblemDocument),
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, reason: impl Into<String>) -> Self {
        // It may quote what was sent.
        let mut reason: String = reason.into();
        if let Some((end, _)) = reason.char_indices().nth(MAX_REASON) {
            reason.truncate(end);
            reason.push('…');
        }
        Self { status, code, reason, about: None, retry_after: None, others: None }
    }

    pub(super) fn about(mut self, action: &'static str, target: Option<&Target>) -> Self {
        self.about = Some(Box::new(About { action, target: target.cloned(), event: None }));
        self
    }

    /// Of what was on record under this id before it was refused.
    pub(super) fn of_event(mut self, id: &str) -> Self {
        self.about.iter_mut().for_each(|about| about.event = Some(id.to_owned()));
        self
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "no such resource; /openapi.json lists what there is")
    }

    pub(super) fn method_not_allowed() -> Self {
        let reason = "not with this method; /openapi.json lists what there is";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", reason)
    }

    pub(super) fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", reason)
    }

    pub(super) fn unauthorized(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", reason)
    }

    /// The caller is known, and is nobody here.
    pub(super) fn admin_denied(principal: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "admin_denied", format!("{principal} is no administrator"))
    }

    /// The caller is an administrator, but of the wrong kind.
    pub(super) fn insufficient_scope(reason: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "insufficient_scope", reason)
    }

    pub(super) fn rate_limited(retry_after: Duration) -> Self {
        let retry_after = Some(retry_after);
        let reason = "too many calls";
        Self { retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", reason) }
    }

    pub(super) fn busy() -> Self {
        let retry_after = Some(Duration::ZERO);
        let reason = "too much is being sent at once";
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", reason) }
    }

    pub(super) fn request_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body made no progress")
    }

    pub(super) fn payload_too_large(limit: usize) -> Self {
        let reason = format!("over {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", reason)
    }

    pub(super) fn unsupported_media_type() -> Self {
        let reason = "content-type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", reason)
    }

    pub(super) fn unknown_certificate(serial: &str) -> Self {
        let reason = format!(
            "serial {serial}: this gate has neither seen such a certificate nor been told of it; nothing was changed, \
             `preemptive` revokes it all the same"
        );
        Self::new(StatusCode::NOT_FOUND, "unknown_certificate", reason)
    }

    /// Nothing stands under the name, while other names refuse the same principal.
    pub(super) fn still_refused(target: &Target, others: &OtherNames) -> Self {
        let (entries, principals) = (&others.entries, &others.principals);
        let mut reason = format!(
            "nothing stands under {target}, and other entries still refuse it: {}; nothing was changed",
            first(entries)
        );
        if entries.iter().any(Obstacle::is_a_name) {
            reason += "; `all_names` lifts those of its other names";
        }
        if !principals.is_empty() {
            reason += &format!(", and this also lets in: {}", first(principals));
        }
        if !entries.iter().all(Obstacle::is_a_name) {
            reason += "; an entry of another level is lifted at its own level, by its own target";
        }
        let refusal = Self::new(StatusCode::CONFLICT, "still_refused", reason);
        Self { others: Some(Box::new(others.clone())), ..refusal }
    }

    /// A question about a serial of which nothing is known.
    pub(super) fn never_seen(serial: &str) -> Self {
        let reason = format!(
            "serial {serial}: this gate has never seen such a certificate, and nothing stands against it"
        );
        Self::new(StatusCode::NOT_FOUND, "unknown_certificate", reason)
    }

    /// A certificate that was not seen, and that does not say who issued it.
    pub(super) fn nameless_issuer(serial: &str) -> Self {
        let reason = format!(
            "serial {serial}: the certificate has no key id of its issuer and this gate has not seen it; nothing was \
             changed; name its issuer, or its key at level `key`"
        );
        Self::new(StatusCode::NOT_FOUND, "nameless_issuer", reason)
    }

    /// A name of an authority that leads to several.
    pub(super) fn ambiguous_issuer(ambiguous: &AmbiguousIssuer) -> Self {
        Self::new(StatusCode::CONFLICT, "ambiguous_issuer", format!("issuer: {ambiguous}"))
    }

    pub(super) fn unknown(code: &'static str, id: &str) -> Self {
        let reason = format!("none has the id `{}`", id.chars().take(128).collect::<String>());
        Self::new(StatusCode::NOT_FOUND, code, reason)
    }

    pub(super) fn not_durable(reason: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_durable", reason)
    }

    pub(super) fn internal(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", reason)
    }

    /// The document, under the request's id. Administrators are told the reason: they are who has to act on it.
    pub(super) fn document(&self, request_id: &str) -> Vec<u8> {
        let (status, code, reason) = (self.status, self.code, self.reason.clone());
        let problem = Problem { status, code, reason, request_id: request_id.to_owned() };
        let mut more = serde_json::Map::new();
        if let Some(others) = &self.others {
            more.insert("still_refused".into(), json!(others.entries));
            if !others.principals.is_empty() {
                more.insert("also_lets_in".into(), json!(others.principals));
            }
        }
        problem.to_json_with(more)
    }

    /// The finished answer.
    pub(super) fn respond(&self, request_id: &str) -> Response {
        let mut response = Response::new(Body::from(self.document(request_id)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().saturating_add(1)));
        }
        response
    }
}

impl From<revocation::Error> for Refusal {
    fn from(error: revocation::Error) -> Self {
        let (status, code) = match error {
            revocation::Error::Revoked(_) => (StatusCode::CONFLICT, "revoked"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "not_durable"),
        };
        Self::new(status, code, error.to_string())
    }
}

/// The first ones, in words, and how many more there are.
fn first(all: &[impl ToString]) -> String {
    let named: Vec<String> = all.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    match all.len().saturating_sub(MAX_NAMED) {
        0 => named.join(", "),
        more => format!("{}, and {more} more", named.join(", ")),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}
