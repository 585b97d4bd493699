//! One live session, and the guards that keep it so.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use rustix::net::connect_unspec;
use tokio::sync::Notify;

use super::Cause;
use super::Credential;
use super::SessionId;
use super::Sessions;
use crate::clock::Timestamp;

/// No generation: a credential that was not yet held against any.
const NEVER: u64 = u64::MAX;

/// Where a session came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The address at the other end.
    pub peer: SocketAddr,
    /// The listener: `gate` or `admin`.
    pub listener: &'static str,
    /// What is spoken: `http/1.1` or `http/2`.
    pub protocol: &'static str,
}

/// One live session.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    origin: Origin,
    since: Timestamp,
    credential: Arc<Credential>,
    seen: AtomicU64,
    cause: OnceLock<Cause>,
    killed: Notify,
    guards: AtomicUsize,
    /// The last guard is gone, and the table has let go of it.
    over: AtomicBool,
    ended: Notify,
    /// A handle of the killer's own on the socket, for the case that the thread that serves it is stuck.
    socket: Mutex<Option<OwnedFd>>,
    /// It was served although it would have been refused: see [`Session::tolerate`].
    tolerated: AtomicBool,
}

impl Session {
    pub(super) fn new(id: SessionId, credential: Arc<Credential>, origin: Origin, since: Timestamp) -> Self {
        Self {
            id,
            origin,
            since,
            credential,
            seen: AtomicU64::new(NEVER),
            cause: OnceLock::new(),
            killed: Notify::new(),
            guards: AtomicUsize::new(1),
            over: AtomicBool::new(false),
            ended: Notify::new(),
            socket: Mutex::new(None),
            tolerated: AtomicBool::new(false),
        }
    }

    /// Its name.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// What can revoke it.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The address at the other end.
    pub fn peer(&self) -> SocketAddr {
        self.origin.peer
    }

    /// The listener that it came in by: `gate` or `admin`.
    pub fn listener(&self) -> &'static str {
        self.origin.listener
    }

    /// What it speaks: `http/1.1` or `http/2`.
    pub fn protocol(&self) -> &'static str {
        self.origin.protocol
    }

    /// When it began.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Why it was killed; `None` while it lives.
    pub fn cause(&self) -> Option<&Cause> {
        self.cause.get()
    }

    /// The generation of the revocation set that the credential was last held against.
    #[inline]
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Notes that the credential was held against `generation`, which was read before the set was.
    pub fn set_seen(&self, generation: u64) {
        self.seen.store(generation, Ordering::Relaxed);
    }

    /// Ends the session: whoever watches [`Guard::killed`] learns the cause. The first cause stays; says whether this
    /// was it.
    pub fn kill(&self, cause: Cause) -> bool {
        let first = self.cause.set(cause).is_ok();
        if first {
            self.killed.notify_waiters();
        }
        first
    }

    /// Waits until the session is killed. A dropped table or session never looks like a kill.
    pub async fn killed(&self) -> &Cause {
        loop {
            let killed = self.killed.notified();
            let mut killed = std::pin::pin!(killed);
            killed.as_mut().enable();
            if let Some(cause) = self.cause() {
                return cause;
            }
            killed.await;
        }
    }

    /// Notes that it is served only for as long as nothing is enforced, whatever the set says of its credential.
    pub fn tolerate(&self) {
        self.tolerated.store(true, Ordering::SeqCst);
    }

    /// Whether it is.
    pub fn is_tolerated(&self) -> bool {
        self.tolerated.load(Ordering::SeqCst)
    }

    /// Gives the killer a handle on the session's socket.
    pub fn attach(&self, socket: OwnedFd) {
        *self.socket() = Some(socket);
    }

    /// Another handle on the session's socket, if the killer has one.
    pub fn handle(&self) -> Option<OwnedFd> {
        self.socket().as_ref().and_then(|socket| socket.try_clone().ok())
    }

    /// Takes it away again, before the socket is closed: a socket lives for as long as anybody has a handle on it.
    pub fn detach(&self) {
        self.socket().take();
    }

    /// Resets the connection from outside, and throws away what the kernel had not yet delivered of it (a connect to
    /// `AF_UNSPEC` aborts a TCP connection). Says whether there was one to reset, or it was closed already.
    pub(super) fn cut(&self) -> bool {
        let socket = self.socket().take();
        socket.map_or(self.is_over(), |socket| connect_unspec(&socket).is_ok())
    }

    fn socket(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last guard is gone, and nobody who lists sessions finds it any more.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits until the last guard is gone.
    pub async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            if self.is_over() {
                return;
            }
            ended.await;
        }
    }
}

/// Keeps a session in the table; one for each task or body that acts on its behalf.
#[derive(Debug)]
pub struct Guard {
    session: Arc<Session>,
    table: Arc<Sessions>,
}

impl Guard {
    /// The first guard of a session.
    pub(super) fn new(session: Arc<Session>, table: Arc<Sessions>) -> Self {
        Self { session, table }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, for somebody who does not keep it in the table.
    pub fn watched(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }

    /// Why the session was killed; `None` while it lives.
    pub fn cause(&self) -> Option<&Cause> {
        self.session.cause()
    }

    /// Waits until the session is killed.
    pub async fn killed(&self) -> &Cause {
        self.session.killed().await
    }
}

impl Clone for Guard {
    fn clone(&self) -> Self {
        self.session.guards.fetch_add(1, Ordering::Relaxed);
        Self { session: Arc::clone(&self.session), table: Arc::clone(&self.table) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.session.guards.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.table.remove(&self.session);
            // Of a session that is outlived by its connection: nobody is to cut that any more.
            self.session.detach();
            self.session.over.store(true, Ordering::Release);
            self.session.ended.notify_waiters();
        }
    }
}
