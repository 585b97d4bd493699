//! Listeners: one socket for each thread on one port, and the loop that accepts.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio::time::timeout;

use super::connection;
use super::connection::Accepted;
use super::context::Context;
use super::context::Handler;
use super::limits::LastingLimit;
use super::limits::Limit;
use super::places::Places;
use crate::telemetry::LineKind;
use crate::telemetry::LineSource;

const BACKLOG: i32 = 4096;
/// Any other cause than a shortage of descriptors, which is a limit.
const UNACCEPTED: LineKind =
    LineKind::warning("cannot accept connections; those that are open go on", "accept_failed");
/// How long the accept loop rests when it cannot accept, for instance for lack of file descriptors.
const REST: Duration = Duration::from_millis(50);

/// How long an accepted connection may take to send its ClientHello once the drain has begun.
const FIRST_HELLO: Duration = Duration::from_secs(2);

/// Binds `count` sockets to one address, among which the kernel spreads connections (SO_REUSEPORT).
///
/// The first is bound alone, because a second process's SO_REUSEPORT socket would bind silently and take half of the
/// connections.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<StdListener>> {
    let probe = socket(address)?;
    probe.bind(&address.into())?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    (0..count.max(1))
        .map(|_| {
            let socket = socket(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        })
        .collect()
}

/// `count` handles on one socket that listens already, and that others may have handles on too: it is never shut down
/// from here, and what comes when nobody accepts waits in it.
pub fn share(socket: &StdListener, count: usize) -> io::Result<Vec<StdListener>> {
    socket.set_nonblocking(true)?;
    (0..count.max(1)).map(|_| socket.try_clone()).collect()
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the last connections of the process before it.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// How many connections a listener's socket has open at once, and how long they may take to end.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// That shake hands or are served. More wait until one of these ends, or is idle and makes room.
    pub connections: usize,
    /// How many more may be open before their client has sent its ClientHello, or while they wait.
    pub room: usize,
    /// How many threads share what the process may have of other things.
    pub threads: usize,
    /// The bound is on connections that the handler does not vouch for, and the oldest of them makes room for a new one,
    /// whatever it carries: no client keeps others out by holding connections open.
    pub evicts: bool,
    /// How many handshakes may go on at once.
    pub handshakes: usize,
    /// From the drain on.
    pub drain: Duration,
}

impl Bounds {
    /// How many connections may shake hands or be served in all.
    pub(super) fn most(self) -> usize {
        if self.evicts { self.connections.saturating_mul(8) } else { self.connections }
    }
}

/// Accepts and serves until `drain` says so; then lets the open connections end, within its bounds.
///
/// Runs on a local runtime. Returns how many connections were cut.
pub async fn accept<H: Handler>(
    listener: TcpListener,
    context: Rc<Context<H>>,
    mut drain: watch::Receiver<bool>,
    bounds: Bounds,
) -> usize {
    let mut connections = JoinSet::new();
    let places = Places::new(bounds, Arc::clone(&context.reached), &context.metrics);
    let mut shortage: Option<LastingLimit> = None;
    let stop = drain.clone();
    let mut tend = pin!(places.tend());
    loop {
        let next = async {
            places.room().await;
            listener.accept().await
        };
        tokio::select! {
            _ = drain.wait_for(|drain| *drain) => break,
            accepted = next => match accepted {
                Ok((socket, address)) => {
                    shortage = None;
                    places.admit(socket, address.ip(), |ticket| {
                        let accepted = Accepted { ticket, address };
                        connections.spawn_local(connection::serve(Rc::clone(&context), accepted, stop.clone()))
                    });
                }
                Err(error) => rest(&context, &mut shortage, &error).await,
            },
            never = &mut tend => match never {},
            // A panic ends one connection, never the others; the log has it already.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    let dismiss = async {
        sleep(FIRST_HELLO).await;
        places.dismiss_silent();
        pending::<Infallible>().await
    };
    tokio::select! {
        ended = timeout(bounds.drain, all) => if ended.is_err() {
            context.exchanges.cut();
        },
        never = &mut tend => match never {},
        never = dismiss => match never {},
    }
    connections.len()
}

/// Rests, because nothing could be accepted; a shortage of descriptors is a limit that lasts until something can.
async fn rest<H: Handler>(context: &Context<H>, shortage: &mut Option<LastingLimit>, error: &io::Error) {
    if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) {
        shortage.get_or_insert_with(|| context.reached.last(Limit::Descriptors));
    } else if let Some(unsaid) = context.peers.admits_line(UNACCEPTED, LineSource::Unknown) {
        tracing::warn!(listener = context.listener, %error, unsaid, "{}", UNACCEPTED.message());
    }
    sleep(REST).await;
}
