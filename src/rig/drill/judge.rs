//! What the logs of the probes mean.

use std::time::Duration;
use std::time::Instant;

use super::probe::Log;
use super::probe::Sight;
use crate::rig::findings::Kind;
use crate::rig::findings::Outcome;
use crate::rig::findings::Probe;
use crate::rig::findings::Try;
use crate::rig::findings::Verdict;
use crate::rig::findings::Who;

/// When the revocation was asked for, and when that was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// When the call was sent, or the command started.
    pub(super) sent: Instant,
    /// When it was answered, or had ended, if it ever was.
    pub(super) answered: Option<Instant>,
}

/// What a probe saw, in times since the revocation was asked for.
pub(super) fn judge(log: Log, asked: &Asked) -> Probe {
    let Log { task, not_offered, sights } = log;
    let refusal = first_refusal(task.kind, &sights, asked);
    let verdict = match &not_offered {
        Some(_) => Verdict::NotOffered,
        None => verdict(task.who, task.kind, &sights, asked),
    };
    let us = |at: Instant| since(asked.sent, at);
    let late = |sight: &&Sight| is_served(sight) && asked.answered.is_some_and(|at| sight.sent > at);
    Probe {
        who: task.who,
        kind: task.kind,
        number: task.number,
        verdict,
        first_refusal_us: refusal.map(|sight| us(sight.at)),
        refusal: not_offered.or_else(|| refusal.map(|sight| sight.words.clone())),
        last_served_us: last_served(task.kind, &sights, refusal).map(us),
        served_after_answer: match goes_on(task.kind) {
            // A piece that was handed to the kernel was not served by anybody yet.
            true => u64::from(verdict == Verdict::Served && asked.answered.is_some()),
            false => sights.iter().filter(late).count() as u64,
        },
        tries: sights.iter().map(|sight| Try(us(sight.sent), us(sight.at), sight.outcome)).collect(),
    }
}

/// What a bystander lost: requests that were under way, and whatever went on until it was ended. That a connection ends
/// on which nothing is asked costs nobody anything.
pub(super) fn losses(log: &Log) -> impl Iterator<Item = &Sight> {
    let matters = move |sight: &&Sight| !is_served(sight) && (goes_on(log.task.kind) || !is_idle_end(sight));
    let offered = log.not_offered.is_none();
    log.sights.iter().filter(move |sight| offered && matters(sight))
}

/// Microseconds from one moment to another, negative if that was before.
pub(super) fn since(from: Instant, to: Instant) -> i64 {
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    match to.checked_duration_since(from) {
        Some(after) => micros(after),
        None => -micros(from.saturating_duration_since(to)),
    }
}

/// Whether a kind is one long request: there is no answer until it ends.
fn goes_on(kind: Kind) -> bool {
    matches!(kind, Kind::Stream | Kind::Body)
}

fn is_served(sight: &Sight) -> bool {
    sight.outcome == Outcome::Served
}

/// The first answer that refuses, or the first end of a connection after which nothing was served any more: one that was
/// closed only to be opened anew is no refusal.
fn first_refusal<'a>(kind: Kind, sights: &'a [Sight], asked: &Asked) -> Option<&'a Sight> {
    let served_after = |sight: &Sight| {
        let later = |other: &Sight| is_served(other) && other.sent > sight.at;
        sights.iter().any(later)
    };
    let refuses = |sight: &&Sight| match sight.outcome {
        Outcome::Refused => true,
        // A whole request that was cut and begun anew is found by what came of the next one.
        Outcome::Cut => !served_after(sight) || goes_on(kind) && last(sights, asked) != Some(Outcome::Served),
        Outcome::Served | Outcome::Failed => false,
    };
    sights.iter().filter(|sight| sight.at >= asked.sent).find(refuses)
}

/// What came of the last try since the call. That a connection ended on which nothing was asked is none.
fn last(sights: &[Sight], asked: &Asked) -> Option<Outcome> {
    let tells = |sight: &&Sight| sight.at >= asked.sent && !is_idle_end(sight);
    sights.iter().rev().find(tells).map(|sight| sight.outcome)
}

fn is_idle_end(sight: &Sight) -> bool {
    sight.outcome == Outcome::Cut && sight.sent == sight.at
}

fn verdict(who: Who, kind: Kind, sights: &[Sight], asked: &Asked) -> Verdict {
    let refused = |sight: &&Sight| sight.outcome == Outcome::Refused;
    if who == Who::Bystander {
        return match (sights.iter().any(|sight| refused(&sight)), last(sights, asked)) {
            (true, _) => Verdict::Refused,
            (false, Some(Outcome::Served)) => Verdict::Served,
            (false, _) => Verdict::Unclear,
        };
    }
    let first = sights.iter().filter(|sight| sight.at >= asked.sent).find(refused);
    let back = |first: &Sight| sights.iter().any(|sight| is_served(sight) && sight.sent > first.at);
    // The pieces of a request that is about to be refused say nothing; its answer does.
    match (first, last(sights, asked)) {
        (Some(first), _) if !goes_on(kind) && back(first) => Verdict::Flapped,
        (_, Some(Outcome::Served)) => Verdict::Served,
        (_, Some(Outcome::Refused | Outcome::Cut)) => Verdict::Refused,
        (_, Some(Outcome::Failed) | None) => Verdict::Unclear,
    }
}

/// When the last answer that served was there. What goes on is taken to have been served until it was seen to end.
fn last_served(kind: Kind, sights: &[Sight], refusal: Option<&Sight>) -> Option<Instant> {
    match (goes_on(kind), refusal) {
        (true, Some(end)) => Some(end.at),
        _ => sights.iter().rev().find(|sight| is_served(sight)).map(|sight| sight.at),
    }
}

