//! A feed is not fresh before everything is in effect that was in the queue when it began, whatever the clocks say.

use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::feed::sqs;
use portcullis::revocation::FeedState;
use portcullis::rig::queue::Call;
use portcullis::rig::queue::Fault;
use portcullis::rig::queue::Order;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;

use crate::site::Site;
use crate::site::config;
use crate::site::revocation;
use crate::site::until;

const DAY: Duration = Duration::from_secs(86_400);

fn bodies(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|i| revocation(&format!("agent-{i}")))
}

/// How many are revoked when the feed first says that it is fresh.
async fn entries_when_fresh(site: &Site) -> usize {
    let never = |site: &Site| site.status().state == FeedState::Never;
    until(|| !never(site)).await;
    site.engine.entries()
}

#[tokio::test]
async fn a_backlog_is_in_effect_before_it_is_fresh() {
    let queue = Queue::start(Settings { order: Order::Random, ..Settings::default() }).unwrap();
    queue.push_all(bodies(3000));
    let site = Site::with(sqs::Config { visibility: Duration::from_secs(30), ..config(&queue) });
    assert_eq!(entries_when_fresh(&site).await, 3000);
    until(|| queue.left() == 0).await;
    assert_eq!(site.status().entries, Some(3000));
}

/// Seen failing with the time of a message held against this machine's clock: a day behind, it is fresh at once.
#[tokio::test]
async fn so_it_is_when_this_machines_clock_is_a_day_off() {
    let now = Clock::system().now();
    let yesterday = portcullis::clock::Timestamp::from_millis(now.millis() - 86_400_000);
    for start in [yesterday, now.plus(DAY)] {
        let queue = Queue::start(Settings::default()).unwrap();
        queue.push_all(bodies(300));
        // What is in hand for longer than the next poll takes must not pass for done.
        queue.inject(Call::Delete, Fault::Delay(Duration::from_millis(50)), usize::MAX);
        let visibility = Duration::from_secs(30);
        let site = Site::at(Clock::manual(start), sqs::Config { visibility, ..config(&queue) });
        assert_eq!(entries_when_fresh(&site).await, 300, "{start}");
        queue.push(revocation("late"));
        until(|| site.denies("late") && queue.left() == 0).await;
    }
}

/// Seen failing with what is under way left out of account: fresh with nothing in effect.
#[tokio::test]
async fn what_one_receiver_was_sent_counts_when_another_finds_nothing() {
    let queue = Queue::start(Settings::default()).unwrap();
    queue.push_all(bodies(5));
    queue.inject(Call::Receive, Fault::Late(Duration::from_secs(3)), 1);
    // The queue says nothing of what is hidden.
    queue.inject(Call::Attributes, Fault::Denied, usize::MAX);
    let site = Site::with(sqs::Config { visibility: Duration::from_secs(30), ..config(&queue) });
    assert_eq!(entries_when_fresh(&site).await, 5);
}

/// Seen failing with messages held to be young by the time when their answer had come: fresh with some of it in effect.
#[tokio::test]
async fn a_message_is_not_young_because_its_answer_was_long_on_its_way() {
    let queue = Queue::start(Settings::default()).unwrap();
    queue.push_all(bodies(300));
    queue.inject(Call::Receive, Fault::Late(Duration::from_secs(2)), 1);
    let visibility = Duration::from_secs(30);
    let site = Site::with(sqs::Config { receivers: 1, visibility, ..config(&queue) });
    assert_eq!(entries_when_fresh(&site).await, 300);
}

/// Seen failing without a look at what is hidden: fresh with nothing in effect.
#[tokio::test]
async fn what_a_process_before_this_one_had_in_hand_is_waited_for() {
    let queue = Queue::start(Settings::default()).unwrap();
    queue.push_all(bodies(5));
    let visibility = Duration::from_secs(4);
    // It receives them, and dies before it can do anything else.
    queue.inject(Call::Receive, Fault::HangWhenDone, 1);
    let first = Site::with(sqs::Config { receivers: 1, visibility, ..config(&queue) });
    until(|| queue.counts().filled == 1).await;
    first.stop().await;
    let site = Site::with(sqs::Config { visibility, ..config(&queue) });
    assert_eq!(entries_when_fresh(&site).await, 5);
}

#[tokio::test]
async fn a_queue_that_never_answered_was_never_read() {
    let queue = Queue::start(Settings::default()).unwrap();
    queue.inject(Call::Receive, Fault::Broken, usize::MAX);
    let site = Site::start(&queue);
    until(|| queue.counts().receives >= 5).await;
    assert_eq!(site.status().state, FeedState::Never);
    queue.heal();
    until(|| site.status().state == FeedState::Fresh).await;
}
