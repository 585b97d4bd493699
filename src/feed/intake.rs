//! The one way in: what a feed learned takes effect here, is measured, and only then may be acknowledged.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;

use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::revocation;
use crate::revocation::Action;
use crate::revocation::AmbiguousIssuer;
use crate::revocation::Arrival;
use crate::revocation::Engine;
use crate::revocation::Event;
use crate::revocation::JournalError;
use crate::revocation::Outcome;
use crate::revocation::Sightings;
use crate::revocation::Target;
use crate::revocation::Timeline;
use crate::revocation::Timelines;
use crate::revocation::crl;
use crate::revocation::crl::Crl;
use crate::revocation::crl::Issuers;
use crate::revocation::crl::Limits;
use crate::revocation::crl::Verdict;
use crate::revocation::crl::Verified;
use crate::revocation::token_list;
use crate::revocation::token_list::TokenList;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::LONGEST_REASON;
use crate::telemetry::Metrics;
use crate::telemetry::cut;

/// How long the sessions that a list has hit are waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where feeds hand in what they learned. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    engine: Arc<Engine>,
    timelines: Arc<Timelines>,
    clock: Clock,
    metrics: Metrics,
    witness: Option<Witness>,
    sightings: Option<Sightings>,
}

/// Puts on record what was taken in, before it is acknowledged. Fails loudly, and by itself.
pub type Witness = Arc<dyn Fn(Record) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What was taken in.
#[derive(Debug)]
pub enum Record {
    /// An event, with what became of it.
    Event {
        /// As it was told; its `at` as it was clamped is in `timeline`.
        event: Box<Event>,
        /// The generation of the set with it.
        generation: u64,
        /// Its stamps until now.
        timeline: Timeline,
    },
    /// A list that is new.
    List {
        /// The feed that brought it.
        feed: String,
        /// Who issued it.
        issuer: String,
        /// Which it is, in words.
        what: String,
        /// When it was issued.
        at: Timestamp,
        /// How many sessions it ended.
        sessions_ended: usize,
    },
}

/// An event that is in effect and on disk, or will never have an effect; whoever sent it may be told so.
#[must_use = "its timeline ends when its source was told"]
#[derive(Debug)]
pub struct Taken {
    id: String,
    target: Target,
    /// Absent of a reinstatement that a revocation outranks: it is settled, without effect.
    pub outcome: Option<Outcome>,
    denies: bool,
}

/// Why an event must come again. If it denies something, it does so already.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It is not on disk.
    #[error("the journal did not take it: {0}")]
    Journal(JournalError),
    /// Its issuer's name leads to several authorities.
    #[error("issuer: {0}")]
    Ambiguous(AmbiguousIssuer),
    /// So many sessions that it ended have not let go. They serve nothing any more.
    #[error("{0} sessions have not let go yet")]
    Sessions(usize),
}

/// What became of a revocation list.
#[derive(Debug)]
pub struct TakenList {
    /// What the list says about itself.
    pub crl: Crl,
    /// What it is to those that were known.
    pub verdict: Verdict,
    /// How many sessions it ended.
    pub sessions_ended: usize,
}

/// What became of a list of tokens.
#[derive(Debug)]
pub struct TakenTokens {
    /// What it is to the one that was known.
    pub verdict: Verdict,
    /// How many sessions it ended.
    pub sessions_ended: usize,
}

impl Intake {
    /// The way into an engine.
    pub fn new(engine: Arc<Engine>, timelines: Arc<Timelines>, clock: Clock, metrics: Metrics) -> Self {
        Self { engine, timelines, clock, metrics, witness: None, sightings: None }
    }

    /// The same, with everything that is taken in put on record.
    #[must_use]
    pub fn witnessed(self, witness: Witness) -> Self {
        Self { witness: Some(witness), ..self }
    }

    /// The same, with the targets counted that the gate has never seen.
    #[must_use]
    pub fn sighting(self, sightings: Sightings) -> Self {
        Self { sightings: Some(sightings), ..self }
    }

