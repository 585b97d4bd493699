//! A TLS client with a certificate: HTTP/1.1, HTTP/2 and WebSockets, as a peer of the gate uses them.

use std::error::Error;
use std::fmt::Display;
use std::io;
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
use http_body_util::Limited;
use hyper::body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::client::conn::http2;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::ConfigBuilder;
use rustls::ProtocolVersion;
use rustls::RootCertStore;
use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem;
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
/// For an answer: longer than the ten seconds that a gate waits for a disk that hangs.
pub const ANSWER: Duration = Duration::from_secs(15);
/// The longest body of an answer, bytes.
const MOST: usize = 64 * 1024 * 1024;
/// For the server's verdict on a certificate; one that gives none is not waited for any longer.
const VERDICT: Duration = Duration::from_millis(250);

/// Why a call did not get an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file that cannot be used.
    #[error("{0}: {1}")]
    File(String, String),
    /// A private key, and the certificate to which it does not belong.
    #[error("{0}: not the key of the certificate in {1}")]
    OtherKey(String, String),
    /// Nobody listens there, or not in time.
    #[error("cannot reach {0}: {1}")]
    Unreachable(String, String),
    /// The server ended the connection in the middle of the handshake.
    #[error("{0} broke off the handshake: {1}")]
    Dropped(String, String),
    /// The client's certificate was not accepted; in TLS 1.3 that is told after the client's part of the handshake.
    #[error("{0} does not accept this certificate: {1}")]
    Refused(String, &'static str),
    /// The server's certificate was not accepted.
    #[error("{0} is not trusted: {1}")]
    Untrusted(String, CertificateError),
    /// The request was sent, and no answer came in time.
    #[error("{0} took the request and gave no answer within {1:?}")]
    Silent(String, Duration),
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
    let builder = trusting(roots)?;
    match own {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn trusting(
    roots: &[CertificateDer<'static>],
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(store))
}

/// Reads PEM files: authorities, and the client's certificate and key.
pub fn config_from_files(ca: &Path, own: Option<(&Path, &Path)>) -> Result<ClientConfig, ClientError> {
    let builder = trusting(&certificates(ca)?).map_err(|e| unusable(ca, &e))?;
    let Some((cert, key)) = own else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(cert)?;
    let read = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(key, &"holds no private key"),
        error => unreadable(key, error),
    })?;
    builder.with_client_auth_cert(chain, read).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            ClientError::OtherKey(key.display().to_string(), cert.display().to_string())
        }
        error => ClientError::File(format!("{}, {}", cert.display(), key.display()), error.to_string()),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err(unusable(path, &"holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(unreadable(path, error)),
    }
}

fn unreadable(path: &Path, error: pem::Error) -> ClientError {
    match error {
        pem::Error::Io(error) => unusable(path, &error),
        pem::Error::MissingSectionEnd { .. } => unusable(path, &"is cut off: a PEM section has no end"),
        error => unusable(path, &format_args!("{error}")),
    }
}

fn unusable(path: &Path, reason: &dyn Display) -> ClientError {
    ClientError::File(path.display().to_string(), reason.to_string())
}

/// Opens a TLS connection to `address`, whose certificate must be for `name`.
pub async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> Result<TlsStream<TcpStream>, ClientError> {
    shake(config, dial(address).await?, name).await
}

/// Opens a bare connection.
pub async fn dial(address: SocketAddr) -> Result<TcpStream, ClientError> {
    let unreachable = |e: &dyn Display| ClientError::Unreachable(address.to_string(), e.to_string());
    let tcp = match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(|e| unreachable(&e))?,
        Err(_) => return Err(unreachable(&"no answer in time")),
    };
    tcp.set_nodelay(true).map_err(|e| unreachable(&e))?;
    Ok(tcp)
}

/// Begins TLS on a connection to `address`; what goes wrong from here on is the server's doing.
pub async fn shake(
    config: &Arc<ClientConfig>,
    tcp: TcpStream,
    name: &str,
) -> Result<TlsStream<TcpStream>, ClientError> {
    let peer = tcp.peer_addr();
    let address = peer.unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let unreachable = |e: &dyn Display| ClientError::Unreachable(address.to_string(), e.to_string());
    let server = ServerName::try_from(name.to_owned()).map_err(|e| unreachable(&e))?;
    match timeout(CONNECT, TlsConnector::from(Arc::clone(config)).connect(server, tcp)).await {
        Ok(shaken) => shaken.map_err(|e| not_shaken(address, &e)),
        Err(_) => Err(unreachable(&"no handshake in time")),
    }
}

