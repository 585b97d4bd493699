//! What the API takes on at once, so that nobody's questions keep a revocation waiting.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;
use tokio::task::spawn_blocking;

use super::Api;
use super::refusal::Refusal;
use crate::telemetry::LineLimiter;

/// What long bodies may hold in memory together, KiB.
const BODIES: usize = 64 * 1024;
/// Questions that go through files or through all entries, at once.
const READING: usize = 2;

/// What is under way.
pub struct Load {
    bodies: Semaphore,
    reading: Arc<Semaphore>,
    /// The lines of the audit that callers cause who are not let in, or who call too often.
    pub(super) refusals: LineLimiter,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            bodies: Semaphore::new(BODIES),
            reading: Arc::new(Semaphore::new(READING)),
            refusals: LineLimiter::default(),
        }
    }
}

impl Load {
    /// Room for a body of so many bytes, while it is read and worked on.
    pub(super) fn room_for(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Refusal> {
        let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        self.bodies.try_acquire_many(wanted).map_err(|_| Refusal::busy())
    }
}

impl Api {
    /// Answers a question on a thread where it may take its time, a few at once.
    pub(super) async fn at_leisure<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = Arc::clone(&self.load.reading).acquire_owned().await;
        let api = Arc::clone(self);
        let reading = spawn_blocking(move || {
            // Held until it is through, whether its caller waits for it or not.
            let _turn = turn;
            read(&api)
        });
        reading.await.map_err(|e| Refusal::internal(e.to_string()))
    }
}
