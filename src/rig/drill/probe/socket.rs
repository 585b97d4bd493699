//! A WebSocket that is pinged: whoever speaks RFC 6455 answers that (section 5.5.3), whatever else it is for.

use std::time::Instant;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use http::Response;
use http_body_util::Full;
use tokio::time::Interval;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::Asker;
use super::PATIENCE;
use super::Part;
use super::UNWANTED;
use super::in_time;
use crate::rig::client::Conversation;
use crate::rig::client::WebSocket;
use crate::rig::findings::Outcome;

impl Asker {
    /// Ping after ping on one WebSocket; on another when that has ended.
    pub(super) async fn ping(&mut self) -> Result<(), String> {
        let tls = self.tls();
        let mut ticks = self.ticks();
        while !self.stopped() {
            ticks.tick().await;
            let sent = Instant::now();
            let upgraded = match self.connect(&tls).await {
                Ok(stream) => {
                    let request = self.request(Full::default())?;
                    in_time(async { Conversation::begin(stream).await?.upgrade(request).await }).await
                }
                Err(sight) => {
                    self.note(sight);
                    continue;
                }
            };
            let mut socket = match upgraded {
                Ok(Ok(socket)) => socket,
                Ok(Err(answer)) => {
                    // Served it may be, but no WebSocket.
                    match super::judge(&answer) {
                        Outcome::Served => {
                            self.saw(Part::Whole, sent, Outcome::Failed, super::words(&answer));
                        }
                        _ => {
                            self.answered(Part::Whole, sent, &answer);
                        }
                    }
                    // There are servers that say 403 where others say 426.
                    if self.is_unwanted(if speaks_none(&answer) { 1 } else { UNWANTED }) {
                        return Err(format!("no WebSocket is spoken there: {}", super::words(&answer)));
                    }
                    continue;
                }
                Err(error) => {
                    self.failed(Part::Whole, sent, &error);
                    continue;
                }
            };
            self.served(Part::Whole, sent);
            self.ping_on(&mut socket, &mut ticks).await;
        }
        Ok(())
    }

    /// Ping after ping, until the WebSocket or the probe is at its end.
    async fn ping_on(&mut self, socket: &mut WebSocket, ticks: &mut Interval) {
        let mut number = 0_u64;
        while !self.stopped() {
            tokio::select! {
                biased;
                // First, for a server may have so much to say that nobody else gets a word in.
                _ = ticks.tick() => {}
                message = socket.next() => match ending(message) {
                    Some(words) => return self.saw(Part::End, Instant::now(), Outcome::Cut, words),
                    None => {
                        self.heard();
                        continue;
                    }
                },
            }
            number += 1;
            let sent = Instant::now();
            match timeout(PATIENCE, self.pinged(socket, number)).await {
                Ok(None) => self.served(Part::Whole, sent),
                Ok(Some(words)) => return self.saw(Part::End, sent, Outcome::Cut, words),
                Err(_) => return self.saw(Part::Whole, sent, Outcome::Failed, "no pong in time".to_owned()),
            }
        }
    }

    /// Sends a ping and waits for its pong; or says how the WebSocket came to its end.
    async fn pinged(&mut self, socket: &mut WebSocket, number: u64) -> Option<String> {
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        if let Err(error) = socket.send(Message::Ping(payload.clone())).await {
            return Some(error.to_string());
        }
        loop {
            match socket.next().await {
                Some(Ok(Message::Pong(echo))) if echo == payload => return None,
                message => match ending(message) {
                    Some(words) => return Some(words),
                    None => self.heard(),
                },
            }
        }
    }

    /// A message came by itself: whoever hears the server is served. Of many that follow each other, the last.
    fn heard(&mut self) {
        let now = Instant::now();
        match self.log.sights.last_mut() {
            Some(last) if last.part == Part::Message && now < last.sent + self.task.every => last.at = now,
            _ => self.served(Part::Message, now),
        }
    }
}

/// Whether an answer says that no WebSocket is spoken there, and not that somebody may not.
fn speaks_none(answer: &Response<Bytes>) -> bool {
    matches!(answer.status().as_u16(), ..400 | 400 | 404 | 405 | 426 | 501)
}

/// How a WebSocket came to its end, if what was read from it says so.
fn ending(read: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> Option<String> {
    match read {
        Some(Ok(Message::Close(_))) | None => Some("closed".into()),
        // What TLS says has the address of a page behind it.
        Some(Err(error)) => Some(error.to_string().split(": https://").next().unwrap_or_default().to_owned()),
        Some(Ok(_)) => None,
    }
}
