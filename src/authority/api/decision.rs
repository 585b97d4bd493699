//! A decision is carried out: in effect first, on record before anybody is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use futures_util::FutureExt as _;
use http::StatusCode;
use serde::Serialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::ADVISORY;
use super::Api;
use super::change::Done;
use super::change::FEED;
use super::gatekeeper::Actor;
use super::gatekeeper::any_killed;
use super::gatekeeper::stand;
use super::names::Lifted;
use super::names::Names;
use super::names::Obstacle;
use super::names::OtherNames;
use super::refusal::Refusal;
use crate::authority::Entry;
use crate::clock::Timestamp;
use crate::revocation;
use crate::revocation::Action;
use crate::revocation::Arrival;
use crate::revocation::Event;
use crate::revocation::JournalError;
use crate::revocation::Level;
use crate::revocation::Outcome;
use crate::revocation::Seen;
use crate::revocation::Target;
use crate::revocation::Targets;
use crate::revocation::Timeline;
use crate::session::Guard;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::LONGEST_REASON;
use crate::telemetry::cut;

/// The most names in one answer.
const MAX_NAMES: usize = 100;
/// Certificates of one target that a dry run looks at.
const MAX_PREVIEW: usize = 1000;

/// Why something is not carried out any more.
pub(super) const TOO_LATE: &str = "the caller was revoked before this was carried out";

/// Said of a change that denies it.
const LAST_SECRET: &str =
    "this is the last [[admin.secret]] with role \"admin\"; without it a lock-out takes a restart";

/// What a caller may ask, and asks.
pub(super) struct Decision {
    pub(super) event: Event,
    pub(super) dry_run: bool,
    /// Of a dry run: why it would be refused.
    pub(super) refused: Option<Refusal>,
    /// Of a reinstatement: which names it lifts.
    pub(super) names: Names,
}

