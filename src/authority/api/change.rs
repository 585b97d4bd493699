//! `POST /v1/revocations` and `POST /v1/revoke`: what is asked, read and held against the caller's role.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::Extension;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::HeaderMap;
use http::StatusCode;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de::Error as _;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;
use tokio::task::yield_now;
use utoipa::PartialSchema;
use utoipa::ToSchema;
use utoipa::openapi::Ref;
use utoipa::openapi::RefOr;
use utoipa::openapi::Schema;
use utoipa::openapi::schema::ArrayBuilder;
use utoipa::openapi::schema::OneOfBuilder;

use super::Api;
use super::body;
use super::decision::Applied;
use super::decision::Decision;
use super::decision::DryRun;
use super::decision::TOO_LATE;
use super::gatekeeper::Actor;
use super::gatekeeper::Administrator;
use super::gatekeeper::any_killed;
use super::gatekeeper::stand;
use super::listing::Moment;
use super::names::Names;
use super::refusal::BodyRefusals;
use super::refusal::ProblemDocument;
use super::refusal::Refusal;
use super::refusal::Refusals;
use crate::authority::Role;
use crate::clock::Timestamp;
use crate::identity::KeyId;
use crate::revocation::Action;
use crate::revocation::Event;
use crate::revocation::Level;
use crate::revocation::Target;
use crate::session::Guard;

/// The largest body, bytes: a batch of the greatest size with some 800 bytes a change.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// The largest body of one change, bytes.
const MAX_ONE: usize = 64 * 1024;
/// The most changes in one batch.
const MAX_BATCH: usize = 10_000;
/// How many of them wait for the journal at once.
const IN_HAND: usize = 1024;
/// The length of a SHA-256, hexadecimal.
const SHA256_LENGTH: usize = 64;
/// The longest reason, bytes.
const MAX_REASON: usize = 1024;
/// The feed, in events and metrics.
pub(super) const FEED: &str = "admin";

/// One change, as it is asked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// What is to happen.
    action: Action,
    /// What kind of target it is.
    level: Level,
    /// The target: a serial, a key's SHA-256, a SPIFFE ID, DNS name or agent id, a jti, a task id, a CA key id, ...
    #[schema(min_length = 1, max_length = 2048)]
    target: String,
    /// The issuer's key id, where the target is a serial.
    issuer: Option<String>,
    /// The SHA-256 of the certificate, where the target is a serial. If the gate has seen that certificate, its issuer
    /// is the one that signed it.
    #[schema(min_length = 64, max_length = 64)]
    sha256: Option<String>,
    /// Why; it is logged, audited and, where configured, told to the client.
    #[schema(max_length = 1024)]
    reason: Option<String>,
    /// Of a revocation or suspension: hit only credentials that were issued before.
    #[schema(value_type = Option<Moment>)]
    issued_before: Option<Timestamp>,
    /// Of a revocation or suspension: when what is hit has expired, and the entry may be forgotten.
    #[schema(value_type = Option<Moment>)]
    expires_at: Option<Timestamp>,
    /// Of a reinstatement: lifts a revocation too.
    #[serde(default)]
    force: bool,
    /// Of a reinstatement: lifts what stands under the other names of the same principal too.
    #[serde(default)]
    all_names: bool,
    /// Revokes a certificate that nobody has seen yet.
    #[serde(default)]
    preemptive: bool,
    /// Only say what would be hit; change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// One change, or up to 10,000, each of which has an answer of its own. Describes the body; what is in a batch is read
/// one by one.
pub(super) struct Changes;

impl PartialSchema for Changes {
    fn schema() -> RefOr<Schema> {
        let one = || Ref::from_schema_name(Change::name());
        let batch = ArrayBuilder::new().items(one()).min_items(Some(1)).max_items(Some(MAX_BATCH));
        OneOfBuilder::new().item(one()).item(batch).into()
    }
}

impl ToSchema for Changes {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Change::name().into(), Change::schema()));
        Change::schemas(schemas);
    }
}

/// What came of a change.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Done {
    /// It is in effect.
    Applied(Applied),
    /// It was a dry run.
    DryRun(DryRun),
}

/// What came of a change, or of a batch.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the answer")]
pub(super) enum DoneOrMany {
    One(Box<Done>),
    Many(BatchAnswer),
}

