//! What was decided under a name that led to no authority yet, and names that lead elsewhere.

use std::sync::Barrier;

use portcullis::clock::Timestamp;
use portcullis::identity::ChainError;
use portcullis::identity::Trust;
use portcullis::identity::VerifiedChain;
use portcullis::revocation::Action;
use portcullis::revocation::Engine;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Registry;
use portcullis::revocation::Target;
use rustls::pki_types::CertificateDer;

use crate::names::admit;
use crate::names::credential;
use crate::names::ended_by;
use crate::names::engine;
use crate::world::Issued;
use crate::world::NOW;
use crate::world::Party;
use crate::world::Wish;
use crate::world::hex;
use crate::world::issue;
use crate::world::keys;

/// How often two threads race.
const ROUNDS: usize = 300;

/// Two roots, an intermediate that both have signed under different key ids, and a leaf of it.
struct Crossed {
    trust: Trust,
    leaf: Issued,
    /// Key id 01, by the first root.
    first: Issued,
    /// Key id 02, by the second root.
    second: Issued,
}

pub(crate) fn party(name: &str, key: usize) -> Party {
    Party { name: name.to_owned(), key }
}

impl Crossed {
    fn new() -> Self {
        let [one, two, below] = [party("one", 0), party("two", 1), party("below", 2)];
        let mut trust = Trust::new();
        for root in [&one, &two] {
            let anchor = issue(root, root, &Wish { serial: 1, ..Wish::default() });
            trust.add(&anchor.der, None).unwrap();
        }
        let certify = |issuer: &Party, id: u8| {
            issue(&below, issuer, &Wish { serial: 2, ski: Some(vec![id]), ..Wish::default() })
        };
        let wish = Wish { serial: 7, agent: Some("a".to_owned()), ..Wish::default() };
        let leaf = issue(&party("leaf", 3), &below, &wish);
        Self { trust, leaf, first: certify(&one, 1), second: certify(&two, 2) }
    }

    fn verify(&self, presented: &[&Issued]) -> Result<VerifiedChain, ChainError> {
        let presented: Vec<CertificateDer<'_>> = presented.iter().map(|own| own.der.clone()).collect();
        self.trust.verify(&self.leaf.der, &presented, Timestamp::from_secs(NOW))
    }
}

pub(crate) fn revoke(engine: &Engine, level: Level, name: &str, issuer: Option<&str>) -> Event {
    let target = engine.resolve(&Target::parse(level, name, issuer).unwrap()).unwrap();
    let at = Timestamp::from_secs(NOW);
    Event::new(Action::Revoke, target, at)
}

/// Seen failing with `Engine::learn` that looks for no earlier decisions: the session of the first path goes on.
#[tokio::test]
async fn a_name_that_is_learned_later_counts_for_every_path() {
    for (level, name, issuer) in [(Level::Issuer, "02", None), (Level::Certificate, "07", Some("02"))] {
        let (world, engine) = (Crossed::new(), engine());
        engine.learn(world.trust.authorities());
        let before = credential(&engine, &world.verify(&[&world.first]).unwrap());
        let live = admit(&engine, &before).unwrap();
        let outcome = engine.decide(revoke(&engine, level, name, issuer)).await.unwrap();
        assert_eq!((outcome.sessions_ended, live.cause()), (0, None), "nothing leads there yet");
        let taught = credential(&engine, &world.verify(&[&world.second]).unwrap());
        assert!(live.cause().is_some(), "{level}: the session over the other path goes on");
        assert!(admit(&engine, &taught).is_none() && admit(&engine, &before).is_none());
        // Lifted under the key, nothing is left under the name.
        let target =
            Target::parse(level, if level == Level::Issuer { &keys()[2].sha256 } else { "07" }, issuer);
        let target = engine.resolve(&target.unwrap()).unwrap();
        let at = Timestamp::from_secs(NOW);
        let lifted = Event { force: true, ..Event::new(Action::Reinstate, target.clone(), at) };
        assert!(engine.decide(lifted).await.unwrap().changed);
        assert!(engine.standing_by_any_name(&target).is_empty());
        assert!(admit(&engine, &taught).is_some() && admit(&engine, &before).is_some());
    }
}

