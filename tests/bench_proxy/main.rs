//! `portcullis bench proxy`, run as its users run it: against a gate, and against a proxy that has what gates have not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod stub;

use std::io::BufRead as _;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::process::ChildStderr;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use portcullis::app;
use portcullis::clock::Clock;
use portcullis::config::Config;
use portcullis::rig::findings::Cost;
use portcullis::rig::findings::Findings;
use portcullis::rig::findings::Found;
use portcullis::rig::findings::Kind;
use portcullis::rig::pki::Pki;
use portcullis::rig::upstream::Upstream;
use serde_json::Value;
use tempfile::TempDir;

use crate::stub::Manners;
use crate::stub::Stub;

/// A directory with a PKI.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path(), Clock::system().now()).unwrap();
        pki.server().unwrap();
        pki.client("a", "agent/a").unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// `portcullis bench proxy` as the agent `a`, in windows of a fifth of a second.
    fn bench(&self, arguments: &[&str]) -> Command {
        self.bench_for("0.2", arguments)
    }

    fn bench_for(&self, seconds: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.current_dir(self.path()).stdin(Stdio::null());
        command.args(["bench", "proxy", "--ca", "ca.pem", "--cert", "a.pem", "--key", "a.key"]);
        command.args(["--header", "x-agent-id: a", "--connections", "4", "--seconds", seconds]);
        command.args(arguments);
        command
    }

    /// Runs it: the exit code, what was found, what was said.
    fn measure(&self, arguments: &[&str]) -> (Option<i32>, Option<Findings>, String) {
        let Output { status, stdout, stderr } = self.bench(arguments).arg("--json").output().unwrap();
        (status.code(), serde_json::from_slice(&stdout).ok(), String::from_utf8(stderr).unwrap())
    }
}

/// A process that is ended if the test fails.
struct Process(Child);

impl Process {
    fn id(&self) -> u32 {
        self.0.id()
    }

    fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gate of one thread, before an upstream: its process, which is read from so that it can go on talking, and where it
/// listens.
fn gate(site: &Site, upstream: SocketAddr) -> (Process, BufReader<ChildStderr>, SocketAddr) {
    let config = format!(
        r#"
[gate]
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
upstream = ["http://{upstream}"]
[state]
dir = "state"
"#
    );
    let file = site.path().join("gate.toml");
    std::fs::write(&file, &config).unwrap();
    app::init_state(&Config::parse(&file, config, &[]).unwrap(), &Clock::system()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.current_dir(site.path()).args(["run", "--config", "gate.toml"]).stderr(Stdio::piped());
    let mut process = Process(command.spawn().unwrap());
    let mut log = BufReader::new(process.0.stderr.take().unwrap());
    loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the gate ended");
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        if line["message"] == "portcullis is up" {
            let address = line["gate"].as_str().unwrap().parse().unwrap();
            return (process, log, address);
        }
    }
}

/// A process that waits, and works if it is told to.
fn process(script: &str) -> Process {
    Process(Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap())
}

fn costs(findings: &Findings) -> &[Cost] {
    match &findings.found {
        Found::Proxies(proxies) => &proxies.costs,
        other => panic!("{other:?}"),
    }
}

fn named(name: &str, address: SocketAddr, pid: u32) -> String {
    format!("{name}=https://localhost:{}/a,{pid}", address.port())
}

#[test]
fn every_work_of_every_proxy_has_its_cost_and_what_is_not_offered_is_said() {
    let site = Site::new();
    let upstream = Upstream::start(0).unwrap();
    let (gate, _log, address) = gate(&site, upstream.address());
    let plain = Stub::start(site.path(), Manners { resumes: false, http2: false, ..Manners::default() });
    let targets = [named("gate", address, gate.id()), named("plain", plain.address(), std::process::id())];
    let report = site.path().join("report.html");
    let options =
        ["--rounds", "2", "--label", "two", "--report", report.to_str().unwrap(), &targets[0], &targets[1]];
    let (code, findings, said) = site.measure(&options);
    assert_eq!(code, Some(0), "{said}");
    let findings = findings.unwrap();
    assert_eq!(findings.label, "two");
    let works = |proxy: &str| {
        let of = costs(&findings).iter().filter(|cost| cost.proxy == proxy);
        of.map(|cost| cost.work).collect::<Vec<Kind>>()
    };
    assert_eq!(works("gate"), [Kind::Http1, Kind::Http2, Kind::Handshake, Kind::Resumption]);
    assert_eq!(works("plain"), [Kind::Http1, Kind::Handshake]);
    assert!(said.contains("plain does not offer HTTP/2\n"), "{said}");
    assert!(said.contains("plain does not resume TLS sessions\n"), "{said}");
    for cost in costs(&findings) {
        assert!(cost.cpu_us > 0.0 && cost.per_second > 0.0 && cost.memory > 0, "{cost:?}");
        assert_eq!(cost.errors, 0, "{cost:?}");
        assert_eq!(cost.ratio == 1.0, cost.proxy == "gate", "{cost:?}");
    }
    assert!(report.exists());
}

#[test]
fn what_is_measured_can_be_chosen_and_a_person_gets_a_table() {
    let site = Site::new();
    let stub = Stub::start(site.path(), Manners::default());
    let target = named("stub", stub.address(), std::process::id());
    let output = site.bench(&["--work", "resumption,http1", "--rounds", "1", &target]).output().unwrap();
    let (told, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{told}");
    let first: Vec<&str> = told.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(first, ["WORK", "HTTP/1.1 connection", "resumed session"], "{told}");
}

#[test]
fn requests_that_fail_are_counted() {
    let site = Site::new();
    let stub = Stub::start(site.path(), Manners { fails_every: Some(10), ..Manners::default() });
    let target = named("stub", stub.address(), std::process::id());
    let (code, findings, said) = site.measure(&["--rounds", "1", "--work", "http1,http2,handshake", &target]);
    assert_eq!(code, Some(0), "{said}");
    for cost in costs(&findings.unwrap()) {
        assert!(cost.errors > 0, "{cost:?}");
        let told = format!("stub, {}: {} requests were not served; the first: 500", cost.work, cost.errors);
        assert!(said.contains(&told), "{said}");
    }
}

/// Many proxies close a connection after so many requests, and say so.
#[test]
fn a_connection_that_is_closed_between_two_requests_is_no_error() {
    let site = Site::new();
    let stub = Stub::start(site.path(), Manners { closes_every: Some(10), ..Manners::default() });
    let target = named("stub", stub.address(), std::process::id());
    let (code, findings, said) = site.measure(&["--work", "http1,http2", &target]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(costs(&findings.unwrap()).iter().all(|cost| cost.errors == 0 && cost.per_second > 0.0));
}

/// Seen failing where so many answers counted as so many connections: the first was open alone when the time ran.
#[test]
fn what_a_proxy_takes_over_the_first_handshakes_is_no_part_of_its_requests() {
    let site = Site::new();
    for (work, connections) in [("http1", 4), ("http2", 8)] {
        let manners = Manners { ponders: Duration::from_millis(300), ..Manners::default() };
        let stub = Stub::start(site.path(), manners);
        let target = named("stub", stub.address(), std::process::id());
        let (code, _, said) = site.measure(&["--rounds", "1", "--work", work, &target]);
        assert_eq!((code, said.as_str()), (Some(0), ""));
        // The first is asked whether it offers this.
        assert_eq!(stub.connections(), 1 + connections, "{work}");
    }
}

#[test]
fn a_proxy_that_serves_nothing_is_named() {
    let site = Site::new();
    let stub = Stub::start(site.path(), Manners { fails_every: Some(1), ..Manners::default() });
    let good = Stub::start(site.path(), Manners::default());
    let own = std::process::id();
    let targets = [named("good", good.address(), own), named("bad", stub.address(), own)];
    let (code, findings, said) = site.measure(&[&targets[0], &targets[1]]);
    assert_eq!((code, findings), (Some(1), None), "{said}");
    assert!(said.contains("bad, HTTP/1.1 connection: 500"), "{said}");
}

#[test]
fn a_client_that_is_not_let_in_is_told_so() {
    let (site, other) = (Site::new(), Site::new());
    let upstream = Upstream::start(0).unwrap();
    let (gate, _log, address) = gate(&site, upstream.address());
    for name in ["a.pem", "a.key"] {
        std::fs::copy(other.path().join(name), site.path().join(name)).unwrap();
    }
    let (code, _, said) = site.measure(&["--work", "http1", &named("gate", address, gate.id())]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("bench proxy: gate"), "{said}");
}

#[test]
fn where_nobody_listens_is_said() {
    let site = Site::new();
    // A port that is taken, and on which nobody listens.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = named("gone", socket.local_addr().unwrap(), std::process::id());
    let (code, findings, said) = site.measure(&[&target]);
    assert_eq!((code, findings), (Some(3), None), "{said}");
    assert!(said.contains("bench proxy: gone: cannot reach "), "{said}");
}

#[test]
fn a_process_that_is_not_there_or_ends_or_does_nothing_is_named() {
    let site = Site::new();
    let stub = Stub::start(site.path(), Manners::default());
    let ended = process("exit");
    let pid = ended.id();
    ended.end();
    let (code, _, said) = site.measure(&[&named("stub", stub.address(), pid)]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("bench proxy: stub: there is no process {pid}")), "{said}");

    let idle = process("read x");
    let (code, _, said) = site.measure(&[&named("stub", stub.address(), idle.id())]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("bench proxy: stub: process {} did nothing", idle.id())), "{said}");

    let mut command = site.bench_for("600", &[&named("stub", stub.address(), idle.id())]);
    let served = stub.served();
    let bench = command.stderr(Stdio::piped()).spawn().unwrap();
    stub.wait_for(served + 100);
    let pid = idle.id();
    idle.end();
    let output = bench.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("bench proxy: stub: process {pid} has ended")), "{said}");
}

#[test]
fn an_interrupted_measurement_does_not_claim_success() {
    let site = Site::new();
    let stub = Stub::start(site.path(), Manners::default());
    let target = named("stub", stub.address(), std::process::id());
    let mut command = site.bench_for("600", &[&target]);
    let bench = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    stub.wait_for(100);
    kill(Pid::from_raw(bench.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = bench.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "portcullis: bench proxy: interrupted\n");
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    let site = Site::new();
    let twice = ["a=https://localhost:1/,1", "a=https://localhost:2/,1"];
    let wrong: [&[&str]; 5] = [
        &[],
        &["a=http://localhost:1/,1"],
        &twice,
        &["--header", "x", twice[0]],
        &["--rounds", "0", twice[0]],
    ];
    for arguments in wrong {
        let (code, _, said) = site.measure(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(!said.is_empty(), "{arguments:?}");
    }
    std::fs::remove_file(site.path().join("a.key")).unwrap();
    let (code, _, said) = site.measure(&[twice[0]]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("bench proxy: a.key: "), "{said}");
}
