//! The program itself, with the feed of one queue, as users start it.

use std::process::Command;
use std::process::Stdio;

use portcullis::app;
use portcullis::clock::Clock;
use portcullis::config::Config;
use portcullis::rig::pki::Pki;
use portcullis::rig::queue::Queue;
use tempfile::TempDir;

/// A gate's directory.
pub(crate) struct Site(pub(crate) TempDir);

impl Site {
    pub(crate) fn new(queue: &Queue) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Pki::create(directory.path(), Clock::system().now()).unwrap().server().unwrap();
        let config = format!(
            r#"[gate]
listen = "127.0.0.1:0"
threads = 1
[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]
[identity]
trust_domains = ["demo.test"]
templates = ["spiffe://{{trust_domain}}/agent/{{agent}}"]
claim = {{ header = "x-agent-id" }}
[[route]]
upstream = ["http://127.0.0.1:9"]
[feed.sqs]
queue_url = "{}"
wait = "1s"
visibility = "1s"
[state]
dir = "state"
"#,
            queue.url()
        );
        let file = directory.path().join("portcullis.toml");
        std::fs::write(&file, &config).unwrap();
        app::init_state(&Config::parse(&file, config, &[]).unwrap(), &Clock::system()).unwrap();
        Self(directory)
    }

    /// `portcullis run`, with an access key and with nothing else of whoever runs the tests.
    pub(crate) fn run(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["run", "--config"]).arg(self.0.path().join("portcullis.toml"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command.env("HOME", self.0.path()).env("AWS_EC2_METADATA_DISABLED", "true");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}
