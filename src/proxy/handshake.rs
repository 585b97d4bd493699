//! One handshake, for the verifier and the session cache, which rustls tells of certificates and bytes alone.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::identity::ChainError;

tokio::task_local! {
    static CURRENT: Rc<Handshake>;
}

/// A handshake that goes on in this task.
pub(super) struct Handshake {
    address: SocketAddr,
    fault: RefCell<Option<ChainError>>,
}

impl Handshake {
    /// The handshake of a client at `address`.
    pub(super) fn of(address: SocketAddr) -> Rc<Self> {
        Rc::new(Self { address, fault: RefCell::default() })
    }

    /// Runs `work` as part of it.
    pub(super) async fn run<F: Future>(self: &Rc<Self>, work: F) -> F::Output {
        CURRENT.scope(Rc::clone(self), work).await
    }

    /// Why its client's chain does not verify, if it does not. Absent of a resumed session, whose chain is not verified.
    pub(super) fn fault(&self) -> Option<ChainError> {
        self.fault.borrow().clone()
    }

    /// The address of its client.
    pub(super) fn client(&self) -> SocketAddr {
        self.address
    }

    /// The address of the client of the current handshake.
    pub(super) fn address() -> Option<SocketAddr> {
        CURRENT.try_with(|current| current.address).ok()
    }

    /// Notes that the chain of the current handshake does not verify.
    pub(super) fn note(error: &ChainError) {
        let _ = CURRENT.try_with(|current| current.fault.replace(Some(error.clone())));
    }

    /// True if the chain of the current handshake does not verify.
    pub(super) fn is_of_stranger() -> bool {
        CURRENT.try_with(|current| current.fault.borrow().is_some()).unwrap_or(false)
    }
}