fn not_shaken(address: SocketAddr, error: &io::Error) -> ClientError {
    if let Some(why) = refused(error) {
        return ClientError::Refused(address.to_string(), why);
    }
    let reason = match cause::<rustls::Error>(error) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            return ClientError::Untrusted(address.to_string(), why.clone());
        }
        Some(rustls::Error::InvalidMessage(_)) => "does not speak TLS: is this the metrics port?".into(),
        Some(_) => error.to_string(),
        None => return ClientError::Dropped(address.to_string(), error.to_string()),
    };
    ClientError::Unreachable(address.to_string(), reason)
}

/// One HTTP/1.1 request over a connection of its own; the whole answer, which is waited for so long.
pub async fn call(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
    request: Request<Full<Bytes>>,
    patience: Duration,
) -> Result<Response<Bytes>, ClientError> {
    let stream = connect(config, address, name).await?;
    hear_out(&stream).await;
    let mut conversation = Conversation::begin(stream).await?;
    match timeout(patience, conversation.send(request)).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Silent(address.to_string(), patience)),
    }
}

/// Waits until the server has said something after the handshake: tickets, or the alert that refuses the certificate.
/// A request that is already under way when it closes would make its kernel reset the connection, and the alert be lost.
async fn hear_out(stream: &TlsStream<TcpStream>) {
    let (tcp, session) = stream.get_ref();
    if session.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        // What an error means is told to whoever reads next.
        let _ = timeout(VERDICT, tcp.peek(&mut [0])).await;
    }
}

/// What a server holds against the client's certificate, if that is why it broke off.
fn refused(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let Some(rustls::Error::AlertReceived(alert)) = cause::<rustls::Error>(error) else {
        return None;
    };
    match alert {
        AlertDescription::CertificateExpired => Some("certificate expired"),
        AlertDescription::CertificateRevoked => Some("certificate revoked"),
        AlertDescription::CertificateUnknown => Some("certificate unknown"),
        AlertDescription::CertificateRequired => Some("certificate required"),
        AlertDescription::BadCertificate => Some("bad certificate"),
        AlertDescription::UnsupportedCertificate => Some("unsupported certificate"),
        AlertDescription::UnknownCA => Some("unknown CA"),
        AlertDescription::AccessDenied => Some("access denied"),
        AlertDescription::DecryptError => Some("its signature does not verify"),
        _ => None,
    }
}

/// The error of one type in a chain of causes. What an `io::Error` wraps is itself, not its source.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// A connection that carries one request after another, over the protocol that ALPN chose; HTTP/1.1 if it chose none.
///
/// Must be begun on a tokio runtime, which reads and writes on its behalf; dropping it closes the connection.
pub struct Conversation<B = Full<Bytes>> {
    sender: Sender<B>,
    peer: String,
    /// The last request has an answer, or the beginning of one.
    begun: bool,
    drive: JoinSet<hyper::Result<()>>,
}

enum Sender<B> {
    Http1(http1::SendRequest<B>),
    Http2(http2::SendRequest<B>),
}

/// The client's end of a WebSocket.
pub type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

impl Conversation {
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
}

impl<B> Conversation<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
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
        Ok(Self { sender, peer, begun: false, drive })
    }

    /// Sends one request, and waits for the whole answer, of at most 64 MiB.
    pub async fn send(&mut self, request: Request<B>) -> Result<Response<Bytes>, ClientError> {
        self.begun = false;
        let response = self.request(request).await?;
        self.begun = true;
        self.collect(response).await
    }

    /// Whether the last request has an answer, or the beginning of one.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Waits until the connection has ended, by whomever.
    pub async fn ended(&mut self) -> ClientError {
        match self.drive.join_next().await {
            Some(Ok(Err(error))) => self.broken(&error),
            _ => self.broken(&"closed"),
        }
    }

    async fn request(&mut self, request: Request<B>) -> Result<Response<Incoming>, ClientError> {
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
        match sent {
            Ok(response) => Ok(response),
            Err(error) => Err(self.told(&error).await),
        }
    }

    /// Why a request came to nothing. The connection knows more of it than the request, which was but cancelled.
    async fn told(&mut self, error: &hyper::Error) -> ClientError {
        let ended = match error.is_canceled() || error.is_closed() {
            true => self.drive.join_next().await,
            false => None,
        };
        let error = match &ended {
            Some(Ok(Err(error))) => error,
            _ => error,
        };
        match refused(error) {
            Some(why) => ClientError::Refused(self.peer.clone(), why),
            None => self.broken(error),
        }
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Response<Bytes>, ClientError> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MOST).collect().await.map_err(|e| self.broken(&*e))?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }

    fn broken(&self, reason: &dyn Display) -> ClientError {
        ClientError::Broken(self.peer.clone(), reason.to_string())
    }
}
