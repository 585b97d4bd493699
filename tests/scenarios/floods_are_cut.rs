//! Floods of HTTP/2 frames end the connection that they come over, or get nowhere; whoever else is on that thread is
//! served meanwhile.

use std::time::Duration;

use nix::sys::signal::Signal;
use rustls::version::TLS13;

use crate::client::Client;
use crate::frames::ACK;
use crate::frames::CONTINUATION;
use crate::frames::DATA;
use crate::frames::END_HEADERS;
use crate::frames::END_STREAM;
use crate::frames::Frames;
use crate::frames::HEADERS;
use crate::frames::Outcome;
use crate::frames::PING;
use crate::frames::PRIORITY;
use crate::frames::RST_STREAM;
use crate::frames::SETTINGS;
use crate::frames::WINDOW_UPDATE;
use crate::frames::block;
use crate::frames::frame;
use crate::frames::request;
use crate::lab::Lab;
use crate::lab::PATIENCE;
use crate::lab::within;
use crate::process::Process;
use crate::process::Site;
use crate::upstream::Upstream;

const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Sends what `attack` makes of each turn until the gate has had enough; meanwhile another client on the same thread
/// is served. Returns whether the attacker was cut.
async fn flood(lab: &Lab, turns: u32, mut attack: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> bool {
    let mut attacker = Frames::dial(&lab.client(&lab.root.agent("b").claiming(Some("b"))), &[]).await;
    let attacking = tokio::spawn(async move {
        for turn in 0..turns {
            if attacker.send(&attack(turn)).await.is_err() {
                return true;
            }
            if turn % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        // Whatever is still in hand comes before the answer to this.
        let ping = frame(PING, 0, 0, b"the last");
        if attacker.send(&ping).await.is_err() {
            return true;
        }
        loop {
            match attacker.next().await {
                Ok((PING, flags, _, payload)) if flags & ACK != 0 && payload == b"the last" => return false,
                Ok(_) => {}
                Err(_) => return true,
            }
        }
    });
    let mut other = lab.client(&lab.root.agent("a")).h2().await;
    other.get("/").await.assert_ok();
    let beside = async {
        let mut served = 0;
        while !attacking.is_finished() || served < 3 {
            other.get("/").await.assert_ok();
            served += 1;
        }
    };
    // The longest takes seconds, and more on a busy machine.
    tokio::time::timeout(12 * PATIENCE, beside).await.expect("a flood without end");
    let cut = within(attacking).await.unwrap();
    other.get("/").await.assert_ok();
    cut
}

async fn lab() -> Lab {
    Lab::plan().on_one_thread().start().await
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    let mut fields = request("GET", path);
    fields.last_mut().unwrap().1 = "b";
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields))
}

/// CVE-2023-44487: streams that are opened and reset at once.
#[tokio::test]
async fn of_resets() {
    let lab = lab().await;
    let cut = flood(&lab, 20_000, |turn| {
        let stream = turn * 2 + 1;
        [get(stream, "/hold"), frame(RST_STREAM, 0, stream, &CANCEL)].concat()
    });
    assert!(cut.await);
    // Those that got as far as the upstream are few, and given up.
    let begun = lab.upstream.seen().iter().filter(|seen| seen.path == "/hold").count();
    assert!(begun < 1000, "{begun}");
}

/// CVE-2025-8671: streams that the client makes the gate reset. Seen failing with 1,024 of them, hyper's default.
#[tokio::test]
async fn of_resets_that_the_gate_is_made_to_send() {
    let lab = lab().await;
    let cut = flood(&lab, 500, |turn| {
        let stream = turn * 2 + 1;
        // A window that grows beyond what there is is an error of the stream (RFC 9113, section 6.9.1).
        [get(stream, "/hold"), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat()
    });
    assert!(cut.await);
}

/// A header that goes on and on.
#[tokio::test]
async fn of_continuations() {
    let lab = lab().await;
    let more = block(&[("x-more", &"y".repeat(1000))]);
    let cut = flood(&lab, 10_000, move |turn| match turn {
        0 => frame(HEADERS, 0, 1, &block(&request("GET", "/"))),
        _ => frame(CONTINUATION, 0, 1, &more),
    });
    assert!(cut.await);
    let lab = self::lab().await;
    let cut = flood(&lab, 20_000, |turn| match turn {
        0 => frame(HEADERS, 0, 1, &block(&request("GET", "/"))),
        _ => frame(CONTINUATION, 0, 1, &[]),
    });
    assert!(cut.await);
    assert!(lab.upstream.seen().iter().all(|seen| seen.header("x-agent-id") == Some("a")));
}

/// A few bytes that stand for megabytes: a field in HPACK's table, and a thousand references to it.
#[tokio::test]
async fn of_references_to_one_large_field() {
    let lab = lab().await;
    let mut attacker = Frames::dial(&lab.client(&lab.root.agent("a")), &[]).await;
    let mut fields = block(&request("GET", "/bomb"));
    let large = "z".repeat(3900);
    let mut entry = block(&[("x", &large)]);
    // The same, but kept in the table (RFC 7541, section 6.2.1), and then taken from it again and again.
    entry[0] = 0x40;
    fields.extend(entry);
    fields.extend(std::iter::repeat_n(0x80 | 62, 10_000));
    attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)).await.unwrap();
    let outcome = attacker.outcome(1).await;
    assert_ne!(outcome, Outcome::Answered(200, "ok".into()));
    assert!(lab.upstream.seen().is_empty(), "{outcome:?}");
    lab.client(&lab.root.agent("a")).h2().await.get("/").await.assert_ok();
}

