//! New connections, one after the other, each for one request.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use http::HeaderValue;
use http::header::CONNECTION;
use http_body_util::Full;
use rustls::ClientConfig;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use tokio::time::Interval;

use super::Asker;
use super::Part;
use super::Sight;
use super::in_time;
use super::of_error;
use crate::rig::client::Conversation;
use crate::rig::drill::hoard::Hoard;
use crate::rig::findings::Kind;
use crate::rig::findings::Outcome;

/// How many connections gather sessions before any of these is used, at least.
const GATHERED: usize = 4;
/// How much faster than the tries these come: not so fast that somebody takes it for a flood.
const FASTER: u32 = 4;
/// How long they may.
const GATHERING: Duration = Duration::from_secs(2);
/// How many sessions are shown before it is clear that the server wants none.
const SHOWN: usize = 16;

impl Asker {
    /// Connection after connection: each with a full handshake, or each with a session of one before.
    pub(super) async fn knock(&mut self) -> Result<(), String> {
        let hoard = (self.task.kind == Kind::Resumption).then(Hoard::shared);
        let mut tls = ClientConfig::clone(&self.tls());
        if let Some(hoard) = &hoard {
            tls.resumption = Resumption::store(hoard.clone());
        }
        let tls = Arc::new(tls);
        if let Some(hoard) = &hoard {
            self.gather(hoard, &tls).await?;
        }
        let (mut ticks, mut resumed_once, mut declined) = (self.ticks(), false, 0);
        while !self.stopped() {
            // Whether sessions are resumed at all is found out at once.
            if declined == 0 {
                ticks.tick().await;
            }
            if hoard.as_ref().is_some_and(|hoard| hoard.is_empty()) {
                // A full handshake would tell nothing of a resumed one.
                let words = "no TLS session is left to be resumed".to_owned();
                self.saw(Part::Idle, Instant::now(), Outcome::Failed, words);
                return self.rest(ticks).await;
            }
            let (resumed, sight) = self.once(&tls).await?;
            resumed_once |= resumed;
            if hoard.is_some() && !resumed_once && sight.is_served() {
                declined += 1;
                if declined == SHOWN {
                    return Err("the server does not resume TLS sessions".into());
                }
                continue;
            }
            declined = 0;
            self.note(sight);
        }
        Ok(())
    }

    /// Gathers as many sessions as there will be tries, some times as fast as these.
    async fn gather(&mut self, hoard: &Hoard, tls: &Arc<ClientConfig>) -> Result<(), String> {
        let (begun, mut served) = (Instant::now(), 0);
        let mut ticks = tokio::time::interval(self.task.every / FASTER);
        hoard.open(false);
        while !self.stopped()
            && hoard.len() < self.task.tries
            && (served < GATHERED || begun.elapsed() < GATHERING)
        {
            ticks.tick().await;
            // What comes of these is the other probes' to tell.
            let (_, sight) = self.once(tls).await?;
            served += usize::from(sight.is_served());
            if served == GATHERED && hoard.is_empty() {
                return Err("the server gives out no TLS sessions".into());
            }
        }
        hoard.open(true);
        Ok(())
    }

    /// Has nothing left to do.
    async fn rest(&self, mut ticks: Interval) -> Result<(), String> {
        while !self.stopped() {
            ticks.tick().await;
        }
        Ok(())
    }

    /// One connection and one request: whether a session was resumed, and what came of it.
    async fn once(&mut self, tls: &Arc<ClientConfig>) -> Result<(bool, Sight), String> {
        let sent = Instant::now();
        let stream = match self.connect(tls).await {
            Ok(stream) => stream,
            Err(sight) => return Ok((false, sight)),
        };
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let mut request = self.request(Full::default())?;
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let answer = in_time(async { Conversation::begin(stream).await?.send(request).await }).await;
        let at = Instant::now();
        let (outcome, words) = match answer {
            Ok(answer) => match self.judge(&answer) {
                Outcome::Served => (Outcome::Served, String::new()),
                outcome => (outcome, super::words(&answer)),
            },
            Err(error) => (of_error(&error), error.to_string()),
        };
        Ok((resumed, Sight { part: Part::Whole, sent, at, outcome, words }))
    }
}
