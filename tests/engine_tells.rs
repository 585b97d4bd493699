//! What the engine tells: what stands and how many there are, what would become of an event, which sessions there are.
//! Nothing of it changes anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::collections::HashMap;
use std::io::Read as _;
use std::io::Seek as _;
use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::Error;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Outcome;
use portcullis::revocation::Registers;
use portcullis::revocation::State;
use portcullis::revocation::Target;
use portcullis::session::Cause;
use portcullis::session::Credential;
use portcullis::session::Guard;
use portcullis::session::Heeds;
use portcullis::session::Holder;
use portcullis::session::Origin;
use portcullis::session::SessionId;
use proptest::prelude::*;
use tokio::runtime::Runtime;

/// Where every manual clock of this file starts.
const START: i64 = 1_800_000_000;
/// When the sessions of a random history were issued.
const ISSUED: [i64; 3] = [-2000, -10, 50];

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(START + secs)
}

fn engine() -> Engine {
    Engine::in_memory(&Config::default(), Clock::manual(at(0))).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn agent(name: &str) -> Target {
    Target::parse(Level::Principal, name, None).unwrap()
}

fn admit(engine: &Engine, target: &Target, issued: i64) -> Option<Guard> {
    admit_heeding(Heeds::All, engine, target, issued)
}

/// Admits a credential that heeds so much.
fn admit_heeding(heeds: Heeds, engine: &Engine, target: &Target, issued: i64) -> Option<Guard> {
    let prints = vec![engine.fingerprinter().target(target)];
    let is_mass = matches!(target.level(), Level::Issuer | Level::TrustDomain);
    let (own, mass) = if is_mass { (Vec::new(), prints) } else { (prints, Vec::new()) };
    let holder = Holder { principal: Some(target.name().to_owned()), ..Holder::default() }.into();
    let credential = Credential { own, mass, issued_at: START + issued, heeds, holder };
    let origin = Origin { peer: ([127, 0, 0, 1], 1).into(), listener: "gate", protocol: "http/2" };
    engine.admit(Arc::new(credential), origin).ok()
}

/// Everything that an event could change, and that an onlooker can see.
#[derive(Debug, PartialEq)]
struct Picture {
    generation: u64,
    entries: [usize; 8],
    durable: bool,
    known: HashMap<Target, Registers>,
    sessions: Vec<(SessionId, Option<Cause>, u64)>,
}

fn picture(engine: &Engine) -> Picture {
    let sessions = engine.sessions().list();
    Picture {
        generation: engine.generation(),
        entries: engine.entries_by_level(),
        durable: engine.is_durable(),
        known: known(engine),
        sessions: sessions.iter().map(|s| (s.id(), s.cause().cloned(), s.seen())).collect(),
    }
}

fn known(engine: &Engine) -> HashMap<Target, Registers> {
    engine.select(|target, registers| Some((target.clone(), registers.clone()))).into_iter().collect()
}

fn recount(engine: &Engine) -> [usize; 8] {
    let stands = |target: &Target, registers: &Registers| {
        registers.standings().next().is_some().then_some(target.level())
    };
    let levels = engine.select(stands);
    Level::ALL.map(|level| levels.iter().filter(|found| **found == level).count())
}

/// Applies an event of a feed, see [`carried_out`].
fn apply(engine: &Engine, event: Event, guards: &mut Vec<Guard>) -> (Vec<SessionId>, Option<bool>) {
    carried_out(engine.apply(event), guards)
}

/// Carries an event out while the sessions that it kills let go. Returns their ids, and whether it changed anything, if it
/// was taken in.
fn carried_out(
    outcome: impl Future<Output = Result<Outcome, Error>>,
    guards: &mut Vec<Guard>,
) -> (Vec<SessionId>, Option<bool>) {
    runtime().block_on(async {
        let let_go = async {
            // The first poll publishes and kills.
            tokio::task::yield_now().await;
            let (ended, live) = std::mem::take(guards).into_iter().partition(|guard| guard.cause().is_some());
            *guards = live;
            let ended: Vec<Guard> = ended;
            ended.iter().map(|guard| guard.session().id()).collect()
        };
        let (outcome, ended) = tokio::join!(outcome, let_go);
        (ended, outcome.ok().map(|outcome| outcome.changed))
    })
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Event),
    /// By a message that nobody signed.
    Hear(Event),
    Wait(u64),
    Expire,
    Restart,
}

