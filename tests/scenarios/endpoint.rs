//! An upstream's endpoint that can be stopped, started, held and broken: over HTTP/1.1, HTTP/2 and TLS.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::HeaderMap;
use http::Request;
use http::Response;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::lab::within;
use crate::pki::Ca;

/// What an endpoint is like.
#[derive(Clone)]
pub(crate) struct Kind {
    tls: Option<TlsAcceptor>,
    http2: bool,
}

impl Kind {
    /// How its URL begins.
    pub(crate) fn scheme(&self) -> &'static str {
        match (&self.tls, self.http2) {
            (Some(_), _) => "https",
            (None, true) => "h2c",
            (None, false) => "http",
        }
    }

    /// `http://`.
    pub(crate) fn http() -> Self {
        Self { tls: None, http2: false }
    }

    /// `h2c://`.
    pub(crate) fn h2c() -> Self {
        Self { tls: None, http2: true }
    }

    /// `https://`, with a certificate of `ca`, for clients of `clients` only.
    pub(crate) fn https(ca: &Ca, clients: Option<&Ca>, http2: bool) -> Self {
        let (chain, key) = ca.server();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(ca.der.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        let protocol: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![protocol.to_vec()];
        Self { tls: Some(TlsAcceptor::from(Arc::new(config))), http2 }
    }
}

/// What an endpoint has seen, and how it behaves.
pub(crate) struct State {
    name: String,
    /// Method, target and headers of each request.
    pub(crate) seen: Mutex<Vec<(String, HeaderMap)>>,
    pub(crate) connections: AtomicUsize,
    /// What `/healthz` answers.
    pub(crate) health: AtomicU16,
    /// What `/hold` waits for.
    held: Semaphore,
    pub(crate) waiting: AtomicUsize,
}

/// An endpoint.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    kind: Kind,
    task: Option<AbortHandle>,
    /// Bound beside the listener: while that is gone, nobody else gets its port.
    _held: TcpSocket,
}

impl Endpoint {
    /// One that answers with its name; `/hold` when it is released, `/break` never: it breaks off.
    pub(crate) async fn start(name: &str, kind: Kind) -> Self {
        let held = TcpSocket::new_v4().unwrap();
        held.set_reuseaddr(true).unwrap();
        held.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = TcpListener::bind(held.local_addr().unwrap()).await.unwrap();
        let state = Arc::new(State {
            name: name.to_owned(),
            seen: Mutex::default(),
            connections: AtomicUsize::default(),
            health: AtomicU16::new(200),
            held: Semaphore::new(0),
            waiting: AtomicUsize::default(),
        });
        let mut endpoint =
            Self { address: listener.local_addr().unwrap(), state, kind, task: None, _held: held };
        endpoint.serve(listener);
        endpoint
    }

    fn serve(&mut self, listener: TcpListener) {
        let (kind, state) = (self.kind.clone(), Arc::clone(&self.state));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                state.connections.fetch_add(1, Ordering::SeqCst);
                let (kind, state) = (kind.clone(), Arc::clone(&state));
                connections.spawn(welcome(socket, kind, state));
            }
        });
        self.task = Some(task.abort_handle());
    }

    /// Ends it, with all of its connections.
    pub(crate) fn stop(&mut self) {
        self.task.take().unwrap().abort();
    }

    /// Starts it again, where it was.
    pub(crate) async fn resume(&mut self) {
        let bound = async {
            loop {
                match TcpListener::bind(self.address).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        };
        let listener = within(bound).await;
        self.serve(listener);
    }

    /// Requests so far, but for those that ask how it is.
    pub(crate) fn count(&self) -> usize {
        self.state.seen.lock().unwrap().iter().filter(|(line, _)| !line.contains("/healthz")).count()
    }

    /// Lets so many of those that wait at `/hold` go.
    pub(crate) fn release(&self, count: usize) {
        self.state.held.add_permits(count);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state.waiting.load(Ordering::SeqCst)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Clone)]
struct Spawn;

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Spawn {
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

async fn welcome(socket: TcpStream, kind: Kind, state: Arc<State>) {
    let Some(tls) = kind.tls else {
        return speak(socket, kind.http2, state).await;
    };
    if let Ok(stream) = tls.accept(socket).await {
        speak(stream, kind.http2, state).await;
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    http2: bool,
    state: Arc<State>,
) {
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    // How it ends is what the tests look at, from the other side.
    if http2 {
        let _ = http2::Builder::new(Spawn).serve_connection(TokioIo::new(stream), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, BrokenOff> {
    let line = format!("{} {}", request.method(), request.uri());
    state.seen.lock().unwrap().push((line, request.headers().clone()));
    let path = request.uri().path().to_owned();
    let _ = request.into_body().collect().await;
    match path.as_str() {
        "/break" => return Err(BrokenOff),
        "/hold" => {
            state.waiting.fetch_add(1, Ordering::SeqCst);
            state.held.acquire().await.unwrap().forget();
            state.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        "/healthz" => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = state.health.load(Ordering::SeqCst).try_into().unwrap();
            return Ok(response);
        }
        _ => {}
    }
    Ok(Response::new(Full::new(state.name.clone().into())))
}

#[derive(Debug, thiserror::Error)]
#[error("broken off")]
struct BrokenOff;
