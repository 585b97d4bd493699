//! Connections to an endpoint: TCP, TLS where it says so, HTTP/1.1 or HTTP/2.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use rustls::AlertDescription;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Endpoint;
use super::Protocol;
use super::UpstreamError;
use super::UpstreamTls;
use crate::identity::ServerTrust;
use crate::proxy::TlsError;
use crate::proxy::body::Beginning;
use crate::proxy::body::RequestBody;
use crate::proxy::reset::ResetHandle;
use crate::proxy::reset::Wire;
use crate::proxy::socket::Tcp;
use crate::proxy::tls;

/// How often an HTTP/2 connection with requests under way is asked whether it is still there.
const PING: Duration = Duration::from_secs(20);
/// An HTTP/1.1 answer's header at most, and what is read of it at once, bytes. An upstream that sends interim answers
/// without end has the thread for no longer than it takes to read so many of them.
const HEADER: usize = 64 << 10;
/// What of one answer may lie here unread. The connection's window is as wide as those of all its streams, or clients
/// that do not read would close it for the others.
const WINDOW: u32 = 256 * 1024;

/// What a connection is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Requests.
    Requests,
    /// One request that may become a tunnel: HTTP/1.1.
    Tunnel,
}

/// TLS towards endpoints.
#[derive(Clone)]
pub(super) struct Tls {
    any: TlsConnector,
    http1: TlsConnector,
    /// The name that certificates must be for, if not the endpoint's host.
    name: Option<ServerName<'static>>,
}

impl Tls {
    pub(super) fn load(config: &UpstreamTls) -> Result<Self, TlsError> {
        let name = config.name.clone().map(|name| {
            let parsed = ServerName::try_from(name.clone());
            parsed.map_err(|e| tls::failure("name", name.as_ref(), &e))
        });
        let name = name.transpose()?;
        let failed = |e| tls::failure("cert", config.cert.as_deref().unwrap_or("cert".as_ref()), &e);
        let provider = Arc::new(tls::provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let builder = match &config.ca {
            Some(file) => {
                let trust = ServerTrust::new(&tls::certificates(file, "ca")?, provider);
                let trust = trust.map_err(|e| tls::failure("ca", file, &e))?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(trust))
            }
            None => builder.with_root_certificates(system_roots()?),
        };
        let mut secured = match (&config.cert, &config.key) {
            (Some(cert), Some(key)) => {
                let chain = tls::certificates(cert, "cert")?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|e| tls::failure("key", key, &tls::pem_reason(&e)))?;
                builder.with_client_auth_cert(chain, secret).map_err(|e| tls::unfit_key(key, cert, &e))?
            }
            _ => builder.with_no_client_auth(),
        };
        let mut plain = secured.clone();
        plain.alpn_protocols = vec![b"http/1.1".to_vec()];
        secured.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { any: Arc::new(secured).into(), http1: Arc::new(plain).into(), name })
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    match roots.add_parsable_certificates(found.certs).0 {
        0 => Err(tls::failure("ca", "the system's authorities".as_ref(), &"none found: name a `ca`")),
        _ => Ok(roots),
    }
}

/// A way to one endpoint.
pub(super) struct Connector {
    pub(super) endpoint: Endpoint,
    tls: Option<Tls>,
    streams: usize,
}

/// A connection that takes requests, and what ends it.
pub(super) struct Connected {
    pub(super) sender: Sender,
    pub(super) wire: Wire,
}

/// The end of a connection that takes requests.
pub(super) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>, Multiplexed),
}

/// What is to know of an HTTP/2 connection.
pub(super) struct Multiplexed {
    /// Where it learns whose body it is about to send.
    pub(super) beginning: Beginning,
    /// Streams that the endpoint allows at once (RFC 9113, section 5.1.2). More would wait where nobody counts them.
    pub(super) most: Rc<Cell<usize>>,
    /// Its end was counted against the endpoint.
    pub(super) blamed: Cell<bool>,
}

impl Connector {
    pub(super) fn new(endpoint: Endpoint, tls: Option<Tls>, streams: usize) -> Self {
        let tls = tls.filter(|_| endpoint.is_secured());
        Self { endpoint, tls, streams }
    }

