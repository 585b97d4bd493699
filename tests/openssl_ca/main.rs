//! A real authority, OpenSSL's, and a running gate: what `openssl ca` revokes is out as soon as its list is looked
//! at, and nobody else is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod authority;

#[path = "../lists_feed/server.rs"]
#[expect(dead_code, reason = "it is to answer well here")]
mod server;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::Full;
use portcullis::app;
use portcullis::app::Running;
use portcullis::clock::Clock;
use portcullis::config::Config;
use portcullis::rig::client;
use portcullis::rig::client::Conversation;
use portcullis::rig::pki::Pki;
use portcullis::rig::pki::TRUST_DOMAIN;
use portcullis::rig::upstream::Upstream;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::time::timeout;

use authority::ALL;
use authority::Agent;
use authority::Authority;
use authority::Kind;
use server::Reply;
use server::Server;

/// Nothing that a test waits for takes longer, on a busy machine either.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gate that trusts an authority and looks at its lists every second.
struct Site {
    directory: TempDir,
    pki: Pki,
    _upstream: Upstream,
    text: String,
    running: Option<Running>,
}

impl Site {
    fn start(root: &Authority, feeds: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path(), Clock::system().now()).unwrap();
        pki.server().unwrap();
        fs::copy(root.certificate(), directory.path().join("agents.pem")).unwrap();
        let upstream = Upstream::start(0).unwrap();
        let text = format!(
            r#"
[gate]
listen = "127.0.0.1:0"
threads = 1
[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["agents.pem"]
[identity]
trust_domains = ["{TRUST_DOMAIN}"]
templates = ["spiffe://{{trust_domain}}/agent/{{agent}}"]
claim = {{ header = "x-agent-id" }}
[[route]]
upstream = ["http://{}"]
[state]
dir = "state"
{feeds}"#,
            upstream.address()
        );
        let mut site = Self { directory, pki, _upstream: upstream, text, running: None };
        app::init_state(&site.gate_config(), &Clock::system()).unwrap();
        site.start_gate();
        site
    }

    fn gate_config(&self) -> Config {
        Config::parse(&self.directory.path().join("gate.toml"), self.text.clone(), &[]).unwrap()
    }

    fn start_gate(&mut self) {
        self.running = Some(app::start(self.gate_config(), Clock::system()).unwrap());
    }

    async fn stop_gate(&mut self) {
        let running = self.running.take().unwrap();
        tokio::task::spawn_blocking(|| running.stop()).await.unwrap();
    }

    /// A connection of an agent, on which it was served once.
    async fn served(&self, agent: &Agent) -> Conversation {
        let mut conversation = self.connect(agent).await;
        assert_eq!(conversation.send(request(agent)).await.unwrap().status(), 200, "{}", agent.name);
        conversation
    }

    async fn connect(&self, agent: &Agent) -> Conversation {
        let address = self.running.as_ref().unwrap().gate;
        let stream = client::connect(&self.config(agent), address, "localhost").await.unwrap();
        Conversation::begin(stream).await.unwrap()
    }

    fn config(&self, agent: &Agent) -> Arc<ClientConfig> {
        let root = CertificateDer::from_pem_file(self.pki.ca()).unwrap();
        Arc::new(client::config(&[root], Some(agent.credentials())).unwrap())
    }

    /// Fails unless the agent is told that its certificate, or one above it, is revoked.
    async fn refuses(&self, agent: &Agent) {
        let answer: Response<Bytes> = self.connect(agent).await.send(request(agent)).await.unwrap();
        let text = String::from_utf8_lossy(answer.body());
        assert!(answer.status() == 401 || answer.status() == 403, "{}", answer.status());
        assert!(text.contains("certificate_revoked"), "{text}");
    }

    /// Waits until so many lists are in force.
    async fn until_lists(&self, count: usize) {
        let lists = || self.running.as_ref().unwrap().engine().lists().len();
        let reached = async {
            while lists() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, reached).await.is_ok(), "{} lists, not {count}", lists());
    }
}

fn request(agent: &Agent) -> Request<Full<Bytes>> {
    let request = Request::get("/").header("host", "localhost").header("x-agent-id", &agent.name);
    request.body(Full::default()).unwrap()
}

/// Waits until a connection has been ended.
async fn ended(conversation: &mut Conversation) {
    assert!(timeout(PATIENCE, conversation.ended()).await.is_ok(), "its connection goes on");
}

/// Fails unless the connection serves as before.
async fn goes_on(conversation: &mut Conversation, agent: &Agent) {
    assert_eq!(conversation.send(request(agent)).await.unwrap().status(), 200, "{}", agent.name);
}

/// `[[feed.crl]]` that is looked at every second.
fn feed(url: &str, issuer: Option<&Authority>) -> String {
    let issuer = issuer.map_or_else(String::new, |issuer| format!("issuer = {:?}\n", issuer.certificate()));
    format!("[[feed.crl]]\nurl = \"{url}\"\ninterval = \"1s\"\n{issuer}")
}

