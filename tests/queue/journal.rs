//! A disk that is slow, stuck or full under the journal: what was received is in effect, and not deleted before it is on
//! disk.
//!
//! Seen failing: messages that are deleted before they are taken in, those that are deleted although they were not (the
//! full disk), visibility that nobody extends, and receivers that work on one receive at a time, or rest all of them
//! until what they received is done (the stuck disk).

use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::feed::sqs;
use portcullis::revocation::Action;
use portcullis::revocation::Config;
use portcullis::revocation::Engine;
use portcullis::revocation::FeedState;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;

use crate::disk::Disk;
use crate::disk::Mood;
use crate::site::config;
use crate::site::denies;
use crate::site::message;
use crate::site::revocation;
use crate::site::until;

#[tokio::test]
async fn a_full_disk_deletes_nothing_and_denies_all_the_same() {
    let queue = Queue::start(Settings::default()).unwrap();
    let (disk, site) = Disk::with(config(&queue));
    disk.set(Mood::Full);
    let sent = queue.push(revocation("a"));
    until(|| site.denies("a")).await;
    // It comes again and again.
    until(|| queue.receives(&sent.id) >= 3).await;
    assert_eq!((queue.left(), queue.counts().deletes), (1, 0));
    // Each time it is put off for longer, lest the queue put it aside.
    assert!(queue.counts().extends >= 2);
    until(|| site.error().contains("not taken in")).await;
    let target = Target::parse(Level::Principal, "a", None).unwrap();
    let timeline = site.timelines.find("revoke-a-0", &target).unwrap();
    assert!(timeline.enforced_us.is_some() && timeline.durable_us.is_none());
    disk.set(Mood::Well);
    // It is gone from the queue before whoever deleted it hears so.
    until(|| queue.left() == 0 && site.measured("acknowledged") == 1).await;
    until(|| site.error().is_empty()).await;
    // It took effect when it came first; the rest is filled in, and measured.
    let whole = site.timelines.find("revoke-a-0", &target).unwrap();
    assert_eq!((whole.received, whole.effective_us), (timeline.received, timeline.effective_us));
    assert!(whole.durable_us > whole.effective_us && whole.acknowledged_us >= whole.durable_us);
    let state = tempfile::tempdir().unwrap();
    let journal = "revocations.redb";
    std::fs::copy(site.state().join(journal), state.path().join(journal)).unwrap();
    site.stop().await;
    assert!(denies(&Engine::open(state.path(), &Config::default(), Clock::system()).unwrap(), "a"));
}

#[tokio::test]
async fn what_takes_longer_than_its_visibility_is_kept_hidden() {
    let queue = Queue::start(Settings::default()).unwrap();
    let visibility = Duration::from_secs(3);
    let (disk, site) = Disk::with(sqs::Config { visibility, ..config(&queue) });
    disk.set(Mood::Stuck);
    queue.push(revocation("a"));
    until(|| site.denies("a")).await;
    // A third of the visibility lies between two of them.
    until(|| queue.counts().extends >= 4).await;
    assert_eq!((queue.left(), queue.counts().filled), (1, 1));
    disk.set(Mood::Well);
    until(|| queue.left() == 0).await;
    assert_eq!((queue.counts().filled, site.counted("applied")), (1, 1));
}

#[tokio::test]
async fn a_stuck_disk_keeps_nothing_that_comes_later_from_taking_effect() {
    for receivers in [1, 2] {
        let queue = Queue::start(Settings::default()).unwrap();
        let visibility = Duration::from_secs(30);
        let (disk, site) = Disk::with(sqs::Config { visibility, receivers, ..config(&queue) });
        // Only then may a receiver rest.
        until(|| site.status().state == FeedState::Fresh).await;
        disk.set(Mood::Stuck);
        // A reinstatement waits for the disk however long that takes.
        for i in 0..4 {
            queue.push(message(Action::Reinstate, &format!("agent-{i}"), 1));
            until(|| queue.counts().filled > i).await;
        }
        queue.push(revocation("a"));
        until(|| site.denies("a")).await;
        assert_eq!((queue.left(), queue.counts().deletes), (5, 0));
        disk.set(Mood::Well);
        until(|| queue.left() == 0).await;
    }
}
