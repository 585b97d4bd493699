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
use loom::thread;
use portcullis::revocation::protocol::admit;
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
