//! Clients, each a real one: hyper for HTTP/1.1, h2 for HTTP/2, tungstenite for WebSockets, rustls under all.

use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::HeaderMap;
use http::Request;
use http::Response;
use http::StatusCode;
use http::request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::HandshakeKind;
use rustls::RootCertStore;
use rustls::SupportedProtocolVersion;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::sign::SingleCertAndKey;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::DuplexStream;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::lab::within;
use crate::pki::Ca;
use crate::pki::Cert;
use crate::upstream::AnyBody;
use crate::upstream::Feeder;
use crate::upstream::feed;
use crate::upstream::full;

/// A client's receive buffer: small, so that what still arrives after a revocation can be told from what had arrived.
pub(crate) const RECEIVE_BUFFER: u32 = 64 << 10;

pub(crate) type H2Connection = h2::client::Connection<TlsStream<TcpStream>>;

/// One client: a certificate, TLS sessions to resume, and what its requests claim.
#[derive(Clone)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    address: SocketAddr,
    from: Ipv4Addr,
    claim: Option<String>,
}

impl Client {
    pub(crate) fn new(
        server: &Ca,
        cert: Option<&Cert>,
        address: SocketAddr,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(server.der.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match cert {
            Some(cert) => {
                // By hand, because the builder refuses what no honest client would send.
                let key = aws_lc_rs::sign::any_supported_type(&cert.key()).unwrap();
                let own = SingleCertAndKey::from(CertifiedKey::new(cert.chain.clone(), key));
                builder.with_client_cert_resolver(Arc::new(own))
            }
            None => builder.with_no_client_auth(),
        };
        let claim = cert.and_then(|cert| cert.claim.clone());
        Self { config: Arc::new(config), address, from: Ipv4Addr::LOCALHOST, claim }
    }

    /// The same, from another address of this machine.
    pub(crate) fn from(&self, from: Ipv4Addr) -> Self {
        Self { from, ..self.clone() }
    }

    /// The same, with the same TLS sessions, at another address.
    pub(crate) fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// What its side of a handshake begins with, and goes on with.
    pub(crate) fn handshake(&self, alpn: &[u8]) -> rustls::ClientConnection {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![alpn.to_vec()];
        rustls::ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }

    /// Where it connects to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A TLS connection for one protocol.
    pub(crate) async fn dial(&self, alpn: &[u8]) -> io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![alpn.to_vec()];
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.bind((self.from, 0).into())?;
        let tcp = socket.connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let server = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(server, tcp).await
    }

    /// An HTTP/1.1 connection.
    pub(crate) async fn h1(&self) -> H1 {
        self.try_h1().await.unwrap()
    }

    /// The same, if the gate lets it come to that.
    pub(crate) async fn try_h1(&self) -> io::Result<H1> {
        let stream = within(self.dial(b"http/1.1")).await?;
        let kind = stream.get_ref().1.handshake_kind();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        Ok(H1 { sender, kind, connection: tokio::spawn(connection), claim: self.claim.clone() })
    }

    /// An HTTP/2 connection with windows of the usual size.
    pub(crate) async fn h2(&self) -> H2 {
        self.h2_with(&h2::client::Builder::new()).await
    }

    pub(crate) async fn h2_with(&self, builder: &h2::client::Builder) -> H2 {
        let (sender, connection, kind) = self.h2_parts(builder).await;
        H2 { sender, kind, connection: tokio::spawn(connection), claim: self.claim.clone() }
    }

    /// An HTTP/2 connection that reads and writes only while it is polled.
    pub(crate) async fn h2_parts(
        &self,
        builder: &h2::client::Builder,
    ) -> (h2::client::SendRequest<Bytes>, H2Connection, Option<HandshakeKind>) {
        let stream = within(self.dial(b"h2")).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind();
        let (sender, connection) = within(builder.handshake(stream)).await.unwrap();
        (sender, connection, kind)
    }

    /// A WebSocket.
    pub(crate) async fn websocket(&self) -> WebSocketStream<TlsStream<TcpStream>> {
        self.websocket_at("/ws").await
    }

    /// A WebSocket at a path.
    pub(crate) async fn websocket_at(&self, path: &str) -> WebSocketStream<TlsStream<TcpStream>> {
        self.try_websocket(path).await.unwrap()
    }

