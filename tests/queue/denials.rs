//! A message in the queue ends an open connection of a running gate, and nobody else's.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::Full;
use portcullis::clock::Clock;
use portcullis::rig::client;
use portcullis::rig::client::Conversation;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;
use portcullis::rig::stage::Stage;
use portcullis::rig::stage::principal;
use portcullis::rig::work::Outcome;
use portcullis::rig::work::judge;

use crate::site::config;
use crate::site::revocation;
use crate::site::until;

async fn conversation(stage: &Stage, agent: &str) -> Conversation {
    let tls = Arc::new(stage.tls(&stage.agent_files(agent)).unwrap());
    let stream = client::connect(&tls, stage.gate(), "localhost").await.unwrap();
    Conversation::begin(stream).await.unwrap()
}

async fn ask(conversation: &mut Conversation, agent: &str) -> Outcome {
    let request = Request::get("/x").header(HOST, "localhost").header("x-agent-id", agent);
    let request = request.body(Full::<Bytes>::default()).unwrap();
    conversation.send(request).await.map_or_else(|error| Outcome::Cut(error.to_string()), |a| judge(&a))
}

#[tokio::test]
async fn a_message_ends_an_open_connection_and_nobody_elses() {
    let queue = Queue::start(Settings::default()).unwrap();
    let feed = config(&queue);
    let stage = Stage::set_with(&Clock::system(), &["alice", "bob"], &|config| {
        config.feed.sqs = Some(feed.clone());
    });
    let stage = stage.unwrap();
    let (mut alice, mut bob) = (conversation(&stage, "alice").await, conversation(&stage, "bob").await);
    assert_eq!(ask(&mut alice, "alice").await, Outcome::Served);
    assert_eq!(ask(&mut bob, "bob").await, Outcome::Served);

    let sent = queue.push(revocation(&principal("alice")));
    // Idle as it is.
    alice.ended().await;
    let again = ask(&mut conversation(&stage, "alice").await, "alice").await;
    assert_eq!(again, Outcome::Refused(403, "principal_revoked".into()));
    assert_eq!(ask(&mut bob, "bob").await, Outcome::Served);
    until(|| queue.left() == 0).await;
    assert_eq!(queue.deleted(), [sent.id]);
    tokio::task::spawn_blocking(|| stage.strike().unwrap()).await.unwrap();
}
