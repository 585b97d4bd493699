//! What the logs of the probes mean.
//!
//! A refusal says that it is one: an answer, or an alert in the handshake. That a connection ends says less, for an
//! outage looks the same; it is taken for a refusal only if it happens again and again while a bystander is served.

use std::time::Duration;
use std::time::Instant;

use super::probe::Log;
use super::probe::Part;
use super::probe::Sight;
use crate::rig::findings::Kind;
use crate::rig::findings::Outcome;
use crate::rig::findings::Probe;
use crate::rig::findings::Try;
use crate::rig::findings::Verdict;
use crate::rig::findings::Who;

/// How many ends of connections, one after the other, are no accident.
const AGAIN: usize = 2;

/// Of how many tries in a row a bystander that loses some must be served one.
const LAST: usize = 3;
/// And how long ago that may be, unless so many tries take longer.
const RECENT: Duration = Duration::from_secs(1);

/// When the revocation was asked for, and when that was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// When the call was sent, or the command started.
    pub(super) sent: Instant,
    /// When it was answered, or had ended, if it ever was.
    pub(super) answered: Option<Instant>,
    /// When nobody was asked any more.
    pub(super) ended: Instant,
}

/// What a probe saw, in times since the revocation was asked for. `vouched`: a bystander was served to the end over the
/// same kind of connection.
pub(super) fn judge(log: Log, asked: &Asked, vouched: bool) -> Probe {
    let lost = losses(&log, asked).count() as u64;
    let Log { task, not_offered, sights } = log;
    let seen = Seen(since_call(&sights, asked).collect());
    let (verdict, doubt) = match (&not_offered, task.who) {
        (Some(_), _) => (Verdict::NotOffered, None),
        (None, Who::Victim) => seen.verdict(vouched),
        (None, Who::Bystander) => seen.bystander(),
    };
    let refusal = seen.first_refusal().filter(|_| !matches!(verdict, Verdict::NotOffered | Verdict::Served));
    let from = seen.refused_from().filter(|_| verdict == Verdict::Refused);
    let us = |at: Instant| since(asked.sent, at);
    let late = |sight: &&Sight| {
        sight.part == Part::Whole && sight.is_served() && asked.answered.is_some_and(|at| sight.sent > at)
    };
    let lasts = task.kind.goes_on() && verdict == Verdict::Served && asked.answered.is_some();
    Probe {
        who: task.who,
        kind: task.kind,
        number: task.number,
        verdict,
        first_refusal_us: refusal.map(|sight| us(sight.at)),
        last_served_us: last_served(task.kind, &sights).map(us),
        refused_from_us: from.map(|sight| us(sight.sent)),
        lost,
        served_after_answer: sights.iter().filter(late).count() as u64 + u64::from(lasts),
        tries: sights.iter().map(|sight| Try(us(sight.sent), us(sight.at), sight.outcome)).collect(),
        refusal: not_offered.or(doubt).or_else(|| refusal.map(|sight| sight.words.clone())),
    }
}

/// What a bystander lost since the call: requests that were under way, and whatever went on until it was ended. That a
/// connection ends on which nothing is asked costs nobody anything.
pub(super) fn losses<'a>(log: &'a Log, asked: &Asked) -> impl Iterator<Item = &'a Sight> {
    let offered = log.not_offered.is_none();
    since_call(&log.sights, asked)
        .filter(move |sight| offered && !sight.is_served() && sight.part != Part::Idle)
}

