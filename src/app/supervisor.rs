//! The service manager that started the process: the sockets that it holds, and what it is told (`sd_notify(3)`).
//!
//! Without systemd (no `NOTIFY_SOCKET`, no `LISTEN_FDS`) there is none, and all of this does nothing.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::Error;
use super::inherited::Inherited;

/// How often what is told of the state is brought up to date.
const STATUS: Duration = Duration::from_secs(2);
/// Beyond the drain: what the journal, the audit and the registry take to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Who started the process, and watches over it.
#[derive(Default)]
pub struct Supervisor {
    pub(super) sockets: Inherited,
    pub(super) notices: Notices,
    /// Why it cannot be told anything.
    pub(super) fault: Option<io::Error>,
}

impl Supervisor {
    /// Nobody.
    pub fn none() -> Self {
        Self::default()
    }

    /// Who is told of by the environment. To be called before the process has a second thread.
    ///
    /// # Errors
    /// A socket that was handed over, but is none to listen on.
    pub fn from_environment() -> Result<Self, Error> {
        let sockets = Inherited::from_environment()?;
        Ok(match Notices::from_environment() {
            Ok(notices) => Self { sockets, notices, fault: None },
            Err(fault) => Self { sockets, notices: Notices::default(), fault: Some(fault) },
        })
    }
}

/// What the service manager is told.
#[derive(Default)]
pub(super) struct Notices {
    /// Kept open: there may be no descriptor left when there is something to tell.
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notices {
    fn from_environment() -> io::Result<Self> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Self::default()) };
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros);
        Ok(Self { socket: Some(connect(&path)?), watchdog })
    }

    fn tell(&self, news: &str) {
        let sent = self.socket.as_ref().map_or(Ok(0), |socket| socket.send(news.as_bytes()));
        if let Err(error) = sent {
            tracing::debug!(%error, "the service manager was not told");
        }
    }

    /// Every listener serves. Whether traffic should come here is another question, that of `/readyz`.
    pub(super) fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// The drain has begun, and takes so long at most.
    pub(super) fn stopping(&self, drain: Duration) {
        let usec = drain.saturating_add(FAREWELL).as_micros();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={usec}\nSTATUS=draining"));
    }

    /// Says how things are, and that every thread is alive, for as long as that is so.
    pub(super) async fn watch(
        &self,
        status: impl Fn() -> String,
        threads: Vec<Weak<AtomicU64>>,
        drain: watch::Receiver<bool>,
    ) {
        if self.socket.is_none() {
            return;
        }
        let mut turns = tokio::time::interval(self.watchdog.map_or(STATUS, |limit| (limit / 2).min(STATUS)));
        let mut feeding = tokio::time::interval(self.watchdog.map_or(STATUS, |limit| limit / 2));
        let (mut told, mut beats) = (String::new(), Vec::new());
        loop {
            tokio::select! {
                _ = turns.tick() => {
                    let now = status();
                    if now != told && !*drain.borrow() {
                        self.tell(&format!("STATUS={now}"));
                        told = now;
                    }
                }
                _ = feeding.tick(), if self.watchdog.is_some() => {
                    if all_alive(&threads, &mut beats, *drain.borrow()) {
                        self.tell("WATCHDOG=1");
                    } else {
                        tracing::error!("a gate's thread is stuck: the watchdog is not fed");
                    }
                }
            }
        }
    }

    /// How often a thread has to give a sign of life; `None` where nobody looks.
    pub(super) fn pulse(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 8)
    }
}

/// Counts up in the thread whose runtime runs it.
pub(super) async fn beat(pulse: Arc<AtomicU64>, every: Duration) {
    let mut turns = tokio::time::interval(every);
    loop {
        turns.tick().await;
        pulse.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether each thread has counted up since the last look. One that has ended is missed, unless it drains.
fn all_alive(threads: &[Weak<AtomicU64>], last: &mut Vec<u64>, draining: bool) -> bool {
    let beats: Vec<Option<u64>> =
        threads.iter().map(|pulse| pulse.upgrade().map(|pulse| pulse.load(Ordering::Relaxed))).collect();
    let moved = |(i, beat): (usize, &Option<u64>)| match beat {
        Some(beat) => last.get(i).is_none_or(|last| last != beat),
        None => draining,
    };
    let alive = beats.iter().enumerate().all(moved);
    *last = beats.into_iter().map(Option::unwrap_or_default).collect();
    alive
}

fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // Whoever does not read is not waited for.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_stands_still_is_noticed() {
        let (one, two) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let threads = [Arc::downgrade(&one), Arc::downgrade(&two)];
        let mut last = Vec::new();
        assert!(all_alive(&threads, &mut last, false));
        one.fetch_add(1, Ordering::Relaxed);
        assert!(!all_alive(&threads, &mut last, false));
        two.fetch_add(1, Ordering::Relaxed);
        one.fetch_add(1, Ordering::Relaxed);
        assert!(all_alive(&threads, &mut last, false));
        drop(one);
        two.fetch_add(1, Ordering::Relaxed);
        assert!(!all_alive(&threads, &mut last, false));
        two.fetch_add(1, Ordering::Relaxed);
        assert!(all_alive(&threads, &mut last, true));
    }
}
