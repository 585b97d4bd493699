//! Every spelling that a person could type hits the same holders, over every path, and nobody else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::identity::Error as IdentityError;
use portcullis::identity::VerifiedChain;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::session::Credential;
use portcullis::session::Guard;
use portcullis::session::Origin;
use proptest::prelude::*;
use rustls::pki_types::CertificateDer;

use crate::world::Issued;
use crate::world::NOW;
use crate::world::Names;
use crate::world::World;
use crate::world::keys;

/// Spellings of one world that are tried.
const MOST_SPELLINGS: usize = 24;

/// A client over one path.
struct Holder {
    leaf: Issued,
    presented: Vec<CertificateDer<'static>>,
    /// The authorities above it, nearest first, each with its certificates: several of an anchor.
    above: Vec<Vec<Issued>>,
    /// As a cached peer keeps it.
    credential: Arc<Credential>,
}

/// What a person types.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Typed {
    level: Level,
    name: String,
    issuer: Option<String>,
}

pub(crate) fn engine() -> Engine {
    Engine::in_memory(&Config::default(), Clock::manual(Timestamp::from_secs(NOW))).unwrap()
}

pub(crate) fn credential(engine: &Engine, chain: &VerifiedChain) -> Arc<Credential> {
    // Its names are no part of this.
    let credential = engine.credential(chain, &Err(IdentityError::Unclaimed));
    engine.teach(&chain.issuers);
    Arc::new(credential)
}

pub(crate) fn admit(engine: &Engine, credential: &Arc<Credential>) -> Option<Guard> {
    let origin = Origin { peer: ([127, 0, 0, 1], 1).into(), listener: "gate", protocol: "http/2" };
    engine.admit(Arc::clone(credential), origin).ok()
}

/// Applies an event while sessions are live, and says which of them it ended.
pub(crate) async fn ended_by(engine: &Engine, event: Event, guards: Vec<Guard>) -> Vec<bool> {
    let mut flags = Vec::new();
    let mut tasks = Vec::new();
    for guard in guards {
        let flag = Arc::new(AtomicBool::new(false));
        flags.push(Arc::clone(&flag));
        tasks.push(tokio::spawn(async move {
            guard.killed().await;
            flag.store(true, Ordering::SeqCst);
        }));
    }
    let outcome = engine.decide(event).await.unwrap();
    assert_eq!(outcome.sessions_pending, 0);
    let ended = flags.iter().map(|flag| flag.load(Ordering::SeqCst)).collect();
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
    ended
}

impl Holder {
    /// Whether it is under what was typed, if the issuer's name leads to `key`.
    fn is_under(&self, typed: &Typed, key: Option<&str>) -> bool {
        let is_it = |certificate: &Issued| {
            certificate.serial == typed.name && key.is_none_or(|key| keys()[certificate.issuer].sha256 == key)
        };
        let mut above = self.above.iter().flatten();
        match typed.level {
            Level::Issuer => above.any(|own| Some(keys()[own.key].sha256.as_str()) == key),
            _ => is_it(&self.leaf) || above.any(is_it),
        }
    }

    fn learn_into(&self, names: &mut Names) {
        let mut below = &self.leaf;
        for authority in &self.above {
            for own in authority {
                names.know(own.key);
                names.call(own.key, own.ski.as_ref());
                names.call(below.issuer, below.aki.as_ref());
                below = own;
            }
        }
    }
}

/// Everybody whose chain verifies, in a gate that has seen them all.
fn holders(world: &mut World, engine: &Engine) -> Vec<Holder> {
    let trust = world.trust();
    engine.learn(trust.authorities());
    let presented = world.presented();
    let world = &*world;
    let holder = |(leaf, presented): (Issued, Vec<CertificateDer<'static>>)| {
        let chain = trust.verify(&leaf.der, &presented, Timestamp::from_secs(NOW)).ok()?;
        let authority = |i: usize| {
            let sha256 = &chain.issuers[i].certificates[0].sha256;
            let is_it = |own: &&Issued| crate::world::hex(&digest(&own.der)) == sha256.as_str();
            let own = world.all().find(is_it).unwrap();
            match i + 1 == chain.issuers.len() {
                true => world.renewals(own).cloned().collect(),
                false => vec![own.clone()],
            }
        };
        let above = (0..chain.issuers.len()).map(authority).collect();
        Some(Holder { leaf, presented, above, credential: credential(engine, &chain) })
    };
    presented.into_iter().filter_map(holder).collect()
}

fn digest(der: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref().to_vec()
}

