//! HTTP/2 frames that carry no work have a budget: a flood of them ends its connection, on both listeners and for every
//! client. Clients that work stay connected, however much their libraries chatter.

use rustls::version::TLS13;

use crate::client::Client;
use crate::frames::ACK;
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
use crate::lab::plain;
use crate::lab::within;
use crate::process::Process;
use crate::process::Site;
use crate::upstream::FLOOD;
use crate::upstream::Upstream;

/// Frames that each flood would send.
const ALL: usize = 1_000_000;
/// The gate reads fewer than these: its burst of 10,000, and 1,000 a second for as long as a busy machine takes.
const MOST: usize = 40_000;
/// RFC 9113, section 7.
const ENHANCE_YOUR_CALM: u32 = 11;
/// Type of a frame that no standard has (RFC 9113, section 5.5).
const UNKNOWN: u8 = 99;
const PADDED: u8 = 8;

/// The result of a flood.
#[derive(Debug)]
struct Flooded {
    /// Frames that were sent until the connection ended.
    sent: usize,
    /// Its end; `None` if it never ended.
    ended: Option<Outcome>,
}

/// Sends `one` again and again, in blocks of `count`, each after the gate has read the one before: it has answered the PING
/// behind it.
async fn flood(attacker: &mut Frames, one: &[u8], count: usize) -> Flooded {
    let frames = one.repeat(count);
    for turn in 1..=ALL / count {
        let number = turn.to_be_bytes();
        let sent = attacker.send(&[&frames[..], &frame(PING, 0, 0, &number)].concat()).await;
        let ended = match sent {
            Ok(()) => attacker.pong(&number).await.err(),
            Err(_) => attacker.pong(&number).await.err().or(Some(Outcome::Closed)),
        };
        if ended.is_some() {
            return Flooded { sent: turn * count, ended };
        }
    }
    Flooded { sent: ALL, ended: None }
}

impl Flooded {
    /// True if the gate ended it in its own way, before it had read `most`.
    fn was_cut(&self, most: usize) -> bool {
        let calm = Outcome::GoneAway(ENHANCE_YOUR_CALM);
        (self.ended == Some(calm) || self.ended == Some(Outcome::Closed)) && self.sent < most
    }
}

/// Frames that the gate ignores, or answers by itself, each with what it is called.
fn idle_frames() -> Vec<(&'static str, Vec<u8>)> {
    let one = [0, 0, 0, 1];
    vec![
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("PING ACK", frame(PING, ACK, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &one)),
        ("WINDOW_UPDATE of a closed stream", frame(WINDOW_UPDATE, 0, 1, &one)),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 16])),
        ("RST_STREAM of a closed stream", frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        ("a frame of an unknown type", frame(UNKNOWN, 0, 0, &[])),
    ]
}

/// CVE-2019-9512 (PING), CVE-2019-9515 (SETTINGS) and the like. Seen failing without the budget: each was read a million
/// times.
#[tokio::test]
async fn idle_frames_end_their_connection() {
    let lab = Lab::plan().on_one_thread().start().await;
    let client = lab.client(&lab.root.agent("a"));
    let mut passed = Vec::new();
    for (what, one) in idle_frames() {
        let mut attacker = Frames::dial(&client, &[]).await;
        attacker.get(1, "/").await;
        assert_eq!(attacker.outcome(1).await, Outcome::Answered(200, "ok".into()));
        let flooded = flood(&mut attacker, &one, 1000).await;
        passed.extend((!flooded.was_cut(MOST)).then_some((what, flooded)));
    }
    assert!(passed.is_empty(), "{passed:#?}");
    client.h2().await.get("/").await.assert_ok();
}