/// A change that is in effect.
#[derive(Serialize, ToSchema)]
pub(super) struct Applied {
    /// The id of the event.
    pub(super) id: String,
    action: Action,
    pub(super) level: Level,
    /// The canonical name.
    pub(super) target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    issuer: Option<String>,
    /// When it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    revoked_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    suspended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    reinstated_at: Option<Timestamp>,
    /// Whether what the target's credentials are allowed is another than before.
    pub(super) changed: bool,
    /// False where the gate has never seen the target: the entry stands, and hits nothing so far.
    pub(super) known: bool,
    /// Of a revocation or suspension: what the target does not hit although it may look so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    note: Option<String>,
    /// Of a reinstatement: the entries that still refuse the same principal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(super) still_refused: Vec<Obstacle>,
    /// Of a reinstatement with `all_names`: everything that was lifted; the target is the first, if anything stood under it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(super) lifted: Vec<Lifted>,
    /// Of a reinstatement with `all_names`: other principals that share a name that was lifted. Each is let in as well
    /// unless another entry refuses it. The first hundred.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(super) also_lets_in: Vec<String>,
    /// False in advisory mode, and while break-glass lasts: the gate refuses nobody.
    enforced: bool,
    /// When break-glass ends, while it lasts: then it is enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    break_glass_until: Option<Timestamp>,
    /// How the gate's routes are served: `strict`, `advisory` or `mixed`.
    mode: &'static str,
    /// The generation of the set; starts anew with each process.
    pub(super) generation: u64,
    /// How many live sessions ended.
    pub(super) sessions_ended: usize,
    /// Whose it is, where the gate has seen exactly one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    principal: Option<String>,
    /// Its serial, where the gate has seen exactly one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    serial: Option<String>,
    /// False if a later decision outranks it: then the target does not stand as asked.
    effective: bool,
    /// Whether it is on disk, and will be in effect after a restart.
    durable: bool,
    /// Sessions that have not let go yet; they are served nothing any more.
    sessions_pending: usize,
    /// What is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) error: Option<String>,
    /// `overtaken` if it is not effective.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    code: Option<&'static str>,
    /// Done as asked, but perhaps not as meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

/// What the gate has seen of a target: whether anything, and whose it is where that is exactly one.
struct Sighting {
    known: bool,
    principal: Option<String>,
    serial: Option<String>,
}

impl Applied {
    pub(super) fn status(&self) -> StatusCode {
        match (self.effective, &self.error) {
            (false, _) => StatusCode::CONFLICT,
            (true, Some(_)) => StatusCode::SERVICE_UNAVAILABLE,
            (true, None) => StatusCode::OK,
        }
    }
}

/// What a change would do.
#[derive(Serialize, ToSchema)]
pub(super) struct DryRun {
    /// Always true.
    dry_run: bool,
    action: Action,
    level: Level,
    /// The canonical name.
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    issuer: Option<String>,
    /// Whether what the target's credentials are allowed would be another than now.
    would_change: bool,
    /// Whether the gate has seen the target.
    known: bool,
    /// Of a revocation or suspension: what the target does not hit although it may look so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    note: Option<String>,
    /// Of a reinstatement with `all_names`: the entries under other names that it would lift; the first hundred.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    also_lifts: Vec<Obstacle>,
    /// Of a reinstatement with `all_names`: other principals that share a name with those entries. Each would be let in as
    /// well unless another entry refuses it. The first hundred.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    also_lets_in: Vec<String>,
    /// Live sessions that would end.
    sessions: usize,
    /// Different certificates among them.
    certificates: usize,
    /// Valid certificates that the gate has seen and that it would hit, connected or not; of so many as a thousand.
    certificates_known: usize,
    /// Whose all these are; the first hundred.
    principals: Vec<String>,
    /// How many principals there are.
    principals_total: usize,
    /// Whether the caller's own session is among them: this would lock the caller out.
    includes_caller: bool,
    /// It would be done as asked, but perhaps not as meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
    /// Why the change itself would be refused, if it would.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    refused: Option<WouldRefuse>,
}

/// Why a change would be refused.
#[derive(Serialize, ToSchema)]
struct WouldRefuse {
    status: u16,
    code: &'static str,
    error: String,
}

impl Api {
    /// Carries out a decision while the caller's credential stands. The guards hold up a revocation of the caller until
    /// what she decided is in effect, and no longer: what is decided later is not decided on her strength.
    pub(super) async fn carry_out(
        &self,
        decision: Decision,
        actor: &Actor,
        guards: Vec<Guard>,
    ) -> Result<Done, Refusal> {
        let Decision { event, dry_run, refused, names } = decision;
        if dry_run {
            let (mut others, mut refused) = (OtherNames::default(), refused);
            if event.action == Action::Reinstate {
                others = self.other_names(&event.target).await;
                refused = refused.or_else(|| self.refuses(&event, names, &others));
            }
            let preview = self.preview(&event, refused, others.lifted_by(names), &guards);
            return Ok(Done::DryRun(preview.await));
        }
        if !stand(&guards) {
            return Err(Refusal::unauthorized(TOO_LATE));
        }
        let (action, target, id) = (event.action, event.target.clone(), event.id.clone());
        let applied = match action {
            Action::Reinstate => self.reinstate(event, names, actor, guards).await,
            Action::Revoke | Action::Suspend => self.apply(event, actor, guards).await.map_err(Refusal::from),
        };
        applied
            .map(Done::Applied)
            .map_err(|refusal| refusal.about(action.name(), Some(&target)).of_event(&id))
    }

    /// What lets somebody in again is on record first, or it does not happen. That takes a while, after which the caller
    /// must still be one who may.
    pub(super) async fn lift(
        &self,
        event: Event,
        actor: &Actor,
        guards: Vec<Guard>,
    ) -> Result<Applied, Refusal> {
        let asked = Entry { outcome: "asked".into(), ..event_line(&event, actor) };
        let asked = self.aimed(asked, &event.target).await;
        let failed = |e| revocation::Error::Journal(JournalError::Write(format!("audit: {e}")));
        tokio::select! {
            biased;
            () = any_killed(&guards) => return Err(Refusal::unauthorized(TOO_LATE)),
            on_record = self.audit.append(asked) => on_record.map_err(failed)?,
        };
        Ok(self.apply(event, actor, guards).await?)
    }

