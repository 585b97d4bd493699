//! `GET /v1/sessions`: who is connected, since when, with what; `DELETE /v1/sessions/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::Extension;
use axum::extract::State;
use futures_util::FutureExt as _;
use serde::Deserialize;
use serde::Serialize;
use utoipa::IntoParams;
use utoipa::ToSchema;

use super::Api;
use super::audited::canonical;
use super::body::Filter;
use super::body::Id;
use super::decision::TOO_LATE;
use super::gatekeeper::Administrator;
use super::gatekeeper::stand;
use super::listing::Limit;
use super::refusal::ProblemDocument;
use super::refusal::Refusal;
use super::refusal::Refusals;
use crate::authority::Entry;
use crate::authority::Role;
use crate::clock::Timestamp;
use crate::revocation::Level;
use crate::revocation::Target;
use crate::session;
use crate::session::Cause;
use crate::session::SessionId;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::cut;

/// The longest reason, bytes.
const MAX_REASON: usize = 1024;

/// Which sessions are wanted: those that have all that is given.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Of this principal or agent id.
    principal: Option<String>,
    /// With the certificate of this serial.
    serial: Option<String>,
    /// With a certificate on this key: SHA-256 of its SubjectPublicKeyInfo.
    key: Option<String>,
    /// With a certificate under this authority's key id.
    issuer: Option<String>,
    /// Of this trust domain.
    trust_domain: Option<String>,
    /// From this address, with or without port.
    address: Option<String>,
    /// On this listener.
    #[param(inline)]
    listener: Option<Listener>,
    /// How many rows.
    #[serde(default)]
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1000, default = 100)]
    limit: Limit,
    /// How many rows to pass over.
    #[serde(default)]
    #[param(value_type = Option<usize>, minimum = 0)]
    offset: usize,
}

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Listener {
    /// The one that forwards.
    Gate,
    /// The one of this API.
    Admin,
}

/// One live session.
#[derive(Serialize, ToSchema)]
pub(super) struct Session {
    /// Unique, over restarts too.
    id: String,
    /// The SPIFFE ID or DNS name; absent without a certificate whose names are accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    principal: Option<String>,
    /// The agent id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    agent: Option<String>,
    /// The kind of principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    kind: Option<String>,
    /// The certificate's serial.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    serial: Option<String>,
    /// SHA-256 of its SubjectPublicKeyInfo.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key: Option<String>,
    /// The key id of its issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    trust_domain: Option<String>,
    /// The address at the other end.
    address: String,
    /// `gate` or `admin`.
    listener: &'static str,
    /// `http/1.1`, `http/2`, or `bearer` for a call with a token.
    protocol: &'static str,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// When its certificate's path expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    not_after: Option<Timestamp>,
}

impl From<&session::Session> for Session {
    fn from(session: &session::Session) -> Self {
        let holder = session.credential().holder.as_ref();
        Self {
            id: session.id().to_string(),
            principal: holder.principal.clone(),
            agent: holder.agent.clone(),
            kind: holder.kind.clone(),
            serial: holder.serial.clone(),
            key: holder.key.clone(),
            issuer: holder.issuers.first().cloned(),
            trust_domain: holder.trust_domain.clone(),
            address: session.peer().to_string(),
            listener: session.listener(),
            protocol: session.protocol(),
            since: session.since(),
            not_after: holder.not_after,
        }
    }
}

/// A page of sessions, the oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Sessions {
    sessions: Vec<Session>,
    /// How many there are in all.
    total: usize,
    offset: usize,
    limit: usize,
}

/// List who is connected.
#[utoipa::path(
    get, path = "/v1/sessions", operation_id = "list_sessions", tag = "sessions", params(Wanted), security(("bearer" = []), ()),
    responses(
        (status = 200, description = "A page, the oldest first.", body = Sessions),
        Refusals,
    )
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Filter(wanted): Filter<Wanted>,
) -> Result<Json<Sessions>, Refusal> {
    let wanted = wanted.canonical()?;
    let issuer = wanted.issuer.as_deref().and_then(|name| Target::parse(Level::Issuer, name, None).ok());
    let issuers = issuer.map(|issuer| api.engine.spellings(&issuer));
    let is_under = |session: &session::Session| {
        issuers.as_ref().is_none_or(|issuers| issuers.iter().any(|issuer| api.is_under(session, issuer)))
    };
    let all = api.engine.sessions().list().into_iter();
    let found: Vec<_> = all.filter(|session| wanted.takes(session) && is_under(session)).collect();
    let page = found.iter().skip(wanted.offset).take(wanted.limit.0);
    let sessions = page.map(|session| session.as_ref().into()).collect();
    Ok(Json(Sessions { sessions, total: found.len(), offset: wanted.offset, limit: wanted.limit.0 }))
}

/// Why a session is to end.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Why {
    /// Why; it is logged and audited.
    #[param(max_length = 1024)]
    reason: Option<String>,
}

