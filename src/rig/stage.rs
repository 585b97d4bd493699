//! The stage of the demonstration: a throwaway PKI, a gate with its admin listener, a sample upstream; on loopback.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use tempfile::TempDir;

use super::client;
use super::client::ClientError;
use super::pki::Files;
use super::pki::Pki;
use super::pki::PkiError;
use super::pki::TRUST_DOMAIN;
use super::pki::spiffe_id;
use super::upstream::Upstream;
use crate::app;
use crate::app::Running;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::ConfigError;
use crate::revocation::Engine;

const ADMIN: &str = "admin/ops";
const UPSTREAM_PORT: u16 = 9000;
/// How often other ports are tried.
const ATTEMPTS: usize = 12;

/// Why there is no stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The PKI.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The configuration that it wrote for itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The gate.
    #[error(transparent)]
    App(#[from] app::Error),
    /// The system.
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
}

/// Everything that runs: the gate with its admin listener, the sample upstream, the PKI in its directory.
pub struct Stage {
    directory: TempDir,
    pki: Pki,
    admin: Files,
    upstream: Upstream,
    running: Running,
    admin_address: SocketAddr,
}

/// The ports that are asked for; 0 is any free one.
struct Ports {
    gate: u16,
    admin: u16,
    metrics: u16,
}

impl Stage {
    /// Makes the PKI, with a certificate for each of `agents`, and starts everything, on the usual ports or, where one is taken, on a free one.
    pub fn set(clock: &Clock, agents: &[&str]) -> Result<Self, StageError> {
        Self::set_with(clock, agents, &|_| {})
    }

    /// The same with a configuration that is changed before anything is started from it.
    pub fn set_with(
        clock: &Clock,
        agents: &[&str],
        change: &dyn Fn(&mut Config),
    ) -> Result<Self, StageError> {
        let directory = tempfile::Builder::new()
            .prefix("portcullis-demo-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|e| StageError::System("cannot make a temporary directory", e))?;
        let pki = Pki::create(directory.path(), clock.now())?;
        pki.server()?;
        let admin = pki.client("admin", ADMIN)?;
        for agent in agents {
            pki.client(agent, &format!("agent/{agent}"))?;
        }
        let upstream = Upstream::start(UPSTREAM_PORT)
            .map_err(|e| StageError::System("cannot start the sample upstream", e))?;
        let running = start(directory.path(), upstream.address(), clock, change)?;
        let admin_address = running
            .admin
            .ok_or_else(|| StageError::System("no admin listener", io::ErrorKind::AddrNotAvailable.into()))?;
        Ok(Self { directory, pki, admin, upstream, running, admin_address })
    }

    /// Where all files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.pki.ca()
    }

    /// The administrator's certificate and key.
    pub fn admin_files(&self) -> &Files {
        &self.admin
    }

    /// An agent's certificate and key.
    pub fn agent_files(&self, agent: &str) -> Files {
        Files {
            certificate: self.directory.path().join(format!("{agent}.pem")),
            key: self.directory.path().join(format!("{agent}.key")),
        }
    }

    /// Where the gate listens.
    pub fn gate(&self) -> SocketAddr {
        self.running.gate
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> SocketAddr {
        self.admin_address
    }

    /// The engine of the gate.
    pub fn engine(&self) -> &Arc<Engine> {
        self.running.engine()
    }

    /// Where metrics and health are.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.running.metrics
    }

    /// The sample upstream.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Ends everything, and removes the directory.
    pub fn strike(self) -> io::Result<()> {
        self.running.stop();
        drop(self.upstream);
        self.directory.close()
    }

    /// A client with this certificate.
    pub fn tls(&self, files: &Files) -> Result<ClientConfig, ClientError> {
        client::config_from_files(&self.pki.ca(), Some((&files.certificate, &files.key)))
    }
}

/// The principal of an agent.
pub fn principal(agent: &str) -> String {
    spiffe_id(&format!("agent/{agent}"))
}

/// Starts the gate from a configuration file. Only whoever binds a port can tell that it is free, so the gate itself
/// is asked again with any free port in place of one that was taken.
fn start(
    directory: &Path,
    upstream: SocketAddr,
    clock: &Clock,
    change: &dyn Fn(&mut Config),
) -> Result<Running, StageError> {
    let mut ports = Ports { gate: 8443, admin: 9443, metrics: 8080 };
    let file = directory.join("demo.toml");
    let save = |text: &str| {
        let saved = std::fs::write(&file, text);
        saved.map_err(|e| StageError::System("cannot write the configuration", e))
    };
    let mut attempt = 1;
    loop {
        let text = ports.config(upstream);
        save(&text)?;
        // Without the environment: it is meant for another gate, whose state this one would write to.
        let mut config = Config::parse(&file, text, &[])?;
        change(&mut config);
        if attempt == 1 {
            app::init_state(&config, clock)?;
        }
        let started = app::start(config, clock.clone());
        match started {
            Err(app::Error::Listen { key, .. }) if attempt < ATTEMPTS => ports.give_up(key),
            Err(error) => return Err(error.into()),
            Ok(running) => {
                // Whoever reads the file finds the ports that there are.
                let port = |address: Option<SocketAddr>| address.map_or(0, |address| address.port());
                ports = Ports {
                    gate: running.gate.port(),
                    admin: port(running.admin),
                    metrics: port(running.metrics),
                };
                save(&ports.config(upstream))?;
                return Ok(running);
            }
        }
        attempt += 1;
    }
}

impl Ports {
    /// Takes any free port for the listener that `key` configures.
    fn give_up(&mut self, key: &str) {
        match key {
            "gate.listen" => self.gate = 0,
            "admin.listen" => self.admin = 0,
            _ => self.metrics = 0,
        }
    }

    fn config(&self, upstream: SocketAddr) -> String {
        let Self { gate, admin, metrics } = self;
        let administrator = spiffe_id(ADMIN);
        format!(
            r#"# What `portcullis demo` runs.

[gate]
listen = "127.0.0.1:{gate}"
drain = "2s"

[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]

[identity]
trust_domains = ["{TRUST_DOMAIN}"]
templates = ["spiffe://{{trust_domain}}/agent/{{agent}}"]
claim = {{ header = "x-agent-id" }}

[[route]]
upstream = ["http://{upstream}"]

[admin]
listen = "127.0.0.1:{admin}"
allow = ["{administrator}"]

[metrics]
listen = "127.0.0.1:{metrics}"

[state]
dir = "state"
"#
        )
    }
}
