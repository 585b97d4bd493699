//! Everything at once, for a while: every protocol, agents of their own, one in eight revoked along the way, services that
//! restart and reset their connections. No bystander notices more than its own service's absence; whoever is revoked is
//! out, and stays out; what the gate holds in memory and in descriptors does not grow.
//!
//! `PORTCULLIS_SOAK` says for how long, such as `2m`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod agents;
mod services;

#[path = "../scenarios/client.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod client;
#[path = "../scenarios/lab.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod lab;
#[path = "../scenarios/pki.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod pki;
#[path = "../scenarios/process.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod process;
#[path = "../scenarios/upstream.rs"]
#[expect(dead_code, reason = "a gate's scenarios need more of it")]
mod upstream;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use http::StatusCode;
use nix::sys::signal::Signal;
use rustls::version::TLS12;
use rustls::version::TLS13;
use serde_json::json;
use tokio::sync::watch;

use crate::agents::Agent;
use crate::agents::Failure;
use crate::agents::Way;
use crate::client::Client;
use crate::lab::post;
use crate::lab::within;
use crate::pki::Cert;
use crate::process::Process;
use crate::process::Site;
use crate::services::Service;
use crate::upstream::Speaks;

const AGENTS: usize = 64;
/// Every ninth, so that each way to speak has its victim.
const VICTIMS: usize = 9;
/// Between two pieces of an agent's work: an unoptimized gate is to be busy, not swamped.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two disturbances; most of the time nothing is excused.
const CALM: Duration = Duration::from_secs(4);

/// What came of it all.
#[derive(Default)]
struct Tally {
    done: BTreeMap<Way, usize>,
    /// What a service's absence explains.
    excused: BTreeMap<String, usize>,
    /// What nothing explains.
    failures: Vec<String>,
    refused: usize,
    resumed: usize,
}

/// How a victim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Good,
    /// The revocation was asked for.
    Doomed,
    /// It is in effect.
    Out,
}

struct Shared {
    tally: Mutex<Tally>,
    web: Service,
    rpc: Service,
    over: watch::Sender<bool>,
}

impl Shared {
    fn service(&self, way: Way) -> &Service {
        if way.is_rpc() { &self.rpc } else { &self.web }
    }

    fn fail(&self, agent: &Agent, what: impl std::fmt::Display) {
        self.tally.lock().unwrap().failures.push(format!("{} ({:?}): {what}", agent.name, agent.way));
    }

    /// Takes note of what became of a bystander's work.
    fn judge(&self, agent: &Agent, begun: Instant, done: Result<(), Failure>) {
        let failure = match done {
            Ok(()) => return *self.tally.lock().unwrap().done.entry(agent.way).or_default() += 1,
            Err(failure) => failure,
        };
        let what = match &failure {
            Failure::Status(status, _) if matches!(status.as_u16(), 502..=504) => status.as_u16().to_string(),
            Failure::Cut(_) => "cut".to_owned(),
            _ => return self.fail(agent, &failure),
        };
        if !self.service(agent.way).excuses(begun) {
            return self.fail(agent, &failure);
        }
        *self.tally.lock().unwrap().excused.entry(what).or_default() += 1;
    }
}

/// Works until it is over, or its certificate is revoked; then it has to see that it is out.
async fn live(mut agent: Agent, shared: Arc<Shared>, standing: watch::Receiver<Standing>) {
    let over = shared.over.subscribe();
    while !*over.borrow() && *standing.borrow() == Standing::Good {
        let begun = Instant::now();
        let done = agent.work().await;
        if *standing.borrow() == Standing::Good {
            shared.judge(&agent, begun, done);
        } else if let Err(failure @ Failure::Wrong(_)) = done {
            shared.fail(&agent, &failure);
        }
        tokio::time::sleep(PAUSE).await;
    }
    let resumed = std::mem::take(&mut agent.resumed);
    shared.tally.lock().unwrap().resumed += resumed;
    if *standing.borrow() == Standing::Good {
        return;
    }
    let mut standing = standing;
    standing.wait_for(|standing| *standing == Standing::Out).await.unwrap();
    be_refused(agent, &shared).await;
}

