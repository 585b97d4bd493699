//! A TLS client with a certificate: HTTP/1.1, HTTP/2 and WebSockets, as a peer of the gate uses them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::CONNECTION;
use http::header::SEC_WEBSOCKET_KEY;
use http::header::SEC_WEBSOCKET_VERSION;
use http::header::UPGRADE;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::client::conn::http2;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

const CONNECT: Duration = Duration::from_secs(5);

/// Why a call did not get an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file that cannot be used.
    #[error("{0}: {1}")]
    File(String, String),
    /// Nobody listens there, or not in time.
    #[error("cannot reach {0}: {1}")]
    Unreachable(String, String),
    /// The connection was refused or broken off after it stood.
    #[error("{0} broke off: {1}")]
    Broken(String, String),
}

/// A certificate chain and its key.
pub type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A client configuration: whom it trusts, and with what it identifies itself.
pub fn config(
    roots: &[CertificateDer<'static>],
    own: Option<Credentials>,
) -> Result<ClientConfig, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store);
    match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Reads PEM files: authorities, and the client's certificate and key.
pub fn config_from_files(ca: &Path, own: Option<(&Path, &Path)>) -> Result<ClientConfig, ClientError> {
    let failed = |path: &Path, reason: &dyn std::fmt::Display| {
        ClientError::File(path.display().to_string(), reason.to_string())
    };
    let certificates = |path: &Path| {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(found) if found.is_empty() => Err(failed(path, &"holds no certificate")),
            Ok(found) => Ok(found),
            Err(e) => Err(failed(path, &e)),
        }
    };
    let own = match own {
        None => None,
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            Some((chain, PrivateKeyDer::from_pem_file(key).map_err(|e| failed(key, &e))?))
        }
    };
    config(&certificates(ca)?, own).map_err(|e| failed(ca, &e))
}

/// Opens a TLS connection to `address`, whose certificate must be for `name`.
pub async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> Result<TlsStream<TcpStream>, ClientError> {
    let unreachable =
        |e: &dyn std::fmt::Display| ClientError::Unreachable(address.to_string(), e.to_string());
    let server = ServerName::try_from(name.to_owned()).map_err(|e| unreachable(&e))?;
    let tcp = match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(|e| unreachable(&e))?,
        Err(_) => return Err(unreachable(&"no answer in time")),
    };
    tcp.set_nodelay(true).map_err(|e| unreachable(&e))?;
    match timeout(CONNECT, TlsConnector::from(Arc::clone(config)).connect(server, tcp)).await {
        Ok(shaken) => shaken.map_err(|e| unreachable(&e)),
        Err(_) => Err(unreachable(&"no handshake in time")),
    }
}

/// One HTTP/1.1 request over a connection of its own; the whole answer.
pub async fn call(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, ClientError> {
    let stream = connect(config, address, name).await?;
    Conversation::begin(stream).await?.send(request).await
}

/// A connection that carries one request after another, over the protocol that ALPN chose; HTTP/1.1 if it chose none.
///
/// Must be begun on a tokio runtime, which reads and writes on its behalf; dropping it closes the connection.
pub struct Conversation {
    sender: Sender,
    peer: String,
    drive: JoinSet<hyper::Result<()>>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// The client's end of a WebSocket.
pub type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

impl Conversation {
    /// Begins to talk HTTP over a connection.
    pub async fn begin(stream: TlsStream<TcpStream>) -> Result<Self, ClientError> {
        let peer = stream.get_ref().0.peer_addr();
        let peer = peer.map_or_else(|_| "the server".to_owned(), |address| address.to_string());
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let broken = |e: hyper::Error| ClientError::Broken(peer.clone(), e.to_string());
        let mut drive = JoinSet::new();
        let sender = if http2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
            drive.spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
            drive.spawn(connection.with_upgrades());
            Sender::Http1(sender)
        };
        Ok(Self { sender, peer, drive })
    }

    /// Sends one request, and waits for the whole answer.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, ClientError> {
        let response = self.request(request).await?;
        self.collect(response).await
    }

    /// Asks to go on as a WebSocket (RFC 6455, section 4.1). The answer, if it is no.
    pub async fn upgrade(
        mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Result<WebSocket, Response<Bytes>>, ClientError> {
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        let key = HeaderValue::try_from(generate_key());
        headers.insert(SEC_WEBSOCKET_KEY, key.map_err(|e| self.broken(&e))?);
        let response = self.request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return self.collect(response).await.map(Err);
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| self.broken(&e))?;
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
        Ok(Ok(socket))
    }

    /// Waits until the connection has ended, by whomever.
    pub async fn ended(&mut self) -> ClientError {
        match self.drive.join_next().await {
            Some(Ok(Err(error))) => self.broken(&error),
            _ => self.broken(&"closed"),
        }
    }

    async fn request(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let sent = match &mut self.sender {
            Sender::Http1(sender) => match sender.ready().await {
                Ok(()) => sender.send_request(request).await,
                Err(error) => Err(error),
            },
            Sender::Http2(sender) => match sender.ready().await {
                Ok(()) => sender.send_request(request).await,
                Err(error) => Err(error),
            },
        };
        sent.map_err(|e| self.broken(&e))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Response<Bytes>, ClientError> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| self.broken(&e))?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }

    fn broken(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken(self.peer.clone(), reason.to_string())
    }
}