/// Seen failing with `Engine::deny` that does not look at the directory again: the decision stayed under a name that led
/// to a key meanwhile, and the holder over the other path was let in.
#[test]
fn a_decision_and_the_name_that_it_needs_may_come_at_once() {
    let world = Crossed::new();
    let over = [&world.first, &world.second].map(|presented| world.verify(&[presented]).unwrap());
    for round in 0..ROUNDS {
        let (engine, barrier) = (engine(), Barrier::new(2));
        engine.learn(world.trust.authorities());
        let own = credential(&engine, &over[0]);
        let event = revoke(&engine, Level::Certificate, "07", Some("02"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                barrier.wait();
                runtime.block_on(engine.decide(event)).unwrap().durable.unwrap();
            });
            scope.spawn(|| {
                barrier.wait();
                credential(&engine, &over[1]);
            });
        });
        assert!(admit(&engine, &own).is_none(), "round {round}");
    }
}

/// A journal of an older version names key identifiers: they hit over every path, after a restart too.
#[tokio::test]
async fn a_row_under_a_key_identifier_counts_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let world = Crossed::new();
    let open = || {
        let clock = portcullis::clock::Clock::manual(Timestamp::from_secs(NOW));
        Engine::open(directory.path(), &portcullis::revocation::Config::default(), clock).unwrap()
    };
    let engine = open();
    let row = Target::parse(Level::Certificate, "07", Some("02")).unwrap();
    let event = Event::new(Action::Revoke, row, Timestamp::from_secs(NOW));
    engine.decide(event).await.unwrap().durable.unwrap();
    drop(engine);
    let engine = open();
    credential(&engine, &world.verify(&[&world.second]).unwrap());
    drop(engine);
    // Whoever has shown the name before need not show it again.
    let engine = open();
    let other = credential(&engine, &world.verify(&[&world.first]).unwrap());
    assert!(admit(&engine, &other).is_none());
}

/// Names that are known before the first credential is made are in each credential: no row is written twice.
/// Seen failing with credentials of the names of their own path alone: the holder was let in.
#[tokio::test]
async fn a_row_under_a_name_that_is_known_at_the_start_stays_as_it_is() {
    let (engine, root) = (engine(), party("root", 0));
    let row = Target::parse(Level::Certificate, "07", Some("aa")).unwrap();
    let event = Event::new(Action::Revoke, row, Timestamp::from_secs(NOW));
    engine.decide(event).await.unwrap().durable.unwrap();
    // The authority is known by one name from an earlier run, and trusted under another.
    let mut trusts = [Trust::new(), Trust::new()];
    for (trust, id) in trusts.iter_mut().zip([0xaa, 0xbb]) {
        let anchor = issue(&root, &root, &Wish { serial: id, ski: Some(vec![id]), ..Wish::default() });
        trust.add(&anchor.der, None).unwrap();
        engine.learn(trust.authorities());
    }
    let wish = Wish { serial: 7, agent: Some("a".to_owned()), ..Wish::default() };
    let leaf = issue(&party("leaf", 3), &root, &wish);
    let own = trusts.map(|trust| trust.verify(&leaf.der, &[], Timestamp::from_secs(NOW)).unwrap());
    let own = own.each_ref().map(|chain| credential(&engine, chain));
    assert!(own.iter().all(|own| admit(&engine, own).is_none()));
    assert_eq!(engine.entries(), 1);
    let by_other = Target::parse(Level::Certificate, "07", Some("bb")).unwrap();
    let target = engine.resolve(&by_other).unwrap();
    let at = Timestamp::from_secs(NOW);
    let lifted = Event { force: true, ..Event::new(Action::Reinstate, target, at) };
    assert!(engine.decide(lifted).await.unwrap().changed);
    assert!(own.iter().all(|own| admit(&engine, own).is_some()));
}

/// Seen failing with a registry that keeps no names: the name led nowhere after the restart.
#[test]
fn names_are_kept_for_the_next_start() {
    let (directory, world) = (tempfile::tempdir().unwrap(), Crossed::new());
    let registry =
        || Registry::open(directory.path(), portcullis::clock::Clock::manual(Timestamp::from_secs(NOW)));
    let name = Target::parse(Level::Issuer, "02", None).unwrap();
    let first = engine();
    assert!(registry().authorities().is_empty());
    credential(&first, &world.verify(&[&world.second]).unwrap());
    registry().keep_authorities(first.authorities());
    let second = engine();
    second.recall(&registry().authorities());
    let resolved = second.resolve(&name).unwrap();
    assert_eq!(resolved.name(), keys()[2].sha256);
    assert_eq!(second.spellings(&resolved), first.spellings(&resolved));
}

