//! The loops of the consumer: those that receive, the one that looks when it is asked to, the one that watches the queue.
//!
//! A receiver goes on polling while what it received is worked on, up to a bound: a disk that hangs must not keep what
//! comes next from taking effect.

use std::cell::Cell;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio::time::timeout;

use super::Sqs;
use super::api::AT_ONCE;
use super::api::Api;
use super::batch::MOST_PUT_OFF;
use super::fault::Fault;
use super::letter::Letter;
use super::progress::Progress;
use super::progress::Ticket;
use crate::feed::Link;
use crate::feed::backoff::Backoff;
use crate::feed::backoff::jitter;
use crate::revocation::Asked;

/// How many receives of one receiver are worked on at once.
const IN_HAND: usize = 16;
/// The longest that a receiver rests.
const REST: Duration = Duration::from_millis(50);
/// How long what is in hand may take once the feed is to stop.
const FINISH: Duration = Duration::from_secs(10);
/// How long a poll waits while a backlog is taken in, or somebody waits for the answer.
const BRIEFLY: Duration = Duration::from_secs(1);
/// How long to wait after a failure, at first and at most: who is without news for longer lets revoked peers in.
pub(super) const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How often the log is told how far a backlog has been taken in.
const TELL: Duration = Duration::from_secs(10);

/// What becomes of a message that nobody understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redrive {
    /// The queue puts it aside by itself, or may: nothing is known of it.
    ByQueue,
    /// Nobody but this gate does.
    ByGate,
}

/// One run of the consumer.
pub(super) struct Consumer<'a> {
    pub(super) sqs: &'a Sqs,
    pub(super) link: &'a Link,
    pub(super) api: Api,
    pub(super) progress: Progress,
    pub(super) redrive: Cell<Redrive>,
    /// Receives with messages that cannot be verified yet.
    pub(super) unverified: Cell<usize>,
    /// Ends every wait that a failure began.
    wake: Notify,
    caught_up_told: Cell<bool>,
    /// Whether a receiver rests: the others poll meanwhile.
    resting: Cell<bool>,
}

impl<'a> Consumer<'a> {
    pub(super) fn new(sqs: &'a Sqs, link: &'a Link, api: Api) -> Self {
        let (progress, redrive, wake) = (Progress::new(), Cell::new(Redrive::ByQueue), Notify::new());
        let (unverified, caught_up_told, resting) = (Cell::new(0), Cell::new(false), Cell::new(false));
        Self { sqs, link, api, progress, redrive, unverified, wake, caught_up_told, resting }
    }

    /// Receives until `stop`, then finishes what is in hand.
    pub(super) async fn run(&self, stop: watch::Receiver<bool>) {
        let receivers = join_all((0..self.sqs.config.receivers).map(|_| self.receive(stop.clone())));
        tokio::join!(receivers, self.answer_those_who_ask(stop.clone()), self.watch(stop));
    }

    async fn receive(&self, mut stop: watch::Receiver<bool>) {
        let mut in_hand = FuturesUnordered::new();
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        loop {
            let mut poll = pin!(self.poll(&mut backoff));
            let received = loop {
                // Never begun without room: what a poll that nobody attends to is sent would run out of time.
                let has_room = in_hand.len() < IN_HAND;
                tokio::select! {
                    biased;
                    // A sender that is gone means the same. The poll is given up: what it may be sent comes again.
                    _ = stop.wait_for(|stop| *stop) => break None,
                    Some(()) = in_hand.next() => {}
                    received = &mut poll, if has_room => break Some(received),
                }
            };
            match received {
                Some((ticket, letters)) => {
                    let rests = self.may_rest(letters.len()) && !self.resting.replace(true);
                    in_hand.push(async move {
                        let _ = self.take_in(ticket, letters).await;
                    });
                    if rests {
                        // Until the first of them is done.
                        let _ = timeout(REST, in_hand.next()).await;
                        self.resting.set(false);
                    }
                }
                None => break,
            }
        }
        let finished = timeout(FINISH, in_hand.by_ref().collect::<()>()).await;
        if finished.is_err() {
            let (feed, messages) = (self.link.name(), self.progress.held());
            tracing::warn!(feed, messages, "not everything that was received is done; it will come again");
        }
    }

    /// Whether a receiver may leave the next poll to the others until what it received is done: what a poll costs then
    /// takes nothing from the sessions that are being ended. Never where more messages may wait.
    fn may_rest(&self, received: usize) -> bool {
        let more = received >= AT_ONCE.into() || !self.progress.is_caught_up();
        received > 0 && self.sqs.config.receivers > 1 && !more
    }

    /// Polls until something or nothing is received, however often that fails.
    async fn poll(&self, backoff: &mut Backoff) -> (Ticket<'_>, Vec<Letter>) {
        loop {
            let ticket = self.progress.poll();
            let wait = if self.progress.is_caught_up() { self.sqs.config.wait } else { BRIEFLY };
            let begun = Instant::now();
            match self.received(&ticket, self.api.receive(wait).await).await {
                Ok(letters) => {
                    backoff.reset();
                    if letters.is_empty() && begun.elapsed() < wait / 2 {
                        // What does not know long polls must not be asked a thousand times a second.
                        sleep(jitter(BRIEFLY)).await;
                    }
                    return (ticket, letters);
                }
                Err(_) => drop(ticket),
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(backoff.wait()) => {}
            }
        }
    }