/// What came of a batch.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchAnswer {
    /// One for each change, in their order.
    answers: Vec<Answer>,
    /// How many were done.
    done: usize,
    /// How many were not.
    refused: usize,
}

/// What came of one change of a batch.
#[derive(Serialize, ToSchema)]
struct Answer {
    /// The status that it would have had by itself.
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    result: Option<Done>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ProblemDocument>, nullable = false)]
    problem: Option<Box<RawValue>>,
}

/// Revoke, suspend or reinstate: one target, or a batch.
///
/// Asking again is safe: the answer is 200, and `revoked_at` is renewed. With 503 a change is in effect, but not on
/// disk, or not complete; ask again.
#[utoipa::path(
    post, path = "/v1/revocations", operation_id = "change", tag = "revocations", request_body = Changes, security(("bearer" = []), ()),
    responses(
        (status = 200, description = "Done; of a batch, all of it.", body = DoneOrMany),
        (status = 207, description = "Some of the batch was not done.", body = BatchAnswer),
        (status = 404, description = "An unknown serial.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "`revoked`: only a forced reinstatement lifts it. `still_refused`: nothing would be lifted, and other entries refuse the same principal. `ambiguous_issuer`: the issuer's name belongs to several authorities. `overtaken`: done, but outranked by a later decision.", content(
            (Applied = "application/json"), (ProblemDocument = "application/problem+json"),
        )),
        (status = 503, description = "In effect, but not on disk or not complete; or, of a reinstatement, not done.", content(
            (Applied = "application/json"), (ProblemDocument = "application/problem+json"),
        )),
        Refusals,
        BodyRefusals,
    )
)]
pub(super) async fn post_revocations(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Administrator>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    // Until the answer is there: what is in hand is as large.
    let (bytes, _room) = body::read(&headers, body, MAX_BODY, &api).await?;
    if bytes.trim_ascii_start().starts_with(b"[") {
        return api.change_many(bytes, who).await;
    }
    if bytes.len() > MAX_ONE {
        return Err(Refusal::payload_too_large(MAX_ONE));
    }
    let decision = api.decide(body::parse_object(&bytes)?, &who.actor)?;
    let done = Arc::clone(&api).in_a_task(decision, who).await?;
    Ok((done.status(), Json(done)).into_response())
}

/// What AgentWrit's clients ask.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    /// What kind of target it is, such as `token`, `agent`, `task` or `chain`.
    level: String,
    /// The target.
    #[schema(min_length = 1, max_length = 2048)]
    target: String,
}

/// What AgentWrit's clients are answered.
#[derive(Serialize, ToSchema)]
pub(super) struct Revoked {
    /// Always true.
    revoked: bool,
    /// As it was asked.
    level: String,
    /// The canonical name.
    target: String,
    /// How many live sessions ended.
    count: usize,
    /// False where the gate has never seen the target.
    known: bool,
}

