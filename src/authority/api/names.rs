//! A reinstatement, and the other names of the same principal that still refuse it.
//!
//! An agent has several names: its SPIFFE ID, its agent id, its DNS names. A suspension of one of them is not lifted by
//! another, so an answer that lifted nothing must not look like one that let the agent in.

use std::collections::BTreeSet;
use std::collections::HashSet;

use serde::Serialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::Api;
use super::decision::Applied;
use super::decision::TOO_LATE;
use super::gatekeeper::Actor;
use super::gatekeeper::stand;
use super::refusal::Refusal;
use super::revocations::StateName;
use crate::clock::Timestamp;
use crate::revocation;
use crate::revocation::Event;
use crate::revocation::Level;
use crate::revocation::Registers;
use crate::revocation::Standing;
use crate::revocation::Target;
use crate::revocation::Targets;
use crate::session::Guard;

/// Certificates of one target that are looked at.
const MAX_CERTIFICATES: usize = 1000;
/// Entries that one answer names.
const MAX_ENTRIES: usize = 100;
/// Other principals that one answer names.
const MAX_PRINCIPALS: usize = 100;
/// The longest reason of an entry in a sentence, characters.
const MAX_QUOTED: usize = 80;

/// Which names of a principal a reinstatement lifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// The one that is named.
    Own,
    /// Every principal name of the credentials that the gate knows for it.
    All,
}

/// An entry that still refuses the same principal.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Obstacle {
    /// The id of the event.
    id: String,
    pub(super) level: Level,
    /// The canonical name.
    pub(super) target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    issuer: Option<String>,
    state: StateName,
    /// True if an unsigned message said so: the admin listener does not heed it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    unsigned: bool,
    /// When it was decided.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    #[serde(skip)]
    of: Target,
}

/// The entries under other names of the principal behind a target, and the principals that share those names.
#[derive(Clone, Debug, Default)]
pub(super) struct OtherNames {
    /// The entries that refuse the principal.
    pub(super) entries: Vec<Obstacle>,
    /// The other principals that entries of the principal level hit, and the target does not; the first hundred.
    pub(super) principals: Vec<String>,
}

/// An entry that `all_names` lifted.
#[derive(Serialize, ToSchema)]
pub(super) struct Lifted {
    /// The id of the event.
    id: String,
    level: Level,
    /// The canonical name.
    target: String,
}

/// A credential that the gate knows for a target.
struct Holding {
    targets: Vec<Target>,
    issued_at: i64,
}

impl Api {
    /// Lifts what stands under a target, and with [`Names::All`] under the principal's other names, each by an event of
    /// its own. Refused where nothing stands under it and another name refuses the same principal.
    pub(super) async fn reinstate(
        &self,
        event: Event,
        names: Names,
        actor: &Actor,
        guards: Vec<Guard>,
    ) -> Result<Applied, Refusal> {
        let target = event.target.clone();
        let mut others = OtherNames::default();
        if names == Names::All || !self.stands(&target) {
            others = self.other_names(&target).await;
        }
        if let Some(refusal) = self.refuses(&event, names, &others) {
            return Err(refusal);
        }
        let template = event.clone();
        let others = others.lifted_by(names);
        let mut applied = self.lift(event, actor, guards.clone()).await?;
        if names == Names::All && applied.changed {
            applied.lifted.push(Lifted::of(&applied));
        }
        for of in others.targets() {
            if !stand(&guards) {
                return Err(Refusal::unauthorized(TOO_LATE));
            }
            let blank = Event::new(template.action, of, template.at);
            let event = Event { id: blank.id, target: blank.target, ..template.clone() };
            let further = self.lift(event, actor, guards.clone()).await?;
            applied.changed |= further.changed;
            applied.generation = further.generation;
            if further.changed {
                applied.lifted.push(Lifted::of(&further));
            }
        }
        applied.also_lets_in = others.principals;
        applied.still_refused = self.obstacles(&target).await;
        Ok(applied)
    }

    /// Why a reinstatement is refused for what stands under other names.
    pub(super) fn refuses(&self, event: &Event, names: Names, others: &OtherNames) -> Option<Refusal> {
        let mut lifts = others.entries.iter().filter(|other| names == Names::All && other.is_a_name());
        if !self.stands(&event.target) && lifts.clone().next().is_none() {
            let is_idle = !others.entries.is_empty();
            return is_idle.then(|| Refusal::still_refused(&event.target, others));
        }
        let revoked = lifts.find(|other| other.state == StateName::Revoked).filter(|_| !event.force);
        revoked.map(|other| revocation::Error::Revoked(other.of.clone()).into())
    }

    /// The entries under other names of the principal behind `target`, with the principals that share those names.
    pub(super) async fn other_names(&self, target: &Target) -> OtherNames {
        let entries = self.obstacles(target).await;
        let mut others = OtherNames { entries, principals: Vec::new() };
        let named = others.targets();
        if named.is_empty() {
            return others;
        }
        let mut shared = self.principals_of(named).await;
        let own = self.principals_of(vec![target.clone()]).await;
        shared.retain(|principal| !own.contains(principal) && principal != target.name());
        others.principals = shared.into_iter().take(MAX_PRINCIPALS).collect();
        others
    }

    /// The principals whose valid certificates or live sessions these targets hit.
    async fn principals_of(&self, targets: Vec<Target>) -> BTreeSet<String> {
        let sessions = targets.iter().flat_map(|target| self.engine.sessions_of(target));
        let mut principals: BTreeSet<String> =
            sessions.filter_map(|session| session.credential().holder.principal.clone()).collect();
        let (registry, now) = (self.registry.clone(), self.clock.now());
        let seen = spawn_blocking(move || -> Vec<String> {
            let seen = targets.iter().flat_map(|target| registry.by_target(target, MAX_CERTIFICATES));
            seen.filter(|seen| now < seen.not_after).filter_map(|seen| seen.principal).collect()
        });
        principals.extend(seen.await.unwrap_or_default());
        principals
    }

