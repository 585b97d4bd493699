//! `POST /v1/revocations`: revoke, suspend, reinstate. For administrators' certificates only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::body::to_bytes;
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
use tokio::time::timeout;

use super::audit::Audit;
use super::audit::Entry;
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
    /// Why the names of its certificate are not accepted.
    pub refused: Option<String>,
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
    /// Whether the gate refuses what is revoked; not in advisory mode.
    pub enforces: bool,
    /// How long a request's body may take.
    pub patience: Duration,
    /// What time it is.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
}

/// The routes. Each request needs a [`Caller`] among its extensions.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/revocations", post(change))
        .fallback(async |Extension(caller): Extension<Caller>| {
            caller.refuse(StatusCode::NOT_FOUND, "not_found", "the admin API has POST /v1/revocations".into())
        })
        .method_not_allowed_fallback(async |Extension(caller): Extension<Caller>| {
            caller.refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "only POST".into())
        })
        .with_state(api)
}

impl Caller {
    fn refuse(&self, status: StatusCode, code: &'static str, reason: String) -> Response {
        let (request_id, address) = (self.request_id.clone(), self.address);
        let principal_id = self.principal.as_deref().unwrap_or_default();
        tracing::warn!(request_id, %address, principal_id, code, reason, "admin request refused");
        let problem = Problem { status, code, reason, request_id };
        // Administrators are told the reason: they are who has to act on it.
        respond(status, problem::CONTENT_TYPE, problem.to_json(Disclose::Reason))
    }
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

async fn change(State(api): State<Arc<Api>>, Extension(caller): Extension<Caller>, body: Body) -> Response {
    // Who calls is known before anything is read from them.
    let actor = match api.authorise(&caller) {
        Ok(actor) => actor.to_owned(),
        Err(refusal) => return *refusal,
    };
    let bytes = match timeout(api.patience, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(e)) => return caller.refuse(StatusCode::PAYLOAD_TOO_LARGE, "bad_request", e.to_string()),
        Err(_) => {
            let reason = "the body made no progress".into();
            return caller.refuse(StatusCode::REQUEST_TIMEOUT, "request_timeout", reason);
        }
    };
    let event = match read(&bytes).and_then(|change| api.event(change, actor)) {
        Ok(event) => event,
        Err(reason) => return caller.refuse(StatusCode::BAD_REQUEST, "bad_request", reason),
    };
    let (action, target) = (event.action, event.target.clone());
    // A task of its own: a caller who revokes herself, or hangs up, ends this request, never the revocation.
    match tokio::spawn(Arc::clone(&api).apply(event, caller.clone())).await {
        Ok(Ok(outcome)) => answer(action, &target, &outcome, api.enforces),
        Ok(Err(error @ revocation::Error::Revoked(_))) => {
            caller.refuse(StatusCode::CONFLICT, "revoked", error.to_string())
        }
        Ok(Err(error)) => caller.refuse(StatusCode::SERVICE_UNAVAILABLE, "not_durable", error.to_string()),
        Err(e) => caller.refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", e.to_string()),
    }
}