/// Seen failing with names of any length in credentials: revoking the first authority hit the holder of the other.
#[tokio::test]
async fn a_key_identifier_that_is_the_key_of_another_names_nobody_else() {
    let [one, liar] = [party("one", 0), party("liar", 1)];
    let stolen: Vec<u8> = crate::world::unhex(&keys()[0].sha256);
    let anchors = [
        issue(&one, &one, &Wish { serial: 1, ..Wish::default() }),
        issue(&liar, &liar, &Wish { serial: 1, ski: Some(stolen), ..Wish::default() }),
    ];
    let mut trust = Trust::new();
    anchors.iter().for_each(|anchor| drop(trust.add(&anchor.der, None).unwrap()));
    let leaf = |issuer: &Party, key: usize| {
        let wish = Wish { serial: 7, agent: Some("a".to_owned()), ..Wish::default() };
        issue(&party("leaf", key), issuer, &wish)
    };
    let now = Timestamp::from_secs(NOW);
    let chains = [(&one, 4), (&liar, 5)].map(|(by, key)| trust.verify(&leaf(by, key).der, &[], now).unwrap());
    let engine = engine();
    engine.learn(trust.authorities());
    let credentials = chains.each_ref().map(|chain| credential(&engine, chain));
    let guards = credentials.iter().map(|own| admit(&engine, own).unwrap()).collect();
    let event = revoke(&engine, Level::Issuer, &keys()[0].sha256, None);
    assert_eq!(ended_by(&engine, event, guards).await, [true, false]);
}

/// Seen failing with the presented certificates tried in the client's order: the second path was taken first.
#[test]
fn the_order_of_the_intermediates_makes_no_difference() {
    let world = Crossed::new();
    let orders = [[&world.first, &world.second], [&world.second, &world.first]];
    let [one, other] = orders.map(|order| world.verify(&order).unwrap().issuers);
    assert_eq!(one, other);
    let twice = world.verify(&[&world.second, &world.first, &world.second]).unwrap();
    assert_eq!(twice.issuers, one);
}

/// Seen failing with the first certificate of an anchor alone.
#[tokio::test]
async fn each_certificate_of_a_renewed_root_counts() {
    let root = party("root", 0);
    let certify =
        |serial: u8, id: u8| issue(&root, &root, &Wish { serial, ski: Some(vec![id]), ..Wish::default() });
    let (old, new) = (certify(0x11, 0xaa), certify(0x22, 0xbb));
    let wish = Wish { serial: 7, agent: Some("a".to_owned()), ..Wish::default() };
    let leaf = issue(&party("leaf", 3), &root, &wish);
    for order in [[&old, &new], [&new, &old]] {
        let mut trust = Trust::new();
        order.iter().for_each(|anchor| drop(trust.add(&anchor.der, None).unwrap()));
        let chain = trust.verify(&leaf.der, &[], Timestamp::from_secs(NOW)).unwrap();
        let by_key = hex(&crate::world::unhex(&keys()[0].sha1));
        for (level, name, issuer) in [
            (Level::Issuer, "aa", None),
            (Level::Issuer, "bb", None),
            (Level::Issuer, by_key.as_str(), None),
            (Level::Certificate, "11", None),
            (Level::Certificate, "22", None),
            (Level::Certificate, "11", Some("bb")),
            (Level::Certificate, "22", Some("aa")),
            (Level::Certificate, "07", Some("aa")),
            (Level::Certificate, "07", Some("bb")),
        ] {
            let engine = engine();
            engine.learn(trust.authorities());
            let own = credential(&engine, &chain);
            let guards = vec![admit(&engine, &own).unwrap()];
            let event = revoke(&engine, level, name, issuer);
            assert_eq!(ended_by(&engine, event, guards).await, [true], "{level} {name} {issuer:?}");
            assert!(admit(&engine, &own).is_none());
        }
    }
}
