//! Who is let in to the API, as what; and the audit line of everybody who is not.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::Request;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::StatusCode;
use http::header::AUTHORIZATION;
use http::header::CACHE_CONTROL;

use super::AUTH;
use super::Api;
use super::Caller;
use super::OPENAPI;
use super::refusal::Refusal;
use crate::authority::Entry;
use crate::authority::Role;
use crate::authority::access::Bearer;
use crate::revocation::Denial;
use crate::session::Credential;
use crate::session::Guard;
use crate::session::Heeds;
use crate::session::Holder;
use crate::session::Origin;
use crate::session::Session;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::LeftOut;
use crate::telemetry::LineKind;
use crate::telemetry::LineSource;
use crate::telemetry::cut;

/// The longest correlation id, bytes.
const MAX_CORRELATION: usize = 128;
const CORRELATION: &str = "x-correlation-id";
/// How much of a method is logged and audited, characters.
const MAX_METHOD: usize = 32;
const REFUSED: &str = "admin request refused";

/// Somebody who was let in.
#[derive(Clone)]
pub(super) struct Administrator {
    pub(super) actor: Actor,
    /// Keep what the administrator is known by in the table of sessions, so that a revocation of it waits for what is
    /// being decided on its strength: the connection's own if a certificate let the administrator in, else the token's.
    pub(super) guards: Vec<Guard>,
}

/// Who asks, for the record.
#[derive(Clone)]
pub(super) struct Actor {
    /// The principal, or `secret:NAME`; empty if it is nobody known.
    pub(super) name: String,
    pub(super) role: Option<Role>,
    pub(super) call: Call,
}

/// What is known of any call.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) address: SocketAddr,
    pub(super) request_id: String,
    pub(super) correlation_id: String,
}

/// Whether all of the credentials still stand that a caller was let in with.
pub(super) fn stand(guards: &[Guard]) -> bool {
    guards.iter().all(|guard| guard.cause().is_none())
}

impl Actor {
    /// Refuses who is less than `least`.
    pub(super) fn require(&self, least: Role, what: &str) -> Result<(), Refusal> {
        if self.role >= Some(least) {
            return Ok(());
        }
        let role = self.role.map_or("nobody", Role::name);
        Err(Refusal::insufficient_scope(format!("{} is {role}; {what} takes {}", self.name, least.name())))
    }

    /// The budget of lines that a refusal takes from.
    fn source(&self) -> LineSource<'_> {
        LineSource::of(&self.name, self.call.address.ip())
    }

    /// An audit line by this actor.
    pub(super) fn line(&self, action: &'static str, outcome: &'static str) -> Entry {
        let (actor, role) = (self.name.clone().into(), self.role.map(|role| role.name().into()));
        Entry { actor, role, ..self.call.line(action, outcome) }
    }
}

impl Call {
    /// An audit line of this call.
    pub(super) fn line(&self, action: &'static str, outcome: &'static str) -> Entry {
        Entry {
            action: action.into(),
            outcome: outcome.into(),
            address: self.address.to_string(),
            request_id: self.request_id.clone(),
            correlation_id: self.correlation_id.clone(),
            ..Entry::default()
        }
    }
}

/// Returns whether a request is judged by a token or secret alone: it has an `Authorization` header, or is a login. So the
/// certificate of its connection, revoked, expired or unknown, does not keep out the holder of a token or secret.
pub fn authenticates_itself<B>(request: &http::Request<B>) -> bool {
    request.headers().contains_key(AUTHORIZATION)
        || (request.method() == Method::POST && request.uri().path() == AUTH)
}

