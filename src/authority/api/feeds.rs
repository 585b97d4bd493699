//! `POST /v1/feeds/refresh`: feeds look now.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::Extension;
use axum::extract::State;
use http::HeaderMap;
use serde::Deserialize;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::body;
use super::gatekeeper::Administrator;
use super::refusal::BodyRefusals;
use super::refusal::ProblemDocument;
use super::refusal::Refusal;
use super::refusal::Refusals;
use crate::authority::Entry;
use crate::authority::Role;
use crate::revocation::FeedStatus;

/// The longest body, bytes.
const MAX_BODY: usize = 4096;

/// Which feed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Its name; all of them, if there is none.
    #[serde(default)]
    feed: Option<String>,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
pub(super) struct Refreshed {
    feeds: Vec<Looked>,
    /// How many of them could not be read.
    failed: usize,
    /// True if the audit line of this call is on disk. If not, it waits in memory until the disk takes it.
    audit_durable: bool,
}

/// What one feed found.
#[derive(Serialize, ToSchema)]
struct Looked {
    /// What it found, in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    found: Option<String>,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<String>,
    /// How it is now.
    feed: FeedStatus,
}

/// Have feeds look now, and wait for what they find. What is new is in effect when this answers.
#[utoipa::path(
    post, path = "/v1/feeds/refresh", operation_id = "refresh_feeds", tag = "operations", request_body = Wanted, security(("bearer" = []), ()),
    responses(
        (status = 200, description = "What each found, or why it could not be read.", body = Refreshed),
        (status = 404, description = "No such feed.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "It is done; the gate is about to end.", body = ProblemDocument, content_type = "application/problem+json"),
        Refusals,
        BodyRefusals,
    )
)]
pub(super) async fn refresh(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Administrator>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Refreshed>, Refusal> {
    let about = |refusal: Refusal| refusal.about("refresh", None);
    who.actor.require(Role::Operator, "to refresh feeds").map_err(about)?;
    let (bytes, _) = body::read(&headers, body, MAX_BODY, &api).await?;
    let wanted: Wanted = body::parse_object(&bytes)?;
    let name = wanted.feed.as_deref();
    let found = api.feeds.refresh(name).await;
    if let Some(name) = name.filter(|_| found.is_empty()) {
        return Err(about(Refusal::unknown("unknown_feed", name)));
    }
    let status = api.feeds.status(api.clock.now());
    let feeds = found.into_iter().filter_map(|(name, result)| {
        let feed = status.iter().find(|feed| feed.name == name)?.clone();
        let (found, error) = match result {
            Ok(found) => (Some(found), None),
            Err(error) => (None, Some(error)),
        };
        Some(Looked { found, error, feed })
    });
    let feeds: Vec<Looked> = feeds.collect();
    let failed = feeds.iter().filter(|looked| looked.error.is_some()).count();
    let outcome = if failed == 0 { "applied" } else { "failed" };
    let line = Entry { reason: wanted.feed, ..who.actor.line("refresh", outcome) };
    let audit_durable = api.put_on_record(line).await?;
    Ok(Json(Refreshed { feeds, failed, audit_durable }))
}
