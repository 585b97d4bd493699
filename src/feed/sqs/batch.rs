//! What one receive brought: read, taken in, deleted.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::consumer::AGAIN;
use super::consumer::Consumer;
use super::consumer::Redrive;
use super::letter::Letter;
use super::progress::Ticket;
use super::quarantine::Entry;
use crate::feed::NotTaken;
use crate::feed::Taken;
use crate::feed::backoff::Backoff;
use crate::feed::message::Origin;
use crate::feed::message::Poison;
use crate::revocation::Arrival;
use crate::revocation::Event;
use crate::telemetry::LONGEST_REASON;
use crate::telemetry::cut;

/// How many parts of one message that are not understood the log is told of.
const MOST_TOLD: usize = 3;
/// How many events of one message are taken in at once.
const AT_ONCE: usize = 256;
/// The longest that a message which could not be taken in is put off, unless its visibility is longer.
pub(super) const MOST_PUT_OFF: Duration = Duration::from_secs(5 * 60);

/// One message in work.
struct Item {
    letter: Letter,
    format: &'static str,
    poison: Vec<Poison>,
    /// Nothing more is done about it: it may come again.
    let_go: Cell<bool>,
}

/// What became of the messages of one receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// Everything that was understood is in effect, on disk and deleted.
    pub(super) is_whole: bool,
    /// How many were not understood.
    pub(super) poison: usize,
}

