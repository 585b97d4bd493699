//! A restart behind a socket that somebody else holds, as systemd does, refuses and loses no connection attempt; and
//! whoever started the process is told how it is.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use rustls::version::TLS13;

use crate::client::Client;
use crate::lab::PATIENCE;
use crate::lab::plain;
use crate::lab::within;
use crate::process::Process;
use crate::process::Site;
use crate::process::ended;
use crate::upstream::Upstream;

/// The gate's command, with this socket as its descriptor 3, as systemd hands one over.
fn behind(site: &Site, upstream: SocketAddr, socket: &TcpListener, name: &str) -> Command {
    let plain = site.run(upstream);
    let mut command = Command::new("sh");
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    command.args(["-c", script]).arg(plain.get_program()).args(plain.get_args());
    command.current_dir("/").env("LISTEN_FDNAMES", name).env_remove("PORTCULLIS_LOG");
    command.envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command
}

fn client(site: &Site, gate: SocketAddr) -> Client {
    Client::new(&site.root, Some(&site.root.agent("a")), gate, &[&TLS13])
}

/// Seen failing with the socket shut down instead of let go (connection refused), and with connections closed at once that
/// had not yet asked for anything when the drain began (incomplete message).
#[tokio::test]
async fn every_attempt_is_answered() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (mut first, at) = Process::start(behind(&site, upstream.address, &socket, "gate")).await;
    assert_eq!(at.gate, address);

    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|i| {
            let (client, over, answered) = (client(&site, address), Arc::clone(&over), Arc::clone(&answered));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    match i % 2 {
                        0 => client.h1().await.try_get("/").await.unwrap().assert_ok(),
                        _ => client.h2().await.try_get("/").await.unwrap().assert_ok(),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let until_more = async || {
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) < before + 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(until_more()).await;
    for _ in 0..3 {
        first.signal(Signal::SIGTERM);
        assert_eq!(first.wait().await, Some(0));
        (first, _) = Process::start(behind(&site, upstream.address, &socket, "gate")).await;
        within(until_more()).await;
    }
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        within(caller).await.unwrap();
    }
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().await, Some(0));
    // It let go of the socket, and left it as it was.
    let _ = tokio::net::TcpStream::connect(address).await.unwrap();
}

/// Two processes on one state directory would not know of each other's revocations.
#[tokio::test]
async fn a_second_process_is_refused_while_the_first_drains() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (mut first, _) = Process::start(behind(&site, upstream.address, &socket, "gate")).await;
    let mut held = client(&site, address).h1().await;
    let held = tokio::spawn(async move { held.get("/hold").await });
    upstream.until("/hold", |_| true).await;
    first.signal(Signal::SIGTERM);
    first.until(|line| line["message"] == "draining").await;
    let second = ended(behind(&site, upstream.address, &socket, "gate")).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.err.contains("another process"), "{}", second.err);
    // Nobody accepts meanwhile, and nobody is turned away.
    let waits = client(&site, address);
    let waits = tokio::spawn(async move { waits.get("/").await });
    upstream.release();
    within(held).await.unwrap().assert_ok();
    assert_eq!(first.wait().await, Some(0));
    let (_second, _) = Process::start(behind(&site, upstream.address, &socket, "gate")).await;
    within(waits).await.unwrap().assert_ok();
}

#[tokio::test]
async fn a_socket_that_is_for_no_listener_is_named() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = ended(behind(&site, upstream.address, &socket, "web")).await;
    assert_eq!(stranger.code, Some(1), "{stranger:?}");
    let expected =
        format!("inherited socket 3 (`web`): {} is where no listener", socket.local_addr().unwrap());
    assert!(stranger.err.contains(&expected), "{}", stranger.err);
    let address = socket.local_addr().unwrap().to_string();
    let mut matched = behind(&site, upstream.address, &socket, "portcullis.socket");
    matched.env("PORTCULLIS__METRICS__LISTEN", &address);
    let (_process, at) = Process::start(matched).await;
    assert_eq!(at.metrics.to_string(), address);
    assert!(plain(at.metrics, "/readyz").await.contains("ready"));
}

/// That a thread which stands still is missed is shown beside the code.
#[tokio::test]
async fn the_service_manager_is_told() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let manager = UnixDatagram::bind(site.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = site.run(upstream.address);
    command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "400000");
    let (mut process, at) = Process::start(command).await;
    let next = || {
        let mut news = [0; 1024];
        manager.recv(&mut news).map(|count| String::from_utf8(news[..count].to_vec()).unwrap())
    };
    // The watchdog's notices go on and on.
    let until = |wanted: &str| {
        let began = Instant::now();
        while !next().unwrap().contains(wanted) {
            assert!(began.elapsed() < PATIENCE, "no {wanted}");
        }
    };
    // In whichever order: they come from two threads.
    let (mut ready, mut status, began) = (false, false, Instant::now());
    while !ready || !status {
        assert!(began.elapsed() < PATIENCE, "ready: {ready}, status: {status}");
        let news = next().unwrap();
        ready |= news.starts_with("READY=1\n");
        status |= news.starts_with("STATUS=serving, 0 revoked");
    }
    until("WATCHDOG=1");
    let mut held = client(&site, at.gate).h1().await;
    let held = tokio::spawn(async move { held.get("/hold").await });
    upstream.until("/hold", |_| true).await;
    process.signal(Signal::SIGTERM);
    until("STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000");
    // It is alive while it drains.
    until("WATCHDOG=1");
    upstream.release();
    within(held).await.unwrap().assert_ok();
    assert_eq!(process.wait().await, Some(0));
}
