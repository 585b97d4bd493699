//! A WebSocket that is pinged: whoever speaks RFC 6455 answers that (section 5.5.3), whatever else it is for.

use std::time::Instant;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use http::StatusCode;
use http_body_util::Full;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::Asker;
use super::PATIENCE;
use super::Sight;
use super::in_time;
use crate::rig::client::Conversation;
use crate::rig::client::WebSocket;
use crate::rig::findings::Outcome;

impl Asker {
    /// Ping after ping on one WebSocket; on another when that has ended.
    pub(super) async fn ping(&mut self) -> Result<(), String> {
        let tls = self.tls();
        let (mut ticks, mut was_open, mut number) = (self.ticks(), false, 0_u64);
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
                Ok(Err(answer)) if !was_open && answer.status() != StatusCode::SERVICE_UNAVAILABLE => {
                    return Err(format!("no WebSocket is spoken there: {}", super::words(&answer)));
                }
                Ok(Err(answer)) => {
                    self.answered(sent, &answer);
                    continue;
                }
                Err(error) if !was_open => return Err(error.to_string()),
                Err(error) => {
                    self.failed(sent, &error);
                    continue;
                }
            };
            was_open = true;
            self.served(sent);
            while !self.stopped() {
                tokio::select! {
                    biased;
                    message = socket.next() => match ending(message) {
                        Some(words) => {
                            self.idle_end(&words);
                            break;
                        }
                        None => continue,
                    },
                    _ = ticks.tick() => {}
                }
                number += 1;
                let sent = Instant::now();
                match timeout(PATIENCE, pinged(&mut socket, number)).await {
                    Ok(None) => self.served(sent),
                    Ok(Some(words)) => {
                        self.note(Sight { sent, at: Instant::now(), outcome: Outcome::Cut, words });
                        break;
                    }
                    Err(_) => {
                        let words = "no pong in time".to_owned();
                        self.note(Sight { sent, at: Instant::now(), outcome: Outcome::Failed, words });
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Sends a ping and waits for its pong; or says how the WebSocket came to its end.
async fn pinged(socket: &mut WebSocket, number: u64) -> Option<String> {
    let payload = Bytes::copy_from_slice(&number.to_be_bytes());
    if let Err(error) = socket.send(Message::Ping(payload.clone())).await {
        return Some(error.to_string());
    }
    loop {
        match socket.next().await {
            Some(Ok(Message::Pong(echo))) if echo == payload => return None,
            message => {
                if let Some(words) = ending(message) {
                    return Some(words);
                }
            }
        }
    }
}

/// How a WebSocket came to its end, if what was read from it says so.
fn ending(read: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> Option<String> {
    match read {
        Some(Ok(Message::Close(_))) | None => Some("closed".into()),
        Some(Err(error)) => Some(error.to_string()),
        Some(Ok(_)) => None,
    }
}
