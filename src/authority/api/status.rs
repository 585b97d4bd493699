//! `GET /v1/status`: how the gate is.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::Extension;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::advisory::Advisory;
use super::gatekeeper::Administrator;
use super::refusal::Refusals;
use crate::authority::Role;
use crate::clock::Timestamp;
use crate::revocation::FeedStatus;
use crate::revocation::Level;
use crate::revocation::crl::Crl;

/// How the gate is.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    /// The program's version.
    version: &'static str,
    /// When the process started.
    #[schema(value_type = String, format = DateTime)]
    started: Timestamp,
    /// Its clock.
    #[schema(value_type = String, format = DateTime)]
    now: Timestamp,
    /// `strict`; `advisory`: nothing is refused; or `mixed`: some routes are the one, some the other.
    mode: &'static str,
    /// The same as it is configured: what it is again after break-glass.
    configured_mode: &'static str,
    /// Break-glass, while it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    advisory: Option<Advisory>,
    /// Whether traffic should come here.
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    not_ready: Option<String>,
    /// The generation of the revocation set; starts anew with each process.
    generation: u64,
    /// Whether everything in effect is on disk.
    durable: bool,
    /// Live sessions, of this listener too.
    sessions: usize,
    entries: Entries,
    /// The feeds, and how fresh each is.
    feeds: Vec<FeedStatus>,
    /// What an operator should know of lists that are in force: which list, and what it lacks.
    warnings: Vec<String>,
    audit: AuditStatus,
    /// Certificates that the gate has seen and not forgotten.
    certificates_known: usize,
    caller: CallerStatus,
}

/// What the revocation set holds.
#[derive(Serialize, ToSchema)]
struct Entries {
    total: usize,
    /// By level, all of them.
    by_level: BTreeMap<&'static str, usize>,
    /// By layer: `live` holds what events said, of which `total` and `by_level` are; the others what the revocation lists of
    /// one authority say, under its name.
    by_layer: BTreeMap<String, u64>,
    /// Revocation lists that another one with the same number and time contradicts, by authority: the entries of both count
    /// until a newer one comes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    contradicting_lists: BTreeMap<String, usize>,
}

/// How the audit is.
#[derive(Serialize, ToSchema)]
struct AuditStatus {
    /// The sequence of the last line on disk.
    sequence: u64,
    /// Its hash. Noted elsewhere, it proves that nothing before it was changed: `audit verify --expect`.
    hash: String,
    /// Whether every line is on disk.
    durable: bool,
    /// Lines that wait in memory for a disk that fails. The end of the process loses them.
    waiting: usize,
    /// Lines that were dropped because no more could be kept in memory. A line says so once the disk takes lines again.
    lost: u64,
    /// The first damage in it that is not accepted, as `FILE:LINE: reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fault: Option<String>,
}

/// Who asks.
#[derive(Serialize, ToSchema)]
struct CallerStatus {
    actor: String,
    role: Option<Role>,
}

/// How the gate is.
#[utoipa::path(
    get, path = "/v1/status", operation_id = "get_status", tag = "operations", security(("bearer" = []), ()),
    responses(
        (status = 200, description = "How it is.", body = Status),
        Refusals,
    )
)]
pub(super) async fn status(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Administrator>,
) -> Json<Status> {
    let counts = api.engine.entries_by_level();
    let total = counts.iter().sum();
    let head = api.audit.head();
    let ready = (api.ready)();
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        started: api.started,
        now: api.clock.now(),
        mode: api.mode(),
        configured_mode: api.modes,
        advisory: api.engine.break_glass().is_on().then(|| api.advisory()),
        ready: ready.is_ok(),
        not_ready: ready.err(),
        generation: api.engine.generation(),
        durable: api.engine.is_durable(),
        sessions: api.engine.sessions().len(),
        entries: Entries {
            total,
            by_level: Level::ALL.iter().map(|level| level.name()).zip(counts).collect(),
            by_layer: by_layer(&api, total),
            contradicting_lists: contradicting_lists(&api),
        },
        feeds: api.feeds.status(api.clock.now()),
        warnings: warnings(&api),
        audit: AuditStatus {
            sequence: head.sequence,
            hash: head.hash,
            durable: api.audit.is_durable(),
            waiting: api.audit.waiting(),
            lost: api.audit.lost(),
            fault: api.audit.fault(),
        },
        certificates_known: api.registry.len(),
        caller: CallerStatus { actor: who.actor.name, role: who.actor.role },
    })
}

fn warnings(api: &Api) -> Vec<String> {
    let of = |crl: Crl| crl.warnings.iter().map(|why| format!("{}: {why}", crl.title())).collect::<Vec<_>>();
    api.engine.lists().into_iter().flat_map(of).collect()
}

fn by_layer(api: &Api, live: usize) -> BTreeMap<String, u64> {
    let mut layers = BTreeMap::from([("live".to_owned(), live as u64)]);
    for crl in api.engine.lists() {
        *layers.entry(crl.issuer.name).or_default() += crl.entries;
    }
    for (registry, tokens) in api.engine.token_counts() {
        *layers.entry(registry).or_default() += tokens as u64;
    }
    layers
}

fn contradicting_lists(api: &Api) -> BTreeMap<String, usize> {
    api.engine.contradicting_lists().into_iter().fold(BTreeMap::new(), |mut counts, crl| {
        *counts.entry(crl.issuer.name).or_default() += 1;
        counts
    })
}
