//! What became of the latest events, step by step: from the decision to the acknowledgement.
//!
//! Kept in memory, a bounded number of them; what administrators decided is in the audit for ever.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use serde::Serialize;

use super::Outcome;
use crate::clock::Timestamp;

/// How many events are remembered.
const MAX_EVENTS: usize = 10_000;

/// When an event came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// By the wall clock.
    pub at: Timestamp,
    /// By the clock that nobody sets: what the steps after it are measured by.
    pub instant: Instant,
}

/// The stamps of one event. Microseconds count from `received`; what has not happened is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// The feed that brought it.
    pub feed: String,
    /// When it was decided, as its message says; clamped.
    pub at: Timestamp,
    /// When it was received.
    pub received: Timestamp,
    /// Until no new request passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_us: Option<u64>,
    /// Until the last session had ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_us: Option<u64>,
    /// How many sessions those were.
    pub sessions_ended: usize,
    /// Until the journal had it on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable_us: Option<u64>,
    /// Until the feed's source was told that it is done: the message was deleted, the call was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_us: Option<u64>,
}

impl Timeline {
    /// That of an event that was applied `waited` after it came in.
    pub fn new(feed: &str, arrival: Arrival, waited: Duration, outcome: &Outcome) -> Self {
        let stamp = |after: Duration| Some(micros(waited + after));
        Self {
            feed: feed.to_owned(),
            at: outcome.at,
            received: arrival.at,
            effective_us: stamp(outcome.effective_after),
            enforced_us: stamp(outcome.enforced_after).filter(|_| outcome.sessions_pending == 0),
            sessions_ended: outcome.sessions_ended,
            durable_us: stamp(outcome.durable_after).filter(|_| outcome.durable.is_ok()),
            acknowledged_us: None,
        }
    }

    /// The stages that were reached, by name, each as the time since the event was decided.
    ///
    /// What was decided by a clock that is ahead of this one's counts as decided when it was received.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        let late = self.received.since(self.at);
        let stages = [
            ("received", Some(0)),
            ("effective", self.effective_us),
            ("enforced", self.enforced_us),
            ("durable", self.durable_us),
            ("acknowledged", self.acknowledged_us),
        ];
        stages.into_iter().filter_map(move |(name, us)| Some((name, late + Duration::from_micros(us?))))
    }
}

/// The timelines of the latest events.
#[derive(Debug, Default)]
pub struct Timelines(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<String, Timeline>,
    order: VecDeque<String>,
}

impl Timelines {
    /// Remembers what became of an event; says whether it is the first time. What was first stays: it took effect then.
    pub fn note(&self, id: &str, timeline: Timeline) -> bool {
        let mut kept = self.kept();
        if kept.by_id.contains_key(id) {
            return false;
        }
        if kept.order.len() >= MAX_EVENTS
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.by_id.remove(&oldest);
        }
        kept.by_id.insert(id.to_owned(), timeline);
        kept.order.push_back(id.to_owned());
        true
    }

    /// An event's source was told that it is done. Returns the whole timeline, the first time.
    pub fn acknowledged(&self, id: &str, arrival: Arrival) -> Option<Timeline> {
        let mut kept = self.kept();
        let timeline = kept.by_id.get_mut(id).filter(|timeline| timeline.acknowledged_us.is_none())?;
        timeline.acknowledged_us = Some(micros(arrival.instant.elapsed()));
        Some(timeline.clone())
    }

    /// What became of an event.
    pub fn find(&self, id: &str) -> Option<Timeline> {
        self.kept().by_id.get(id).cloned()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
