//! A fleet: so many gates, what is behind them, and everything on disk that they need.

use std::fs;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use rustls::sign::SigningKey;
use rustls::sign::SingleCertAndKey;
use tempfile::TempDir;

use super::Error;
use super::Mode;
use super::Options;
use super::gate::Gate;
use crate::app;
use crate::clock::Clock;
use crate::config::Config;
use crate::rig::pki::Issued;
use crate::rig::pki::Pki;
use crate::rig::pki::SharedKey;
use crate::rig::pki::TRUST_DOMAIN;
use crate::rig::pki::serial;
use crate::rig::pki::spiffe_id;
use crate::rig::upstream::Upstream;

const ADMIN: &str = "admin/ops";
/// TLS sessions that a client keeps: a gate gives two tickets.
const SESSIONS: usize = 4;

/// Everything that is made once: a directory, a PKI and a list in it, a sample upstream.
pub(super) struct Site {
    directory: TempDir,
    pki: Pki,
    key: SharedKey,
    signing: Arc<dyn SigningKey>,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    /// What the list holds from the start.
    serials: Vec<[u8; 16]>,
    pub(super) upstream: Upstream,
}

/// Where each gate has its revocations from, as its configuration says it.
pub(super) enum Source<'a> {
    /// From its administrators, and at the start from the list.
    Calls,
    /// From a queue, at this URL and endpoint.
    Queue(&'a str, Option<&'a str>),
    /// From the list, which is looked at so often.
    List(Duration),
}