    /// The entries, beside those of `target` itself, that refuse the principal behind it. Behind the certificate or the key
    /// of an authority there is no one principal: what stands of those below it are no other names of it.
    pub(super) async fn obstacles(&self, target: &Target) -> Vec<Obstacle> {
        match target.level() {
            Level::Certificate | Level::Key | Level::Principal | Level::Task => {}
            Level::Token | Level::Chain | Level::Issuer | Level::TrustDomain => return Vec::new(),
        }
        if self.is_of_authority(target) {
            return Vec::new();
        }
        let (registry, of) = (self.registry.clone(), target.clone());
        let seen =
            spawn_blocking(move || registry.by_target(&of, MAX_CERTIFICATES)).await.unwrap_or_default();
        let now = self.clock.now();
        let valid = seen.into_iter().filter(|seen| now < seen.not_after && !seen.authority);
        let mut known: Vec<Holding> =
            valid.map(|seen| Holding { targets: seen.targets, issued_at: seen.issued_at }).collect();
        // What other levels say counts only where no certificate passes: one that was replaced is no obstacle.
        let is_shut = !known.is_empty()
            && known.iter().all(|known| self.denial(&known.targets, known.issued_at).is_some());
        known.extend(self.named(target));
        self.entries_against(&known, target, is_shut)
    }

    /// The identities of a name, and of live sessions under it, that the registry may not know.
    fn named(&self, target: &Target) -> Vec<Holding> {
        let sessions = self.engine.sessions_of(target);
        let held = sessions.iter().filter_map(|session| session.credential().holder.principal.as_deref());
        let own = (target.level() == Level::Principal).then_some(target.name());
        let names: HashSet<&str> = held.chain(own).collect();
        let identities = names.into_iter().filter_map(|name| self.identify(name)?.ok());
        let issued_at = self.clock.now().secs();
        identities
            .map(|identity| Holding { targets: Targets::of_identity(&identity).own, issued_at })
            .collect()
    }

    fn entries_against(&self, known: &[Holding], target: &Target, is_shut: bool) -> Vec<Obstacle> {
        let counts = |carried: &&Target| is_shut || carried.level() == Level::Principal;
        let own = self.engine.spellings(target);
        let is_own = |own: &Target, of: &Target| {
            (of.level(), of.issuer(), of.name()) == (own.level(), own.issuer(), own.name())
        };
        let is_other = |(of, _): &(Target, Registers)| !own.iter().any(|own| is_own(own, of));
        let against = |holding: &Holding| -> Vec<Obstacle> {
            let carried = holding.targets.iter().filter(counts);
            let entries = carried.flat_map(|carried| self.engine.standings_against(carried)).filter(is_other);
            entries.flat_map(|(of, registers)| Obstacle::of(&of, &registers, holding.issued_at)).collect()
        };
        let mut told = HashSet::new();
        let all = known.iter().flat_map(against);
        all.filter(|one| told.insert((one.of.clone(), one.id.clone()))).take(MAX_ENTRIES).collect()
    }

    /// Whether anything is revoked or suspended under this name, or under another name of its issuer.
    fn stands(&self, target: &Target) -> bool {
        !self.engine.standing_by_any_name(target).is_empty()
    }
}

impl OtherNames {
    /// Keeps the entries that a reinstatement under these names lifts.
    pub(super) fn lifted_by(mut self, names: Names) -> Self {
        match names {
            Names::Own => Self::default(),
            Names::All => {
                self.entries.retain(Obstacle::is_a_name);
                self
            }
        }
    }

    /// The targets of the entries that `all_names` lifts, each once.
    fn targets(&self) -> Vec<Target> {
        let named = self.entries.iter().filter(|entry| entry.is_a_name());
        let targets: BTreeSet<Target> = named.map(|entry| entry.of.clone()).collect();
        targets.into_iter().collect()
    }
}

impl Lifted {
    fn of(applied: &Applied) -> Self {
        Self { id: applied.id.clone(), level: applied.level, target: applied.target.clone() }
    }
}

impl Obstacle {
    /// True of an entry under a name of the principal: `all_names` lifts those alone.
    pub(super) fn is_a_name(&self) -> bool {
        self.level == Level::Principal
    }

    /// What stands of a target against a credential that was issued then.
    fn of(of: &Target, registers: &Registers, issued_at: i64) -> Vec<Self> {
        let hits = |standing: &Standing| standing.issued_before.is_none_or(|before| issued_at < before);
        let standings = registers.standings().filter(|(_, standing)| hits(standing));
        let obstacle = |(state, standing): (revocation::State, &Standing)| Self {
            id: standing.stamp.1.clone(),
            level: of.level(),
            target: of.name().to_owned(),
            issuer: of.issuer().map(str::to_owned),
            state: state.into(),
            unsigned: standing.unsigned,
            since: standing.stamp.0,
            reason: standing.reason.clone(),
            of: of.clone(),
        };
        standings.map(obstacle).collect()
    }
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            StateName::Revoked => revocation::State::Revoked.name(),
            StateName::Suspended => revocation::State::Suspended.name(),
        };
        write!(f, "{}, {state} since {}", self.of, self.since)?;
        self.reason.iter().try_for_each(|reason| {
            let is_long = reason.chars().nth(MAX_QUOTED).is_some();
            let start: String = reason.chars().take(MAX_QUOTED).collect();
            write!(f, " ({start}{})", if is_long { "…" } else { "" })
        })
    }
}
