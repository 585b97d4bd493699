//! A message is acknowledged once nothing of what it hits is served, and what it misses is counted.

use std::sync::Arc;

use portcullis::revocation::Action;
use portcullis::revocation::FeedState;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;
use portcullis::session::Credential;
use portcullis::session::Guard;
use portcullis::session::Origin;
use serde_json::json;

use crate::site::Site;
use crate::site::event;
use crate::site::message;
use crate::site::revocation;
use crate::site::until;

/// A session of an agent that does not let go, and has no socket that could be cut.
fn stuck(site: &Site, agent: &str) -> Guard {
    let target = Target::parse(Level::Principal, agent, None).unwrap();
    let own = site.engine.fingerprinter().all_carried([&target]);
    let origin = Origin { peer: ([127, 0, 0, 1], 1).into(), listener: "gate", protocol: "http/1.1" };
    site.engine.admit(Arc::new(Credential { own, ..Credential::default() }), origin).unwrap()
}

/// Seen failing with an intake that does not look at `sessions_pending`: the message is gone while its session is not.
#[tokio::test]
async fn a_message_stays_until_its_sessions_have_ended() {
    let queue = Queue::start(Settings::default()).unwrap();
    let site = Site::start(&queue);
    until(|| site.status().state == FeedState::Fresh).await;
    let guards = [stuck(&site, "a"), stuck(&site, "A"), stuck(&site, "b")];
    queue.push(revocation("a"));
    queue.push(message(Action::Suspend, "A", 0));
    until(|| site.denies("a") && site.denies("A")).await;
    until(|| site.log().contains("sessions have not let go yet") || queue.left() < 2).await;
    assert_eq!((queue.left(), site.measured("acknowledged")), (2, 0), "in effect, and not acknowledged");
    assert!(guards[0].cause().is_some() && guards[1].cause().is_some() && guards[2].cause().is_none());
    // A second receive finds the sessions still there, though it ends none.
    until(|| queue.counts().receives >= 4 && site.log().matches("not let go yet").count() >= 2).await;
    assert_eq!((queue.left(), site.counted("applied")), (2, 0));
    drop(guards);
    until(|| queue.left() == 0).await;
    assert_eq!(site.counted("applied"), 2);
}

/// With a fan-out most gates are told of agents that only others see: that is no warning.
#[tokio::test]
async fn targets_that_were_never_seen_are_counted() {
    let queue = Queue::start(Settings::default()).unwrap();
    let site = Site::start(&queue);
    let guard = stuck(&site, "seen");
    queue.push(message(Action::Suspend, "unseen", 0));
    queue.push(json!({ "serial": "1234567890123456789012345678901234567890" }).to_string());
    queue.push(message(Action::Suspend, "SEEN", 0));
    until(|| queue.left() == 0).await;
    assert_eq!(
        (site.unknown("principal"), site.unknown("certificate")),
        (2, 1),
        "a path segment never folds"
    );
    queue.push(message(Action::Reinstate, "unseen", 1));
    until(|| queue.left() == 0).await;
    assert_eq!(site.unknown("principal"), 2, "it was told of");
    // It hits nothing that was issued since, and the agent is connected.
    let mut narrow = event(Action::Suspend, "seen", 0);
    narrow["issued_before"] = 0.into();
    queue.push(narrow.to_string());
    until(|| queue.left() == 0).await;
    assert_eq!((site.unknown("principal"), guard.cause().is_some()), (2, false));
    assert!(site.log().contains("known=false"), "{}", site.log());
}