/// CVE-2019-9518 (DATA without data, which hyper ends as well), and a byte at a time. Seen failing without the budget, and
/// with padding taken for data.
#[tokio::test]
async fn data_of_a_byte_ends_its_connection() {
    let lab = Lab::plan().on_one_thread().start().await;
    let client = lab.client(&lab.root.agent("a"));
    let padded = [&[255][..], b"x", &[0; 255]].concat();
    let mut passed = Vec::new();
    for (what, one) in [
        ("DATA without data", frame(DATA, 0, 1, &[])),
        ("DATA of a byte", frame(DATA, 0, 1, b"x")),
        ("DATA of a byte and padding", frame(DATA, PADDED, 1, &padded)),
    ] {
        let mut attacker = Frames::dial(&client, &[]).await;
        attacker.send(&frame(HEADERS, END_HEADERS, 1, &block(&request("POST", "/")))).await.unwrap();
        // What they take of the window, the padding too, must be given back before the next.
        let flooded = flood(&mut attacker, &one, 100).await;
        passed.extend((!flooded.was_cut(MOST)).then_some((what, flooded)));
    }
    assert!(passed.is_empty(), "{passed:#?}");
}

/// Payloads that the gate ignores count by their size. Seen failing without the budget, and with one for each frame alone.
#[tokio::test]
async fn large_idle_frames_end_their_connection_sooner() {
    let lab = Lab::plan().on_one_thread().start().await;
    let client = lab.client(&lab.root.agent("a"));
    let setting = [0, 4, 0, 0, 255, 255].repeat(2730);
    let mut passed = Vec::new();
    for (what, one) in [
        ("large frames of an unknown type", frame(UNKNOWN, 0, 0, &[0; 16 << 10])),
        ("SETTINGS with thousands of settings", frame(SETTINGS, 0, 0, &setting)),
    ] {
        let mut attacker = Frames::dial(&client, &[]).await;
        let flooded = flood(&mut attacker, &one, 20).await;
        passed.extend((!flooded.was_cut(MOST / 60)).then_some((what, flooded)));
    }
    assert!(passed.is_empty(), "{passed:#?}");
}

/// Seen failing without the budget, for each of them.
#[tokio::test]
async fn every_client_of_both_listeners_has_the_budget() {
    let mut lab = Lab::plan().on_one_thread().start().await;
    lab.revoke("principal", "b").await;
    let gate = |cert| lab.client_of(cert, &[&TLS13]);
    let mut passed = Vec::new();
    for (who, client) in [
        ("a client without a certificate", gate(None)),
        ("a revoked client", gate(Some(&lab.root.agent("b")))),
        ("an administrator", lab.administrator("ops")),
        ("a stranger at the admin listener", lab.admin_client(None)),
    ] {
        for kind in [PING, UNKNOWN] {
            let mut attacker = Frames::dial(&client, &[]).await;
            let flooded = flood(&mut attacker, &frame(kind, 0, 0, &[0; 8]), 1000).await;
            passed.extend((!flooded.was_cut(MOST)).then_some((who, kind, flooded)));
        }
    }
    assert!(passed.is_empty(), "{passed:#?}");
}

/// Seen failing without the budget.
#[tokio::test]
async fn the_log_and_the_metrics_say_who_it_was() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (mut process, at) = Process::start(site.run(upstream.address)).await;
    let client = Client::new(&site.root, Some(&site.root.agent("a")), at.gate, &[&TLS13]);
    for _ in 0..3 {
        let mut attacker = Frames::dial(&client, &[]).await;
        assert!(flood(&mut attacker, &frame(PING, 0, 0, &[0; 8]), 1000).await.was_cut(MOST));
    }
    let line = process.until(|line| line["code"] == "too_many_frames").await;
    assert_eq!(line["principal_id"], "spiffe://lab.test/agent/a");
    assert!(line["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    let counted = async {
        let count = "portcullis_refusals_total{code=\"too_many_frames\"} 3\n";
        while !plain(at.metrics, "/metrics").await.contains(count) {}
    };
    within(counted).await;
}

