//! Several endpoints: the load is shared, one that fails rests, one that is ill gets nothing, and no more is asked of
//! any than it may be.

use std::sync::atomic::Ordering;

use http_body_util::BodyExt as _;

use crate::endpoint::Endpoint;
use crate::endpoint::Kind;
use crate::lab::Lab;
use crate::lab::PATIENCE;
use crate::lab::within;
use crate::upstream::full;

/// A lab of one thread before endpoints; `settings` of the upstream, one a line.
async fn before(endpoints: &[&Endpoint], settings: &str) -> Lab {
    let all: Vec<String> =
        endpoints.iter().map(|endpoint| format!("\"http://{}\"", endpoint.address)).collect();
    let all = all.join(", ");
    let routes = format!("[[route]]\nupstream = \"app\"\n[upstream.app]\nendpoints = [{all}]\n{settings}\n");
    Lab::plan().on_one_thread().routes(&routes).start().await
}

async fn until(done: impl AsyncFn() -> bool) {
    let waited = async {
        while !done().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waited).await.is_ok());
}

async fn metric(lab: &Lab, line: &str) -> bool {
    lab.plain("/metrics").await.lines().any(|other| other == line)
}

async fn three() -> [Endpoint; 3] {
    let start = |name| Endpoint::start(name, Kind::http());
    [start("0").await, start("1").await, start("2").await]
}

#[tokio::test]
async fn each_in_turn() {
    let all = three().await;
    let lab = before(&all.each_ref(), "").await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    for _ in 0..9 {
        connection.get("/").await.assert_ok();
    }
    assert_eq!(all.each_ref().map(Endpoint::count), [3, 3, 3]);
}

