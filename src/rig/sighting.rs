//! What was seen of one revocation, from the logs of those it was about.
//!
//! When a request was *served after the answer* is less plain than it sounds. An answer that the gate sent in time may
//! lie in the client's socket until its thread runs, and a request that the gate let through in time may lie in the
//! upstream's. Neither is the gate's doing, and neither clock alone can tell. So a request of the revoked agent counts
//! as served after the answer if
//!
//! - it was sent after the answer to the revoke call had arrived, and was served, or got as far as the upstream; or
//! - the upstream made the answer to it after that, and the agent received it: the gate has passed it on since.
//!
//! Each of them is a fault for certain, and whatever the gate does wrong after its answer is one of them.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::upload::UploadSighting;
use super::work::Entry;
use super::work::Outcome;
use super::work::Via;

/// The refusal that a revoked principal gets.
const REFUSAL: (u16, &str) = (403, "principal_revoked");

/// One revoke call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When it was sent.
    pub sent: Instant,
    /// When its answer had arrived.
    pub answered: Instant,
    /// How many sessions it ended, as the answer says.
    pub sessions_ended: u64,
}

/// What one worker wrote down.
pub struct Log {
    /// Over what it worked.
    pub via: Via,
    /// Its entries, in order.
    pub entries: Vec<Entry>,
}

/// What became of a connection that offered a TLS session from before the revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// The session was resumed, and its first request refused.
    Refused,
    /// Something else, in words.
    Other(String),
}

impl Resumption {
    /// From the way the handshake went and the outcome of the request after it.
    pub fn new(resumed: bool, outcome: &Outcome) -> Self {
        match (resumed, outcome) {
            (true, outcome) if is_refusal(outcome) => Self::Refused,
            (true, outcome) => Self::Other(words(outcome)),
            (false, _) => Self::Other("the session was not resumed".into()),
        }
    }
}

/// The end of one connection of the revoked agent.
#[derive(Clone, Debug)]
pub struct End {
    /// Over what it worked.
    pub via: Via,
    /// How long after the revoke call was sent, and how; `None` if it was neither refused nor cut.
    pub seen: Option<(Duration, Outcome)>,
}

/// All that was seen.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// What the revoked agent was served before the call was sent.
    pub requests_before: usize,
    /// How its connections ended.
    pub ends: Vec<End>,
    /// How long the call took to be answered.
    pub answered: Duration,
    /// How many sessions it ended, as the answer says.
    pub sessions_ended: u64,
    /// What the revoked agent tried after the answer.
    pub tried_after_answer: usize,
    /// What of it was served.
    pub served_after_answer: usize,
    /// What became of its TLS session.
    pub resumed: Resumption,
    /// What the upstream still read of its upload; absent if nothing of that got there.
    pub upload: Option<UploadSighting>,
    /// What the other agent was served, before and after.
    pub bystander_requests: usize,
    /// What it was not.
    pub bystander_errors: Vec<String>,
    /// Its connections over which nothing was served any more after the answer.
    pub bystander_idle: Vec<Via>,
}

impl Sighting {
    /// Holds the logs against the call; `served` is when the upstream made which answer to the revoked agent.
    pub fn new(
        call: &Call,
        victim: &[Log],
        bystander: &[Log],
        served: &HashMap<String, Instant>,
        resumed: Resumption,
    ) -> Self {
        let after = |entry: &Entry| entry.sent.is_some_and(|sent| sent > call.answered);
        let before = |entry: &&Entry| entry.outcome == Outcome::Served && entry.at <= call.sent;
        let count = |log: &Log| {
            let late = |entry: &&Entry| is_late(call, entry, served.get(&log.via.label(entry.number)));
            log.entries.iter().filter(late).count()
        };
        let fault = |log: &Log, entry: &Entry| match &entry.outcome {
            Outcome::Served => None,
            outcome => Some(format!("{}: {}", log.via.name(), words(outcome))),
        };
        let goes_on =
            |log: &Log| log.entries.iter().any(|entry| after(entry) && entry.outcome == Outcome::Served);
        let errors =
            bystander.iter().flat_map(|log| log.entries.iter().filter_map(move |entry| fault(log, entry)));
        Self {
            requests_before: all(victim).filter(before).count(),
            ends: victim.iter().map(|log| End::find(log, call)).collect(),
            answered: call.answered.saturating_duration_since(call.sent),
            sessions_ended: call.sessions_ended,
            tried_after_answer: all(victim).filter(|entry| after(entry)).count(),
            served_after_answer: victim.iter().map(count).sum(),
            resumed,
            upload: None,
            bystander_requests: all(bystander).filter(|e| e.outcome == Outcome::Served).count(),
            bystander_errors: errors.collect(),
            bystander_idle: bystander.iter().filter(|log| !goes_on(log)).map(|log| log.via).collect(),
        }
    }

