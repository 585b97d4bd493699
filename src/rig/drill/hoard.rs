//! TLS sessions that are kept for later: what somebody would do who expects to be revoked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rustls::NamedGroup;
use rustls::client::ClientSessionStore;
use rustls::client::Tls12ClientSessionValue;
use rustls::client::Tls13ClientSessionValue;
use rustls::pki_types::ServerName;

/// The most sessions that are kept.
pub(super) const MOST: usize = 1024;

/// The sessions of one server. Each of TLS 1.3 is used once, the latest first; one of TLS 1.2 as often as needed.
#[derive(Debug, Default)]
pub(super) struct Hoard {
    kept: Mutex<Kept>,
    /// Sessions are kept and not used.
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    group: Option<NamedGroup>,
    older: Option<Tls12ClientSessionValue>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Hoard {
    pub(super) fn shared() -> Arc<Self> {
        Arc::default()
    }

    /// Whether sessions are used from now on.
    pub(super) fn open(&self, open: bool) {
        self.closed.store(!open, Ordering::Relaxed);
    }

    /// How many connections could show one.
    pub(super) fn len(&self) -> usize {
        let kept = self.kept();
        kept.tickets.len() + usize::from(kept.older.is_some()) * MOST
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }
}

impl ClientSessionStore for Hoard {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept().older = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().older.clone().filter(|_| self.is_open())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.kept().older = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        if kept.tickets.len() == MOST {
            kept.tickets.pop_front();
        }
        kept.tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        if self.is_open() { self.kept().tickets.pop_back() } else { None }
    }
}
