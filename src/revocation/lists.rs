//! The revocation lists in force, by who signed them: each signer's are one layer of the set, replaced whole.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use super::Denial;
use super::Entry;
use super::Fingerprinter;
use super::LayerBuilder;
use super::Level;
use super::NewLayer;
use super::Standing;
use super::State;
use super::Target;
use super::crl;
use super::crl::Crl;
use super::crl::Lists;
use super::crl::Verdict;
use super::crl::Verified;
use super::token_list;
use super::token_list::TokenList;
use super::uptime::Uptime;
use crate::identity::KeyId;
use crate::identity::Serial;
use crate::identity::SerialText;
use crate::session::Killed;

/// What became of a revocation list.
#[must_use = "it is enforced only when the sessions that it hit have ended"]
#[derive(Debug)]
pub struct ListOutcome {
    /// What the list says about itself.
    pub crl: Crl,
    /// What it is to those that were known.
    pub verdict: Verdict,
    /// The generation of the set that holds it.
    pub generation: u64,
    /// How long it took, from being taken in, until every reader saw it.
    pub effective_after: Duration,
    /// The sessions that it hit.
    pub killed: Killed,
}

/// What became of a list of tokens.
#[must_use = "it is enforced only when the sessions that it hit have ended"]
#[derive(Debug)]
pub struct TokenOutcome {
    /// What the list is to the one that was known.
    pub verdict: Verdict,
    /// How long it took, from being taken in, until every reader saw it.
    pub effective_after: Duration,
    /// The sessions that it hit.
    pub killed: Killed,
}

/// The entry of a revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The certificate, by the list's signer and the serial; or the token.
    pub target: Target,
    /// What stands.
    pub state: State,
    /// By whom, when and why.
    pub standing: Standing,
}

/// What the name of a layer begins with that a list of tokens makes; those of certificates are called by a key id.
const TOKENS: &str = "tokens of ";

/// The lists in force.
#[derive(Default)]
pub(super) struct InForce {
    /// Held by whoever takes a list in: one after the other.
    turn: Mutex<()>,
    by_signer: Mutex<BTreeMap<KeyId, Arc<Lists>>>,
    /// By the registry that issued it.
    tokens: Mutex<BTreeMap<String, Arc<TokenList>>>,
}

