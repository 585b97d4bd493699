//! HOW LONG: the table of live sessions by what could revoke them, the guards that keep them in it, and the kill.
//!
//! A session is a connection with everything that runs on its behalf: HTTP/2 streams, upgraded tunnels, request
//! bodies on their way upstream. Each holds a [`Guard`] and watches [`Guard::killed`].
//!
//! **Invariant:** a session is in the table from before its first check until its last guard is dropped, and
//! [`Sessions::kill`] always takes the lock of the shard that it looks in: a killer that finds nothing has made sure
//! that whoever registers after it also sees what was published before it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use rustix::net::connect_unspec;
use tokio::sync::Notify;

/// What a revocation is looked up by: a keyed 128-bit fingerprint of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

/// No generation: a credential that was not yet held against any.
const NEVER: u64 = u64::MAX;

/// All that can revoke one credential.
#[derive(Clone, Debug, Default)]
pub struct Credential {
    /// Fingerprints that few sessions share: certificate, key, principal, task, ...
    pub own: Vec<Fingerprint>,
    /// Fingerprints that most sessions share (issuers, trust domain): killed by a scan of the table, not by its index.
    /// The same one twice is counted twice, both ways.
    pub mass: Vec<Fingerprint>,
    /// When the credential was issued, whole Unix seconds.
    pub issued_at: i64,
}

/// Why a session was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The machine-readable code, such as `certificate_revoked` or `certificate_expired`.
    pub code: &'static str,
    /// The reason in words, as far as one was given.
    pub reason: String,
}

/// One live session.
#[derive(Debug)]
pub struct Session {
    id: u64,
    peer: SocketAddr,
    credential: Arc<Credential>,
    seen: AtomicU64,
    cause: OnceLock<Cause>,
    killed: Notify,
    guards: AtomicUsize,
    ended: Notify,
    /// A handle of the killer's own on the socket, for the case that the thread that serves it is stuck.
    socket: Mutex<Option<OwnedFd>>,
}

impl Session {
    /// What can revoke it.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The address at the other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The generation of the revocation set that the credential was last held against.
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

    /// Gives the killer a handle on the session's socket.
    pub fn attach(&self, socket: OwnedFd) {
        *self.socket() = Some(socket);
    }

    /// Takes it away again, before the socket is closed: a socket lives for as long as anybody has a handle on it.
    pub fn detach(&self) {
        self.socket().take();
    }

    /// Resets the connection from outside, and throws away what the kernel had not yet delivered of it (a connect to
    /// `AF_UNSPEC` aborts a TCP connection). Says whether there was one to reset, or it was closed already.
    fn cut(&self) -> bool {
        let socket = self.socket().take();
        socket.map_or(self.guards.load(Ordering::Acquire) == 0, |socket| connect_unspec(&socket).is_ok())
    }

    fn socket(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the last guard is gone.
    async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            if self.guards.load(Ordering::Acquire) == 0 {
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
    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Why the session was killed; `None` while it lives.
    pub fn cause(&self) -> Option<&Cause> {
        self.session.cause.get()
    }

    /// Waits until the session is killed. A dropped table or session never looks like a kill.
    pub async fn killed(&self) -> &Cause {
        loop {
            let killed = self.session.killed.notified();
            let mut killed = std::pin::pin!(killed);
            killed.as_mut().enable();
            if let Some(cause) = self.cause() {
                return cause;
            }
            killed.await;
        }
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
            self.session.ended.notify_waiters();
        }
    }
}

/// The table of live sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    all: DashMap<u64, Arc<Session>>,
    /// By each fingerprint of [`Credential::own`]; sorted by session id.
    index: DashMap<Fingerprint, Vec<Arc<Session>>>,
    /// How many sessions hold each fingerprint of [`Credential::mass`]: whether a scan could find anything.
    mass: DashMap<Fingerprint, usize>,
    next: AtomicU64,
}

impl Sessions {
    /// Enters a session. Only after this may its credential be checked.
    pub fn register(self: &Arc<Self>, credential: Arc<Credential>, peer: SocketAddr) -> Guard {
        let session = Arc::new(Session {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            peer,
            credential,
            seen: AtomicU64::new(NEVER),
            cause: OnceLock::new(),
            killed: Notify::new(),
            guards: AtomicUsize::new(1),
            ended: Notify::new(),
            socket: Mutex::new(None),
        });
        self.all.insert(session.id, Arc::clone(&session));
        for fingerprint in &session.credential.mass {
            *self.mass.entry(*fingerprint).or_default() += 1;
        }
        for fingerprint in &session.credential.own {
            let mut sessions = self.index.entry(*fingerprint).or_default();
            let at = sessions.partition_point(|other| other.id < session.id);
            sessions.insert(at, Arc::clone(&session));
        }
        Guard { session, table: Arc::clone(self) }
    }

    /// Kills every session of `fingerprint` for which `denied` has a cause, and returns them.
    ///
    /// Looks in the index and, where the fingerprint is one that many share, through the whole table.
    pub fn kill(&self, fingerprint: Fingerprint, denied: impl Fn(&Credential) -> Option<Cause>) -> Killed {
        let (mut hit, mut fresh) = (Vec::new(), 0);
        let mut strike = |session: &Arc<Session>| {
            if let Some(cause) = denied(&session.credential) {
                fresh += usize::from(session.kill(cause));
                hit.push(Arc::clone(session));
            }
        };
        // `entry`, not `get`: the shard's write lock is taken even where nothing is found.
        if let dashmap::Entry::Occupied(sessions) = self.index.entry(fingerprint) {
            sessions.get().iter().for_each(&mut strike);
        }
        // Likewise for the count: whoever registers after this look sees what was published.
        let shared = matches!(self.mass.entry(fingerprint), dashmap::Entry::Occupied(_));
        if shared {
            self.all
                .iter()
                .filter(|session| session.credential.mass.contains(&fingerprint))
                .for_each(|s| strike(&s));
        }
        Killed { sessions: hit, fresh }
    }