impl Site {
    /// Makes it; `entries` are put on the list.
    pub(super) fn create(entries: u64) -> Result<Self, Error> {
        let directory = tempfile::Builder::new()
            .prefix("portcullis-bench-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|e| Error::System("cannot make a temporary directory", e))?;
        let pki = Pki::create(directory.path(), Clock::system().now())?;
        pki.server()?;
        let key = SharedKey::generate()?;
        let signing = aws_lc_rs::sign::any_supported_type(&key.der()).map_err(Error::Tls)?;
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_file(pki.ca())
            .map_err(|e| Error::System("cannot read the authority's certificate", io::Error::other(e)))?;
        roots.add(root).map_err(Error::Tls)?;
        let upstream =
            Upstream::start(0).map_err(|e| Error::System("cannot start the sample upstream", e))?;
        // Nobody asks what it served.
        upstream.take_served("");
        let site = Self {
            directory,
            pki,
            key,
            signing,
            provider: Arc::new(aws_lc_rs::default_provider()),
            roots: Arc::new(roots),
            serials: (0..entries).map(|_| serial()).collect(),
            upstream,
        };
        site.publish(1, &[])?;
        Ok(site)
    }

    /// Issues a certificate for `path` in the trust domain.
    pub(super) fn issue(&self, path: &str) -> Result<Issued, Error> {
        Ok(self.pki.client_in_memory(path, &self.key)?)
    }

    /// A client with this certificate, which speaks `protocol` (ALPN) and resumes its TLS sessions.
    pub(super) fn client(&self, issued: &Issued, protocol: &[u8]) -> Result<ClientConfig, Error> {
        let own = CertifiedKey::new(vec![issued.certificate.clone()], Arc::clone(&self.signing));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let mut tls = builder
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        tls.alpn_protocols = vec![protocol.to_vec()];
        tls.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(tls)
    }

    /// The administrator's.
    pub(super) fn administrator(&self) -> Result<Arc<ClientConfig>, Error> {
        self.client(&self.issue(ADMIN)?, b"h2").map(Arc::new)
    }

    /// How many entries the list holds from the start.
    pub(super) fn entries(&self) -> u64 {
        self.serials.len() as u64
    }

    /// Signs the list with `more` beside what it holds from the start, and puts it where the gates look. Blocks.
    pub(super) fn publish(&self, number: u64, more: &[[u8; 16]]) -> Result<(), Error> {
        let serials = [&self.serials, more].concat();
        let list = self.pki.revocation_list(number, &serials, Clock::system().now())?;
        let file = self.directory.path().join("entries.crl");
        let next = file.with_extension("next");
        let written = fs::write(&next, &list).and_then(|()| fs::rename(&next, &file));
        written.map_err(|e| Error::System("cannot write the revocation list", e))
    }

    /// A directory of its own for one gate, with its configuration.
    fn prepare(&self, name: &str, source: &Source<'_>, mode: Mode) -> Result<PathBuf, Error> {
        let directory = self.directory.path().join(name);
        let text = self.config(source, mode);
        let made = fs::create_dir(&directory).and_then(|()| fs::write(directory.join("gate.toml"), &text));
        made.map_err(|e| Error::System("cannot write a configuration", e))?;
        let config = Config::parse(&directory.join("gate.toml"), text, &[]).map_err(app::Error::from)?;
        app::init_state(&config, &Clock::system())?;
        Ok(directory)
    }

    fn config(&self, source: &Source<'_>, mode: Mode) -> String {
        let (administrator, upstream) = (spiffe_id(ADMIN), self.upstream.address());
        let list = self.directory.path().join("entries.crl");
        let list = format!("url = \"file://{}\"\nrequired = true", list.display());
        let feed = match source {
            Source::List(interval) => {
                let (interval, age) = (interval.as_millis(), interval.as_millis() + 3_600_000);
                format!("[[feed.crl]]\n{list}\ninterval = \"{interval}ms\"\nmax_age = \"{age}ms\"\n")
            }
            _ if self.serials.is_empty() => String::new(),
            _ => format!("[[feed.crl]]\n{list}\ninterval = \"1day\"\nmax_age = \"2days\"\n"),
        };
        let queue = match source {
            Source::Queue(url, endpoint) => {
                let endpoint = endpoint.map(|endpoint| format!("endpoint = \"{endpoint}\"\n"));
                format!("[feed.sqs]\nqueue_url = \"{url}\"\n{}", endpoint.unwrap_or_default())
            }
            _ => String::new(),
        };
        let mode = mode.name();
        format!(
            r#"[gate]
listen = "127.0.0.1:0"
mode = "{mode}"
drain = "1s"
[gate.tls]
cert = "../server.pem"
key = "../server.key"
client_ca = ["../ca.pem"]
[identity]
trust_domains = ["{TRUST_DOMAIN}"]
templates = ["spiffe://{{trust_domain}}/agent/{{agent}}"]
claim = {{ header = "x-agent-id", optional = true }}
[[route]]
upstream = ["http://{upstream}"]
[admin]
listen = "127.0.0.1:0"
allow = ["{administrator}"]
limits = {{ calls_per_second = 100000, burst = 100000 }}
[metrics]
listen = "127.0.0.1:0"
[state]
dir = "state"
[log]
format = "json"
{feed}{queue}"#
        )
    }
}

/// Gates that run.
pub(super) struct Fleet {
    pub(super) gates: Vec<Gate>,
}

impl Fleet {
    /// Starts a gate for each source, and waits until all are ready.
    pub(super) async fn start(
        site: &Site,
        options: &Options,
        sources: &[Source<'_>],
        own: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let mut gates = Vec::new();
        let all = sources.len();
        for (number, source) in sources.iter().enumerate() {
            let directory = site.prepare(&format!("{number}-of-{all}"), source, options.mode)?;
            gates.push(Gate::spawn(number, &options.portcullis, directory, own)?);
        }
        let ready = join_all(gates.iter_mut().map(Gate::ready)).await;
        ready.into_iter().collect::<Result<Vec<()>, Error>>()?;
        Ok(Self { gates })
    }

    /// The processor time that all have used, seconds.
    pub(super) fn processor(&self) -> f64 {
        self.gates.iter().map(Gate::processor).sum()
    }

    /// The most that one has in memory, bytes.
    pub(super) fn memory(&self) -> u64 {
        self.gates.iter().map(Gate::memory).max().unwrap_or_default()
    }

    /// What the journals took for each commit.
    pub(super) fn commits(&self) -> Vec<Duration> {
        self.gates.iter().flat_map(Gate::commits).collect()
    }

    /// Whether all still run.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        self.gates.iter_mut().try_for_each(Gate::check)
    }

    /// Ends all.
    pub(super) async fn end(self) {
        join_all(self.gates.into_iter().map(Gate::end)).await;
    }
}
