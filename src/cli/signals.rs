//! The signals that ask a command to end.

use std::io;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::time::Instant;
use tokio::time::timeout_at;

/// What comes sooner after the first signal is that one again: supervisors and `timeout` send it twice.
const REPEATED: Duration = Duration::from_secs(1);

/// SIGTERM and Ctrl-C. From when it is made on, they no longer end the process by themselves.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// SIGHUP, or SIGUSR1 as some send for the same: a log's file was moved away.
pub(super) struct HangUps {
    hang_up: Signal,
    user: Signal,
}

impl HangUps {
    /// Starts to listen; must be called within a runtime.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { hang_up: signal(SignalKind::hangup())?, user: signal(SignalKind::user_defined1())? })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.hang_up.recv() => {}
            _ = self.user.recv() => {}
        }
    }
}

impl Signals {
    /// Starts to listen; must be called within a runtime.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for another of them, after the first: not for that one repeated.
    pub(super) async fn received_again(&mut self) {
        let repeated = Instant::now() + REPEATED;
        while timeout_at(repeated, self.received()).await.is_ok() {}
        self.received().await;
    }
}