    /// What should have been seen and was not; empty if all was.
    pub fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self.upload.iter().filter_map(UploadSighting::fault).collect();
        for end in &self.ends {
            if end.seen.is_none() {
                missing.push(format!("{}: neither refused nor cut", end.via.name()));
            }
        }
        if self.tried_after_answer == 0 {
            missing.push("nothing was tried after the answer".into());
        }
        if self.served_after_answer > 0 {
            missing.push(format!("{} served after the answer", self.served_after_answer));
        }
        if let Resumption::Other(what) = &self.resumed {
            missing.push(format!("resumed TLS session: not refused, but {what}"));
        }
        if let Some(first) = self.bystander_errors.first() {
            let count = self.bystander_errors.len();
            missing.push(format!("the other agent lost something: {count} errors, first {first}"));
        }
        for via in &self.bystander_idle {
            let name = via.name();
            missing.push(format!("the other agent was not served on: {name}"));
        }
        missing
    }

    /// As one JSON object: times in whole microseconds since the revoke call was sent, `null` for what did not come.
    pub fn to_json(&self) -> Value {
        let mut document = json!({
            "requests_before": self.requests_before,
            "revoke_answered_us": micros(self.answered),
            "sessions_ended": self.sessions_ended,
            "tried_after_answer": self.tried_after_answer,
            "served_after_answer": self.served_after_answer,
            "resumed": match &self.resumed {
                Resumption::Refused => "refused",
                Resumption::Other(what) => what,
            },
            "upload": self.upload.as_ref().map(UploadSighting::to_json),
            "code": (self.resumed == Resumption::Refused).then_some(REFUSAL.1),
            "bystander_requests": self.bystander_requests,
            "bystander_errors": self.bystander_errors.len(),
            "not_seen": self.missing(),
        });
        for End { via, seen } in &self.ends {
            let key = via.key();
            document[format!("{key}_us")] = seen.as_ref().map(|(after, _)| micros(*after)).into();
            document[format!("{key}_end")] = seen.as_ref().map(|(_, how)| words(how)).into();
        }
        document
    }
}

impl End {
    /// The first that a connection was not served; only a proper refusal or a cut, after the call, is the end of it.
    fn find(log: &Log, call: &Call) -> Self {
        let first = log.entries.iter().find(|entry| entry.outcome != Outcome::Served);
        let proper = first.filter(|entry| {
            let fits = is_refusal(&entry.outcome) || matches!(entry.outcome, Outcome::Cut(_));
            fits && entry.at >= call.sent
        });
        let seen = proper.map(|entry| {
            let after = entry.at.saturating_duration_since(call.sent);
            (after, entry.outcome.clone())
        });
        Self { via: log.via, seen }
    }
}

/// Whether a request of the revoked agent was served after the answer; `made` is when the upstream made an answer.
fn is_late(call: &Call, entry: &Entry, made: Option<&Instant>) -> bool {
    let served = entry.outcome == Outcome::Served;
    if entry.sent.is_some_and(|sent| sent > call.answered) {
        return served || made.is_some();
    }
    served && made.is_some_and(|made| *made > call.answered)
}

fn is_refusal(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused(status, code) if (*status, code.as_str()) == REFUSAL)
}

/// An outcome in a few words.
pub fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Served => "served".into(),
        Outcome::Refused(status, code) => format!("refused ({status} {code})"),
        Outcome::Cut(_) => "cut".into(),
        Outcome::Unanswered => "not answered".into(),
    }
}

