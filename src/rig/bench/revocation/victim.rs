//! One revocation: an agent with a connection to every gate, what it is served until it is refused, and what it tries
//! after the answer.
//!
//! Whether something was *served after the answer* is told by clocks of this process alone: a request counts if it was
//! sent after the answer to the revocation had arrived, and was served. A piece of a body counts if it was sent after
//! the answer, and the upstream has read it. What was sent before and answered later is no fault: it may have lain in a
//! socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use futures_util::future::try_join_all;
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::sync::Barrier;
use tokio::sync::oneshot;
use tokio::time::sleep_until;
use tokio::time::timeout;

use super::Error;
use super::feed::Feed;
use super::fleet::Site;
use super::line::KINDS;
use super::line::Line;
use super::line::Seen;
use super::line::Watch;
use super::line::is_served_anew;
use super::line::protocol;
use super::schedule::Schedule;
use super::schedule::since;
use super::schedule::wait_for;
use crate::rig::findings::Kind;
use crate::rig::pki::Issued;
use crate::rig::pki::spiffe_id;

/// How long before it is due it asks as fast as it is answered.
const BEFORE: Duration = Duration::from_millis(20);
/// For a connection that is tried after the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An agent that is to be revoked.
pub(super) struct Victim {
    /// Which of all.
    pub(super) number: usize,
    pub(super) principal: String,
    pub(super) issued: Issued,
}

/// What all revocations of a fleet share.
pub(super) struct Scene<'a> {
    pub(super) site: &'a Site,
    pub(super) feed: &'a Feed,
    pub(super) gates: &'a [SocketAddr],
    /// How long after it is due an agent is watched.
    pub(super) window: Duration,
    /// Between an answer and the next request.
    pub(super) pace: Duration,
    /// What the times in bodies count from.
    pub(super) origin: Instant,
}

/// What was seen of one revocation.
pub(super) struct Sighting {
    pub(super) kind: Kind,
    /// From when it was due until every gate had answered.
    pub(super) answered: Duration,
    pub(super) gates: Vec<GateSighting>,
}

/// What was seen of it on one gate. `None` is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GateSighting {
    /// From when it was due until the last answer that served.
    pub(super) since_due: Option<Duration>,
    /// From when it was sent.
    pub(super) since_sent: Option<Duration>,
    pub(super) tried_after_answer: u64,
    pub(super) served_after_answer: u64,
}

