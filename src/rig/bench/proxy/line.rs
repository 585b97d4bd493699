//! One connection to a proxy, and requests on it, at as little cost to the machine as can be.

use std::error::Error as _;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::header::CONNECTION;
use http::header::HOST;
use http_body_util::BodyExt as _;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls::ClientConfig;
use rustls::HandshakeKind;
use rustls::RootCertStore;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::rig::client;
use crate::rig::client::ClientError;
use crate::rig::findings::Kind;

/// How many sessions are kept for a server; each handshake brings one or two.
const SESSIONS: usize = 8;

/// A proxy, and as whom it is asked for what.
#[derive(Clone)]
pub(super) struct Peer {
    /// Where it is.
    pub(super) address: SocketAddr,
    /// What is asked for; its host is what the proxy's certificate must be for.
    pub(super) url: Uri,
    tls: Arc<ClientConfig>,
    /// A request as it goes out again and again.
    request: Request<Empty<Bytes>>,
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The connection came to its end before anything was sent.
    #[error("closed")]
    Closed,
    /// An answer, but no success.
    #[error("{0}")]
    Status(StatusCode),
    /// No connection.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No answer, or not the whole of it.
    #[error("broken off: {0}")]
    Broken(#[from] hyper::Error),
    /// Another protocol than the one that is to be spoken.
    #[error("does not offer HTTP/2")]
    NoHttp2,
    /// A URL or a header that HTTP cannot carry.
    #[error("{0}")]
    Request(#[from] http::Error),
}

impl Peer {
    /// Asks for `url` at `address` with these headers.
    pub(super) fn new(
        address: SocketAddr,
        url: &Uri,
        headers: &HeaderMap,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, Failure> {
        let mut request = Request::get(url).body(Empty::new())?;
        request.headers_mut().extend(headers.clone());
        Ok(Self { address, url: url.clone(), tls: Arc::clone(tls), request })
    }

    /// The same as one kind of work needs it: with TLS sessions of its own, if they are to be resumed.
    pub(super) fn speaking(&self, kind: Kind) -> Self {
        let mut peer = self.clone();
        let mut tls = ClientConfig::clone(&self.tls);
        if kind == Kind::Resumption {
            tls.resumption = Resumption::in_memory_sessions(SESSIONS);
        }
        if kind == Kind::Http2 {
            // Alone: beside another, a server that prefers that would not show that it has this, too.
            tls.alpn_protocols = vec![b"h2".to_vec()];
        } else {
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            let authority = self.url.authority().map_or("", |authority| authority.as_str());
            let host = HeaderValue::from_str(authority).unwrap_or(HeaderValue::from_static(""));
            peer.request.headers_mut().entry(HOST).or_insert(host);
            let path = self.url.path_and_query().map_or("/", |path| path.as_str());
            *peer.request.uri_mut() = path.parse().unwrap_or_default();
        }
        if matches!(kind, Kind::Handshake | Kind::Resumption) {
            peer.request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        peer.tls = Arc::new(tls);
        peer
    }

    /// One more request.
    pub(super) fn request(&self) -> Request<Empty<Bytes>> {
        self.request.clone()
    }
}

/// Reads the files. No session is resumed, and keys are exchanged as every server of these years can: some know
/// post-quantum ones and some do not, and their price would be taken for the proxy's.
pub(super) fn config(ca: &Path, own: (&Path, &Path)) -> Result<ClientConfig, ClientError> {
    let read = client::config_from_files(ca, Some(own))?;
    let unfit = |error: &dyn Display| ClientError::File(ca.display().to_string(), error.to_string());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca).map_err(|e| unfit(&e))? {
        roots.add(root.map_err(|e| unfit(&e))?).map_err(|e| unfit(&e))?;
    }
    let provider = CryptoProvider {
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| unfit(&e))?;
    let builder = builder.with_root_certificates(roots);
    let mut config = builder.with_client_cert_resolver(read.client_auth_cert_resolver);
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A connection over which HTTP is spoken.
pub(super) enum Line {
    /// One request after the other.
    Http1(http1::SendRequest<Empty<Bytes>>),
    /// Several at once.
    Http2(http2::SendRequest<Empty<Bytes>>),
}

/// What keeps a connection going while it is polled; it ends with it.
pub(super) type Drive = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Line {
    /// Opens one, and says how the handshake went.
    pub(super) async fn open(peer: &Peer) -> Result<(Self, Drive, HandshakeKind), Failure> {
        let host = peer.url.host().unwrap_or_default();
        let stream = match client::connect(&peer.tls, peer.address, host).await {
            Err(ClientError::Unreachable(_, reason)) if reason.contains(&no_protocol()) => {
                return Err(Failure::NoHttp2);
            }
            connected => connected?,
        };
        let session = stream.get_ref().1;
        let how = session.handshake_kind().unwrap_or(HandshakeKind::Full);
        let speaks_http2 = session.alpn_protocol() == Some(b"h2");
        if peer.tls.alpn_protocols == [b"h2"] {
            if !speaks_http2 {
                return Err(Failure::NoHttp2);
            }
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            // Why it ended is told to whoever has a request on it.
            let drive = connection.map(drop);
            return Ok((Self::Http2(sender), Box::pin(drive), how));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok((Self::Http1(sender), Box::pin(connection.map(drop)), how))
    }

    /// The same connection for one more stream; `None` if it has but one.
    pub(super) fn another(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }

    /// One request, and its whole answer.
    pub(super) async fn ask(&mut self, request: Request<Empty<Bytes>>) -> Result<(), Failure> {
        let answer = match self {
            Self::Http1(sender) => match sender.ready().await {
                Ok(()) => sender.send_request(request).await,
                Err(_) => return Err(Failure::Closed),
            },
            Self::Http2(sender) => match sender.ready().await {
                Ok(()) => sender.send_request(request).await,
                Err(_) => return Err(Failure::Closed),
            },
        };
        let (parts, mut body) = answer.map_err(ending)?.into_parts();
        while let Some(frame) = body.frame().await {
            frame.map_err(ending)?;
        }
        match parts.status.is_success() || parts.status.is_redirection() {
            true => Ok(()),
            false => Err(Failure::Status(parts.status)),
        }
    }
}

/// How the alert reads by which some servers tell that they speak nothing of what they are offered (RFC 7301, section
/// 3.2).
fn no_protocol() -> String {
    format!("{:?}", AlertDescription::NoApplicationProtocol)
}

/// A connection for one request: how its handshake went.
pub(super) async fn once(peer: &Peer) -> Result<HandshakeKind, Failure> {
    let (mut line, drive, how) = Line::open(peer).await?;
    let asked = async {
        let asked = line.ask(peer.request()).await;
        drop(line);
        asked
    };
    let (asked, ()) = tokio::join!(asked, drive);
    asked.map(|()| how)
}

/// A request that was not sent, or that the proxy says it has not looked at (RFC 9113, section 6.8), is not lost.
fn ending(error: hyper::Error) -> Failure {
    let told = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    let goes = told.is_some_and(|told| told.is_go_away() && told.reason() == Some(h2::Reason::NO_ERROR));
    match error.is_canceled() || goes {
        true => Failure::Closed,
        false => Failure::Broken(error),
    }
}
