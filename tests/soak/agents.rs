//! Agents at work, each with a certificate of its own and one way to speak to the gate.

use std::fmt;

use bytes::Bytes;
use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use http::HeaderMap;
use http::StatusCode;
use rustls::HandshakeKind;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::client::Answer;
use crate::client::Client;
use crate::client::H1;
use crate::client::H2;
use crate::lab::within;
use crate::services::EVENTS;
use crate::upstream::full;

/// How an agent speaks to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Way {
    Http1,
    Http2,
    Grpc,
    WebSocket1,
    WebSocket2,
    Events,
    Upload,
    Resumed,
}

impl Way {
    pub(crate) const ALL: [Self; 8] = [
        Self::Http1,
        Self::Http2,
        Self::Grpc,
        Self::WebSocket1,
        Self::WebSocket2,
        Self::Events,
        Self::Upload,
        Self::Resumed,
    ];

    /// Whether it needs the service that speaks HTTP/2.
    pub(crate) fn is_rpc(self) -> bool {
        self == Self::Grpc
    }
}

/// Why a piece of work did not come to its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The gate's own answer.
    Status(StatusCode, String),
    /// The connection or the stream ended early.
    Cut(String),
    /// Something came back that was not sent.
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status, body) => write!(f, "{status} {body}"),
            Self::Cut(why) => write!(f, "cut: {why}"),
            Self::Wrong(what) => write!(f, "wrong: {what}"),
        }
    }
}

type Done = Result<(), Failure>;

fn cut(error: impl std::fmt::Debug) -> Failure {
    Failure::Cut(format!("{error:?}"))
}

/// One agent, and what it keeps open from one piece of work to the next.
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) way: Way,
    pub(crate) client: Client,
    pub(crate) http1: Option<H1>,
    pub(crate) http2: Option<H2>,
    pub(crate) resumed: usize,
    turn: usize,
}

impl Agent {
    pub(crate) fn new(name: String, way: Way, client: Client) -> Self {
        Self { name, way, client, http1: None, http2: None, resumed: 0, turn: 0 }
    }

    /// One piece of work. What is left of a connection that failed is thrown away.
    pub(crate) async fn work(&mut self) -> Done {
        self.turn += 1;
        let mut http1 = self.http1.take();
        let mut http2 = self.http2.take();
        let done = match self.way {
            Way::Http1 => self.echo(first(&mut http1, &self.client).await, 100).await,
            Way::Upload => self.echo(first(&mut http1, &self.client).await, 256 << 10).await,
            Way::Resumed => {
                let mut connection = self.client.h1().await;
                self.resumed += usize::from(connection.kind == Some(HandshakeKind::Resumed));
                self.echo(&mut connection, 100).await
            }
            Way::Http2 => self.echoes(second(&mut http2, &self.client).await).await,
            Way::Grpc => self.call(second(&mut http2, &self.client).await).await,
            Way::WebSocket1 => match self.client.try_websocket("/ws").await {
                Ok(mut socket) => self.talk(&mut socket).await,
                Err(status) => Err(unopened(status)),
            },
            Way::WebSocket2 => self.talks(second(&mut http2, &self.client).await).await,
            Way::Events if self.turn.is_multiple_of(2) => {
                self.events1(first(&mut http1, &self.client).await).await
            }
            Way::Events => self.events2(second(&mut http2, &self.client).await).await,
        };
        if !matches!(done, Err(Failure::Cut(_))) {
            (self.http1, self.http2) = (http1, http2);
        }
        done
    }