/// What is wrong with how a bystander is at the end, in words; nothing, if one of its last tries was served.
pub(super) fn at_the_end(log: &Log, asked: &Asked) -> Option<String> {
    let seen = Seen(since_call(&log.sights, asked).collect());
    let lost: Vec<&Sight> = seen.tail().filter(|sight| sight.part != Part::Idle).collect();
    let served = seen.0.iter().rev().find(|sight| sight.is_served()).map(|sight| sight.at);
    let recent = RECENT.max(log.task.every * LAST as u32);
    let is_recent = |at: Instant| asked.ended.saturating_duration_since(at) <= recent;
    match (lost.last(), served) {
        _ if log.not_offered.is_some() => None,
        (None, Some(_)) => None,
        (Some(_), Some(at)) if lost.len() < LAST && is_recent(at) => None,
        (Some(last), _) => Some(last.words.clone()),
        (None, None) => Some("nothing came of it any more".to_owned()),
    }
}

/// Microseconds from one moment to another, negative if that was before.
pub(super) fn since(from: Instant, to: Instant) -> i64 {
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    match to.checked_duration_since(from) {
        Some(after) => micros(after),
        None => -micros(from.saturating_duration_since(to)),
    }
}

/// What came of whatever was seen since the call. A piece of a body that was handed to the kernel is nothing yet.
fn since_call<'a>(sights: &'a [Sight], asked: &Asked) -> impl Iterator<Item = &'a Sight> {
    let call = asked.sent;
    sights.iter().filter(move |sight| sight.at >= call && sight.part != Part::Piece)
}

/// When the last answer that served was there. A request that goes on began with one that was served, and was open until
/// its end was seen, whatever that was.
fn last_served(kind: Kind, sights: &[Sight]) -> Option<Instant> {
    let open = |sight: &Sight| kind.goes_on() && sight.part == Part::End;
    let serves = |sight: &&Sight| sight.part != Part::Piece && (sight.is_served() || open(sight));
    sights.iter().filter(serves).map(|sight| sight.at).max()
}

/// What was seen since the call, in the order in which it ended.
struct Seen<'a>(Vec<&'a Sight>);

