//! The program itself, started as users start it: its files, its exit code, its log.

use std::io::BufRead as _;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use portcullis::app;
use portcullis::clock::Clock;
use portcullis::config::Config;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::lab::secret;
use crate::lab::within;
use crate::pki::Ca;

/// The configuration that users are shown first, to the letter.
pub(crate) const FIRST: &str = r#"[gate]
listen = "127.0.0.1:8443"
mode = "strict"                      # or "advisory"
[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]
[identity]
trust_domains = ["lab.test"]
templates = ["spiffe://{trust_domain}/agent/{agent}", "dns:{agent}.lab.test"]
claim = { header = "x-agent-id" }    # also { path = "/api/v1/agents/{agent}/" }; a request that claims nothing is refused unless optional = true
[[route]]
upstream = ["http://127.0.0.1:9000"]
[admin]
listen = "127.0.0.1:9443"
allow = ["spiffe://lab.test/admin/ops"]
[[admin.secret]]                     # the way back for administrators who are locked out
name = "break-glass"
role = "admin"
file = "break-glass.secret"
[metrics]
listen = "127.0.0.1:8080"            # plain: /metrics /healthz /readyz
[state]
dir = "state"
"#;

/// A directory with that configuration, the files that it names, and a new state.
pub(crate) struct Site {
    pub(crate) root: Ca,
    directory: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let root = Ca::root("lab");
        let site = Self { directory: tempfile::tempdir().unwrap(), root };
        let (server, key) = site.root.server();
        let admin = site.root.leaf().uri("spiffe://lab.test/admin/ops").issue();
        for (name, text) in [
            ("portcullis.toml", FIRST),
            ("ca.pem", site.root.pem()),
            ("server.pem", &server),
            ("server.key", &key),
            ("admin.pem", &admin.pem),
            ("admin.key", &admin.key_pem),
            ("break-glass.secret", &secret("break-glass")),
        ] {
            site.write(name, text);
        }
        let config = Config::parse(&site.path("portcullis.toml"), FIRST.to_owned(), &[]).unwrap();
        app::init_state(&config, &Clock::system()).unwrap();
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Puts `new` in place of `old` in the configuration.
    pub(crate) fn edit(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.path("portcullis.toml")).unwrap();
        assert!(text.contains(old), "{old}");
        self.write("portcullis.toml", &text.replacen(old, new, 1));
    }

    /// `portcullis COMMAND --config ...`, on free ports.
    pub(crate) fn command(&self, command: &str) -> Command {
        let mut program = program();
        program.args([command, "--config"]).arg(self.path("portcullis.toml"));
        for section in ["GATE", "ADMIN", "METRICS"] {
            program.env(format!("PORTCULLIS__{section}__LISTEN"), "127.0.0.1:0");
        }
        program
    }

    /// The same, in front of an upstream.
    pub(crate) fn run(&self, upstream: SocketAddr) -> Command {
        let mut program = self.command("run");
        program.env("PORTCULLIS__ROUTE", format!("[{{ upstream = [\"http://{upstream}\"] }}]"));
        program
    }

    /// `portcullis revoke` and its like, as the administrator.
    pub(crate) fn change(&self, command: &str, admin: SocketAddr, arguments: &[&str]) -> Command {
        let mut program = program();
        program.arg(command).args(arguments).args(["--server", &format!("https://{admin}")]);
        let files = [("--cacert", "ca.pem"), ("--client-cert", "admin.pem"), ("--client-key", "admin.key")];
        for (option, name) in files {
            program.arg(option).arg(self.path(name));
        }
        program
    }
}

impl Site {
    /// A command that needs no gate.
    pub(crate) fn tool(&self, command: &str, arguments: &str) -> Command {
        let mut program = program();
        program.current_dir(self.directory.path()).arg(command).args(arguments.split(' '));
        program
    }
}

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    program
        .stdin(Stdio::null())
        .current_dir(Path::new("/"))
        .env_remove("PORTCULLIS_LOG")
        .env_remove("PORTCULLIS_CONFIG");
    program
}

/// What came of a program that ends by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a program to its end.
pub(crate) async fn ended(mut command: Command) -> Ended {
    command.stdout(Stdio::piped());
    let (mut process, out) = Process::spawn(command);
    let code = process.wait().await;
    let out = within(out.unwrap()).await.unwrap();
    let mut err = String::new();
    while let Some(line) = process.lines.recv().await {
        err += &line;
        err += "\n";
    }
    Ended { code, out, err }
}

/// A running program.
pub(crate) struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// All lines of the log that were read so far.
    pub(crate) log: Vec<Value>,
}

/// Where a gate listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) gate: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

impl Process {
    fn spawn(mut command: Command) -> (Self, Option<JoinHandle<String>>) {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let out = child
            .stdout
            .take()
            .map(|out| tokio::task::spawn_blocking(move || std::io::read_to_string(out).unwrap()));
        let err = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel(4096);
        tokio::task::spawn_blocking(move || {
            for line in err.lines() {
                // A test that is over reads no more.
                let _ = sender.blocking_send(line.unwrap());
            }
        });
        let log = Vec::new();
        (Self { child, lines, log }, out)
    }

    /// Starts a gate, and waits until it is up.
    pub(crate) async fn start(command: Command) -> (Self, Addresses) {
        let (mut process, _) = Self::spawn(command);
        let up = process.until(|line| line["message"] == "portcullis is up").await;
        let address = |name: &str| {
            let text = up[name].as_str().unwrap();
            text.parse().unwrap()
        };
        let addresses =
            Addresses { gate: address("gate"), admin: address("admin"), metrics: address("metrics") };
        (process, addresses)
    }

    /// Waits for a line of the log.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = async {
            loop {
                let Some(line) = self.lines.recv().await else {
                    panic!("the log ended: {:#?}", self.log);
                };
                let line: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                self.log.push(line.clone());
                if wanted(&line) {
                    return line;
                }
            }
        };
        within(found).await
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().cast_signed()), signal).unwrap();
    }

    /// What it has in memory, bytes.
    pub(crate) fn memory(&self) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    /// Waits for its end; the exit code, if there was one.
    pub(crate) async fn wait(&mut self) -> Option<i32> {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        within(ended).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
