//! The state of a gate: made once, and rebuilt from its audit.

use std::fs;

use portcullis::authority::AuditConfig;
use portcullis::authority::audit;
use portcullis::authority::audit::Entry;
use portcullis::clock::Clock;
use portcullis::clock::Timestamp;
use tempfile::TempDir;

use crate::stub::ended;
use crate::stub::program;

const CONFIG: &str = r#"[gate]
listen = "127.0.0.1:0"
[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]
[identity]
trust_domains = ["lab.test"]
templates = ["spiffe://{trust_domain}/agent/{agent}"]
claim = "none"
[[route]]
upstream = ["http://127.0.0.1:9000"]
[state]
dir = "state"
"#;

/// A directory with a configuration.
fn site() -> TempDir {
    let site = tempfile::tempdir().unwrap();
    fs::write(site.path().join("gate.toml"), CONFIG).unwrap();
    site
}

fn run(site: &TempDir, line: &str) -> String {
    let mut program = program();
    program.args(line.split_whitespace()).current_dir(site.path());
    format!("$ portcullis {line}\n{}", ended(program).shown())
}

/// The audit of a state whose journal is gone, with `count` changes.
fn audited(site: &TempDir, count: usize) {
    let state = site.path().join("state");
    fs::create_dir(&state).unwrap();
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let change = |number: usize| Entry {
        action: ["revoke", "suspend", "reinstate"][number % 3].into(),
        outcome: "applied".into(),
        actor: "secret:oncall".into(),
        id: Some(format!("{number:04}")),
        level: Some("task".into()),
        target: Some(format!("t-{}", number / 2)),
        at: Some(Timestamp::from_secs(1_800_000_000 + number as i64)),
        ..Entry::default()
    };
    audit::record(&state, &AuditConfig::default(), clock, (0..count).map(change).collect()).unwrap();
}

#[test]
fn a_state_is_made_once() {
    let site = site();
    let lines = [
        "state init --config gate.toml --json",
        "state init --config gate.toml",
        "state init --config gate.toml --json",
        "state init --config absent.toml",
        "state init",
    ];
    let told: Vec<String> = lines.iter().map(|line| run(&site, line)).collect();
    fs::remove_dir_all(site.path().join("state")).unwrap();
    let again = run(&site, "state init --config gate.toml");
    insta::assert_snapshot!([told, vec![again]].concat().join("\n"));
}

#[test]
fn a_gate_without_a_state_does_not_start() {
    let site = site();
    let mut told = vec![run(&site, "run --config gate.toml")];
    audited(&site, 3);
    told.push(run(&site, "run --config gate.toml"));
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_lost_journal_is_rebuilt() {
    let site = site();
    audited(&site, 9);
    let lines = [
        "audit replay --config gate.toml --dry-run",
        "audit replay --config gate.toml --json",
        "audit replay --config gate.toml",
        "audit replay --config gate.toml --merge",
        "audit replay --config absent.toml",
    ];
    let mut told: Vec<String> = lines.iter().map(|line| run(&site, line)).collect();
    let file = site.path().join("state/audit.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("t-1", "t-9")).unwrap();
    told.push(run(&site, "audit replay --config gate.toml --merge"));
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn damage_is_accepted() {
    let site = site();
    let mut told =
        vec![run(&site, "audit accept --config gate.toml --at audit.jsonl:2 --actor me --reason seen")];
    audited(&site, 9);
    let file = site.path().join("state/audit.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"t-0\"", "\"t-9\"").replace("0006", "0009")).unwrap();
    for line in [
        "audit verify --dir state",
        "audit verify --dir state --json",
        "audit accept --config gate.toml --at audit.jsonl:3 --actor me --reason seen",
        "audit accept --config gate.toml --at somewhere --actor me --reason seen",
        "audit accept --config gate.toml --at audit.jsonl:1",
        // An opening puts the file aside, for its first line is damaged; what was examined is accepted all the same.
        "audit accept --config gate.toml --at state/audit.jsonl:1 --actor me --reason seen --json",
        "audit verify --dir state",
        "audit accept --config gate.toml --at audit.00000000000000000009.jsonl:7 --at audit.jsonl:1 --actor me --reason seen",
    ] {
        told.push(run(&site, line));
    }
    insta::assert_snapshot!(told.join("\n"));
    let whole = run(&site, "audit verify --dir state");
    assert!(whole.contains("state: whole from 3 on: 10 events in 2 files"), "{whole}");
    let accepted = "audit.jsonl:1: it was changed: its hash does not fit it (at 11, by me: seen)";
    assert!(whole.contains(accepted), "{whole}");
}
