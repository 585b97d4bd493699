//! The admin API, over HTTP: who calls is known before anything is read from them, and every refusal is on record.
//!
//! One call, straight through: `gatekeeper` (credential → role → rate) → a handler → its answer, or a [`Refusal`],
//! which the gatekeeper writes to the audit and answers as a problem document.

mod administrators;
mod advisory;
mod audited;
mod body;
mod change;
mod check;
mod decision;
mod feeds;
mod gatekeeper;
mod listing;
mod load;
mod names;
mod refusal;
mod revocations;
mod sessions;
mod status;
mod token;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use http::header::CONTENT_TYPE;
use utoipa::OpenApi;
use utoipa::openapi::security::HttpAuthScheme;
use utoipa::openapi::security::HttpBuilder;
use utoipa::openapi::security::SecurityScheme;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Access;
use super::Audit;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::identity::Binding;
use crate::identity::Trust;
use crate::revocation::Engine;
use crate::revocation::Feeds;
use crate::revocation::Registry;
use crate::revocation::Sightings;
use crate::revocation::Timelines;
use crate::session::Guard;
use crate::telemetry::LineLimiter;
use crate::telemetry::Metrics;
pub use gatekeeper::Recognised;
pub use gatekeeper::Tokens;
pub use gatekeeper::authenticates_itself;
pub use load::Load;
use refusal::ProblemDocument;
use refusal::Refusal;

/// Where the document is, for anybody.
const OPENAPI: &str = "/openapi.json";
/// Where a secret buys a token.
const AUTH: &str = "/v1/admin/auth";

/// Who calls, as the connection knows it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The principal of the client certificate; `None` without one, with one whose names are not accepted, and of a request
    /// that authenticates itself.
    pub principal: Option<String>,
    /// Why the names of its certificate are not accepted.
    pub refused: Option<String>,
    /// From where.
    pub address: SocketAddr,
    /// What the log calls the request.
    pub request_id: String,
    /// Keeps the connection's session in the table. A token's revocation ends it as well.
    pub guard: Option<Guard>,
    /// The tokens that were used on the connection.
    pub tokens: Tokens,
    /// The verdict about the caller.
    pub recognised: Recognised,
}

/// What the API acts on.
pub struct Api {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The certificates that the gate has seen.
    pub registry: Arc<Registry>,
    /// How fresh what feeds say is.
    pub feeds: Arc<Feeds>,
    /// What became of the latest events.
    pub timelines: Arc<Timelines>,
    /// The record of who did what.
    pub audit: Audit,
    /// Who may.
    pub access: Access,
    /// Whom the gate trusts: for `GET /v1/check`.
    pub trust: Arc<Trust>,
    /// Whom the admin listener trusts.
    pub admins: Arc<Trust>,
    /// The gate's rules for names.
    pub binding: Binding,
    /// What the gate has ever seen of a target.
    pub sightings: Sightings,
    /// The modes of the gate's routes: `strict`, `advisory`, or `mixed`.
    pub modes: &'static str,
    /// The longest break-glass that may be asked for.
    pub advisory_max: Duration,
    /// Whether traffic should come here; the error says why not.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// How long a request's body may take.
    pub patience: Duration,
    /// What time it is.
    pub clock: Clock,
    /// When the process started.
    pub started: Timestamp,
    /// What is counted.
    pub metrics: Metrics,
    /// What is under way.
    pub load: Load,
    /// The lines of the log that clients cause.
    pub lines: Arc<LineLimiter>,
}

impl Api {
    /// How the gate's routes are served now: `strict`, `advisory` or `mixed`. While break-glass lasts all are advisory.
    fn mode(&self) -> &'static str {
        if self.engine.break_glass().is_on() { ADVISORY } else { self.modes }
    }
}

/// The mode in which nothing is refused.
const ADVISORY: &str = "advisory";

#[derive(OpenApi)]
#[openapi(
    info(title = "Portcullis admin API", description = "Revoke, suspend, reinstate; see who is connected, what is denied, and who did it."),
    tags((name = "revocations"), (name = "sessions"), (name = "operations"), (name = "tokens"))
)]
struct Document;

/// The routes. Each request needs a [`Caller`] among its extensions.
pub fn router(api: Arc<Api>) -> Router {
    let (router, document) = documented().split_for_parts();
    let document: Arc<str> = serde_json::to_string_pretty(&document).unwrap_or_default().into();
    router
        .layer(Extension(Served(document)))
        .fallback(async || Refusal::not_found().into_response())
        .method_not_allowed_fallback(async || Refusal::method_not_allowed().into_response())
        .layer(from_fn_with_state(Arc::clone(&api), gatekeeper::admit))
        .with_state(api)
}

/// The document, as it is served.
#[derive(Clone)]
struct Served(Arc<str>);

/// This document. It needs no credential.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "get_openapi", tag = "operations",
    responses(
        (status = 200, description = "The document.", body = Object),
        (status = 429, description = "Too many calls.", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
async fn get_openapi(Extension(Served(document)): Extension<Served>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document.to_string())
}

/// What the API offers, as an OpenAPI 3.1 document (JSON); the same that it serves.
pub fn openapi() -> String {
    serde_json::to_string_pretty(documented().get_openapi()).unwrap_or_default()
}

/// Handlers and document from one list: what is not in it is neither served nor documented.
fn documented() -> OpenApiRouter<Arc<Api>> {
    let mut document = Document::openapi();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "A token from POST /v1/admin/auth. Not needed with an administrator's client certificate.",
    ));
    let mut components = document.components.take().unwrap_or_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
    document.components = Some(components);
    OpenApiRouter::with_openapi(document)
        .routes(routes!(get_openapi))
        .routes(routes!(change::post_revocations, revocations::list))
        .routes(routes!(revocations::one))
        .routes(routes!(change::post_revoke))
        .routes(routes!(token::post_auth))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::end))
        .routes(routes!(status::status))
        .routes(routes!(feeds::refresh))
        .routes(routes!(advisory::get_advisory, advisory::begin_advisory, advisory::end_advisory))
        .routes(routes!(audited::events))
        .routes(routes!(check::check))
}