impl Sighting {
    /// That of the last gate; `None` if it never came on one.
    pub(super) fn last(&self, of: impl Fn(&GateSighting) -> Option<Duration>) -> Option<Duration> {
        self.gates.iter().map(of).collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

impl Victim {
    /// Issues a certificate of its own for the agent with this number.
    pub(super) fn new(site: &Site, fleet: usize, number: usize) -> Result<Self, Error> {
        let path = format!("agent/victim-{fleet}-{number}");
        Ok(Self { number, principal: spiffe_id(&path), issued: site.issue(&path)? })
    }

    fn kind(&self) -> Kind {
        KINDS.get(self.number % KINDS.len()).copied().unwrap_or(Kind::Http1)
    }

    /// Whether what it tries after the answer resumes a TLS session.
    fn resumes(&self) -> bool {
        (self.number / KINDS.len()).is_multiple_of(2)
    }

    /// Connects, works, is revoked when it is due, and tries again.
    pub(super) async fn live(self, scene: &Scene<'_>, schedule: Schedule) -> Result<Sighting, Error> {
        let (kind, due) = (self.kind(), schedule.due(self.number));
        sleep_until(schedule.prepared(self.number).into()).await;
        let mut lines = Vec::new();
        for number in 0..scene.gates.len() {
            lines.push(self.connect(scene, number));
        }
        let lines = try_join_all(lines).await?;
        if Instant::now() > due {
            return Err(Error::Late(self.number));
        }
        let (told, heard): (Vec<_>, Vec<_>) = scene.gates.iter().map(|_| oneshot::channel()).unzip();
        let revoked = async {
            wait_for(due).await;
            let sent = Instant::now();
            Ok::<_, Error>((sent, scene.feed.revoke(&self, told).await?))
        };
        let from = due.checked_sub(BEFORE).unwrap_or(due);
        let watch = Watch { origin: scene.origin, from, until: due + scene.window, pace: scene.pace };
        // What is tried anew takes the processor from gates that have not refused it yet, and from whoever looks.
        let (over, victim) = (&Barrier::new(scene.gates.len()), &self);
        let watched = lines.into_iter().zip(heard).enumerate().map(|(number, ((line, tls), answered))| {
            let gate = scene.gates.get(number).copied();
            async move {
                let seen = line.watch(watch).await;
                over.wait().await;
                let gate = gate.ok_or(Error::Late(victim.number))?;
                // The sender is dropped only with an error, which is told by the other side.
                let Ok(answered) = answered.await else { return std::future::pending().await };
                let served = victim.try_anew(tls, gate, number).await;
                Ok((seen, answered, served))
            }
        });
        let ((sent, answers), seen) = tokio::try_join!(revoked, try_join_all(watched))?;
        let mut gates = Vec::new();
        for (number, (seen, answered, served)) in seen.into_iter().enumerate() {
            let piece = scene.site.upstream.take_piece(&self.path(number));
            let moments = Moments { due, sent, answered, origin: scene.origin };
            gates.push(self.judge(kind, &seen, moments, (served, piece))?);
        }
        let answered = answers.into_iter().max().map_or(Duration::ZERO, |answered| since(due, answered));
        Ok(Sighting { kind, answered, gates })
    }

    /// What its requests to a gate ask for: nobody else asks for that.
    fn path(&self, gate: usize) -> String {
        format!("/{}/{gate}", self.number)
    }

    async fn connect(&self, scene: &Scene<'_>, gate: usize) -> Result<(Line, Arc<ClientConfig>), Error> {
        let failed = |e: &dyn std::fmt::Display| Error::Victim(self.principal.clone(), e.to_string());
        let tls = Arc::new(scene.site.client(&self.issued, protocol(self.kind()))?);
        let address = scene.gates.get(gate).ok_or_else(|| failed(&"no such gate"))?;
        let line = Line::open(self.kind(), &tls, *address, self.path(gate)).await.map_err(|e| failed(&e))?;
        Ok((line, tls))
    }

    /// One request over a new connection, after the answer; whether it was served, if anything came of it.
    async fn try_anew(&self, tls: Arc<ClientConfig>, gate: SocketAddr, number: usize) -> Option<bool> {
        let mut tls = (*tls).clone();
        if !self.resumes() {
            tls.resumption = Resumption::disabled();
        }
        let anew = timeout(PATIENCE, is_served_anew(&Arc::new(tls), gate, &self.path(number))).await;
        anew.ok().flatten()
    }

    fn judge(
        &self,
        kind: Kind,
        seen: &Seen,
        moments: Moments,
        (served_anew, piece): (Option<bool>, Option<u64>),
    ) -> Result<GateSighting, Error> {
        if let Some(end) = seen.end.filter(|end| *end < moments.sent) {
            let early = moments.sent.saturating_duration_since(end);
            return Err(Error::Victim(
                self.principal.clone(),
                format!("its {kind} was refused or cut {early:?} before it was revoked"),
            ));
        }
        Ok(moments.judge(seen.last_served(kind), seen, served_anew, piece))
    }
}

/// The moments of one revocation on one gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    due: Instant,
    sent: Instant,
    answered: Instant,
    origin: Instant,
}

impl Moments {
    fn judge(
        self,
        last: Option<Instant>,
        seen: &Seen,
        served_anew: Option<bool>,
        piece: Option<u64>,
    ) -> GateSighting {
        let after = |at: &Instant| *at > self.answered;
        let late = seen.served.iter().filter(|(sent, _)| after(sent)).count() as u64;
        let refused = u64::from(seen.refused.as_ref().is_some_and(after));
        let sent_piece = u64::from(seen.piece.as_ref().is_some_and(after));
        let answered = self.answered.saturating_duration_since(self.origin).as_micros();
        let read_piece = u64::from(piece.is_some_and(|piece| u128::from(piece) > answered));
        GateSighting {
            since_due: last.map(|last| since(self.due, last)),
            since_sent: last.map(|last| since(self.sent, last)),
            tried_after_answer: late + refused + sent_piece + u64::from(served_anew.is_some()),
            served_after_answer: late + read_piece + u64::from(served_anew == Some(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments() -> (Instant, Moments) {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        (origin, Moments { due: at(100), sent: at(101), answered: at(110), origin })
    }

    #[test]
    fn the_last_answer_counts_from_when_the_revocation_was_due() {
        let (origin, moments) = moments();
        let at = |ms| origin + Duration::from_millis(ms);
        let seen = Seen {
            served: vec![(at(90), at(91)), (at(100), at(105))],
            refused: Some(at(105)),
            end: Some(at(107)),
            piece: None,
        };
        let found = moments.judge(seen.last_served(Kind::Http1), &seen, Some(false), None);
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!((found.since_due, found.since_sent), (ms(5), ms(4)));
        assert_eq!((found.tried_after_answer, found.served_after_answer), (1, 0));
    }

    #[test]
    fn what_was_sent_after_the_answer_and_served_is_a_fault() {
        let (origin, moments) = moments();
        let at = |ms| origin + Duration::from_millis(ms);
        // Sent before, answered after: no fault. Sent after: one.
        let served = vec![(at(109), at(120)), (at(120), at(121))];
        let seen = Seen { served, ..Seen::default() };
        let found = moments.judge(seen.last_served(Kind::Http2), &seen, Some(true), None);
        assert_eq!(found.since_due, None, "it was never refused");
        assert_eq!((found.tried_after_answer, found.served_after_answer), (2, 2));
    }

    #[test]
    fn a_piece_counts_if_the_upstream_read_it() {
        let (origin, moments) = moments();
        let at = |ms| origin + Duration::from_millis(ms);
        let seen = Seen { piece: Some(at(111)), end: Some(at(112)), ..Seen::default() };
        let judge = |piece| moments.judge(seen.last_served(Kind::Body), &seen, Some(false), piece);
        assert_eq!(judge(None).served_after_answer, 0);
        assert_eq!(judge(Some(109_000)).served_after_answer, 0);
        assert_eq!(judge(Some(111_000)).served_after_answer, 1);
        assert_eq!(judge(None).tried_after_answer, 2);
        assert_eq!(judge(None).since_due, Some(Duration::from_millis(12)));
    }

    #[test]
    fn the_last_gate_is_never_if_one_is() {
        let gate = |ms: Option<u64>| GateSighting {
            since_due: ms.map(Duration::from_millis),
            since_sent: None,
            tried_after_answer: 1,
            served_after_answer: 0,
        };
        let last = |gates: &[Option<u64>]| {
            let gates = gates.iter().copied().map(gate).collect();
            let sighting = Sighting { kind: Kind::Http1, answered: Duration::ZERO, gates };
            sighting.last(|gate| gate.since_due)
        };
        assert_eq!(last(&[Some(2), Some(7), Some(3)]), Some(Duration::from_millis(7)));
        assert_eq!(last(&[Some(2), None]), None);
    }
}
