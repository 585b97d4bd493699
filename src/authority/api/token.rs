//! `POST /v1/admin/auth`: a secret buys a token.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::Extension;
use axum::extract::State;
use http::HeaderMap;
use serde::Deserialize;
use serde::Serialize;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::Api;
use super::Caller;
use super::body;
use super::gatekeeper::Call;
use super::refusal::BodyRefusals;
use super::refusal::ProblemDocument;
use super::refusal::Refusal;
use crate::authority::Entry;
use crate::authority::access::Bearer;
use crate::authority::access::TOKEN_LIFETIME;

/// The largest body, bytes: more than the longest secret, all of it escaped.
const MAX_BODY: usize = 32 * 1024;

/// What buys a token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    /// The secret.
    #[schema(value_type = String)]
    secret: Zeroizing<String>,
}

/// A token.
#[derive(Serialize, ToSchema)]
pub(super) struct Token {
    /// To be sent as `Authorization: Bearer TOKEN`.
    #[schema(value_type = String)]
    access_token: Zeroizing<String>,
    /// How long it lasts, seconds.
    expires_in: u64,
    /// `Bearer`.
    token_type: &'static str,
    /// True if the audit line of this login is on disk. If not, it waits in memory until the disk takes it.
    audit_durable: bool,
}

/// Exchange a secret for a Bearer token.
///
/// Five attempts a second from one address that come to nothing, ten at once. They keep no right secret out; that counts
/// among its holder's calls. What is wrong with a secret is never said.
#[utoipa::path(
    post, path = "/v1/admin/auth", operation_id = "buy_token", tag = "tokens", request_body = Login,
    responses(
        (status = 200, description = "A token.", body = Token),
        (status = 400, description = "Malformed.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Not a secret, or one that was revoked.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many attempts.", body = ProblemDocument, content_type = "application/problem+json"),
        BodyRefusals,
    )
)]
pub(super) async fn post_auth(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(call): Extension<Call>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Token>, Refusal> {
    let bearer = match holder(&api, &headers, body).await {
        Ok(bearer) => bearer,
        // Only here: what others try from the same address keeps no right secret out.
        Err(refusal) => {
            api.access.count_login(caller.address.ip()).map_err(Refusal::rate_limited)?;
            return Err(refusal);
        }
    };
    api.access.count_call(&bearer.actor).map_err(Refusal::rate_limited)?;
    caller.recognised.note();
    let line = Entry {
        actor: bearer.actor.clone().into(),
        role: Some(bearer.role.name().into()),
        id: Some(bearer.jti.clone()),
        ..call.line("authenticate", "applied")
    };
    // A disk that fails keeps nobody out who has to mend what it broke: the line waits, and the answer says so.
    let audit_durable = api.put_on_record(line).await?;
    tracing::info!(actor = bearer.actor, role = bearer.role.name(), jti = bearer.jti, "a token was given");
    let token = api.access.issue(bearer).ok_or_else(|| Refusal::internal("the system has no randomness"))?;
    let expires_in = TOKEN_LIFETIME.as_secs();
    Ok(Json(Token { access_token: token, expires_in, token_type: "Bearer", audit_durable }))
}

/// Whose secret is presented, if it counts.
async fn holder(api: &Api, headers: &HeaderMap, body: Body) -> Result<Bearer, Refusal> {
    let denied = || Refusal::unauthorized("the secret is wrong or revoked").about("authenticate", None);
    let (bytes, _) = body::read(headers, body, MAX_BODY, api).await?;
    // What a parser says may quote what it read.
    let malformed = |_| Refusal::bad_request(r#"expected {"secret": "..."}"#);
    let login: Login = body::parse_object(&bytes).map_err(malformed)?;
    let bearer = api.access.holder(login.secret.as_bytes(), api.clock.now()).ok_or_else(denied)?;
    api.engine.judge(&api.credential(&bearer)).map_err(|_| denied())?;
    Ok(bearer)
}
