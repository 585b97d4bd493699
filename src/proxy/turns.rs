//! Handshakes that go on at once, in one thread: bounded, and so that whoever opens many and finishes none keeps nobody
//! out for long.
//!
//! Beyond the bound connections wait in the kernel. Who waits takes the place of one that has not said a word, or else of
//! the oldest that has had its fair time: an honest client speaks at once, and is through after a few round trips.

use std::collections::VecDeque;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio::time::sleep_until;

use super::connection::Standing;

/// How long a handshake may take while others wait.
const FAIR: Duration = Duration::from_secs(1);
/// How long its client may be silent meanwhile: it has nothing to wait for.
const SILENCE: Duration = Duration::from_millis(250);

/// The handshakes of one thread.
pub(super) struct Turns {
    free: Arc<Semaphore>,
    /// The oldest first; some may be through.
    going: VecDeque<Going>,
    most: usize,
    /// Was told to go, and may not be gone yet.
    leaving: Option<AbortHandle>,
}

struct Going {
    task: AbortHandle,
    standing: Rc<Standing>,
    since: Instant,
}

impl Going {
    fn is_over(&self) -> bool {
        self.standing.shaken.get() || self.task.is_finished()
    }

    /// While others wait.
    fn turn_ends(&self) -> Instant {
        self.since + if self.standing.spoken.get() { FAIR } else { SILENCE }
    }
}

/// What became of a look for somebody who has to go.
enum Cut {
    /// Somebody goes.
    One,
    /// Nobody before then.
    NotBefore(Instant),
    /// There is nobody.
    Nobody,
}

impl Turns {
    pub(super) fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), going: VecDeque::new(), most, leaving: None }
    }

    /// Waits until one more handshake may begin. Where the listener is full of connections anyway (`full`) it makes room,
    /// and the one that goes is what the caller hears of.
    pub(super) async fn turn(&mut self, full: bool) -> OwnedSemaphorePermit {
        loop {
            while self.going.front().is_some_and(Going::is_over) {
                self.going.pop_front();
            }
            let free = Arc::clone(&self.free);
            if !full && let Ok(permit) = free.try_acquire_owned() {
                return permit;
            }
            let until = match self.cut() {
                Cut::NotBefore(at) => Some(at),
                Cut::One | Cut::Nobody => None,
            };
            let overdue = async {
                match until {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            let free = Arc::clone(&self.free);
            tokio::select! {
                Ok(permit) = free.acquire_owned(), if !full => return permit,
                () = overdue => {}
            }
        }
    }

    /// A handshake that has begun.
    pub(super) fn begun(&mut self, task: AbortHandle, standing: Rc<Standing>) {
        if self.going.len() > self.most.saturating_mul(2) {
            self.going.retain(|going| !going.is_over());
        }
        self.going.push_back(Going { task, standing, since: Instant::now() });
    }

    fn cut(&mut self) -> Cut {
        if self.leaving.as_ref().is_some_and(|task| !task.is_finished()) {
            return Cut::One;
        }
        self.going.retain(|going| !going.is_over());
        let turns = self.going.iter().map(Going::turn_ends).enumerate();
        let Some((first, ends)) = turns.min_by_key(|(_, ends)| *ends) else { return Cut::Nobody };
        if Instant::now() < ends {
            return Cut::NotBefore(ends);
        }
        if let Some(going) = self.going.remove(first) {
            going.task.abort();
            self.leaving = Some(going.task);
        }
        Cut::One
    }
}