#[tokio::test]
async fn or_whoever_has_less_to_do() {
    let all = three().await;
    let lab = before(&all.each_ref(), "balance = \"least_requests\"").await;
    let client = lab.client(&lab.root.agent("a"));
    let mut connections = Vec::new();
    for _ in 0..30 {
        connections.push(client.h1().await);
    }
    let held: Vec<_> = connections.iter_mut().map(|connection| connection.begin("GET", "/hold").1).collect();
    let held = tokio::spawn(futures_util::future::join_all(held));
    until(async || all.iter().map(Endpoint::waiting).sum::<usize>() == 30).await;
    // Of two at random the one with less: they never grow far apart, as one at random would.
    let busy = all.each_ref().map(Endpoint::waiting);
    assert!(busy.iter().all(|busy| (7..=13).contains(busy)), "{busy:?}");
    // One that has nothing to do gets all that meet it.
    all[0].release(busy[0]);
    until(async || all[0].waiting() == 0).await;
    let (before, mut connection) = (all[0].count(), client.h1().await);
    for _ in 0..60 {
        connection.get("/").await.assert_ok();
    }
    // It is one of the two in two of three cases.
    assert!(all[0].count() - before > 25, "{}", all[0].count() - before);
    all.iter().for_each(|endpoint| endpoint.release(30));
    assert!(within(held).await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn one_that_fails_rests_and_comes_back() {
    let mut all = three().await;
    let lab = before(&all.each_ref(), "rest = { after = 2, first = \"100ms\", most = \"200ms\" }").await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    let endpoint = "upstream=\"app\"} ";
    let up = format!("portcullis_upstream_endpoint_up{{endpoint=\"http://{}\",{endpoint}", all[0].address);
    all[0].stop();
    // Nobody notices: what was not sent goes elsewhere, also what has a body.
    for i in 0..9 {
        let request = connection.request("POST", &format!("/{i}")).body(full("x")).unwrap();
        connection.exchange(request).await.unwrap().assert_ok();
    }
    until(async || metric(&lab, &format!("{up}0")).await).await;
    assert_eq!(all[1].count() + all[2].count(), 9);
    all[0].resume().await;
    let before = all[0].count();
    until(async || {
        lab.client(&lab.root.agent("a")).get("/").await.assert_ok();
        all[0].count() > before
    })
    .await;
    assert!(metric(&lab, &format!("{up}1")).await);
    let failures =
        format!("portcullis_upstream_failures_total{{endpoint=\"http://{}\",{endpoint}", all[0].address);
    assert!(lab.plain("/metrics").await.contains(&failures));
}

#[tokio::test]
async fn all_that_rest_are_better_than_none() {
    let mut only = Endpoint::start("only", Kind::http()).await;
    let lab = before(&[&only], "rest = { after = 1, first = \"1h\", most = \"1h\" }").await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    only.stop();
    for _ in 0..3 {
        connection.get("/").await.assert_refused(502, "upstream_failed");
    }
    only.resume().await;
    connection.get("/").await.assert_ok();
}

#[tokio::test]
async fn one_that_is_ill_gets_nothing() {
    let all = [Endpoint::start("0", Kind::http()).await, Endpoint::start("1", Kind::http()).await];
    let health =
        "health = { path = \"/healthz\", interval = \"20ms\", unhealthy_after = 2, healthy_after = 2 }";
    let lab = before(&all.each_ref(), health).await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    let health = |endpoint: &Endpoint, status: u16| endpoint.state.health.store(status, Ordering::SeqCst);
    let is_up = async |endpoint: &Endpoint, up: u8| {
        let label = format!("endpoint=\"http://{}\",upstream=\"app\"", endpoint.address);
        let line = format!("portcullis_upstream_endpoint_up{{{label}}} {up}");
        until(async || metric(&lab, &line).await).await;
    };
    health(&all[0], 500);
    is_up(&all[0], 0).await;
    let before = all[0].count();
    for _ in 0..6 {
        assert_eq!(&*connection.get("/").await.body, b"1");
    }
    assert_eq!(all[0].count(), before);
    health(&all[1], 404);
    is_up(&all[1], 0).await;
    connection.get("/").await.assert_refused(503, "upstream_unhealthy");
    health(&all[0], 302);
    is_up(&all[0], 1).await;
    assert_eq!(&*connection.get("/").await.body, b"0");
    // The checks themselves are plain requests of the gate.
    let seen = all[0].state.seen.lock().unwrap();
    let (line, headers) = seen.iter().find(|(line, _)| line.contains("/healthz")).unwrap();
    assert_eq!(
        (line.as_str(), headers["host"].to_str().unwrap()),
        ("GET /healthz", all[0].address.to_string().as_str())
    );
}

#[tokio::test]
async fn a_check_without_a_path_connects() {
    let mut only = Endpoint::start("only", Kind::http()).await;
    let lab = before(&[&only], "health = { interval = \"20ms\" }").await;
    let client = lab.client(&lab.root.agent("a"));
    only.stop();
    until(async || client.get("/").await.verdict() == (503, "upstream_unhealthy".into())).await;
    only.resume().await;
    until(async || client.get("/").await.status == 200).await;
}

#[tokio::test]
async fn no_more_connections_than_it_may_have() {
    for kind in [Kind::http(), Kind::h2c()] {
        let scheme = kind.scheme();
        let only = Endpoint::start("only", kind).await;
        let routes = format!(
            "[[route]]\nupstream = \"app\"\n[upstream.app]\nendpoints = [\"{scheme}://{}\"]\nconnections = 2\nqueue = 1\nstreams = 1\n",
            only.address
        );
        let lab = Lab::plan().on_one_thread().routes(&routes).start().await;
        let client = lab.client(&lab.root.agent("a"));
        let mut connections = Vec::new();
        for _ in 0..4 {
            connections.push(client.h1().await);
        }
        let mut held = Vec::new();
        for (i, connection) in connections.iter_mut().take(2).enumerate() {
            held.push(tokio::spawn(connection.begin("GET", "/hold").1));
            until(async || only.waiting() == i + 1).await;
        }
        // One more waits, and is served as soon as another is through; what comes after it is told to come again.
        let (_, third) = connections[2].begin("GET", "/third");
        let third = tokio::spawn(third);
        until(async || metric(&lab, "portcullis_upstream_waiting{upstream=\"app\"} 1").await).await;
        connections[3].get("/fourth").await.assert_refused(503, "upstream_busy");
        only.release(1);
        assert_eq!(within(third).await.unwrap().unwrap().status(), 200);
        only.release(1);
        for held in held {
            let answer = within(held).await.unwrap().unwrap();
            assert_eq!(&*answer.into_body().collect().await.unwrap().to_bytes(), b"only");
        }
        assert_eq!(only.state.connections.load(Ordering::SeqCst), 2);
        assert!(metric(&lab, "portcullis_upstream_waiting{upstream=\"app\"} 0").await);
    }
}

#[tokio::test]
async fn nobody_waits_for_a_connection_for_ever() {
    let only = Endpoint::start("only", Kind::http()).await;
    let lab = before(&[&only], "connections = 1\ntimeouts = { queue = \"100ms\" }").await;
    let client = lab.client(&lab.root.agent("a"));
    let (mut first, mut second) = (client.h1().await, client.h1().await);
    let held = tokio::spawn(first.begin("GET", "/hold").1);
    until(async || only.waiting() == 1).await;
    second.get("/").await.assert_refused(503, "upstream_busy");
    only.release(1);
    assert_eq!(within(held).await.unwrap().unwrap().status(), 200);
}

/// Its own times take the place of the gate's: for an answer, and for a connection that nobody uses.
#[tokio::test]
async fn nor_for_an_answer_and_nothing_is_kept_for_ever() {
    let only = Endpoint::start("only", Kind::http()).await;
    let lab =
        before(&[&only], "timeouts = { answer = \"100ms\", idle = \"200ms\" }\nrest = { after = 0 }").await;
    let mut connection = lab.client(&lab.root.agent("a")).h1().await;
    connection.get("/hold").await.assert_refused(504, "upstream_timeout");
    connection.get("/").await.assert_ok();
    let opened = only.state.connections.load(Ordering::SeqCst);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    connection.get("/").await.assert_ok();
    assert_eq!(only.state.connections.load(Ordering::SeqCst), opened + 1);
}

/// What is idempotent and broke off is sent to another endpoint, within the budget; nothing else is.
#[tokio::test]
async fn what_broke_off_is_sent_again_only_if_that_does_no_harm() {
    let all = [Endpoint::start("0", Kind::http()).await, Endpoint::start("1", Kind::http()).await];
    let total = || all.iter().map(Endpoint::count).sum::<usize>();
    let lab = before(&all.each_ref(), "retry = { attempts = 2, budget = 0.1 }\nrest = { after = 0 }").await;
    let client = lab.client(&lab.root.agent("a"));
    let mut connection = client.h1().await;
    connection.get("/break").await.assert_refused(502, "upstream_failed");
    assert_eq!(total(), 2);
    for (method, body) in [("POST", ""), ("GET", "x"), ("DELETE", "x")] {
        let request = connection.request(method, "/break").body(full(body)).unwrap();
        connection.exchange(request).await.unwrap().assert_refused(502, "upstream_failed");
    }
    assert_eq!(total(), 5);
    // The budget: ten at once, then one in ten.
    for _ in 0..60 {
        connection.get("/break").await.assert_refused(502, "upstream_failed");
    }
    let again = total() - 5 - 60;
    assert!((9..=18).contains(&again), "{again} were sent again");
    let text = lab.plain("/metrics").await;
    assert!(
        text.contains("portcullis_upstream_retries_total{result=\"over_budget\",upstream=\"app\"}"),
        "{text}"
    );
}

/// What clients do with their bodies is no failure of the endpoint: it does not rest for that. Seen failing (a 502, and an
/// endpoint that rests) over HTTP/2, where hyper keeps to itself what was wrong with a body.
#[tokio::test]
async fn no_client_makes_an_endpoint_rest() {
    for kind in [Kind::http(), Kind::h2c()] {
        let endpoint = format!("{}://", kind.scheme());
        let only = Endpoint::start("only", kind).await;
        let endpoint = format!("{endpoint}{}", only.address);
        let routes = format!(
            "[[route]]\nupstream = \"app\"\n[upstream.app]\nendpoints = [\"{endpoint}\"]\nrest = {{ after = 1 }}\n\
             timeouts = {{ answer = \"100ms\" }}"
        );
        let plan = Lab::plan().on_one_thread().routes(&routes);
        let lab =
            plan.gate("limits = { body_bytes = 1000 }\ntimeouts = { body_idle = \"1s\" }").start().await;
        let client = lab.client(&lab.root.agent("a"));
        let head = "POST / HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        for (body, status) in [
            ("5\r\nhello\r\nnonsense\r\n".to_owned(), "400"),
            (format!("5\r\nhello\r\n400\r\n{}\r\n0\r\n\r\n", "x".repeat(1024)), "413"),
            // It pauses for longer than an answer may take, and for too long.
            ("5\r\nhello\r\n".to_owned(), "408"),
        ] {
            let answer = client.raw(format!("{head}{body}").as_bytes()).await.unwrap();
            assert_eq!(answer.get(9..12), Some(status), "{endpoint} {answer}");
        }
        let metrics = lab.plain("/metrics").await;
        let failures =
            format!("portcullis_upstream_failures_total{{endpoint=\"{endpoint}\",upstream=\"app\"}} 0");
        assert!(metrics.lines().any(|line| line == failures), "{metrics}");
        client.get("/").await.assert_ok();
    }
}

/// Routes that lead to one upstream share what it may have.
#[tokio::test]
async fn routes_share_their_upstream() {
    let only = Endpoint::start("only", Kind::http()).await;
    let routes = format!(
        "[[route]]\nupstream = \"app\"\n[[route]]\npath = \"/x\"\nupstream = \"app\"\n\
         [upstream.app]\nendpoints = [\"http://{}\"]\nconnections = 1\nqueue = 0",
        only.address
    );
    let lab = Lab::plan().on_one_thread().routes(&routes).start().await;
    let client = lab.client(&lab.root.agent("a"));
    let (mut first, mut second) = (client.h1().await, client.h1().await);
    let held = tokio::spawn(first.begin("GET", "/hold").1);
    until(async || only.waiting() == 1).await;
    second.get("/x").await.assert_refused(503, "upstream_busy");
    only.release(1);
    assert_eq!(held.await.unwrap().unwrap().status(), 200);
    second.get("/x").await.assert_ok();
    assert_eq!(only.state.connections.load(Ordering::SeqCst), 1);
}
