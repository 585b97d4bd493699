//! A request whose body goes on until the end: an HTTP/2 stream, or an HTTP/1.1 connection in the middle of a body.

use std::pin::pin;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::channel::Channel;
use tokio::time::timeout;

use super::Asker;
use super::PATIENCE;
use super::in_time;
use super::speaks_h2;
use crate::rig::client::Conversation;
use crate::rig::findings::Kind;
use crate::rig::findings::Outcome;

/// How long a request must have been open for its answer to say that its upstream does not wait for the body's end.
const EARLY: Duration = Duration::from_secs(1);

impl Asker {
    /// Piece after piece of one body; of another when that request has come to nothing. At the end the body ends, and the
    /// answer tells whether all of it was worth anything.
    pub(super) async fn trickle(&mut self) -> Result<(), String> {
        let tls = self.tls();
        let (mut ticks, mut lasted) = (self.ticks(), false);
        while !self.stopped() {
            ticks.tick().await;
            let (mut pieces, body) = Channel::<Bytes>::new(1);
            let begun = Instant::now();
            let stream = match self.connect(&tls).await {
                Ok(stream) if self.is_first() && self.task.kind == Kind::Stream && !speaks_h2(&stream) => {
                    return Err("the server does not choose h2".into());
                }
                Ok(stream) => stream,
                Err(sight) => {
                    self.note(sight);
                    continue;
                }
            };
            let mut conversation = match Conversation::begin(stream).await {
                Ok(conversation) => conversation,
                Err(error) => {
                    self.failed(begun, &error);
                    continue;
                }
            };
            let request = self.request(body)?;
            let mut answer = pin!(conversation.send(request));
            let early = loop {
                tokio::select! {
                    biased;
                    early = &mut answer => break Some(early),
                    _ = ticks.tick() => {}
                }
                if self.stopped() {
                    break None;
                }
                let sent = Instant::now();
                let piece = Bytes::from(vec![b'.'; self.task.piece]);
                if let Ok(Ok(())) = timeout(PATIENCE, pieces.send_data(piece)).await {
                    self.served(sent);
                }
            };
            // What its last answer served was asked for when the body ended, or broke off.
            let ended = Instant::now();
            drop(pieces);
            let early = match early {
                None => in_time(answer).await,
                Some(early) => {
                    lasted |= begun.elapsed() > EARLY;
                    if !lasted && early.as_ref().is_ok_and(|answer| super::judge(answer) == Outcome::Served) {
                        return Err("what is behind it answers before a body has ended".into());
                    }
                    early
                }
            };
            match early {
                Ok(answer) => self.answered(ended, &answer),
                Err(error) => self.failed(ended, &error),
            }
        }
        Ok(())
    }
}
