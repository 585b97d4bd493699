//! A feed that is told to stop finishes what it has in hand, and waits for nothing else.
//!
//! Seen failing: what is in hand dropped at once.

use std::time::Duration;

use portcullis::feed::sqs;
use portcullis::revocation::FeedState;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;

use crate::disk::Disk;
use crate::disk::Mood;
use crate::site::Site;
use crate::site::config;
use crate::site::revocation;
use crate::site::until;

#[tokio::test]
async fn what_is_in_hand_is_journalled_and_deleted() {
    let queue = Queue::start(Settings::default()).unwrap();
    let (disk, site) = Disk::with(sqs::Config { visibility: Duration::from_secs(30), ..config(&queue) });
    disk.set(Mood::Stuck);
    queue.push(revocation("a"));
    until(|| site.denies("a")).await;
    site.tell_to_stop();
    assert_eq!(queue.left(), 1);
    disk.set(Mood::Well);
    site.stop().await;
    assert_eq!((queue.left(), queue.counts().filled), (0, 1));
}

#[tokio::test]
async fn a_poll_that_waits_is_given_up() {
    let queue = Queue::start(Settings::default()).unwrap();
    let site = Site::with(sqs::Config { wait: Duration::from_secs(20), receivers: 1, ..config(&queue) });
    until(|| site.status().state == FeedState::Fresh).await;
    until(|| queue.counts().receives > site.polled()).await;
    let polled = site.polled();
    site.tell_to_stop();
    site.ended().await;
    // It was not waited for.
    assert_eq!(site.polled(), polled);
}
