//! The load: requests or handshakes on one proxy, one after the other on each connection, from threads of its own.
//!
//! A connection that the proxy ends between two requests is opened anew, and is no error: many proxies end one after so
//! many requests.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::HandshakeKind;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::line::Failure;
use super::line::Line;
use super::line::Peer;
use super::line::once;
use crate::rig::findings::Kind;

/// Connections over which HTTP/2 is spoken.
const HTTP2: usize = 8;
/// Streams at once on each of them.
const STREAMS: usize = 16;
/// Handshakes at once.
const HANDSHAKES: usize = 8;
/// Between a connection that came to nothing and the next.
const AGAIN: Duration = Duration::from_millis(10);

/// A running load. Dropping it ends it.
pub(super) struct Load {
    tally: Arc<Tally>,
    /// How many connections there are at once.
    workers: usize,
    stop: Vec<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

/// What came of it so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Requests that were answered with success.
    pub(super) served: u64,
    /// Those that were not, and connections that did not come to one.
    pub(super) failed: u64,
    /// Full handshakes where they should have been resumed ones.
    pub(super) full: u64,
}

impl Counts {
    /// What came of it after `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            served: self.served - before.served,
            failed: self.failed - before.failed,
            full: self.full - before.full,
        }
    }
}

#[derive(Default)]
struct Tally {
    /// Workers that have had an answer, or failed to have one.
    begun: AtomicU64,
    served: AtomicU64,
    failed: AtomicU64,
    full: AtomicU64,
    first: OnceLock<String>,
}

impl Load {
    /// Puts `kind` of load on `peer`: over so many connections if they are HTTP/1.1 ones, from so many threads.
    pub(super) fn start(peer: &Peer, kind: Kind, connections: usize, threads: usize) -> io::Result<Self> {
        let workers = match kind {
            Kind::Http2 => HTTP2,
            Kind::Handshake | Kind::Resumption => HANDSHAKES.min(connections),
            _ => connections,
        };
        let mut load = Self { tally: Arc::default(), workers, stop: Vec::new(), threads: Vec::new() };
        for number in 0..threads.min(workers) {
            let share = workers / threads + usize::from(number < workers % threads);
            let peers: Vec<Peer> = (0..share).map(|_| peer.speaking(kind)).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (stop, stopped) = oneshot::channel();
            let tally = Arc::clone(&load.tally);
            let work = async move {
                let mut workers = JoinSet::new();
                for peer in peers {
                    workers.spawn(labour(peer, kind, Arc::clone(&tally)));
                }
                // The sender is dropped when it is time to stop.
                let _ = stopped.await;
            };
            let name = format!("load-{number}");
            load.threads.push(std::thread::Builder::new().name(name).spawn(move || runtime.block_on(work))?);
            load.stop.push(stop);
        }
        Ok(load)
    }

    /// Whether each of its connections has been answered once. A connection that is open at this end only is not: with TLS
    /// 1.3 a server looks at the client's certificate when the client has no more to say (RFC 8446, section 2).
    pub(super) fn has_begun(&self) -> bool {
        self.tally.begun.load(Ordering::Relaxed) >= self.workers as u64
    }

    /// What came of it so far.
    pub(super) fn counts(&self) -> Counts {
        let Tally { served, failed, full, .. } = &*self.tally;
        let [served, failed, full] = [served, failed, full].map(|count| count.load(Ordering::Relaxed));
        Counts { served, failed, full }
    }

    /// The first failure, in words.
    pub(super) fn first_failure(&self) -> Option<&str> {
        self.tally.first.get().map(String::as_str)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            // What a thread that failed has to say, it has said.
            let _ = thread.join();
        }
    }
}

impl Tally {
    /// A worker has its first answer, or none, if it has not begun before.
    fn begin(&self, begun: &mut bool) {
        if !mem::replace(begun, true) {
            self.begun.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn serve(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    fn fail(&self, failure: &Failure) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first.get_or_init(|| failure.to_string());
    }
}

/// One connection after the other, until it is dropped.
async fn labour(peer: Peer, kind: Kind, tally: Arc<Tally>) {
    let mut begun = false;
    loop {
        let done = match kind {
            Kind::Handshake | Kind::Resumption => shake(&peer, kind, &tally).await,
            Kind::Http2 => share(&peer, &tally, &mut begun).await,
            _ => keep(&peer, &tally, &mut begun).await,
        };
        tally.begin(&mut begun);
        if let Err(failure) = done {
            tally.fail(&failure);
            sleep(AGAIN).await;
        }
    }
}

/// A connection for one request.
async fn shake(peer: &Peer, kind: Kind, tally: &Tally) -> Result<(), Failure> {
    if once(peer).await? == HandshakeKind::Full && kind == Kind::Resumption {
        tally.full.fetch_add(1, Ordering::Relaxed);
    }
    tally.serve();
    Ok(())
}

/// An HTTP/1.1 connection for as many requests as it takes.
async fn keep(peer: &Peer, tally: &Tally, begun: &mut bool) -> Result<(), Failure> {
    let (mut line, drive, _) = Line::open(peer).await?;
    let work = async {
        ask(&mut line, peer, tally).await?;
        tally.begin(begun);
        converse(line, peer, tally).await
    };
    let (done, ()) = tokio::join!(work, drive);
    done
}

/// An HTTP/2 connection for as many requests as it takes, several at once.
async fn share(peer: &Peer, tally: &Arc<Tally>, begun: &mut bool) -> Result<(), Failure> {
    let (mut line, drive, _) = Line::open(peer).await?;
    let mut streams = JoinSet::new();
    streams.spawn(async {
        drive.await;
        Ok(())
    });
    ask(&mut line, peer, tally).await?;
    tally.begin(begun);
    for line in std::iter::repeat_with(|| line.another()).take(STREAMS).flatten() {
        let (peer, tally) = (peer.clone(), Arc::clone(tally));
        streams.spawn(async move { converse(line, &peer, &tally).await });
    }
    // A connection without senders ends.
    drop(line);
    let mut done = Ok(());
    while let Some(ended) = streams.join_next().await {
        match ended {
            // Each stream that was cut off had a request; one of them is counted by whom this is told.
            Ok(Err(failure)) if done.is_err() => tally.fail(&failure),
            Ok(Err(failure)) => done = Err(failure),
            _ => {}
        }
    }
    done
}

/// Request after request, until a connection that has answered before ends.
async fn converse(mut line: Line, peer: &Peer, tally: &Tally) -> Result<(), Failure> {
    loop {
        match ask(&mut line, peer, tally).await {
            Err(Failure::Closed) => return Ok(()),
            done => done?,
        }
    }
}

/// One request, and what came of it; fails if the connection can take no other.
async fn ask(line: &mut Line, peer: &Peer, tally: &Tally) -> Result<(), Failure> {
    match line.ask(peer.request()).await {
        Ok(()) => tally.serve(),
        Err(failure @ Failure::Status(_)) => tally.fail(&failure),
        Err(failure) => return Err(failure),
    }
    Ok(())
}