impl Seen<'_> {
    /// What came after the last service.
    fn tail(&self) -> impl Iterator<Item = &Sight> {
        let from = self.0.iter().rposition(|sight| sight.is_served()).map_or(0, |last| last + 1);
        self.0.get(from..).unwrap_or_default().iter().copied()
    }

    fn was_served(&self) -> bool {
        self.0.iter().any(|sight| sight.is_served())
    }

    /// The first that refuses, or the first end of a connection after which nothing was served any more: one that was
    /// closed only to be opened anew is no refusal.
    fn first_refusal(&self) -> Option<&Sight> {
        let cut = || self.tail().find(|sight| sight.outcome == Outcome::Cut);
        let first = self.0.iter().copied().find(|sight| sight.outcome == Outcome::Refused);
        first.into_iter().chain(cut()).min_by_key(|sight| sight.at)
    }

    /// The first try after the last service that was refused or cut.
    fn refused_from(&self) -> Option<&Sight> {
        let refused = |sight: &&Sight| matches!(sight.outcome, Outcome::Refused | Outcome::Cut);
        self.tail().find(refused)
    }

    /// What becomes of the victim; why it is unclear, if it is.
    fn verdict(&self, vouched: bool) -> (Verdict, Option<String>) {
        if self.came_back(vouched) {
            return (Verdict::Flapped, None);
        }
        let told: Vec<&Sight> = self.tail().filter(|sight| sight.part != Part::Idle).collect();
        let says_so = |sight: &&Sight| sight.outcome == Outcome::Refused && !sight.is_outage();
        let ends = told.iter().rev().take_while(|sight| sight.is_end()).count();
        let unclear = |words: String| (Verdict::Unclear, Some(words));
        match told.last() {
            _ if told.iter().copied().any(|sight| says_so(&sight)) || ends >= AGAIN && vouched => {
                (Verdict::Refused, None)
            }
            None if self.was_served() => (Verdict::Served, None),
            None => unclear("nothing was seen of it after the call".to_owned()),
            Some(last) if ends >= AGAIN => {
                unclear(format!("an outage would look the same, and no bystander was served: {}", last.words))
            }
            Some(last) => unclear(format!("no refusal: {}", last.words)),
        }
    }

    /// Whether something was served after a refusal; where a bystander was served meanwhile, after ends in a row.
    fn came_back(&self, vouched: bool) -> bool {
        let (mut refused, mut ends) = (false, 0);
        for sight in self.0.iter().filter(|sight| sight.part != Part::Idle) {
            if sight.is_served() && (refused || vouched && ends >= AGAIN) {
                return true;
            }
            refused |= sight.outcome == Outcome::Refused;
            ends = if sight.is_end() { ends + 1 } else { 0 };
        }
        false
    }

    fn bystander(&self) -> (Verdict, Option<String>) {
        let refused = self.0.iter().any(|sight| sight.outcome == Outcome::Refused);
        match (refused, self.tail().find(|sight| sight.part != Part::Idle)) {
            (true, _) => (Verdict::Refused, None),
            (false, None) if self.was_served() => (Verdict::Served, None),
            (false, first) => (Verdict::Unclear, first.map(|sight| sight.words.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use Outcome::Cut;
    use Outcome::Failed;
    use Outcome::Refused;
    use Outcome::Served;
    use Part::End;
    use Part::Idle;
    use Part::Message;
    use Part::Piece;
    use Part::Whole;

    use super::super::probe::Task;
    use super::*;

    /// What was seen, milliseconds since a call that took 10 ms.
    type Row = (Part, i64, i64, Outcome);

    fn log(who: Who, kind: Kind, rows: &[Row]) -> (Log, Asked) {
        let base = Instant::now() + Duration::from_secs(10);
        let moment = |ms: i64| match u64::try_from(ms) {
            Ok(ms) => base + Duration::from_millis(ms),
            Err(_) => base.checked_sub(Duration::from_millis(ms.unsigned_abs())).unwrap(),
        };
        let sight = |&(part, sent, at, outcome): &Row| Sight {
            part,
            sent: moment(sent),
            at: moment(at),
            outcome,
            words: format!("{outcome:?}"),
        };
        let task = Task { who, kind, number: 0, every: Duration::from_millis(10), piece: 1, tries: 1 };
        let log = Log { task, not_offered: None, sights: rows.iter().map(sight).collect() };
        (log, Asked { sent: base, answered: Some(moment(10)), ended: moment(900) })
    }

    fn judged(kind: Kind, rows: &[Row]) -> Probe {
        let (log, asked) = log(Who::Victim, kind, rows);
        judge(log, &asked, false)
    }

    /// The same, while a bystander is served.
    fn vouched(kind: Kind, rows: &[Row]) -> Probe {
        let (log, asked) = log(Who::Victim, kind, rows);
        judge(log, &asked, true)
    }

    fn told(probe: &Probe) -> (Verdict, Option<i64>, Option<i64>, u64) {
        let ms = |at: Option<i64>| at.map(|at| at / 1000);
        (probe.verdict, ms(probe.first_refusal_us), ms(probe.last_served_us), probe.served_after_answer)
    }

    #[test]
    fn the_last_request_that_was_served_tells() {
        let rows =
            [(Whole, -9, -8, Served), (Whole, 1, 5, Served), (Whole, 6, 7, Cut), (Whole, 20, 21, Refused)];
        let seen = judged(Kind::Http1, &rows);
        assert_eq!(told(&seen), (Verdict::Refused, Some(7), Some(5), 0));
        assert_eq!(seen.refusal.as_deref(), Some("Cut"));
        // What was sent before the answer is not late, whenever it arrives.
        let seen = judged(Kind::Http1, &[(Whole, 9, 15, Served), (Whole, 20, 21, Refused)]);
        assert_eq!(told(&seen), (Verdict::Refused, Some(21), Some(15), 0));
        let seen = judged(Kind::Handshake, &[(Whole, 11, 15, Served), (Whole, 20, 21, Refused)]);
        assert_eq!(told(&seen), (Verdict::Refused, Some(21), Some(15), 1));
    }

    #[test]
    fn a_connection_that_is_opened_anew_was_not_refused() {
        let seen = judged(Kind::Http1, &[(Whole, -1, 0, Served), (Idle, 3, 3, Cut), (Whole, 13, 14, Served)]);
        assert_eq!(told(&seen), (Verdict::Served, None, Some(14), 1));
        let rows =
            [(Idle, 3, 3, Cut), (Whole, 13, 14, Served), (Idle, 20, 20, Cut), (Whole, 30, 31, Refused)];
        assert_eq!(told(&judged(Kind::Http1, &rows)), (Verdict::Refused, Some(20), Some(14), 1));
    }

    #[test]
    fn a_connection_that_ends_at_the_end_tells_nothing() {
        let rows = [(Whole, 1, 2, Served), (Whole, 13, 14, Served), (Idle, 20, 20, Cut)];
        assert_eq!(judged(Kind::Http1, &rows).verdict, Verdict::Served);
        let rows = [(Whole, 1, 2, Served), (Whole, 13, 14, Served), (Whole, 20, 21, Cut)];
        assert_eq!(vouched(Kind::Http1, &rows).verdict, Verdict::Unclear);
    }

    #[test]
    fn served_after_a_refusal_is_neither() {
        let rows = [(Whole, 1, 2, Refused), (Whole, 13, 14, Served), (Whole, 20, 21, Refused)];
        assert_eq!(told(&judged(Kind::Http1, &rows)), (Verdict::Flapped, Some(2), Some(14), 1));
        for kind in [Kind::Http1, Kind::Stream] {
            let seen = judged(kind, &[(Whole, 1, 2, Refused), (Whole, 13, 14, Served)]);
            assert_eq!(seen.verdict, Verdict::Flapped);
        }
    }

    #[test]
    fn errors_prove_nothing() {
        let rows = [(Whole, -1, 0, Served), (Whole, 3, 4, Failed), (Whole, 13, 14, Failed)];
        assert_eq!(told(&vouched(Kind::Http1, &rows)), (Verdict::Unclear, None, Some(0), 0));
        assert_eq!(told(&vouched(Kind::Http1, &rows[1..])), (Verdict::Unclear, None, None, 0));
        assert_eq!(vouched(Kind::Http1, &[]).verdict, Verdict::Unclear);
        // But they do not take back what was refused.
        let rows = [(Whole, 1, 2, Served), (Whole, 3, 4, Refused), (Whole, 13, 14, Failed)];
        assert_eq!(told(&judged(Kind::Http1, &rows)), (Verdict::Refused, Some(4), Some(2), 0));
    }

    /// A server that falls over ends everybody's connections.
    #[test]
    fn an_outage_is_no_refusal() {
        let rows = [(Whole, 1, 2, Served), (Whole, 3, 4, Cut), (Whole, 13, 14, Cut)];
        let seen = judged(Kind::Http1, &rows);
        assert!(seen.refusal.unwrap().contains("an outage would look the same"));
        assert_eq!(seen.verdict, Verdict::Unclear);
        assert_eq!(vouched(Kind::Http1, &rows).verdict, Verdict::Refused);
        let (mut log, asked) =
            log(Who::Victim, Kind::Http1, &[(Whole, 3, 4, Refused), (Whole, 13, 14, Refused)]);
        log.sights.iter_mut().for_each(|sight| sight.words = "503 revocation_state_stale".to_owned());
        assert_eq!(judge(log, &asked, false).verdict, Verdict::Unclear);
    }

    #[test]
    fn ends_count_in_a_row() {
        let rows = [(Whole, 1, 2, Cut), (Whole, 3, 4, Failed), (Whole, 13, 14, Cut)];
        assert_eq!(vouched(Kind::Http1, &rows).verdict, Verdict::Unclear);
        // One of two gates that does not enforce.
        let rows = [(Whole, 1, 2, Cut), (Whole, 3, 4, Cut), (Whole, 13, 14, Served), (Whole, 20, 21, Cut)];
        assert_eq!(vouched(Kind::Handshake, &rows).verdict, Verdict::Flapped);
    }

    /// Between the last service and the first refusal nobody asked.
    #[test]
    fn a_refusal_is_known_from_when_it_was_asked_for() {
        let rows = [(Whole, 1, 2, Served), (Whole, 3, 700, Failed), (Whole, 700, 701, Refused)];
        assert_eq!(judged(Kind::Http1, &rows).refused_from_us, Some(700_000));
        let rows = [(Whole, 1, 2, Served), (Idle, 3, 3, Cut), (Whole, 700, 701, Refused)];
        assert_eq!(judged(Kind::Http1, &rows).refused_from_us, Some(3_000));
    }

    /// Three slow tries do not fit into the time that is left.
    #[test]
    fn a_bystander_that_hangs_vouches_for_nobody() {
        let (log, mut asked) =
            log(Who::Bystander, Kind::Http1, &[(Whole, 1, 2, Served), (Whole, 3, 700, Failed)]);
        assert_eq!(at_the_end(&log, &asked), None);
        asked.ended += Duration::from_secs(5);
        assert_eq!(at_the_end(&log, &asked).as_deref(), Some("Failed"));
    }

    #[test]
    fn a_body_is_served_until_it_is_seen_to_end() {
        // A piece that was handed to the kernel is no service.
        let rows =
            [(Piece, 1, 1, Served), (End, 4, 4, Cut), (Whole, 15, 16, Refused), (Piece, 17, 17, Served)];
        assert_eq!(told(&judged(Kind::Body, &rows)), (Verdict::Refused, Some(4), Some(4), 0));
        let rows = [(Piece, 1, 1, Served), (Piece, 14, 14, Served), (End, 20, 25, Served)];
        assert_eq!(told(&judged(Kind::Stream, &rows)), (Verdict::Served, None, Some(25), 1));
    }

    /// It was served again, however its first request ended.
    #[test]
    fn a_body_that_is_begun_anew_is_served_until_that_one_ends() {
        let anew = [(End, 4, 4, Cut), (Whole, 14, 15, Served), (Piece, 20, 20, Served), (End, 600, 600, Cut)];
        let rows = [&anew[..], &[(Whole, 610, 611, Refused)]].concat();
        assert_eq!(told(&judged(Kind::Body, &rows)), (Verdict::Refused, Some(600), Some(600), 1));
    }

    #[test]
    fn whoever_hears_a_message_is_served() {
        let rows =
            [(Whole, 1, 2, Served), (Message, 8, 30, Served), (End, 31, 31, Cut), (Whole, 40, 41, Refused)];
        assert_eq!(told(&judged(Kind::WebSocket, &rows)), (Verdict::Refused, Some(31), Some(30), 0));
    }

    #[test]
    fn a_bystander_loses_what_was_under_way() {
        let rows = [(Whole, -2, -1, Failed), (Whole, 1, 2, Served), (Idle, 3, 3, Cut), (Whole, 4, 5, Cut)];
        let (mut log, asked) = log(Who::Bystander, Kind::Http1, &rows);
        assert_eq!((losses(&log, &asked).count(), at_the_end(&log, &asked)), (1, None));
        let cut = log.sights[3].clone();
        log.sights.extend([cut.clone(), cut]);
        assert_eq!(at_the_end(&log, &asked).as_deref(), Some("Cut"));
        log.sights.remove(1);
        log.sights.truncate(3);
        assert_eq!(at_the_end(&log, &asked).as_deref(), Some("Cut"));
        log.sights.truncate(2);
        assert!(at_the_end(&log, &asked).is_some());
        let (mut log, _) = self::log(Who::Bystander, Kind::Http1, &rows);
        log.sights.truncate(3);
        assert_eq!(judge(log, &asked, false).verdict, Verdict::Served);
    }
}
