//! What the queue costs: `cargo bench --bench queue -- [--entries N] [--rounds N] [--json]`.
//!
//! The queue is that of the rig, on loopback, with a thread of its own. What is measured is the consumer, the engine and
//! the gate; a real queue adds its own time. Figures:
//! - `backlog`: so many messages wait when a process begins; until all is in effect (by which messages a second are
//!   counted), and until the gate is ready: all on disk, in the audit, deleted, and a last poll of a second that finds nothing.
//!   The gate has a process of its own, whose memory is that of nobody else; the state lies in the current directory.
//! - `wake-up`: what this machine takes for the like without us: a byte to another thread's task and back, and from a
//!   message in the queue to a bare HTTP client that waits for it.
//! - `denial`: from a message in the queue to the first request that is refused or cut, on an open connection that makes
//!   one after the other; and to the end of a connection that is idle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench that cannot run says so")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portcullis::clock::Clock;
use portcullis::feed::sqs;
use portcullis::revocation::Action;
use portcullis::revocation::Event;
use portcullis::revocation::Level;
use portcullis::revocation::Target;
use portcullis::rig::client;
use portcullis::rig::client::Conversation;
use portcullis::rig::queue::Queue;
use portcullis::rig::queue::Settings;
use portcullis::rig::stage::Stage;
use portcullis::rig::stage::principal;
use portcullis::rig::work::Outcome;
use portcullis::rig::work::judge;
use rustls::ClientConfig;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::runtime::Runtime;
use tokio::time::sleep;

const USAGE: &str = "usage: cargo bench --bench queue -- [--entries N] [--rounds N] [--json]
  --entries N   messages that wait at the start (100000)
  --rounds N    revocations that are timed, each kind (200)
  --json        one object a line";
const AGENT: &str = "alice";
/// Requests that are served before the one that may be refused.
const SERVED: usize = 20;
const SOON: Duration = Duration::from_millis(2);

struct Options {
    entries: usize,
    rounds: usize,
    json: bool,
}

impl Options {
    /// `None` if help is asked for.
    fn parse(arguments: &[String]) -> Option<Self> {
        let number = |name: &str, default| {
            let place = arguments.iter().position(|argument| argument == name);
            place.map_or(default, |place| arguments[place + 1].parse().unwrap())
        };
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        let options = Self {
            entries: number("--entries", 100_000),
            rounds: number("--rounds", 200),
            json: has("--json"),
        };
        (!has("--help")).then_some(options)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [asked, url, directory, entries] = arguments.as_slice()
        && asked == "caught-up"
    {
        return caught_up(url, Path::new(directory), entries.parse().unwrap());
    }
    let Some(options) = Options::parse(&arguments) else { return println!("{USAGE}") };
    let say = |what: &str, figures: Value| match options.json {
        true => println!("{}", json!({"what": what, "figures": figures})),
        false => println!("{what}: {figures}"),
    };
    say("backlog", backlog(options.entries));
    say("wake-up: a byte to another thread and back", ping_pong(options.rounds));
    say("wake-up: a message to a bare HTTP client", bare_client(options.rounds));
    let (busy, idle) = denials(options.rounds);
    say("denial: a busy connection", busy);
    say("denial: an idle connection", idle);
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

/// In microseconds.
fn spread(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |share: usize| micros(times[(times.len() * share / 100).min(times.len() - 1)]);
    json!({"rounds": times.len(), "p50_us": at(50), "p99_us": at(99), "max_us": at(100)})
}

fn message(action: Action, agent: &str) -> String {
    let target = Target::parse(Level::Principal, &principal(agent), None).unwrap();
    let mut event = json!(Event::new(action, target, Clock::system().now()));
    event["version"] = 1.into();
    event.to_string()
}

fn feed_of(url: &str) -> sqs::Config {
    let config: sqs::Config =
        toml::from_str(&format!("queue_url = \"{url}\"\nregion = \"us-east-1\"")).unwrap();
    sqs::Config { access_key: Some(("bench".into(), "bench".into())), ..config }
}

fn backlog(entries: usize) -> Value {
    let queue = Queue::start(Settings::default()).unwrap();
    queue.push_all((0..entries).map(|i| message(Action::Revoke, &format!("agent-{i:07}"))));
    let directory = tempfile::tempdir_in(".").unwrap();
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.arg("caught-up").arg(queue.url()).arg(directory.path()).arg(entries.to_string());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(queue.left(), 0);
    let mut figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures["entries"], entries);
    let seconds = figures["in_effect_seconds"].as_f64().unwrap();
    figures["messages_a_second"] = json!((entries as f64 / seconds).round());
    figures["receives"] = json!(queue.counts().receives);
    figures
}

/// In a process of its own: a whole gate, with its audit, begins on a queue; says how long it took until it had caught up.
fn caught_up(url: &str, directory: &Path, entries: usize) {
    let state = directory.to_owned();
    let feed = feed_of(url);
    let before = memory("VmRSS:");
    let begun = Instant::now();
    let stage = Stage::set_with(&Clock::system(), &[], &move |config| {
        config.state.dir = state.clone();
        config.feed.sqs = Some(sqs::Config { required: true, ..feed.clone() });
    });
    let stage = stage.unwrap();
    let engine = stage.engine();
    let in_effect = runtime().block_on(async {
        while engine.entries() < entries {
            sleep(SOON).await;
        }
        begun.elapsed().as_secs_f64()
    });
    runtime().block_on(async {
        while !is_ready(&stage).await {
            sleep(SOON).await;
        }
    });
    // The last poll finds nothing, and waits for a second before it says so.
    let caught_up = begun.elapsed().as_secs_f64();
    let (after, peak) = (memory("VmRSS:"), memory("VmHWM:"));
    let millis = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    let figures = json!({
        "entries": engine.entries(), "in_effect_seconds": millis(in_effect), "caught_up_seconds": millis(caught_up),
        "rss_growth_mib": (after - before) / 1024, "peak_growth_mib": (peak - before) / 1024,
    });
    stage.strike().unwrap();
    println!("{figures}");
}

/// What the plain listener says: not before the backlog has been taken in.
async fn is_ready(stage: &Stage) -> bool {
    let mut stream = TcpStream::connect(stage.metrics().unwrap()).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.starts_with("HTTP/1.1 200 ")
}

/// KiB.
fn memory(name: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
}

fn ping_pong(rounds: usize) -> Value {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let responder = std::thread::spawn(move || {
        runtime().block_on(async {
            let (mut stream, _) = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            while let Ok(byte) = stream.read_u8().await {
                stream.write_u8(byte).await.unwrap();
            }
        });
    });
    let times = runtime().block_on(async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut times = Vec::new();
        for _ in 0..rounds {
            sleep(SOON).await;
            let begun = Instant::now();
            stream.write_u8(7).await.unwrap();
            stream.read_u8().await.unwrap();
            times.push(begun.elapsed());
        }
        times
    });
    responder.join().unwrap();
    spread(times)
}

