//! The tries of a probe as marks in a lane, thinned to what can be told apart.

use std::collections::HashSet;

use super::timeline::Warp;
use crate::rig::findings::Outcome;
use crate::rig::findings::Probe;
use crate::rig::findings::Try;
use crate::rig::findings::Who;

/// What a mark shows; each has a colour and a shape of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Served,
    Refused,
    Failed,
    /// Served to the victim, and begun after the call had been answered.
    Late,
    Cut,
}

impl Mark {
    /// In the order in which they are drawn.
    pub(super) const ALL: [Self; 5] = [Self::Served, Self::Refused, Self::Failed, Self::Late, Self::Cut];

    fn of(probe: &Probe, sent: i64, outcome: Outcome, answered: Option<i64>) -> Self {
        // The pieces of a body were handed to the kernel: nobody knows what became of them.
        let late = !probe.kind.goes_on()
            && probe.who == Who::Victim
            && answered.is_some_and(|answered| sent > answered);
        match outcome {
            Outcome::Served if late => Self::Late,
            Outcome::Served => Self::Served,
            Outcome::Refused => Self::Refused,
            Outcome::Cut => Self::Cut,
            Outcome::Failed => Self::Failed,
        }
    }

    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Late => "late",
            Self::Refused => "refused",
            Self::Cut => "cut",
            Self::Failed => "failed",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Late => "served, and begun after the answer",
            Self::Refused => "refused",
            Self::Cut => "connection or stream ended",
            Self::Failed => "failed",
        }
    }

    /// How near two of them can stand and still be told apart.
    fn width(self) -> f64 {
        match self {
            Self::Served => 4.0,
            Self::Cut => 5.0,
            Self::Refused | Self::Failed | Self::Late => 8.0,
        }
    }

    /// As a path; a dot is a line of no length with round ends.
    pub(super) fn path(self, x: f64, y: f64) -> String {
        match self {
            Self::Served | Self::Late => format!("M{x:.1} {y:.1}h0"),
            Self::Refused => format!("M{:.1} {:.1}l7 7m-7 0l7-7", x - 3.5, y - 3.5),
            Self::Cut => format!("M{x:.1} {:.1}v15", y - 7.5),
            Self::Failed => format!("M{x:.1} {:.1}l4.5 4.5l-4.5 4.5l-4.5-4.5z", y - 4.5),
        }
    }
}

/// The marks of one lane: one path for each kind of mark, and one for the time that requests were under way.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) under_way: String,
    /// In the order of [`Mark::ALL`].
    rows: [Row; Mark::ALL.len()],
}

#[derive(Debug, Default)]
struct Row {
    path: String,
    taken: HashSet<i64>,
}

impl Lane {
    /// Draws the tries at the height `y`; `coarse` widens what counts as the same place.
    pub(super) fn of(probe: &Probe, answered: Option<i64>, scale: &Warp, (y, coarse): (f64, f64)) -> Self {
        let mut lane = Self::default();
        for Try(sent, at, outcome) in &probe.tries {
            let mark = Mark::of(probe, *sent, *outcome, answered);
            let (from, x) = (scale.place(*sent as f64), scale.place(*at as f64));
            let bin = (x / (mark.width() * coarse)) as i64;
            let row = &mut lane.rows[mark as usize];
            if row.taken.insert(bin) {
                row.path += &mark.path(x, y);
                if x - from > 4.0 {
                    lane.under_way += &format!("M{from:.1} {y:.1}H{x:.1}");
                }
            }
        }
        lane
    }

    /// The paths, in the order in which they are drawn.
    pub(super) fn paths(&self) -> impl Iterator<Item = (Mark, &str)> {
        let drawn = Mark::ALL.iter().zip(&self.rows).filter(|(_, row)| !row.path.is_empty());
        drawn.map(|(mark, row)| (*mark, row.path.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::findings::Kind;
    use crate::rig::findings::Verdict;

    fn probe(who: Who, kind: Kind, tries: Vec<Try>) -> Probe {
        Probe {
            who,
            kind,
            number: 0,
            verdict: Verdict::Refused,
            first_refusal_us: None,
            refusal: None,
            last_served_us: None,
            refused_from_us: None,
            lost: 0,
            served_after_answer: 0,
            tries,
        }
    }

    #[test]
    fn what_is_served_to_the_victim_after_the_answer_has_a_mark_of_its_own() {
        let scale = Warp::of(1000.0, (1e6, 1e7), (0.0, 700.0));
        let tries =
            vec![Try(-9, -5, Outcome::Served), Try(900, 950, Outcome::Served), Try(5000, 6000, Outcome::Cut)];
        let marks = |who, kind| {
            let lane = Lane::of(&probe(who, kind, tries.clone()), Some(600), &scale, (10.0, 1.0));
            lane.paths().map(|(mark, _)| mark).collect::<Vec<_>>()
        };
        assert_eq!(marks(Who::Victim, Kind::Http1), [Mark::Served, Mark::Late, Mark::Cut]);
        assert_eq!(marks(Who::Bystander, Kind::Http1), [Mark::Served, Mark::Cut]);
        // Whether anybody took a piece of a body is not known.
        assert_eq!(marks(Who::Victim, Kind::Body), [Mark::Served, Mark::Cut]);
    }

    #[test]
    fn a_million_tries_are_no_more_marks_than_there_is_room_for() {
        let scale = Warp::of(1000.0, (1e6, 1e7), (0.0, 700.0));
        let tries = (0..1_000_000).map(|at| Try(at * 10, at * 10 + 5, Outcome::Served)).collect();
        let lane = Lane::of(&probe(Who::Bystander, Kind::Http1, tries), None, &scale, (10.0, 1.0));
        let length: usize = lane.paths().map(|(_, path)| path.len()).sum();
        assert!(length > 100 && length < 5000, "{length}");
    }
}
