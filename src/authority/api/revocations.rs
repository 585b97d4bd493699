//! `GET /v1/revocations`: what stands, and what became of each event.

use std::cmp::Ordering;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
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
use super::body::Id;
use super::listing::Limit;
use super::listing::Moment;
use super::listing::fits;
use super::refusal::ProblemDocument;
use super::refusal::Refusal;
use super::refusal::Refusals;
use crate::authority::audit::Query;
use crate::clock::Timestamp;
use crate::revocation;
use crate::revocation::Level;
use crate::revocation::Registry;
use crate::revocation::Spelling;
use crate::revocation::Standing;
use crate::revocation::Target;

/// The longest target that can be asked for, bytes.
const MAX_TARGET: usize = 2048;
/// The longest timeline, events.
const MAX_EVENTS: usize = 1000;

/// Which entries are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Of this level.
    level: Option<Level>,
    /// Of this target; in any spelling, if the level is given.
    #[param(min_length = 1, max_length = 2048)]
    target: Option<String>,
    /// Of this issuer's key id.
    issuer: Option<String>,
    /// The target, once it is read.
    #[serde(skip)]
    #[param(ignore)]
    named: Option<Target>,
    /// In this state.
    state: Option<StateName>,
    /// From this feed, such as `admin`.
    source: Option<String>,
    /// Decided at this time or later.
    #[param(value_type = Option<Moment>)]
    since: Option<Timestamp>,
    /// Decided at this time or before.
    #[param(value_type = Option<Moment>)]
    until: Option<Timestamp>,
    /// How many rows.
    #[serde(default)]
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// How many rows to pass over.
    #[serde(default)]
    #[param(value_type = Option<usize>, minimum = 0)]
    offset: usize,
}

/// What stands of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = State)]
pub(super) enum StateName {
    /// For good.
    Revoked,
    /// Until it is reinstated.
    Suspended,
}

impl From<revocation::State> for StateName {
    fn from(state: revocation::State) -> Self {
        match state {
            revocation::State::Revoked => Self::Revoked,
            revocation::State::Suspended => Self::Suspended,
        }
    }
}

/// One entry of the revocation set, and why it is there.
#[derive(Clone, Serialize, ToSchema)]
pub(super) struct Revocation {
    /// The id of the event; of an entry of a revocation list, which list it is.
    pub(super) id: String,
    pub(super) state: StateName,
    pub(super) level: Level,
    /// The canonical name.
    pub(super) target: String,
    /// True of an entry that an earlier version kept in lower case: it hits every spelling of the name.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    any_case: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    issuer: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    actor: Option<String>,
    /// The feed that it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    source: Option<String>,
    /// True if an unsigned message said so: the admin listener does not heed it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    unsigned: bool,
    /// When it was decided.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Hits only what was issued before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    issued_before: Option<Timestamp>,
    /// May be forgotten after.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    expires_at: Option<Timestamp>,
    /// Whose it is, where the gate has seen exactly one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    principal: Option<String>,
    /// Its serial, where the gate has seen exactly one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    serial: Option<String>,
}

impl Revocation {
    pub(super) fn new(target: &Target, state: revocation::State, standing: &Standing) -> Self {
        Self {
            id: standing.stamp.1.clone(),
            state: state.into(),
            level: target.level(),
            target: target.name().to_owned(),
            any_case: target.spelling() == Spelling::AnyCase,
            issuer: target.issuer().map(str::to_owned),
            reason: standing.reason.clone(),
            actor: standing.actor.clone(),
            source: standing.source.clone(),
            unsigned: standing.unsigned,
            at: standing.stamp.0,
            issued_before: standing.issued_before.map(Timestamp::from_secs),
            expires_at: standing.expires_at,
            principal: None,
            serial: None,
        }
    }

    /// The same with the names behind it. Blocks.
    pub(super) fn named(self, registry: &Registry) -> Self {
        let target = Target::parse(self.level, &self.target, self.issuer.as_deref());
        let (principal, serial) = target.map(|target| registry.behind(&target)).unwrap_or_default();
        Self { principal, serial, ..self }
    }
}

/// A page of entries, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Revocations {
    revocations: Vec<Revocation>,
    /// How many there are in all.
    total: usize,
    offset: usize,
    limit: usize,
}

/// What became of one event.
#[derive(Serialize, ToSchema)]
pub(super) struct History {
    /// The id of the event.
    id: String,
    /// `revoked` or `suspended` while it stands; else `superseded`, `lifted`, `lapsed`, `reinstated`, `refused` or
    /// `unknown`.
    state: &'static str,
    /// Whether it denies anything now.
    in_effect: bool,
    /// The entry, while it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    entry: Option<Revocation>,
    level: Level,
    /// The canonical name.
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    issuer: Option<String>,
    /// When it was decided (`at`) and received, from which `feed`, and how long each step took: `effective_us`,
    /// `enforced_us` (the last session had ended; not while break-glass lasts), `durable_us`, `acknowledged_us`, counted from `received`. Absent where
    /// neither this process nor the audit knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    timeline: Option<Value>,
    /// The audit's events of the same target, the oldest first.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Value>,
}