    /// Connects in time; `open` is dropped with the connection.
    pub(super) async fn connect<T: 'static>(
        &self,
        wanted: Wanted,
        limit: Duration,
        open: T,
    ) -> Result<Connected, UpstreamError> {
        if wanted == Wanted::Tunnel && self.endpoint.protocol == Protocol::H2c {
            return Err(UpstreamError::NoTunnel(self.endpoint.to_string()));
        }
        match timeout(limit, self.establish(wanted, open)).await {
            Ok(connected) => connected,
            Err(_) => Err(UpstreamError::ConnectTimeout(self.endpoint.to_string())),
        }
    }

    async fn establish<T: 'static>(&self, wanted: Wanted, open: T) -> Result<Connected, UpstreamError> {
        let failed = |e| UpstreamError::Connect(self.endpoint.to_string(), e);
        let stream =
            TcpStream::connect((self.endpoint.host(), self.endpoint.port())).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let handle = ResetHandle::of(&stream).map_err(failed)?;
        let stream = Tcp::resettable(stream, handle.clone());
        let Some(tls) = &self.tls else {
            let http2 = self.endpoint.protocol == Protocol::H2c;
            let (sender, task) = self.speak(stream, http2, open).await?;
            return Ok(Connected { sender, wire: Wire::new(task, handle) });
        };
        let name = match &tls.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(self.endpoint.host().to_owned())
                .map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidInput, e)))?,
        };
        let connector = if wanted == Wanted::Tunnel { &tls.http1 } else { &tls.any };
        let stream = Box::new(connector.connect(name, stream).await.map_err(|e| {
            let http2_only = wanted == Wanted::Tunnel && is_no_protocol(&e);
            if http2_only { UpstreamError::NoTunnel(self.endpoint.to_string()) } else { failed(e) }
        })?);
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let (sender, task) = self.speak(stream, http2, open).await?;
        Ok(Connected { sender, wire: Wire::new(task, handle) })
    }

    async fn speak<S, T>(
        &self,
        stream: S,
        http2: bool,
        open: T,
    ) -> Result<(Sender, AbortHandle), UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: 'static,
    {
        let failed = |e| UpstreamError::Broken(self.endpoint.to_string(), e);
        let stream = TokioIo::new(stream);
        // How a connection ended is seen by the requests that ran over it.
        if http2 {
            let beginning = Beginning::default();
            let all = u32::try_from(self.streams).unwrap_or(u32::MAX).saturating_mul(WINDOW);
            let shaken = http2::Builder::new(Local(Rc::clone(&beginning)))
                .timer(TokioTimer::new())
                .keep_alive_interval(PING)
                .keep_alive_timeout(PING)
                .initial_max_send_streams(self.streams)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(all.min(i32::MAX.cast_unsigned()))
                .handshake(stream)
                .await;
            let (mut sender, connection) = shaken.map_err(failed)?;
            let most = Rc::new(Cell::new(self.streams));
            let (mut connection, told) = (Box::pin(connection), Rc::clone(&most));
            let task = spawn_local(async move {
                let driven = std::future::poll_fn(|cx| {
                    let ended = connection.as_mut().poll(cx);
                    told.set(connection.current_max_send_streams());
                    ended
                });
                let _ = driven.await;
                drop(open);
            });
            sender.ready().await.map_err(failed)?;
            let sender = Sender::Http2(sender, Multiplexed { beginning, most, blamed: Cell::new(false) });
            return Ok((sender, task.abort_handle()));
        }
        let shaken = http1::Builder::new().max_buf_size(HEADER).handshake(stream).await;
        let (mut sender, connection) = shaken.map_err(failed)?;
        let task = spawn_local(async move {
            let _ = connection.with_upgrades().await;
            drop(open);
        });
        sender.ready().await.map_err(failed)?;
        Ok((Sender::Http1(sender), task.abort_handle()))
    }
}

/// Whether a handshake failed because the endpoint speaks none of the protocols that it was offered.
fn is_no_protocol(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    tls == Some(&rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol))
}

/// Runs what belongs to an HTTP/2 connection on its thread.
///
/// hyper asks a request's body once, then hands over the task that sends it. That one ends with its request: one that
/// waits for an upstream to take more would never ask the body again, and keep the stream open with what it holds.
#[derive(Clone)]
struct Local(Beginning);

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        match self.0.take() {
            None => drop(spawn_local(future)),
            Some(sent) => drop(spawn_local(async move {
                tokio::select! {
                    biased;
                    () = sent.abandoned() => {}
                    () = future => {}
                }
            })),
        }
    }
}
