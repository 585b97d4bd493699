//! Revocation lists in force: what they deny, whose sessions they end, and that no source erases another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use portcullis::clock::Clock;
use portcullis::identity::Certificate;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Denial;
use portcullis::revocation::Engine;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::ListOutcome;
use portcullis::revocation::State;
use portcullis::revocation::Target;
use portcullis::revocation::crl::Error;
use portcullis::revocation::crl::Issuers;
use portcullis::revocation::crl::Limits;
use portcullis::revocation::crl::Verdict;
use portcullis::revocation::crl::Verified;
use portcullis::session::Credential;
use portcullis::session::Guard;
use portcullis::session::Origin;
use tokio::runtime::Runtime;

#[path = "crl/forge.rs"]
#[expect(dead_code, reason = "few kinds of lists are needed here")]
mod forge;

use forge::Ca;
use forge::Forge;

const HOLD: u8 = 6;

fn engine() -> Engine {
    Engine::in_memory(&Config::default(), Clock::manual(forge::now())).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn take_in(engine: &Engine, ca: &Ca, list: &Forge) -> Result<ListOutcome, Error> {
    take_in_bytes(engine, &ca.issuers(), &list.sign(ca))
}

fn take_in_bytes(engine: &Engine, issuers: &Issuers, list: &Bytes) -> Result<ListOutcome, Error> {
    engine.take_in(Verified::read(list, issuers, &Limits::default(), forge::now()).unwrap())
}

/// Enforced: whoever was hit has gone.
fn enforce(engine: &Engine, ca: &Ca, list: &Forge) {
    let outcome = take_in(engine, ca, list).unwrap();
    assert_eq!(runtime().block_on(outcome.killed.ended(std::time::Duration::from_secs(5))), 0);
}

/// A certificate of the authority.
fn certificate(ca: &Ca, serial: u32) -> Target {
    let issuer = Certificate::parse(&ca.der).unwrap().key;
    Target::parse(Level::Certificate, &format!("{serial:08x}"), Some(issuer.as_str())).unwrap()
}

fn credential(engine: &Engine, targets: &[Target]) -> Arc<Credential> {
    let own = targets.iter().map(|target| engine.fingerprinter().target(target)).collect();
    Arc::new(Credential { own, ..Credential::default() })
}

fn admit(engine: &Engine, target: &Target) -> Result<Guard, Denial> {
    let origin = Origin { peer: ([127, 0, 0, 1], 1).into(), listener: "gate", protocol: "http/2" };
    engine.admit(credential(engine, std::slice::from_ref(target)), origin)
}

fn denied(engine: &Engine, target: &Target) -> bool {
    engine.judge(&credential(engine, std::slice::from_ref(target))).is_err()
}

fn apply(engine: &Engine, event: Event) {
    assert!(runtime().block_on(engine.apply(event)).is_ok());
}

#[test]
fn a_list_ends_the_sessions_that_it_names_and_no_other() {
    let (engine, ca, other) = (engine(), Ca::root("A"), Ca::root("B"));
    let [revoked, held, spared] = [1, 2, 3].map(|serial| certificate(&ca, serial));
    let same_serial = certificate(&other, 1);
    let sessions = [&revoked, &held, &spared, &same_serial].map(|target| admit(&engine, target).unwrap());
    let outcome = take_in(&engine, &ca, &Forge::number(1).revokes(1).revokes_for(2, HOLD)).unwrap();
    let codes = sessions.each_ref().map(|session| session.cause().map(|cause| cause.code));
    assert_eq!(codes, [Some("certificate_revoked"), Some("certificate_suspended"), None, None]);
    assert_eq!((outcome.verdict, outcome.killed.count()), (Verdict::New, 2));
    let reason = &sessions[0].cause().unwrap().reason;
    assert!(reason.starts_with("revocation list 1 of "), "{reason}");
    drop(sessions);
    assert_eq!(runtime().block_on(outcome.killed.ended(std::time::Duration::ZERO)), 0);
    for (target, expected) in [(&revoked, true), (&held, true), (&spared, false), (&same_serial, false)] {
        assert_eq!(admit(&engine, target).is_err(), expected, "{target}");
    }
}

#[test]
fn sources_never_erase_each_other() {
    let (engine, ca, other) = (engine(), Ca::root("A"), Ca::root("B"));
    let target = certificate(&ca, 1);
    enforce(&engine, &ca, &Forge::number(1).revokes(1));
    enforce(&engine, &other, &Forge::number(1).revokes(7));
    apply(&engine, Event::new(Action::Suspend, target.clone(), forge::now()));
    // A list without it lifts what the list said, and not what was told.
    enforce(&engine, &ca, &Forge::number(2));
    assert!(denied(&engine, &target));
    let lift = |force| {
        let event = Event { force, ..Event::new(Action::Reinstate, target.clone(), forge::now()) };
        assert!(runtime().block_on(engine.decide(event)).is_ok());
    };
    lift(false);
    assert!(!denied(&engine, &target));
    // Nor the reverse, whatever the force.
    enforce(&engine, &ca, &Forge::number(3).revokes(1));
    lift(true);
    assert!(denied(&engine, &target) && denied(&engine, &certificate(&other, 7)));
    let lists: Vec<_> = engine.lists().iter().map(|crl| (crl.issuer.name.clone(), crl.entries)).collect();
    assert_eq!(lists.len(), 2, "{lists:?}");
}

#[test]
fn lists_that_contradict_each_other_both_deny_and_the_status_knows() {
    let (engine, ca) = (engine(), Ca::root("A"));
    enforce(&engine, &ca, &Forge::number(7).revokes(1));
    assert!(engine.contradicting_lists().is_empty());
    enforce(&engine, &ca, &Forge::number(7).revokes(2));
    assert!(denied(&engine, &certificate(&ca, 1)) && denied(&engine, &certificate(&ca, 2)));
    assert_eq!(engine.contradicting_lists().len(), 2);
    enforce(&engine, &ca, &Forge::number(8).revokes(2));
    assert!(!denied(&engine, &certificate(&ca, 1)) && denied(&engine, &certificate(&ca, 2)));
    assert!(engine.contradicting_lists().is_empty());
}

#[test]
fn why_can_be_told_of_every_hit() {
    let (engine, ca) = (engine(), Ca::root("A"));
    enforce(&engine, &ca, &Forge::number(41).revokes_for(1, 1).revokes_for(2, HOLD));
    enforce(&engine, &ca, &Forge::delta(42, 41).revokes_for(3, 5));
    for (serial, state, reason, list) in [
        (1, State::Revoked, "keyCompromise", "revocation list 41 of "),
        (2, State::Suspended, "certificateHold", "revocation list 41 of "),
        (3, State::Revoked, "cessationOfOperation", "revocation list 42 of "),
    ] {
        let target = certificate(&ca, serial);
        let alone = Target::parse(Level::Certificate, target.name(), None).unwrap();
        for asked in [&target, &alone] {
            let found = engine.listed(std::slice::from_ref(asked));
            let [entry] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((&entry.target, entry.state), (&target, state));
            let standing = &entry.standing;
            assert_eq!((standing.reason.as_deref(), standing.source.as_deref()), (Some(reason), Some("crl")));
            assert!(standing.actor.as_deref().unwrap().contains("CN=A"), "{standing:?}");
            assert_eq!(standing.stamp.0.to_string(), "2026-10-01T12:00:00.000Z");
            assert!(standing.stamp.1.starts_with(list), "{standing:?}");
        }
    }
    assert_eq!(engine.listed(&[certificate(&ca, 4), Target::parse(Level::Task, "01", None).unwrap()]), []);
}

#[test]
fn an_authority_with_a_new_key_speaks_for_the_old_one() {
    let (engine, old, new) = (engine(), Ca::root("A"), Ca::root("A"));
    let mut issuers = old.issuers();
    // Cross-signed: the same name under the same anchor.
    let bridge = old.below(forge::params("A"));
    issuers.add_intermediate(&bridge.der).unwrap();
    let list = Forge::number(1).revokes(1).sign(&bridge);
    assert_eq!(take_in_bytes(&engine, &issuers, &list).unwrap().verdict, Verdict::New);
    assert!(denied(&engine, &certificate(&old, 1)) && denied(&engine, &certificate(&bridge, 1)));
    assert!(!denied(&engine, &certificate(&new, 1)), "another authority of the same name");
    assert_eq!(engine.listed(&[certificate(&old, 1)]).len(), 1);
}

/// Seen failing where the same list once more was nothing new, whoever it speaks for by now.
#[test]
fn a_list_speaks_for_an_authority_that_is_added_later() {
    let (engine, root) = (engine(), Ca::root("R"));
    let (old, new) = (root.below(forge::params("A")), root.below(forge::params("A")));
    let mut issuers = root.issuers();
    issuers.add_intermediate(&new.der).unwrap();
    let full = Forge::number(1).revokes(1).sign(&new);
    let delta = Forge::delta(2, 1).revokes(2).sign(&new);
    for list in [&full, &delta] {
        assert_eq!(take_in_bytes(&engine, &issuers, list).unwrap().verdict, Verdict::New);
    }
    issuers.add_intermediate(&old.der).unwrap();
    for (serial, list) in [(1, &full), (2, &delta)] {
        let session = admit(&engine, &certificate(&old, serial + 2)).unwrap();
        let outcome = take_in_bytes(&engine, &issuers, list).unwrap();
        assert!(denied(&engine, &certificate(&old, serial)), "{:?}", outcome.verdict);
        assert_eq!((outcome.killed.count(), session.cause()), (0, None));
        assert_eq!(take_in_bytes(&engine, &issuers, list).unwrap().verdict, Verdict::Unchanged);
    }
}

/// Seen failing where the first layer with an entry had the word.
#[test]
fn revoked_outranks_suspended_whoever_says_so_first() {
    let root = Ca::root("R");
    let (old, new) = (root.below(forge::params("A")), root.below(forge::params("A")));
    let mut issuers = root.issuers();
    issuers.add_intermediate(&old.der).unwrap();
    issuers.add_intermediate(&new.der).unwrap();
    let held = Forge::number(1).revokes_for(1, HOLD).sign(&old);
    let revoked = Forge::number(2).revokes(1).sign(&new);
    let target = certificate(&old, 1);
    for lists in [[&held, &revoked], [&revoked, &held]] {
        let engine = engine();
        for list in lists {
            let _ = take_in_bytes(&engine, &issuers, list).unwrap();
        }
        assert_eq!(admit(&engine, &target).unwrap_err().code(), "certificate_revoked");
    }
    // What was told of it live is no exception.
    let engine = engine();
    apply(&engine, Event::new(Action::Suspend, target.clone(), forge::now()));
    let _ = take_in_bytes(&engine, &issuers, &revoked).unwrap();
    let denial = admit(&engine, &target).unwrap_err();
    assert_eq!(denial.code(), "certificate_revoked");
    assert!(denial.reason.starts_with("revocation list 2 of "), "{denial:?}");
}

/// Seen failing where the reason was that of a revocation which does not hit this certificate.
#[test]
fn the_reason_is_that_of_who_denies() {
    let (engine, ca) = (engine(), Ca::root("A"));
    let target = certificate(&ca, 1);
    let earlier = Event {
        issued_before: Some(-1),
        reason: Some("those of last year".to_owned()),
        ..Event::new(Action::Revoke, target.clone(), forge::now())
    };
    apply(&engine, earlier);
    assert!(!denied(&engine, &target));
    enforce(&engine, &ca, &Forge::number(1).revokes(1));
    let denial = admit(&engine, &target).unwrap_err();
    assert!(denial.reason.starts_with("revocation list 1 of "), "{denial:?}");
}

/// Seen failing where lists were told apart by their signer's key alone: the one of the new name took the place of the one
/// of the old, and the next of the old was refused.
#[test]
fn an_authority_with_a_new_name_for_its_key_replaces_nothing_of_the_old() {
    let (engine, root, ca) = (engine(), Ca::root("R"), Ca::root("A"));
    let mut issuers = ca.issuers();
    issuers.add_anchor(&root.der).unwrap();
    issuers.add_intermediate(&root.crosses(&ca, &forge::params("B"))).unwrap();
    let renamed = |forge: Forge| Forge { issuer: Some(Ca::root("B").name()), ..forge };
    for list in
        [Forge::number(5).revokes(1), renamed(Forge::number(6).revokes(2)), Forge::number(6).revokes(3)]
    {
        assert_eq!(take_in_bytes(&engine, &issuers, &list.sign(&ca)).unwrap().verdict, Verdict::New);
    }
    assert_eq!([1, 2, 3].map(|serial| denied(&engine, &certificate(&ca, serial))), [false, true, true]);
}

#[test]
fn a_list_that_is_refused_leaves_the_last_one_in_force() {
    let (engine, ca) = (engine(), Ca::root("A"));
    enforce(&engine, &ca, &Forge::number(5).revokes(1));
    let generation = engine.generation();
    let fallen = take_in(&engine, &ca, &Forge::number(4)).unwrap_err();
    assert_eq!(fallen.to_string(), "number 4 is below the known 5: an old list");
    let again = take_in(&engine, &ca, &Forge::number(5).revokes(1)).unwrap();
    assert_eq!((again.verdict, engine.generation()), (Verdict::Unchanged, generation));
    assert!(denied(&engine, &certificate(&ca, 1)));
}

/// Three threads admit one certificate after the other, while lists revoke ever more of them.
///
/// Seen failing where the sessions were ended before the list was published.
#[test]
fn nobody_slips_through_between_a_list_and_its_kill() {
    const CERTIFICATES: u32 = 200;
    let (engine, ca) = (engine(), Ca::root("A"));
    let targets: Vec<Target> = (1..=CERTIFICATES).map(|serial| certificate(&ca, serial)).collect();
    // How many of them the lists that were taken in name.
    let (in_force, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (admitted, leaked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut live: Vec<(usize, Guard)> = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    // Those that are next.
                    let next = in_force.load(Ordering::SeqCst);
                    for index in
                        (next..(next + 3).min(targets.len())).take(32_usize.saturating_sub(live.len()))
                    {
                        live.extend(admit(&engine, &targets[index]).ok().map(|guard| (index, guard)));
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                    live.retain(|(index, guard)| {
                        // In this order: a kill that came before the list was in force must be seen after it.
                        let is_in_force = *index < in_force.load(Ordering::SeqCst);
                        let is_live = guard.cause().is_none();
                        leaked.fetch_add(usize::from(is_live && is_in_force), Ordering::Relaxed);
                        is_live && !is_in_force
                    });
                }
            });
        }
        let mut list = Forge::number(0);
        for serial in 1..=CERTIFICATES {
            let entries = list.revokes(serial).entries;
            list = Forge { entries, ..Forge::number(serial) };
            let _ = take_in(&engine, &ca, &list).unwrap();
            in_force.store(serial as usize, Ordering::SeqCst);
        }
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(leaked.into_inner(), 0);
    assert!(admitted.into_inner() > 200, "the threads never met");
}
