//! Requests, one after the other, on a connection that is kept.

use std::time::Instant;

use http_body_util::Full;
use tokio::select;

use super::Asker;
use super::Part;
use super::in_time;
use crate::rig::client::ClientError;
use crate::rig::client::Conversation;
use crate::rig::findings::Outcome;

impl Asker {
    /// Request after request on one connection; on another when that has ended.
    pub(super) async fn converse(&mut self) -> Result<(), String> {
        let tls = self.tls();
        let (mut ticks, mut line, mut repeats) = (self.ticks(), None::<Conversation>, false);
        while !self.stopped() {
            if std::mem::take(&mut repeats) {
                // At once: what came of the last one is not known.
            } else if let Some(open) = &mut line {
                select! {
                    biased;
                    error = open.ended() => {
                        self.saw(Part::Idle, Instant::now(), Outcome::Cut, error.to_string());
                        line = None;
                        continue;
                    }
                    _ = ticks.tick() => {}
                }
            } else {
                ticks.tick().await;
            }
            let was_used = line.is_some();
            let open = match line.take() {
                Some(open) => Some(open),
                None => self.open(&tls).await?,
            };
            let Some(mut open) = open else { continue };
            let request = self.request(Full::default())?;
            let sent = Instant::now();
            match in_time(open.send(request)).await {
                Ok(answer) => {
                    self.answered(Part::Whole, sent, &answer);
                    line = Some(open);
                }
                Err(error @ ClientError::Broken(..)) if was_used && !open.has_begun() => {
                    self.saw(Part::Idle, sent, Outcome::Cut, error.to_string());
                    repeats = true;
                }
                Err(error) => self.failed(Part::Whole, sent, &error),
            }
        }
        Ok(())
    }
}
