//! The issuer that a target names: every name of an authority's key leads to the same target.
//!
//! Credentials always have the targets under the keys of their authorities, whatever path they came by. So a decision
//! counts under the key: [`Engine::resolve`] rewrites it, and what was decided under a name that led to no key yet is
//! carried over when a verified path shows whose name it is.

use std::time::Instant;

use super::Action;
use super::AmbiguousIssuer;
use super::AuthorityNames;
use super::Engine;
use super::Error;
use super::Event;
use super::JournalEntry;
use super::Outcome;
use super::Registers;
use super::Standing;
use super::State;
use super::Target;
use super::engine::Decider;
use crate::identity::Authority;
use crate::identity::Error as IdentityError;
use crate::identity::Identity;
use crate::identity::KeyId;
use crate::identity::VerifiedChain;
use crate::session::Credential;

/// The length of a SHA-256 as text: a name that may be the key of an authority that is not known yet.
const KEY_LENGTH: usize = 64;

impl Engine {
    /// The credential of a verified chain. The names of its authorities lead to them from now on.
    pub fn credential(
        &self,
        chain: &VerifiedChain,
        identity: &Result<Identity, IdentityError>,
    ) -> Credential {
        let directory = self.authorities();
        directory.begin();
        self.learn(chain.issuers.iter());
        // Under all names that are known: what an older version decided under one of them, or was decided before it led
        // to a key, hits over every path.
        let mut chain = chain.clone();
        for issuer in &mut chain.issuers {
            let names = directory.names_of(issuer.key.as_str());
            names.iter().filter_map(|name| KeyId::parse(name)).for_each(|name| issuer.call(&name));
        }
        self.fingerprinter().credential(&chain, identity)
    }

