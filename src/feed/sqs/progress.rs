//! Whether the backlog that was there when the feed began has been taken in.
//!
//! **Invariant:** it has only when a poll has found nothing older than the feed, and whatever polls that were open at
//! that time brought has been dealt with.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;
use std::time::Instant;

use super::letter::Letter;

/// How far a feed has come since it began.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    /// The number of the next poll.
    next: Cell<u64>,
    /// Polls that wait, and those whose messages are being worked on.
    open: RefCell<BTreeSet<u64>>,
    /// The first poll that was begun after the end of the backlog was seen.
    end: Cell<Option<u64>>,
    caught_up: Cell<bool>,
    messages: Cell<u64>,
    /// Messages that were received and not deleted.
    held: Cell<u64>,
}

/// One poll and what it brought, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    progress: &'a Progress,
    number: u64,
    /// How long the feed had run when it began.
    age: Duration,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            next: Cell::new(0),
            open: RefCell::default(),
            end: Cell::new(None),
            caught_up: Cell::new(false),
            messages: Cell::new(0),
            held: Cell::new(0),
        }
    }

    /// A poll begins.
    pub(super) fn poll(&self) -> Ticket<'_> {
        let number = self.next.replace(self.next.get() + 1);
        self.open.borrow_mut().insert(number);
        Ticket { progress: self, number, age: self.age() }
    }

    /// A poll failed: what it may have been sent is hidden for a while, and nobody knows of it.
    pub(super) fn lost(&self) {
        self.end.set(None);
    }

    /// A poll found nothing, or nothing but what is younger than the feed.
    pub(super) fn saw_end(&self) {
        if self.end.get().is_none() {
            self.end.set(Some(self.next.get()));
        }
    }

    pub(super) fn received(&self, count: usize) {
        self.messages.set(self.messages.get() + count as u64);
        self.held.set(self.held.get() + count as u64);
    }

    pub(super) fn deleted(&self, count: usize) {
        self.held.set(self.held.get().saturating_sub(count as u64));
    }

    /// Whether it has caught up; `true` for the first time only if nothing from before the end is open any more.
    pub(super) fn has_caught_up(&self) -> bool {
        if self.caught_up.get() {
            return true;
        }
        let Some(end) = self.end.get() else { return false };
        let done = self.open.borrow().range(..end).next().is_none();
        self.caught_up.set(done);
        done
    }

    /// The same, without looking anew.
    pub(super) fn is_caught_up(&self) -> bool {
        self.caught_up.get()
    }

    /// How many messages were received.
    pub(super) fn messages(&self) -> u64 {
        self.messages.get()
    }

    /// How many messages were received and not deleted.
    pub(super) fn held(&self) -> u64 {
        self.held.get()
    }

    /// How long ago it began.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Ticket<'_> {
    /// Whether what the poll brought shows the end of the backlog. Only the queue's clock and how long the feed has run
    /// are compared: this machine's clock may be a day off. And how long it had run when the poll began, not when the
    /// answer was there, which may have been long on its way.
    pub(super) fn shows_end(&self, letters: &[Letter]) -> bool {
        letters.iter().all(|letter| letter.lay.is_some_and(|lay| lay < self.age))
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.progress.open.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_caught_up_once_what_was_open_at_the_end_is_done() {
        let progress = Progress::new();
        let (working, waiting, empty) = (progress.poll(), progress.poll(), progress.poll());
        drop(empty);
        assert!(!progress.has_caught_up());
        progress.saw_end();
        assert!(!progress.has_caught_up());
        drop(working);
        assert!(!progress.has_caught_up());
        // What comes after the end does not count.
        let _later = progress.poll();
        drop(waiting);
        assert!(progress.has_caught_up());
        progress.lost();
        assert!(progress.has_caught_up());
    }

    #[test]
    fn a_poll_that_was_lost_may_have_been_sent_something() {
        let progress = Progress::new();
        let lost = progress.poll();
        progress.saw_end();
        drop(lost);
        progress.lost();
        assert!(!progress.has_caught_up());
    }

    #[test]
    fn only_what_is_younger_than_the_feed_is_its_end() {
        let progress = Progress::new();
        let mut ticket = progress.poll();
        ticket.age = Duration::from_secs(60);
        let lay = |secs| Letter { lay: Some(Duration::from_secs(secs)), ..Letter::default() };
        assert!(ticket.shows_end(&[]));
        assert!(ticket.shows_end(&[lay(0), lay(59)]));
        assert!(!ticket.shows_end(&[lay(0), lay(60)]));
        assert!(!ticket.shows_end(&[Letter::default()]));
    }
}
