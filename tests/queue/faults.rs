//! What queues and the way to them do: each message takes effect all the same, and is deleted once it has.

use crate::site::event;
use portcullis::clock::Clock;
use portcullis::revocation::Action;
use portcullis::revocation::Event;
use portcullis::revocation::FeedState;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::rig::queue::Call;
use portcullis::rig::queue::Fault;
use portcullis::rig::queue::Order;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;
use serde_json::json;
use std::time::Duration;

use crate::site::Site;
use crate::site::config;
use crate::site::message;
use crate::site::revocation;
use crate::site::until;

fn queue(settings: Settings) -> Queue {
    Queue::start(settings).unwrap()
}

/// Lets a call go wrong so many times while a message comes: it takes effect, and goes.
async fn is_survived(call: Call, fault: Fault, times: usize) -> Site {
    let queue = queue(Settings::default());
    let site = Site::start(&queue);
    until(|| site.status().state == FeedState::Fresh).await;
    queue.inject(call, fault, times);
    queue.push(revocation("a"));
    until(|| site.denies("a")).await;
    until(|| queue.left() == 0).await;
    site
}

#[tokio::test]
async fn duplicates_change_nothing() {
    let queue = queue(Settings { twice: true, ..Settings::default() });
    let site = Site::start(&queue);
    queue.push(message(Action::Suspend, "a", 0));
    until(|| site.denies("a") && queue.left() == 0).await;
    queue.push(message(Action::Reinstate, "a", 1));
    until(|| !site.denies("a") && queue.left() == 0).await;
    let generation = site.engine.generation();
    // The same once more, late.
    queue.push(message(Action::Suspend, "a", 0));
    until(|| queue.left() == 0).await;
    assert!(!site.denies("a"));
    assert_eq!(site.engine.generation(), generation);
    assert!(site.counted("applied") >= 3);
}

#[tokio::test]
async fn a_reinstatement_may_come_before_the_suspension_that_it_lifts() {
    let queue = queue(Settings { order: Order::Reversed, ..Settings::default() });
    let agent = |i: usize| format!("agent-{i}");
    // Ten a receive: some pairs are torn, all are turned round.
    let pairs = (0..50)
        .flat_map(|i| [message(Action::Suspend, &agent(i), 0), message(Action::Reinstate, &agent(i), 1)]);
    queue.push_all(
        pairs.chain([message(Action::Suspend, "later", 2), message(Action::Reinstate, "later", 1)]),
    );
    let site = Site::start(&queue);
    until(|| queue.left() == 0).await;
    assert!((0..50).all(|i| !site.denies(&agent(i))));
    assert!(site.denies("later"));
}

#[tokio::test]
async fn a_reinstatement_that_a_revocation_outranks_does_not_come_again_for_ever() {
    let queue = queue(Settings::default());
    let site = Site::start(&queue);
    queue.push(revocation("a"));
    until(|| queue.left() == 0).await;
    queue.push(message(Action::Reinstate, "a", 1));
    until(|| queue.left() == 0).await;
    assert!(site.denies("a"));
    assert_eq!(site.counted("refused"), 1);
}

#[tokio::test]
async fn a_stale_receipt_deletes_nothing_and_the_next_one_does() {
    let site = is_survived(Call::Delete, Fault::Stale, 1).await;
    assert_eq!(site.counted("applied"), 2);
}

#[tokio::test]
async fn a_delete_that_was_lost_is_made_again() {
    let site = is_survived(Call::Delete, Fault::Pretended, 1).await;
    assert_eq!(site.counted("applied"), 2);
    // Done, and the answer lost.
    is_survived(Call::Delete, Fault::CutWhenDone, 1).await;
    is_survived(Call::Delete, Fault::Truncated, 1).await;
}

#[tokio::test]
async fn throttling_is_waited_out() {
    is_survived(Call::Receive, Fault::Throttled, 6).await;
    is_survived(Call::Delete, Fault::Throttled, 2).await;
}

