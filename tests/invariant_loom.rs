//! The invariant, proven on a model: every interleaving of `protocol::admit` and `protocol::revoke`.
//!
//! The lines under test are those of the gate; what they order is modelled. The set is one atomic, published with
//! Release and read with Acquire; a shard of the session index is a mutex; a kill is a flag of the session. Beside each
//! order stands the wrong one, which must leak: a model that cannot fail proves nothing. No thread stores into what it has
//! loaded itself: there loom would leave orders out (`set_loom.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use loom::sync::Arc;
use loom::sync::Mutex;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering;
use loom::sync::atomic::fence;
use loom::thread;
use portcullis::revocation::protocol::admit;
use portcullis::revocation::protocol::enforce;
use portcullis::revocation::protocol::revoke;

#[derive(Default)]
struct Session {
    killed: AtomicBool,
}

/// One credential as the engine sees it: its entry in the set, and its shard of the index.
#[derive(Default)]
struct Model {
    generation: AtomicUsize,
    revoked: AtomicBool,
    shard: Mutex<Vec<Arc<Session>>>,
    /// How many sessions the shard holds, readable without its lock: the shortcut that must not be taken.
    count: AtomicUsize,
}

impl Model {
    fn register(&self) -> Arc<Session> {
        let session = Arc::new(Session::default());
        let mut shard = self.shard.lock().unwrap();
        shard.push(Arc::clone(&session));
        self.count.store(shard.len(), Ordering::Release);
        session
    }

    fn check(&self) -> Result<(), ()> {
        let revoked = self.revoked.load(Ordering::Acquire);
        if revoked { Err(()) } else { Ok(()) }
    }

    fn publish(&self) {
        self.revoked.store(true, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn kill(&self) {
        let shard = self.shard.lock().unwrap();
        for session in shard.iter() {
            session.killed.store(true, Ordering::Release);
        }
    }

    fn kill_unless_empty(&self) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.kill();
        }
    }

    fn admit(&self) -> Result<Arc<Session>, ()> {
        admit(|| self.register(), |_| self.check())
    }

    fn revoke(&self) {
        revoke(|| self.publish(), || self.kill());
    }
}

/// Runs `session` against `revocation` in every interleaving: what was admitted must be dead when both are through.
fn race(session: fn(&Model) -> Result<Arc<Session>, ()>, revocation: fn(&Model)) {
    loom::model(move || {
        let model = Arc::new(Model::default());
        let theirs = Arc::clone(&model);
        let revoker = thread::spawn(move || revocation(&theirs));
        let admitted = session(&model);
        revoker.join().unwrap();
        if let Ok(session) = admitted {
            assert!(session.killed.load(Ordering::Acquire), "a session leaked");
        }
        assert!(model.admit().is_err(), "admitted after the revocation returned");
    });
}

#[test]
fn whoever_is_admitted_is_killed() {
    race(Model::admit, Model::revoke);
}

#[test]
fn two_sessions_and_a_revocation() {
    loom::model(|| {
        let model = Arc::new(Model::default());
        let sessions: Vec<_> = (0..2)
            .map(|_| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.admit())
            })
            .collect();
        model.revoke();
        for session in sessions {
            if let Ok(session) = session.join().unwrap() {
                assert!(session.killed.load(Ordering::Acquire), "a session leaked");
            }
        }
    });
}

#[test]
#[should_panic(expected = "a session leaked")]
fn a_check_before_the_registration_leaks() {
    let check_first = |model: &Model| {
        model.check()?;
        Ok(model.register())
    };
    race(check_first, Model::revoke);
}

#[test]
#[should_panic(expected = "a session leaked")]
fn a_kill_before_the_publication_leaks() {
    race(Model::admit, |model| {
        model.kill();
        model.publish();
    });
}

#[test]
#[should_panic(expected = "a session leaked")]
fn a_kill_that_skips_the_lock_of_an_empty_shard_leaks() {
    race(Model::admit, |model| {
        revoke(|| model.publish(), || model.kill_unless_empty());
    });
}

