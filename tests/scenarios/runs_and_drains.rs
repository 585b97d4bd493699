//! The program from its first configuration to its end: it starts as it stands, and SIGTERM ends it without harm.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use nix::sys::signal::Signal;
use rustls::version::TLS13;
use tokio::net::TcpStream;

use crate::client::Client;
use crate::lab::plain;
use crate::lab::within;
use crate::process::Process;
use crate::process::Site;
use crate::process::ended;
use crate::upstream::Upstream;

fn client(site: &Site, name: &str, gate: SocketAddr) -> Client {
    Client::new(&site.root, Some(&site.root.agent(name)), gate, &[&TLS13])
}

/// Waits until nobody listens there any more.
async fn until_closed(address: SocketAddr) {
    let closed = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(closed).await;
}

#[tokio::test]
async fn the_first_configuration_starts_as_it_stands() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let a = client(&site, "a", at.gate);
    let mut open = a.h1().await;
    open.get("/").await.assert_ok();
    let target = ["--level", "principal", "--target", "spiffe://lab.test/agent/a", "--reason", "key leaked"];
    let revoked = ended(site.change("revoke", at.admin, &target)).await;
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    assert!(revoked.out.contains("1 session ended"), "{}", revoked.out);
    assert!(open.try_get("/").await.is_err());
    a.get("/").await.assert_refused(403, "principal_revoked");
    client(&site, "b", at.gate).get("/").await.assert_ok();
    let lifted = ended(site.change("reinstate", at.admin, &target[..4])).await;
    assert_eq!(lifted.code, Some(1), "{lifted:?}");
    assert!(lifted.err.contains("409"), "{}", lifted.err);
    let forced = [&target[..4], &["--force"]].concat();
    assert_eq!(ended(site.change("reinstate", at.admin, &forced)).await.code, Some(0));
    a.get("/").await.assert_ok();
    assert!(site.path("state/audit.jsonl").exists());
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().await, Some(0));
    let unreachable = ended(site.change("revoke", at.admin, &target)).await;
    assert_eq!(unreachable.code, Some(3), "{unreachable:?}");
}

#[tokio::test]
async fn what_is_in_flight_may_end() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let a = client(&site, "a", at.gate);
    let (mut first, mut second, mut idle) = (a.h1().await, a.h2().await, a.h1().await);
    idle.get("/").await.assert_ok();
    let first = tokio::spawn(async move { first.get("/hold?1").await });
    let stream = second.begin("/hold?2").await;
    upstream.until("/hold?1", |_| true).await;
    upstream.until("/hold?2", |_| true).await;
    process.signal(Signal::SIGTERM);
    until_closed(at.gate).await;
    // Whoever was idle is let go at once.
    let _ = idle.ended().await;
    upstream.release();
    within(first).await.unwrap().assert_ok();
    assert_eq!(within(stream).await.unwrap().status(), 200);
    assert_eq!(process.wait().await, Some(0));
}

#[tokio::test]
async fn what_does_not_end_is_cut() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    site.edit("[gate.tls]", "drain = \"300ms\"\n[gate.tls]");
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let a = client(&site, "a", at.gate);
    let (mut first, mut second) = (a.h1().await, a.h2().await);
    let _socket = a.websocket().await;
    let first = tokio::spawn(async move { first.try_get("/hold?1").await });
    let stream = second.begin("/hold?2").await;
    upstream.until("/hold?1", |_| true).await;
    upstream.until("/hold?2", |_| true).await;
    process.signal(Signal::SIGTERM);
    // That is not waited for as long as the default, 30 s.
    assert_eq!(process.wait().await, Some(0));
    assert!(within(first).await.unwrap().is_err());
    assert!(within(stream).await.is_err());
}

