//! A gate that is its own upstream, by whatever detour, answers 508 after one round. `Via` (RFC 9110, section 7.6.3) tells it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use rustls::version::TLS13;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::lab::Lab;
use crate::upstream::full;

/// More connections than this, and a detour takes no further ones: a loop must end in the test's process, too.
const ROUNDS: usize = 30;

/// A second name of a gate, in clear: validation cannot tell that it leads to the gate.
struct Detour {
    listener: TcpListener,
    address: SocketAddr,
}

impl Detour {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), listener }
    }

    /// As the only upstream of every client.
    fn route(&self, scheme: &str) -> String {
        format!("[[route]]\nupstream = [\"{scheme}://{}\"]\ndemand = \"none\"", self.address)
    }

    /// Leads to a client's gate from now on. Returns how many connections it was asked for.
    fn lead(self, client: Client, alpn: &'static [u8]) -> Arc<AtomicUsize> {
        let taken = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&taken);
        tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut near, _)) = self.listener.accept().await {
                if count.fetch_add(1, Ordering::Relaxed) >= ROUNDS {
                    return;
                }
                let client = client.clone();
                open.spawn(async move {
                    let mut far = client.dial(alpn).await.unwrap();
                    // How it ends is seen by the request that went over it.
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        taken
    }
}

/// A gate whose upstream it is itself, and how many connections the way there took.
async fn own_upstream(scheme: &str, alpn: &'static [u8]) -> (Lab, Arc<AtomicUsize>) {
    let detour = Detour::new().await;
    let lab = Lab::plan().routes(&detour.route(scheme)).start().await;
    let taken = detour.lead(lab.client_of(None, &[&TLS13]), alpn);
    (lab, taken)
}

/// Requests that a gate sent upstream and refused as looped.
async fn counts(lab: &Lab) -> (u64, u64) {
    let text = lab.plain("/metrics").await;
    let sum = |start: &str| {
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    (sum("portcullis_upstream_requests_total{"), sum("portcullis_refusals_total{code=\"loop_detected\"}"))
}

/// Seen failing without `Via`: each went round until the detour took no more connections.
#[tokio::test]
async fn of_a_gate_that_is_its_own_upstream() {
    for (scheme, alpn) in [("http", &b"http/1.1"[..]), ("h2c", b"h2")] {
        let (lab, taken) = own_upstream(scheme, alpn).await;
        let client = lab.client(&lab.root.agent("a"));
        client.get("/").await.assert_refused(508, "loop_detected");
        assert_eq!((counts(&lab).await, taken.load(Ordering::Relaxed)), ((1, 1), 1), "{scheme}");
        client.h2().await.get("/").await.assert_refused(508, "loop_detected");
        // Each of the gate's threads has connections of its own.
        assert_eq!(counts(&lab).await, (2, 2), "{scheme}");
        assert!(taken.load(Ordering::Relaxed) <= 2, "{scheme}");
    }
}

/// Seen failing without `Via`: 30 upgrades for one, and no answer.
#[tokio::test]
async fn of_websockets() {
    let (lab, taken) = own_upstream("http", b"http/1.1").await;
    let client = lab.client(&lab.root.agent("a"));
    let refused = client.try_websocket("/ws").await.err();
    assert_eq!((refused, taken.load(Ordering::Relaxed)), (Some(Some(508.try_into().unwrap())), 1));
    let refused = client.h2().await.try_websocket("/ws").await.err();
    assert_eq!(refused, Some(Some(508.try_into().unwrap())));
    assert_eq!(counts(&lab).await, (2, 2));
}

/// Two gates, each the upstream of the other: the first that a request meets again ends it. Seen failing without `Via`.
#[tokio::test]
async fn of_a_ring_of_gates() {
    let (to_first, to_second) = (Detour::new().await, Detour::new().await);
    let first = Lab::plan().routes(&to_second.route("http")).start().await;
    let second = Lab::plan().routes(&to_first.route("http")).start().await;
    to_first.lead(first.client_of(None, &[&TLS13]), b"http/1.1");
    to_second.lead(second.client_of(None, &[&TLS13]), b"http/1.1");
    first.client(&first.root.agent("a")).get("/").await.assert_refused(508, "loop_detected");
    assert_eq!((counts(&first).await, counts(&second).await), ((1, 1), (1, 0)));
}

/// Two gates behind each other are no loop. Seen failing with one name for all gates.
#[tokio::test]
async fn but_a_chain_of_gates_is_none() {
    let to_inner = Detour::new().await;
    let edge = Lab::plan().routes(&to_inner.route("h2c")).start().await;
    let inner = Lab::plan().routes("[[route]]\nupstream = [\"UPSTREAM\"]\ndemand = \"none\"").start().await;
    to_inner.lead(inner.client_of(None, &[&TLS13]), b"h2");
    edge.client(&edge.root.agent("a")).get("/chain").await.assert_ok();
    let via = inner.upstream.only("/chain").header("via").unwrap().to_owned();
    let (first, second) = via.split_once(", ").unwrap();
    assert!(first.starts_with("1.1 portcullis-") && second.starts_with("2 portcullis-"), "{via}");
    assert_ne!(first.strip_prefix("1.1 "), second.strip_prefix("2 "));
}

/// Members of other proxies stay, on one line; answers name no proxy.
#[tokio::test]
async fn via_of_others_is_kept() {
    let lab = Lab::start().await;
    let client = lab.client(&lab.root.agent("a"));
    let mut h1 = client.h1().await;
    let others = ["1.0 fred", "1.1 p.example.net (a, b), 1.1 portcullis-0"];
    let request = h1.request("GET", "/others").header("via", others[0]).header("via", others[1]);
    // Whom a request has passed is no affair of one hop.
    let answer = h1.exchange(request.header("connection", "via").body(full("")).unwrap()).await.unwrap();
    answer.assert_ok();
    assert!(!answer.headers.contains_key("via"), "{:?}", answer.headers);
    let via = lab.upstream.only("/others").header("via").unwrap().to_owned();
    assert!(via.starts_with(&format!("{}, {}, 1.1 portcullis-", others[0], others[1])), "{via}");
    let name = via.rsplit(' ').next().unwrap();
    client.h2().await.get("/h2").await.assert_ok();
    assert_eq!(lab.upstream.only("/h2").header("via"), Some(&*format!("2 {name}")));

    // An upstream that tells a client the gate's name lets it be refused, and no more.
    let mut refused = async |path: &str, via: &str| {
        let request = h1.request("GET", path).header("via", "1.0 fred").header("via", via);
        h1.exchange(request.body(full("")).unwrap()).await.unwrap().verdict()
    };
    let looped = (508, "loop_detected".to_owned());
    assert_eq!(refused("/forged", &format!("1.1 a,HTTP/1.1 {} (x)", name.to_uppercase())).await, looped);
    assert_eq!(refused("/beside", &format!("1.1 a ({name}), 1.1 {name}0")).await, (200, String::new()));
}
