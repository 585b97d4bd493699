//! The invariant, raced: once `apply` has returned, no session of a revoked credential is live or can begin.
//!
//! Real engine, real threads. In each round one thread admits a session while another revokes its credential; both
//! leave a spinning barrier together, and one of them is held back by a delay that sweeps from round to round, so
//! that every pair of steps gets its turn to collide. A session that was admitted lives until it is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::hint::spin_loop;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::revocation::Which;
use portcullis::session::Credential;
use portcullis::session::Guard;
use portcullis::session::Heeds;
use portcullis::session::Origin;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

/// Rounds that share an engine and a commit: a small set keeps a publication short, and the collisions frequent.
const ROUNDS: usize = 1024;
const ENGINES: usize = 40;
/// Rounds of the end of break-glass, each with a thread of its own.
const END_ROUNDS: usize = 6000;
/// The longest delay, turns of an empty loop.
const SWEEP: usize = 512;

/// Two threads that race need the cores for themselves: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory that can be held back, as a busy disk is: what was applied meanwhile then shares one commit.
#[derive(Debug)]
struct Disk {
    memory: InMemoryBackend,
    busy: Arc<Mutex<()>>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        drop(self.busy.lock());
        self.memory.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }
}

/// Two threads leave it at the same moment, as nearly as spinning can make it.
#[derive(Default)]
struct Gate(AtomicUsize);

impl Gate {
    fn pass(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        let mut turns = 0_u64;
        while self.0.load(Ordering::SeqCst) < 2 {
            turns += 1;
            // On a busy machine the other thread may not be running at all.
            if turns.is_multiple_of(200) {
                std::thread::yield_now();
            }
            spin_loop();
        }
    }
}

/// How the kill finds a session.
#[derive(Clone, Copy, Debug)]
enum Path {
    Index,
    Scan,
}

/// The entry that stands before the race, and the credential that is to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// Nothing, and somebody of the gate.
    Nothing,
    /// An entry of an unsigned message, which an administrator does not heed.
    Unsigned,
}

struct Round {
    target: Target,
    credential: Arc<Credential>,
    gate: Gate,
    revoked: AtomicBool,
}

impl Round {
    /// `path` puts the target's fingerprint where the kill is to find it: in the index, or by the scan.
    fn new(engine: &Engine, name: usize, path: Path) -> Self {
        Self::after(Before::Nothing, engine, name, path)
    }

    fn after(before: Before, engine: &Engine, name: usize, path: Path) -> Self {
        let target = Target::parse(Level::Task, &format!("task-{name}"), None).unwrap();
        let prints = vec![engine.fingerprinter().target(&target)];
        let (own, mass) = match path {
            Path::Index => (prints, Vec::new()),
            Path::Scan => (Vec::new(), prints),
        };
        let heeds = match before {
            Before::Nothing => Heeds::All,
            Before::Unsigned => {
                // In effect at once; nobody waits for the disk.
                let event = Event::new(Action::Revoke, target.clone(), Timestamp::from_secs(1));
                poll_once(std::pin::pin!(engine.apply(Event { unsigned: true, ..event })));
                Heeds::Signed
            }
        };
        let credential = Arc::new(Credential { own, mass, heeds, ..Credential::default() });
        Self { target, credential, gate: Gate::default(), revoked: AtomicBool::new(false) }
    }
}

#[derive(Debug, Default)]
struct Tally {
    admitted: usize,
    denied: usize,
    /// Live although the revocation had returned.
    leaked: usize,
    /// Admitted although the revocation had returned.
    late: usize,
}

fn origin() -> Origin {
    Origin { peer: ([127, 0, 0, 1], 1).into(), listener: "gate", protocol: "http/1.1" }
}

fn delay(turns: usize) {
    (0..turns).for_each(|_| spin_loop());
}

/// The one who connects: one session a round, each kept until it is killed.
fn admit(engine: &Engine, rounds: &[Round], tally: &mut Tally) {
    let mut live: Vec<(usize, Guard)> = Vec::new();
    for (number, round) in rounds.iter().enumerate() {
        let held_back = number * 37 % SWEEP;
        round.gate.pass();
        delay(held_back);
        match engine.admit(Arc::clone(&round.credential), origin()) {
            Ok(guard) => live.push((number, guard)),
            Err(_) => tally.denied += 1,
        }
    }
    tally.admitted += live.len();
    while !live.is_empty() {
        live.retain(|(number, guard)| {
            // In this order: a kill that came before `apply` returned must be seen after it.
            let returned = rounds.get(*number).unwrap().revoked.load(Ordering::SeqCst);
            let alive = guard.cause().is_none();
            tally.leaked += usize::from(alive && returned);
            alive && !returned
        });
        std::thread::yield_now();
    }
}

/// The one who revokes: each round's revocation takes effect at its gate; the journal is awaited for all together.
fn revoke(engine: &Engine, rounds: &[Round], busy: MutexGuard<'_, ()>) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let mut pending = Vec::new();
    let mut late = 0;
    for (number, round) in rounds.iter().enumerate() {
        let held_back = number * 53 % SWEEP;
        let event = Event::new(Action::Revoke, round.target.clone(), Timestamp::from_secs(1));
        let mut applied = Box::pin(engine.apply(event));
        round.gate.pass();
        delay(held_back);
        // The first poll publishes and kills; what is left is to wait for the disk.
        let polled = applied.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        pending.push((round, applied, polled));
    }
    drop(busy);
    for (round, applied, polled) in pending {
        let outcome = match polled {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => runtime.block_on(applied),
        };
        round.revoked.store(true, Ordering::SeqCst);
        let outcome = outcome.unwrap();
        // How soon a guard is gone is up to the scheduler; that nobody slips through is not.
        assert_eq!(outcome.durable, Ok(()));
        late += usize::from(engine.admit(Arc::clone(&round.credential), origin()).is_ok());
    }
    late
}