/// Revoke one target for good: `POST /v1/revocations` for AgentWrit's clients.
#[utoipa::path(
    post, path = "/v1/revoke", operation_id = "revoke", tag = "revocations", request_body = Revoke, security(("bearer" = []), ()),
    responses(
        (status = 200, description = "Done.", body = Revoked),
        (status = 404, description = "An unknown serial.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The issuer's name belongs to several authorities.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "In effect, but not on disk or not complete.", body = ProblemDocument, content_type = "application/problem+json"),
        Refusals,
        BodyRefusals,
    )
)]
pub(super) async fn post_revoke(
    State(api): State<Arc<Api>>,
    Extension(who): Extension<Administrator>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Revoked>, Refusal> {
    let (bytes, _) = body::read(&headers, body, MAX_ONE, &api).await?;
    let Revoke { level: asked, target } = body::parse_object(&bytes)?;
    let level: Level = asked.parse().map_err(|e| Refusal::bad_request(format!("level: {e}")))?;
    let change = Change {
        action: Action::Revoke,
        level,
        target,
        issuer: None,
        sha256: None,
        reason: None,
        issued_before: None,
        expires_at: None,
        force: false,
        all_names: false,
        preemptive: false,
        dry_run: false,
    };
    let decision = api.decide(change, &who.actor)?;
    match Arc::clone(&api).in_a_task(decision, who).await? {
        Done::Applied(applied) => match applied.error {
            Some(error) => Err(Refusal::not_durable(error)),
            None => Ok(Json(Revoked {
                revoked: true,
                level: asked,
                target: applied.target,
                count: applied.sessions_ended,
                known: applied.known,
            })),
        },
        Done::DryRun(_) => Err(Refusal::internal("no dry run was asked")),
    }
}

impl Api {
    /// What a caller asks, as far as it may.
    fn decide(&self, change: Change, who: &Actor) -> Result<Decision, Refusal> {
        let target = self.target_of(&change)?;
        if change.reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
            return Err(Refusal::bad_request(format!("reason: over {MAX_REASON} bytes")));
        }
        change.fits()?;
        if change.expires_at.is_some_and(|at| at <= self.clock.now()) {
            return Err(Refusal::bad_request("expires_at: in the past, so that nothing would be hit"));
        }
        let about = |refusal: Refusal| refusal.about(change.action.name(), Some(&target));
        let may = self.may(&change, &target, who).map_err(about);
        let refused = match change.dry_run {
            true => may.err(),
            false => may.map(|()| None)?,
        };
        let event = Event {
            reason: change.reason,
            // Whole seconds, as certificates have them; a part of one counts as one.
            issued_before: change.issued_before.map(|at| at.plus(Duration::from_millis(999)).secs()),
            expires_at: change.expires_at,
            actor: Some(who.name.clone()),
            source: Some(FEED.into()),
            force: change.force,
            ..Event::new(change.action, target, self.clock.now())
        };
        let names = if change.all_names { Names::All } else { Names::Own };
        Ok(Decision { event, dry_run: change.dry_run, refused, names })
    }

    /// The target that counts: its issuer is named by its key, as far as the gate knows it.
    fn target_of(&self, change: &Change) -> Result<Target, Refusal> {
        let target = change.target()?;
        let about = |refusal: Refusal| refusal.about(change.action.name(), Some(&target));
        let signed = match &change.sha256 {
            Some(sha256) => self.signed_by_its_issuer(&target, sha256).map_err(about)?,
            None => None,
        };
        let resolved = self.engine.resolve(signed.as_ref().unwrap_or(&target));
        resolved.map_err(|ambiguous| about(Refusal::ambiguous_issuer(&ambiguous)))
    }

    /// The target of one certificate, by the key of the authority that signed it, if the gate has seen it.
    fn signed_by_its_issuer(&self, target: &Target, sha256: &str) -> Result<Option<Target>, Refusal> {
        let digest = KeyId::parse(sha256).filter(|id| id.as_str().len() == SHA256_LENGTH);
        let digest = digest.ok_or_else(|| Refusal::bad_request("sha256: 64 hexadecimal digits"))?;
        if target.level() != Level::Certificate {
            return Err(Refusal::bad_request("sha256: goes with level `certificate` alone"));
        }
        let mut seen = self.registry.by_serial(target.name(), None).into_iter();
        let issuer_key = seen.find(|seen| seen.sha256 == digest.as_str()).and_then(|seen| seen.issuer_key);
        match issuer_key {
            Some(key) => {
                let signed = Target::parse(Level::Certificate, target.name(), Some(&key));
                signed.map(Some).map_err(|e| Refusal::bad_request(e.to_string()))
            }
            // By its serial alone it would hit others of the same serial under other authorities.
            None if target.issuer().is_none() => Err(Refusal::nameless_issuer(target.name())),
            None => Ok(None),
        }
    }

    /// Whether a caller may ask this, and it names something.
    fn may(&self, change: &Change, target: &Target, who: &Actor) -> Result<(), Refusal> {
        // Who may do everything is asked nothing more.
        if who.role < Some(Role::Admin) {
            let (least, what) = self.takes(change, target);
            who.require(least, &what)?;
        }
        let strikes = change.action != Action::Reinstate && !change.preemptive;
        if strikes && target.level() == Level::Certificate && !self.knows_certificate(target) {
            return Err(Refusal::unknown_certificate(target.name()));
        }
        Ok(())
    }

    /// The least role that may ask this, and what it is called.
    fn takes(&self, change: &Change, target: &Target) -> (Role, String) {
        let (action, level) = (change.action.name(), change.level);
        let is_mass = matches!(level, Level::Issuer | Level::TrustDomain);
        match change.action {
            Action::Reinstate if change.force => (Role::Admin, "a forced reinstatement".into()),
            _ if is_mass => (Role::Admin, format!("to {action} at level {level}")),
            // What hits an authority's own certificate or key hits everything under it.
            _ if self.is_of_authority(target) => (Role::Admin, format!("to {action} an authority's {level}")),
            Action::Revoke | Action::Suspend if self.hits_an_administrator(target) => {
                (Role::Admin, format!("to {action} {target}, which holds an administrator's role,"))
            }
            _ => (Role::Operator, format!("to {action} at level {level}")),
        }
    }

    /// A task of its own: a caller who revokes herself, or hangs up, ends the call, never the revocation.
    async fn in_a_task(self: Arc<Self>, decision: Decision, who: Administrator) -> Result<Done, Refusal> {
        let Administrator { actor, guards } = who;
        let task = tokio::spawn(async move { self.carry_out(decision, &actor, guards).await });
        task.await.unwrap_or_else(|e| Err(Refusal::internal(e.to_string())))
    }

    async fn change_many(self: &Arc<Self>, bytes: Bytes, who: Administrator) -> Result<Response, Refusal> {
        // Megabytes: on another thread than that of everybody's revocations.
        let parsed = spawn_blocking(move || body::parse(&bytes)).await;
        let Batch(changes) = parsed.unwrap_or_else(|e| Err(Refusal::internal(e.to_string())))?;
        if changes.is_empty() {
            return Err(Refusal::bad_request(format!("a batch of 0; 1 to {MAX_BATCH} may be asked")));
        }
        if who.actor.role < Some(Role::Operator) && changes.iter().any(|change| !is_dry_run(change)) {
            who.actor.require(Role::Operator, "a batch that is not all dry runs")?;
        }
        let task = tokio::spawn(Arc::clone(self).each(changes, who));
        let answers = task.await.map_err(|e| Refusal::internal(e.to_string()))?;
        let done = answers.iter().filter(|answer| answer.status == StatusCode::OK.as_u16()).count();
        let refused = answers.len() - done;
        let status = if refused == 0 { StatusCode::OK } else { StatusCode::MULTI_STATUS };
        Ok((status, Json(BatchAnswer { answers, done, refused })).into_response())
    }

    /// Carries out a batch, in its order, for as long as the caller's credential stands.
    async fn each(self: Arc<Self>, changes: Vec<Box<RawValue>>, who: Administrator) -> Vec<Answer> {
        let Administrator { actor, guards } = who;
        let mut guards = Some(guards);
        let mut answers: Vec<Option<Answer>> = changes.iter().map(|_| None).collect();
        let mut in_hand = FuturesUnordered::new();
        let (mut lifts, mut lifts_more) = (HashSet::new(), false);
        for (i, change) in changes.iter().enumerate() {
            let change = body::parse_object::<Change>(change.get().as_bytes());
            let target = change.as_ref().ok().filter(|change| !lifts.is_empty() || change.lifts());
            let target = target.and_then(|change| self.target_of(change).ok());
            // What lets somebody in again takes effect late: whatever comes after it and is of its target, later.
            let waits = lifts_more || target.as_ref().is_some_and(|target| lifts.contains(target));
            let most = if waits { 1 } else { IN_HAND };
            while in_hand.len() >= most {
                tokio::select! {
                    biased;
                    // Nobody waits for the journal to be rid of her.
                    () = any_killed(guards.as_deref().unwrap_or_default()) => guards = None,
                    answered = in_hand.next() => {
                        answered.into_iter().for_each(|answered| put(&mut answers, answered));
                    }
                }
            }
            if guards.as_ref().is_some_and(|guards| !stand(guards)) {
                guards = None;
                // Those that are under way hold guards too, and her revocation waits for them: they go before the rest.
                while let Some(answered) = in_hand.next().await {
                    put(&mut answers, answered);
                }
            }
            if in_hand.is_empty() {
                lifts.clear();
                lifts_more = false;
            }
            // Of whose other names it is, is not known before.
            lifts_more |= change.as_ref().is_ok_and(|change| change.lifts() && change.all_names);
            lifts.extend(target.filter(|_| change.as_ref().is_ok_and(Change::lifts)));
            let (api, actor, strength) = (&self, &actor, guards.clone());
            let mut work = Box::pin(async move { (i, api.one_of_many(change, actor, strength).await) });
            // What is decided takes effect now, in the order of the batch; the journal and the audit come later.
            match (&mut work).now_or_never() {
                Some(answered) => put(&mut answers, answered),
                None => in_hand.push(work),
            }
            // Whoever else decides something has a turn after each.
            yield_now().await;
        }
        drop(guards);
        while let Some(answered) = in_hand.next().await {
            put(&mut answers, answered);
        }
        answers.into_iter().flatten().collect()
    }

    async fn one_of_many(
        &self,
        change: Result<Change, Refusal>,
        actor: &Actor,
        guards: Option<Vec<Guard>>,
    ) -> Answer {
        let decided = match &guards {
            Some(_) => change.and_then(|change| self.decide(change, actor)),
            None => Err(Refusal::unauthorized(TOO_LATE)),
        };
        let done = match decided {
            Ok(decision) => self.carry_out(decision, actor, guards.unwrap_or_default()).await,
            Err(refusal) => Err(refusal),
        };
        match done {
            Ok(done) => Answer { status: done.status().as_u16(), result: Some(done), problem: None },
            Err(refusal) => {
                self.record(&refusal, actor, ("POST", "/v1/revocations")).await;
                let document =
                    String::from_utf8(refusal.document(&actor.call.request_id)).unwrap_or_default();
                let problem = RawValue::from_string(document.trim_end().to_owned()).ok();
                Answer { status: refusal.status.as_u16(), result: None, problem }
            }
        }
    }
}

