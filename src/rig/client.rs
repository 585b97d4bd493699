//! A TLS client with a certificate: HTTP/1.1 and HTTP/2 over one connection, as a peer of the gate uses it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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
            Some((
                chain,
                PrivateKeyDer::from_pem_file(key).map_err(|e| failed(key, &e))?,
            ))
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
    match timeout(
        CONNECT,
        TlsConnector::from(Arc::clone(config)).connect(server, tcp),
    )
    .await
    {
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
    let broken = |e: &dyn std::fmt::Display| ClientError::Broken(address.to_string(), e.to_string());
    let stream = connect(config, address, name).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broken(&e))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| broken(&e))?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    let drive = async {
        // How it ended is seen by the exchange.
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        answer = exchange => answer,
        never = drive => never,
    }
}
