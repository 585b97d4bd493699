//! Tunnels: WebSocket by upgrade (RFC 6455, section 4; RFC 9110, section 7.8), and over HTTP/2 by extended CONNECT
//! (RFC 8441), each with a guard of its own. Upstreams are asked by upgrade.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Version;
use http::header::CONNECTION;
use http::header::CONTENT_LENGTH;
use http::header::SEC_WEBSOCKET_ACCEPT;
use http::header::SEC_WEBSOCKET_KEY;
use http::header::UPGRADE;
use http::request::Parts;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::io::copy_bidirectional;

use super::exchange::Tunnelled;
use super::flight::Flight;
use super::headers;
use super::upstream::Lease;
use crate::session::Guard;

/// How a request asks to become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// `Upgrade`, of HTTP/1.1.
    Upgrade,
    /// `:protocol`, of HTTP/2.
    Connect,
}

/// Whether a request asks to become a WebSocket, and how.
pub(super) fn asked<B>(request: &Request<B>) -> Option<Asked> {
    match request.version() {
        Version::HTTP_11 => wants_upgrade(request.headers()).then_some(Asked::Upgrade),
        Version::HTTP_2 if *request.method() == Method::CONNECT => {
            let protocol = request.extensions().get::<Protocol>();
            protocol.is_some_and(|protocol| protocol.as_str() == "websocket").then_some(Asked::Connect)
        }
        _ => None,
    }
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    let holds = |name: HeaderName, wanted: &[u8]| {
        let mut lines = headers.get_all(name).iter();
        lines.any(|line| headers::members(line).any(|member| member.eq_ignore_ascii_case(wanted)))
    };
    holds(UPGRADE, b"websocket") && holds(CONNECTION, b"upgrade")
}

/// Names the upgrade for the next hop.
pub(super) fn announce(parts: &mut Parts, asked: Asked) {
    name(&mut parts.headers);
    if asked == Asked::Connect {
        parts.method = Method::GET;
        // A nonce (RFC 6455, section 4.1), which HTTP/2 does without.
        let key = STANDARD.encode(std::array::from_fn::<u8, 16, _>(|_| fastrand::u8(..)));
        HeaderValue::try_from(key)
            .into_iter()
            .for_each(|key| drop(parts.headers.insert(SEC_WEBSOCKET_KEY, key)));
    }
}

/// Tells the client that its tunnel is there, in its own way.
pub(super) fn accept<B>(response: &mut Response<B>, asked: Asked) {
    match asked {
        Asked::Upgrade => name(response.headers_mut()),
        Asked::Connect => {
            *response.status_mut() = StatusCode::OK;
            let gone: [HeaderName; 2] = [SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH];
            gone.iter().for_each(|name| drop(response.headers_mut().remove(name)));
        }
    }
}

fn name(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// What a tunnel leads from and to.
pub(super) struct Ends {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    /// The upstream connection that was upgraded; given up early, it would take the tunnel with it.
    pub(super) lease: Lease,
    /// Counts it among what its connection carries.
    pub(super) flight: Option<Flight>,
}

/// Carries bytes both ways until one side ends, or the session is killed.
///
/// `told` learns what it carried, and how it ended.
pub(super) async fn run(ends: Ends, guard: Option<Guard>, told: Tunnelled) {
    let Ends { client, upstream, lease, flight } = ends;
    let carry = async {
        // Reset before it is closed, if this ends with the session.
        let mut upstream = UpstreamEnd { lease, io: upstream };
        let (client, io) = tokio::join!(client, &mut upstream.io);
        let (Ok(client), Ok(io)) = (client, io) else {
            return;
        };
        let mut upstream = UpstreamEnd { lease: upstream.lease, io: TokioIo::new(io) };
        let mut client = Counted { io: TokioIo::new(client), told: &told };
        // Either side may break off at any time; there is nobody left to tell.
        if copy_bidirectional(&mut client, &mut upstream.io).await.is_ok() {
            told.whole();
        }
    };
    let killed = async {
        match &guard {
            Some(guard) => drop(guard.killed().await),
            None => std::future::pending().await,
        }
        // Whether it is this or its connection that looks first: the socket throws away what it has not delivered. It is
        // closed with `carry`, before a branch of `select!` is entered.
        flight.iter().for_each(Flight::killed);
    };
    tokio::select! {
        biased;
        () = killed => {}
        () = carry => {}
    }
}

/// The upstream's side. Its fields go in this order: the lease resets the connection of a killed session, then the socket is
/// closed.
struct UpstreamEnd<T> {
    lease: Lease,
    io: T,
}

/// The client's side, and what was carried over it.
struct Counted<'a, T> {
    io: T,
    told: &'a Tunnelled,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.told.carried((buf.filled().len() - before) as u64, 0);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = &written {
            self.told.carried(0, *count as u64);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