#[cfg(test)]
mod tests {
    use Outcome::Cut;
    use Outcome::Failed;
    use Outcome::Refused;
    use Outcome::Served;

    use super::super::probe::Task;
    use super::*;

    /// A victim's log of (sent, at, outcome), milliseconds since a call that took 10 ms.
    fn judged(kind: Kind, sights: &[(i64, i64, Outcome)]) -> Probe {
        let base = Instant::now() + Duration::from_secs(10);
        let moment = |ms: i64| match u64::try_from(ms) {
            Ok(ms) => base + Duration::from_millis(ms),
            Err(_) => base.checked_sub(Duration::from_millis(ms.unsigned_abs())).unwrap(),
        };
        let sight = |&(sent, at, outcome): &(i64, i64, Outcome)| {
            let words = format!("{outcome:?}");
            Sight { sent: moment(sent), at: moment(at), outcome, words }
        };
        let task = Task { who: Who::Victim, kind, number: 0, every: Duration::from_millis(10), piece: 1 };
        let log = Log { task, not_offered: None, sights: sights.iter().map(sight).collect() };
        judge(log, &Asked { sent: base, answered: Some(moment(10)) })
    }

    fn told(probe: &Probe) -> (Verdict, Option<i64>, Option<i64>, u64) {
        let ms = |at: Option<i64>| at.map(|at| at / 1000);
        (probe.verdict, ms(probe.first_refusal_us), ms(probe.last_served_us), probe.served_after_answer)
    }

    #[test]
    fn the_last_request_that_was_served_tells() {
        let seen = judged(Kind::Http1, &[(-9, -8, Served), (1, 5, Served), (6, 7, Cut), (20, 21, Refused)]);
        assert_eq!(told(&seen), (Verdict::Refused, Some(7), Some(5), 0));
        assert_eq!(seen.refusal.as_deref(), Some("Cut"));
        // What was sent before the answer is not late, whenever it arrives.
        let seen = judged(Kind::Http1, &[(9, 15, Served), (20, 21, Refused)]);
        assert_eq!(told(&seen), (Verdict::Refused, Some(21), Some(15), 0));
        let seen = judged(Kind::Handshake, &[(11, 15, Served), (20, 21, Refused)]);
        assert_eq!(told(&seen), (Verdict::Refused, Some(21), Some(15), 1));
    }

    #[test]
    fn a_connection_that_is_opened_anew_was_not_refused() {
        let seen = judged(Kind::Http1, &[(-1, 0, Served), (3, 3, Cut), (13, 14, Served)]);
        assert_eq!(told(&seen), (Verdict::Served, None, Some(14), 1));
        let seen = judged(Kind::Http1, &[(3, 3, Cut), (13, 14, Served), (20, 20, Cut), (30, 31, Refused)]);
        assert_eq!(told(&seen), (Verdict::Refused, Some(20), Some(14), 1));
    }

    #[test]
    fn a_connection_that_ends_at_the_end_tells_nothing() {
        let seen = judged(Kind::Http1, &[(1, 2, Served), (13, 14, Served), (20, 20, Cut)]);
        assert_eq!(seen.verdict, Verdict::Served);
    }

    #[test]
    fn served_after_a_refusal_is_neither() {
        let seen = judged(Kind::Http1, &[(1, 2, Refused), (13, 14, Served), (20, 21, Refused)]);
        assert_eq!(told(&seen), (Verdict::Flapped, Some(2), Some(14), 1));
        let seen = judged(Kind::Http1, &[(1, 2, Refused), (13, 14, Served)]);
        assert_eq!(seen.verdict, Verdict::Flapped);
    }

    #[test]
    fn errors_prove_nothing() {
        let seen = judged(Kind::Http1, &[(-1, 0, Served), (3, 4, Failed), (13, 14, Failed)]);
        assert_eq!(told(&seen), (Verdict::Unclear, None, Some(0), 0));
        let seen = judged(Kind::Http1, &[(3, 4, Failed), (13, 14, Failed)]);
        assert_eq!(told(&seen), (Verdict::Unclear, None, None, 0));
    }

    #[test]
    fn a_body_is_served_until_it_is_seen_to_end() {
        // A piece that was handed to the kernel for the next request is no service.
        let seen = judged(Kind::Body, &[(1, 1, Served), (4, 4, Cut), (14, 14, Served), (15, 16, Refused)]);
        assert_eq!(told(&seen), (Verdict::Refused, Some(4), Some(4), 0));
        let seen = judged(Kind::Stream, &[(1, 1, Served), (14, 14, Served), (20, 25, Served)]);
        assert_eq!(told(&seen), (Verdict::Served, None, Some(25), 1));
    }

    #[test]
    fn a_bystander_loses_what_was_under_way() {
        let now = Instant::now();
        let task =
            Task { who: Who::Bystander, kind: Kind::Http1, number: 0, every: Duration::ZERO, piece: 1 };
        let sight = |took: u64, outcome| {
            let at = now + Duration::from_millis(took);
            Sight { sent: now, at, outcome, words: String::new() }
        };
        let mut log =
            Log { task, not_offered: None, sights: vec![sight(1, Served), sight(0, Cut), sight(1, Cut)] };
        assert_eq!(losses(&log).count(), 1);
        log.task.kind = Kind::Body;
        assert_eq!(losses(&log).count(), 2);
    }
}
