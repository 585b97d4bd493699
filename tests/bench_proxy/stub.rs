//! A TLS server with the manners of other proxies.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header::CONNECTION;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::NoServerSessionStorage;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// A test that waits longer for anything has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// How it behaves.
#[derive(Clone, Copy)]
pub(crate) struct Manners {
    pub(crate) resumes: bool,
    pub(crate) http2: bool,
    /// Every so manieth request, of all, is answered with 500.
    pub(crate) fails_every: Option<u64>,
    /// Every so manieth answer, of all, is the last on its connection.
    pub(crate) closes_every: Option<u64>,
    /// What it takes over the certificate of a client, of one after the other.
    pub(crate) ponders: Duration,
}

impl Default for Manners {
    fn default() -> Self {
        Self { resumes: true, http2: true, fails_every: None, closes_every: None, ponders: Duration::ZERO }
    }
}

/// A running one, on a thread of its own. Dropping it ends it.
pub(crate) struct Stub {
    address: SocketAddr,
    served: Arc<Served>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Served {
    count: Mutex<u64>,
    more: Condvar,
    /// Connections on which something was answered.
    connections: AtomicU64,
    /// Held by whoever looks at a certificate.
    turn: tokio::sync::Mutex<()>,
}

impl Stub {
    /// Starts one with the server's files and the authority in `directory`.
    pub(crate) fn start(directory: &Path, manners: Manners) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let tls = TlsAcceptor::from(Arc::new(config(directory, manners)));
        let served = Arc::new(Served::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let all = Arc::clone(&served);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let accept = async {
                    loop {
                        let (tcp, _) = listener.accept().await.unwrap();
                        tokio::spawn(serve(tls.clone(), tcp, manners, Arc::clone(&all)));
                    }
                };
                tokio::select! {
                    _ = stopped => {}
                    () = accept => {}
                }
            });
        });
        Self { address, served, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests it has answered.
    pub(crate) fn served(&self) -> u64 {
        *self.served.count.lock().unwrap()
    }

    /// Over how many connections.
    pub(crate) fn connections(&self) -> u64 {
        self.served.connections.load(Ordering::Relaxed)
    }

    /// Waits until it has answered so many.
    pub(crate) fn wait_for(&self, count: u64) {
        let waiting = self.served.count.lock().unwrap();
        let waited = self.served.more.wait_timeout_while(waiting, PATIENCE, |served| *served < count);
        assert!(!waited.unwrap().1.timed_out());
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn config(directory: &Path, manners: Manners) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("ca.pem")).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let chain = vec![CertificateDer::from_pem_file(directory.join("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap();
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_client_cert_verifier(verifier.build().unwrap());
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if manners.http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    if !manners.resumes {
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    config
}

async fn serve(tls: TlsAcceptor, tcp: TcpStream, manners: Manners, served: Arc<Served>) {
    tcp.set_nodelay(true).unwrap();
    // Who asks whether somebody listens says nothing.
    let Ok(stream) = tls.accept(tcp).await else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    {
        let _turn = served.turn.lock().await;
        sleep(manners.ponders).await;
    }
    let first = AtomicBool::new(true);
    let service = service_fn(|request: Request<Incoming>| {
        served.connections.fetch_add(u64::from(first.swap(false, Ordering::Relaxed)), Ordering::Relaxed);
        let response = answer(&request, manners, &served);
        async move { Ok::<_, Infallible>(response) }
    });
    // Its client closes when it has measured for long enough.
    if http2 {
        let _ =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

fn answer(request: &Request<Incoming>, manners: Manners, served: &Served) -> Response<Full<Bytes>> {
    let count = {
        let mut count = served.count.lock().unwrap();
        *count += 1;
        *count
    };
    served.more.notify_all();
    let mut response = Response::new(Full::from("0123456789"));
    if manners.fails_every.is_some_and(|every| count.is_multiple_of(every)) {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    if manners.closes_every.is_some_and(|every| count.is_multiple_of(every))
        && request.version() == http::Version::HTTP_11
    {
        response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("close"));
    }
    response
}
