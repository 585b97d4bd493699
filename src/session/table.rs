//! The table of live sessions, and the kill.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;

use super::Cause;
use super::Credential;
use super::Fingerprint;
use super::Guard;
use super::Origin;
use super::Session;
use super::SessionId;
use crate::clock::Timestamp;

/// The table of live sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    all: DashMap<SessionId, Arc<Session>>,
    /// By each fingerprint of [`Credential::own`]; sorted by session id.
    index: DashMap<Fingerprint, Vec<Arc<Session>>>,
    /// How many sessions hold each fingerprint of [`Credential::mass`]: whether a scan could find anything.
    mass: DashMap<Fingerprint, usize>,
    next: AtomicU64,
}

impl Sessions {
    /// An empty table, whose sessions are called `first` and on.
    pub fn starting_at(first: SessionId) -> Self {
        Self { next: AtomicU64::new(first.number()), ..Self::default() }
    }

    /// Enters a session that begins at `since`. Only after this may its credential be checked.
    pub fn register(
        self: &Arc<Self>,
        credential: Arc<Credential>,
        origin: Origin,
        since: Timestamp,
    ) -> Guard {
        let id = SessionId::from_number(self.next.fetch_add(1, Ordering::Relaxed));
        let session = Arc::new(Session::new(id, credential, origin, since));
        self.all.insert(id, Arc::clone(&session));
        for fingerprint in &session.credential().mass {
            *self.mass.entry(*fingerprint).or_default() += 1;
        }
        for fingerprint in &session.credential().own {
            let mut sessions = self.index.entry(*fingerprint).or_default();
            let at = sessions.partition_point(|other| other.id() < id);
            sessions.insert(at, Arc::clone(&session));
        }
        Guard::new(session, Arc::clone(self))
    }

    /// Whether `fingerprint` is one of those that the credentials of live sessions share: an authority's, a trust domain's.
    pub fn is_shared(&self, fingerprint: Fingerprint) -> bool {
        self.mass.contains_key(&fingerprint)
    }

    /// Whether a live session holds `fingerprint`.
    pub fn has(&self, fingerprint: Fingerprint) -> bool {
        self.index.contains_key(&fingerprint) || self.mass.contains_key(&fingerprint)
    }

    /// Kills every session of `fingerprint` for which `denied` has a cause, and returns them.
    pub fn kill(&self, fingerprint: Fingerprint, denied: impl Fn(&Session) -> Option<Cause>) -> Killed {
        let (mut hit, mut fresh) = (Vec::new(), 0);
        self.visit(fingerprint, |session| {
            if let Some(cause) = denied(session) {
                fresh += usize::from(session.kill(cause));
                hit.push(Arc::clone(session));
            }
        });
        Killed { sessions: hit, fresh }
    }

    /// Kills every session, whatever it is of, for which `denied` has a cause. Whoever begins meanwhile and is not hit
    /// checks after what was published before this.
    pub fn kill_denied(&self, denied: impl Fn(&Session) -> Option<Cause>) -> Killed {
        let (mut hit, mut fresh) = (Vec::new(), 0);
        // No shard is locked while a credential is looked at.
        for session in self.list() {
            if let Some(cause) = denied(&session) {
                fresh += usize::from(session.kill(cause));
                hit.push(session);
            }
        }
        Killed { sessions: hit, fresh }
    }

    /// The sessions of `fingerprint` that `denied` says it of: those that [`Self::kill`] would hit. Those
    /// that are ending already are among them.
    pub fn matching(&self, fingerprint: Fingerprint, denied: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut hit = Vec::new();
        self.visit(fingerprint, |session| {
            if denied(session) {
                hit.push(Arc::clone(session));
            }
        });
        hit
    }

    /// Kills one session, whatever its credential; `None` if there is none of that name.
    pub fn end(&self, id: SessionId, cause: Cause) -> Option<Killed> {
        let session = self.get(id)?;
        let fresh = usize::from(session.kill(cause));
        Some(Killed { sessions: vec![session], fresh })
    }

