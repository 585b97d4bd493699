//! The loop of a feed that looks: now and then, when it is asked to, and sooner when what it knows is out of date.

use std::time::Duration;

use tokio::sync::watch;

use super::Link;
use super::schedule::Seen;
use crate::clock::Timestamp;
use crate::revocation::Asked;

/// What a look has come to.
#[derive(Debug)]
pub(super) struct Looked {
    /// What was found, in words; or why nothing was, which nobody was told yet.
    pub(super) result: Result<String, String>,
    /// When what is known now is out of date.
    pub(super) next_update: Option<Timestamp>,
}

/// Looks until `stop`, or until `look` returns `None` because of it. What went wrong is counted, logged and reported here.
pub(super) async fn poll(
    link: &Link,
    interval: Duration,
    mut stop: watch::Receiver<bool>,
    mut look: impl AsyncFnMut(&mut watch::Receiver<bool>) -> Option<Looked>,
) {
    let mut questions = link.asked.lock().await;
    let (mut wait, mut misses) = (Duration::ZERO, 0_u32);
    loop {
        let mut waiting: Vec<Asked> = tokio::select! {
            biased;
            // A sender that is gone means the same.
            _ = stop.wait_for(|stop| *stop) => return,
            Some(question) = questions.recv() => vec![question],
            () = tokio::time::sleep(wait) => Vec::new(),
        };
        // Whoever asks from now on may have published meanwhile, and is answered by the next look.
        while let Ok(question) = questions.try_recv() {
            waiting.push(question);
        }
        let Some(Looked { result, next_update }) = look(&mut stop).await else { return };
        let (feed, now) = (link.name(), link.intake.now());
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        link.intake.metrics().feeds.polls.with_label_values(&[feed, outcome]).inc();
        let is_miss = result.is_err() || next_update.is_some_and(|next| next <= now);
        misses = if is_miss { misses.saturating_add(1) } else { 0 };
        if let Err(why) = &result {
            tracing::warn!(feed, why, misses, "a look at a list failed; what was known stands");
            link.freshness.failed(now, why.clone());
        }
        waiting.into_iter().for_each(|question| question.answer(result.clone()));
        let left = next_update.map(|next| next.since(now));
        wait = Seen { interval, left, misses }.wait(fastrand::f64());
    }
}

/// So many of something, in words.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
