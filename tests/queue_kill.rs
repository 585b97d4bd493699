//! `kill -9` of a gate that reads a queue, between any two of receive, apply, journal and delete, and at no moment in
//! particular: what was deleted from the queue is in effect after the next start, and in the end everything is.
//!
//! Seen failing with messages that are deleted before they are taken in (at the third kill).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

#[path = "queue/gate.rs"]
mod gate;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use gate::Site;
use portcullis::clock::Clock;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::rig::queue::Call;
use portcullis::rig::queue::Fault;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;
use portcullis::session::Credential;
use serde_json::json;

/// How often a gate is killed.
const ROUNDS: usize = 32;
/// How many messages come in each round: some receives of ten.
const MESSAGES: usize = 60;
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a gate is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// When so many receives have been answered.
    Received(usize),
    /// When a delete has come in that is not done: its messages are on disk.
    BeforeDelete,
    /// When a delete was done that is never answered.
    AfterDelete,
    /// When so many deletes have been done.
    Deleted(usize),
}

impl Moment {
    fn of(round: usize) -> Self {
        match round % 4 {
            0 => Self::Received(1 + round % 7),
            1 => Self::BeforeDelete,
            2 => Self::AfterDelete,
            _ => Self::Deleted(1 + round % 5),
        }
    }

    /// Returns when it has come.
    fn wait(self, queue: &Queue) {
        let before = queue.counts();
        match self {
            Self::BeforeDelete => queue.inject(Call::Delete, Fault::Hang, usize::MAX),
            Self::AfterDelete => queue.inject(Call::Delete, Fault::HangWhenDone, usize::MAX),
            Self::Received(_) | Self::Deleted(_) => {}
        }
        let begun = Instant::now();
        loop {
            let now = queue.counts();
            let (filled, deletes) = (now.filled - before.filled, now.deletes - before.deletes);
            let done = now.deletes_done - before.deletes_done;
            let has_come = match self {
                Self::Received(count) => filled >= count,
                Self::BeforeDelete => deletes > 0,
                Self::AfterDelete => done > 0,
                Self::Deleted(count) => done >= count,
            };
            if has_come || queue.left() == 0 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{self:?} never came: {now:?}");
            std::thread::yield_now();
        }
    }
}

fn target(number: usize) -> Target {
    Target::parse(Level::Principal, &format!("spiffe://demo.test/agent/{number}"), None).unwrap()
}

fn body(number: usize) -> String {
    let mut event = json!(Event::new(Action::Revoke, target(number), Clock::system().now()));
    event["version"] = 1.into();
    event.to_string()
}

/// Which of these agents the journal of a state directory lets pass.
fn let_pass(state: &Path, numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let engine = Engine::open(state, &Config::default(), Clock::system()).unwrap();
    let passes = |number: &usize| {
        let own = vec![engine.fingerprinter().target(&target(*number))];
        engine.judge(&Credential { own, ..Credential::default() }).is_ok()
    };
    numbers.filter(passes).collect()
}

#[test]
fn nothing_that_was_deleted_is_lost_and_in_the_end_all_is_in_effect() {
    let queue = Queue::start(Settings::default()).unwrap();
    let site = Site::new(&queue);
    let (mut sent, state) = (BTreeMap::new(), site.0.path().join("state"));
    for round in 0..ROUNDS {
        for number in round * MESSAGES..(round + 1) * MESSAGES {
            sent.insert(queue.push(body(number)).id, number);
        }
        let moment = Moment::of(round);
        let mut gate = site.run().spawn().unwrap();
        moment.wait(&queue);
        (0..round * 7_919 % 100_003).for_each(|_| std::hint::spin_loop());
        gate.kill().unwrap();
        gate.wait().unwrap();
        queue.heal();
        let deleted = queue.deleted();
        let lost = let_pass(&state, deleted.iter().map(|id| sent[id]));
        assert_eq!(lost, Vec::<usize>::new(), "round {round}, {moment:?}: deleted, and not on disk");
    }
    assert!(queue.left() > 0, "everything was deleted before it could be killed");
    let mut gate = site.run().spawn().unwrap();
    let begun = Instant::now();
    while queue.left() > 0 {
        assert!(begun.elapsed() < PATIENCE, "{} messages are left", queue.left());
        std::thread::yield_now();
    }
    gate.kill().unwrap();
    gate.wait().unwrap();
    assert_eq!(let_pass(&state, 0..ROUNDS * MESSAGES), Vec::<usize>::new());
}
