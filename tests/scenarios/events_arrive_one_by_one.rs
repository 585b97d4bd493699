//! Server-sent events: each arrives before the next happens, and the stream ends with its client or its credential.

use http_body_util::BodyExt as _;

use crate::lab::Lab;
use crate::lab::within;
use crate::upstream::Speaks;

#[tokio::test]
async fn over_http1() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
        let client = lab.client(&lab.root.agent("a"));
        let (mut one, mut other) = (client.h1().await, client.h1().await);
        for (connection, path) in [(&mut one, "/events?1"), (&mut other, "/events?2")] {
            let request = connection.request("GET", path).header("accept", "text/event-stream");
            let answer = connection.send(request.body(crate::upstream::full("")).unwrap()).await.unwrap();
            assert_eq!(answer.headers()["content-type"], "text/event-stream");
            assert!(!answer.headers().contains_key("content-length"));
            let mut events = answer.into_body();
            for number in 1..=3 {
                lab.upstream.happen();
                let event = within(events.frame()).await.unwrap().unwrap().into_data().unwrap();
                if path == "/events?1" {
                    assert_eq!(event, format!("data: {number}\n\n"));
                }
            }
            if path == "/events?1" {
                drop(events);
                continue;
            }
            assert_eq!(lab.revoke("principal", "a").await, 1);
            lab.upstream.until(path, |seen| seen.gone).await;
            // Cut, not ended.
            assert!(within(events.collect()).await.is_err());
        }
        // The client went away, and its upstream was told.
        lab.upstream.until("/events?1", |seen| seen.gone).await;
    }
}

#[tokio::test]
async fn over_http2() {
    for speaks in Speaks::ALL {
        let mut lab = Lab::plan().speaking(speaks).start().await;
        let mut connection = lab.client(&lab.root.agent("a")).h2().await;
        let mut left = within(connection.begin("/events?1").await).await.unwrap().into_body();
        let mut stays = within(connection.begin("/events?2").await).await.unwrap().into_body();
        for number in 1..=3 {
            lab.upstream.happen();
            for events in [&mut left, &mut stays] {
                assert_eq!(within(events.data()).await.unwrap().unwrap(), format!("data: {number}\n\n"));
            }
        }
        drop(left);
        lab.upstream.until("/events?1", |seen| seen.gone).await;
        lab.upstream.happen();
        assert_eq!(within(stays.data()).await.unwrap().unwrap(), "data: 4\n\n");
        assert_eq!(lab.revoke("principal", "a").await, 1);
        lab.upstream.until("/events?2", |seen| seen.gone).await;
        assert!(within(stays.data()).await.is_none_or(|end| end.is_err()));
    }
}