fn target(name: u8) -> Target {
    let (level, name) = match name {
        0 => (Level::Certificate, "0a"),
        1 => (Level::Task, "t"),
        2 => (Level::TrustDomain, "lab.test"),
        _ => (Level::Principal, "a"),
    };
    Target::parse(level, name, None).unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    let action =
        prop_oneof![3 => Just(Action::Revoke), 3 => Just(Action::Suspend), 2 => Just(Action::Reinstate)];
    let bound = prop_oneof![2 => Just(None), 1 => (-4000..100_i64).prop_map(Some)];
    let event = (action, 0..4_u8, -50..120_i64, bound.clone(), bound, any::<bool>());
    let event = event.prop_map(|(action, name, when, before, until, force)| Event {
        id: format!("{action:?}{when}{before:?}{until:?}{force}"),
        issued_before: before.map(|secs| START + secs),
        expires_at: until.map(at),
        force: force && action == Action::Reinstate,
        source: Some("admin".into()),
        ..Event::new(action, target(name), at(when))
    });
    let heard = event.clone().prop_map(|event| {
        Step::Hear(Event { source: Some("queue".into()), unsigned: true, force: false, ..event })
    });
    prop_oneof![
        12 => event.prop_map(Step::Apply),
        6 => heard,
        2 => (0..90_u64).prop_map(Step::Wait),
        1 => Just(Step::Expire),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Seen failing with a preview that gives the event another time, that merges into the registers themselves, and with
    /// counts that expiry or a restart leaves as they are. Among the sessions are those that heed signed entries alone: seen
    /// failing with a preview that takes them for others.
    #[test]
    fn a_preview_says_what_happens_and_changes_nothing_and_the_counts_are_right(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let state = tempfile::tempdir().unwrap();
        let clock = Clock::manual(at(0));
        let open = || Engine::open(state.path(), &Config::default(), clock.clone()).unwrap();
        let mut engine = open();
        let mut guards: Vec<Guard> = Vec::new();
        for step in steps {
            match step {
                Step::Apply(event) => {
                    for heeds in [Heeds::All, Heeds::Signed] {
                        let admit = |issued: &i64| admit_heeding(heeds, &engine, &event.target, *issued);
                        guards.extend(ISSUED.iter().filter_map(admit));
                    }
                    let before = picture(&engine);
                    let preview = engine.preview(&event);
                    prop_assert_eq!(&before, &picture(&engine), "{:?}", &event);
                    let mut foretold: Vec<SessionId> = preview.sessions.iter().map(|s| s.id()).collect();
                    let (mut ended, changed) = carried_out(engine.decide(event.clone()), &mut guards);
                    foretold.sort_unstable();
                    ended.sort_unstable();
                    prop_assert_eq!((preview.changes, foretold), (changed.unwrap_or(false), ended), "{:?}", event);
                }
                Step::Hear(event) => {
                    let _ = carried_out(engine.apply(event), &mut guards);
                    prop_assert!(guards.iter().all(|guard| guard.cause().is_none()));
                }
                Step::Wait(secs) => clock.advance(Duration::from_secs(secs)),
                Step::Expire => drop(engine.expire()),
                Step::Restart => {
                    guards.clear();
                    drop(engine);
                    engine = open();
                }
            }
            prop_assert_eq!(engine.entries_by_level(), recount(&engine));
            prop_assert_eq!(engine.entries(), recount(&engine).iter().sum::<usize>());
        }
    }
}

#[test]
fn what_stands_is_listed_with_its_own_events_and_where_they_came_from() {
    let state = tempfile::tempdir().unwrap();
    let clock = Clock::manual(at(0));
    let open = || Engine::open(state.path(), &Config::default(), clock.clone()).unwrap();
    let engine = open();
    assert_eq!(engine.standing(&agent("a")), None);
    let event = |action, id: &str, secs| Event {
        id: id.into(),
        source: Some(format!("feed of {id}")),
        reason: Some(format!("why {id}")),
        ..Event::new(action, agent("a"), at(secs))
    };
    let narrow = Event { issued_before: Some(START - 100), ..event(Action::Revoke, "narrow", 9) };
    for event in [event(Action::Revoke, "wide", 1), narrow, event(Action::Suspend, "pause", 5)] {
        let _ = apply(&engine, event, &mut Vec::new());
    }
    let check = |engine: &Engine| {
        let registers = engine.standing(&agent("a")).unwrap();
        let all: Vec<_> = registers.standings().map(|(state, s)| (state, s.stamp.1.as_str())).collect();
        assert_eq!(all, [(State::Revoked, "narrow"), (State::Revoked, "wide"), (State::Suspended, "pause")]);
        for (_, standing) in registers.standings() {
            assert_eq!(standing.source, Some(format!("feed of {}", standing.stamp.1)));
            assert_eq!(standing.reason, Some(format!("why {}", standing.stamp.1)));
        }
        assert_eq!(engine.select(|target, _| Some(target.clone())), [agent("a")]);
        assert_eq!(engine.select(|_, _| None::<()>), []);
    };
    check(&engine);
    drop(engine);
    check(&open());
}

#[test]
fn a_session_is_ended_by_its_name_and_its_credential_is_not_denied() {
    let engine = engine();
    let [one, other] = [(); 2].map(|()| admit(&engine, &agent("a"), 0).unwrap());
    let id = one.session().id();
    let cause = || Cause { code: "session_ended", reason: "asked for".into() };
    let pending = runtime().block_on(async {
        let let_go = async {
            assert_eq!(one.killed().await, &cause());
            drop(one);
        };
        tokio::join!(engine.end_session(id, cause()), let_go).0
    });
    assert_eq!((pending, other.cause(), engine.sessions().len()), (Some(0), None, 1));
    assert_eq!(runtime().block_on(engine.end_session(id, cause())), None);
    assert!(admit(&engine, &agent("a"), 0).is_some());
    // Who neither lets go nor has a socket that could be cut is counted.
    assert_eq!(runtime().block_on(engine.end_session(other.session().id(), cause())), Some(1));
}

#[test]
fn the_times_of_an_outcome_come_in_the_order_of_the_steps() {
    let engine = engine();
    let apply = |event| runtime().block_on(engine.apply(event)).unwrap();
    let revoked = apply(Event::new(Action::Revoke, agent("a"), at(0)));
    assert!(revoked.effective_after <= revoked.enforced_after);
    assert!(revoked.enforced_after <= revoked.durable_after);
    let lifted = apply(Event { force: true, ..Event::new(Action::Reinstate, agent("a"), at(1)) });
    assert!(lifted.durable_after <= lifted.effective_after);
    assert_eq!(lifted.effective_after, lifted.enforced_after);
}

/// Seen failing with a line each time; and with one budget for all, in which one administrator hides another.
#[test]
fn that_somebody_is_let_in_whom_an_unsigned_message_denies_is_said_now_and_then() {
    let clock = Clock::manual(at(0));
    let engine = Engine::in_memory(&Config::default(), clock.clone()).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(file.try_clone().unwrap()).finish();
    let mut said = || {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text.matches("lets somebody in whom an unsigned message denies").count()
    };
    tracing::subscriber::with_default(log, || {
        let enter = || drop(admit_heeding(Heeds::Signed, &engine, &agent("a"), 0).unwrap());
        enter();
        assert_eq!(said(), 0);
        let event = Event { unsigned: true, ..Event::new(Action::Revoke, agent("a"), at(0)) };
        let _ = apply(&engine, event, &mut Vec::new());
        (0..50).for_each(|_| enter());
        assert_eq!(said(), 5);
        let event = Event { unsigned: true, ..Event::new(Action::Revoke, agent("b"), at(0)) };
        let _ = apply(&engine, event, &mut Vec::new());
        drop(admit_heeding(Heeds::Signed, &engine, &agent("b"), 0).unwrap());
        assert_eq!(said(), 6);
        clock.advance(Duration::from_secs(10));
        (0..50).for_each(|_| enter());
        assert_eq!(said(), 7);
    });
}

#[test]
fn sessions_of_two_processes_have_different_names() {
    let ids = [(); 2].map(|()| admit(&engine(), &agent("a"), 0).unwrap().session().id());
    let [one, other] = ids.map(|id| id.to_string());
    assert_ne!(one.get(..8), other.get(..8));
}