/// List what is revoked or suspended.
#[utoipa::path(
    get, path = "/v1/revocations", operation_id = "list_revocations", tag = "revocations", params(Wanted), security(("bearer" = []), ()),
    responses(
        (status = 200, description = "A page, the newest first.", body = Revocations),
        Refusals,
    )
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Filter(mut wanted): Filter<Wanted>,
) -> Result<Json<Revocations>, Refusal> {
    if wanted.target.as_ref().is_some_and(|name| name.is_empty() || name.len() > MAX_TARGET) {
        return Err(Refusal::bad_request(format!("query: target: 1 to {MAX_TARGET} bytes")));
    }
    if let (Some(level), Some(name)) = (wanted.level, &wanted.target) {
        let target = Target::parse(level, name, wanted.issuer.as_deref());
        let target = target.map_err(|e| Refusal::bad_request(e.to_string()))?;
        wanted.issuer = target.issuer().map(str::to_owned);
        wanted.target = Some(target.name().to_owned());
        wanted.named = Some(target);
    } else if let Some(issuer) = &wanted.issuer {
        let issuer = Target::parse(Level::Issuer, issuer, None);
        wanted.issuer =
            Some(issuer.map_err(|e| Refusal::bad_request(format!("query: {e}")))?.name().to_owned());
    }
    let spellings = match (&wanted.target, &wanted.issuer, wanted.level) {
        (Some(name), issuer, Some(level)) => Target::parse(level, name, issuer.as_deref()).ok(),
        (_, Some(issuer), _) => Target::parse(Level::Issuer, issuer, None).ok(),
        _ => None,
    };
    let spellings = spellings.map(|target| api.engine.spellings(&target)).unwrap_or_default();
    api.at_leisure(move |api| api.page(&wanted, &spellings)).await.map(Json)
}

/// What became of one event: its timeline, and all that happened to its target.
#[utoipa::path(
    get, path = "/v1/revocations/{id}", operation_id = "get_revocation", tag = "revocations", security(("bearer" = []), ()),
    params(("id" = String, Path, description = "The id of an event.")),
    responses(
        (status = 200, description = "What became of it.", body = History),
        (status = 404, description = "No such event.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 500, description = "The audit cannot be read.", body = ProblemDocument, content_type = "application/problem+json"),
        Refusals,
    )
)]
pub(super) async fn one(State(api): State<Arc<Api>>, Id(id): Id) -> Result<Json<History>, Refusal> {
    let wanted = id.clone();
    let entry = api.at_leisure(move |api| api.standing_by(&wanted)).await?;
    let told = api.look_up(Query { id: Some(id.clone()), ..oldest_first() }).await?;
    let of_audit = || told.last().and_then(target_of);
    let unknown = || Refusal::unknown("unknown_revocation", &id);
    let target = entry.as_ref().map(|(target, _)| target.clone()).or_else(of_audit).ok_or_else(unknown)?;
    let events = api.look_up(Query {
        level: Some(target.level().name().to_owned()),
        target: Some(target.name().to_owned()),
        issuer: target.issuer().map(str::to_owned),
        ..oldest_first()
    });
    let events = events.await?;
    let entry = entry.map(|(_, entry)| entry);
    Ok(Json(History {
        state: api.fate(&target, entry.as_ref(), told.last()),
        in_effect: entry.is_some(),
        entry,
        level: target.level(),
        target: target.name().to_owned(),
        issuer: target.issuer().map(str::to_owned),
        timeline: api.timeline(&id, &target, &told),
        events,
        id,
    }))
}

impl Wanted {
    /// Whether a target is the one that is wanted, under any name of its issuer.
    fn is_about(&self, target: &Target, spellings: &[Target]) -> bool {
        let is_named = match &self.named {
            Some(named) => named.name() == target.name() || named.is_spelling_of(target),
            None => fits(self.target.as_deref(), Some(target.name())),
        };
        let is_theirs = || spellings.iter().any(|spelling| spelling.authority() == target.issuer());
        spellings.contains(target) || (is_named && (self.issuer.is_none() || is_theirs()))
    }

    fn takes(&self, state: revocation::State, standing: &Standing) -> bool {
        let at = standing.stamp.0;
        self.state.is_none_or(|wanted| wanted == state.into())
            && fits(self.source.as_deref(), standing.source.as_deref())
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at <= until)
    }
}