    /// Applies an event, and writes down who did it, before anybody is told that it is done.
    async fn apply(
        &self,
        event: Event,
        actor: &Actor,
        guards: Vec<Guard>,
    ) -> Result<Applied, revocation::Error> {
        let arrival = Arrival { at: self.clock.now(), instant: Instant::now() };
        let (action, target, expires_at) = (event.action, event.target.clone(), event.expires_at);
        let (mut line, lock_out) = (event_line(&event, actor), self.lock_out(&event));
        let told = event.clone();
        let mut outcome = self.take_in(event, guards).await?;
        self.metrics.events.with_label_values(&[FEED, action.name(), target.level().name()]).inc();
        let timeline = Timeline::new(FEED, arrival, Duration::ZERO, &outcome);
        line = self.aimed(line, &target).await;
        let known = outcome.sessions_ended > 0 || self.has_seen(&target).await;
        if !known {
            self.metrics.unknown_targets.with_label_values(&[FEED, target.level().name()]).inc();
        }
        line.at = Some(outcome.at);
        line.generation = Some(outcome.generation);
        line.sessions_ended = Some(outcome.sessions_ended);
        line.outcome = if outcome.durable.is_ok() { "applied" } else { "effective_not_durable" }.into();
        line.timeline = Some(timeline.clone());
        if outcome.sessions_pending > 0 {
            tracing::error!(
                id = outcome.id,
                sessions = outcome.sessions_pending,
                "sessions have not let go in time"
            );
        }
        let about = Sighting { known, principal: line.principal.clone(), serial: line.serial.clone() };
        let others: Vec<Entry> = outcome.other_names.iter().map(|other| under_name(&line, other)).collect();
        for line in std::iter::once(line).chain(others) {
            if let (Err(error), Ok(())) = (self.write_down(line).await, &outcome.durable) {
                outcome.durable = Err(JournalError::Write(error));
            }
        }
        self.timelines.note(&Event { id: outcome.id.clone(), ..told }, arrival, timeline);
        if let Some(timeline) = self.timelines.acknowledged(&outcome.id, &target)
            && action != Action::Reinstate
        {
            let observe = |(stage, after): (&str, Duration)| {
                self.metrics.enforced.with_label_values(&[FEED, stage]).observe(after.as_secs_f64());
            };
            timeline.stages().for_each(observe);
        }
        let mut warnings = match expires_at {
            Some(expires_at) if action != Action::Reinstate => self.warnings(&target, expires_at).await,
            _ => Vec::new(),
        };
        warnings.extend(lock_out);
        Ok(Applied { warnings, ..self.applied((action, &target), outcome, about) })
    }

    /// Warns of a change after which no secret lets an administrator in.
    fn lock_out(&self, event: &Event) -> Vec<String> {
        let is_last = self.hits_the_last_secret(event);
        is_last.then(|| LAST_SECRET.to_owned()).into_iter().collect()
    }

    /// Warns of an entry that ends before the certificates that it hits.
    async fn warnings(&self, target: &Target, expires_at: Timestamp) -> Vec<String> {
        let seen = self.seen_of(target).await;
        let outliving = || seen.iter().map(|seen| seen.not_after).filter(|end| *end > expires_at);
        let warning = outliving().max().map(|last| {
            let count = outliving().count();
            format!(
                "expires_at {expires_at} is before the notAfter of certificates that this hits ({count}, the last at {last}): \
                 from then on the gate lets them in again"
            )
        });
        warning.into_iter().collect()
    }

    /// Lets go of the caller's credential as soon as the event is in effect.
    async fn take_in(&self, event: Event, guards: Vec<Guard>) -> Result<Outcome, revocation::Error> {
        if event.action == Action::Reinstate {
            let outcome = self.engine.decide(event).await;
            drop(guards);
            return outcome;
        }
        let mut applying = Box::pin(self.engine.decide(event));
        // The first step publishes and kills. The caller's own session may be among the killed, which end when their
        // guards are gone.
        let first = (&mut applying).now_or_never();
        drop(guards);
        match first {
            Some(outcome) => outcome,
            None => applying.await,
        }
    }

