//! The two sides of gRPC, each a process of its own: `peer.py` says what they are asked and what they say.

use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Lines;
use std::io::Write as _;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::lab::Lab;
use crate::lab::PATIENCE;
use crate::pki::Cert;
use crate::tools::installed;

/// The one version: another is another peer.
const REQUIREMENT: &str = "grpcio==1.85.1";

/// A process that is gone when it is dropped.
struct Process {
    child: Child,
    directory: TempDir,
}

impl Process {
    fn spawn(files: &[(&str, &str)], arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [("peer.py", include_str!("peer.py"))].iter().chain(files) {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let mut command = Command::new(installed("grpcio", REQUIREMENT).join("python"));
        // Of whoever runs the tests: a proxy, for one.
        let foreign = std::env::vars_os().map(|(name, _)| name).filter(|name| {
            let name = name.to_string_lossy().to_lowercase();
            name.ends_with("_proxy") || name.starts_with("grpc_")
        });
        for name in foreign {
            command.env_remove(name);
        }
        command.current_dir(directory.path()).arg("peer.py").args(arguments);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Self { child, directory }
    }

    fn lines(&mut self) -> Lines<BufReader<ChildStdout>> {
        BufReader::new(self.child.stdout.take().unwrap()).lines()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gRPC server.
pub(crate) struct Server {
    _process: Process,
    pub(crate) port: u64,
    said: mpsc::Receiver<Value>,
    before: Vec<Value>,
}

impl Server {
    /// Starts one; over TLS if it is given a certificate and its key.
    pub(crate) fn start(tls: Option<(String, String)>) -> Self {
        let (cert, key) = tls.clone().unwrap_or_default();
        let files = [("server.pem", cert.as_str()), ("server.key", key.as_str())];
        let arguments: &[&str] =
            if tls.is_some() { &["serve", "server.pem", "server.key"] } else { &["serve"] };
        let mut process = Process::spawn(&files, arguments);
        let lines = process.lines();
        let (sender, said) = mpsc::sync_channel::<Value>(1024);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        let port = said.recv_timeout(3 * PATIENCE).unwrap()["port"].as_u64().unwrap();
        Self { _process: process, port, said, before: Vec::new() }
    }

    /// Waits until the call of this name `begins`, or `ends`.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, call: &str) {
        let wanted = |line: &Value| line.get(what).is_some() && line["call"] == call;
        while !self.before.iter().any(wanted) {
            match self.said.recv_timeout(PATIENCE) {
                Ok(line) => self.before.push(line),
                Err(_) => panic!("{call} never {what}: {:?}", self.before),
            }
        }
    }
}

/// A gRPC client: one channel.
pub(crate) struct Caller {
    _process: Process,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Caller {
    /// A client of the lab's gate.
    pub(crate) fn new(lab: &Lab, cert: Option<&Cert>) -> Self {
        let mut files = vec![("ca.pem", lab.root.pem())];
        files.extend(
            cert.iter().flat_map(|cert| [("own.pem", cert.pem.as_str()), ("own.key", &cert.key_pem)]),
        );
        let mut process = Process::spawn(&files, &["call"]);
        let (commands, answers) = (process.child.stdin.take().unwrap(), process.lines());
        let mut caller = Self { _process: process, commands, answers };
        let at = |name: &str| caller._process.directory.path().join(name);
        let own = |name: &str| cert.map(|_| at(name));
        let claim = cert.map_or(Some("a".to_owned()), |cert| cert.claim.clone());
        let channel = json!({
            "address": lab.gate().to_string(), "ca": at("ca.pem"), "cert": own("own.pem"), "key": own("own.key"),
            "claim": claim,
        });
        caller.call(channel);
        caller
    }

    /// Has the client do something; see `Client` in `peer.py`.
    #[track_caller]
    pub(crate) fn call(&mut self, command: Value) -> Value {
        writeln!(self.commands, "{command}").unwrap();
        let answer: Value = serde_json::from_str(&self.answers.next().unwrap().unwrap()).unwrap();
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer
    }
}