/// Seen failing, of 40,960 rounds: check before register let 1,797 sessions live on, kill before publish 7,271. A kill that
/// skips the shard's lock where the index looks empty was *not* seen to fail here; `invariant_loom.rs` finds it.
#[test]
fn nobody_slips_through_between_the_check_and_the_kill() {
    race(Path::Index, Before::Nothing);
}

/// Seen failing likewise: check before register 1,763, kill before publish 6,467.
#[test]
fn nor_where_the_kill_scans_the_table() {
    race(Path::Scan, Before::Nothing);
}

/// A signed message says what an unsigned one has said before: the entry that the request path finds stays as it is. Seen
/// failing with a publication and a kill that are left out where it does: all 20,264 that were admitted of 40,960 lived on; and
/// with a judge that heeds all, which admitted nobody.
#[test]
fn nor_an_administrator_whom_an_unsigned_message_denied_before() {
    race(Path::Index, Before::Unsigned);
    race(Path::Scan, Before::Unsigned);
}

fn race(path: Path, before: Before) {
    let _alone = alone();
    let mut tally = Tally::default();
    for _ in 0..ENGINES {
        let busy = Arc::new(Mutex::new(()));
        let disk = Arc::clone(&busy);
        let disk = move || Ok(Disk { memory: InMemoryBackend::new(), busy: Arc::clone(&disk) });
        let clock = Clock::manual(Timestamp::from_secs(10));
        let engine = Engine::on_storage(disk, &Config::default(), clock).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let entered = runtime.enter();
        let held = busy.lock().unwrap();
        let rounds: Vec<Round> = (0..ROUNDS).map(|name| Round::after(before, &engine, name, path)).collect();
        drop((held, entered));
        std::thread::scope(|scope| {
            let revoker = scope.spawn(|| revoke(&engine, &rounds, busy.lock().unwrap()));
            admit(&engine, &rounds, &mut tally);
            tally.late += revoker.join().unwrap();
        });
        assert!(engine.sessions().is_empty(), "a session stayed in the table");
    }
    println!("{path:?}, {before:?}, {} rounds: {tally:?}", ENGINES * ROUNDS);
    assert_eq!((tally.leaked, tally.late), (0, 0), "{tally:?}");
    assert!(tally.admitted > 1000 && tally.denied > 1000, "the threads never met: {tally:?}");
}

/// What races the end of break-glass.
#[derive(Clone, Copy, Debug)]
enum Rival {
    /// A revocation of a live session, which is spared while break-glass lasts.
    Revocation,
    /// A denied session, which is let in while it lasts.
    Admission,
    /// A session of somebody whom the set does not know, which is served while it lasts.
    Stranger,
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) {
    // What is left is to wait: for guards, for the disk.
    let _ = future.poll(&mut Context::from_waker(Waker::noop()));
}

/// One round of the rival; returns the session that must be dead when both are through, if it is served at all.
fn contend(engine: &Engine, rival: Rival, round: &Round, live: Guard, held_back: usize) -> Option<Guard> {
    let event = || Event::new(Action::Revoke, round.target.clone(), Timestamp::from_secs(1));
    if matches!(rival, Rival::Admission) {
        poll_once(std::pin::pin!(engine.apply(event())));
    }
    round.gate.pass();
    delay(held_back);
    match rival {
        Rival::Revocation => {
            poll_once(std::pin::pin!(engine.apply(event())));
            Some(live)
        }
        Rival::Admission => {
            let admitted = engine.admit(Arc::clone(&round.credential), origin()).ok();
            drop(live);
            admitted
        }
        Rival::Stranger => Some(live).filter(|live| engine.tolerate(live.session())),
    }
}

/// Seen failing, of 6,000 rounds each, with a sweep before the switch: 41 sessions lived on although revoked, 22 although
/// denied, 2 although strangers; and with a revocation that looks before it publishes: 5. An admission that looks before
/// it registers was *not* seen to fail here; `invariant_loom.rs` finds it.
#[test]
fn nothing_outlives_the_end_of_break_glass() {
    let _alone = alone();
    for rival in [Rival::Revocation, Rival::Admission, Rival::Stranger] {
        let clock = Clock::manual(Timestamp::from_secs(10));
        let engine = Engine::in_memory(&Config::default(), clock).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (mut leaked, mut served) = (0, 0);
        for number in 0..END_ROUNDS {
            let round = Round::new(&engine, number, Path::Index);
            let hour = std::time::Duration::from_secs(3600);
            engine.break_glass().begin("a", "outage", Timestamp::from_secs(10), hour);
            let live = engine.admit(Arc::clone(&round.credential), origin()).unwrap();
            let kept = std::thread::scope(|scope| {
                let ender = scope.spawn(|| {
                    let _entered = runtime.enter();
                    round.gate.pass();
                    delay(number * 37 % SWEEP);
                    poll_once(std::pin::pin!(engine.end_break_glass(Which::Any)));
                });
                let _entered = runtime.enter();
                let kept = contend(&engine, rival, &round, live, number * 53 % SWEEP);
                ender.join().unwrap();
                kept
            });
            served += usize::from(kept.is_some());
            leaked += usize::from(kept.is_some_and(|kept| kept.cause().is_none()));
            assert!(engine.sessions().is_empty(), "a session stayed in the table");
        }
        println!("{rival:?}: {served} served, {leaked} leaked");
        assert_eq!(leaked, 0, "{rival:?}");
        assert!(served > END_ROUNDS / 100, "{rival:?}: the threads never met");
    }
}
