//! A request whose body goes on until the end: an HTTP/2 stream, or an HTTP/1.1 connection in the middle of a body.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderValue;
use http::Response;
use http::Version;
use http::header::CONNECTION;
use http_body_util::channel::Channel;
use rustls::ClientConfig;
use tokio::time::Interval;
use tokio::time::timeout;

use super::Asker;
use super::PATIENCE;
use super::Part;
use super::UNWANTED;
use super::in_time;
use crate::rig::client::ClientError;
use crate::rig::client::Conversation;
use crate::rig::findings::Outcome;

/// How long a request must have been open for its answer to say that its upstream does not wait for the body's end.
const EARLY: Duration = Duration::from_secs(1);

/// A connection on which a request can go on.
type Line = Conversation<Channel<Bytes>>;

impl Asker {
    /// Piece after piece of one body; of another when that request has come to nothing. At the end the body ends, and the
    /// answer tells whether all of it was worth anything.
    pub(super) async fn trickle(&mut self) -> Result<(), String> {
        let tls = self.tls();
        let (mut ticks, mut lasted) = (self.ticks(), false);
        while !self.stopped() {
            ticks.tick().await;
            let Some(mut line) = self.begin(&tls).await? else { continue };
            if self.stopped() {
                break;
            }
            let begun = Instant::now();
            let (ended, early) = self.go_on(&mut line, &mut ticks).await?;
            lasted |= begun.elapsed() > EARLY;
            let Some(early) = early else { continue };
            let is_served = early.as_ref().is_ok_and(|answer| super::judge(answer) == Outcome::Served);
            if !lasted && is_served && !self.is_called() {
                return Err("what is behind it answers before a body has ended".into());
            }
            match early {
                Ok(answer) => {
                    self.answered(Part::End, ended, &answer);
                }
                Err(error) => self.failed(Part::End, ended, &error),
            }
        }
        Ok(())
    }

    /// One request that goes on until the probe is stopped, or an answer comes before: that one is returned, and since
    /// when there was nothing to send any more.
    async fn go_on(
        &mut self,
        line: &mut Line,
        ticks: &mut Interval,
    ) -> Result<(Instant, Option<Result<Response<Bytes>, ClientError>>), String> {
        let (mut pieces, body) = Channel::<Bytes>::new(1);
        let request = self.request(body)?;
        let mut answer = pin!(line.send(request));
        loop {
            tokio::select! {
                biased;
                early = &mut answer => return Ok((Instant::now(), Some(early))),
                _ = ticks.tick() => {}
            }
            if self.stopped() {
                break;
            }
            let sent = Instant::now();
            let piece = Bytes::from(vec![b'.'; self.task.piece]);
            if let Ok(Ok(())) = timeout(PATIENCE, pieces.send_data(piece)).await {
                self.served(Part::Piece, sent);
            }
        }
        let ended = Instant::now();
        drop(pieces);
        // Whatever is held against a body when all of it is there: it was let be until then.
        match in_time(answer).await {
            Ok(answer) if super::judge(&answer) == Outcome::Served => {
                self.answered(Part::End, ended, &answer);
            }
            Ok(answer) => self.saw(Part::End, ended, Outcome::Failed, super::words(&answer)),
            Err(error) => self.saw(Part::End, ended, Outcome::Failed, error.to_string()),
        }
        Ok((ended, None))
    }

    /// Opens a connection, and has a small request served on it: what goes on there afterwards is served as well.
    async fn begin(&mut self, tls: &Arc<ClientConfig>) -> Result<Option<Line>, String> {
        let Some(mut line) = self.open(tls).await? else { return Ok(None) };
        let (mut pieces, body) = Channel::<Bytes>::new(1);
        let request = self.request(body)?;
        let sent = Instant::now();
        // One piece has room.
        let _ = pieces.send_data(Bytes::from_static(b".")).await;
        drop(pieces);
        let closes = match in_time(line.send(request)).await {
            Ok(answer) => {
                let words = || format!("a POST is answered with {}", super::words(&answer));
                match self.answered(Part::Whole, sent, &answer) {
                    Outcome::Served => closes(&answer),
                    Outcome::Refused => return self.doubted(words(), 1),
                    _ => return self.doubted(words(), UNWANTED),
                }
            }
            Err(error) => {
                self.failed(Part::Whole, sent, &error);
                return Ok(None);
            }
        };
        // Not every server takes a second request.
        if closes { self.open(tls).await } else { Ok(Some(line)) }
    }

    /// An answer that did not serve; if so many came and none that did, none is offered.
    fn doubted(&mut self, words: String, tries: usize) -> Result<Option<Line>, String> {
        if self.is_unwanted(tries) { Err(words) } else { Ok(None) }
    }
}

/// Whether a connection ends with this answer (RFC 9112, section 9.3).
fn closes(answer: &Response<Bytes>) -> bool {
    let close = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    answer.version() == Version::HTTP_10 || answer.headers().get(CONNECTION).is_some_and(close)
}