/// Puts a list where it is published, as a whole.
fn publish(file: &Path, list: &[u8]) {
    let new = file.with_extension("new");
    fs::write(&new, list).unwrap();
    fs::rename(new, file).unwrap();
}

#[tokio::test]
async fn who_is_revoked_is_out_and_nobody_else() {
    let (root, published) = (Authority::root("Agents"), tempfile::tempdir().unwrap());
    let file = published.path().join("agents.crl");
    publish(&file, &root.list(ALL, Kind::Full));
    let mut site = Site::start(&root, &feed(&format!("file://{}", file.display()), None));
    let (alice, bob) = (root.issue("alice"), root.issue("bob"));
    site.until_lists(1).await;
    let (mut of_alice, mut of_bob) = (site.served(&alice).await, site.served(&bob).await);
    root.revoke(ALL, alice.certificate());
    // Not before the list says so.
    goes_on(&mut of_alice, &alice).await;
    publish(&file, &root.list(ALL, Kind::Full));
    ended(&mut of_alice).await;
    site.refuses(&alice).await;
    goes_on(&mut of_bob, &bob).await;
    drop(site.served(&bob).await);
    // Nor after a start without the list.
    site.stop_gate().await;
    fs::remove_file(&file).unwrap();
    site.start_gate();
    site.refuses(&alice).await;
    drop(site.served(&bob).await);
    site.stop_gate().await;
}

#[tokio::test]
async fn an_authority_below_revokes_its_leaves_and_is_revoked_itself() {
    let root = Authority::root("Root");
    let (below, beside) = (root.below("Below"), root.below("Beside"));
    let server = Server::start();
    server.says("/root.crl", Reply::ok(&root.list(ALL, Kind::Full)));
    server.says("/below.crl", Reply::ok(&below.list(ALL, Kind::Full)));
    let feeds =
        [feed(&server.url("/root.crl"), None), feed(&server.url("/below.crl"), Some(&below))].concat();
    let mut site = Site::start(&root, &feeds);
    site.until_lists(2).await;
    let [alice, bob] = ["alice", "bob"].map(|name| below.issue(name));
    let carol = beside.issue("carol");
    let mut of_alice = site.served(&alice).await;
    let (mut of_bob, mut of_carol) = (site.served(&bob).await, site.served(&carol).await);
    below.revoke(ALL, alice.certificate());
    server.says("/below.crl", Reply::ok(&below.list(ALL, Kind::Full)));
    ended(&mut of_alice).await;
    site.refuses(&alice).await;
    goes_on(&mut of_bob, &bob).await;
    root.revoke(ALL, &below.certificate());
    server.says("/root.crl", Reply::ok(&root.list(ALL, Kind::Full)));
    ended(&mut of_bob).await;
    site.refuses(&bob).await;
    goes_on(&mut of_carol, &carol).await;
    site.stop_gate().await;
}

#[tokio::test]
async fn partitions_and_deltas_of_openssl_are_read() {
    let (root, server) = (Authority::root("Agents"), Server::start());
    let points = ["/1.crl", "/2.crl"].map(|path| server.url(path));
    let part = |database: &str, point: &str| Reply::ok(&root.list(database, Kind::Part(point)));
    server.says("/1.crl", part("one", &points[0]));
    server.says("/2.crl", part("two", &points[1]));
    server.says("/full.crl", Reply::ok(&root.list(ALL, Kind::Full)));
    let urls = [points[0].clone(), points[1].clone(), server.url("/full.crl"), server.url("/delta.crl")];
    let mut site = Site::start(&root, &urls.map(|url| feed(&url, None)).concat());
    site.until_lists(3).await;
    let agents = ["alice", "bob", "carol", "dave"].map(|name| root.issue(name));
    let [alice, bob, carol, dave] = &agents;
    let mut open = Vec::new();
    for agent in &agents {
        open.push(site.served(agent).await);
    }
    let [of_alice, of_bob, of_carol, of_dave] = <&mut [Conversation; 4]>::try_from(&mut open[..]).unwrap();
    // The second partition does not lift what the first says, nor the reverse.
    root.revoke("one", alice.certificate());
    server.says("/1.crl", part("one", &points[0]));
    ended(of_alice).await;
    root.revoke("two", bob.certificate());
    server.says("/2.crl", part("two", &points[1]));
    ended(of_bob).await;
    site.refuses(alice).await;
    // The full list was the third.
    root.revoke("changes", carol.certificate());
    server.says("/delta.crl", Reply::ok(&root.list("changes", Kind::Delta("3"))));
    ended(of_carol).await;
    site.until_lists(4).await;
    for agent in [alice, bob, carol] {
        site.refuses(agent).await;
    }
    goes_on(of_dave, dave).await;
    // The next full list includes what the delta said, which then is not needed any more.
    root.revoke(ALL, carol.certificate());
    server.says("/full.crl", Reply::ok(&root.list(ALL, Kind::Full)));
    site.until_lists(3).await;
    site.refuses(carol).await;
    goes_on(of_dave, dave).await;
    site.stop_gate().await;
}