fn names(world: &World, holders: &[Holder]) -> Names {
    let mut names = Names::default();
    for anchor in world.anchors() {
        names.know(anchor.key);
        names.call(anchor.key, anchor.ski.as_ref());
        names.call(anchor.key, anchor.aki.as_ref());
    }
    holders.iter().for_each(|holder| holder.learn_into(&mut names));
    names
}

/// Everything that a person could type for the certificates and authorities of these holders.
fn typed(world: &World, holders: &[Holder], names: &Names) -> BTreeSet<Typed> {
    let mut typed = BTreeSet::new();
    let is_unique = |serial: &str| world.all().filter(|other| other.serial == serial).count() == 1;
    for holder in holders {
        for own in holder.above.iter().flatten() {
            for name in names.of(own.key) {
                typed.insert(Typed { level: Level::Issuer, name, issuer: None });
            }
        }
        for own in std::iter::once(&holder.leaf).chain(holder.above.iter().flatten()) {
            let (level, name) = (Level::Certificate, own.serial.clone());
            if is_unique(&name) {
                typed.insert(Typed { level, name: name.clone(), issuer: None });
            }
            for issuer in names.of(own.issuer) {
                typed.insert(Typed { level, name: name.clone(), issuer: Some(issuer) });
            }
        }
    }
    typed
}

async fn holds(seed: u64) {
    let mut world = World::of(seed);
    let engine = engine();
    let holders = holders(&mut world, &engine);
    let names = names(&world, &holders);
    let mut all: Vec<Typed> = typed(&world, &holders, &names).into_iter().collect();
    world.rng.shuffle(&mut all);
    for typed in all.into_iter().take(MOST_SPELLINGS) {
        let name = typed.issuer.as_deref().or((typed.level == Level::Issuer).then_some(&typed.name));
        let keys = name.map(|name| names.keys_of(name));
        let target = Target::parse(typed.level, &typed.name, typed.issuer.as_deref()).unwrap();
        let resolved = match (engine.resolve(&target), &keys) {
            (Err(refused), Some(keys)) => {
                assert!(keys.len() > 1, "{typed:?}: {refused}");
                assert_eq!(&refused.keys, keys);
                continue;
            }
            (resolved, keys) => {
                assert!(keys.as_ref().is_none_or(|keys| keys.len() == 1), "{typed:?} hits {keys:?}");
                resolved.unwrap()
            }
        };
        let key = keys.and_then(|keys| keys.first().cloned());
        let expected: Vec<bool> =
            holders.iter().map(|holder| holder.is_under(&typed, key.as_deref())).collect();
        let guards = holders.iter().map(|holder| admit(&engine, &holder.credential).unwrap()).collect();
        let at = Timestamp::from_secs(NOW);
        let ended = ended_by(&engine, Event::new(Action::Revoke, resolved.clone(), at), guards).await;
        assert_eq!(ended, expected, "live: {typed:?}");
        let trust = world.trust();
        for (holder, refused) in holders.iter().zip(&expected) {
            assert_eq!(admit(&engine, &holder.credential).is_none(), *refused, "cached: {typed:?}");
            let presented = world.among_look_alikes(&holder.presented);
            let chain = trust.verify(&holder.leaf.der, &presented, Timestamp::from_secs(NOW)).unwrap();
            let fresh = credential(&engine, &chain);
            assert_eq!(admit(&engine, &fresh).is_none(), *refused, "among look-alikes: {typed:?}");
        }
        lift(&mut world, &engine, &names, (&resolved, key.as_deref())).await;
        let all_in = holders.iter().all(|holder| admit(&engine, &holder.credential).is_some());
        assert!(all_in, "not lifted: {typed:?}");
    }
}

/// Lifts a revocation by whichever name of the same authority.
async fn lift(world: &mut World, engine: &Engine, names: &Names, (target, key): (&Target, Option<&str>)) {
    let place = key.and_then(|key| keys().iter().position(|own| own.sha256 == key));
    let others = place.map(|place| names.of(place)).unwrap_or_default();
    let leads_there = |name: &String| names.keys_of(name) == Vec::from_iter(key.map(str::to_owned));
    let unique: Vec<String> = others.into_iter().filter(leads_there).collect();
    let target = match world.rng.choice(&unique) {
        None => target.clone(),
        Some(name) => {
            let typed = match target.level() {
                Level::Issuer => Target::parse(Level::Issuer, name, None),
                level => Target::parse(level, target.name(), Some(name)),
            };
            engine.resolve(&typed.unwrap()).unwrap()
        }
    };
    let at = Timestamp::from_secs(NOW);
    let event = Event { force: true, ..Event::new(Action::Reinstate, target, at) };
    assert!(engine.decide(event).await.unwrap().changed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_spelling_hits_every_path_and_nobody_else(seed in any::<u64>()) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(holds(seed));
    }
}