    fn told(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Done {
        if status != StatusCode::OK {
            return Err(Failure::Status(status, String::from_utf8_lossy(body).into_owned()));
        }
        let whose = headers.get("x-whose").and_then(|whose| whose.to_str().ok()).unwrap_or_default();
        match whose == format!("spiffe://lab.test/agent/{}", self.name) {
            true => Ok(()),
            false => Err(Failure::Wrong(format!("the answer of {whose}"))),
        }
    }

    fn echoed(&self, answer: &Answer, body: &[u8]) -> Done {
        self.told(answer.status, &answer.headers, &answer.body)?;
        match answer.body == body {
            true => Ok(()),
            false => Err(Failure::Wrong(format!("{} bytes for {}", answer.body.len(), body.len()))),
        }
    }

    fn letter(&self, size: usize) -> Bytes {
        format!("{} {} ", self.name, self.turn).bytes().cycle().take(size).collect()
    }

    async fn echo(&self, connection: &mut H1, size: usize) -> Done {
        let letter = self.letter(size);
        let request = connection.request("POST", "/echo").body(full(letter.clone())).unwrap();
        let answer = connection.exchange(request).await.map_err(cut)?;
        self.echoed(&answer, &letter)
    }

    /// Several at once, and one to the other service.
    async fn echoes(&self, connection: &mut H2) -> Done {
        let (letter, mut waiting) = (self.letter(1000), Vec::new());
        for path in ["/echo", "/echo", "/echo"] {
            let request = connection.request("POST", path).body(()).unwrap();
            let (answer, mut body) = connection.send(request, false).await.map_err(cut)?;
            body.send_data(letter.clone(), true).map_err(cut)?;
            waiting.push(answer);
        }
        for answer in waiting {
            let (parts, mut body) = within(answer).await.map_err(cut)?.into_parts();
            let mut bytes = Vec::new();
            while let Some(chunk) = within(body.data()).await {
                bytes.extend_from_slice(&chunk.map_err(cut)?);
            }
            self.echoed(
                &Answer { status: parts.status, headers: parts.headers, body: bytes.into() },
                &letter,
            )?;
        }
        Ok(())
    }

    /// Messages there and back, one after the other, and trailers at the end.
    async fn call(&self, connection: &mut H2) -> Done {
        let request = connection.request("POST", "/rpc/stream").header("te", "trailers").body(()).unwrap();
        let (answer, mut body) = connection.send(request, false).await.map_err(cut)?;
        body.send_data(self.letter(500), false).map_err(cut)?;
        let (parts, mut echo) = within(answer).await.map_err(cut)?.into_parts();
        if parts.status != StatusCode::OK {
            return self.told(parts.status, &parts.headers, b"");
        }
        self.told(parts.status, &parts.headers, b"")?;
        for round in 0..5 {
            // Now and then it gives up; the others on the same connection to the service must not notice.
            if self.turn.is_multiple_of(3) && round == 2 {
                return Ok(());
            }
            let mut bytes = Vec::new();
            while bytes.len() < 500 {
                let chunk = within(echo.data()).await.ok_or_else(|| cut("no echo"))?.map_err(cut)?;
                echo.flow_control().release_capacity(chunk.len()).map_err(cut)?;
                bytes.extend_from_slice(&chunk);
            }
            if bytes != self.letter(500) {
                return Err(Failure::Wrong("another message".into()));
            }
            if round < 4 {
                body.send_data(self.letter(500), false).map_err(cut)?;
            }
        }
        let trailers: HeaderMap =
            [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
        body.send_trailers(trailers.clone()).map_err(cut)?;
        while let Some(chunk) = within(echo.data()).await {
            if !chunk.map_err(cut)?.is_empty() {
                return Err(Failure::Wrong("one message too many".into()));
            }
        }
        match within(echo.trailers()).await.map_err(cut)? {
            Some(found) if found == trailers => Ok(()),
            found => Err(Failure::Wrong(format!("trailers {found:?}"))),
        }
    }

    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(&self, socket: &mut WebSocketStream<S>) -> Done {
        for size in [1, 100, 10_000] {
            let message = Message::binary(self.letter(size));
            within(socket.send(message.clone())).await.map_err(cut)?;
            let echo = within(socket.next()).await.ok_or_else(|| cut("no echo"))?.map_err(cut)?;
            if echo != message {
                return Err(Failure::Wrong("another message".into()));
            }
        }
        within(socket.close(None)).await.map_err(cut)?;
        match within(socket.next()).await {
            Some(Ok(Message::Close(_))) => Ok(()),
            end => Err(cut(end)),
        }
    }

    /// Two at once, and a request beside them.
    async fn talks(&self, connection: &mut H2) -> Done {
        let mut one = connection.try_websocket("/ws").await.map_err(unopened)?;
        let mut other = connection.try_websocket("/ws").await.map_err(unopened)?;
        let (first, second) = tokio::join!(self.talk(&mut one), self.talk(&mut other));
        let request = connection.request("POST", "/echo").body(()).unwrap();
        let answer = connection.exchange_with(request, self.letter(10)).await.map_err(cut)?;
        first.and(second).and_then(|()| self.echoed(&answer, &self.letter(10)))
    }

    async fn events1(&self, connection: &mut H1) -> Done {
        let answer = connection.try_get("/events").await.map_err(cut)?;
        self.told(answer.status, &answer.headers, &answer.body)?;
        whole(&answer.body)
    }

    async fn events2(&self, connection: &mut H2) -> Done {
        let answer = connection.try_get("/events").await.map_err(cut)?;
        self.told(answer.status, &answer.headers, &answer.body)?;
        whole(&answer.body)
    }
}

fn whole(events: &[u8]) -> Done {
    let all: String = (0..EVENTS).map(|number| format!("data: {number}\n\n")).collect();
    if events == all.as_bytes() { Ok(()) } else { Err(Failure::Wrong("other events".into())) }
}

fn unopened(status: Option<StatusCode>) -> Failure {
    status.map_or_else(|| cut("no tunnel"), |status| Failure::Status(status, String::new()))
}

async fn first<'a>(kept: &'a mut Option<H1>, client: &Client) -> &'a mut H1 {
    if kept.is_none() {
        *kept = Some(client.h1().await);
    }
    kept.as_mut().unwrap()
}

async fn second<'a>(kept: &'a mut Option<H2>, client: &Client) -> &'a mut H2 {
    if kept.is_none() {
        *kept = Some(client.h2().await);
    }
    kept.as_mut().unwrap()
}