/// From a message in the queue to a client that has nothing to do but to wait for it.
fn bare_client(rounds: usize) -> Value {
    let queue = Queue::start(Settings::default()).unwrap();
    let (url, address) = (queue.url(), queue.address());
    let (told, received) = std::sync::mpsc::sync_channel(1);
    let waiting = std::thread::spawn(move || {
        runtime().block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            let connection = tokio::spawn(connection);
            let body = json!({"QueueUrl": url, "WaitTimeSeconds": 20, "MaxNumberOfMessages": 10}).to_string();
            for _ in 0..rounds {
                let request = Request::post("/").header(HOST, "localhost");
                let request = request.header("x-amz-target", "AmazonSQS.ReceiveMessage");
                let request = request.body(Full::<Bytes>::from(body.clone())).unwrap();
                let answer = sender.send_request(request).await.unwrap();
                answer.into_body().collect().await.unwrap();
                told.send(Instant::now()).unwrap();
            }
            drop(sender);
            connection.await.unwrap().unwrap();
        });
    });
    let runtime = runtime();
    let times = (1..=rounds).map(|round| {
        runtime.block_on(async {
            while queue.counts().receives < round {
                sleep(SOON).await;
            }
            sleep(SOON).await;
        });
        let sent = queue.push(message(Action::Revoke, AGENT));
        received.recv().unwrap().duration_since(sent.at)
    });
    let times = times.collect();
    waiting.join().unwrap();
    spread(times)
}

/// An agent at a gate that reads a queue.
struct Scene {
    stage: Stage,
    queue: Queue,
    tls: Arc<ClientConfig>,
}

impl Scene {
    async fn connect(&self) -> Conversation {
        let stream = client::connect(&self.tls, self.stage.gate(), "localhost").await.unwrap();
        Conversation::begin(stream).await.unwrap()
    }

    async fn ask(&self, conversation: &mut Conversation) -> Outcome {
        let request = Request::get("/x").header(HOST, "localhost").header("x-agent-id", AGENT);
        let request = request.body(Full::<Bytes>::default()).unwrap();
        conversation.send(request).await.map_or_else(|e| Outcome::Cut(e.to_string()), |answer| judge(&answer))
    }

    /// A connection that has been served, once the agent is served and the queue is empty.
    async fn served(&self) -> Conversation {
        self.queue.push(message(Action::Reinstate, AGENT));
        loop {
            let mut conversation = self.connect().await;
            if self.queue.left() == 0 && self.ask(&mut conversation).await == Outcome::Served {
                return conversation;
            }
            sleep(SOON).await;
        }
    }

    async fn busy(&self) -> Duration {
        let mut conversation = self.served().await;
        for _ in 0..SERVED {
            assert_eq!(self.ask(&mut conversation).await, Outcome::Served);
        }
        let sent = self.queue.push(message(Action::Suspend, AGENT));
        while self.ask(&mut conversation).await == Outcome::Served {}
        sent.at.elapsed()
    }

    async fn idle(&self) -> Duration {
        let mut conversation = self.served().await;
        sleep(SOON).await;
        let sent = self.queue.push(message(Action::Suspend, AGENT));
        conversation.ended().await;
        sent.at.elapsed()
    }
}

fn denials(rounds: usize) -> (Value, Value) {
    let queue = Queue::start(Settings::default()).unwrap();
    let feed = feed_of(&queue.url());
    let stage = Stage::set_with(&Clock::system(), &[AGENT], &|config| config.feed.sqs = Some(feed.clone()));
    let stage = stage.unwrap();
    let tls = Arc::new(stage.tls(&stage.agent_files(AGENT)).unwrap());
    let scene = Scene { stage, queue, tls };
    let runtime = runtime();
    let (mut busy, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        busy.push(runtime.block_on(scene.busy()));
        idle.push(runtime.block_on(scene.idle()));
    }
    scene.stage.strike().unwrap();
    (spread(busy), spread(idle))
}