    async fn write_down(&self, line: Entry) -> Result<(), String> {
        let [target, principal] =
            [&line.target, &line.principal].map(|name| name.as_deref().map(|name| cut(name, LONGEST_NAME)));
        tracing::info!(
            id = line.id,
            action = line.action.as_ref(),
            level = line.level.as_deref(),
            revocation_target = target.as_deref(),
            principal = principal.as_deref(),
            serial = line.serial,
            actor = &*cut(&line.actor, LONGEST_NAME),
            reason = line.reason.as_deref().map(|reason| cut(reason, LONGEST_REASON)).as_deref(),
            force = line.force,
            issued_before = line.issued_before,
            sessions_ended = line.sessions_ended,
            generation = line.generation,
            outcome = line.outcome.as_ref(),
            correlation_id = line.correlation_id,
            "revocation {}",
            line.outcome
        );
        self.audit.append(line).await.map(drop).map_err(|error| format!("audit: {error}"))
    }

    fn applied(
        &self,
        (action, target): (Action, &Target),
        outcome: Outcome,
        Sighting { known, principal, serial }: Sighting,
    ) -> Applied {
        let at = |of| (action == of).then_some(outcome.at);
        let error = match (&outcome.durable, outcome.sessions_pending) {
            _ if !outcome.as_asked => Some(overtaken(action).to_owned()),
            (Err(error), _) => Some(error.to_string()),
            (Ok(()), 0) => None,
            (Ok(()), _) => Some("sessions have not let go in time; ask again".to_owned()),
        };
        let lasting = self.engine.break_glass().lasting();
        Applied {
            id: outcome.id,
            action,
            level: target.level(),
            target: target.name().to_owned(),
            issuer: target.issuer().map(str::to_owned),
            revoked_at: at(Action::Revoke),
            suspended_at: at(Action::Suspend),
            reinstated_at: at(Action::Reinstate),
            changed: outcome.changed,
            known,
            note: self.note(action, target),
            still_refused: Vec::new(),
            lifted: Vec::new(),
            also_lets_in: Vec::new(),
            enforced: outcome.enforced && self.modes != ADVISORY,
            break_glass_until: lasting.filter(|_| !outcome.enforced).map(|declared| declared.until),
            mode: if outcome.enforced { self.modes } else { ADVISORY },
            generation: outcome.generation,
            sessions_ended: outcome.sessions_ended,
            principal,
            serial,
            effective: outcome.as_asked,
            durable: outcome.durable.is_ok(),
            sessions_pending: outcome.sessions_pending,
            error,
            code: (!outcome.as_asked).then_some("overtaken"),
            warnings: Vec::new(),
        }
    }

    async fn preview(
        &self,
        event: &Event,
        refused: Option<Refusal>,
        others: OtherNames,
        guards: &[Guard],
    ) -> DryRun {
        let seen = self.seen_of(&event.target).await;
        let known = !seen.is_empty() || self.has_seen(&event.target).await;
        let preview = self.engine.preview(event);
        let refused = refused
            .or_else(|| preview.refused.then(|| revocation::Error::Revoked(event.target.clone()).into()));
        let holders = || preview.sessions.iter().map(|session| &session.credential().holder);
        let valid = || seen.iter().filter(|seen| self.clock.now() < seen.not_after && !seen.authority);
        let strikes = event.action != Action::Reinstate;
        let valid = || valid().filter(|_| strikes);
        let hit = || valid().filter(|seen| event.issued_before.is_none_or(|before| seen.issued_at < before));
        let connected = holders().filter_map(|holder| holder.principal.as_deref());
        let principals: BTreeSet<&str> =
            connected.chain(hit().filter_map(|seen| seen.principal.as_deref())).collect();
        let certificates: BTreeSet<&str> = holders().filter_map(|holder| holder.sha256.as_deref()).collect();
        let own = |id| guards.iter().any(|guard| guard.session().id() == id);
        DryRun {
            dry_run: true,
            action: event.action,
            level: event.target.level(),
            target: event.target.name().to_owned(),
            issuer: event.target.issuer().map(str::to_owned),
            would_change: preview.changes || (!others.entries.is_empty() && refused.is_none()),
            known,
            note: self.note(event.action, &event.target),
            also_lifts: others.entries,
            also_lets_in: others.principals,
            sessions: preview.sessions.len(),
            certificates: certificates.len(),
            certificates_known: hit().count(),
            principals: principals.iter().take(MAX_NAMES).map(|&name| name.to_owned()).collect(),
            principals_total: principals.len(),
            refused: refused.map(|refusal| WouldRefuse {
                status: refusal.status.as_u16(),
                code: refusal.code,
                error: refusal.reason,
            }),
            warnings: self.lock_out(event),
            includes_caller: preview.sessions.iter().any(|session| own(session.id())),
        }
    }

