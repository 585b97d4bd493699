//! What the probes of a drill say, taken together.

use crate::rig::findings::Drill;
use crate::rig::findings::Kind;
use crate::rig::findings::Outcome;
use crate::rig::findings::Probe;
use crate::rig::findings::Verdict;
use crate::rig::findings::Who;

/// When a probe of the victim was served last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Last {
    /// So many microseconds after the call was sent; zero or less: nothing was served after it.
    At(f64),
    /// It was still served when the window ended.
    Never,
    /// It cannot be told.
    Unclear,
}

impl Last {
    /// `None` where there was nothing to be seen.
    pub(super) fn of(probe: &Probe) -> Option<Self> {
        let at = Self::At(probe.last_served_us.map_or(0.0, |us| us as f64));
        match probe.verdict {
            Verdict::NotOffered => None,
            Verdict::Served => Some(Self::Never),
            Verdict::Unclear => Some(Self::Unclear),
            Verdict::Refused => Some(at),
            Verdict::Flapped => match probe.tries.last().map(|last| last.2) {
                Some(Outcome::Served) => Some(Self::Never),
                _ => Some(at),
            },
        }
    }
}

/// The ends of some probes of the victim.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// Those that ended, in microseconds since the call was sent.
    pub(super) times: Vec<f64>,
    /// How many did not.
    pub(super) never: usize,
    /// How many cannot be told.
    pub(super) unclear: usize,
}

impl Ends {
    /// Of one kind, or of all.
    pub(super) fn of(drill: &Drill, kind: Option<Kind>) -> Self {
        let mut ends = Self::default();
        for last in victims(drill).filter(|p| kind.is_none_or(|kind| kind == p.kind)).filter_map(Last::of) {
            match last {
                Last::At(us) => ends.times.push(us),
                Last::Never => ends.never += 1,
                Last::Unclear => ends.unclear += 1,
            }
        }
        ends
    }

    pub(super) fn all(&self) -> usize {
        self.times.len() + self.never + self.unclear
    }

    /// The last of those that ended.
    pub(super) fn max(&self) -> Option<f64> {
        self.times.iter().copied().max_by(f64::total_cmp)
    }
}

/// The probes of who is revoked.
pub(super) fn victims(drill: &Drill) -> impl Iterator<Item = &Probe> {
    drill.probes.iter().filter(|probe| probe.who == Who::Victim)
}

/// How many requests of the victim that were begun after the answer were served.
pub(super) fn served_after_answer(drill: &Drill) -> u64 {
    victims(drill).fold(0, |sum, probe| sum.saturating_add(probe.served_after_answer))
}

/// A kind as it stands in a sentence.
pub(super) fn phrase(kind: Kind) -> &'static str {
    match kind {
        Kind::Http1 => "an open HTTP/1.1 connection",
        Kind::Http2 => "an open HTTP/2 connection",
        Kind::Stream => "an open HTTP/2 stream",
        Kind::Body => "a request in the middle of its body",
        Kind::WebSocket => "an open WebSocket",
        Kind::Handshake => "new connections",
        Kind::Resumption => "resumed sessions",
    }
}