    /// Takes in the names of authorities that are configured or stood on a verified path. What was decided under one of
    /// them before it led to a key counts under that key from now on, for live sessions too.
    pub fn learn<'a>(&self, authorities: impl Iterator<Item = &'a Authority> + Clone) {
        let learned = self.authorities().learn(authorities);
        if learned.is_empty() {
            return;
        }
        let pick = |target: &Target, registers: &Registers| {
            let name = target.authority()?;
            let keys = learned.iter().filter(|learned| learned.name == name).map(|learned| &*learned.key);
            let entries: Vec<JournalEntry> =
                keys.flat_map(|key| entries(&target.under(key), registers)).collect();
            (!entries.is_empty()).then_some(entries)
        };
        self.each_part(pick, |entries| entries.into_iter().for_each(|entry| self.carry_over(entry)));
    }

    /// Takes in what was known of authorities before this process began.
    pub fn recall(&self, known: &[AuthorityNames]) {
        let authorities: Vec<Authority> = known.iter().filter_map(authority).collect();
        self.learn(authorities.iter());
    }

    /// The target that counts: its issuer is named by the SHA-256 of its key, as far as the name leads to one. A name
    /// that leads to no known authority stays as it is.
    ///
    /// # Errors
    /// The name leads to several authorities.
    pub fn resolve(&self, target: &Target) -> Result<Target, AmbiguousIssuer> {
        let Some(name) = target.authority() else { return Ok(target.clone()) };
        let keys = self.authorities().keys_of(name);
        match keys.as_slice() {
            // It may be the key of another authority, which is not known yet: it counts for both.
            [_] if name.len() == KEY_LENGTH => Ok(target.clone()),
            [key] => Ok(target.under(key)),
            [] => Ok(target.clone()),
            _ => Err(AmbiguousIssuer { name: name.to_owned(), keys }),
        }
    }

    /// A target under every name of its issuer, first as it is. What stands of one of them stands against the same
    /// certificates.
    pub fn spellings(&self, target: &Target) -> Vec<Target> {
        let mut spellings = vec![target.clone()];
        let Some(name) = target.authority() else { return spellings };
        for key in self.authorities().keys_of(name) {
            let names = self.authorities().names_of(&key);
            for name in std::iter::once(&key).chain(&names) {
                let spelling = target.under(name);
                if !spellings.contains(&spelling) {
                    spellings.push(spelling);
                }
            }
        }
        spellings
    }

    /// The spellings of a target that something stands of, with what stands.
    pub fn standing_by_any_name(&self, target: &Target) -> Vec<(Target, Registers)> {
        let standing = |target: Target| {
            let registers = self.standing(&target)?;
            let stands = registers.standings().next().is_some();
            stands.then_some((target, registers))
        };
        self.spellings(target).into_iter().filter_map(standing).collect()
    }

    /// Revokes or suspends; under each key as well that the name of the target's issuer leads to by then.
    pub(super) async fn deny(&self, event: Event, decider: Decider, started: Instant) -> Outcome {
        let named = event.target.authority().map(str::to_owned);
        let unknown = named.filter(|name| self.authorities().keys_of(name) != [name.as_str()]);
        let Some(name) = unknown else { return self.revoke(event, decider, started).await };
        self.authorities().mention(&name);
        let mut outcome = self.revoke(event.clone(), decider, started).await;
        for key in self.authorities().settled_keys_of(&name).iter().filter(|key| **key != name) {
            let event = Event { target: event.target.under(key), ..event.clone() };
            let further = self.revoke(event, decider, started).await;
            outcome.as_asked &= further.as_asked;
            outcome.changed |= further.changed;
            outcome.was_known |= further.was_known;
            outcome.generation = further.generation;
            outcome.enforced &= further.enforced;
            outcome.sessions_ended += further.sessions_ended;
            outcome.sessions_pending += further.sessions_pending;
            outcome.enforced_after = further.enforced_after;
            outcome.durable_after = further.durable_after;
            outcome.durable = outcome.durable.and(further.durable);
        }
        outcome
    }

    /// Lifts what stands of a target under any name of its issuer: all of it, or nothing.
    pub(super) async fn lift(
        &self,
        event: Event,
        decider: Decider,
        started: Instant,
    ) -> Result<Outcome, Error> {
        let others = self.standing_by_any_name(&event.target);
        if let Some((target, _)) = others.iter().find(|(_, registers)| event.is_refused(registers)) {
            return Err(Error::Revoked(target.clone()));
        }
        let administered = |(_, registers): &&(Target, Registers)| {
            decider == Decider::Feed && event.lifts_an_administrators(registers)
        };
        if let Some((target, _)) = others.iter().find(administered) {
            return Err(Error::Administered(target.clone()));
        }
        let (mut changed, mut as_asked) = (false, true);
        // First the other names: as long as something stands under the key, it holds whatever becomes of them.
        for (target, _) in others.into_iter().filter(|(target, _)| *target != event.target) {
            let outcome = self.reinstate(Event { target, ..event.clone() }, decider, started).await?;
            changed |= outcome.changed;
            as_asked &= outcome.as_asked;
        }
        let outcome = self.reinstate(event, decider, started).await?;
        Ok(Outcome { changed: outcome.changed | changed, as_asked: outcome.as_asked & as_asked, ..outcome })
    }
}

/// An authority of which nothing but its names is known.
fn authority(known: &AuthorityNames) -> Option<Authority> {
    let mut names = known.names.iter().filter_map(|name| KeyId::parse(name));
    Some(Authority {
        key: KeyId::parse(&known.key).filter(|key| key.as_str().len() == KEY_LENGTH)?,
        key_sha1: names.next()?,
        key_id: None,
        names: names.collect(),
        certificates: Vec::new(),
    })
}

/// The decisions that stand of a target, as they would be made about `target`. Each lapses when it lapses now.
fn entries(target: &Target, registers: &Registers) -> Vec<JournalEntry> {
    let entry = |(state, standing): (State, &Standing)| {
        let (at, id) = standing.stamp.clone();
        let action = match state {
            State::Revoked => Action::Revoke,
            State::Suspended => Action::Suspend,
        };
        let event = Event {
            id,
            reason: standing.reason.clone(),
            issued_before: standing.issued_before,
            expires_at: standing.expires_at,
            actor: standing.actor.clone(),
            source: standing.source.clone(),
            ..Event::new(action, target.clone(), at)
        };
        JournalEntry { event, lapses: standing.lapses }
    };
    registers.standings().map(entry).collect()
}