impl Done {
    fn status(&self) -> StatusCode {
        match self {
            Self::Applied(applied) => applied.status(),
            Self::DryRun(_) => StatusCode::OK,
        }
    }
}

impl Change {
    fn target(&self) -> Result<Target, Refusal> {
        Target::parse(self.level, &self.target, self.issuer.as_deref())
            .map_err(|e| Refusal::bad_request(e.to_string()))
    }

    /// Refuses a member that does not go with the action.
    fn fits(&self) -> Result<(), Refusal> {
        let lifts = self.action == Action::Reinstate;
        let of_lifts = [("force", self.force), ("all_names", self.all_names)];
        let of_strikes =
            [("issued_before", self.issued_before.is_some()), ("expires_at", self.expires_at.is_some())];
        let refused = |why: &str, members: [(&str, bool); 2]| {
            let given = members.into_iter().find(|(_, is_given)| *is_given);
            given.map_or(Ok(()), |(name, _)| Err(Refusal::bad_request(format!("{name}: {why}"))))
        };
        match lifts {
            true => refused(
                "a reinstatement lifts all of an entry; it goes with `revoke` and `suspend`",
                of_strikes,
            ),
            false => refused("goes with `reinstate` alone", of_lifts),
        }
    }

    /// Whether it lets somebody in again.
    fn lifts(&self) -> bool {
        self.action == Action::Reinstate && !self.dry_run
    }
}

/// A batch, of which no more is read than may be asked.
struct Batch(Vec<Box<RawValue>>);

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BatchVisitor).map(Self)
    }
}

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Vec<Box<RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of 1 to {MAX_BATCH} changes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut changes: A) -> Result<Self::Value, A::Error> {
        let mut batch = Vec::new();
        while let Some(change) = changes.next_element()? {
            if batch.len() == MAX_BATCH {
                return Err(A::Error::custom(format!(
                    "a batch of more than {MAX_BATCH}; 1 to {MAX_BATCH} may be asked"
                )));
            }
            batch.push(change);
        }
        Ok(batch)
    }
}

/// Whether a change says that it is one; nothing else of it need be right.
fn is_dry_run(change: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Only {
        #[serde(default)]
        dry_run: bool,
    }
    serde_json::from_str::<Only>(change.get()).is_ok_and(|change| change.dry_run)
}

fn put(answers: &mut [Option<Answer>], (i, answer): (usize, Answer)) {
    if let Some(place) = answers.get_mut(i) {
        *place = Some(answer);
    }
}
