//! `/v1/advisory`: break-glass. For a bounded time the gate refuses nobody for who they are.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::Extension;
use axum::extract::State;
use http::HeaderMap;
use serde::Deserialize;
use serde::Serialize;
use tokio::time::sleep;
use utoipa::ToSchema;

use super::Api;
use super::body;
use super::decision::TOO_LATE;
use super::gatekeeper::Administrator;
use super::gatekeeper::any_killed;
use super::gatekeeper::stand;
use super::refusal::BodyRefusals;
use super::refusal::ProblemDocument;
use super::refusal::Refusal;
use super::refusal::Refusals;
use crate::authority::Entry;
use crate::authority::Role;
use crate::clock::Timestamp;
use crate::revocation::Declared;
use crate::revocation::Which;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::LONGEST_REASON;
use crate::telemetry::cut;

/// The longest body, bytes.
const MAX_BODY: usize = 8192;
/// The longest reason, bytes.
const MAX_REASON: usize = 1024;
/// How often the log says that it lasts.
const REMIND: Duration = Duration::from_secs(60);
/// What the audit calls it.
const ACTION: &str = "advisory";

/// For how long, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Declaration {
    /// For how long, from now on: `30m`, `1h 30m`; `admin.advisory_max` at most.
    #[serde(rename = "for")]
    #[schema(example = "30m")]
    lasts: String,
    /// Why. It is logged every minute, and audited.
    #[schema(min_length = 1, max_length = 1024)]
    reason: String,
}

/// Whether break-glass lasts.
#[derive(Serialize, ToSchema)]
pub(super) struct Advisory {
    /// Whether it lasts: the gate judges, logs and counts, refuses nobody for who they are and ends nothing.
    active: bool,
    /// How the gate's routes are served now: `strict`, `advisory` or `mixed`.
    mode: &'static str,
    /// Who declared it, or extended it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    since: Option<Timestamp>,
    /// When it ends by itself. A clock that is set back meanwhile does not prolong it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    until: Option<Timestamp>,
    /// How long it still lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    remaining_seconds: Option<u64>,
    /// The longest that may be asked for.
    max_seconds: u64,
    /// Of one that was just ended: how many sessions ended with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sessions_ended: Option<usize>,
    /// Of one that was just ended: sessions that have not let go yet; they are served nothing any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sessions_pending: Option<usize>,
    /// Of one that was just declared, extended or ended: whether its audit line is on disk. If not, it waits in memory until the
    /// disk takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    audit_durable: Option<bool>,
}

/// Whether break-glass lasts.
#[utoipa::path(
    get, path = "/v1/advisory", operation_id = "get_advisory", tag = "operations", security(("bearer" = []), ()),
    responses((status = 200, description = "Whether it lasts, and who declared it.", body = Advisory), Refusals)
)]
pub(super) async fn get_advisory(State(api): State<Arc<Api>>) -> Json<Advisory> {
    Json(api.advisory())
}

/// Break the glass, or extend it: until it ends the gate refuses nobody for who they are, and ends nothing. What is
/// revoked meanwhile takes effect when it ends. Not kept: a restart ends it.
#[utoipa::path(
    post, path = "/v1/advisory", operation_id = "begin_advisory", tag = "operations", request_body = Declaration, security(("bearer" = []), ()),
    responses(
        (status = 200, description = "It lasts.", body = Advisory),
        (status = 503, description = "The gate is about to end.", body = ProblemDocument, content_type = "application/problem+json"),
        Refusals,
        BodyRefusals,
    )
)]
pub(super) async fn begin_advisory(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Administrator>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Advisory>, Refusal> {
    let about = |refusal: Refusal| refusal.about(ACTION, None);
    who.actor.require(Role::Admin, "to suspend enforcement").map_err(about)?;
    let (bytes, _) = body::read(&headers, body, MAX_BODY, &api).await?;
    let wanted: Declaration = body::parse_object(&bytes)?;
    let lasts = api.bounded(&wanted).map_err(about)?;
    // A task of its own: who hangs up leaves no half of it.
    let task = tokio::spawn(async move { api.begin(lasts, wanted.reason, who).await });
    task.await.unwrap_or_else(|e| Err(Refusal::internal(e.to_string()))).map(Json)
}

/// End break-glass. When this answers, everything that is denied, or was let in only because of it, is out.
#[utoipa::path(
    delete, path = "/v1/advisory", operation_id = "end_advisory", tag = "operations", security(("bearer" = []), ()),
    responses(
        (status = 200, description = "It does not last any more, if it did.", body = Advisory),
        (status = 503, description = "It is over; the gate is about to end.", body = ProblemDocument, content_type = "application/problem+json"),
        Refusals,
    )
)]
pub(super) async fn end_advisory(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Administrator>,
) -> Result<Json<Advisory>, Refusal> {
    who.actor.require(Role::Admin, "to resume enforcement").map_err(|r| r.about(ACTION, None))?;
    let task = tokio::spawn(async move {
        let Administrator { actor, guards } = who;
        drop(guards);
        api.end_break_glass(Which::Any, actor.line(ACTION, "ended")).await
    });
    task.await.unwrap_or_else(|e| Err(Refusal::internal(e.to_string()))).map(Json)
}