/// A connection's next request: the set is probed only if the generation moved since the connection last probed it.
struct Connection {
    seen: usize,
}

impl Connection {
    fn check(&mut self, model: &Model) -> Result<(), ()> {
        let generation = model.generation.load(Ordering::Acquire);
        if self.seen != generation {
            model.check()?;
            self.seen = generation;
        }
        Ok(())
    }

    fn check_probing_first(&mut self, model: &Model) -> Result<(), ()> {
        let verdict = model.check();
        let generation = model.generation.load(Ordering::Acquire);
        if self.seen != generation {
            verdict?;
            self.seen = generation;
        }
        Ok(())
    }
}

/// A request races the publication; the next one comes after it and must be denied.
fn requests(check: fn(&mut Connection, &Model) -> Result<(), ()>, publish: fn(&Model)) {
    loom::model(move || {
        let model = Arc::new(Model::default());
        let theirs = Arc::clone(&model);
        let revoker = thread::spawn(move || publish(&theirs));
        let mut connection = Connection { seen: usize::MAX };
        let _ = check(&mut connection, &model);
        revoker.join().unwrap();
        assert!(check(&mut connection, &model).is_err(), "a request slipped through");
    });
}

#[test]
fn the_generation_is_read_before_the_set() {
    requests(Connection::check, Model::publish);
}

#[test]
#[should_panic(expected = "a request slipped through")]
fn a_probe_before_the_generation_is_read_lets_the_next_request_pass() {
    requests(Connection::check_probing_first, Model::publish);
}

#[test]
#[should_panic(expected = "a request slipped through")]
fn a_generation_that_moves_before_the_set_lets_the_next_request_pass() {
    requests(Connection::check, |model| {
        model.generation.fetch_add(1, Ordering::Release);
        model.revoked.store(true, Ordering::Release);
    });
}

/// The engine while break-glass lasts: nothing denied is refused or killed, until its end.
#[derive(Default)]
struct BreakGlass {
    model: Model,
    over: AtomicBool,
}

/// A session that is served although nothing in the set says whether it may.
#[derive(Default)]
struct Stranger {
    tolerated: AtomicBool,
    killed: AtomicBool,
}

impl BreakGlass {
    /// As `break_glass::is_on`: asked after what the end looks for.
    fn lasts(&self) -> bool {
        fence(Ordering::SeqCst);
        !self.over.load(Ordering::SeqCst)
    }