/// Frames that a gRPC library sends in answer to data: a WINDOW_UPDATE of stream and connection, and a PING that measures the
/// bandwidth.
fn chatter(stream: u32, bytes: usize) -> Vec<u8> {
    let bytes = u32::try_from(bytes).unwrap().to_be_bytes();
    let update = |stream| frame(WINDOW_UPDATE, 0, stream, &bytes);
    [update(stream), update(0), frame(PING, 0, 0, b"bdp ping")].concat()
}

/// Two WINDOW_UPDATEs and a PING for each 4 KiB of 128 MiB. Seen failing with a budget that bytes do not refill.
#[tokio::test]
async fn a_download_in_small_windows_goes_on() {
    let lab = Lab::plan().on_one_thread().start().await;
    let mut client = Frames::dial(&lab.client(&lab.root.agent("a")), &[]).await;
    let mut sent = 0;
    for stream in [1, 3] {
        client.get(stream, "/flood").await;
        let mut got = 0;
        while got < FLOOD {
            let (kind, _, of, payload) = client.next().await.unwrap();
            if (kind, of) == (DATA, stream) && !payload.is_empty() {
                got += payload.len();
                let all: Vec<_> = payload.chunks(4096).map(|part| chatter(stream, part.len())).collect();
                client.send(&all.concat()).await.unwrap();
                sent += 3 * all.len();
            }
        }
    }
    assert!(sent > 90_000, "{sent}");
    client.get(5, "/").await;
    assert_eq!(client.outcome(5).await, Outcome::Answered(200, "ok".into()));
}

/// Requests one after the other, each with more frames than any client sends for one. Seen failing with a budget that
/// requests do not refill.
#[tokio::test]
async fn ten_thousand_requests_with_their_chatter_are_served() {
    let lab = Lab::plan().on_one_thread().start().await;
    let mut client = Frames::dial(&lab.client(&lab.root.agent("a")), &[]).await;
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    for turn in 0..10_000 {
        let stream = turn * 2 + 1;
        let priority = frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16]);
        client.send(&[&priority[..], &settings, &chatter(0, 1).repeat(3)].concat()).await.unwrap();
        client.get(stream, "/").await;
        assert_eq!(client.outcome(stream).await, Outcome::Answered(200, "ok".into()), "{turn}");
        client.send(&frame(RST_STREAM, 0, stream, &[0; 4])).await.unwrap();
    }
}

/// A stream of small messages, each followed by what a gRPC library sends for it. Seen failing with a budget that only
/// requests and bytes refill.
#[tokio::test]
async fn a_stream_of_small_messages_goes_on() {
    let lab = Lab::plan().on_one_thread().start().await;
    let mut client = Frames::dial(&lab.client(&lab.root.agent("a")), &[]).await;
    client.get(1, "/events").await;
    for _ in 0..10_000 {
        lab.upstream.happen();
        loop {
            let (kind, _, of, payload) = client.next().await.unwrap();
            if (kind, of) == (DATA, 1) {
                client.send(&chatter(1, payload.len())).await.unwrap();
                break;
            }
        }
    }
}

/// An upload of small messages, which no answer pays for. Seen failing with a budget that each frame of DATA takes from.
#[tokio::test]
async fn an_upload_of_small_messages_goes_on() {
    let lab = Lab::plan().on_one_thread().start().await;
    let mut client = Frames::dial(&lab.client(&lab.root.agent("a")), &[]).await;
    client.send(&frame(HEADERS, END_HEADERS, 1, &block(&request("POST", "/")))).await.unwrap();
    // An empty message of gRPC.
    let messages = frame(DATA, 0, 1, &[0; 5]).repeat(1000);
    for turn in 0..40_u64 {
        client.send(&[&messages[..], &frame(PING, 0, 0, &turn.to_be_bytes())].concat()).await.unwrap();
        client.pong(&turn.to_be_bytes()).await.unwrap();
    }
    client.send(&frame(DATA, END_STREAM, 1, &[])).await.unwrap();
    assert_eq!(client.outcome(1).await, Outcome::Answered(200, "ok".into()));
    assert_eq!(lab.upstream.only("/").body.len(), 200_000);
}