impl Api {
    /// Whether break-glass lasts.
    pub(super) fn advisory(&self) -> Advisory {
        let lasting = self.engine.break_glass().lasting();
        Advisory {
            active: lasting.is_some(),
            mode: self.mode(),
            remaining_seconds: lasting.as_ref().map(|declared| declared.remaining().as_secs()),
            since: lasting.as_ref().map(|declared| declared.since),
            until: lasting.as_ref().map(|declared| declared.until),
            by: lasting.as_ref().map(|declared| declared.by.clone()),
            reason: lasting.map(|declared| declared.reason),
            max_seconds: self.advisory_max.as_secs(),
            sessions_ended: None,
            sessions_pending: None,
            audit_durable: None,
        }
    }

    /// For how long it is wanted, if that may be.
    fn bounded(&self, wanted: &Declaration) -> Result<Duration, Refusal> {
        let lasts = humantime::parse_duration(&wanted.lasts)
            .map_err(|e| Refusal::bad_request(format!("for: `{}`: {e}", wanted.lasts)))?;
        if wanted.reason.trim().is_empty() || wanted.reason.len() > MAX_REASON {
            return Err(Refusal::bad_request(format!("reason: 1 to {MAX_REASON} bytes that say why")));
        }
        if lasts.is_zero() || lasts > self.advisory_max {
            let most = humantime::format_duration(self.advisory_max);
            return Err(Refusal::bad_request(format!("for: more than nothing, and {most} at most")));
        }
        Ok(lasts)
    }

    /// Puts the decision on record, then checks again that the caller may make it. A disk that fails does
    /// not stop it: the lines wait in memory, and the answer says so.
    async fn begin(&self, lasts: Duration, reason: String, who: Administrator) -> Result<Advisory, Refusal> {
        let Administrator { actor, guards } = who;
        let line = |outcome, declared: Option<&Declared>| Entry {
            reason: Some(reason.clone()),
            expires_at: declared.map(|declared| declared.until),
            ..actor.line(ACTION, outcome)
        };
        let too_late = || Refusal::unauthorized(TOO_LATE).about(ACTION, None);
        tokio::select! {
            biased;
            () = any_killed(&guards) => return Err(too_late()),
            on_record = self.put_on_record(line("asked", None)) => on_record?,
        };
        if !stand(&guards) {
            return Err(too_late());
        }
        let now = self.clock.now();
        let (declared, before) = self.engine.break_glass().begin(&actor.name, &reason, now, lasts);
        drop(guards);
        let answer = self.advisory();
        let outcome = if before.is_some() { "extended" } else { "begun" };
        // Lines keep their order: if this one is on disk, so is the one before.
        let audit_durable = self.put_on_record(line(outcome, Some(&declared))).await?;
        Ok(Advisory { audit_durable: Some(audit_durable), ..answer })
    }

    /// Ends it, if it is that which lasts, and puts that on record.
    async fn end_break_glass(&self, which: Which, line: Entry) -> Result<Advisory, Refusal> {
        let Some(resumed) = self.engine.end_break_glass(which).await else { return Ok(self.advisory()) };
        let Declared { by, reason, since, .. } = resumed.declared;
        let (sessions_ended, sessions_pending) = (resumed.sessions_ended, resumed.sessions_pending);
        let (outcome, ended_by) = (line.outcome.as_ref(), line.actor.as_ref());
        tracing::warn!(
            by = &*cut(&by, LONGEST_NAME), reason = &*cut(&reason, LONGEST_REASON), %since, outcome, ended_by, sessions_ended, sessions_pending,
            "break-glass is over: what is denied is refused again"
        );
        let line = Entry { reason: Some(reason), sessions_ended: Some(sessions_ended), ..line };
        let audit_durable = Some(self.put_on_record(line).await?);
        let (sessions_ended, sessions_pending) = (Some(sessions_ended), Some(sessions_pending));
        Ok(Advisory { sessions_ended, sessions_pending, audit_durable, ..self.advisory() })
    }

    /// Says every minute that break-glass lasts, and ends it when its time is up. Never returns.
    pub async fn watch_advisory(&self) {
        loop {
            let glass = self.engine.break_glass();
            let Some(declared) = glass.lasting() else {
                glass.changed().await;
                continue;
            };
            let Declared { by, reason, since, until, .. } = &declared;
            tracing::warn!(
                by = &*cut(by, LONGEST_NAME), reason = &*cut(reason, LONGEST_REASON), %since, %until,
                "break-glass: the gate refuses nobody for who they are; `portcullis advisory --end` ends it"
            );
            tokio::select! {
                () = sleep(declared.remaining().min(REMIND)) => {}
                () = glass.changed() => {}
            }
            self.lapse(Which::Lapsed, "lapsed").await;
        }
    }

    /// Break-glass is not kept: it ends with the process.
    pub async fn end_advisory_with_process(&self) {
        self.lapse(Which::Any, "ended_with_process").await;
    }

    async fn lapse(&self, which: Which, outcome: &'static str) {
        let line = Entry { action: ACTION.into(), outcome: outcome.into(), ..Entry::default() };
        if let Err(refusal) = self.end_break_glass(which, line).await {
            tracing::error!(error = refusal.reason, "the end of break-glass is not on record");
        }
    }
}