/// Frames that must each be answered: an attacker who does not read the answers gets no more of them than fit.
#[tokio::test]
async fn of_settings_and_pings() {
    for kind in [SETTINGS, PING] {
        let lab = lab().await;
        let frames = frame(kind, 0, 0, &vec![0; if kind == PING { 8 } else { 0 }]).repeat(100);
        // Whether it is cut or slowed down: it ends, and others do not wait.
        flood(&lab, 2000, move |_| frames.clone()).await;
    }
}

/// DATA without data, and without end.
#[tokio::test]
async fn of_empty_data() {
    let lab = lab().await;
    let mut fields = request("POST", "/");
    fields.last_mut().unwrap().1 = "b";
    let header = frame(HEADERS, END_HEADERS, 1, &block(&fields));
    let empty = frame(DATA, 0, 1, &[]).repeat(100);
    assert!(flood(&lab, 2000, move |turn| if turn == 0 { header.clone() } else { empty.clone() }).await);
}

/// What is ignored, is ignored.
#[tokio::test]
async fn of_priorities_and_unknown_frames() {
    let lab = lab().await;
    let junk = [frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), frame(99, 0, 1, b"")].concat().repeat(100);
    flood(&lab, 1000, move |_| junk.clone()).await;
}

/// A window that grows beyond what there is (RFC 9113, section 6.9.1).
#[tokio::test]
async fn of_windows() {
    let lab = lab().await;
    let most = [0x7f, 0xff, 0xff, 0xff];
    assert!(flood(&lab, 10, move |_| frame(WINDOW_UPDATE, 0, 0, &most)).await);
    let lab = self::lab().await;
    let client = lab.client(&lab.root.agent("a"));
    let mut attacker = Frames::dial(&client, &[]).await;
    attacker.get(1, "/hold").await;
    attacker.send(&frame(WINDOW_UPDATE, 0, 1, &most)).await.unwrap();
    assert_eq!(attacker.outcome(1).await, Outcome::Reset(3));
}

/// More streams than are allowed are refused one by one, whatever becomes of the others.
#[tokio::test]
async fn of_streams_without_a_window() {
    let lab = Lab::plan().on_one_thread().gate("limits = { streams = 8 }").start().await;
    let client = lab.client(&lab.root.agent("a"));
    // SETTINGS_INITIAL_WINDOW_SIZE 0: nothing of any body may be sent.
    let mut attacker = Frames::dial(&client, &[0, 4, 0, 0, 0, 0]).await;
    for stream in 0..8 {
        attacker.get(stream * 2 + 1, "/flood").await;
    }
    let mut other = client.h2().await;
    other.get("/").await.assert_ok();
    attacker.get(17, "/").await;
    assert!(matches!(attacker.outcome(17).await, Outcome::Reset(7) | Outcome::GoneAway(_)));
    other.get("/").await.assert_ok();
}

/// Windows without end, and nobody who reads: what waits for such a client is bounded. Seen failing with 400 kB a
/// stream, hyper's default: 85 MiB for one connection.
#[tokio::test]
async fn of_answers_that_nobody_reads() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let client = Client::new(&site.root, Some(&site.root.agent("a")), at.gate, &[&TLS13]);
    client.h2().await.get("/").await.assert_ok();
    let before = process.memory();
    // As large as windows get, for each stream and the connection.
    let mut attacker = Frames::dial(&client, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
    attacker.send(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xfe, 0, 0])).await.unwrap();
    for stream in 0..128 {
        attacker.get(stream * 2 + 1, "/flood").await;
    }
    let all_stalled = async {
        while upstream.seen().iter().filter(|seen| seen.stalled).count() < 128 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(all_stalled).await;
    let grown = process.memory() - before;
    assert!(grown < 40 << 20, "{} MiB", grown >> 20);
    client.h2().await.get("/").await.assert_ok();
    drop(attacker);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().await, Some(0));
}
