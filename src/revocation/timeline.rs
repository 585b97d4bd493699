//! What became of the latest events, step by step: from the decision to the acknowledgement.
//!
//! Kept in memory, a bounded number of them; the audit has what a feed brought or an administrator decided for ever.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use serde::Serialize;

use super::Event;
use super::Outcome;
use super::Target;
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
    /// Whether it changed anything: what was known already took effect at another time.
    #[serde(skip)]
    pub is_news: bool,
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
            enforced_us: stamp(outcome.enforced_after)
                .filter(|_| outcome.enforced && outcome.sessions_pending == 0),
            sessions_ended: outcome.sessions_ended,
            durable_us: stamp(outcome.durable_after).filter(|_| outcome.durable.is_ok()),
            acknowledged_us: None,
            is_news: outcome.changed,
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
    /// Several of one id, if whoever gave it out did so twice.
    by_id: HashMap<String, Vec<Known>>,
    order: VecDeque<String>,
}

#[derive(Debug)]
struct Known {
    target: Target,
    /// When it came first.
    first: Instant,
    timeline: Timeline,
    is_recorded: bool,
    /// Likewise, as something that is vouched for.
    is_recorded_signed: bool,
}

impl Timelines {
    /// Remembers what became of an event. Of one that came before, what was first stays: it took effect then. What it had
    /// not come to by then is filled in.
    pub fn note(&self, id: &str, target: &Target, arrival: Arrival, timeline: Timeline) {
        let mut kept = self.kept();
        if let Some(known) = kept.find(id, target) {
            let (now, first) = (Some(micros(known.first.elapsed())), &mut known.timeline);
            first.enforced_us = first.enforced_us.or(now.filter(|_| timeline.enforced_us.is_some()));
            first.durable_us = first.durable_us.or(now.filter(|_| timeline.durable_us.is_some()));
            return;
        }
        if kept.order.len() >= MAX_EVENTS
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.by_id.remove(&oldest);
        }
        let (target, first) = (target.clone(), arrival.instant);
        let known = Known { target, first, timeline, is_recorded: false, is_recorded_signed: false };
        kept.by_id.entry(id.to_owned()).or_default().push(known);
        kept.order.push_back(id.to_owned());
    }

    /// The timeline of an event that is to be put on record; `None` if that has been done. What came unsigned and comes
    /// again signed is put on record once more: more heed it.
    pub fn unrecorded(&self, event: &Event) -> Option<Timeline> {
        let mut kept = self.kept();
        let known = kept.find(&event.id, &event.target)?;
        let is_recorded = if event.unsigned { known.is_recorded } else { known.is_recorded_signed };
        known.is_recorded = true;
        known.is_recorded_signed |= !event.unsigned;
        (!is_recorded).then(|| known.timeline.clone())
    }

    /// An event's source was told that it is done. Returns the whole timeline, the first time.
    pub fn acknowledged(&self, id: &str, target: &Target) -> Option<Timeline> {
        let mut kept = self.kept();
        let known = kept.find(id, target).filter(|known| known.timeline.acknowledged_us.is_none())?;
        known.timeline.acknowledged_us = Some(micros(known.first.elapsed()));
        Some(known.timeline.clone())
    }

    /// What became of an event of this target.
    pub fn find(&self, id: &str, target: &Target) -> Option<Timeline> {
        self.kept().find(id, target).map(|known| known.timeline.clone())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn find(&mut self, id: &str, target: &Target) -> Option<&mut Known> {
        self.by_id.get_mut(id)?.iter_mut().find(|known| known.target == *target)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
