//! Resets of upstream connections: what the kernel has not delivered when a session is killed never arrives.
//!
//! **Invariant:** when the guard of a killed request is gone, its upstream connection is reset. The socket itself belongs to
//! the task that drives the connection, which runs later; so a reset goes through a second handle on the socket.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use rustix::net::connect_unspec;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// A second handle on a socket. Its socket takes it away before it closes, because a socket lives as long as any handle.
#[derive(Clone, Debug)]
pub(super) struct ResetHandle(Arc<Mutex<Option<OwnedFd>>>);

impl ResetHandle {
    /// A handle on this socket; an error if the process has no descriptor left.
    pub(super) fn of(stream: &TcpStream) -> io::Result<Self> {
        let socket = SockRef::from(stream).try_clone()?;
        Ok(Self(Arc::new(Mutex::new(Some(socket.into())))))
    }

    /// Resets the connection and discards what the kernel has not delivered of it: a connect to `AF_UNSPEC` aborts a TCP
    /// connection at once. A peer that has read half of a request sees an error, never an end.
    pub(super) fn reset(&self) {
        let Some(socket) = self.take() else { return };
        if connect_unspec(&socket).is_err() {
            // Then the close does it, when the connection's task has let go of the socket.
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Gives the handle up.
    pub(super) fn release(&self) {
        drop(self.take());
    }

    fn take(&self) -> Option<OwnedFd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An open upstream connection: the task that drives it, and the handle that resets it.
pub(super) struct Wire {
    task: AbortHandle,
    handle: ResetHandle,
}

impl Wire {
    pub(super) fn new(task: AbortHandle, handle: ResetHandle) -> Self {
        Self { task, handle }
    }

    /// The handle that resets it.
    pub(super) fn handle(&self) -> &ResetHandle {
        &self.handle
    }

    /// Closes the connection. The kernel still delivers what it has taken.
    pub(super) fn close(&self) {
        self.handle.release();
        self.task.abort();
    }

    /// Resets the connection, see [`ResetHandle::reset`].
    pub(super) fn reset(&self) {
        self.handle.reset();
        self.task.abort();
    }
}
