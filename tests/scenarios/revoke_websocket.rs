//! A revocation ends tunnels.

use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::lab::Lab;
use crate::lab::within;

/// Seen failing with a connection that ignores the kill once it carries a tunnel.
#[tokio::test]
async fn websockets_are_cut() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    let mut socket = lab.client(&cert).websocket().await;
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), Message::text(text));
    }
    assert_eq!((lab.sessions(), lab.revoke("certificate", &cert.serial).await), (1, 1));
    assert_eq!(lab.sessions(), 0);
    // Sending into a cut connection may succeed; an answer never comes.
    let _ = socket.send(Message::text("three")).await;
    assert!(within(socket.next()).await.is_none_or(|end| end.is_err()));
    lab.upstream.until("/ws", |seen| seen.gone).await;
}

#[tokio::test]
async fn websockets_that_are_full_are_cut() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    let mut socket = lab.client(&cert).websocket().await;
    // Nobody reads the echoes: sending stops once every buffer on the way there and back is full.
    let message = Message::binary(vec![0; 256 << 10]);
    let full = async { while socket.send(message.clone()).await.is_ok() {} };
    assert!(tokio::time::timeout(std::time::Duration::from_secs(2), full).await.is_err());
    assert_eq!(lab.revoke("certificate", &cert.serial).await, 1);
    assert_eq!(lab.sessions(), 0);
    let end = within(async {
        loop {
            if let Err(error) = socket.next().await.unwrap() {
                return error;
            }
        }
    });
    assert!(end.await.to_string().contains("reset"));
}

#[tokio::test]
async fn a_revoked_certificate_opens_none() {
    let mut lab = Lab::start().await;
    let cert = lab.root.agent("a");
    lab.revoke("certificate", &cert.serial).await;
    let stream = lab.client(&cert).dial(b"http/1.1").await.unwrap();
    let mut request =
        tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request("wss://localhost/ws")
            .unwrap();
    request.headers_mut().insert("x-agent-id", "a".parse().unwrap());
    let refused = within(tokio_tungstenite::client_async(request, stream)).await.unwrap_err();
    assert!(refused.to_string().contains("403"), "{refused}");
    assert!(lab.upstream.seen().is_empty());
}
