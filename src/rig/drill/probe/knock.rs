//! New connections, one after the other, each for one request.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use http::header::CONNECTION;
use http_body_util::Full;
use rustls::ClientConfig;
use rustls::HandshakeKind;
use rustls::client::Resumption;

use super::Asker;
use super::Sight;
use super::in_time;
use crate::rig::client::ClientError;
use crate::rig::client::Conversation;
use crate::rig::drill::hoard::Hoard;
use crate::rig::findings::Kind;
use crate::rig::findings::Outcome;

/// How many connections gather sessions before any of these is used.
const GATHERED: usize = 16;

impl Asker {
    /// Connection after connection: each with a full handshake, or each with a session of one before.
    pub(super) async fn knock(&mut self) -> Result<(), String> {
        let (resumes, hoard) = (self.task.kind == Kind::Resumption, Hoard::shared());
        let mut tls = ClientConfig::clone(&self.tls());
        if resumes {
            tls.resumption = Resumption::store(hoard.clone());
            hoard.open(false);
        }
        let tls = Arc::new(tls);
        for _ in 0..if resumes { GATHERED } else { 0 } {
            // What comes of these is the other probes' to tell.
            drop(self.once(&tls).await?);
        }
        hoard.open(true);
        let (mut ticks, mut resumed_once) = (self.ticks(), false);
        while !self.stopped() {
            ticks.tick().await;
            let (resumed, sight) = self.once(&tls).await?;
            if resumes && !resumed && !resumed_once {
                // The first may have found no session yet.
                if self.log.sights.len() >= GATHERED {
                    return Err("the server does not resume TLS sessions".into());
                }
                self.log.sights.push(Sight { outcome: Outcome::Failed, ..sight });
                continue;
            }
            resumed_once |= resumed;
            self.note(sight);
        }
        match resumes && !resumed_once {
            true => Err("the server does not resume TLS sessions".into()),
            false => Ok(()),
        }
    }

    /// One connection and one request: whether a session was resumed, and what came of it.
    async fn once(&self, tls: &Arc<ClientConfig>) -> Result<(bool, Sight), String> {
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
        let sight = match answer {
            Ok(answer) => match super::judge(&answer) {
                Outcome::Served => Sight { sent, at, outcome: Outcome::Served, words: String::new() },
                outcome => Sight { sent, at, outcome, words: super::words(&answer) },
            },
            Err(error) => {
                let outcome = match error {
                    ClientError::Refused(..) => Outcome::Refused,
                    ClientError::Broken(..) => Outcome::Cut,
                    _ => Outcome::Failed,
                };
                Sight { sent, at, outcome, words: error.to_string() }
            }
        };
        Ok((resumed, sight))
    }
}
