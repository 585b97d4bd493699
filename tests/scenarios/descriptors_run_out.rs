//! File descriptors run out: what is open goes on, whoever revokes is heard, and once there are descriptors again
//! everybody is served.

use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use nix::sys::signal::Signal;
use rustix::process::Pid;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::prlimit;
use rustls::version::TLS13;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::client::Client;
use crate::client::H1;
use crate::lab::PATIENCE;
use crate::lab::plain;
use crate::lab::within;
use crate::process::Process;
use crate::process::Site;
use crate::process::ended;
use crate::strangers_keep_nobody_out::crowd;
use crate::strangers_keep_nobody_out::hello;
use crate::upstream::Upstream;

const THREADS: usize = 2;

/// The same command with so few descriptors.
pub(crate) fn limited(plain: &Command, descriptors: usize) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")]);
    command.arg(plain.get_program()).args(plain.get_args()).current_dir("/").env_remove("PORTCULLIS_LOG");
    command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command
}

fn client(site: &Site, name: &str, at: std::net::SocketAddr) -> Client {
    Client::new(&site.root, Some(&site.root.agent(name)), at, &[&TLS13])
}

/// A connection: where there is no room, whoever is slow to shake hands has to come again.
async fn let_in(client: &Client) -> H1 {
    let tried = async {
        loop {
            if let Ok(connection) = client.try_h1().await {
                return connection;
            }
        }
    };
    timeout(6 * PATIENCE, tried).await.expect("nobody let it in")
}

/// Connections, and the streams of those that there are, take only what the gate may have of them: the rest is for
/// administrators. Seen failing without a bound on connections to upstreams: those failed for lack of descriptors.
#[tokio::test]
async fn clients_leave_some_for_administrators() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(limited(&site.run(upstream.address), 256)).await;
    let (hungry, modest) = (client(&site, "hungry", at.gate), client(&site, "modest", at.gate));
    let mut open = modest.h1().await;
    open.get("/").await.assert_ok();
    // Each of these streams wants a connection to the upstream.
    let (mut busy, mut held) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut h2 = hungry.h2().await;
        for _ in 0..100 {
            held.push(h2.begin("/hold").await);
        }
        busy.push(h2);
    }
    let mut dialling = Vec::new();
    for _ in 0..60 {
        let client = modest.clone();
        dialling.push(tokio::spawn(async move {
            let mut connection = let_in(&client).await;
            let answer = connection.get("/").await;
            (connection, answer)
        }));
    }
    // Those that find no connection are told so.
    let mut held: FuturesUnordered<_> = held.into_iter().collect();
    let mut refused = within(held.next()).await;
    while let Some(answer) = refused {
        assert_eq!(answer.unwrap().status(), 503);
        refused = timeout(Duration::from_millis(500), held.next()).await.ok().flatten();
    }
    drop(held);
    assert!(open.try_get("/").await.is_ok());
    assert!(plain(at.metrics, "/healthz").await.contains("ok"));
    let target = ["--level", "principal", "--target", "hungry"];
    let revoked = ended(site.change("revoke", at.admin, &target)).await;
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    assert!(revoked.out.contains("3 sessions ended"), "{}", revoked.out);
    assert!(site.path("state/audit.jsonl").exists());
    // Whoever waits is served as others leave, be it in the kernel's queue.
    for dial in dialling {
        let (connection, answer) = within(dial).await.unwrap();
        assert!([200, 503].contains(&answer.status.as_u16()), "{answer:?}");
        drop(connection);
    }
    modest.get("/").await.assert_ok();
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().await, Some(0));
}

/// Lets a process have so many descriptors from now on.
fn allow(process: &Process, descriptors: u64) {
    let pid = Pid::from_raw(process.id().cast_signed());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(descriptors), maximum: Some(4096) }).unwrap();
}

/// CPU time that a process has used, in hundredths of a second (proc(5), `stat`).
fn cpu(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Seen failing, by its CPU time, with an accept loop that does not rest.
#[tokio::test]
async fn without_any_left_it_neither_spins_nor_dies() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let mut command = site.run(upstream.address);
    command.env("PORTCULLIS__GATE__THREADS", THREADS.to_string());
    let (mut process, at) = Process::start(limited(&command, 4096)).await;
    let a = client(&site, "a", at.gate);
    let (mut one, mut two) = (a.h1().await, a.h2().await);
    one.get("/").await.assert_ok();
    two.get("/").await.assert_ok();
    // No number below this is free, and none above it is given.
    allow(&process, 3);
    let short = Instant::now();
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let client = a.clone();
            tokio::spawn(async move { client.h1().await.get("/").await })
        })
        .collect();
    process.until(|line| line["limit"] == "descriptors").await;
    let (before, began) = (cpu(&process), Instant::now());
    sleep(Duration::from_secs(1)).await;
    let spent = Duration::from_millis(10 * (cpu(&process) - before));
    let passed = began.elapsed();
    assert!(spent < passed / 5, "{spent:?} of {passed:?} for nothing");
    one.get("/").await.assert_ok();
    two.get("/").await.assert_ok();
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    allow(&process, 4096);
    let short = short.elapsed();
    for waiting in waiting {
        within(waiting).await.unwrap().assert_ok();
    }
    let metrics = plain(at.metrics, "/metrics").await;
    let reached = "portcullis_limits_reached_total{limit=\"descriptors\",listener=\"gate\"} ";
    let reached = metrics.lines().find_map(|line| line.strip_prefix(reached)).unwrap();
    assert!(reached.parse::<usize>().unwrap() >= 1);
    assert!(!plain(at.metrics, "/readyz").await.contains("warning"));
    process.signal(Signal::SIGTERM);
    process.until(|line| line["message"] == "portcullis is down").await;
    let named = process
        .log
        .iter()
        .any(|line| line["limit"] == "descriptors" && line["setting"].to_string().contains("LimitNOFILE"));
    assert!(named, "{:#?}", process.log);
    let said = |line: &&serde_json::Value| {
        line["limit"] == "descriptors" || line["message"].to_string().contains("cannot accept")
    };
    // Once for each thread, and again if it lasts, but not for each time that it was tried.
    let most = THREADS * (1 + usize::try_from(short.as_secs()).unwrap() / 10);
    let lines: Vec<_> = process.log.iter().filter(said).collect();
    assert!(lines.len() <= most, "{lines:#?}");
    assert_eq!(process.wait().await, Some(0));
}

/// Few descriptors bound the admin listener, too, and operators hear of it. Seen failing with the limits of the gate alone.
#[tokio::test]
async fn the_limits_of_the_admin_listener_are_warned_of() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(limited(&site.run(upstream.address), 256)).await;
    let stranger = Client::new(&site.root, None, at.admin, &[&TLS13]);
    let _crowd = crowd(40, at.admin, &hello(&stranger)).await;
    let warned = async {
        loop {
            let ready = plain(at.metrics, "/readyz").await;
            if ready.contains("warning: admin: ") {
                return ready;
            }
        }
    };
    let ready = within(warned).await;
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.contains("LimitNOFILE"), "{ready}");
    let metrics = plain(at.metrics, "/metrics").await;
    let of_admin = |line: &&str| line.starts_with("portcullis_limit") && line.contains("listener=\"admin\"");
    let limits: Vec<&str> = metrics.lines().filter(of_admin).collect();
    assert!(limits.len() == 4 && limits.iter().all(|line| !line.contains("handshakes")), "{limits:?}");
    let is_told = |line: &serde_json::Value| line["listener"] == "admin" && line["limit"] == "connections";
    if !process.log.iter().any(is_told) {
        process.until(is_told).await;
    }
}