/// A session that ended.
#[derive(Serialize, ToSchema)]
pub(super) struct Ended {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    principal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    serial: Option<String>,
    /// Always true.
    ended: bool,
    /// 1 if it has not let go yet; it is served nothing any more.
    sessions_pending: usize,
    /// True if the audit line of this call is on disk. If not, it waits in memory until the disk takes it.
    audit_durable: bool,
}

/// End one session. Its credential is not denied: it may connect again. An administrator's takes the role `admin`.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}", operation_id = "end_session", tag = "sessions", security(("bearer" = []), ()),
    params(("id" = String, Path, description = "The id of a session."), Why),
    responses(
        (status = 200, description = "It has ended.", body = Ended),
        (status = 404, description = "No such session.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "It has ended; the gate is about to end.", body = ProblemDocument, content_type = "application/problem+json"),
        Refusals,
    )
)]
pub(super) async fn end(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Administrator>,
    Id(id): Id,
    Filter(why): Filter<Why>,
) -> Result<Json<Ended>, Refusal> {
    who.actor
        .require(Role::Operator, "to end a session")
        .map_err(|refusal| refusal.about("end_session", None))?;
    if why.reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
        return Err(Refusal::bad_request(format!("reason: over {MAX_REASON} bytes")));
    }
    // A task of its own: who ends her own session ends the call, never what is on record of it.
    let task = tokio::spawn(async move { api.end(&id, why.reason, who).await });
    task.await.unwrap_or_else(|e| Err(Refusal::internal(e.to_string()))).map(Json)
}

impl Wanted {
    /// The same with names in their one spelling.
    fn canonical(self) -> Result<Self, Refusal> {
        let spelt = |level, name: Option<String>| name.map(|name| canonical(level, &name)).transpose();
        Ok(Self {
            serial: spelt(Level::Certificate, self.serial)?,
            key: spelt(Level::Key, self.key)?,
            issuer: spelt(Level::Issuer, self.issuer)?,
            trust_domain: spelt(Level::TrustDomain, self.trust_domain)?,
            ..self
        })
    }

    fn takes(&self, session: &session::Session) -> bool {
        let holder = session.credential().holder.as_ref();
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted
                .as_deref()
                .is_none_or(|wanted| found.is_some_and(|found| found.eq_ignore_ascii_case(wanted)))
        };
        let peer = session.peer();
        let address =
            |wanted: &String| *wanted == peer.to_string() || *wanted == peer.ip().to_canonical().to_string();
        (is(&self.principal, holder.principal.as_deref()) || is(&self.principal, holder.agent.as_deref()))
            && is(&self.serial, holder.serial.as_deref())
            && is(&self.key, holder.key.as_deref())
            && is(&self.trust_domain, holder.trust_domain.as_deref())
            && self.address.as_ref().is_none_or(address)
            && self.listener.is_none_or(|listener| listener.name() == session.listener())
    }
}

impl Listener {
    const fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Admin => "admin",
        }
    }
}

impl Api {
    /// Whether an authority, by one of its names, stands above the holder of a session.
    fn is_under(&self, session: &session::Session, issuer: &Target) -> bool {
        let credential = session.credential();
        credential.mass.contains(&self.engine.fingerprinter().target(issuer))
            || credential.holder.issuers.iter().any(|id| id == issuer.name())
    }

    async fn end(&self, id: &str, reason: Option<String>, who: Administrator) -> Result<Ended, Refusal> {
        let Administrator { actor, guards } = who;
        let unknown = || Refusal::unknown("unknown_session", id).about("end_session", None);
        let name: SessionId = id.parse().map_err(|_| unknown())?;
        let session = self.engine.sessions().get(name).ok_or_else(unknown)?;
        self.may_end(&session, &actor).map_err(|refusal| refusal.about("end_session", None))?;
        let holder = Arc::clone(&session.credential().holder);
        drop(session);
        if !stand(&guards) {
            return Err(Refusal::unauthorized(TOO_LATE));
        }
        let cause = Cause { code: Cause::ENDED, reason: reason.clone().unwrap_or_default() };
        let mut ending = Box::pin(self.engine.end_session(name, cause));
        // The first step kills. Her own session may be the one, which ends when its guards are gone.
        let first = (&mut ending).now_or_never();
        drop(guards);
        let ended = match first {
            Some(ended) => ended,
            None => ending.await,
        };
        let sessions_pending = ended.ok_or_else(unknown)?;
        let line = Entry {
            id: Some(id.to_owned()),
            principal: holder.principal.clone(),
            serial: holder.serial.clone(),
            reason,
            sessions_ended: Some(1),
            ..actor.line("end_session", "applied")
        };
        tracing::info!(
            session = id,
            actor = &*cut(&actor.name, LONGEST_NAME),
            principal_id = holder.principal.as_deref().map(|name| cut(name, LONGEST_NAME)).as_deref(),
            "session ended by an administrator"
        );
        let audit_durable = self.put_on_record(line).await?;
        Ok(Ended {
            id: id.to_owned(),
            principal: holder.principal.clone(),
            serial: holder.serial.clone(),
            ended: true,
            sessions_pending,
            audit_durable,
        })
    }
}
