//! Who is let in: a connection is registered, then checked; and what becomes of one whose session is ended.

use std::cell::Cell;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls::HandshakeKind;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

use super::Connection;
use super::Context;
use super::Handler;
use super::Modes;
use super::Peer;
use super::handshake::Handshake;
use super::peer::address_value;
use super::presented::Presented;
use super::socket::Tcp;
use crate::identity::ChainError;
use crate::revocation::Denial;
use crate::session::Cause;
use crate::session::Credential;
use crate::session::Guard;
use crate::session::Origin;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::LONGEST_REASON;
use crate::telemetry::LineKind;
use crate::telemetry::LineSource;
use crate::telemetry::cut;

const ENDED: &str = "session ended";
/// The message of the line about a connection that its client's frames ended.
const FLOODED: &str = "connection ended: too many frames";

/// Why a connection is refused, but for requests that authenticate themselves by a token.
pub(super) enum Barred {
    Expired,
    Untrusted(ChainError),
    Denied(Denial),
    /// Its client has too many others.
    Crowded,
}

impl<H: Handler> Context<H> {
    /// Who is it, and is it revoked: for full and resumed handshakes alike.
    pub(super) fn admit(&self, stream: &TlsStream<Tcp>, handshake: &Handshake, origin: Origin) -> Connection {
        let recognised = match (stream.get_ref().1.peer_certificates(), handshake.fault()) {
            (None | Some([]), _) => Ok(None),
            // Not looked for again: it would cost as much as it has.
            (Some(_), Some(fault)) => Err(fault),
            (Some([leaf, intermediates @ ..]), None) => {
                self.peers.recognise_again(leaf, intermediates, origin.peer.ip()).map(Some)
            }
        };
        let (peer, untrusted) = match recognised {
            Ok(peer) => (peer, None),
            // The client knows the one, and can do something about it.
            Err(ChainError::Path(webpki::Error::CertExpired { .. })) => (None, Some(Barred::Expired)),
            Err(error) => (None, Some(Barred::Untrusted(error))),
        };
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let presented = leaf.filter(|_| untrusted.is_some()).map(|leaf| Rc::new(Presented::read(leaf)));
        let (armed, disarmed) = match &peer {
            Some(peer) => (Arc::clone(&peer.credential), self.untouchable(Some(peer))),
            None => (self.untouchable(None), self.untouchable(None)),
        };
        let admit = |credential| self.engine.admit(credential, origin);
        let (guard, barred) = match (untrusted, self.modes) {
            (Some(barred), Modes::Strict) => (self.tolerate(origin), Some(barred)),
            (None, Modes::Strict) => match admit(armed) {
                Ok(guard) => (Some(guard), None),
                Err(denial) => (None, Some(Barred::Denied(denial))),
            },
            // In advisory mode a session is in the table under nothing that could end it.
            (barred, Modes::Advisory) => (admit(disarmed).ok(), barred),
            (barred, Modes::Mixed) => (admit(armed).ok(), barred),
        };
        // Denied, where routes of both modes share it, or tokens count: each request that goes by the certificate is told so.
        let is_armed = guard.is_some();
        let lives_on = self.modes == Modes::Mixed || H::TAKES_TOKENS;
        let guard = guard.or_else(|| lives_on.then(|| admit(self.untouchable(peer.as_ref())).ok()).flatten());
        Connection {
            peer,
            presented,
            resumed: stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed),
            origin,
            address_value: address_value(origin.peer.ip()),
            account: None,
            modes: self.modes,
            guard: RefCell::new(guard),
            armed: Cell::new(is_armed),
            moved: Notify::new(),
            barred,
            tunnels: RefCell::default(),
            flights: Arc::default(),
            asked: Cell::new(false),
            first: Notify::new(),
            served: Cell::new(false),
            extensions: RefCell::default(),
            state: Rc::default(),
        }
    }

    /// What a session stands on that no revocation ends.
    pub(super) fn untouchable(&self, peer: Option<&Arc<Peer>>) -> Arc<Credential> {
        peer.map_or_else(|| Arc::clone(self.peers.nobody()), |peer| Arc::new(peer.credential.untouchable()))
    }

    /// A session of somebody whose chain does not verify, for as long as break-glass lasts.
    pub(super) fn tolerate(&self, origin: Origin) -> Option<Guard> {
        let lasts = self.engine.break_glass().is_on();
        let guard = lasts.then(|| self.engine.admit(self.untouchable(None), origin).ok())?;
        guard.filter(|guard| self.engine.tolerate(guard.session()))
    }

    /// A connection whose session was killed, where routes of both modes share it: whether it goes on, under a session
    /// that no revocation ends. What strict requests hold of the one before ends by itself.
    pub(super) fn fall(&self, connection: &Connection, cause: &Cause) -> bool {
        if self.modes != Modes::Mixed || cause.code == Cause::ENDED || connection.flights.are_strict() {
            return false;
        }
        let credential = self.untouchable(connection.peer());
        let Ok(guard) = self.engine.admit(credential, connection.origin) else { return false };
        connection.flights.spare();
        connection.armed.set(false);
        connection.stand_on(guard);
        self.tell_end((connection.peer.as_deref(), connection.address()), cause);
        true
    }

    /// Puts the session of a connection under all that can revoke its client, if it is not: **register, then check.**
    #[cold]
    pub(super) fn arm(&self, connection: &Connection, peer: &Peer) -> Result<(), Denial> {
        let guard = self.engine.admit(Arc::clone(&peer.credential), connection.origin)?;
        connection.armed.set(true);
        connection.stand_on(guard);
        Ok(())
    }

    /// A connection was ended for the frames that its client sent.
    pub(super) fn tell_flood(&self, peer: Option<&Peer>, address: SocketAddr) {
        let code = "too_many_frames";
        self.metrics.refusals.with_label_values(&[code]).inc();
        let principal_id = peer.map_or("", Peer::principal);
        let source = LineSource::of(principal_id, address.ip());
        let Some(unsaid) = self.peers.admits_line(LineKind::warning(FLOODED, code), source) else { return };
        let principal_id = &*cut(principal_id, LONGEST_NAME);
        let serial = peer.map_or("", |peer| peer.chain.leaf.serial.as_str());
        let listener = self.listener;
        tracing::warn!(%address, listener, code, principal_id, serial, unsaid, "{FLOODED}");
    }

    pub(super) fn tell_end(&self, (peer, address): (Option<&Peer>, SocketAddr), cause: &Cause) {
        self.metrics.sessions_ended.with_label_values(&[cause.code]).inc();
        let principal_id = peer.map_or("", Peer::principal);
        let serial = peer.map_or("", |peer| peer.chain.leaf.serial.as_str());
        let (code, source) = (cause.code, LineSource::of(principal_id, address.ip()));
        let Some(unsaid) = self.peers.admits_line(LineKind::info(ENDED, code), source) else { return };
        let (principal_id, revocation_reason) =
            (&*cut(principal_id, LONGEST_NAME), &*cut(&cause.reason, LONGEST_REASON));
        tracing::info!(%address, code, revocation_reason, principal_id, serial, unsaid, "{ENDED}");
    }
}