impl InForce {
    /// Compares a list with those of its signer, and gives `publish` the layer that they make together, under its name.
    /// Of a list that says nothing new nothing is made.
    pub(super) fn accept(
        &self,
        verified: Verified,
        prints: &Fingerprinter,
        publish: impl FnOnce(&str, NewLayer),
    ) -> Result<Verdict, crl::Error> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let signer = verified.crl().issuer.key.clone();
        let mut lists = self.of(&signer).map_or_else(Lists::default, |lists| Lists::clone(&lists));
        let verdict = lists.accept(verified)?;
        if verdict == Verdict::New {
            let layer = layer(&lists, prints);
            for crl in lists.twins() {
                let (list, this_update, entries) = (crl.title(), crl.this_update, crl.entries);
                tracing::warn!(
                    list, %this_update, entries,
                    "another list has the same number and time, and other content; the entries of both count until a newer one comes"
                );
            }
            // Before anything can hit it: whoever is asked why finds it.
            let old = self.by_signer().insert(signer.clone(), Arc::new(lists));
            // Not under the lock: to free a large one takes a while, and whoever is denied asks for the lock.
            drop(old);
            publish(signer.as_str(), layer);
        }
        drop(turn);
        Ok(verdict)
    }

    /// The same for a list of tokens: the newest of its registry counts.
    pub(super) fn accept_tokens(
        &self,
        list: TokenList,
        prints: &Fingerprinter,
        publish: impl FnOnce(&str, NewLayer),
    ) -> Result<Verdict, token_list::Error> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{TOKENS}{}", list.issuer);
        let known = self.tokens().get(&list.issuer).map(Arc::clone);
        if let Some(known) = known {
            if list.issued_at < known.issued_at {
                return Err(token_list::Error::Older { found: list.issued_at, known: known.issued_at });
            }
            if list.entries == known.entries {
                // Another time of issue, and nothing else.
                self.tokens().insert(list.issuer.clone(), Arc::new(list));
                return Ok(Verdict::Unchanged);
            }
        }
        let mut entries = LayerBuilder::with_room(list.entries.len());
        list.entries.iter().for_each(|entry| entries.push(prints.target(&entry.target), Entry::REVOKED));
        self.tokens().insert(list.issuer.clone(), Arc::new(list));
        publish(&name, entries.build());
        drop(turn);
        Ok(Verdict::New)
    }

    /// How many tokens each registry's list revokes.
    pub(super) fn token_counts(&self) -> Vec<(String, usize)> {
        self.tokens().iter().map(|(issuer, list)| (issuer.clone(), list.entries.len())).collect()
    }

    /// What each list says about itself, by signer.
    pub(super) fn crls(&self) -> Vec<Crl> {
        let lists: Vec<Arc<Lists>> = self.by_signer().values().map(Arc::clone).collect();
        lists.iter().flat_map(|lists| lists.crls().cloned()).collect()
    }

    /// The lists that another one with the same number and time contradicts.
    pub(super) fn twins(&self) -> Vec<Crl> {
        let lists: Vec<Arc<Lists>> = self.by_signer().values().map(Arc::clone).collect();
        lists.iter().flat_map(|lists| lists.twins().cloned()).collect()
    }

    /// Why the layer of this name denies a certificate, as far as it can be said without reading the list.
    pub(super) fn explain(&self, layer: &str, suspended: bool) -> Denial {
        if let Some(issuer) = layer.strip_prefix(TOKENS) {
            return Denial { level: Level::Token, suspended, reason: format!("token list of {issuer}") };
        }
        let lists = KeyId::parse(layer).and_then(|signer| self.of(&signer));
        let crls: Vec<&Crl> = lists.iter().flat_map(|lists| lists.crls()).collect();
        let reason = match crls.as_slice() {
            [] => "a revocation list".to_owned(),
            [one] => one.title(),
            [one, ..] => format!("a revocation list of {}", one.issuer.name),
        };
        Denial { level: Level::Certificate, suspended, reason }
    }

    /// Every entry for one of these certificates and tokens; of a serial alone, in the lists of every signer. Reads the lists from
    /// start to end, some 20 ns an entry, and holds no lock meanwhile.
    pub(super) fn find(&self, targets: &[Target]) -> Vec<Listed> {
        let certificates = || targets.iter().filter(|target| target.level() == Level::Certificate);
        let mut found = self.find_tokens(targets);
        if certificates().next().is_none() {
            return found;
        }
        let all: Vec<Arc<Lists>> = self.by_signer().values().map(Arc::clone).collect();
        for lists in all {
            let is_theirs = |target: &&Target| target.issuer().is_none_or(|id| speaks_for(&lists, id));
            let serials: HashSet<&[u8]> =
                certificates().filter(is_theirs).map(|target| target.name().as_bytes()).collect();
            if !serials.is_empty() {
                find_in(&lists, &serials, &mut found);
            }
        }
        found
    }

    fn find_tokens(&self, targets: &[Target]) -> Vec<Listed> {
        let asked: Vec<&Target> = targets.iter().filter(|target| target.level() == Level::Token).collect();
        if asked.is_empty() {
            return Vec::new();
        }
        let all: Vec<Arc<TokenList>> = self.tokens().values().map(Arc::clone).collect();
        let of = |list: &Arc<TokenList>| {
            let hits = list.entries.iter().filter(|entry| asked.contains(&&entry.target));
            let listed = hits.map(|entry| Listed {
                target: entry.target.clone(),
                state: State::Revoked,
                standing: Standing {
                    stamp: (entry.revoked_at, format!("token list {} of {}", list.id, list.issuer)),
                    reason: entry.reason.clone(),
                    actor: Some(list.issuer.clone()),
                    source: Some("crl".to_owned()),
                    issued_before: None,
                    expires_at: None,
                    unsigned: false,
                    lapses: Uptime::MAX,
                },
            });
            listed.collect::<Vec<_>>()
        };
        all.iter().flat_map(of).collect()
    }

    fn tokens(&self) -> MutexGuard<'_, BTreeMap<String, Arc<TokenList>>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, signer: &KeyId) -> Option<Arc<Lists>> {
        self.by_signer().get(signer).map(Arc::clone)
    }

    fn by_signer(&self) -> MutexGuard<'_, BTreeMap<KeyId, Arc<Lists>>> {
        self.by_signer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that the lists of one signer revoke, as one layer.
fn layer(lists: &Lists, prints: &Fingerprinter) -> NewLayer {
    let mut signers: Vec<&KeyId> = Vec::new();
    for crl in lists.crls() {
        signers.push(&crl.issuer.key);
        signers.extend(&crl.issuer.also);
    }
    signers.sort();
    signers.dedup();
    let prints: Vec<_> = signers.into_iter().map(|signer| prints.certificates_of(signer)).collect();
    let count = lists.crls().map(|crl| usize::try_from(crl.entries).unwrap_or_default()).sum::<usize>();
    let mut entries = LayerBuilder::with_room(count * prints.len());
    lists.each(|_, entry| {
        let denied = if entry.is_held() { Entry::SUSPENDED } else { Entry::REVOKED };
        for prints in &prints {
            entries.push(prints.serial(entry.serial), denied);
        }
    });
    entries.build()
}

fn speaks_for(lists: &Lists, issuer: &str) -> bool {
    let mut signers = lists.crls().map(|crl| &crl.issuer);
    signers.any(|signer| {
        let mut ids = std::iter::once(&signer.key).chain(&signer.key_id).chain(&signer.also);
        ids.any(|id| id.as_str() == issuer)
    })
}

fn find_in(lists: &Lists, serials: &HashSet<&[u8]>, found: &mut Vec<Listed>) {
    lists.each(|crl, entry| {
        let mut text = SerialText::default();
        if serials.contains(entry.serial.write(&mut text)) {
            let serial = Serial::from(entry.serial);
            let standing = Standing {
                stamp: (entry.revoked_at(), crl.title()),
                reason: Some(entry.reason.name().to_owned()),
                actor: Some(crl.issuer.name.clone()),
                source: Some("crl".to_owned()),
                issued_before: None,
                expires_at: None,
                unsigned: false,
                lapses: Uptime::MAX,
            };
            let target = Target::of(Level::Certificate, Some(crl.issuer.key.as_str()), serial.as_str());
            let state = if entry.is_held() { State::Suspended } else { State::Revoked };
            found.push(Listed { target, state, standing });
        }
    });
}
