//! Targets that only an administrator may revoke or suspend: holders of the role `admin`, and the credentials that let them in.

use super::Api;
use super::gatekeeper::Actor;
use super::refusal::Refusal;
use crate::authority::Role;
use crate::authority::access::Bearer;
use crate::revocation::Action;
use crate::revocation::Event;
use crate::revocation::Level;
use crate::revocation::Seen;
use crate::revocation::Target;
use crate::revocation::Targets;
use crate::session::Session;

impl Api {
    /// True if an event of `target` hits something that holds the role `admin`, by what is configured, what is live, and
    /// the certificates that the gate has seen. Authorities and trust domains are not looked at: they take that role
    /// whomever they hit. Blocks on the disk, for a few reads.
    pub(super) fn hits_an_administrator(&self, target: &Target) -> bool {
        let mut target = target.clone();
        self.engine.name_as_kept(&mut target);
        match target.level() {
            Level::Token if self.access.is_admins_token(target.name()) => return true,
            Level::Principal | Level::Task if self.hits_a_configured_name(&target) => return true,
            _ => {}
        }
        // Under any name of its issuer: what is decided under one counts for the key.
        let mut spellings = self.engine.spellings(&target).into_iter();
        spellings.any(|target| self.hits_a_live_administrator(&target) || self.hits_a_seen_one(&target))
    }

    /// Whether an event denies the last secret that may do everything and is denied by nothing yet.
    pub(super) fn hits_the_last_secret(&self, event: &Event) -> bool {
        // What is dated hits no token that the secret buys from then on.
        if event.action == Action::Reinstate || event.issued_before.is_some() {
            return false;
        }
        let is_hit = |bearer: &Bearer| bearer.targets().any(|carried| event.target.hits(&carried));
        let is_good = |bearer: &Bearer| self.engine.judge(&self.credential(bearer)).is_ok();
        let secrets = self.access.admin_secrets(self.clock.now());
        let (hit, others): (Vec<_>, Vec<_>) = secrets.partition(is_hit);
        !hit.is_empty() && !others.iter().any(is_good)
    }

    /// Refuses somebody who may not end a session because it is an administrator's.
    pub(super) fn may_end(&self, session: &Session, who: &Actor) -> Result<(), Refusal> {
        if who.role >= Some(Role::Admin) || !self.is_administrators(session) {
            return Ok(());
        }
        let what = format!("to end session {}, which holds an administrator's role,", session.id());
        who.require(Role::Admin, &what)
    }

    /// True if a session is an administrator's: by its certificate, or by a token that was used on its connection.
    fn is_administrators(&self, session: &Session) -> bool {
        let bears = |other: &Session| {
            other.listener() == session.listener() && other.peer() == session.peer() && self.is_admins(other)
        };
        self.is_admins(session) || self.engine.sessions().list().iter().any(|other| bears(other))
    }

    fn is_admins(&self, session: &Session) -> bool {
        session.credential().holder.principal.as_deref().is_some_and(|name| self.access.is_admin(name))
    }

    fn hits_a_live_administrator(&self, target: &Target) -> bool {
        self.engine.sessions_of(target).iter().any(|session| self.is_admins(session))
    }

    /// True if a target is a name of an administrator, as far as the configuration tells all of them.
    fn hits_a_configured_name(&self, target: &Target) -> bool {
        self.access.admins().any(|name| self.names_of(&name).iter().any(|carried| target.hits(carried)))
    }

    /// The targets that every certificate of this principal carries.
    fn names_of(&self, principal: &str) -> Vec<Target> {
        let typed = Target::parse(Level::Principal, principal, None);
        // It may be a DNS name that fits no template.
        let mut names: Vec<Target> = typed.iter().flat_map(|name| [name.clone(), name.as_dns()]).collect();
        if let Some(Ok(identity)) = self.identify(principal) {
            names.extend(Targets::of_identity(&identity).own);
        }
        names
    }

    /// True if a target hits an administrator's certificate that the gate has seen.
    fn hits_a_seen_one(&self, target: &Target) -> bool {
        let is_admins =
            |seen: &Seen| seen.principal.as_deref().is_some_and(|name| self.access.is_admin(name));
        match target.level() {
            Level::Certificate | Level::Key => {
                self.registry.by_target(target, usize::MAX).iter().any(is_admins)
            }
            // What is no bare name hits itself alone, which the configuration tells.
            Level::Principal if !target.is_bare() => false,
            // Many may share an agent id or a task: the administrators' certificates are fewer.
            Level::Principal | Level::Task => self.access.admins().any(|name| {
                let own = Target::parse(Level::Principal, &name, None);
                let seen = own.iter().flat_map(|own| self.registry.by_target(own, usize::MAX));
                seen.filter(is_admins).any(|seen| seen.is_hit_by(target))
            }),
            Level::Token | Level::Chain | Level::Issuer | Level::TrustDomain => false,
        }
    }
}