    /// The same; or the status of the answer, if there is one.
    pub(crate) async fn try_websocket(
        &self,
        path: &str,
    ) -> Result<WebSocketStream<TlsStream<TcpStream>>, Option<StatusCode>> {
        let stream = within(self.dial(b"http/1.1")).await.unwrap();
        let mut request = format!("wss://localhost{path}").into_client_request().unwrap();
        if let Some(claim) = &self.claim {
            request.headers_mut().insert("x-agent-id", claim.parse().unwrap());
        }
        match within(tokio_tungstenite::client_async(request, stream)).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => Err(Some(answer.status())),
            Err(_) => Err(None),
        }
    }

    /// Sends raw bytes, and reads until the other end closes, or the answer's header and body are there.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> io::Result<String> {
        let mut stream = within(self.dial(b"http/1.1")).await?;
        stream.write_all(bytes).await?;
        let mut text = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match within(stream.read(&mut chunk)).await {
                Ok(0) => break,
                Ok(count) => text.extend_from_slice(&chunk[..count]),
                // Closed without a goodbye, after an answer.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && !text.is_empty() => break,
                Err(e) => return Err(e),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// One request over an HTTP/1.1 connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.h1().await.get(path).await
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The code of a problem document; empty if it is none.
    pub(crate) fn code(&self) -> String {
        if self.headers.get("content-type").is_none_or(|kind| kind != "application/problem+json") {
            return String::new();
        }
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status and code, for comparison.
    pub(crate) fn verdict(&self) -> (u16, String) {
        (self.status.as_u16(), self.code())
    }

    #[track_caller]
    pub(crate) fn assert_ok(&self) {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
    }

    #[track_caller]
    pub(crate) fn assert_refused(&self, status: u16, code: &str) {
        assert_eq!(self.verdict(), (status, code.to_owned()), "{:?}", self.body);
    }
}

/// An HTTP/1.1 connection.
pub(crate) struct H1 {
    sender: http1::SendRequest<AnyBody>,
    pub(crate) kind: Option<HandshakeKind>,
    connection: JoinHandle<hyper::Result<()>>,
    claim: Option<String>,
}

impl H1 {
    /// A request in the making, with host and claim.
    pub(crate) fn request(&self, method: &str, path: &str) -> request::Builder {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        match &self.claim {
            Some(claim) => request.header("x-agent-id", claim),
            None => request,
        }
    }

    pub(crate) async fn send(&mut self, request: Request<AnyBody>) -> hyper::Result<Response<Incoming>> {
        within(self.sender.ready()).await?;
        within(self.sender.send_request(request)).await
    }

    /// One request without a body.
    pub(crate) async fn try_get(&mut self, path: &str) -> hyper::Result<Answer> {
        let request = self.request("GET", path).body(full("")).unwrap();
        self.exchange(request).await
    }

    /// One request, whatever it looks like.
    pub(crate) async fn exchange(&mut self, request: Request<AnyBody>) -> hyper::Result<Answer> {
        let (parts, body) = self.send(request).await?.into_parts();
        let body = within(body.collect()).await?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// The same, for as long as it takes.
    pub(crate) async fn slowly(&mut self, request: Request<AnyBody>) -> hyper::Result<Answer> {
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.try_get(path).await.unwrap()
    }

    /// Begins a request whose body is fed, and does not wait for the answer.
    pub(crate) fn begin(
        &mut self,
        method: &str,
        path: &str,
    ) -> (Feeder, impl Future<Output = hyper::Result<Response<Incoming>>> + 'static) {
        let (feeder, body) = feed();
        let request = self.request(method, path).body(body).unwrap();
        (feeder, self.sender.send_request(request))
    }

    /// Waits until the connection is over.
    pub(crate) async fn ended(self) -> hyper::Result<()> {
        let Self { sender, connection, .. } = self;
        let ended = within(connection).await.unwrap();
        drop(sender);
        ended
    }
}

/// An HTTP/2 connection.
pub(crate) struct H2 {
    sender: h2::client::SendRequest<Bytes>,
    pub(crate) kind: Option<HandshakeKind>,
    connection: JoinHandle<Result<(), h2::Error>>,
    claim: Option<String>,
}

impl H2 {
    /// A request in the making, with authority and claim.
    pub(crate) fn request(&self, method: &str, path: &str) -> request::Builder {
        let request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        match &self.claim {
            Some(claim) => request.header("x-agent-id", claim),
            None => request,
        }
    }

    /// Begins a request; its body, unless it has none, is sent by the stream that comes back.
    pub(crate) async fn send(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        let mut sender = within(self.sender.clone().ready()).await?;
        sender.send_request(request, end)
    }

    /// Begins a request without a body.
    pub(crate) async fn begin(&mut self, path: &str) -> ResponseFuture {
        let request = self.request("GET", path).body(()).unwrap();
        self.send(request, true).await.unwrap().0
    }

    pub(crate) async fn try_get(&mut self, path: &str) -> Result<Answer, h2::Error> {
        let request = self.request("GET", path).body(()).unwrap();
        self.exchange(request).await
    }

    /// One request without a body, whatever it looks like.
    pub(crate) async fn exchange(&mut self, request: Request<()>) -> Result<Answer, h2::Error> {
        self.exchange_with(request, Bytes::new()).await
    }

    /// One request with a body, unless that is empty.
    pub(crate) async fn exchange_with(
        &mut self,
        request: Request<()>,
        body: Bytes,
    ) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.send(request, body.is_empty()).await?;
        if !body.is_empty() {
            stream.send_data(body, true)?;
        }
        let (parts, mut body) = within(response).await?.into_parts();
        let mut bytes = Vec::new();
        while let Some(chunk) = within(body.data()).await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer { status: parts.status, headers: parts.headers, body: bytes.into() })
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.try_get(path).await.unwrap()
    }

    /// Asks for a tunnel by extended CONNECT (RFC 8441).
    pub(crate) async fn connect(
        &mut self,
        protocol: &str,
        path: &str,
    ) -> Result<(Response<h2::RecvStream>, h2::SendStream<Bytes>), h2::Error> {
        let ready = async {
            // Until the settings are there that allow it.
            while !self.sender.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
        };
        within(ready).await;
        let mut request =
            self.request("CONNECT", path).header("sec-websocket-version", "13").body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
        let (response, stream) = self.send(request, false).await?;
        Ok((within(response).await?, stream))
    }

    /// A WebSocket beside whatever else there is on the connection.
    pub(crate) async fn websocket(&mut self, path: &str) -> WebSocketStream<DuplexStream> {
        self.try_websocket(path).await.unwrap()
    }

    /// The same; or the status of the answer, if there is one.
    pub(crate) async fn try_websocket(
        &mut self,
        path: &str,
    ) -> Result<WebSocketStream<DuplexStream>, Option<StatusCode>> {
        let (response, stream) = self.connect("websocket", path).await.map_err(|_| None)?;
        if response.status() != StatusCode::OK {
            return Err(Some(response.status()));
        }
        let io = duplex(stream, response.into_body());
        Ok(WebSocketStream::from_raw_socket(io, Role::Client, None).await)
    }

    /// Waits until the connection is over.
    pub(crate) async fn ended(self) -> Result<(), h2::Error> {
        let Self { sender, connection, .. } = self;
        let ended = within(connection).await.unwrap();
        drop(sender);
        ended
    }
}

/// The two directions of an HTTP/2 stream as one stream of bytes. A reset ends it like an end without a goodbye.
fn duplex(mut send: h2::SendStream<Bytes>, mut receive: h2::RecvStream) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut reader, mut writer) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(chunk)) = receive.data().await {
            let _ = receive.flow_control().release_capacity(chunk.len());
            if writer.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
    tokio::spawn(async move {
        let mut chunk = vec![0; 16 << 10];
        while let Ok(count @ 1..) = reader.read(&mut chunk).await {
            let mut bytes = Bytes::copy_from_slice(&chunk[..count]);
            while !bytes.is_empty() {
                send.reserve_capacity(bytes.len());
                let Some(Ok(capacity)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else {
                    return;
                };
                if send.send_data(bytes.split_to(capacity.min(bytes.len())), false).is_err() {
                    return;
                }
            }
        }
        let _ = send.send_data(Bytes::new(), true);
    });
    near
}