fn all(logs: &[Log]) -> impl Iterator<Item = &Entry> {
    logs.iter().flat_map(|log| &log.entries)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of (sent, at, outcome), in milliseconds since the call was sent.
    fn log(start: Instant, via: Via, entries: &[(i64, i64, Outcome)]) -> Log {
        let origin = start;
        let moment = |ms: i64| origin + Duration::from_millis(u64::try_from(ms + 1000).unwrap());
        let entry = |(number, (sent, at, outcome)): (usize, &(i64, i64, Outcome))| Entry {
            number: number as u64,
            sent: Some(moment(*sent)),
            at: moment(*at),
            outcome: outcome.clone(),
        };
        let entries = entries.iter().enumerate().map(entry).collect();
        Log { via, entries }
    }

    /// A revoke call that takes 10 ms, and a log of the revoked agent around it.
    fn see(entries: &[(i64, i64, Outcome)], made: &[(u64, i64)]) -> Sighting {
        let start = Instant::now();
        let moment = |ms: i64| start + Duration::from_millis(u64::try_from(ms + 1000).unwrap());
        let call = Call { sent: moment(0), answered: moment(10), sessions_ended: 1 };
        let served = made.iter().map(|(number, at)| (Via::Http1.label(*number), moment(*at))).collect();
        let victim = [log(start, Via::Http1, entries)];
        let bystander = [log(start, Via::Http1, &[(1, 2, Outcome::Served), (20, 21, Outcome::Served)])];
        Sighting::new(&call, &victim, &bystander, &served, Resumption::Refused)
    }

    fn refused() -> Outcome {
        Outcome::Refused(403, "principal_revoked".into())
    }

    #[test]
    fn an_end_is_a_cut_or_the_right_refusal_after_the_call() {
        let cut = || Outcome::Cut("reset".into());
        let seen = see(&[(-5, -4, Outcome::Served), (2, 3, cut()), (20, 21, refused())], &[]);
        assert_eq!(seen.missing(), Vec::<String>::new());
        let json = seen.to_json();
        assert_eq!((json["http1_us"].as_u64(), json["requests_before"].as_u64()), (Some(3000), Some(1)));
        for wrong in
            [(-5, -4, cut()), (2, 3, Outcome::Refused(502, String::new())), (2, 3, Outcome::Unanswered)]
        {
            let seen = see(&[wrong, (20, 21, refused())], &[]);
            assert_eq!(seen.missing(), ["HTTP/1.1: neither refused nor cut"]);
            assert!(seen.to_json()["http1_us"].is_null());
        }
    }

    #[test]
    fn a_request_sent_after_the_answer_is_late_even_if_only_the_upstream_saw_it() {
        let last = (30, 31, refused());
        let seen = see(&[(12, 13, Outcome::Served), last.clone()], &[]);
        assert_eq!(seen.served_after_answer, 1);
        let seen = see(&[(12, 13, Outcome::Cut("reset".into())), last], &[(0, 12)]);
        assert_eq!(seen.served_after_answer, 1);
    }

    #[test]
    fn a_request_sent_before_is_late_only_if_its_answer_was_made_after() {
        let entries = [(5, 15, Outcome::Served), (20, 21, refused())];
        assert_eq!(see(&entries, &[(0, 6)]).served_after_answer, 0);
        assert_eq!(see(&entries, &[(0, 12)]).served_after_answer, 1);
        let cut = [(5, 15, Outcome::Cut("reset".into())), (20, 21, refused())];
        assert_eq!(see(&cut, &[(0, 12)]).served_after_answer, 0);
    }

    #[test]
    fn a_sighting_without_a_try_after_the_answer_shows_nothing() {
        let seen = see(&[(2, 3, refused())], &[]);
        assert_eq!(seen.missing(), ["nothing was tried after the answer"]);
    }

    #[test]
    fn the_other_agent_must_be_served_before_and_after() {
        let start = Instant::now();
        let call = Call {
            sent: start + Duration::from_millis(1000),
            answered: start + Duration::from_millis(1010),
            sessions_ended: 1,
        };
        let bystander = [log(start, Via::Http2, &[(1, 2, Outcome::Served), (4, 5, Outcome::Unanswered)])];
        let seen = Sighting::new(&call, &[], &bystander, &HashMap::new(), Resumption::Refused);
        assert_eq!(seen.to_json()["bystander_errors"], 1);
        assert_eq!(
            seen.missing(),
            [
                "nothing was tried after the answer",
                "the other agent lost something: 1 errors, first HTTP/2: not answered",
                "the other agent was not served on: HTTP/2",
            ]
        );
    }
}
