//! One small client for what feeds read elsewhere: GET over `https:`, `http:` and `file:`.
//!
//! **Invariants:** an answer comes from its source now, never from a cache; it is whole, or it is an error; it is
//! bounded in bytes, compressed and not, and in time; nothing leads it to another scheme, to the link-local addresses
//! where clouds keep credentials, from elsewhere into this machine, or from outside into a private network; and what a
//! URL says before its `@` is never shown.
//!
//! Each request has a connection of its own, to an address that was looked up and judged for it: between two looks at
//! a list nothing of a connection would be alive anyway.

mod address;
mod exchange;
mod url;

use std::io;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde::Serialize;
use tokio::task::spawn_blocking;

use address::Reach;
use exchange::Answer;
use url::Place;
pub use url::Url;
pub use url::UrlError;
use url::Web;

use crate::identity::ServerTrust;

/// How much an answer may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most bytes, as they are sent and as they are after they were decompressed.
    pub max_bytes: usize,
    /// From the lookup of the name to the last byte.
    pub timeout: Duration,
    /// How often it may be sent elsewhere.
    pub redirects: usize,
}

/// Whom an `https:` server's certificate may be of.
#[derive(Clone, Copy, Debug)]
pub enum Roots<'a> {
    /// The system's authorities.
    System,
    /// Those in this file (PEM).
    File(&'a Path),
    /// Nobody, for who asks no `https:` server.
    Nobody,
}

/// What tells one version of a document from the next (RFC 9110, section 8.8), as its server said it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validators {
    /// `ETag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// `Last-Modified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

impl Validators {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// What came of a request.
#[derive(Debug)]
pub enum Fetched {
    /// It is what the validators belong to.
    Unchanged,
    /// The document, decompressed, in whole.
    Body {
        /// Its bytes.
        bytes: Bytes,
        /// What to ask with the next time.
        validators: Validators,
    },
}

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
#[error("{url}{}: {fault}", sent_to.as_ref().map(|to| format!(", which leads to {to}")).unwrap_or_default())]
pub struct Error {
    /// What was asked, without credentials.
    pub url: String,
    /// Where a redirect led from there.
    pub sent_to: Option<String>,
    /// Why nothing came of it.
    pub fault: Fault,
}

/// What went wrong. Text of the server is escaped and cut.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    File(io::Error),
    /// A directory, a pipe, a device.
    #[error("not a regular file")]
    NotAFile,
    /// The name cannot be looked up.
    #[error("cannot look up `{host}`: {error}")]
    Lookup {
        /// The name.
        host: String,
        /// Why.
        error: io::Error,
    },
    /// An address where no feed may be.
    #[error("its address {0} is link-local, or one where clouds keep credentials: refused")]
    LinkLocal(IpAddr),
    /// It was sent from elsewhere to this machine.
    #[error("it leads from elsewhere to {0}, on this machine: refused")]
    Loopback(IpAddr),
    /// It was sent from outside into a private network.
    #[error(
        "it leads from a public address to {0}, a private one: refused; if that is meant, configure that place"
    )]
    Private(IpAddr),
    /// Nobody answers there.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The server is not who it must be.
    #[error("TLS: {0}")]
    Tls(String),
    /// What it said is no HTTP, or ended too early.
    #[error("{0}")]
    Http(String),
    /// It took too long.
    #[error("not complete after {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// An answer that holds nothing.
    #[error("status {status}")]
    Status {
        /// Its status.
        status: http::StatusCode,
        /// The beginning of its body.
        body: Bytes,
    },
    /// "Not modified" to a question that named nothing.
    #[error("status 304, although nothing was said to be known")]
    NothingKnown,
    /// A redirect without a place.
    #[error("a redirect to nowhere that can be understood: {0}")]
    Redirect(String),
    /// A redirect from `https:` to `http:`, to `file:` and the like.
    #[error("a redirect to another scheme, `{0}`: refused")]
    Scheme(String),
    /// It is sent round and round.
    #[error("more than {0} redirects")]
    Redirects(usize),
    /// A compression that was not asked for.
    #[error("content-encoding `{0}`: not supported, and not asked for")]
    Encoding(String),
    /// It says that it is compressed, and is not, or not in whole.
    #[error("it cannot be decompressed: {0}")]
    Gzip(io::Error),
    /// More bytes than are read.
    #[error("over {0} bytes")]
    TooLarge(usize),
    /// More bytes than are read, once decompressed.
    #[error("over {0} bytes when decompressed")]
    Bomb(usize),
    /// The process ends.
    #[error("given up: {0}")]
    GivenUp(String),
}

