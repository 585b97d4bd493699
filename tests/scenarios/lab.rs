//! The lab: a gate as users start it, from a configuration file, with a fresh authority, an upstream and clients.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use portcullis::app;
use portcullis::app::Running;
use portcullis::clock::Clock;
use portcullis::config::Config;
use rustls::SupportedProtocolVersion;
use rustls::version::TLS12;
use rustls::version::TLS13;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::Answer;
use crate::client::Client;
use crate::client::H1;
use crate::pki::Ca;
use crate::pki::Cert;
use crate::pki::sha256;
use crate::upstream::Speaks;
use crate::upstream::Upstream;
use crate::upstream::full;

/// Nothing that a test waits for takes longer, on a busy machine either.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for what must come.
#[track_caller]
pub(crate) fn within<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("waited in vain at {caller}"),
        }
    }
}

/// An address at which nobody listens, and, for as long as this is kept, nobody else can.
pub(crate) fn nobody() -> (SocketAddr, TcpSocket) {
    let held = TcpSocket::new_v4().unwrap();
    held.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    (held.local_addr().unwrap(), held)
}

/// What a lab's configuration says beyond the usual.
pub(crate) struct Plan {
    root: Ca,
    speaks: Speaks,
    threads: usize,
    gate: String,
    client_ca: String,
    domains: String,
    templates: String,
    claim: String,
    routes: Option<String>,
    allow: String,
    admin: String,
    secrets: String,
    feeds: String,
    clock: Clock,
    files: Vec<(String, String)>,
}

impl Plan {
    /// Feeds, as TOML; `DIRECTORY` stands for that of the configuration.
    pub(crate) fn feeds(mut self, feeds: &str) -> Self {
        feeds.clone_into(&mut self.feeds);
        self
    }

    /// One more line of `[gate]`.
    pub(crate) fn gate(mut self, line: &str) -> Self {
        writeln!(self.gate, "{line}").unwrap();
        self
    }

    /// In front of an upstream that speaks this.
    pub(crate) fn speaking(mut self, speaks: Speaks) -> Self {
        self.speaks = speaks;
        self
    }

    /// A gate of one thread: its requests share their connections to the upstream.
    pub(crate) fn on_one_thread(self) -> Self {
        self.threads(1)
    }

    /// A gate of so many threads.
    pub(crate) fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// `identity.claim`, as TOML.
    pub(crate) fn claim(mut self, claim: &str) -> Self {
        claim.clone_into(&mut self.claim);
        self
    }

    /// `identity.trust_domains`, as TOML.
    pub(crate) fn domains(mut self, domains: &str) -> Self {
        domains.clone_into(&mut self.domains);
        self
    }

    /// `identity.templates`, as TOML.
    pub(crate) fn templates(mut self, templates: &str) -> Self {
        templates.clone_into(&mut self.templates);
        self
    }

    /// The routes, as TOML; `UPSTREAM` stands for the lab's upstream.
    pub(crate) fn routes(mut self, routes: &str) -> Self {
        self.routes = Some(routes.to_owned());
        self
    }

    /// `gate.tls.client_ca`, as TOML.
    pub(crate) fn client_ca(mut self, client_ca: &str) -> Self {
        client_ca.clone_into(&mut self.client_ca);
        self
    }

    /// One more administrator.
    pub(crate) fn allowing(mut self, principal: &str) -> Self {
        write!(self.allow, ", \"{principal}\"").unwrap();
        self
    }

    /// One more line of `[admin]`.
    pub(crate) fn admin(mut self, line: &str) -> Self {
        writeln!(self.admin, "{line}").unwrap();
        self
    }

    /// One more `[[admin.secret]]`: see [`secret`].
    pub(crate) fn secret(mut self, name: &str, role: &str) -> Self {
        let section =
            format!("[[admin.secret]]\nname = \"{name}\"\nrole = \"{role}\"\nfile = \"{name}.secret\"");
        writeln!(self.secrets, "{section}").unwrap();
        self.file(&format!("{name}.secret"), &format!("{}\n", secret(name)))
    }

    /// Beside the administrators an operator, an auditor, and a secret for each role, named like it.
    pub(crate) fn staffed(self) -> Self {
        self.admin("operators = [\"operator.admin.test\"]")
            .admin("auditors = [\"auditor.admin.test\"]")
            .secret("admin", "admin")
            .secret("operator", "operator")
            .secret("auditor", "auditor")
    }

