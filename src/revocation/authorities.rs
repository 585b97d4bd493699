//! The directory of authorities: which key each name of an authority leads to.
//!
//! An authority is its public key, known by the SHA-256 of its SubjectPublicKeyInfo. Certificates give a key further
//! names, and choose them freely, so that one name may lead to several keys. Readers take a snapshot without a lock; it is
//! written when a verified path teaches a name, which is rare.
//!
//! **Invariant:** a name that is read as the issuer of a target leads to one key, or to none that is known, or is refused.
//! What was decided under a name before it led to a key is carried over to that key: the directory first publishes the
//! name, then looks for such decisions; a decision is first published, then looks at the directory. One of them sees the
//! other.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use crate::identity::Authority;

/// Names of one authority, beside its SHA-256.
const MAX_NAMES: usize = 16;
/// Authorities that are remembered.
const MAX_AUTHORITIES: usize = 4096;

/// A name that leads to several authorities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key id {name} belongs to {count} authorities; name the one that is meant by the SHA-256 of its key: {keys}",
    count = keys.len(), keys = keys.join(", ")
)]
pub struct AmbiguousIssuer {
    /// The name.
    pub name: String,
    /// The SHA-256 of the key of each, sorted.
    pub keys: Vec<String>,
}

/// The authorities that are configured or stood on a verified path, and their names.
#[derive(Default)]
pub struct AuthorityDirectory {
    known: ArcSwap<KnownAuthorities>,
    /// Names that stand for an issuer in a decision and that led to no known key. Held by writers to `known`.
    mentioned: Mutex<HashSet<String>>,
    /// Credentials have been made, which lack the names that are learned later. Written under the lock above.
    is_in_use: AtomicBool,
}

#[derive(Clone, Default)]
struct KnownAuthorities {
    /// The names of each key.
    names: HashMap<String, Vec<String>>,
    /// The keys of each name, sorted.
    keys: HashMap<String, Vec<String>>,
    /// The keys of each SHA-1, sorted.
    computed: HashMap<String, Vec<String>>,
}

/// An authority's key and its further names, as they are kept for the next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityNames {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: String,
    /// The SHA-1 of its key first.
    pub names: Vec<String>,
}

/// A name that has come to lead to a key, and under which something was decided before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LearnedName {
    pub(super) name: String,
    pub(super) key: String,
}

impl AuthorityDirectory {
    /// The keys that a name leads to. The SHA-256 and the SHA-1 of a known key lead to that key alone, whatever
    /// certificates say: an authority that takes the name of another neither joins it nor makes the name ambiguous.
    pub fn keys_of(&self, name: &str) -> Vec<String> {
        self.known.load().keys_of(name)
    }

    /// The further names of a key that lead to it.
    pub fn names_of(&self, key: &str) -> Vec<String> {
        let known = self.known.load();
        let mut names = known.names.get(key).cloned().unwrap_or_default();
        names.retain(|name| known.leads_to(name, key));
        names
    }

    /// How many names are known; none is ever forgotten.
    pub(super) fn count(&self) -> usize {
        self.known.load().names.values().map(|names| names.len() + 1).sum()
    }

    /// All that is known.
    pub(super) fn all(&self) -> Vec<AuthorityNames> {
        let known = self.known.load();
        let all = known.names.iter();
        all.map(|(key, names)| AuthorityNames { key: key.clone(), names: names.clone() }).collect()
    }

    /// To be called before a credential is made with the names that are known: those that are learned later have to be
    /// carried over, because it lacks them.
    pub(super) fn begin(&self) {
        if !self.is_in_use.load(Ordering::Acquire) {
            let _turn = self.mentioned();
            self.is_in_use.store(true, Ordering::Release);
        }
    }

