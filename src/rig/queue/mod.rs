//! A queue on loopback that speaks the JSON protocol of Amazon SQS, as far as a consumer sees it, and goes wrong when told to.
//!
//! A standard queue: messages come at least once, in any order, and again when whoever received them lets their visibility
//! run out. It has a thread and a runtime of its own, so that it is no part of what it is used to measure. It checks no
//! signature, and keeps everything in memory.

mod serve;
mod store;

use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio::sync::watch;

use store::Store;

/// The path of the queue's URL.
const PATH: &str = "/000000000000/revocations";

/// What kind of queue it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// After so many receives a message goes to the dead letters; without it there is no redrive policy.
    pub max_receives: Option<u32>,
    /// Every message is received twice.
    pub twice: bool,
    /// In which order messages are received.
    pub order: Order,
}

/// In which order messages are received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were sent.
    #[default]
    Sent,
    /// The latest first.
    Reversed,
    /// None.
    Random,
}

/// What is asked of the queue, single or in batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `ReceiveMessage`.
    Receive,
    /// `DeleteMessage`, `DeleteMessageBatch`.
    Delete,
    /// `ChangeMessageVisibility`, `ChangeMessageVisibilityBatch`.
    Extend,
    /// `GetQueueAttributes`.
    Attributes,
    /// `SendMessage`, `SendMessageBatch`.
    Send,
    /// `GetQueueUrl`.
    Url,
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is late.
    Delay(Duration),
    /// It is done at once, and the answer is late.
    Late(Duration),
    /// `ThrottlingException`.
    Throttled,
    /// 500 `InternalFailure`.
    Broken,
    /// `AccessDenied`.
    Denied,
    /// `QueueDoesNotExist`.
    Gone,
    /// It is never answered.
    Hang,
    /// It is done, and never answered.
    HangWhenDone,
    /// The connection ends, nothing is done.
    Cut,
    /// It is done, and the connection ends before the answer.
    CutWhenDone,
    /// It is done, and the connection ends in the middle of the answer.
    Truncated,
    /// It is answered as if it were done.
    Pretended,
    /// No receipt is known.
    Stale,
}

/// A message that was sent.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Its id.
    pub id: String,
    /// When it could be received.
    pub at: Instant,
}

/// What was asked of a queue so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Receives that came in.
    pub receives: usize,
    /// Receives that were given messages.
    pub filled: usize,
    /// Deletes that came in.
    pub deletes: usize,
    /// Deletes that were done, or that it was pretended of.
    pub deletes_done: usize,
    /// Extensions that came in.
    pub extends: usize,
    /// Questions after attributes.
    pub attributes: usize,
}

/// A running queue. Dropping it ends it.
pub struct Queue {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What connections and the owner share.
struct Shared {
    inner: Mutex<Inner>,
    /// Something can be received.
    news: Notify,
    /// How often every connection was cut.
    cut: watch::Sender<u64>,
}

struct Inner {
    store: Store,
    /// What goes wrong, and how often yet; the first that fits counts.
    faults: Vec<(Call, Fault, usize)>,
    counts: Counts,
    /// Connections are accepted, and nothing that comes over them is read.
    half_open: bool,
}

impl Queue {
    /// Starts one on any free port of loopback.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let inner = Inner {
            store: Store::new(settings),
            faults: Vec::new(),
            counts: Counts::default(),
            half_open: false,
        };
        let (inner, cut) = (Mutex::new(inner), watch::Sender::new(0));
        let shared = Arc::new(Shared { inner, news: Notify::new(), cut });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("queue".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    Err(error) = serve::accept(listener, serving) => tracing::error!(%error, "queue"),
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a message.
    pub fn push(&self, body: impl Into<String>) -> Pushed {
        let id = self.shared.inner().store.push(body.into());
        let at = Instant::now();
        self.shared.news.notify_waiters();
        Pushed { id, at }
    }

    /// Sends many messages, which can all be received at the same moment; their ids.
    pub fn push_all(&self, bodies: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut inner = self.shared.inner();
        let ids = bodies.into_iter().map(|body| inner.store.push(body)).collect();
        drop(inner);
        self.shared.news.notify_waiters();
        ids
    }

    /// Makes the next so many calls of a kind go wrong. Faults of one kind of call come one after the other.
    pub fn inject(&self, call: Call, fault: Fault, times: usize) {
        self.shared.inner().faults.push((call, fault, times));
    }

    /// From now on connections are accepted and nothing over them is answered; those that are open end.
    pub fn half_open(&self) {
        self.shared.inner().half_open = true;
        self.cut();
    }

    /// Ends every connection, as a middlebox does.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|times| *times += 1);
    }

    /// Nothing goes wrong any more; what hangs goes on hanging.
    pub fn heal(&self) {
        let mut inner = self.shared.inner();
        inner.faults.clear();
        inner.half_open = false;
    }

    /// What was asked so far.
    pub fn counts(&self) -> Counts {
        self.shared.inner().counts
    }

    /// How many messages are not deleted, hidden ones included.
    pub fn left(&self) -> usize {
        self.shared.inner().store.left()
    }

    /// The ids of what was deleted, in the order in which it was sent.
    pub fn deleted(&self) -> Vec<String> {
        self.shared.inner().store.deleted()
    }

    /// Whether a message was deleted.
    pub fn is_deleted(&self, id: &str) -> bool {
        self.shared.inner().store.is_deleted(id)
    }

    /// How often a message was received.
    pub fn receives(&self, id: &str) -> u32 {
        self.shared.inner().store.receives(id)
    }

    /// The bodies that were received too often.
    pub fn dead_letters(&self) -> Vec<String> {
        self.shared.inner().store.dead().to_vec()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Counts a call, and says how it goes wrong, if it does.
    fn begin(&mut self, call: Call) -> Option<Fault> {
        let counts = &mut self.counts;
        match call {
            Call::Receive => counts.receives += 1,
            Call::Delete => counts.deletes += 1,
            Call::Extend => counts.extends += 1,
            Call::Attributes => counts.attributes += 1,
            Call::Send | Call::Url => {}
        }
        let place = self.faults.iter().position(|(of, _, times)| *of == call && *times > 0)?;
        let (_, fault, times) = self.faults.get_mut(place)?;
        *times -= 1;
        Some(*fault)
    }
}