    /// As `break_glass::switch_off`.
    fn switch_off(&self) {
        self.over.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    fn sweep(&self) {
        let denied = self.model.check().is_err();
        let shard = self.model.shard.lock().unwrap();
        shard.iter().filter(|_| denied).for_each(|session| session.killed.store(true, Ordering::Release));
    }

    fn end(&self) {
        enforce(|| self.switch_off(), || self.sweep());
    }

    fn end_sweeping_first(&self) {
        self.sweep();
        self.switch_off();
    }

    /// As `Engine::admit`.
    fn admit(&self) -> Result<Arc<Session>, ()> {
        let spared = |denied| if self.lasts() { Ok(()) } else { Err(denied) };
        admit(|| self.model.register(), |_| self.model.check().or_else(spared))
    }

    fn admit_checking_first(&self) -> Result<Arc<Session>, ()> {
        self.model.check().or_else(|denied| if self.lasts() { Ok(()) } else { Err(denied) })?;
        Ok(self.model.register())
    }

    fn kill_unless(&self, lasts: bool) {
        if !lasts {
            self.model.kill();
        }
    }

    /// As `Engine::revoke`.
    fn revoke(&self) {
        revoke(|| self.model.publish(), || self.kill_unless(self.lasts()));
    }

    fn revoke_looking_first(&self) {
        let lasts = self.lasts();
        revoke(|| self.model.publish(), || self.kill_unless(lasts));
    }

    fn revoke_without_a_fence(&self) {
        revoke(|| self.model.publish(), || self.kill_unless(!self.over.load(Ordering::SeqCst)));
    }
}

/// A revocation races the end of break-glass, with a session live: when both are through, it is dead.
fn revoked_at_the_end(revocation: fn(&BreakGlass), end: fn(&BreakGlass)) {
    loom::model(move || {
        let glass = Arc::new(BreakGlass::default());
        let session = glass.admit().unwrap();
        let theirs = Arc::clone(&glass);
        let revoker = thread::spawn(move || revocation(&theirs));
        end(&glass);
        revoker.join().unwrap();
        assert!(session.killed.load(Ordering::Acquire), "a session leaked");
        assert!(glass.admit().is_err(), "admitted after both returned");
    });
}

#[test]
fn what_is_revoked_as_break_glass_ends_is_killed() {
    revoked_at_the_end(BreakGlass::revoke, BreakGlass::end);
}

#[test]
#[should_panic(expected = "a session leaked")]
fn a_sweep_before_the_switch_leaks_what_is_revoked_meanwhile() {
    revoked_at_the_end(BreakGlass::revoke, BreakGlass::end_sweeping_first);
}

#[test]
#[should_panic(expected = "a session leaked")]
fn a_revocation_that_looks_before_it_publishes_leaks() {
    revoked_at_the_end(BreakGlass::revoke_looking_first, BreakGlass::end);
}

#[test]
#[should_panic(expected = "a session leaked")]
fn without_a_fence_each_may_miss_the_other() {
    revoked_at_the_end(BreakGlass::revoke_without_a_fence, BreakGlass::end);
}

/// A denied session races the end of break-glass: if it is let in, it is killed.
fn admitted_at_the_end(session: fn(&BreakGlass) -> Result<Arc<Session>, ()>, end: fn(&BreakGlass)) {
    loom::model(move || {
        let glass = Arc::new(BreakGlass::default());
        glass.revoke();
        let theirs = Arc::clone(&glass);
        let ender = thread::spawn(move || end(&theirs));
        let admitted = session(&glass);
        ender.join().unwrap();
        if let Ok(session) = admitted {
            assert!(session.killed.load(Ordering::Acquire), "a session leaked");
        }
        assert!(glass.admit().is_err(), "admitted after the end returned");
    });
}

#[test]
fn whoever_is_let_in_as_break_glass_ends_is_killed() {
    admitted_at_the_end(BreakGlass::admit, BreakGlass::end);
}

#[test]
#[should_panic(expected = "a session leaked")]
fn a_sweep_before_the_switch_leaks_whoever_comes_between() {
    admitted_at_the_end(BreakGlass::admit, BreakGlass::end_sweeping_first);
}

#[test]
#[should_panic(expected = "a session leaked")]
fn whoever_looks_before_it_registers_leaks() {
    admitted_at_the_end(BreakGlass::admit_checking_first, BreakGlass::end);
}

/// A session of somebody whom the set does not know races the end: if it is served, it is killed.
fn tolerated_at_the_end(mark_first: bool) {
    loom::model(move || {
        let (glass, stranger) = (Arc::new(BreakGlass::default()), Arc::new(Stranger::default()));
        let (theirs, session) = (Arc::clone(&glass), Arc::clone(&stranger));
        let ender = thread::spawn(move || {
            enforce(
                || theirs.switch_off(),
                || {
                    let tolerated = session.tolerated.load(Ordering::SeqCst);
                    session.killed.store(tolerated, Ordering::Release);
                },
            );
        });
        // As `Engine::tolerate`.
        let mark = || stranger.tolerated.store(true, Ordering::SeqCst);
        let served = if mark_first {
            mark();
            glass.lasts()
        } else {
            glass.lasts() && {
                mark();
                true
            }
        };
        ender.join().unwrap();
        assert!(!served || stranger.killed.load(Ordering::Acquire), "a session leaked");
    });
}

#[test]
fn whoever_is_tolerated_as_break_glass_ends_is_killed() {
    tolerated_at_the_end(true);
}

#[test]
#[should_panic(expected = "a session leaked")]
fn a_mark_that_comes_after_the_look_leaks() {
    tolerated_at_the_end(false);
}
