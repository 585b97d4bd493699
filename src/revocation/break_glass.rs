//! Break-glass: for a bounded time the gate refuses nobody for who they are, and ends nothing.
//!
//! **Invariant:** whatever was let in meanwhile is out when the end of it has returned. Whoever relies on it does first
//! what the end of it looks for (publishes, registers, marks its session), then reads whether it lasts; the end of it
//! first stores that it does not, then looks. Between the two steps of each lies a fence, or both could miss the other.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::session::Session;

/// The listener that it concerns. Administrators are always held against the set.
const GATE: &str = "gate";

/// Whether break-glass lasts. Kept in memory only: a restart ends it.
#[derive(Debug, Default)]
pub struct BreakGlass {
    on: AtomicBool,
    declared: Mutex<Option<Declared>>,
    changed: Notify,
}

/// What somebody declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it began.
    pub since: Timestamp,
    /// When it ends, by the wall clock as it was when it was declared.
    pub until: Timestamp,
    /// The same by the clock that nobody sets, which decides.
    deadline: Instant,
}

impl Declared {
    /// How long it still lasts.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Which break-glass is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Whatever lasts.
    Any,
    /// One that has had its time.
    Lapsed,
}

impl BreakGlass {
    /// Begins it, or extends the one that lasts: from `now` on, for `lasts`. Returns it, and the one before.
    pub fn begin(
        &self,
        by: &str,
        reason: &str,
        now: Timestamp,
        lasts: Duration,
    ) -> (Declared, Option<Declared>) {
        let mut declared = self.declared();
        let before = declared.take();
        let begun = Declared {
            by: by.to_owned(),
            reason: reason.to_owned(),
            since: before.as_ref().map_or(now, |before| before.since),
            until: now.plus(lasts),
            deadline: Instant::now() + lasts,
        };
        *declared = Some(begun.clone());
        self.on.store(true, Ordering::SeqCst);
        drop(declared);
        self.changed.notify_one();
        (begun, before)
    }

    /// Whether it lasts. To be asked after what the end of it looks for.
    pub fn is_on(&self) -> bool {
        fence(Ordering::SeqCst);
        self.on.load(Ordering::SeqCst)
    }

    /// What was declared, while it lasts.
    pub fn lasting(&self) -> Option<Declared> {
        self.declared().clone()
    }

    /// Waits until it begins, is extended or ends; for one who waits.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether a session is let be: one of the gate, while it lasts.
    pub(super) fn spares(&self, session: &Session) -> bool {
        Self::concerns(session) && self.is_on()
    }

    /// Whether a session is the gate's.
    pub(super) fn concerns(session: &Session) -> bool {
        session.listener() == GATE
    }

    /// Switches it off. Whoever does must look through the sessions afterwards.
    pub(super) fn switch_off(&self, which: Which) -> Option<Declared> {
        let mut declared = self.declared();
        let lapsed = |declared: &Declared| declared.remaining().is_zero();
        let ended = declared.take_if(|declared| which == Which::Any || lapsed(declared))?;
        self.on.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        drop(declared);
        self.changed.notify_one();
        Some(ended)
    }

    fn declared(&self) -> MutexGuard<'_, Option<Declared>> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn an_extension_is_the_same_break_glass_for_longer() {
        let glass = BreakGlass::default();
        assert!(!glass.is_on() && glass.switch_off(Which::Any).is_none());
        let (first, none) = glass.begin("a", "outage", Timestamp::from_secs(10), HOUR);
        let (second, before) = glass.begin("b", "still", Timestamp::from_secs(20), 2 * HOUR);
        assert_eq!((none, before.as_ref()), (None, Some(&first)));
        assert_eq!((second.since, second.until), (first.since, Timestamp::from_secs(7220)));
        assert!(second.remaining() > HOUR && glass.is_on());
        assert_eq!(glass.switch_off(Which::Any), Some(second));
        assert!(!glass.is_on() && glass.lasting().is_none());
    }

    #[test]
    fn only_one_that_has_had_its_time_lapses() {
        let glass = BreakGlass::default();
        glass.begin("a", "outage", Timestamp::from_secs(10), HOUR);
        assert!(glass.switch_off(Which::Lapsed).is_none() && glass.is_on());
        glass.begin("a", "outage", Timestamp::from_secs(10), Duration::ZERO);
        assert!(glass.switch_off(Which::Lapsed).is_some() && !glass.is_on());
    }
}
