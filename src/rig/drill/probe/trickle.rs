//! A request whose body goes on until the end: an HTTP/2 stream, or an HTTP/1.1 connection in the middle of a body.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use http_body_util::channel::Channel;
use rustls::ClientConfig;
use tokio::time::timeout;

use super::Asker;
use super::PATIENCE;
use super::Sight;
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
        self.try_a_small_one(&tls).await?;
        let (mut ticks, mut lasted) = (self.ticks(), false);
        while !self.stopped() {
            ticks.tick().await;
            let (mut pieces, body) = Channel::<Bytes>::new(1);
            let begun = Instant::now();
            let Some(mut conversation) = self.begin(&tls).await? else { continue };
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
            // What is held against a body only when all of it is there is hardly about who sent it.
            let whole = early.is_none() && begun.elapsed() > EARLY;
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
                Ok(answer) if whole && !tells(&answer) => self.unclear(ended, super::words(&answer)),
                Err(error) if whole => self.unclear(ended, error.to_string()),
                Ok(answer) => self.answered(ended, &answer),
                Err(error) => self.failed(ended, &error),
            }
        }
        Ok(())
    }

    /// Opens a connection for one request, unless that comes to nothing.
    async fn begin(
        &mut self,
        tls: &Arc<ClientConfig>,
    ) -> Result<Option<Conversation<Channel<Bytes>>>, String> {
        let begun = Instant::now();
        let stream = match self.connect(tls).await {
            Ok(stream) if self.task.kind == Kind::Stream && !speaks_h2(&stream) => {
                self.lacks_h2()?;
                return Ok(None);
            }
            Ok(stream) => stream,
            Err(sight) => {
                self.note(sight);
                return Ok(None);
            }
        };
        match Conversation::begin(stream).await {
            Ok(conversation) => Ok(Some(conversation)),
            Err(error) => {
                self.failed(begun, &error);
                Ok(None)
            }
        }
    }

    fn unclear(&mut self, sent: Instant, words: String) {
        self.note(Sight { sent, at: Instant::now(), outcome: Outcome::Failed, words });
    }

    /// Whether a POST is wanted there at all: else nothing that comes of one says anything.
    async fn try_a_small_one(&self, tls: &Arc<ClientConfig>) -> Result<(), String> {
        let Ok(stream) = self.connect(tls).await else { return Ok(()) };
        if self.task.kind == Kind::Stream && !speaks_h2(&stream) {
            return Err("the server does not choose h2".into());
        }
        let request = self.request(Full::from("."))?;
        let answer = in_time(async { Conversation::begin(stream).await?.send(request).await }).await;
        match answer {
            Ok(answer) if super::judge(&answer) == Outcome::Served => Ok(()),
            Ok(answer) => Err(format!("a POST is answered with {}", super::words(&answer))),
            Err(error) => Err(format!("a POST is not answered: {error}")),
        }
    }
}

/// Whether the answer to a whole body says what becomes of who sent it.
fn tells(answer: &Response<Bytes>) -> bool {
    super::judge(answer) == Outcome::Served || matches!(answer.status().as_u16(), 401 | 403)
}
