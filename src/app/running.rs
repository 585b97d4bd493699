//! The running process: its addresses, its threads, and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::supervisor::Notices;
use super::threads::Thread;
use crate::authority::Audit;
use crate::revocation::Engine;
use crate::revocation::Registry;
use crate::telemetry::AccessLogWriter;

/// How often it is looked whether a thread has ended.
const LOOK: Duration = Duration::from_millis(250);

/// A running process: its addresses, and the way to end it.
pub struct Running {
    /// Where the gate listens.
    pub gate: SocketAddr,
    /// Where the admin API listens.
    pub admin: Option<SocketAddr>,
    /// Where metrics and health are.
    pub metrics: Option<SocketAddr>,
    pub(super) engine: Arc<Engine>,
    pub(super) registry: Arc<Registry>,
    pub(super) drain_gate: watch::Sender<bool>,
    pub(super) drain_operations: watch::Sender<bool>,
    pub(super) gates: Vec<Thread<usize>>,
    pub(super) operations: Thread<()>,
    pub(super) feeds: Thread<()>,
    pub(super) audit: Option<Audit>,
    pub(super) notices: Arc<Notices>,
    pub(super) drain: Duration,
    pub(super) access_log: Option<AccessLogWriter>,
}

impl Running {
    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The certificates that were seen.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Has the access log's file opened again, after it was moved away.
    pub fn reopen_logs(&self) {
        match &self.access_log {
            Some(log) => log.reopen(),
            None => tracing::info!(
                "there is no access log to open again; configuration and certificates are not read again"
            ),
        }
    }

    /// Waits until a thread has ended that is needed for as long as the process runs, and returns what it is called. Never
    /// returns of a process whose threads are well.
    pub async fn failed(&self) -> String {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            if let Some(thread) = self.ended() {
                return thread;
            }
        }
    }

    fn ended(&self) -> Option<String> {
        let others = [self.operations.ended(), self.feeds.ended()];
        let ended = self.gates.iter().map(Thread::ended).chain(others).flatten().next();
        let is_over = |over: bool, name: &str| over.then(|| name.to_owned());
        ended
            .map(str::to_owned)
            .or_else(|| is_over(self.engine.has_journal_ended(), "journal"))
            .or_else(|| is_over(self.audit.as_ref().is_some_and(Audit::has_ended), "audit"))
            .or_else(|| {
                is_over(self.access_log.as_ref().is_some_and(AccessLogWriter::has_ended), "access-log")
            })
    }

    /// Drains: no new connections, open ones end within the configured time; admin and journal go on until then.
    /// Returns how many connections were cut.
    pub fn stop(self) -> usize {
        tracing::info!(sessions = self.engine.sessions().len(), "draining");
        self.notices.stopping(self.drain);
        self.drain_gate.send_replace(true);
        let cut = self.gates.into_iter().filter_map(Thread::join).sum();
        self.drain_operations.send_replace(true);
        self.feeds.join();
        self.operations.join();
        self.registry.flush();
        self.registry.keep_authorities(self.engine.authorities());
        self.access_log.into_iter().for_each(AccessLogWriter::finish);
        tracing::info!(cut, "portcullis is down");
        cut
    }
}
