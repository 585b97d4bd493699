//! The issuer that a target names: every name of an authority's key leads to the same target.
//!
//! Credentials always have the targets under the keys of their authorities, whatever path they came by. So a decision
//! counts under the key: [`Engine::resolve`] rewrites it, and what was decided under a name that led to no key yet is
//! carried over when a verified path shows whose name it is.

use super::Action;
use super::AmbiguousIssuer;
use super::AuthorityNames;
use super::Engine;
use super::Event;
use super::JournalEntry;
use super::Registers;
use super::Standing;
use super::State;
use super::Target;
use super::Targets;
use crate::identity::Authority;
use crate::identity::Error as IdentityError;
use crate::identity::Identity;
use crate::identity::KeyId;
use crate::identity::VerifiedChain;
use crate::session::Credential;
use crate::session::Heeds;

/// The length of a SHA-256 as text: a name that may be the key of an authority that is not known yet.
const KEY_LENGTH: usize = 64;

impl Engine {
    /// The credential of a verified chain, by all names of its authorities that are known, and those on its own path.
    pub fn credential(
        &self,
        chain: &VerifiedChain,
        identity: &Result<Identity, IdentityError>,
    ) -> Credential {
        let directory = self.authorities();
        directory.begin();
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

    /// Takes in the names on a verified path (`issuers`: the anchor last), whose holder has proved that it has its key.
    /// Returns true if there is nothing more to learn from it.
    ///
    /// An authority that is revoked or suspended teaches nothing of what is below it, and is called only what its own
    /// issuer calls it: else it could lend its name to an innocent authority, or take the name of one. An unsigned message is
    /// enough, also where the listener does not heed it: all listeners share the names.
    pub fn teach(&self, issuers: &[Authority]) -> bool {
        let mut believed = Vec::new();
        for at in (0..issuers.len()).rev() {
            let path = issuers.get(at..).unwrap_or_default();
            let Some(authority) = path.first() else { break };
            if self.denies_authority(path) {
                let names = authority.key_id.iter().cloned().collect();
                believed.push(Authority { names, ..authority.clone() });
                self.learn(believed.iter());
                return false;
            }
            believed.push(authority.clone());
        }
        self.learn(believed.iter());
        true
    }

    /// Whether the first of these authorities is denied by anything, the others being its own issuers.
    fn denies_authority(&self, path: &[Authority]) -> bool {
        let targets = Targets::of_authority(path);
        let own = self.fingerprinter().all_carried(targets.own.iter().chain(&targets.mass));
        let first = path.first().and_then(|authority| authority.certificates.first());
        let issued_at = first.map_or(i64::MIN, |certificate| certificate.not_before.secs());
        self.judge(&Credential { own, issued_at, heeds: Heeds::All, ..Credential::default() }).is_err()
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

    /// Gives `publish` an event as it is, and then under each key that the name of its target's issuer leads to by then.
    pub(super) fn under_all_keys(&self, event: Event, mut publish: impl FnMut(Event)) {
        let named = event.target.authority().map(str::to_owned);
        let unknown = named.filter(|name| self.authorities().keys_of(name) != [name.as_str()]);
        let Some(name) = unknown else { return publish(event) };
        self.authorities().mention(&name);
        publish(event.clone());
        for key in self.authorities().settled_keys_of(&name).iter().filter(|key| **key != name) {
            publish(Event { target: event.target.under(key), ..event.clone() });
        }
    }

    /// What stands under the name of `spelling`, as decisions about the other authorities that the name leads to: all but
    /// that of `target`.
    pub(super) fn of_other_keys(
        &self,
        target: &Target,
        spelling: &Target,
        registers: &Registers,
    ) -> Vec<JournalEntry> {
        let Some(name) = spelling.authority() else { return Vec::new() };
        let keys = self.authorities().keys_of(name);
        let others =
            keys.iter().filter(|key| ![Some(name), target.authority()].contains(&Some(key.as_str())));
        others.flat_map(|key| entries(&target.under(key), registers)).collect()
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
            unsigned: standing.unsigned,
            ..Event::new(action, target.clone(), at)
        };
        JournalEntry { event, lapses: standing.lapses }
    };
    registers.standings().map(entry).collect()
}