    /// Takes in the names of authorities. Returns those that are new, under which something was decided, and that
    /// credentials lack: none but those that no credential has, before the first is made.
    pub(super) fn learn<'a>(
        &self,
        authorities: impl Iterator<Item = &'a Authority> + Clone,
    ) -> Vec<LearnedName> {
        if authorities.clone().all(|authority| self.known.load().holds(authority)) {
            return Vec::new();
        }
        let mentioned = self.mentioned();
        let mut known = KnownAuthorities::clone(&self.known.load());
        let mut news = Vec::new();
        authorities.clone().for_each(|authority| known.add_key(authority));
        authorities.for_each(|authority| known.add(authority, &mut news));
        news.retain(|news| known.leads_to(&news.name, &news.key));
        self.known.store(known.into());
        let all = self.is_in_use.load(Ordering::Acquire);
        news.retain(|news| mentioned.contains(&news.name) && (all || news.name.len() == news.key.len()));
        news
    }

    /// Notes that something is about to be decided under a name that leads to no known key.
    pub(super) fn mention(&self, name: &str) {
        let mut mentioned = self.mentioned();
        if !mentioned.contains(name) {
            mentioned.insert(name.to_owned());
        }
    }

    /// The keys that a name leads to, looked up after everything that was learned before: for what was decided under
    /// the name, after that was published.
    pub(super) fn settled_keys_of(&self, name: &str) -> Vec<String> {
        let _turn = self.mentioned();
        self.keys_of(name)
    }

    fn mentioned(&self) -> MutexGuard<'_, HashSet<String>> {
        self.mentioned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownAuthorities {
    fn keys_of(&self, name: &str) -> Vec<String> {
        match (self.names.contains_key(name), self.computed.get(name)) {
            (true, _) => vec![name.to_owned()],
            (false, Some(keys)) => keys.clone(),
            (false, None) => self.keys.get(name).cloned().unwrap_or_default(),
        }
    }

    fn leads_to(&self, name: &str, key: &str) -> bool {
        self.keys_of(name).iter().any(|known| known == key)
    }

    fn add_key(&mut self, authority: &Authority) {
        let key = authority.key.as_str();
        if self.names.contains_key(key) || self.names.len() >= MAX_AUTHORITIES {
            return;
        }
        self.names.insert(key.to_owned(), Vec::new());
        let keys = self.computed.entry(authority.key_sha1.as_str().to_owned()).or_default();
        keys.push(key.to_owned());
        keys.sort_unstable();
    }

    /// Whether nothing of an authority is to be added.
    fn holds(&self, authority: &Authority) -> bool {
        match self.names.get(authority.key.as_str()) {
            None => self.names.len() >= MAX_AUTHORITIES,
            Some(names) => names.len() >= MAX_NAMES || further(authority).all(|name| has(names, name)),
        }
    }

    fn add(&mut self, authority: &Authority, news: &mut Vec<LearnedName>) {
        let key = authority.key.as_str();
        let Some(names) = self.names.get_mut(key) else { return };
        for name in further(authority) {
            if has(names, name) || names.len() >= MAX_NAMES {
                continue;
            }
            names.push(name.to_owned());
            if names.len() == MAX_NAMES {
                tracing::warn!(
                    key,
                    "this authority has {MAX_NAMES} names; further ones are not remembered: name it by the SHA-256 of its key"
                );
            }
            let keys = self.keys.entry(name.to_owned()).or_default();
            keys.push(key.to_owned());
            keys.sort_unstable();
            // The SHA-1 is on every path of the key, so that each credential under it has it already.
            if name != authority.key_sha1.as_str() {
                news.push(LearnedName { name: name.to_owned(), key: key.to_owned() });
            }
        }
        if self.names.len() == MAX_AUTHORITIES {
            tracing::error!(
                "{MAX_AUTHORITIES} authorities are known; further ones are not remembered: name them by the SHA-256 of their keys"
            );
        }
    }
}

/// The names of an authority beside its SHA-256.
fn further(authority: &Authority) -> impl Iterator<Item = &str> {
    authority.all_names().filter(|name| **name != authority.key).map(|name| name.as_str())
}

fn has(names: &[String], name: &str) -> bool {
    names.iter().any(|known| known == name)
}
