//! Tunnels: WebSocket by upgrade (RFC 6455, section 4; RFC 9110, section 7.8), each with a guard of its own.

use http::HeaderMap;
use http::HeaderValue;
use http::Version;
use http::header::CONNECTION;
use http::header::UPGRADE;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::flight::Flight;
use super::upstream::Lease;
use crate::session::Guard;

/// Whether a request asks to become a WebSocket.
pub(super) fn wants_websocket(version: Version, headers: &HeaderMap) -> bool {
    let upgrades = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let websocket =
        headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    version == Version::HTTP_11 && upgrades && websocket
}

/// Names the upgrade for the next hop.
pub(super) fn announce(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Carries bytes both ways until one side ends, or the session is killed.
///
/// `lease` is the upstream connection that was upgraded; given up early, it would take the tunnel with it. `flight`
/// counts it among what its connection carries.
pub(super) async fn run(
    client: OnUpgrade,
    upstream: OnUpgrade,
    lease: Lease,
    guard: Option<Guard>,
    flight: Option<Flight>,
) {
    let carry = async {
        let (client, upstream) = tokio::join!(client, upstream);
        let (Ok(client), Ok(upstream)) = (client, upstream) else {
            return;
        };
        // Either side may break off at any time; there is nobody left to tell.
        let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(upstream)).await;
    };
    match &guard {
        None => carry.await,
        Some(guard) => tokio::select! {
            biased;
            // Whether it is this or its connection that looks first: the socket throws away what it has not delivered.
            _ = guard.killed() => flight.iter().for_each(Flight::cut),
            () = carry => {}
        },
    }
    drop(lease);
}