/// A gate that drains still takes revocations in: it has sessions that they concern.
#[tokio::test]
async fn a_draining_gate_still_revokes() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let mut connection = client(&site, "a", at.gate).h1().await;
    let waiting = tokio::spawn(async move { connection.try_get("/hold").await });
    upstream.until("/hold", |_| true).await;
    process.signal(Signal::SIGTERM);
    until_closed(at.gate).await;
    let revoked = ended(site.change("revoke", at.admin, &["--level", "principal", "--target", "a"])).await;
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    assert!(revoked.out.contains("1 session ended"), "{}", revoked.out);
    assert!(within(waiting).await.unwrap().is_err());
    assert_eq!(process.wait().await, Some(0));
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (process, at) = Process::start(site.run(upstream.address)).await;
    for (command, target) in [("revoke", "a"), ("suspend", "b"), ("suspend", "c"), ("reinstate", "c")] {
        let changed =
            ended(site.change(command, at.admin, &["--level", "principal", "--target", target])).await;
        assert_eq!(changed.code, Some(0), "{changed:?}");
    }
    process.signal(Signal::SIGKILL);
    drop(process);
    let (_again, at) = Process::start(site.run(upstream.address)).await;
    client(&site, "a", at.gate).get("/").await.assert_refused(403, "principal_revoked");
    client(&site, "b", at.gate).get("/").await.assert_refused(401, "principal_suspended");
    client(&site, "c", at.gate).get("/").await.assert_ok();
}

/// Streams in flight end, new ones are told to go elsewhere, and a WebSocket has until the bound.
#[tokio::test]
async fn http2_is_told_to_go_and_a_websocket_may_stay() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    site.edit("[gate.tls]", "drain = \"8s\"\n[gate.tls]");
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let a = client(&site, "a", at.gate);
    let (mut busy, mut idle, mut socket) = (a.h2().await, a.h2().await, a.websocket().await);
    idle.get("/").await.assert_ok();
    let stream = busy.begin("/hold").await;
    upstream.until("/hold", |_| true).await;
    process.signal(Signal::SIGTERM);
    // GOAWAY without an error: the connection ends, and nothing on it failed.
    assert!(idle.ended().await.is_ok());
    until_closed(at.gate).await;
    socket.send("still there?".into()).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap().into_text().unwrap(), "still there?");
    assert!(busy.try_get("/").await.is_err(), "a stream that began after GOAWAY");
    upstream.release();
    assert_eq!(within(stream).await.unwrap().status(), 200);
    assert!(plain(at.metrics, "/readyz").await.contains("draining"));
    socket.send("and now?".into()).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap().into_text().unwrap(), "and now?");
    socket.close(None).await.unwrap();
    drop(socket);
    assert_eq!(process.wait().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_cuts_it_short() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let (site, upstream) = (Site::new(), Upstream::start().await);
        let (mut process, at) = Process::start(site.run(upstream.address)).await;
        let mut connection = client(&site, "a", at.gate).h1().await;
        let waiting = tokio::spawn(async move { connection.try_get("/hold").await });
        upstream.until("/hold", |_| true).await;
        process.signal(Signal::SIGTERM);
        process.until(|line| line["message"] == "draining").await;
        // Sooner, it would be the first one repeated.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        process.signal(second);
        // The drain's bound is thirty seconds, and the upstream never answers.
        assert_eq!(process.wait().await, Some(0));
        assert!(within(waiting).await.unwrap().is_err());
    }
}

/// As supervisors and `timeout` do. Seen failing with any second signal taken for somebody's impatience.
#[tokio::test]
async fn the_first_signal_repeated_does_not() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let mut connection = client(&site, "a", at.gate).h1().await;
    let waiting = tokio::spawn(async move { connection.try_get("/hold").await });
    upstream.until("/hold", |_| true).await;
    process.signal(Signal::SIGTERM);
    process.until(|line| line["message"] == "draining").await;
    process.signal(Signal::SIGTERM);
    // Time to end in, for one that would.
    tokio::time::sleep(Duration::from_millis(300)).await;
    upstream.release();
    within(waiting).await.unwrap().unwrap().assert_ok();
    assert_eq!(process.wait().await, Some(0));
}
