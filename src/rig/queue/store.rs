//! The messages of a queue: who may see which, and when again.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::Order;
use super::Settings;
use crate::clock::Clock;
use crate::clock::Timestamp;

/// The messages of one queue.
pub(super) struct Store {
    settings: Settings,
    clock: Clock,
    next: u64,
    messages: BTreeMap<u64, Message>,
    visible: BTreeSet<u64>,
    hidden: BTreeSet<(Instant, u64)>,
    deleted: BTreeSet<u64>,
    dead: Vec<String>,
}

struct Message {
    body: String,
    sent: Timestamp,
    first: Timestamp,
    receives: u32,
    /// Until when it is hidden, if it is.
    until: Option<Instant>,
}

impl Store {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            clock: Clock::system(),
            next: 0,
            messages: BTreeMap::new(),
            visible: BTreeSet::new(),
            hidden: BTreeSet::new(),
            deleted: BTreeSet::new(),
            dead: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, body: String) -> String {
        let number = self.next;
        self.next += 1;
        let now = self.clock.now();
        self.messages.insert(number, Message { body, sent: now, first: now, receives: 0, until: None });
        self.visible.insert(number);
        id(number)
    }

    /// Hands out at most so many messages, and hides them for a while.
    pub(super) fn receive(&mut self, most: usize, hide: Duration) -> Vec<Value> {
        self.reveal();
        let mut received = Vec::new();
        while received.len() < most
            && let Some(number) = self.pick()
        {
            received.extend(self.hand_out(number, hide));
        }
        received
    }

    /// When the next hidden message can be received again.
    pub(super) fn next_visible(&self) -> Option<Instant> {
        self.hidden.first().map(|(at, _)| *at)
    }

    /// Whether a receipt was known. What is not the latest of its message deletes nothing, as with the real one.
    pub(super) fn delete(&mut self, receipt: &str) -> bool {
        let Some((number, receives)) = read_receipt(receipt) else { return false };
        if self.messages.get(&number).is_some_and(|message| message.receives == receives)
            && let Some(message) = self.messages.remove(&number)
        {
            self.visible.remove(&number);
            if let Some(until) = message.until {
                self.hidden.remove(&(until, number));
            }
            self.deleted.insert(number);
        }
        true
    }

    /// Hides a message for another while, or shows it; whether the receipt was known.
    pub(super) fn hide(&mut self, receipt: &str, hide: Duration) -> bool {
        let Some((number, receives)) = read_receipt(receipt) else { return false };
        let Some(message) = self.messages.get_mut(&number).filter(|message| message.receives == receives)
        else {
            return false;
        };
        let Some(before) = message.until else { return false };
        let until = Instant::now() + hide;
        message.until = Some(until);
        self.hidden.remove(&(before, number));
        self.hidden.insert((until, number));
        true
    }

    pub(super) fn left(&self) -> usize {
        self.messages.len()
    }

    /// How many can be received, and how many are hidden.
    pub(super) fn about(&mut self) -> (usize, usize) {
        self.reveal();
        (self.visible.len(), self.hidden.len())
    }

    pub(super) fn settings(&self) -> Settings {
        self.settings
    }

    pub(super) fn deleted(&self) -> Vec<String> {
        self.deleted.iter().map(|number| id(*number)).collect()
    }

    pub(super) fn is_deleted(&self, message: &str) -> bool {
        let number = message.rsplit('-').next().and_then(|number| u64::from_str_radix(number, 16).ok());
        number.is_some_and(|number| self.deleted.contains(&number))
    }

    pub(super) fn receives(&self, message: &str) -> u32 {
        let found = self.messages.iter().find(|(number, _)| id(**number) == message);
        found.map_or(0, |(_, message)| message.receives)
    }

    pub(super) fn dead(&self) -> &[String] {
        &self.dead
    }

    fn reveal(&mut self) {
        let now = Instant::now();
        while let Some((until, number)) = self.hidden.first().copied()
            && until <= now
        {
            self.hidden.pop_first();
            self.visible.insert(number);
            self.messages.get_mut(&number).into_iter().for_each(|message| message.until = None);
        }
    }

    fn pick(&mut self) -> Option<u64> {
        match self.settings.order {
            Order::Sent => self.visible.pop_first(),
            Order::Reversed => self.visible.pop_last(),
            Order::Random => {
                let place = fastrand::usize(..self.visible.len().max(1));
                let number = self.visible.iter().nth(place).copied()?;
                self.visible.remove(&number);
                Some(number)
            }
        }
    }

    fn hand_out(&mut self, number: u64, hide: Duration) -> Option<Value> {
        let message = self.messages.get_mut(&number)?;
        if self.settings.max_receives.is_some_and(|most| message.receives >= most) {
            let dead = self.messages.remove(&number)?;
            self.dead.push(dead.body);
            return None;
        }
        if message.receives == 0 {
            message.first = self.clock.now();
        }
        message.receives += 1;
        if self.settings.twice && message.receives == 1 {
            self.visible.insert(number);
        } else {
            let until = Instant::now() + hide;
            message.until = Some(until);
            self.hidden.insert((until, number));
        }
        Some(json!({
            "MessageId": id(number),
            "ReceiptHandle": format!("{number}/{}", message.receives),
            "Body": message.body,
            "Attributes": {
                "ApproximateReceiveCount": message.receives.to_string(),
                "SentTimestamp": message.sent.millis().to_string(),
                "ApproximateFirstReceiveTimestamp": message.first.millis().to_string(),
            },
        }))
    }
}

fn id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

fn read_receipt(receipt: &str) -> Option<(u64, u32)> {
    let (number, receives) = receipt.split_once('/')?;
    Some((number.parse().ok()?, receives.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn receipt(message: &Value) -> String {
        message["ReceiptHandle"].as_str().unwrap().to_owned()
    }

    #[test]
    fn what_was_received_is_hidden_until_its_time_is_over() {
        let mut store = Store::new(Settings::default());
        store.push("a".into());
        let first = store.receive(10, Duration::ZERO);
        let second = store.receive(10, HOUR);
        assert_eq!((first.len(), second.len(), store.receive(10, HOUR).len()), (1, 1, 0));
        assert_eq!(second[0]["Attributes"]["ApproximateReceiveCount"], "2");
        // Of the first receive nothing is left.
        assert!(store.delete(&receipt(&first[0])));
        assert!(!store.hide(&receipt(&first[0]), HOUR));
        assert_eq!((store.left(), store.about()), (1, (0, 1)));
        assert!(store.hide(&receipt(&second[0]), Duration::ZERO));
        assert_eq!(store.about(), (1, 0));
        assert!(store.delete(&receipt(&second[0])));
        assert_eq!((store.left(), store.deleted().len(), store.about()), (0, 1, (0, 0)));
    }

    #[test]
    fn what_comes_too_often_goes_to_the_dead_letters() {
        let mut store = Store::new(Settings { max_receives: Some(2), ..Settings::default() });
        store.push("a".into());
        for left in [1, 1, 0] {
            assert_eq!(store.receive(1, Duration::ZERO).len(), left);
        }
        assert_eq!((store.dead(), store.left()), (["a".to_owned()].as_slice(), 0));
    }

    #[test]
    fn twice_means_twice_at_once() {
        let mut store = Store::new(Settings { twice: true, order: Order::Reversed, ..Settings::default() });
        for body in ["a", "b"] {
            store.push(body.into());
        }
        let bodies: Vec<_> = store.receive(10, HOUR).iter().map(|m| m["Body"].to_string()).collect();
        assert_eq!(bodies, ["\"b\"", "\"b\"", "\"a\"", "\"a\""]);
    }
}