    /// What time it is, for who has received something just now.
    pub fn arrival(&self) -> Arrival {
        Arrival { at: self.clock.now(), instant: Instant::now() }
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes an event in: **publish, kill, persist**; a reinstatement: persist, publish. When this returns `Ok` it may be
    /// acknowledged. `event.source` is set to `feed`.
    ///
    /// # Errors
    /// It must come again. A revocation is in effect all the same.
    pub async fn take(&self, feed: &str, mut event: Event, arrival: Arrival) -> Result<Taken, NotTaken> {
        event.source = Some(feed.to_owned());
        event.target = self.resolve(&event.target)?;
        let (id, target, action) = (event.id.clone(), event.target.clone(), event.action);
        let what = cut(&format!("{} {target}", action.name()), LONGEST_NAME).into_owned();
        let settled = |why: &dyn std::fmt::Display| {
            tracing::warn!(feed, id, what, why = %cut(&why.to_string(), LONGEST_REASON), "an event without effect");
            Ok(Taken { id: id.clone(), target: target.clone(), denies: false, outcome: None })
        };
        if let Some(why) = self.outranked(&event) {
            return settled(&why);
        }
        let (told, waited) = (event.clone(), arrival.instant.elapsed());
        let outcome = match self.engine.apply(event).await {
            Ok(outcome) => outcome,
            Err(revocation::Error::Journal(error)) => return Err(NotTaken::Journal(error)),
            Err(
                error @ (revocation::Error::Revoked(_)
                | revocation::Error::Administered(_)
                | revocation::Error::Signed(_)
                | revocation::Error::Open { .. }),
            ) => {
                return settled(&error);
            }
        };
        // Before it can fail: what comes again for want of a disk took effect now.
        let timeline = Timeline::new(feed, arrival, waited, &outcome);
        self.timelines.note(&told, arrival, timeline);
        if let Err(error) = &outcome.durable {
            return Err(NotTaken::Journal(error.clone()));
        }
        if outcome.sessions_pending > 0 {
            return Err(NotTaken::Sessions(outcome.sessions_pending));
        }
        self.metrics.events.with_label_values(&[feed, action.name(), target.level().name()]).inc();
        let known = self.is_known(&target, &outcome).await;
        if !known {
            self.metrics.unknown_targets.with_label_values(&[feed, target.level().name()]).inc();
        }
        if !outcome.as_asked {
            self.metrics.overtaken.with_label_values(&[feed, action.name()]).inc();
            tracing::info!(feed, id, what, at = %outcome.at, "overtaken: a later event of the target outranks it");
        }
        if outcome.changed {
            tracing::info!(feed, id, what, known, sessions_ended = outcome.sessions_ended, "taken in");
        }
        if let Some(witness) = &self.witness
            && let Some(timeline) = self.timelines.unrecorded(&told)
        {
            let generation = outcome.generation;
            for other in &outcome.other_names {
                let timeline = Timeline { at: other.at, ..timeline.clone() };
                witness(Record::Event { event: Box::new(other.clone()), generation, timeline }).await;
            }
            witness(Record::Event { event: Box::new(told), generation, timeline }).await;
        }
        Ok(Taken { id, target, denies: action != Action::Reinstate, outcome: Some(outcome) })
    }

    /// Whether the gate knew a target before this event. Asked once the event is in effect. An unknown target is no fault:
    /// with a fan-out to many gates each of them is told of agents that only others see.
    async fn is_known(&self, target: &Target, outcome: &Outcome) -> bool {
        let Some(sightings) = self.sightings.clone() else { return true };
        if outcome.was_known || outcome.sessions_ended > 0 {
            return true;
        }
        let of = target.clone();
        tokio::task::spawn_blocking(move || sightings.include(&of)).await.unwrap_or(true)
    }

    /// The target that counts, see [`Engine::resolve`].
    pub fn resolve(&self, target: &Target) -> Result<Target, NotTaken> {
        self.engine.resolve(target).map_err(NotTaken::Ambiguous)
    }

    /// Why an event of a feed does not count: a reinstatement from the future would count anew each time that it comes.
    fn outranked(&self, event: &Event) -> Option<String> {
        let is_early = event.action == Action::Reinstate && self.engine.is_ahead(event);
        is_early.then(|| format!("a reinstatement that is dated {}, in the future", event.at))
    }

    /// The sources of these events were told: their timelines end.
    pub fn acknowledged(&self, taken: impl IntoIterator<Item = Taken>) {
        for taken in taken {
            let timeline = self.timelines.acknowledged(&taken.id, &taken.target);
            // The first time alone; of what lifts something no time to enforcement can be told.
            if let Some(timeline) = timeline.filter(|timeline| taken.denies && timeline.is_news) {
                timeline.stages().for_each(|(stage, after)| self.stage(&timeline.feed, stage, after));
            }
        }
    }

    /// Takes a revocation list in, from its bytes: verify, publish, kill. When this returns `Ok`, what it denies is denied
    /// and the sessions that it hit have ended; nothing is journalled: whoever fetched the list keeps it.
    pub async fn take_list(
        &self,
        feed: &str,
        bytes: Bytes,
        issuers: Arc<Issuers>,
        limits: Limits,
    ) -> Result<TakenList, crl::Error> {
        let (engine, arrival) = (Arc::clone(&self.engine), self.arrival());
        // It is hashed and read from end to end.
        let taken = tokio::task::spawn_blocking(move || {
            let verified = Verified::read(&bytes, &issuers, &limits, arrival.at)?;
            engine.take_in(verified)
        });
        let outcome = match taken.await {
            Ok(outcome) => outcome?,
            // It panicked, which the runtime has reported; or the process ends.
            Err(error) => return Err(crl::Error::NotAList(format!("it could not be read: {error}"))),
        };
        let effective = arrival.instant.elapsed();
        let pending = outcome.killed.ended(PATIENCE).await;
        let (crl, verdict) = (outcome.crl, outcome.verdict);
        let sessions_ended = outcome.killed.count();
        if verdict == Verdict::New {
            self.stages_of_list(feed, arrival, crl.this_update, (effective, pending));
            let (signer, number) = (&crl.issuer.name, crl.number.map(|number| number.to_string()));
            tracing::info!(
                feed, signer, number, entries = crl.entries, next_update = %crl.next_update, sessions_ended,
                sessions_pending = pending, "a revocation list is in effect"
            );
            if let Some(witness) = &self.witness {
                let number = crl.number.map_or_else(String::new, |number| format!(" {number}"));
                let what = format!("revocation list{number}, entries: {}", crl.entries);
                let (feed, issuer) = (feed.to_owned(), crl.issuer.name.clone());
                witness(Record::List { feed, issuer, what, at: crl.this_update, sessions_ended }).await;
            }
        }
        Ok(TakenList { crl, verdict, sessions_ended })
    }

    /// The same for a list of tokens, whose signature held.
    pub async fn take_tokens(&self, feed: &str, list: TokenList) -> Result<TakenTokens, token_list::Error> {
        let (engine, arrival) = (Arc::clone(&self.engine), self.arrival());
        let (issuer, at, entries) = (list.issuer.clone(), list.issued_at, list.entries.len());
        let what = format!("token list {}, entries: {entries}", list.id);
        let taken = tokio::task::spawn_blocking(move || engine.take_in_tokens(list)).await;
        let outcome = taken.unwrap_or_else(|error| Err(token_list::Error::Malformed(error.to_string())))?;
        let effective = arrival.instant.elapsed();
        let pending = outcome.killed.ended(PATIENCE).await;
        let (verdict, sessions_ended) = (outcome.verdict, outcome.killed.count());
        if verdict == Verdict::New {
            self.stages_of_list(feed, arrival, at, (effective, pending));
            tracing::info!(
                feed,
                issuer,
                what,
                sessions_ended,
                sessions_pending = pending,
                "a token list is in effect"
            );
            if let Some(witness) = &self.witness {
                witness(Record::List { feed: feed.to_owned(), issuer, what, at, sessions_ended }).await;
            }
        }
        Ok(TakenTokens { verdict, sessions_ended })
    }

    /// The same before anybody is served, of a list of tokens that was kept. Blocks.
    pub fn restore_tokens(&self, list: TokenList) -> Result<(), token_list::Error> {
        self.engine.take_in_tokens(list).map(drop)
    }

    /// The same before anybody is served, of a list that was kept: there are no sessions yet. Blocks.
    pub fn restore_list(&self, bytes: &Bytes, issuers: &Issuers, limits: &Limits) -> Result<Crl, crl::Error> {
        let verified = Verified::read(bytes, issuers, limits, self.now())?;
        Ok(self.engine.take_in(verified)?.crl)
    }

    /// What each list that is in force says about itself.
    pub fn lists(&self) -> Vec<Crl> {
        self.engine.lists()
    }

    /// When its entries were decided is for each of them another time: a list counts from when it was issued.
    fn stages_of_list(
        &self,
        feed: &str,
        arrival: Arrival,
        at: Timestamp,
        (effective, pending): (Duration, usize),
    ) {
        let late = arrival.at.since(at);
        self.stage(feed, "received", late);
        self.stage(feed, "effective", late + effective);
        if pending == 0 && !self.engine.break_glass().is_on() {
            self.stage(feed, "enforced", late + arrival.instant.elapsed());
        }
    }

    fn stage(&self, feed: &str, stage: &str, after: Duration) {
        self.metrics.enforced.with_label_values(&[feed, stage]).observe(after.as_secs_f64());
    }
}