#[tokio::test]
async fn errors_of_the_queue_are_waited_out() {
    is_survived(Call::Receive, Fault::Broken, 6).await;
    is_survived(Call::Delete, Fault::Broken, 4).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again() {
    is_survived(Call::Receive, Fault::Truncated, 2).await;
    is_survived(Call::Receive, Fault::Cut, 4).await;
    is_survived(Call::Receive, Fault::CutWhenDone, 2).await;
}

#[tokio::test]
async fn a_poll_that_hangs_has_an_end() {
    // Each receiver's.
    is_survived(Call::Receive, Fault::Hang, 2).await;
}

#[tokio::test]
async fn a_connection_that_is_open_at_our_end_only_is_given_up() {
    let queue = queue(Settings::default());
    let site = Site::start(&queue);
    until(|| site.status().state == FeedState::Fresh).await;
    queue.half_open();
    // A call that was being answered at that moment is over.
    until(|| !site.error().is_empty()).await;
    queue.push(revocation("a"));
    until(|| site.error().contains("no answer in time")).await;
    assert!(!site.denies("a"));
    queue.heal();
    until(|| site.denies("a") && queue.left() == 0).await;
    until(|| site.error().is_empty()).await;
}

#[tokio::test]
async fn an_error_says_what_to_do_about_it() {
    for (call, fault, says) in [
        (Call::Receive, Fault::Denied, "must allow sqs:ReceiveMessage on http://127.0.0.1:"),
        (Call::Delete, Fault::Denied, "must allow sqs:DeleteMessage on http://127.0.0.1:"),
        (Call::Receive, Fault::Gone, "there is no queue http://127.0.0.1:"),
        (Call::Receive, Fault::Throttled, "throttled (ThrottlingException)"),
        (Call::Receive, Fault::Broken, "500 InternalFailure"),
    ] {
        let queue = queue(Settings::default());
        queue.inject(call, fault, usize::MAX);
        let site = Site::start(&queue);
        queue.push(revocation("a"));
        until(|| site.error().contains(says)).await;
        assert_eq!(queue.left(), 1);
        queue.heal();
        until(|| queue.left() == 0).await;
    }
}

#[tokio::test]
async fn whoever_asks_is_answered_though_the_feed_waits() {
    let queue = queue(Settings::default());
    let slow = portcullis::feed::sqs::Config { receivers: 1, ..config(&queue) };
    let site = Site::with(slow);
    until(|| site.status().state == FeedState::Fresh).await;
    let answer = site.feeds.refresh(Some("sqs")).await;
    assert_eq!(answer, [("sqs".to_owned(), Ok("0 messages".to_owned()))]);
    queue.inject(Call::Receive, Fault::Broken, usize::MAX);
    let answer = site.feeds.refresh(None).await.remove(0).1;
    assert!(answer.unwrap_err().contains("sqs:ReceiveMessage: answered with 500"));
}

/// Two events of one id are two: each takes effect, and has stamps of its own. Seen failing with stamps by the id alone.
#[tokio::test]
async fn an_id_that_was_given_out_twice_hides_nothing() {
    let queue = Queue::start(Settings::default()).unwrap();
    let site = Site::start(&queue);
    for agent in ["a", "b"] {
        let mut event = event(Action::Revoke, agent, 0);
        event["id"] = "incident-42".into();
        queue.push(event.to_string());
    }
    // It is gone from the queue before whoever deleted it hears so.
    until(|| queue.left() == 0 && site.measured("acknowledged") == 2).await;
    for agent in ["a", "b"] {
        let target = Target::parse(Level::Principal, agent, None).unwrap();
        let timeline = site.timelines.find("incident-42", &target).unwrap();
        assert!(site.denies(agent) && timeline.acknowledged_us.is_some(), "{agent}");
    }
}

/// A sender to the queue may revoke, and lift what the queue suspended; never what an administrator did. A suspension of the
/// queue joins the administrator's, and narrows nothing. Seen failing without that rule.
#[tokio::test]
async fn what_an_administrator_suspended_no_unsigned_event_lifts() {
    let queue = Queue::start(Settings::default()).unwrap();
    let site = Site::start(&queue);
    let now = Clock::system().now();
    let target = |agent: &str| Target::parse(Level::Principal, agent, None).unwrap();
    for agent in ["a", "b", "c"] {
        let suspension = Event::new(Action::Suspend, target(agent), now);
        assert!(site.engine.decide(suspension).await.unwrap().durable.is_ok());
    }
    let later = |action: Action, agent: &str| {
        let mut event = event(action, agent, 0);
        event["at"] = json!(now.plus(Duration::from_secs(5)));
        event
    };
    queue.push(later(Action::Reinstate, "a").to_string());
    let mut narrower = later(Action::Suspend, "b");
    narrower["issued_before"] = 1.into();
    queue.push(narrower.to_string());
    let mut future = later(Action::Reinstate, "d");
    future["at"] = json!(now.plus(Duration::from_secs(86_400)));
    queue.push(message(Action::Suspend, "d", 0));
    queue.push(later(Action::Revoke, "c").to_string());
    until(|| queue.left() == 0 && site.denies("d")).await;
    queue.push(future.to_string());
    until(|| queue.left() == 0 && site.counted("refused") == 2).await;
    for agent in ["a", "b", "c", "d"] {
        assert!(site.denies(agent), "{agent}");
    }
}

/// Seen failing with a feed that says nothing of events without effect.
#[tokio::test]
async fn an_event_that_a_later_one_outranks_is_counted_and_logged() {
    let queue = Queue::start(Settings::default()).unwrap();
    let site = Site::start(&queue);
    let target = Target::parse(Level::Principal, "a", None).unwrap();
    let lift = Event { force: true, ..Event::new(Action::Reinstate, target, Clock::system().now()) };
    assert!(site.engine.decide(lift).await.unwrap().as_asked);
    // Decided long before.
    queue.push(message(Action::Revoke, "a", 0));
    until(|| queue.left() == 0).await;
    assert_eq!(site.overtaken(), 1);
    assert!(site.log().contains("overtaken") && !site.denies("a"), "{}", site.log());
}