/// An entry by its age.
struct Newest(Revocation);

impl Newest {
    fn stamp(&self) -> (Timestamp, &str) {
        (self.0.at, &self.0.id)
    }
}

impl PartialEq for Newest {
    fn eq(&self, other: &Self) -> bool {
        self.stamp() == other.stamp()
    }
}

impl Eq for Newest {}

impl PartialOrd for Newest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Newest {
    fn cmp(&self, other: &Self) -> Ordering {
        self.stamp().cmp(&other.stamp())
    }
}

impl Api {
    /// A page of entries, the newest first. Keeps no more of them in memory than the page and those before it.
    /// `spellings` are those of the target that is wanted, or of its issuer.
    fn page(&self, wanted: &Wanted, spellings: &[Target]) -> Revocations {
        let (mut total, mut newest) = (0, BinaryHeap::new());
        let most = wanted.offset.saturating_add(wanted.limit.0);
        self.engine.select(|target, registers| {
            let is_wanted = wanted.level.is_none_or(|level| level == target.level())
                && wanted.is_about(target, spellings);
            let standings = registers.standings().filter(|_| is_wanted);
            for (state, standing) in standings.filter(|(state, standing)| wanted.takes(*state, standing)) {
                total += 1;
                let oldest = newest.peek().map(|Reverse(Newest(row))| (row.at, row.id.as_str()));
                if newest.len() < most || oldest < Some((standing.stamp.0, standing.stamp.1.as_str())) {
                    newest.push(Reverse(Newest(Revocation::new(target, state, standing))));
                    if newest.len() > most {
                        newest.pop();
                    }
                }
            }
            None::<()>
        });
        let rows = newest.into_sorted_vec().into_iter().skip(wanted.offset).map(|Reverse(Newest(row))| row);
        let revocations = rows.map(|row| row.named(&self.registry)).collect();
        Revocations { revocations, total, offset: wanted.offset, limit: wanted.limit.0 }
    }

    /// The entry that stands by an event, if any does.
    fn standing_by(&self, id: &str) -> Option<(Target, Revocation)> {
        let found = self.engine.select(|target, registers| {
            let (state, standing) = registers.standings().find(|(_, standing)| standing.stamp.1 == id)?;
            Some((target.clone(), Revocation::new(target, state, standing)))
        });
        found.into_iter().next().map(|(target, entry)| (target, entry.named(&self.registry)))
    }

    /// The stamps of an event: what this process knows, or what the audit has.
    fn timeline(&self, id: &str, target: &Target, told: &[Value]) -> Option<Value> {
        let known = self.timelines.find(id, target).and_then(|timeline| serde_json::to_value(timeline).ok());
        known.or_else(|| told.iter().rev().find_map(|event| event.get("timeline").cloned()))
    }

    /// Events of the audit, looked for where it may take its time.
    pub(super) async fn look_up(self: &Arc<Self>, query: Query) -> Result<Vec<Value>, Refusal> {
        self.page_of(query).await.map(|page| page.events)
    }

    /// What became of an event, which need not stand any more.
    fn fate(&self, target: &Target, entry: Option<&Revocation>, told: Option<&Value>) -> &'static str {
        if let Some(entry) = entry {
            return match entry.state {
                StateName::Revoked => revocation::State::Revoked.name(),
                StateName::Suspended => revocation::State::Suspended.name(),
            };
        }
        let text = |name: &str| told.and_then(|event| event.get(name)).and_then(Value::as_str);
        let expires_at = text("expires_at").and_then(Timestamp::parse);
        let stands_again = || {
            let registers = self.engine.standing(target);
            let is_same = |state| match state {
                revocation::State::Revoked => text("action") == Some("revoke"),
                revocation::State::Suspended => text("action") == Some("suspend"),
            };
            registers.is_some_and(|registers| registers.standings().any(|(state, _)| is_same(state)))
        };
        match (text("action"), text("outcome")) {
            (_, Some("refused")) => "refused",
            (Some("reinstate"), Some("applied")) => "reinstated",
            (Some("revoke" | "suspend"), _) if expires_at.is_some_and(|at| at <= self.clock.now()) => {
                "lapsed"
            }
            (Some("revoke" | "suspend"), _) if stands_again() => "superseded",
            (Some("revoke" | "suspend"), _) => "lifted",
            _ => "unknown",
        }
    }
}

fn oldest_first() -> Query {
    Query { limit: MAX_EVENTS, newest_first: false, ..Query::default() }
}

/// What an event of the audit was aimed at.
fn target_of(event: &Value) -> Option<Target> {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    Target::parse(text("level")?.parse().ok()?, text("target")?, text("issuer")).ok()
}
