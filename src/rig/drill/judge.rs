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
    let idle = |sight: &Sight| sight.outcome == Outcome::Cut && sight.sent == sight.at;
    let matters = move |sight: &&Sight| !is_served(sight) && (goes_on(log.task.kind) || !idle(sight));
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
        Outcome::Cut => !served_after(sight) || goes_on(kind) && !is_served_at_last(sights),
        Outcome::Served | Outcome::Failed => false,
    };
    sights.iter().filter(|sight| sight.at >= asked.sent).find(refuses)
}

fn is_served_at_last(sights: &[Sight]) -> bool {
    let tells = |sight: &&Sight| sight.outcome != Outcome::Failed;
    sights.iter().rev().find(tells).is_some_and(is_served)
}

fn verdict(who: Who, kind: Kind, sights: &[Sight], asked: &Asked) -> Verdict {
    let after = |sight: &&Sight| sight.at >= asked.sent;
    let refused = |sight: &&Sight| sight.outcome == Outcome::Refused;
    if who == Who::Bystander {
        return match (sights.iter().any(|s| refused(&s)), is_served_at_last(sights)) {
            (true, _) => Verdict::Refused,
            (false, true) => Verdict::Served,
            (false, false) => Verdict::Unclear,
        };
    }
    let first = sights.iter().filter(after).find(refused);
    let back = |first: &Sight| sights.iter().any(|sight| is_served(sight) && sight.sent > first.at);
    // The pieces of a request that is about to be refused say nothing; its answer does.
    let flapped = first.is_some_and(|first| !goes_on(kind) && back(first));
    match (flapped, first_refusal(kind, sights, asked)) {
        (true, _) => Verdict::Flapped,
        (false, Some(_)) if !is_served_at_last(sights) => Verdict::Refused,
        (false, _) if is_served_at_last(sights) => Verdict::Served,
        (false, _) => Verdict::Unclear,
    }
}

/// When the last answer that served was there. What goes on is taken to have been served until it was seen to end.
fn last_served(kind: Kind, sights: &[Sight], refusal: Option<&Sight>) -> Option<Instant> {
    match (goes_on(kind), refusal) {
        (true, Some(end)) => Some(end.at),
        _ => sights.iter().rev().find(|sight| is_served(sight)).map(|sight| sight.at),
    }
}
