//! `GET /v1/audit/events`: who did what.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa::ToSchema;

use super::Api;
use super::body::Filter;
use super::listing::Limit;
use super::listing::Moment;
use super::refusal::ProblemDocument;
use super::refusal::Refusal;
use super::refusal::Refusals;
use crate::authority::audit::Page;
use crate::authority::audit::Query;
use crate::clock::Timestamp;
use crate::revocation::Level;
use crate::revocation::Target;

/// Which events are wanted: those that have all that is given.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// By this actor.
    actor: Option<String>,
    /// What was asked, such as `revoke` or `call`.
    action: Option<String>,
    /// The same.
    event_type: Option<String>,
    /// What became of it, such as `applied` or `refused`.
    outcome: Option<String>,
    /// Of this level.
    level: Option<Level>,
    /// Of this target; in any spelling, if the level is given.
    target: Option<String>,
    /// About this principal.
    principal: Option<String>,
    /// The same.
    agent_id: Option<String>,
    /// About the certificate of this serial.
    serial: Option<String>,
    /// About this task.
    task_id: Option<String>,
    /// Of this event id.
    id: Option<String>,
    /// Of this correlation id.
    correlation_id: Option<String>,
    /// At this time or later.
    #[param(value_type = Option<Moment>)]
    since: Option<Timestamp>,
    /// At this time or before.
    #[param(value_type = Option<Moment>)]
    until: Option<Timestamp>,
    /// How many events.
    #[serde(default)]
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// How many events to pass over.
    #[serde(default)]
    #[param(value_type = Option<usize>, minimum = 0)]
    offset: usize,
}

/// A page of events, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Events {
    /// Each as its line in the audit has it.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Value>,
    /// How many there are in all.
    total: usize,
    offset: usize,
    limit: usize,
}

/// List who did what.
#[utoipa::path(
    get, path = "/v1/audit/events", operation_id = "list_audit_events", tag = "operations", params(Wanted), security(("bearer" = []), ()),
    responses(
        (status = 200, description = "A page, the newest first.", body = Events),
        (status = 500, description = "The audit cannot be read.", body = ProblemDocument, content_type = "application/problem+json"),
        Refusals,
    )
)]
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    Filter(wanted): Filter<Wanted>,
) -> Result<Json<Events>, Refusal> {
    let (limit, offset) = (wanted.limit.0, wanted.offset);
    let Page { events, total, .. } = api.page_of(wanted.query()?).await?;
    Ok(Json(Events { events, total, offset, limit }))
}

impl Wanted {
    fn query(self) -> Result<Query, Refusal> {
        let (mut level, mut target) = (self.level, self.target);
        if let Some(task) = self.task_id {
            if level.is_some() || target.is_some() {
                return Err(Refusal::bad_request("query: task_id stands for level and target"));
            }
            (level, target) = (Some(Level::Task), Some(task));
        }
        if let (Some(level), Some(name)) = (level, &target) {
            let canonical =
                Target::parse(level, name, None).map_err(|e| Refusal::bad_request(e.to_string()))?;
            target = Some(canonical.name().to_owned());
        }
        Ok(Query {
            actor: self.actor,
            action: either("action", self.action, "event_type", self.event_type)?,
            outcome: self.outcome,
            level: level.map(|level| level.name().to_owned()),
            target,
            principal: either("principal", self.principal, "agent_id", self.agent_id)?,
            serial: self.serial.map(|serial| canonical(Level::Certificate, &serial)).transpose()?,
            id: self.id,
            correlation_id: self.correlation_id,
            since: self.since,
            until: self.until,
            limit: self.limit.0,
            offset: self.offset,
            ..Query::default()
        })
    }
}

/// The one spelling of a name.
pub(super) fn canonical(level: Level, name: &str) -> Result<String, Refusal> {
    let target = Target::parse(level, name, None);
    target.map(|target| target.name().to_owned()).map_err(|e| Refusal::bad_request(format!("query: {e}")))
}

fn either(a: &str, of_a: Option<String>, b: &str, of_b: Option<String>) -> Result<Option<String>, Refusal> {
    match (of_a, of_b) {
        (Some(_), Some(_)) => Err(Refusal::bad_request(format!("query: {b} stands for {a}"))),
        (one, other) => Ok(one.or(other)),
    }
}

impl Api {
    /// A page of the audit, read where it may take its time.
    pub(super) async fn page_of(self: &Arc<Self>, query: Query) -> Result<Page, Refusal> {
        let found = self.at_leisure(move |api| api.audit.find(&query)).await?;
        found.map_err(|e| Refusal::internal(format!("audit: {e}")))
    }
}