    /// What a revocation or suspension does not hit although it may look so.
    fn note(&self, action: Action, target: &Target) -> Option<String> {
        let strikes = action != Action::Reinstate && target.level() == Level::TrustDomain;
        let is_dns = strikes && self.binding.accepts_dns_names_in(target.name());
        is_dns.then(|| {
            format!(
                "agents with DNS names in {} are in no trust domain and are not hit: name each as a principal, or their issuer",
                target.name()
            )
        })
    }

    /// Whether the gate has seen a credential that an event of `target` hits. Asked once the event is in effect.
    async fn has_seen(&self, target: &Target) -> bool {
        let (sightings, of) = (self.sightings.clone(), target.clone());
        spawn_blocking(move || sightings.include(&of)).await.unwrap_or(true)
    }

    /// Whether the gate has seen a certificate, or was told of it. A few reads of a file that is in memory: it is asked
    /// before a revocation takes effect.
    pub(super) fn knows_certificate(&self, target: &Target) -> bool {
        self.engine.spellings(target).iter().any(|target| {
            self.engine.standing(target).is_some()
                || !self.registry.by_serial(target.name(), target.issuer()).is_empty()
        })
    }

    /// Whether a target is an authority's own certificate or key, as far as it is configured, was seen or is in use: what
    /// hits it hits everything under it.
    pub(super) fn is_of_authority(&self, target: &Target) -> bool {
        let is_it = |target: &Target| {
            let has = |authority| Targets::of_authority(std::slice::from_ref(authority)).own.contains(target);
            self.trust.authorities().chain(self.admins.authorities()).any(has)
                || self.engine.sessions().is_shared(self.engine.fingerprinter().target(target))
                || self.registry.is_of_authority(target)
        };
        // Under any name of its issuer: what is decided under one counts for the key.
        matches!(target.level(), Level::Certificate | Level::Key)
            && self.engine.spellings(target).iter().any(is_it)
    }

    /// The certificates that a target names, as far as the gate has seen them.
    async fn seen_of(&self, target: &Target) -> Vec<Seen> {
        let (registry, of) = (Arc::clone(&self.registry), target.clone());
        spawn_blocking(move || registry.by_target(&of, MAX_PREVIEW)).await.unwrap_or_default()
    }

    /// An audit line about a target; whose it is, as far as the gate has seen it.
    pub(super) async fn aimed(&self, line: Entry, target: &Target) -> Entry {
        let (registry, of) = (Arc::clone(&self.registry), target.clone());
        let (principal, serial) = spawn_blocking(move || registry.behind(&of)).await.unwrap_or_default();
        let mut kept = target.clone();
        self.engine.name_as_kept(&mut kept);
        Entry { principal, serial, ..line.aimed_at(&kept) }
    }
}

/// Why the target does not stand as asked.
const fn overtaken(action: Action) -> &'static str {
    match action {
        Action::Reinstate => {
            "the target is denied: a later decision revoked or suspended it while this one was written"
        }
        Action::Revoke | Action::Suspend => "the target is not denied: a later reinstatement lifts this",
    }
}

/// The line of a reinstatement under another name of its issuer: a replay needs each.
fn under_name(line: &Entry, other: &Event) -> Entry {
    let timeline = line.timeline.clone().map(|timeline| Timeline { at: other.at, ..timeline });
    Entry {
        at: Some(other.at),
        target: Some(other.target.name().to_owned()),
        issuer: other.target.issuer().map(str::to_owned),
        timeline,
        ..line.clone()
    }
}

/// What was asked; what became of it is filled in later.
fn event_line(event: &Event, actor: &Actor) -> Entry {
    Entry {
        id: Some(event.id.clone()),
        at: Some(event.at),
        reason: event.reason.clone(),
        issued_before: event.issued_before,
        expires_at: event.expires_at,
        force: event.force.then_some(true),
        ..actor.line(event.action.name(), "")
    }
}