    /// Notes what came of a poll.
    async fn received(
        &self,
        ticket: &Ticket<'_>,
        received: Result<Vec<Letter>, Fault>,
    ) -> Result<Vec<Letter>, String> {
        let polls = &self.link.intake.metrics().feeds.polls;
        match received {
            Ok(letters) => {
                polls.with_label_values(&[self.link.name(), "ok"]).inc();
                self.progress.received(letters.len());
                let at_end = !self.progress.is_caught_up() && ticket.shows_end(&letters);
                if at_end && !self.others_hold_some().await {
                    self.progress.saw_end();
                }
                Ok(letters)
            }
            Err(fault) => {
                polls.with_label_values(&[self.link.name(), "failed"]).inc();
                self.progress.lost();
                self.failed(&fault.to_string());
                Err(fault.to_string())
            }
        }
    }

    /// Whether some messages may be hidden that a process before this one received and did not live to take in: they
    /// come again, and until then nobody has caught up. Where it cannot be told it is waited for as long as most are hidden.
    async fn others_hold_some(&self) -> bool {
        let (age, visibility) = (self.progress.age(), self.sqs.config.visibility);
        match self.api.attributes().await {
            Ok(attributes) => attributes.hidden > self.progress.held() && age < visibility.max(MOST_PUT_OFF),
            Err(_) => age < visibility,
        }
    }

    pub(super) fn failed(&self, why: &str) {
        tracing::warn!(feed = self.link.name(), why, "the queue");
        self.link.freshness.failed(self.link.intake.now(), why);
    }

    /// The queue was read, and everything that it said is in effect.
    pub(super) fn is_read(&self) {
        if self.unverified.get() > 0 || !self.progress.has_caught_up() {
            return;
        }
        let (feed, events) = (self.link.name(), self.sqs.taken.load(Ordering::Relaxed));
        if !self.caught_up_told.replace(true) {
            let (messages, seconds) = (self.progress.messages(), self.progress.age().as_secs_f64());
            tracing::info!(feed, messages, events, seconds, "caught up with the queue");
        }
        self.link.freshness.read(self.link.intake.now(), None, events);
    }

    /// Looks at the queue now, whatever the receivers wait for, whenever somebody asks.
    async fn answer_those_who_ask(&self, mut stop: watch::Receiver<bool>) {
        let mut asked = self.link.asked.lock().await;
        loop {
            let first = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                first = asked.recv() => first,
            };
            let Some(first) = first else { return };
            let mut all = vec![first];
            while let Ok(another) = asked.try_recv() {
                all.push(another);
            }
            self.wake.notify_waiters();
            let Some(result) = self.look(&mut stop).await else { return };
            all.into_iter().for_each(|asked: Asked| asked.answer(result.clone()));
        }
    }

    /// One poll of its own; `None` if the feed is to stop.
    async fn look(&self, stop: &mut watch::Receiver<bool>) -> Option<Result<String, String>> {
        let ticket = self.progress.poll();
        let received = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return None,
            received = self.api.receive(BRIEFLY) => received,
        };
        let letters = match self.received(&ticket, received).await {
            Ok(letters) => letters,
            Err(why) => return Some(Err(why)),
        };
        let count = letters.len();
        let Ok(done) = timeout(FINISH, self.take_in(ticket, letters)).await else {
            self.progress.lost();
            return Some(Err(format!(
                "{count} messages were received and are not all in effect yet; they come again"
            )));
        };
        Some(match (done.is_whole, done.poison) {
            (false, _) => {
                Err(format!("{count} messages were received and not all taken in; they come again"))
            }
            (true, 0) => Ok(format!("{count} messages")),
            (true, poison) => Ok(format!("{count} messages, {poison} of them not understood")),
        })
    }

    /// Learns what the queue does with messages that nobody understands, and tells the log how far a backlog is taken in.
    async fn watch(&self, mut stop: watch::Receiver<bool>) {
        let watching = async {
            self.learn_redrive().await;
            loop {
                sleep(TELL).await;
                if self.progress.is_caught_up() {
                    return;
                }
                let waiting = self.api.attributes().await.ok().map(|attributes| attributes.waiting);
                let (feed, messages) = (self.link.name(), self.progress.messages());
                let left = waiting.map_or_else(|| "unknown".to_owned(), |waiting| format!("about {waiting}"));
                tracing::info!(feed, messages, left, "the queue's backlog is being taken in");
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = watching => {}
        }
    }

    async fn learn_redrive(&self) {
        let feed = self.link.name();
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        let why = loop {
            match self.api.attributes().await {
                Ok(attributes) if attributes.redrives => return,
                Ok(_) => break None,
                Err(fault) if fault.denied => break Some(fault),
                // Whoever polls says what is wrong.
                Err(_) => sleep(backoff.wait()).await,
            }
        };
        if let Some(why) = why {
            tracing::warn!(feed, %why, "whether this queue has a redrive policy cannot be told: nothing is put into quarantine");
            return;
        }
        self.redrive.set(Redrive::ByGate);
        let (after, file) = (self.sqs.config.quarantine_after, self.sqs.quarantine.path().display());
        tracing::warn!(
            feed, queue = self.api.queue(), after, %file,
            "this queue has no redrive policy: what is not understood is put into quarantine after so many receives"
        );
    }
}