    /// The session of that name. It may be ending: see [`Session::cause`].
    pub fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        self.all.get(&id).map(|session| Arc::clone(&session))
    }

    /// All sessions, the oldest first, those that are ending included. One shard is looked at after the other, so a
    /// session that begins or ends meanwhile may be in it or not.
    pub fn list(&self) -> Vec<Arc<Session>> {
        let mut sessions: Vec<_> = self.all.iter().map(|session| Arc::clone(&session)).collect();
        sessions.sort_unstable_by_key(|session| session.id());
        sessions
    }

    /// How many sessions are live.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Calls `with` for every session of `fingerprint`: looks in the index and, where the fingerprint is one that many
    /// share, through the whole table.
    fn visit(&self, fingerprint: Fingerprint, mut with: impl FnMut(&Arc<Session>)) {
        // `entry`, not `get`: the shard's write lock is taken even where nothing is found.
        if let dashmap::Entry::Occupied(sessions) = self.index.entry(fingerprint) {
            sessions.get().iter().for_each(&mut with);
        }
        // Likewise for the count: whoever registers after this look sees what was published.
        let shared = matches!(self.mass.entry(fingerprint), dashmap::Entry::Occupied(_));
        if shared {
            let of = |session: &Session| session.credential().mass.contains(&fingerprint);
            self.all.iter().filter(|session| of(session)).for_each(|session| with(&session));
        }
    }

    pub(super) fn remove(&self, session: &Session) {
        for fingerprint in &session.credential().mass {
            if let dashmap::Entry::Occupied(mut count) = self.mass.entry(*fingerprint) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        for fingerprint in &session.credential().own {
            if let dashmap::Entry::Occupied(mut sessions) = self.index.entry(*fingerprint) {
                if let Ok(at) = sessions.get().binary_search_by_key(&session.id(), |other| other.id()) {
                    sessions.get_mut().remove(at);
                }
                if sessions.get().is_empty() {
                    sessions.remove();
                }
            }
        }
        self.all.remove(&session.id());
    }
}

/// Sessions that were told to end.
#[must_use = "a revocation is complete only when its sessions have ended"]
#[derive(Debug, Default)]
pub struct Killed {
    sessions: Vec<Arc<Session>>,
    fresh: usize,
}

impl Killed {
    /// How many this kill ended; those that were ending already are waited for, but not counted.
    pub fn count(&self) -> usize {
        self.fresh
    }

    /// The sessions of both, once each.
    pub fn and(mut self, other: Self) -> Self {
        let known: HashSet<SessionId> = self.sessions.iter().map(|session| session.id()).collect();
        self.sessions.extend(other.sessions.into_iter().filter(|session| !known.contains(&session.id())));
        Self { sessions: self.sessions, fresh: self.fresh + other.fresh }
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
                let rest = self.sessions.iter().filter(|session| !session.is_over());
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
        Arc::new(Credential { own: prints(own), mass: prints(mass), ..Credential::default() })
    }

    fn enter(table: &Arc<Sessions>, own: &[u128], mass: &[u128]) -> Guard {
        let origin = Origin { peer: ([127, 0, 0, 1], 1).into(), listener: "gate", protocol: "http/1.1" };
        table.register(credential(own, mass), origin, Timestamp::from_secs(0))
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
    fn sessions_are_listed_found_and_ended_by_name() {
        let first = SessionId::first(7);
        let table = Arc::new(Sessions::starting_at(first));
        let guards: Vec<Guard> = (0..100).map(|i| enter(&table, &[i % 2], &[9])).collect();
        let listed: Vec<SessionId> = table.list().iter().map(|session| session.id()).collect();
        let entered: Vec<SessionId> = guards.iter().map(|guard| guard.session().id()).collect();
        assert_eq!((&listed, listed.first()), (&entered, Some(&first)));
        let [one, other] = [guards.first().unwrap(), guards.get(1).unwrap()];
        assert!(table.get(one.session().id()).is_some_and(|found| found.id() == first));
        assert_eq!(table.end(first, cause().unwrap()).map(|killed| killed.count()), Some(1));
        assert_eq!(
            table.end(first, cause().unwrap()).map(|killed| killed.count()),
            Some(0),
            "the first cause stays"
        );
        assert_eq!((one.cause().is_some(), other.cause().is_some()), (true, false));
        drop(guards);
        assert!(table.get(first).is_none() && table.end(first, cause().unwrap()).is_none());
    }

    #[test]
    fn matching_is_what_a_kill_hits() {
        let table = Arc::new(Sessions::default());
        let guards: Vec<Guard> = (0..10).map(|i| enter(&table, &[i % 3], &[8 + i % 2])).collect();
        for print in [Fingerprint(1), Fingerprint(9), Fingerprint(7)] {
            let causes = || guards.iter().map(|guard| guard.cause().is_some()).collect::<Vec<_>>();
            let before = causes();
            let matching: Vec<_> =
                table.matching(print, |_| true).iter().map(|session| session.id()).collect();
            assert_eq!(before, causes());
            let killed = table.kill(print, |_| cause());
            let hit: Vec<_> = killed.sessions.iter().map(|session| session.id()).collect();
            assert_eq!(matching, hit);
            assert!(table.matching(print, |_| false).is_empty());
        }
    }

    #[test]
    fn a_credential_that_nothing_can_end_keeps_its_holder() {
        let holder = Arc::new(super::super::Holder { agent: Some("a".into()), ..Default::default() });
        let armed = Credential { holder: Arc::clone(&holder), ..Credential::clone(&credential(&[1], &[9])) };
        let untouchable = armed.untouchable();
        assert_eq!((untouchable.own.len(), untouchable.mass.len(), &untouchable.holder), (0, 0, &holder));
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
