//! `POST /v1/revocations`: revoke, suspend, reinstate. For administrators' certificates only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use http::HeaderValue;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use super::audit::Audit;
use super::audit::Line;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::problem;
use crate::problem::Disclose;
use crate::problem::Problem;
use crate::revocation;
use crate::revocation::Action;
use crate::revocation::Engine;
use crate::revocation::Event;
use crate::revocation::Level;
use crate::revocation::Outcome;
use crate::revocation::Target;
use crate::telemetry::Metrics;

/// The largest request body, bytes.
const MAX_BODY: usize = 64 * 1024;
/// The longest reason, bytes.
const MAX_REASON: usize = 1024;
/// The feed, in metrics.
const FEED: &str = "admin";

/// Who calls, as the connection knows it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The principal of the client certificate; `None` without one, or with one whose names are not accepted.
    pub principal: Option<String>,
    /// From where.
    pub address: SocketAddr,
    /// What the log calls the request.
    pub request_id: String,
}

/// What the API acts on.
pub struct Api {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The record of who did what.
    pub audit: Audit,
    /// The principals that may.
    pub allow: Vec<String>,
    /// What time it is.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
}

/// The routes. Each request needs a [`Caller`] among its extensions.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/revocations", post(change))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    action: Action,
    level: Level,
    target: String,
    issuer: Option<String>,
    reason: Option<String>,
    issued_before: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    #[serde(default)]
    force: bool,
}

impl Change {
    fn into_event(self, actor: &str, now: Timestamp) -> Result<Event, String> {
        let target =
            Target::parse(self.level, &self.target, self.issuer.as_deref()).map_err(|e| e.to_string())?;
        if self.reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
            return Err(format!("reason: over {MAX_REASON} bytes"));
        }
        if self.force && self.action != Action::Reinstate {
            return Err("force: goes with `reinstate` alone".into());
        }
        Ok(Event {
            reason: self.reason,
            issued_before: self.issued_before.map(Timestamp::secs),
            expires_at: self.expires_at,
            actor: Some(actor.to_owned()),
            force: self.force,
            ..Event::new(self.action, target, now)
        })
    }
}

async fn change(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, body: Bytes) -> Response {
    let refuse = |status, code, reason: String| {
        let (request_id, address) = (caller.request_id.clone(), caller.address);
        let principal_id = caller.principal.as_deref().unwrap_or_default();
        tracing::warn!(request_id, %address, principal_id, code, reason, "admin request refused");
        refusal(&Problem { status, code, reason, request_id })
    };
    let actor = match &caller.principal {
        None => {
            return refuse(
                StatusCode::UNAUTHORIZED,
                "mtls_required",
                "an administrator's certificate is required".into(),
            );
        }
        Some(principal) if !api.allow.contains(principal) => {
            return refuse(StatusCode::FORBIDDEN, "admin_denied", format!("{principal} is no administrator"));
        }
        Some(principal) => principal,
    };
    let event = read(&body).and_then(|change| change.into_event(actor, api.clock.now()));
    let event = match event {
        Ok(event) => event,
        Err(reason) => return refuse(StatusCode::BAD_REQUEST, "bad_request", reason),
    };
    let target = event.target.clone();
    // A task of its own: a caller who revokes herself, or hangs up, ends this request, never the revocation.
    let applied = tokio::spawn(Arc::clone(&api).apply(event, caller.clone())).await;
    let applied = match applied {
        Ok(applied) => applied,
        Err(error) => {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", error.to_string());
        }
    };
    match applied {
        Ok((action, outcome)) => answer(action, &target, &outcome),
        Err(error @ revocation::Error::Revoked(_)) => {
            refuse(StatusCode::CONFLICT, "revoked", error.to_string())
        }
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, "not_durable", error.to_string()),
    }
}

impl Api {
    /// Applies an event, and writes down who did it, before anybody is told that it is done.
    async fn apply(
        self: Arc<Self>,
        event: Event,
        caller: Caller,
    ) -> Result<(Action, Outcome), revocation::Error> {
        let (action, target, reason) = (event.action, event.target.clone(), event.reason.clone());
        let actor = event.actor.clone().unwrap_or_default();
        // Here a change is decided when it is received.
        let received = Instant::now();
        let mut outcome = self.engine.apply(event).await?;
        self.observe(action, target.level(), received, &outcome);
        let line = Line {
            at: self.clock.now(),
            id: outcome.id.clone(),
            action: action.name(),
            level: target.level().name(),
            target: target.name().to_owned(),
            issuer: target.issuer().map(str::to_owned),
            reason,
            actor,
            address: caller.address.to_string(),
            request_id: caller.request_id.clone(),
            outcome: if outcome.durable.is_ok() { "applied" } else { "effective_not_durable" },
            generation: outcome.generation,
            sessions_ended: outcome.sessions_ended,
        };
        tracing::info!(
            id = line.id,
            action = line.action,
            level = line.level,
            target = line.target,
            actor = line.actor,
            reason = line.reason,
            sessions_ended = line.sessions_ended,
            generation = line.generation,
            outcome = line.outcome,
            "revocation applied"
        );
        if outcome.sessions_pending > 0 {
            tracing::error!(
                id = line.id,
                sessions = outcome.sessions_pending,
                "sessions have not let go in time"
            );
        }
        if let Err(error) = self.audit.write(line).await {
            tracing::error!(%error, "audit: cannot write");
            outcome.durable = Err(revocation::JournalError::Write(error.to_string()));
        }
        Ok((action, outcome))
    }

    fn observe(&self, action: Action, level: Level, received: Instant, outcome: &Outcome) {
        self.metrics.events.with_label_values(&[FEED, action.name(), level.name()]).inc();
        let stage = |stage| self.metrics.enforced.with_label_values(&[FEED, stage]);
        stage("enforced").observe(outcome.enforced_after.as_secs_f64());
        if outcome.durable.is_ok() {
            stage("durable").observe(received.elapsed().as_secs_f64());
        }
    }
}

fn read(body: &[u8]) -> Result<Change, String> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let change =
        serde_path_to_error::deserialize(&mut json).map_err(|e| match e.path().to_string().as_str() {
            "." => e.inner().to_string(),
            path => format!("{path}: {}", e.inner()),
        })?;
    json.end().map_err(|e| e.to_string())?;
    Ok(change)
}

fn answer(action: Action, target: &Target, outcome: &Outcome) -> Response {
    let at = match action {
        Action::Revoke => "revoked_at",
        Action::Suspend => "suspended_at",
        Action::Reinstate => "reinstated_at",
    };
    let mut document = json!({
        "id": outcome.id,
        "action": action.name(),
        "level": target.level().name(),
        "target": target.name(),
        at: outcome.at.to_string(),
        "generation": outcome.generation,
        "sessions_ended": outcome.sessions_ended,
    });
    let status = match &outcome.durable {
        Ok(()) => StatusCode::OK,
        Err(error) => {
            document["effective"] = Value::from(true);
            document["durable"] = Value::from(false);
            document["error"] = Value::from(error.to_string());
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    respond(status, "application/json", document.to_string().into_bytes())
}

/// Administrators are told the reason: they are who has to act on it.
fn refusal(problem: &Problem) -> Response {
    respond(problem.status, problem::CONTENT_TYPE, problem.to_json(Disclose::Reason))
}

fn respond(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