/// Lets in whom a certificate or a token shows to be an administrator; everything else ends here.
pub(super) async fn admit(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return Refusal::internal("the listener does not say who calls").respond("");
    };
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let call = Call {
        address: caller.address,
        request_id: caller.request_id.clone(),
        correlation_id: correlation(request.headers()).unwrap_or_else(|| caller.request_id.clone()),
    };
    let admitted = match path.as_str() {
        OPENAPI => unless_too_often(api.access.count_stranger(caller.address.ip())),
        // It counts itself, by what the secret turns out to be: wrong ones keep a right one out of nothing.
        AUTH if request.method() == Method::POST => Ok(None),
        AUTH => unless_too_often(api.access.count_stranger(caller.address.ip())),
        _ => api.recognise(&caller, request.headers(), &call).map(Some),
    };
    let known = admitted.as_ref().ok().and_then(Option::as_ref).map(|known| known.actor.clone());
    known.iter().for_each(|_| caller.recognised.note());
    let (mut response, actor) = match admitted {
        Ok(administrator) => {
            let guards = administrator.as_ref().map_or_else(Vec::new, |known| known.guards.clone());
            request.extensions_mut().insert(call.clone());
            administrator.map(|administrator| request.extensions_mut().insert(administrator));
            let response = tokio::select! {
                biased;
                // Its connection is about to end; nothing more is done on it until then.
                () = any_killed(&guards) => refused(&Refusal::unauthorized(REVOKED)),
                response = next.run(request) => response,
            };
            (response, known.clone().map(Box::new))
        }
        Err((refusal, actor)) => (refused(&refusal), actor),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let Some(refusal) = response.extensions_mut().remove::<Refusal>() else {
        return response;
    };
    let actor = actor.unwrap_or_else(|| Box::new(Actor { name: String::new(), role: None, call }));
    let mut answer = refusal.respond(&caller.request_id);
    // Such as `Allow`.
    for (name, value) in response.headers() {
        if !answer.headers().contains_key(name) && name != http::header::CONTENT_LENGTH {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    // A task of its own: who hangs up is on record all the same.
    let recorded = tokio::spawn(async move { api.record(&refusal, &actor, (&method, &path)).await });
    if let Err(error) = recorded.await {
        tracing::error!(%error, "audit: a refusal was not recorded");
    }
    answer
}

/// A flag that the caller of a request was let in, or has shown a secret. It is set before anything is done for the caller,
/// so that the listener does not end the connection in favour of another while the call lasts.
#[derive(Clone, Debug, Default)]
pub struct Recognised(Arc<AtomicBool>);

impl Recognised {
    /// Sets it.
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Returns whether it is set.
    pub fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The tokens that were used on one connection, each with a session that lasts as long as the connection: a token's
/// revocation ends the connections that it was used on, with whatever of an answer is still under way.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<Mutex<HashMap<String, Guard>>>);

impl Tokens {
    /// The session of a token, which begins if it has none.
    fn session(
        &self,
        jti: &str,
        connection: Option<&Guard>,
        admit: impl FnOnce() -> Result<Guard, Denial>,
    ) -> Option<Guard> {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = tokens.get(jti) {
            return Some(guard.clone()).filter(|guard| guard.cause().is_none());
        }
        let guard = admit().ok()?;
        tokens.insert(jti.to_owned(), guard.clone());
        if let Some(connection) = connection.map(Guard::watched) {
            tokio::spawn(tie(guard.clone(), connection));
        }
        Some(guard)
    }
}

/// Ends a connection with a token. The token's session lasts until the connection is over, so that whoever revokes the
/// token waits for that.
async fn tie(token: Guard, connection: Arc<Session>) {
    let cause = tokio::select! {
        () = connection.ended() => return,
        cause = token.killed() => cause.clone(),
    };
    connection.kill(cause);
    connection.ended().await;
}

const REVOKED: &str = "the credential was revoked";

fn refused(refusal: &Refusal) -> Response {
    axum::response::IntoResponse::into_response(refusal.clone())
}

/// Waits until one of them is killed; for ever if there is none.
pub(super) async fn any_killed(guards: &[Guard]) {
    match guards {
        [] => std::future::pending().await,
        [one] => drop(one.killed().await),
        [one, rest @ ..] => tokio::select! {
            _ = one.killed() => {}
            () = Box::pin(any_killed(rest)) => {}
        },
    }
}

/// Somebody who is not let in, and why.
type Refused = (Refusal, Option<Box<Actor>>);

/// Anybody is let in, if not too often.
fn unless_too_often(counted: Result<(), Duration>) -> Result<Option<Administrator>, Refused> {
    counted.map(|()| None).map_err(|wait| (Refusal::rate_limited(wait), None))
}

/// What the caller calls the matter, if it can be written down as it is.
fn correlation(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CORRELATION)?.to_str().ok()?;
    let fits = (1..=MAX_CORRELATION).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    fits.then(|| text.to_owned())
}

impl Api {
    /// Recognises the caller: see [`authenticates_itself`].
    fn recognise(&self, caller: &Caller, headers: &HeaderMap, call: &Call) -> Result<Administrator, Refused> {
        let mut authorizations = headers.get_all(AUTHORIZATION).iter();
        let known = match (authorizations.next(), authorizations.next()) {
            (None, _) => self.by_certificate(caller, call),
            (Some(value), None) => self.by_token(caller, value, call).map_err(|refusal| (refusal, None)),
            (Some(_), Some(_)) => Err((Refusal::unauthorized("more than one authorization"), None)),
        };
        let administrator = known.map_err(|(refusal, actor)| {
            let counted = self.access.count_stranger(caller.address.ip());
            (counted.map_or_else(Refusal::rate_limited, |()| refusal), actor)
        })?;
        match self.access.count_call(&administrator.actor.name) {
            Ok(()) => Ok(administrator),
            Err(wait) => Err((Refusal::rate_limited(wait), Some(Box::new(administrator.actor)))),
        }
    }

    fn by_certificate(&self, caller: &Caller, call: &Call) -> Result<Administrator, Refused> {
        let Some(principal) = &caller.principal else {
            let reason = match &caller.refused {
                None => "an administrator's certificate or a Bearer token is required".to_owned(),
                Some(why) => format!("the certificate's names are not accepted: {why}"),
            };
            return Err((Refusal::unauthorized(reason), None));
        };
        let actor = Actor { name: principal.clone(), role: self.access.role(principal), call: call.clone() };
        if actor.role.is_none() {
            return Err((Refusal::admin_denied(principal), Some(Box::new(actor))));
        }
        Ok(Administrator { actor, guards: caller.guard.iter().cloned().collect() })
    }

    fn by_token(&self, caller: &Caller, value: &HeaderValue, call: &Call) -> Result<Administrator, Refusal> {
        let generic = || Refusal::unauthorized("the token is missing, wrong, expired or revoked");
        let text = value.as_bytes();
        let token = text.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let bearer = token.and_then(|(_, token)| self.access.bearer(token.trim_ascii(), self.clock.now()));
        let bearer = bearer.ok_or_else(generic)?;
        let origin = Origin { peer: caller.address, listener: "admin", protocol: "bearer" };
        let admit = || self.engine.admit(Arc::new(self.credential(&bearer)), origin);
        let guard = caller.tokens.session(&bearer.jti, caller.guard.as_ref(), admit).ok_or_else(generic)?;
        self.engine.check(guard.session()).map_err(|_| generic())?;
        let actor = Actor { name: bearer.actor, role: Some(bearer.role), call: call.clone() };
        // The token's alone: a revocation of the certificate beside it undoes nothing that the token may do.
        Ok(Administrator { actor, guards: vec![guard] })
    }

    /// A token as the engine sees it.
    pub(super) fn credential(&self, bearer: &Bearer) -> Credential {
        let targets: Vec<_> = bearer.targets().collect();
        let own = self.engine.fingerprinter().all_carried(&targets);
        let holder = Holder { principal: Some(bearer.actor.clone()), ..Holder::default() };
        let issued_at = bearer.issued_at.secs();
        Credential { own, mass: Vec::new(), issued_at, heeds: Heeds::Signed, holder: holder.into() }
    }

    /// Logs a refusal, and writes it to the audit before it is answered. What strangers do, and who calls too often, is
    /// written so often only; what is missing is summed up.
    pub(super) async fn record(&self, refusal: &Refusal, actor: &Actor, (method, path): (&str, &str)) {
        let (method, path) = (cut(method, MAX_METHOD), cut(path, LONGEST_NAME));
        self.log(refusal, actor, (&method, &path));
        let is_lost = matches!(refusal.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        if is_lost && refusal.about.is_none() {
            return;
        }
        let is_cheap = actor.role.is_none() || refusal.status == StatusCode::TOO_MANY_REQUESTS;
        let unsaid = if is_cheap { self.admits_audit(refusal.code, actor) } else { Some(0) };
        let Some(unsaid) = unsaid else { return };
        let line = Entry {
            code: Some(refusal.code.into()),
            reason: Some(refusal.reason.clone()),
            method: Some(method.into_owned()),
            path: Some(path.into_owned()),
            unsaid: Some(unsaid).filter(|unsaid| *unsaid > 0),
            ..actor.line("call", "refused")
        };
        let line = self.about(line, refusal).await;
        // What cannot be written was logged.
        let _ = self.put_on_record(line).await;
    }

    fn log(&self, refusal: &Refusal, actor: &Actor, (method, path): (&str, &str)) {
        let (code, reason) = (refusal.code, refusal.reason.as_str());
        let kind = LineKind::warning(REFUSED, code);
        let Some(unsaid) = self.lines.admit(kind, actor.source(), self.clock.elapsed()) else { return };
        let Call { address, request_id, .. } = &actor.call;
        let actor = &*cut(&actor.name, LONGEST_NAME);
        tracing::warn!(request_id, %address, actor, method, path, code, reason, unsaid, "{REFUSED}");
    }

    /// Asks for a line of the audit about somebody who is not let in, or calls too often; returns how many like it were
    /// left out before, if it is to be written.
    fn admits_audit(&self, code: &'static str, actor: &Actor) -> Option<u64> {
        self.load.refusals.admit(LineKind::warning(REFUSED, code), actor.source(), self.clock.elapsed())
    }

    /// Puts on record that somebody was turned away who is denied altogether.
    pub async fn record_denial(
        &self,
        principal: &str,
        code: &'static str,
        address: SocketAddr,
        request_id: &str,
    ) {
        let request_id = request_id.to_owned();
        let call = Call { address, correlation_id: request_id.clone(), request_id };
        let actor = Actor { name: principal.to_owned(), role: self.access.role(principal), call };
        let Some(unsaid) = self.admits_audit(code, &actor) else { return };
        let unsaid = Some(unsaid).filter(|unsaid| *unsaid > 0);
        let line = Entry { code: Some(code.into()), unsaid, ..actor.line("call", "refused") };
        let _ = self.put_on_record(line).await;
    }

    /// Puts on record how many refusals were left out of callers that have gone quiet.
    pub async fn sum_up(&self) {
        self.record_left_out(&self.load.refusals.quiet(self.clock.elapsed())).await;
    }

    /// Puts on record how many refusals were left out, at the end of the process.
    pub async fn sum_up_all(&self) {
        self.record_left_out(&self.load.refusals.rest(self.clock.elapsed())).await;
    }

    async fn record_left_out(&self, left_out: &[LeftOut]) {
        for line in summed_up(left_out) {
            let _ = self.put_on_record(line).await;
        }
    }

    /// Writes a line to the audit. Returns whether it is on disk; if not, the log says so, and it waits in memory until the
    /// disk takes it.
    ///
    /// # Errors
    /// [`Refusal::not_durable`] where the line is not kept either.
    pub(super) async fn put_on_record(&self, line: Entry) -> Result<bool, Refusal> {
        let Err(error) = self.audit.append(line).await else { return Ok(true) };
        match error.keeps_line() {
            true => Ok(false),
            false => Err(Refusal::not_durable(format!("audit: {error}"))),
        }
    }

    async fn about(&self, line: Entry, refusal: &Refusal) -> Entry {
        let Some(about) = &refusal.about else { return line };
        let line = Entry { action: about.action.into(), id: about.event.clone(), ..line };
        match &about.target {
            Some(target) => self.aimed(line, target).await,
            None => line,
        }
    }
}

/// A line of the audit for each code of the refusals that were left out, with the caller where it was one alone.
fn summed_up(left_out: &[LeftOut]) -> Vec<Entry> {
    let mut of_code: BTreeMap<&str, Vec<&LeftOut>> = BTreeMap::new();
    for left_out in left_out.iter().filter(|left_out| left_out.unsaid > 0) {
        of_code.entry(left_out.code()).or_default().push(left_out);
    }
    let sum = |(code, all): (&str, Vec<&LeftOut>)| {
        let caller = |one: &LeftOut| (one.principal.clone(), one.address);
        let first = all.first().map(|one| caller(one));
        let alone = first.filter(|first| all.iter().all(|one| caller(one) == *first));
        let (actor, address) = alone.unwrap_or_default();
        Entry {
            action: "call".into(),
            outcome: "left_out".into(),
            code: Some(code.to_owned().into()),
            unsaid: Some(all.iter().map(|one| one.unsaid).sum()),
            actor: actor.into(),
            address: address.map(|address| address.to_string()).unwrap_or_default(),
            ..Entry::default()
        }
    };
    of_code.into_iter().map(sum).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;
    use crate::telemetry::LineLimiter;

    /// Seen failing with one sum of all that was left out.
    #[test]
    fn left_out_refusals_keep_their_code_and_their_caller() {
        let (limiter, now) = (LineLimiter::default(), Duration::from_secs(1));
        let here = LineSource::Address(IpAddr::from([192, 0, 2, 1]));
        let there = LineSource::Address(IpAddr::from([192, 0, 2, 2]));
        for (code, source) in [
            ("unauthorized", here),
            ("unauthorized", there),
            ("insufficient_scope", LineSource::Principal("agent")),
            ("rate_limited", here),
        ] {
            for _ in 0..7 {
                limiter.admit(LineKind::warning(REFUSED, code), source, now);
            }
        }
        let lines = summed_up(&limiter.rest(now));
        let told = lines.iter().map(|line| {
            (line.code.as_deref().unwrap(), line.unsaid.unwrap(), &*line.actor, line.address.as_str())
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                ("insufficient_scope", 2, "agent", ""),
                ("rate_limited", 2, "", "192.0.2.1"),
                ("unauthorized", 4, "", ""),
            ]
        );
    }
}
