//! What all revocations of one fleet come to.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::victim::Sighting;
use crate::rig::findings::Distribution;
use crate::rig::findings::Fleet;
use crate::rig::findings::Kind;

use super::line::KINDS;

/// Three significant digits.
const DIGITS: u8 = 3;
/// The shortest time, nanoseconds: what happened to be over before is on the axis, too.
const SHORTEST: u64 = 1000;
/// The longest, nanoseconds: longer than anything is waited for.
const LONGEST: u64 = 600_000_000_000;

/// Times, and how often there was none.
pub(super) struct Times {
    histogram: Histogram<u64>,
    never: u64,
}

impl Times {
    fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self { histogram: Histogram::new_with_bounds(SHORTEST, LONGEST, DIGITS)?, never: 0 })
    }

    /// Adds one.
    fn add(&mut self, time: Option<Duration>) {
        let Some(time) = time else { return self.never += 1 };
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(LONGEST);
        self.histogram.saturating_record(nanos.clamp(SHORTEST, LONGEST));
    }

    fn found(&self) -> Distribution {
        Distribution::of(&self.histogram, self.never)
    }
}

/// The times of one fleet.
pub(super) struct Tally {
    last_gate: Times,
    since_sent: Times,
    gates: Vec<Times>,
    kinds: Vec<(Kind, Times)>,
    answered: Times,
    durable: Times,
    served_after_answer: u64,
    tried_after_answer: u64,
}

/// What was counted beside them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beside {
    pub(super) seconds: f64,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) cpu_seconds: f64,
    pub(super) memory: u64,
}

impl Tally {
    /// Of so many gates; nothing yet.
    pub(super) fn new(gates: usize) -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            last_gate: Times::new()?,
            since_sent: Times::new()?,
            gates: (0..gates).map(|_| Times::new()).collect::<Result<_, _>>()?,
            kinds: KINDS.into_iter().map(|kind| Ok((kind, Times::new()?))).collect::<Result<_, _>>()?,
            answered: Times::new()?,
            durable: Times::new()?,
            served_after_answer: 0,
            tried_after_answer: 0,
        })
    }

    /// Adds a revocation.
    pub(super) fn add(&mut self, sighting: &Sighting) {
        self.last_gate.add(sighting.last(|gate| gate.since_due));
        self.since_sent.add(sighting.last(|gate| gate.since_sent));
        self.answered.add(Some(sighting.answered));
        for (times, gate) in self.gates.iter_mut().zip(&sighting.gates) {
            times.add(gate.since_due);
        }
        for (kind, times) in &mut self.kinds {
            let own = sighting.gates.iter().filter(|_| *kind == sighting.kind);
            own.for_each(|gate| times.add(gate.since_due));
        }
        self.served_after_answer += sighting.gates.iter().map(|gate| gate.served_after_answer).sum::<u64>();
        self.tried_after_answer += sighting.gates.iter().map(|gate| gate.tried_after_answer).sum::<u64>();
    }

    /// Adds what a journal took for a commit.
    pub(super) fn add_commit(&mut self, took: Duration) {
        self.durable.add(Some(took));
    }

    /// What it comes to.
    pub(super) fn found(&self, beside: Beside) -> Fleet {
        let seen = |times: &Times| times.histogram.len() + times.never > 0;
        let kinds = self.kinds.iter().filter(|(_, times)| seen(times));
        Fleet {
            seconds: beside.seconds,
            last_gate: self.last_gate.found(),
            since_sent: self.since_sent.found(),
            gates: self.gates.iter().map(Times::found).collect(),
            kinds: kinds.map(|(kind, times)| (*kind, times.found())).collect(),
            answered: self.answered.found(),
            durable: self.durable.found(),
            served_after_answer: self.served_after_answer,
            tried_after_answer: self.tried_after_answer,
            requests_per_second: beside.requests as f64 / beside.seconds.max(f64::EPSILON),
            bystander_errors: beside.errors,
            cpu_seconds: beside.cpu_seconds,
            memory: beside.memory,
        }
    }
}
