//! The admin API keeps to its OpenAPI document: schemathesis makes up calls from the document, sends them to a running
//! gate over mutual TLS, and holds every answer against it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::process::Command;

use portcullis::app;
use portcullis::app::Running;
use portcullis::clock::Clock;
use portcullis::config::Config;
use portcullis::rig::pki::Files;
use portcullis::rig::pki::Pki;
use portcullis::rig::pki::TRUST_DOMAIN;
use portcullis::rig::pki::spiffe_id;
use tempfile::TempDir;
use tools::installed;

mod tools;

/// The one version: another finds other things.
const REQUIREMENT: &str = "schemathesis==4.32.5";
/// The same calls every time.
const SEED: &str = "20";
/// Calls made up for each operation and phase.
const EXAMPLES: &str = "15";

#[test]
fn every_answer_is_as_documented() {
    let schemathesis = installed("schemathesis", REQUIREMENT).join("st");
    let site = Site::start();
    let address = site.running.admin.unwrap();
    let mut command = Command::new(schemathesis);
    command
        .current_dir(site.directory.path())
        // Its settings are in the file, for the reasons that are given there.
        .args(["--config-file", "schemathesis.toml", "run", "--no-color"])
        .arg(format!("https://localhost:{}/openapi.json", address.port()))
        .args(["--seed", SEED, "--generation-deterministic", "--max-examples", EXAMPLES])
        .args(["--request-timeout", "10", "--continue-on-failure"])
        .arg("--request-cert")
        .arg(&site.admin.certificate)
        .arg("--request-cert-key")
        .arg(&site.admin.key)
        .arg("--tls-verify")
        .arg(site.pki.ca());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // Nothing was passed over.
    let summary = text.split_once("SUMMARY").unwrap().1;
    assert!(summary.contains("Selected: 14/14") && summary.contains("Tested: 14"), "{summary}");
    site.running.stop();
}

/// A gate with an admin listener on loopback.
struct Site {
    directory: TempDir,
    pki: Pki,
    admin: Files,
    running: Running,
}

impl Site {
    fn start() -> Self {
        let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let pki = Pki::create(directory.path(), clock.now()).unwrap();
        pki.server().unwrap();
        let admin = pki.client("admin", "admin/ops").unwrap();
        std::fs::write(directory.path().join("ci.secret"), "a secret that is long enough for a gate")
            .unwrap();
        std::fs::write(directory.path().join("schemathesis.toml"), include_str!("schemathesis.toml"))
            .unwrap();
        let text = format!(
            r#"
[gate]
listen = "127.0.0.1:0"
threads = 1
[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]
[identity]
trust_domains = ["{TRUST_DOMAIN}"]
templates = ["spiffe://{{trust_domain}}/agent/{{agent}}"]
claim = {{ header = "x-agent-id" }}
[[route]]
upstream = ["http://127.0.0.1:9"]
[admin]
listen = "127.0.0.1:0"
allow = ["{}"]
limits = {{ calls_per_second = 100000, burst = 1000000 }}
[[admin.secret]]
name = "ci"
role = "auditor"
file = "ci.secret"
[state]
dir = "state"
"#,
            spiffe_id("admin/ops")
        );
        let config = Config::parse(&directory.path().join("gate.toml"), text, &[]).unwrap();
        app::init_state(&config, &clock).unwrap();
        let running = app::start(config, clock).unwrap();
        Self { directory, pki, admin, running }
    }
}
