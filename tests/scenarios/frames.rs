//! HTTP/2 by hand (RFC 9113, section 4.1; RFC 7541): whatever frames a test wants, in whatever order.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::Client;
use crate::lab::within;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A field of a header; names and values of any bytes.
pub(crate) type Field<'a> = (&'a str, &'a str);

/// The pseudo-header fields of a request, and the claim.
pub(crate) fn request<'a>(method: &'a str, path: &'a str) -> Vec<Field<'a>> {
    vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("x-agent-id", "a"),
    ]
}

/// A header block of literals that are not indexed (RFC 7541, section 6.2.2), without Huffman codes.
pub(crate) fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            length(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn length(bytes: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return bytes.push(u8::try_from(value).unwrap());
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    bytes.push(u8::try_from(value).unwrap());
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What came of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A status that HPACK has in its table, or 0; and the body, whole.
    Answered(u16, String),
    /// RST_STREAM, with its error code.
    Reset(u32),
    /// GOAWAY, with its error code.
    GoneAway(u32),
    /// The connection ended without a word.
    Closed,
}

/// An HTTP/2 connection that is past its preface.
pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
}

impl Frames {
    /// `settings` are the payload of the first SETTINGS frame.
    pub(crate) async fn dial(client: &Client, settings: &[u8]) -> Self {
        let mut stream = within(client.dial(b"h2")).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
        Self { stream }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        within(async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
    }

    /// A request that ends with its header.
    pub(crate) async fn get(&mut self, stream: u32, path: &str) {
        let header = frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&request("GET", path)));
        self.send(&header).await.unwrap();
    }

    /// The next frame: kind, flags, stream, payload.
    pub(crate) async fn next(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        within(self.stream.read_exact(&mut head)).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        within(self.stream.read_exact(&mut payload)).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok((head[3], head[4], stream, payload))
    }

    /// Waits for the answer to a PING; the error is how the connection ended before it.
    pub(crate) async fn pong(&mut self, number: &[u8; 8]) -> Result<(), Outcome> {
        loop {
            match self.next().await {
                Ok((PING, flags, _, payload)) if flags & ACK != 0 && payload == number => return Ok(()),
                Ok((GOAWAY, _, _, payload)) => {
                    let code = u32::from_be_bytes(payload[4..8].try_into().unwrap());
                    return Err(Outcome::GoneAway(code));
                }
                Ok(_) => {}
                Err(_) => return Err(Outcome::Closed),
            }
        }
    }

    /// Waits for what comes of a stream, or of the connection.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        let (mut status, mut body) = (0, Vec::new());
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        loop {
            let Ok((kind, flags, of, payload)) = self.next().await else { return Outcome::Closed };
            match kind {
                HEADERS if of == stream => {
                    status = match payload.first() {
                        Some(0x88) => 200,
                        Some(0x8c) => 400,
                        Some(0x8d) => 404,
                        _ => 0,
                    };
                }
                DATA if of == stream => body.extend_from_slice(&payload),
                RST_STREAM if of == stream => return Outcome::Reset(number(&payload)),
                GOAWAY if number(&payload[4..8]) != 0 => return Outcome::GoneAway(number(&payload[4..8])),
                _ => {}
            }
            if of == stream && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                return Outcome::Answered(status, String::from_utf8(body).unwrap());
            }
        }
    }

    /// Whether the other end has cut the connection; what it says before is read.
    pub(crate) async fn is_cut(&mut self) -> bool {
        loop {
            match self.next().await {
                Ok((GOAWAY, _, _, payload)) if payload[4..8] != [0; 4] => return true,
                Ok(_) => {}
                Err(_) => return true,
            }
        }
    }
}