/// What was open has ended, and nothing begins any more, by any way, until all is over.
async fn be_refused(mut agent: Agent, shared: &Shared) {
    // Each of these panics if the connection goes on.
    if let Some(http1) = agent.http1.take() {
        let _ = http1.ended().await;
    }
    if let Some(http2) = agent.http2.take() {
        let _ = http2.ended().await;
    }
    let over = shared.over.subscribe();
    let refusal = |code: &str| ["principal_revoked", "certificate_revoked"].contains(&code);
    while !*over.borrow() {
        let answer = match agent.way {
            Way::Http2 | Way::Grpc => {
                agent.client.h2().await.try_get("/echo").await.map_err(|e| e.to_string())
            }
            Way::WebSocket1 => {
                match agent.client.try_websocket("/ws").await {
                    Err(Some(StatusCode::FORBIDDEN)) => shared.tally.lock().unwrap().refused += 1,
                    other => shared.fail(&agent, format!("{:?}", other.err())),
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            _ => agent.client.h1().await.try_get("/echo").await.map_err(|e| e.to_string()),
        };
        match answer {
            Ok(answer) if answer.status == 403 && refusal(&answer.code()) => {
                shared.tally.lock().unwrap().refused += 1;
            }
            other => shared.fail(&agent, format!("{other:?}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Disturbs one service after the other: a reset of every connection to an endpoint, or a restart.
async fn disturb(shared: Arc<Shared>) {
    let over = shared.over.subscribe();
    for turn in 0.. {
        tokio::time::sleep(CALM).await;
        if *over.borrow() {
            return;
        }
        let service = if turn % 2 == 0 { &shared.web } else { &shared.rpc };
        service.disturb(turn / 2, turn % 4 > 1).await;
    }
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn configuration(web: &Service, rpc: &Service) -> String {
    format!(
        r#"[gate]
listen = "127.0.0.1:0"
threads = 2
drain = "5s"
[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]
[gate.timeouts]
upstream_idle = "1s"
[identity]
trust_domains = ["lab.test"]
templates = ["spiffe://{{trust_domain}}/agent/{{agent}}"]
claim = {{ header = "x-agent-id" }}
[[route]]
upstream = "web"
[[route]]
path = "/rpc"
upstream = "rpc"
[upstream.web]
endpoints = {}
[upstream.rpc]
endpoints = {}
[admin]
listen = "127.0.0.1:0"
allow = ["spiffe://lab.test/admin/ops"]
[metrics]
listen = "127.0.0.1:0"
[state]
dir = "state"
"#,
        web.endpoints(),
        rpc.endpoints()
    )
}

type Victim = (String, Cert, watch::Sender<Standing>);

/// Revokes one after the other, by name or by certificate; returns how many sessions that ended, and how they stand.
async fn revoke(
    victims: Vec<Victim>,
    admin: &Client,
    length: Duration,
) -> (u64, Vec<watch::Sender<Standing>>) {
    let pause = length / u32::try_from(victims.len()).unwrap();
    let (mut ended, mut stands) = (0, Vec::new());
    for (turn, (name, cert, standing)) in victims.into_iter().enumerate() {
        standing.send_replace(Standing::Doomed);
        let (level, target) = if turn.is_multiple_of(2) {
            ("principal", name.as_str())
        } else {
            ("certificate", cert.serial.as_str())
        };
        let change = json!({"action": "revoke", "level": level, "target": target, "reason": "soak"});
        // One that was idle for so long may have been closed.
        let answer = post(&mut admin.h1().await, &change).await.unwrap();
        answer.assert_ok();
        ended += answer.json()["sessions_ended"].as_u64().unwrap();
        standing.send_replace(Standing::Out);
        stands.push(standing);
        tokio::time::sleep(pause).await;
    }
    (ended, stands)
}

/// How many descriptors a gate has when all of its threads have begun: the most within a second.
async fn opened(pid: u32) -> usize {
    let mut most = descriptors(pid);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(descriptors(pid));
    }
    most
}

/// How many descriptors are left once what was kept for reuse has had its time.
async fn settled(pid: u32, before: usize) -> usize {
    for _ in 0..300 {
        if descriptors(pid) <= before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    descriptors(pid)
}

#[tokio::test]
async fn everything_at_once() {
    let length = std::env::var("PORTCULLIS_SOAK").unwrap_or_else(|_| "20s".into());
    let length = humantime::parse_duration(&length).unwrap();
    let (web, rpc) = (Service::start(Speaks::Http1, 3).await, Service::start(Speaks::H2c, 2).await);
    let site = Site::new();
    site.write("portcullis.toml", &configuration(&web, &rpc));
    let mut command = site.command("run");
    command.env("PORTCULLIS_LOG", "error,portcullis::app=info");
    let (mut process, at) = Process::start(command).await;
    let pid = process.id();
    let admin = site.root.leaf().uri("spiffe://lab.test/admin/ops").issue();
    let admin = Client::new(&site.root, Some(&admin), at.admin, &[&TLS13]);
    let before = opened(pid).await;

    let over = watch::channel(false).0;
    let shared = Arc::new(Shared { tally: Mutex::default(), web, rpc, over });
    let (mut tasks, mut victims) = (Vec::new(), Vec::new());
    for i in 0..AGENTS {
        let name = format!("agent-{i}");
        let cert = site.root.agent(&name);
        let client = Client::new(&site.root, Some(&cert), at.gate, &[&TLS13, &TLS12]);
        let (standing, stands) = watch::channel(Standing::Good);
        let agent = Agent::new(name.clone(), Way::ALL[i % Way::ALL.len()], client);
        tasks.push(tokio::spawn(live(agent, Arc::clone(&shared), stands)));
        victims.extend((i % VICTIMS == 0).then_some((name, cert, standing)));
    }
    let disturbance = tokio::spawn(disturb(Arc::clone(&shared)));
    // A third of the time to warm up; a third for revocations; a third to go on.
    tokio::time::sleep(length / 3).await;
    let warm = resident(pid);
    let revocations = victims.len();
    let (ended, _stands) = revoke(victims, &admin, length / 3).await;
    tokio::time::sleep(length / 3).await;
    let hot = resident(pid);
    shared.over.send_replace(true);
    for task in tasks {
        // A panic is what an agent met with: a hang, for one.
        within(task).await.unwrap();
    }
    disturbance.await.unwrap();
    let after = settled(pid, before).await;
    let tally = std::mem::take(&mut *shared.tally.lock().unwrap());
    println!("{}", tally.figures(length));
    println!(
        "{revocations} revocations ended {ended} sessions, and {} later tries were refused",
        tally.refused
    );
    println!("memory {warm} kB warm, {hot} kB at the end; descriptors {before} before, {after} after");
    assert!(tally.failures.is_empty(), "{} failures: {:#?}", tally.failures.len(), tally.failures);
    assert_eq!(tally.done.len(), Way::ALL.len(), "{:?}", tally.done);
    assert!(tally.done.values().all(|count| *count > 10), "{:?}", tally.done);
    assert!(tally.refused > revocations && ended > 0 && tally.resumed > 0);
    assert!(hot <= warm * 3 / 2 + (32 << 10), "memory grew from {warm} to {hot} kB");
    assert!(after <= before, "{after} descriptors, {before} before");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().await, Some(0));
}

impl Tally {
    fn figures(&self, length: Duration) -> String {
        let all: usize = self.done.values().sum();
        let mut text = format!("{all} pieces of work in {}:", humantime::format_duration(length));
        for (way, count) in &self.done {
            write!(text, " {way:?} {count}").unwrap();
        }
        write!(text, "; {} handshakes resumed; services absent: {:?}", self.resumed, self.excused).unwrap();
        text
    }
}