    /// One more file beside the configuration.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    pub(crate) fn clock(mut self, clock: &Clock) -> Self {
        self.clock = clock.clone();
        self
    }

    pub(crate) async fn start(mut self) -> Lab {
        let upstream = Upstream::speaking(self.speaks).await;
        let ops = Ca::root("operators");
        let directory = tempfile::tempdir().unwrap();
        let (server, key) = self.root.server();
        let usual = [
            ("ca.pem", self.root.pem()),
            ("ops.pem", ops.pem()),
            ("server.pem", &server),
            ("server.key", &key),
        ];
        let usual = usual.map(|(name, text)| (name.to_owned(), text.to_owned()));
        for (name, text) in self.files.drain(..).chain(usual) {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let mut lab = Lab {
            text: self.text(upstream.address).replace("DIRECTORY", &directory.path().display().to_string()),
            root: self.root,
            ops,
            upstream,
            clock: self.clock,
            running: None,
            admin: None,
            directory,
        };
        app::init_state(&lab.config(), &lab.clock).unwrap();
        lab.start_gate();
        lab
    }

    fn text(&self, upstream: SocketAddr) -> String {
        let Self {
            speaks,
            threads,
            gate,
            client_ca,
            domains,
            templates,
            claim,
            allow,
            admin,
            secrets,
            feeds,
            ..
        } = self;
        let routes = self.routes.as_deref().unwrap_or("[[route]]\nupstream = [\"UPSTREAM\"]");
        let routes = routes.replace("UPSTREAM", &format!("{}://{upstream}", speaks.scheme()));
        format!(
            r#"[gate]
listen = "127.0.0.1:0"
threads = {threads}
{gate}
[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = {client_ca}
[identity]
trust_domains = {domains}
templates = {templates}
claim = {claim}
{routes}
[admin]
listen = "127.0.0.1:0"
allow = ["ops.admin.test", "second.admin.test"{allow}]
{admin}
[admin.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["ops.pem"]
{secrets}
[metrics]
listen = "127.0.0.1:0"
[state]
dir = "state"
{feeds}
"#
        )
    }
}

/// A running gate, and everything around it.
pub(crate) struct Lab {
    /// Vouches for agents, and for the gate.
    pub(crate) root: Ca,
    /// Vouches for administrators, who have no part in what is revoked below `root`.
    pub(crate) ops: Ca,
    pub(crate) upstream: Upstream,
    clock: Clock,
    text: String,
    running: Option<Running>,
    /// One connection for all changes, so that the number of sessions is that of the agents and one.
    admin: Option<H1>,
    directory: TempDir,
}

impl Lab {
    /// The usual lab.
    pub(crate) async fn start() -> Self {
        Self::plan().start().await
    }

    /// A lab to be changed before it starts.
    pub(crate) fn plan() -> Plan {
        Plan {
            root: Ca::root("lab"),
            speaks: Speaks::Http1,
            threads: 2,
            gate: String::new(),
            client_ca: r#"["ca.pem"]"#.into(),
            domains: r#"["lab.test"]"#.into(),
            templates: r#"["spiffe://{trust_domain}/agent/{agent}", "dns:{agent}.lab.test"]"#.into(),
            claim: r#"{ header = "x-agent-id" }"#.into(),
            routes: None,
            allow: String::new(),
            admin: String::new(),
            secrets: String::new(),
            feeds: String::new(),
            clock: Clock::system(),
            files: Vec::new(),
        }
    }

    fn config(&self) -> Config {
        let file = self.directory.path().join("gate.toml");
        let mut config = Config::parse(&file, self.text.clone(), &[]).unwrap();
        // The environment, where users have it, is that of every test of the process.
        config.feed.sqs.iter_mut().for_each(|sqs| sqs.access_key = Some(("test".into(), "test".into())));
        config
    }

    fn start_gate(&mut self) {
        self.running = Some(app::start(self.config(), self.clock.clone()).unwrap());
    }

    /// Tries to start it on what its state directory holds now; the error of a gate that does not start.
    pub(crate) fn refusal(&self) -> Option<app::Error> {
        app::start(self.config(), self.clock.clone()).err()
    }

    /// Starts it after [`Self::stop`].
    pub(crate) fn start_again(&mut self) {
        self.start_gate();
    }

    /// Writes its configuration, for programs beside it.
    pub(crate) fn save(&self) -> PathBuf {
        let file = self.directory.path().join("gate.toml");
        std::fs::write(&file, &self.text).unwrap();
        file
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Drains and ends the gate; returns how many connections were cut.
    pub(crate) async fn stop(&mut self) -> usize {
        self.admin = None;
        let running = self.running.take().unwrap();
        tokio::task::spawn_blocking(|| running.stop()).await.unwrap()
    }

    /// Starts it again on the same state, and on other ports.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_gate();
    }

    /// Writes a file beside the configuration.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.directory.path().join(name), bytes).unwrap();
    }

    /// Takes it away again.
    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.directory.path().join(name)).unwrap();
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.directory.path().join("state/audit.jsonl")
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn gate(&self) -> SocketAddr {
        self.running().gate
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.running().admin.unwrap()
    }

    /// A client that speaks TLS 1.3 and 1.2.
    pub(crate) fn client(&self, cert: &Cert) -> Client {
        self.client_of(Some(cert), &[&TLS13, &TLS12])
    }

    /// A client of one version, or without a certificate.
    pub(crate) fn client_of(
        &self,
        cert: Option<&Cert>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Client {
        Client::new(&self.root, cert, self.gate(), versions)
    }

    /// Live sessions, without that of the administrator's connection.
    pub(crate) fn sessions(&self) -> usize {
        self.running().engine().sessions().len() - usize::from(self.admin.is_some())
    }

    /// Waits until so many sessions are live.
    pub(crate) async fn until_sessions(&self, count: usize) {
        let reached = async {
            while self.sessions() != count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("{} sessions, not {count}", self.sessions());
        }
    }

    /// Waits until the audit holds a text.
    pub(crate) async fn until_audited(&self, text: &str) {
        let written = async {
            while !std::fs::read_to_string(self.audit()).unwrap().contains(text) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(timeout(PATIENCE, written).await.is_ok(), "{text} was never audited");
    }

    /// A client of the admin listener.
    pub(crate) fn admin_client(&self, cert: Option<&Cert>) -> Client {
        Client::new(&self.root, cert, self.admin_address(), &[&TLS13])
    }

    /// A client of the admin listener, as `NAME.admin.test`.
    pub(crate) fn administrator(&self, name: &str) -> Client {
        self.admin_client(Some(&self.ops.leaf().dns(&format!("{name}.admin.test")).issue()))
    }

    /// Sends a change over the administrator's connection.
    pub(crate) async fn change(&mut self, change: Value) -> Answer {
        if self.admin.is_none() {
            let cert = self.ops.leaf().dns("ops.admin.test").issue();
            self.admin = Some(self.admin_client(Some(&cert)).h1().await);
        }
        post(self.admin.as_mut().unwrap(), &change).await.unwrap()
    }

    /// Revokes, and returns how many sessions that ended. When this returns, `revoke` has.
    pub(crate) async fn revoke(&mut self, level: &str, target: &str) -> u64 {
        let mut change = json!({"action": "revoke", "level": level, "target": target, "reason": "leaked"});
        // Of a certificate that the gate need not have seen.
        change["preemptive"] = true.into();
        self.applied(change).await
    }

    /// Applies a change that must be accepted; returns how many sessions it ended.
    pub(crate) async fn applied(&mut self, change: Value) -> u64 {
        let answer = self.change(change).await;
        answer.assert_ok();
        answer.json()["sessions_ended"].as_u64().unwrap()
    }

    /// What the plain listener says.
    pub(crate) async fn plain(&self, path: &str) -> String {
        plain(self.running().metrics.unwrap(), path).await
    }
}

/// What a plain listener says.
pub(crate) async fn plain(address: SocketAddr, path: &str) -> String {
    plain_call(address, "GET", path, "").await
}

/// What a plain listener says to any call.
pub(crate) async fn plain_call(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let mut stream = within(TcpStream::connect(address)).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    text
}

/// Sends a change over any connection to the admin listener.
pub(crate) async fn post(connection: &mut H1, change: &Value) -> hyper::Result<Answer> {
    let request = connection
        .request("POST", "/v1/revocations")
        .header("content-type", "application/json")
        .body(full(change.to_string()))
        .unwrap();
    connection.exchange(request).await
}

/// What the secret of that name is: see [`Plan::secret`].
pub(crate) fn secret(name: &str) -> String {
    sha256(format!("the secret of {name}").as_bytes())
}
