//! Where a list may be: behind TLS, behind a password, in a file.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis::feed::fetch::Bounds;
use portcullis::feed::fetch::Fetched;
use portcullis::feed::fetch::Fetcher;
use portcullis::feed::fetch::Roots;
use portcullis::feed::fetch::Url;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::server::Reply;
use crate::server::Server;

const BOUNDS: Bounds = Bounds { max_bytes: 100, timeout: Duration::from_secs(10), redirects: 3 };

async fn get(fetcher: &Fetcher, url: &str) -> Result<Vec<u8>, String> {
    match fetcher.get(&Url::parse(url).unwrap(), None).await {
        Ok(Fetched::Body { bytes, .. }) => Ok(bytes.to_vec()),
        Ok(Fetched::Unchanged) => panic!("unchanged"),
        Err(error) => Err(error.to_string()),
    }
}

/// A server behind TLS that says `a list`, or hangs up in the middle of it.
async fn behind_tls(key: &rcgen::CertifiedKey<rcgen::KeyPair>, reply: &'static [u8]) -> SocketAddr {
    let chain = vec![key.cert.der().clone()];
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(reply).await;
            let _ = stream.flush().await;
            // Without close_notify: the connection is cut.
        }
    });
    address
}

#[tokio::test]
async fn a_server_is_who_it_must_be() {
    let directory = tempfile::tempdir().unwrap();
    let authority = || {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
    };
    let authorities = [authority(), authority()];
    let keys = authorities.each_ref().map(|authority| {
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let signing_key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertifiedKey { cert: params.signed_by(&signing_key, authority).unwrap(), signing_key }
    });
    let files = [0, 1].map(|i| {
        let file = directory.path().join(format!("{i}.pem"));
        fs::write(&file, authorities[i].pem()).unwrap();
        file
    });
    let whole = behind_tls(&keys[0], b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\na list").await;
    let [right, wrong] = files.each_ref().map(|file| Fetcher::new(Roots::File(file), BOUNDS).unwrap());
    let (named, literal) =
        (format!("https://localhost:{}/", whole.port()), format!("https://127.0.0.1:{}/", whole.port()));
    assert_eq!(get(&right, &named).await.unwrap(), b"a list");
    assert!(get(&wrong, &named).await.unwrap_err().contains("TLS: invalid peer certificate"));
    assert!(get(&right, &literal).await.unwrap_err().contains("TLS: invalid peer certificate"));
    let nobody = Fetcher::new(Roots::Nobody, BOUNDS).unwrap();
    assert!(get(&nobody, &named).await.unwrap_err().contains("TLS"));
    // A body without a length ends with the connection, which must end well.
    let cut = behind_tls(&keys[0], b"HTTP/1.1 200 OK\r\n\r\na li").await;
    let why = get(&right, &format!("https://localhost:{}/", cut.port())).await.unwrap_err();
    assert!(why.contains("without sending TLS close_notify"), "{why}");
    assert!(Fetcher::new(Roots::System, BOUNDS).is_ok());
    // Seen failing with any certificate taken for an authority.
    let own = directory.path().join("own.pem");
    fs::write(&own, format!("{}{}", authorities[0].pem(), keys[0].cert.pem())).unwrap();
    let refused = Fetcher::new(Roots::File(&own), BOUNDS).unwrap_err();
    assert!(refused.contains("own.pem: certificate 2: not the certificate of an authority"), "{refused}");
}

#[tokio::test]
async fn credentials_go_to_their_server_only_and_into_no_message() {
    let (server, other) = (Server::start(), Server::start());
    let fetcher = Fetcher::new(Roots::Nobody, BOUNDS).unwrap();
    server.says("/a", Reply::redirect("/b"));
    server.says("/b", Reply::redirect(&other.url("/c")));
    let url = server.url("/a?token=s3cret").replace("http://", "http://reader:s3cret@");
    server.says("/a?token=s3cret", Reply::redirect("/b"));
    let why = get(&fetcher, &url).await.unwrap_err();
    assert!(!why.contains("s3cret") && why.contains("/a?...") && why.contains("/c: status 404"), "{why}");
    let basic = "authorization: basic cmvhzgvyonmzy3jlda==";
    assert!(server.asked("/a?token=s3cret").unwrap().contains(basic));
    assert!(server.asked("/b").unwrap().contains(basic));
    assert!(!other.asked("/c").unwrap().contains("authorization"));
}

#[tokio::test]
async fn a_file_is_a_regular_one_and_within_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let fetcher = Fetcher::new(Roots::Nobody, BOUNDS).unwrap();
    let url = |name: &str| format!("file://{}/{name}", directory.path().display());
    fs::write(directory.path().join("good file"), [7; 100]).unwrap();
    fs::write(directory.path().join("large"), [7; 101]).unwrap();
    let pipe = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(get(&fetcher, &url("good%20file")).await.unwrap(), [7; 100]);
    assert!(get(&fetcher, &url("large")).await.unwrap_err().contains("over 100 bytes"));
    for odd in ["", "pipe"] {
        assert!(get(&fetcher, &url(odd)).await.unwrap_err().contains("not a regular file"));
    }
    assert!(get(&fetcher, "file:///dev/zero").await.unwrap_err().contains("not a regular file"));
    assert!(get(&fetcher, &url("missing")).await.unwrap_err().contains("cannot read it"));
}

/// Seen failing where any date was taken for a name: what was changed twice in a second stayed unseen.
#[tokio::test]
async fn a_date_names_only_what_has_been_there_for_a_while() {
    let (server, fetcher) = (Server::start(), Fetcher::new(Roots::Nobody, BOUNDS).unwrap());
    let url = Url::parse(&server.url("/a")).unwrap();
    let changed = "Sun, 22 Nov 2026 10:00:00 GMT";
    for (sent, is_named) in [
        (Some("Sun, 22 Nov 2026 10:00:00 GMT"), false),
        (Some("Sun, 22 Nov 2026 10:00:01 GMT"), false),
        (Some("Sun, 22 Nov 2026 10:00:02 GMT"), true),
        (Some("Sun, 22 Nov 2026 09:00:00 GMT"), false),
        (Some("yesterday"), false),
        (None, false),
    ] {
        let date = sent.map(|sent| ("date", sent));
        let headers: Vec<_> = date.into_iter().chain([("last-modified", changed)]).collect();
        server.says("/a", Reply::with("200 OK", &headers, b"a list"));
        let Ok(Fetched::Body { validators, .. }) = fetcher.get(&url, None).await else { panic!("{sent:?}") };
        assert_eq!(validators.last_modified.as_deref(), Some(changed).filter(|_| is_named), "{sent:?}");
        let _ = fetcher.get(&url, Some(&validators)).await.unwrap();
        assert_eq!(server.asked("/a").unwrap().contains("if-modified-since: sun, 22 nov"), is_named);
    }
}
