//! Whatever arrives in place of a handshake, in whatever pieces, at the gate or at the admin listener: it is understood,
//! or that connection ends; others are served.

use std::io::Read as _;
use std::io::Write as _;
use std::net::Shutdown;
use std::net::TcpStream;

use rustls::ClientConnection;
use rustls::Stream;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::client::Client;
use crate::lab::Lab;
use crate::lab::PATIENCE;

/// The bytes of a ClientHello, in one record.
fn hello(handshake: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    handshake.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same in records of so many bytes each (RFC 8446, section 5.1: messages may be split over records).
fn split(record: &[u8], length: usize) -> Vec<u8> {
    let (header, message) = record.split_at(5);
    let parts = message.chunks(length).map(|part| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&header[..3], &length, part].concat()
    });
    parts.collect::<Vec<_>>().concat()
}

fn connect(client: &Client) -> TcpStream {
    let socket = TcpStream::connect(client.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// What a raw client is sent before the other end closes; for as long as it has patience.
fn told(mut socket: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}"),
    }
    bytes
}

/// The client is served at the listener that it is for; each time on a fresh connection.
fn is_served(client: &Client, path: &str) {
    let mut handshake = client.handshake(b"http/1.1");
    let mut socket = connect(client);
    ask(&mut handshake, &mut socket, path);
}

fn ask(handshake: &mut ClientConnection, socket: &mut TcpStream, path: &str) {
    let mut stream = Stream::new(handshake, socket);
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-agent-id: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

async fn listeners() -> (Lab, [(Client, &'static str); 2]) {
    let lab = Lab::start().await;
    let agent = lab.root.agent("a");
    let (gate, admin) = (lab.client(&agent), lab.administrator("ops"));
    (lab, [(gate, "/"), (admin, "/v1/status")])
}

#[tokio::test]
async fn a_hello_in_many_records() {
    let (lab, listeners) = listeners().await;
    let agent = lab.root.agent("a");
    let versions = [&TLS13, &TLS12].map(|version| (lab.client_of(Some(&agent), &[version]), "/"));
    let all: Vec<_> = listeners.into_iter().chain(versions).collect();
    // The upstream runs here.
    tokio::task::spawn_blocking(move || {
        all.iter().for_each(|(client, path)| says_hello_in_pieces(client, path))
    })
    .await
    .unwrap();
}

fn says_hello_in_pieces(client: &Client, path: &str) {
    for length in [1, 2, 3, 4, 5, 64, 300] {
        for piecewise in [false, true] {
            let mut handshake = client.handshake(b"http/1.1");
            let hello = split(&hello(&mut handshake), length);
            let mut socket = connect(client);
            // At once, and in pieces that fall anywhere in a record.
            let pieces = if piecewise { 97 } else { hello.len() };
            hello.chunks(pieces).for_each(|piece| socket.write_all(piece).unwrap());
            ask(&mut handshake, &mut socket, path);
        }
    }
}

#[tokio::test]
async fn what_is_no_handshake() {
    let (lab, listeners) = listeners().await;
    tokio::task::spawn_blocking(move || {
        listeners.iter().for_each(|(client, path)| says_something_else(client, path));
    })
    .await
    .unwrap();
    lab.until_sessions(0).await;
}

fn says_something_else(client: &Client, path: &str) {
    let close_notify: &[u8] = &[21, 3, 3, 0, 2, 1, 0];
    let whole = hello(&mut client.handshake(b"http/1.1"));
    let half = &whole[..whole.len() / 2];
    let mut long = whole.clone();
    long[3..5].copy_from_slice(&[0xff, 0xff]);
    let mut wrong = whole.clone();
    wrong[5] = 2;
    let silent: [Vec<u8>; 10] = [
        // In the middle of the handshake, and before it (RUSTSEC-2024-0336: an endless loop).
        [&whole, close_notify].concat(),
        [half, close_notify].concat(),
        [&split(&whole, 100)[..105], close_notify].concat(),
        close_notify.repeat(1000),
        // A record of more than may be, another message, an empty record again and again.
        long,
        wrong,
        [22, 3, 1, 0, 0].repeat(5000),
        // Other protocols, and noise.
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        (0..20_000_u32).map(|i| ((i * i) >> 3) as u8).collect(),
    ];
    for bytes in silent {
        let mut socket = connect(client);
        // It may have been closed half-way through.
        let _ = socket.write_all(&bytes);
        let _ = socket.shutdown(Shutdown::Write);
        let answer = told(socket);
        assert!(!answer.windows(4).any(|text| text == b"HTTP"), "{bytes:?}");
        is_served(client, path);
    }
}