impl Consumer<'_> {
    /// Takes in what one receive brought, and deletes what was taken in. What is left comes again by itself.
    pub(super) async fn take_in(&self, ticket: Ticket<'_>, letters: Vec<Letter>) -> Done {
        let wants = |letter: &Letter| self.sqs.certificates.wants(&self.sqs.reader, letter).is_some();
        let (wanting, ready): (Vec<_>, Vec<_>) = letters.into_iter().partition(wants);
        // What needs nothing waits for nobody.
        let (ready, wanting) = tokio::join!(self.process(ready), self.verify_and_process(wanting));
        let done =
            Done { is_whole: ready.is_whole & wanting.is_whole, poison: ready.poison + wanting.poison };
        if done.is_whole {
            drop(ticket);
            self.is_read();
        }
        done
    }

    /// The same for messages whose signatures cannot be verified before a certificate was fetched. Until then they are
    /// kept hidden, and the feed counts as not read: what they revoke is not in effect.
    async fn verify_and_process(&self, letters: Vec<Letter>) -> Done {
        if letters.is_empty() {
            return Done { is_whole: true, poison: 0 };
        }
        self.unverified.set(self.unverified.get() + 1);
        let learning = async {
            let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
            let learn = || self.sqs.certificates.learn(&self.sqs.reader, &letters, self.link.intake.now());
            while let Err(why) = learn().await {
                self.failed(&format!("{} messages cannot be verified yet: {why}", letters.len()));
                sleep(backoff.wait()).await;
            }
        };
        tokio::select! {
            () = learning => {}
            never = self.keep_hidden(|| letters.iter().collect()) => match never {},
        }
        self.unverified.set(self.unverified.get() - 1);
        self.process(letters).await
    }

    async fn process(&self, letters: Vec<Letter>) -> Done {
        if letters.is_empty() {
            return Done { is_whole: true, poison: 0 };
        }
        let arrival = self.link.intake.arrival();
        let (items, events): (Vec<_>, Vec<_>) =
            letters.into_iter().map(|letter| self.read(letter, arrival)).unzip();
        let in_work = || items.iter().filter(|item| !item.let_go.get()).map(|item| &item.letter).collect();
        let is_whole = tokio::select! {
            biased;
            is_whole = self.work(&items, events, arrival) => is_whole,
            never = self.keep_hidden(in_work) => match never {},
        };
        Done { is_whole, poison: items.iter().filter(|item| !item.poison.is_empty()).count() }
    }

    fn read(&self, letter: Letter, arrival: Arrival) -> (Item, Vec<Event>) {
        let origin = Origin { message_id: &letter.id, sent: letter.sent.unwrap_or(arrival.at) };
        let mut message = self.sqs.reader.read(&letter.body, &origin);
        message.events.retain(|event| match self.link.intake.resolve(&event.target) {
            Ok(_) => true,
            Err(ambiguous) => {
                let reason = ambiguous.to_string();
                message.poison.push(Poison { kind: "ambiguous_issuer", reason });
                false
            }
        });
        let (feed, message_id, receives) = (self.link.name(), &letter.id, letter.receives);
        for Poison { kind, .. } in &message.poison {
            self.link.intake.metrics().feeds.poison.with_label_values(&[feed, *kind]).inc();
        }
        for Poison { kind, reason } in message.poison.iter().take(MOST_TOLD) {
            let (parts, reason) = (message.poison.len(), &*cut(reason, LONGEST_REASON));
            tracing::warn!(feed, message_id, receives, kind, reason, parts, "a message is not understood");
        }
        for what in &message.irrelevant {
            tracing::debug!(feed, message_id, what, "a message concerns nobody here");
        }
        let result = match (message.poison.is_empty(), message.events.is_empty()) {
            (false, _) => Some("poison"),
            (true, true) => Some("ignored"),
            (true, false) => None,
        };
        result.into_iter().for_each(|result| self.count(message.format, result));
        let let_go = Cell::new(!message.poison.is_empty() && !self.is_due(&letter));
        let item = Item { letter, format: message.format, poison: message.poison, let_go };
        (item, message.events)
    }

    /// Whether a message that is not understood has come often enough.
    fn is_due(&self, letter: &Letter) -> bool {
        self.redrive.get() == Redrive::ByGate && letter.receives >= self.sqs.config.quarantine_after
    }

    /// Whether every event was taken in and every message that should be was deleted.
    async fn work(&self, items: &[Item], events: Vec<Vec<Event>>, arrival: Arrival) -> bool {
        // All at once: the journal writes them with one commit.
        let takes = items.iter().zip(events).map(|(item, events)| self.take(item, events, arrival));
        let (mut late, mut done, mut why) = (Vec::new(), Vec::new(), None);
        for (item, taken) in items.iter().zip(join_all(takes).await) {
            match taken {
                Ok(events) if self.may_go(item).await => done.push((item, events)),
                Ok(_) => item.let_go.set(true),
                Err(failed) => {
                    late.push((&item.letter, self.put_off(item.letter.receives)));
                    why = Some((&item.letter.id, failed));
                }
            }
        }
        let is_whole = late.is_empty();
        if let Some((id, why)) = why {
            let count = late.len();
            self.failed(&format!(
                "{count} messages, {id} among them, are not taken in and will come again: {why}"
            ));
        }
        let (deleted, ()) = tokio::join!(self.delete(done), self.hide(&late));
        is_whole & deleted
    }

    /// How long a message that could not be taken in stays hidden: longer each time, or a disk that is out for minutes
    /// would have its queue put it aside as received too often.
    fn put_off(&self, receives: u32) -> Duration {
        let visibility = self.sqs.config.visibility;
        visibility.saturating_mul(1 << receives.min(10)).min(MOST_PUT_OFF.max(visibility))
    }

    /// Takes the events of one message in; each of them, whatever becomes of the others.
    async fn take(&self, item: &Item, events: Vec<Event>, arrival: Arrival) -> Result<Vec<Taken>, NotTaken> {
        let (mut taken, mut failed) = (Vec::new(), None);
        let mut events = events.into_iter();
        loop {
            let some = events.by_ref().take(AT_ONCE);
            let takes = some.map(|event| self.link.intake.take(self.link.name(), event, arrival));
            let results = join_all(takes).await;
            if results.is_empty() {
                break;
            }
            for result in results {
                match result {
                    Ok(event) => taken.push(event),
                    Err(why) => failed = Some(why),
                }
            }
        }
        self.sqs.taken.fetch_add(taken.len() as u64, Ordering::Relaxed);
        if let Some(why) = failed {
            item.let_go.set(true);
            return Err(why);
        }
        if item.poison.is_empty() && !taken.is_empty() {
            let refused = taken.iter().all(|event| event.outcome.is_none());
            self.count(item.format, if refused { "refused" } else { "applied" });
        }
        Ok(taken)
    }

    /// Whether a message whose events were taken in may be deleted: it was understood, or is in quarantine.
    async fn may_go(&self, item: &Item) -> bool {
        let Some(Poison { kind, reason }) = item.poison.first() else { return true };
        let letter = &item.letter;
        if !self.is_due(letter) {
            return false;
        }
        let (message_id, receives) = (letter.id.clone(), letter.receives);
        let entry = Entry::new(self.link.intake.now(), letter.body.clone());
        let entry = Entry { message_id, receives, kind, reason: reason.clone(), ..entry };
        let kept = self.sqs.quarantine.keep(entry).await;
        let (feed, message_id, file) = (self.link.name(), &letter.id, self.sqs.quarantine.path().display());
        match kept {
            Ok(()) => {
                tracing::warn!(feed, message_id, receives, kind, %file, "a message was put into quarantine");
                self.count(item.format, "quarantined");
                true
            }
            Err(error) => {
                tracing::error!(feed, message_id, %file, %error, "a message cannot be put into quarantine, and stays in the queue");
                false
            }
        }
    }

    /// Deletes messages; whether all were. Those that were not come again, and change nothing.
    async fn delete(&self, done: Vec<(&Item, Vec<Taken>)>) -> bool {
        if done.is_empty() {
            return true;
        }
        let letters: Vec<&Letter> = done.iter().map(|(item, _)| &item.letter).collect();
        let left = match self.api.delete(&letters).await {
            Ok(left) => left,
            Err(fault) => {
                self.failed(&format!("{} messages were taken in and are not deleted: {fault}", done.len()));
                return false;
            }
        };
        let feed = self.link.name();
        self.progress.deleted(done.len() - left.len());
        for (place, (item, taken)) in done.into_iter().enumerate() {
            let message_id = &item.letter.id;
            match left.iter().find(|(failed, _)| *failed == place) {
                None => self.link.intake.acknowledged(taken),
                // It was received anew meanwhile, mostly: whoever has it then deletes it.
                Some((_, why)) => {
                    tracing::warn!(feed, message_id, why, "a message was taken in and is not deleted")
                }
            }
        }
        true
    }

    /// Keeps messages hidden from others for as long as they are worked on.
    async fn keep_hidden<'l>(&self, letters: impl Fn() -> Vec<&'l Letter>) -> Infallible {
        let visibility = self.sqs.config.visibility;
        loop {
            sleep(visibility / 3).await;
            let kept: Vec<_> = letters().into_iter().map(|letter| (letter, visibility)).collect();
            self.hide(&kept).await;
        }
    }

    async fn hide(&self, letters: &[(&Letter, Duration)]) {
        if letters.is_empty() {
            return;
        }
        let feed = self.link.name();
        let (messages, why) = match self.api.extend(letters).await {
            Ok(left) => (left.len(), left.into_iter().next().map(|(_, why)| why)),
            Err(fault) => (letters.len(), Some(fault.to_string())),
        };
        if let Some(why) = why {
            tracing::warn!(feed, messages, why, "messages are not kept hidden");
        }
    }

    fn count(&self, format: &str, result: &str) {
        let labels = [self.link.name(), format, result];
        self.link.intake.metrics().feeds.messages.with_label_values(&labels).inc();
    }
}