    /// How many sessions are live.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn remove(&self, session: &Session) {
        for fingerprint in &session.credential.mass {
            if let dashmap::Entry::Occupied(mut count) = self.mass.entry(*fingerprint) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        for fingerprint in &session.credential.own {
            if let dashmap::Entry::Occupied(mut sessions) = self.index.entry(*fingerprint) {
                if let Ok(at) = sessions.get().binary_search_by_key(&session.id, |other| other.id) {
                    sessions.get_mut().remove(at);
                }
                if sessions.get().is_empty() {
                    sessions.remove();
                }
            }
        }
        self.all.remove(&session.id);
    }
}

/// Sessions that were told to end.
#[must_use = "a revocation is complete only when its sessions have ended"]
#[derive(Debug)]
pub struct Killed {
    sessions: Vec<Arc<Session>>,
    fresh: usize,
}

impl Killed {
    /// How many this kill ended; those that were ending already are waited for, but not counted.
    pub fn count(&self) -> usize {
        self.fresh
    }

    /// Waits until all of them have ended, `patience` at most; then cuts the rest hard. Returns how many could not even
    /// be cut. None of the rest is served any more: each task looks at the kill before it does anything else.
    pub async fn ended(&self, patience: Duration) -> usize {
        let all = async {
            for session in &self.sessions {
                session.ended().await;
            }
        };
        match tokio::time::timeout(patience, all).await {
            Ok(()) => 0,
            Err(_) => {
                let rest = self.sessions.iter().filter(|session| session.guards.load(Ordering::Acquire) > 0);
                rest.filter(|session| !session.cut()).count()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(own: &[u128], mass: &[u128]) -> Arc<Credential> {
        let prints = |of: &[u128]| of.iter().copied().map(Fingerprint).collect();
        Arc::new(Credential { own: prints(own), mass: prints(mass), issued_at: 0 })
    }

    fn enter(table: &Arc<Sessions>, own: &[u128], mass: &[u128]) -> Guard {
        table.register(credential(own, mass), ([127, 0, 0, 1], 1).into())
    }

    fn cause() -> Option<Cause> {
        Some(Cause { code: "certificate_revoked", reason: String::new() })
    }

    #[tokio::test]
    async fn a_kill_hits_its_own_and_ends_when_the_last_guard_goes() {
        let table = Arc::new(Sessions::default());
        let first = enter(&table, &[1, 2], &[9]);
        let second = enter(&table, &[2, 3], &[9]);
        let other = enter(&table, &[4], &[8]);
        let killed = table.kill(Fingerprint(2), |_| cause());
        assert_eq!(killed.count(), 2);
        assert_eq!((first.killed().await.code, other.cause()), ("certificate_revoked", None));
        let stream = first.clone();
        drop((first, second));
        assert_eq!(killed.ended(Duration::ZERO).await, 1);
        drop(stream);
        assert_eq!(killed.ended(Duration::from_secs(5)).await, 0);
        assert_eq!((table.len(), table.index.len()), (1, 1));
    }

    /// Seen failing without the cut: the client reads all of it, long after the revocation.
    #[tokio::test]
    async fn who_does_not_let_go_is_cut_hard() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        served.set_nonblocking(true).unwrap();
        let mut buffered = 0;
        while let Ok(count) = std::io::Write::write(&mut served, &[0; 1 << 16]) {
            buffered += count;
        }
        let table = Arc::new(Sessions::default());
        let stuck = enter(&table, &[1], &[]);
        stuck.session().attach(served.try_clone().unwrap().into());
        let killed = table.kill(Fingerprint(1), |_| cause());
        assert_eq!(killed.ended(Duration::ZERO).await, 0);
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut delivered = Vec::new();
        let end = std::io::Read::read_to_end(&mut client, &mut delivered);
        assert!(end.is_err() && delivered.len() < buffered, "{end:?}: {} of {buffered}", delivered.len());
        assert_eq!(table.len(), 1, "it has not let go");
    }

    #[test]
    fn a_scan_finds_what_the_index_does_not_hold() {
        let table = Arc::new(Sessions::default());
        let _one = enter(&table, &[1], &[9]);
        let _two = enter(&table, &[2], &[8]);
        assert_eq!(table.kill(Fingerprint(9), |_| cause()).count(), 1);
        assert_eq!(table.kill(Fingerprint(9), |_| cause()).count(), 0);
        assert_eq!(table.kill(Fingerprint(7), |_| cause()).count(), 0);
    }

    #[test]
    fn an_ended_session_leaves_nothing_behind() {
        let table = Arc::new(Sessions::default());
        let guards: Vec<Guard> = (0..100).map(|i| enter(&table, &[1, 2, 100 + i], &[9])).collect();
        assert_eq!(table.len(), 100);
        drop(guards);
        assert_eq!((table.len(), table.index.len(), table.mass.len()), (0, 0, 0));
    }
}