impl Api {
    fn authorise<'a>(&self, caller: &'a Caller) -> Result<&'a str, Box<Response>> {
        match &caller.principal {
            None => {
                let reason = match &caller.refused {
                    None => "an administrator's certificate is required".to_owned(),
                    Some(why) => format!("the certificate's names are not accepted: {why}"),
                };
                Err(Box::new(caller.refuse(StatusCode::UNAUTHORIZED, "mtls_required", reason)))
            }
            Some(principal) if !self.allow.contains(principal) => {
                let reason = format!("{principal} is no administrator");
                Err(Box::new(caller.refuse(StatusCode::FORBIDDEN, "admin_denied", reason)))
            }
            Some(principal) => Ok(principal),
        }
    }

    fn event(&self, change: Change, actor: String) -> Result<Event, String> {
        let target = Target::parse(change.level, &change.target, change.issuer.as_deref());
        let target = target.map_err(|e| e.to_string())?;
        if change.reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
            return Err(format!("reason: over {MAX_REASON} bytes"));
        }
        if change.force && change.action != Action::Reinstate {
            return Err("force: goes with `reinstate` alone".into());
        }
        if change.expires_at.is_some_and(|at| at <= self.clock.now()) {
            return Err("expires_at: in the past, so that nothing would be hit".into());
        }
        let at = self.engine.now_for(&target);
        Ok(Event {
            reason: change.reason,
            // Whole seconds, as certificates have them; a part of one counts as one.
            issued_before: change.issued_before.map(|at| at.plus(Duration::from_millis(999)).secs()),
            expires_at: change.expires_at,
            actor: Some(actor),
            force: change.force,
            ..Event::new(change.action, target, at)
        })
    }

    /// Applies an event, and writes down who did it, before anybody is told that it is done.
    async fn apply(self: Arc<Self>, event: Event, caller: Caller) -> Result<Outcome, revocation::Error> {
        let (action, level) = (event.action, event.target.level());
        // Here a change is decided when it is received.
        let received = Instant::now();
        let mut line = entry(&event, &caller);
        if action == Action::Reinstate {
            // What lets somebody in again is on record first, or it does not happen.
            self.audit.append(Entry { outcome: "asked".into(), ..line.clone() }).await.map_err(|e| {
                revocation::Error::Journal(revocation::JournalError::Write(format!("audit: {e}")))
            })?;
        }
        let mut outcome = match self.engine.apply(event).await {
            Ok(outcome) => outcome,
            Err(error) => {
                line.outcome = "refused".into();
                self.record(line).await.unwrap_or_default();
                return Err(error);
            }
        };
        self.observe(action, level, received, &outcome);
        line.generation = Some(outcome.generation);
        line.sessions_ended = Some(outcome.sessions_ended);
        line.outcome = if outcome.durable.is_ok() { "applied" } else { "effective_not_durable" }.into();
        if outcome.sessions_pending > 0 {
            tracing::error!(
                id = line.id,
                sessions = outcome.sessions_pending,
                "sessions have not let go in time"
            );
        }
        if let (Err(error), Ok(())) = (self.record(line).await, &outcome.durable) {
            outcome.durable = Err(revocation::JournalError::Write(error));
        }
        Ok(outcome)
    }

    async fn record(&self, line: Entry) -> Result<(), String> {
        tracing::info!(
            id = line.id,
            action = &*line.action,
            level = line.level.as_deref(),
            target = line.target,
            actor = &*line.actor,
            reason = line.reason,
            force = line.force,
            issued_before = line.issued_before,
            sessions_ended = line.sessions_ended,
            generation = line.generation,
            outcome = &*line.outcome,
            "revocation {}",
            line.outcome
        );
        self.audit.append(line).await.map(drop).map_err(|error| {
            tracing::error!(%error, "audit: cannot write");
            error.to_string()
        })
    }

    fn observe(&self, action: Action, level: Level, received: Instant, outcome: &Outcome) {
        self.metrics.events.with_label_values(&[FEED, action.name(), level.name()]).inc();
        if action == Action::Reinstate {
            return;
        }
        let stage = |stage| self.metrics.enforced.with_label_values(&[FEED, stage]);
        stage("enforced").observe(outcome.enforced_after.as_secs_f64());
        if outcome.durable.is_ok() {
            stage("durable").observe(received.elapsed().as_secs_f64());
        }
    }
}

/// What was asked; what became of it is filled in later.
fn entry(event: &Event, caller: &Caller) -> Entry {
    Entry {
        action: event.action.name().into(),
        actor: event.actor.clone().unwrap_or_default().into(),
        address: caller.address.to_string(),
        request_id: caller.request_id.clone(),
        correlation_id: caller.request_id.clone(),
        id: Some(event.id.clone()),
        level: Some(event.target.level().name().into()),
        target: Some(event.target.name().to_owned()),
        issuer: event.target.issuer().map(str::to_owned),
        reason: event.reason.clone(),
        at: Some(event.at),
        issued_before: event.issued_before,
        expires_at: event.expires_at,
        force: Some(event.force),
        ..Entry::default()
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

fn answer(action: Action, target: &Target, outcome: &Outcome, enforced: bool) -> Response {
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
        "changed": outcome.changed,
        "enforced": enforced,
        "generation": outcome.generation,
        "sessions_ended": outcome.sessions_ended,
    });
    let mut status = StatusCode::OK;
    let mut incomplete = |error: String| {
        status = StatusCode::SERVICE_UNAVAILABLE;
        document["effective"] = Value::from(true);
        document["durable"] = Value::from(outcome.durable.is_ok());
        document["sessions_pending"] = Value::from(outcome.sessions_pending);
        document["error"] = Value::from(error);
    };
    if let Err(error) = &outcome.durable {
        incomplete(error.to_string());
    } else if outcome.sessions_pending > 0 {
        incomplete("sessions have not let go in time; ask again".into());
    }
    respond(status, "application/json", format!("{document}\n").into_bytes())
}

fn respond(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
