//! Those who are not revoked: live connections to all gates in a slow rhythm, on a thread of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio::time::sleep_until;
use tokio::time::timeout;

use super::Error;
use super::fleet::Site;
use super::line::get;
use crate::rig::client;
use crate::rig::client::ClientError;
use crate::rig::client::Conversation;

/// Between two requests of one connection.
const PERIOD: Duration = Duration::from_secs(1);
/// How many agents there are; each has several connections.
const AGENTS: usize = 100;
/// Handshakes that are under way at once.
const HANDSHAKES: usize = 16;
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long all of them may take to connect, and a second for each thousand more.
const CONNECTED: Duration = Duration::from_secs(60);

/// Connections that are at work. Dropping them ends them.
pub(super) struct Bystanders {
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    connected: AtomicU64,
    served: AtomicU64,
    errors: AtomicU64,
}

/// What one of them needs.
struct Place {
    tls: Arc<ClientConfig>,
    gate: SocketAddr,
    /// When its first request is due.
    first: Duration,
}

impl Bystanders {
    /// Connects so many, to the gates in turn, over HTTP/1.1 and HTTP/2; returns when all are connected.
    pub(super) async fn start(site: &Site, gates: &[SocketAddr], connections: usize) -> Result<Self, Error> {
        let mut agents = Vec::new();
        for agent in 0..AGENTS.min(connections) {
            let issued = site.issue(&format!("agent/bystander-{agent}"))?;
            agents.push([b"http/1.1".as_slice(), b"h2"].map(|protocol| site.client(&issued, protocol)));
        }
        let mut places = Vec::new();
        for number in 0..connections {
            let Some([http1, http2]) = agents.get(number % AGENTS) else { break };
            // Which of the two changes with each round over the gates, so that every gate has both.
            let tls = if (number / gates.len()).is_multiple_of(2) { http1 } else { http2 };
            let tls = tls.as_ref().map_err(|e| Error::Victim("a bystander".into(), e.to_string()))?;
            let Some(gate) = gates.get(number % gates.len()) else { break };
            let first = PERIOD.mul_f64(number as f64 / connections as f64);
            places.push(Place { tls: Arc::new(tls.clone()), gate: *gate, first });
        }
        let bystanders = Self::spawn(places).map_err(|e| Error::System("cannot start a thread", e))?;
        let until = Instant::now() + CONNECTED + Duration::from_millis(connections as u64);
        while bystanders.counts.connected.load(Ordering::Relaxed) < connections as u64 {
            if Instant::now() > until {
                return Err(Error::Bystanders(bystanders.counts.connected.load(Ordering::Relaxed)));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(bystanders)
    }

    fn spawn(places: Vec<Place>) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let all = Arc::clone(&counts);
        let thread = std::thread::Builder::new().name("bystanders".into()).spawn(move || {
            runtime.block_on(async {
                let turns = Arc::new(Semaphore::new(HANDSHAKES));
                let start = Instant::now();
                let mut working = JoinSet::new();
                for place in places {
                    working.spawn(work(place, start, Arc::clone(&turns), Arc::clone(&all)));
                }
                // Whoever drops the sender ends them, too.
                let _ = stopped.await;
            });
        })?;
        Ok(Self { counts, stop: Some(stop), thread: Some(thread) })
    }

    /// How many requests were served and how many were not, so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.counts.served.load(Ordering::Relaxed), self.counts.errors.load(Ordering::Relaxed))
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Request after request, for ever; what is lost is an error, and connected anew.
async fn work(place: Place, start: Instant, turns: Arc<Semaphore>, counts: Arc<Counts>) {
    let mut due = start + place.first;
    let mut conversation: Option<Conversation> = None;
    let mut is_new = true;
    loop {
        let served = timeout(PATIENCE, ask(&place, &mut conversation, &turns)).await;
        let served = matches!(served, Ok(Ok(status)) if status < 400);
        let count = if served { &counts.served } else { &counts.errors };
        count.fetch_add(1, Ordering::Relaxed);
        if !served {
            conversation = None;
        }
        if served && is_new {
            is_new = false;
            counts.connected.fetch_add(1, Ordering::Relaxed);
        }
        while due <= Instant::now() {
            due += PERIOD;
        }
        sleep_until(due.into()).await;
    }
}

async fn ask(
    place: &Place,
    conversation: &mut Option<Conversation>,
    turns: &Semaphore,
) -> Result<u16, ClientError> {
    let open = match conversation {
        Some(open) => open,
        None => {
            let _turn = turns.acquire().await;
            let stream = client::connect(&place.tls, place.gate, "localhost").await?;
            conversation.insert(Conversation::begin(stream).await?)
        }
    };
    Ok(open.send(get("/bystander")?).await?.status().as_u16())
}