/// Fetches within bounds.
#[derive(Clone, Debug)]
pub struct Fetcher {
    tls: Arc<ClientConfig>,
    bounds: Bounds,
}

impl Fetcher {
    /// One that believes these roots; reads their file.
    pub fn new(roots: Roots<'_>, bounds: Bounds) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let builder = match roots {
            Roots::System => builder.with_root_certificates(system_roots()?),
            Roots::File(file) => {
                let trust = Arc::new(read_roots(file, provider)?);
                builder.dangerous().with_custom_certificate_verifier(trust)
            }
            Roots::Nobody => builder.with_root_certificates(RootCertStore::empty()),
        };
        Ok(Self { tls: Arc::new(builder.with_no_client_auth()), bounds })
    }

    /// Fetches a document, if it is not still the one that `known` belongs to. A file is read each time.
    pub async fn get(&self, url: &Url, known: Option<&Validators>) -> Result<Fetched, Error> {
        let fetching = async {
            match &url.place {
                Place::File(path) => {
                    self.read_file(path.clone()).await.map_err(|fault| url.error(None, fault))
                }
                Place::Web(web) => {
                    let mut at = web.clone();
                    let fetched = self.follow(&mut at, known.filter(|known| !known.is_empty())).await;
                    let sent_to = (at != *web).then_some(at);
                    fetched.map_err(|fault| url.error(sent_to.as_ref(), fault))
                }
            }
        };
        let timeout = self.bounds.timeout;
        match tokio::time::timeout(timeout, fetching).await {
            Ok(fetched) => fetched,
            Err(_) => Err(url.error(None, Fault::Timeout(timeout))),
        }
    }

    async fn follow(&self, at: &mut Web, known: Option<&Validators>) -> Result<Fetched, Fault> {
        let mut reach = Reach::Anywhere;
        for _ in 0..=self.bounds.redirects {
            match exchange::ask(self, at, reach, known).await? {
                Answer::Unchanged if known.is_none() => return Err(Fault::NothingKnown),
                Answer::Unchanged => return Ok(Fetched::Unchanged),
                Answer::Body { bytes, is_gzip, validators } => {
                    let bytes = if is_gzip { self.gunzip(bytes).await? } else { bytes };
                    return Ok(Fetched::Body { bytes, validators });
                }
                Answer::Moved { to, by } => {
                    *at = at.join(&to)?;
                    reach = reach.after(by);
                }
            }
        }
        Err(Fault::Redirects(self.bounds.redirects))
    }

    async fn read_file(&self, path: std::path::PathBuf) -> Result<Fetched, Fault> {
        let max = self.bounds.max_bytes;
        let bytes = blocking(move || {
            // Before it is opened: to open a pipe waits for who writes into it.
            if !std::fs::metadata(&path).map_err(Fault::File)?.is_file() {
                return Err(Fault::NotAFile);
            }
            let file = std::fs::File::open(&path).map_err(Fault::File)?;
            read_capped(file, max).map_err(Fault::File)?.ok_or(Fault::TooLarge(max))
        });
        Ok(Fetched::Body { bytes: bytes.await?, validators: Validators::default() })
    }

    async fn gunzip(&self, bytes: Bytes) -> Result<Bytes, Fault> {
        let max = self.bounds.max_bytes;
        blocking(move || {
            read_capped(MultiGzDecoder::new(&*bytes), max).map_err(Fault::Gzip)?.ok_or(Fault::Bomb(max))
        })
        .await
    }
}

async fn blocking(read: impl FnOnce() -> Result<Bytes, Fault> + Send + 'static) -> Result<Bytes, Fault> {
    spawn_blocking(read).await.unwrap_or_else(|error| Err(Fault::GivenUp(error.to_string())))
}

/// All that there is, if it is no more than `max` bytes.
pub(super) fn read_capped(from: impl io::Read, max: usize) -> io::Result<Option<Bytes>> {
    let mut bytes = Vec::new();
    from.take(u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= max).then(|| bytes.into()))
}

/// The authorities that the system believes. One that cannot be read leaves the others what they are.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let first = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
    if roots.is_empty() {
        Err(format!("the system has no authorities, name a file{first}"))
    } else {
        Ok(roots)
    }
}

fn read_roots(file: &Path, provider: Arc<CryptoProvider>) -> Result<ServerTrust, String> {
    let failed = |reason: String| format!("{}: {reason}", file.display());
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(failed("holds no certificate (PEM)".to_owned())),
        Ok(found) => ServerTrust::new(&found, provider).map_err(failed),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Text that somebody else wrote, for a log: one line of it, and not more than fits there.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(128).collect();
    short.escape_debug().to_string()
}
