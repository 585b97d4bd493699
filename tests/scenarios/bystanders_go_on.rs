//! A revocation ends what it hits, says how much that was, and disturbs nobody else.

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use http_body::Frame;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::lab::Lab;
use crate::lab::within;
use crate::pki::now;
use crate::upstream::End;
use crate::upstream::Speaks;

#[tokio::test]
async fn of_every_kind() {
    let mut lab = Lab::start().await;
    let (victim, bystander) = (lab.root.agent("a"), lab.root.agent("b"));
    let (hunted, calm) = (lab.client(&victim), lab.client(&bystander));
    let mut victims = Vec::new();
    for _ in 0..5 {
        let mut connection = hunted.h1().await;
        connection.get("/").await.assert_ok();
        victims.push(connection);
    }
    let hunted_socket = hunted.websocket().await;
    let mut hunted_h2 = hunted.h2().await;
    hunted_h2.get("/").await.assert_ok();

    let mut idle = calm.h1().await;
    idle.get("/").await.assert_ok();
    let mut upload = calm.h1().await;
    let (body, answer) = upload.begin("POST", "/echo");
    let answer = tokio::spawn(answer);
    body.send(Frame::data(Bytes::from("one"))).await.unwrap();
    let mut echo = within(answer).await.unwrap().unwrap().into_body();
    assert_eq!(within(echo.frame()).await.unwrap().unwrap().into_data().unwrap(), "one");
    let mut streams = calm.h2().await;
    let waiting = streams.begin("/hold").await;
    lab.upstream.until("/hold", |_| true).await;
    let mut socket = calm.websocket().await;
    socket.send(Message::text("one")).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), Message::text("one"));

    assert_eq!(lab.sessions(), 11);
    assert_eq!(lab.revoke("principal", "spiffe://lab.test/agent/a").await, 7);
    assert_eq!(lab.sessions(), 4);

    idle.get("/").await.assert_ok();
    body.send(Frame::data(Bytes::from("two"))).await.unwrap();
    drop(body);
    assert_eq!(within(echo.collect()).await.unwrap().to_bytes(), "two");
    lab.upstream.release();
    assert_eq!(within(waiting).await.unwrap().status(), 200);
    streams.get("/").await.assert_ok();
    socket.send(Message::text("two")).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), Message::text("two"));
    assert_eq!(lab.sessions(), 4);
    drop((hunted_socket, hunted_h2));
}

#[tokio::test]
async fn under_load_without_a_single_error() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
        let calm = lab.client(&lab.root.agent("calm"));
        let mut tasks = Vec::new();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        for i in 0..4 {
            let (client, stopped) = (calm.clone(), stopped.clone());
            tasks.push(tokio::spawn(async move {
                let (mut count, mut h1, mut h2) = (0, client.h1().await, client.h2().await);
                while !*stopped.borrow() {
                    match i % 2 {
                        0 => h1.get("/calm").await.assert_ok(),
                        _ => h2.get("/calm").await.assert_ok(),
                    }
                    count += 1;
                }
                count
            }));
        }
        lab.upstream.until("/calm", |_| true).await;
        for i in 0..20 {
            let cert = lab.root.agent(&format!("victim-{i}"));
            let mut connection = lab.client(&cert).h1().await;
            connection.get("/").await.assert_ok();
            assert_eq!(lab.revoke("certificate", &cert.serial).await, 1);
            assert!(connection.try_get("/").await.is_err());
        }
        stop.send_replace(true);
        for task in tasks {
            assert!(within(task).await.unwrap() > 0);
        }
    }
}

/// Seen failing with `issued_before` ignored.
#[tokio::test]
async fn a_renewed_certificate_works_at_once() {
    let mut lab = Lab::start().await;
    let renewal = now();
    let leaf = || lab.root.leaf().uri("spiffe://lab.test/agent/a").claim("a");
    let hour = time::Duration::hours(1);
    let old = leaf().valid(renewal - hour, renewal + hour).issue();
    let new = leaf().valid(renewal, renewal + hour).issue();
    let (mut before, mut after) = (lab.client(&old).h1().await, lab.client(&new).h1().await);
    before.get("/").await.assert_ok();
    after.get("/").await.assert_ok();
    let change = json!({
        "action": "revoke", "level": "principal", "target": "spiffe://lab.test/agent/a",
        "issued_before": renewal.unix_timestamp(),
    });
    assert_eq!(lab.applied(change).await, 1);
    assert!(before.try_get("/").await.is_err());
    after.get("/").await.assert_ok();
    lab.client(&old).get("/").await.assert_refused(403, "principal_revoked");
    lab.client(&new).get("/").await.assert_ok();
    lab.until_sessions(1).await;
    // Without the bound the same revocation hits the new one too.
    assert_eq!(lab.revoke("principal", "spiffe://lab.test/agent/a").await, 1);
    assert!(after.try_get("/").await.is_err());
}

#[tokio::test]
async fn a_second_revocation_ends_nothing_more() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    lab.client(&cert).h1().await.get("/").await.assert_ok();
    lab.until_sessions(0).await;
    let mut connection = lab.client(&cert).h1().await;
    connection.get("/").await.assert_ok();
    assert_eq!(lab.revoke("certificate", &cert.serial).await, 1);
    assert_eq!(lab.revoke("certificate", &cert.serial).await, 0);
    assert_eq!(lab.revoke("principal", "a").await, 0);
    // What is refused holds no session that could be ended.
    lab.client(&cert).get("/").await.assert_refused(403, "certificate_revoked");
    assert_eq!(lab.revoke("key", &cert.key_sha256).await, 0);
}

/// The upstream's connection that carried the victim's request carries nobody else's.
#[tokio::test]
async fn over_other_connections_to_the_upstream() {
    let mut lab = Lab::plan().on_one_thread().start().await;
    let (victim, bystander) = (lab.root.agent("a"), lab.root.agent("b"));
    let mut calm = lab.client(&bystander).h1().await;
    calm.get("/calm").await.assert_ok();
    for path in ["/hold", "/upload", "/flood"] {
        let mut hunted = lab.client(&victim).h1().await;
        let (body, answer) = hunted.begin("POST", path);
        let answer = tokio::spawn(answer);
        body.send(Frame::data(Bytes::from("half"))).await.unwrap();
        lab.upstream.until(path, |seen| seen.body == b"half").await;
        assert_eq!(lab.revoke("principal", "a").await, 1);
        lab.upstream.until(path, |seen| seen.end == End::Broken || seen.gone).await;
        for _ in 0..3 {
            let answer = calm.get("/calm").await;
            assert_eq!(answer.body, "ok");
        }
        drop(answer);
        lab.applied(json!({"action": "reinstate", "level": "principal", "target": "a", "force": true})).await;
    }
    for seen in lab.upstream.seen().iter().filter(|seen| seen.path == "/calm") {
        assert_eq!((seen.end, seen.body.len()), (End::Whole, 0));
    }
}
