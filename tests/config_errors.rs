//! What is wrong with a configuration is said with file, line, key and reason.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::path::Path;

use portcullis::config::Config;

const GOOD: &str = r#"[gate]
listen = "127.0.0.1:0"
[gate.tls]
cert = "server.pem"
key = "server.key"
client_ca = ["ca.pem"]
[identity]
trust_domains = ["lab.test"]
templates = ["spiffe://{trust_domain}/agent/{agent}"]
claim = { header = "x-agent-id" }
[[route]]
upstream = ["http://127.0.0.1:9000"]
[admin]
listen = "127.0.0.1:0"
allow = ["spiffe://lab.test/admin/ops"]
[state]
dir = "state"
"#;

/// What stands in the good one, what takes its place, and how the error begins.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("[identity]", "[identity", "dir/gate.toml:7: "),
    ("cert =", "crt =", "dir/gate.toml:4: gate.tls.crt: unknown field `crt`"),
    ("cert = \"server.pem\"\n", "", "dir/gate.toml:3: gate.tls.cert: missing field `cert`"),
    ("[state]\ndir = \"state\"\n", "", "dir/gate.toml: state: missing field `state`"),
    (
        "\"127.0.0.1:0\"\n[gate.tls]",
        "\"here\"\n[gate.tls]",
        "dir/gate.toml:2: gate.listen: invalid socket address",
    ),
    ("\"lab.test\"]", "\"Lab.test\"]", "dir/gate.toml:8: identity.trust_domains[0]: trust domain `Lab.test`"),
    ("{agent}\"", "x{agent}\"", "dir/gate.toml:9: identity.templates[0]: template `"),
    (
        "{ header = \"x-agent-id\" }",
        "{ header = \"a b\" }",
        "dir/gate.toml:10: identity.claim: `a b` is not a header",
    ),
    (
        "claim = {",
        "claim_scope = \"tenant\"\nclaim = {",
        "dir/gate.toml:10: identity.claim_scope: unknown variant `tenant`",
    ),
    (
        "/agent/{agent}\"]\nclaim = { header = \"x-agent-id\" }",
        "/{tenant}/agent/{agent}\"]\nclaim = { path = \"/agents/{agent}/\" }",
        "dir/gate.toml:10: identity.claim: two agents under `spiffe://{trust_domain}/{tenant}/agent/{agent}` may have",
    ),
    ("{ header = \"x-agent-id\" }", "\"nothing\"", "dir/gate.toml:10: identity.claim: invalid value"),
    ("http://127", "ftp://127", "dir/gate.toml:12: route[0].upstream[0]: `ftp://127.0.0.1:9000`"),
    (
        "[\"http://127.0.0.1:9000\"]",
        "\"app\"",
        "dir/gate.toml:12: route[0].upstream: there is no [upstream.app]",
    ),
    (
        "[\"http://127.0.0.1:9000\"]",
        "7",
        "dir/gate.toml:12: route[0].upstream: invalid type: integer `7`, expected the name",
    ),
    (
        "[[route]]",
        "[[route]]\nhost = \"a:80\"",
        "dir/gate.toml:12: route[0].host: `a:80`: a host is a name without a port",
    ),
    (
        "[admin]",
        "[upstream.a]\nendpoints = []\n[admin]",
        "dir/gate.toml:14: upstream.a.endpoints: names no endpoint",
    ),
    (
        "[admin]",
        "[upstream.a]\nendpoints = [\"http://a\"]\ntls = { ca = \"x\" }\n[admin]",
        "dir/gate.toml:15: upstream.a.tls: none of its endpoints is `https://`",
    ),
    (
        "[admin]",
        "[upstream.a]\nendpoints = [\"http://a\"]\nretry = { budget = 2.0 }\n[admin]",
        "dir/gate.toml:15: upstream.a.retry.budget: from 0 to 1",
    ),
    ("[[route]]\nupstream = [\"http://127.0.0.1:9000\"]\n", "", "dir/gate.toml: route: at least one"),
    ("[\"http://127.0.0.1:9000\"]", "[]", "dir/gate.toml:12: route[0].upstream: names no upstream"),
    ("[\"ca.pem\"]", "[]", "dir/gate.toml:6: gate.tls.client_ca: names no file"),
    ("[\"ca.pem\"]", "[3]", "dir/gate.toml:6: gate.tls.client_ca[0]: expected a file name"),
    (
        "lab.test/admin",
        "other.test/admin",
        "dir/gate.toml:15: admin.allow[0]: `spiffe://other.test/admin/ops`",
    ),
    (
        "[state]",
        "[log.access]\nfile = \"access.jsonl\"\nsample = 2.0\n[state]",
        "dir/gate.toml:18: log.access.sample: `2`: a share from 0 to 1",
    ),
    #[cfg(not(feature = "otel"))]
    (
        "[state]",
        "[trace]\nendpoint = \"http://127.0.0.1:4318/v1/traces\"\n[state]",
        "dir/gate.toml:16: trace: this program was built without traces: build it with `--features otel`",
    ),
    #[cfg(feature = "otel")]
    (
        "[state]",
        "[trace]\nendpoint = \"https://collector.test/\"\n[state]",
        "dir/gate.toml:17: trace.endpoint: `https://collector.test/`: an endpoint is `http://HOST:PORT/PATH`",
    ),
    ("[admin]", "[admin]\nrole = 1", "dir/gate.toml:14: admin.role: unknown field `role`"),
    (
        "[state]",
        "[[feed.crl]]\nurl = \"ldap://u:secret@pki/\"\n[state]",
        "dir/gate.toml:17: feed.crl[0].url: not a URL that can be fetched: neither `https:` nor",
    ),
    (
        "[state]",
        "[[feed.crl]]\nurl = \"http://169.254.169.254/\"\n[state]",
        "dir/gate.toml:17: feed.crl[0].url: not a URL that can be fetched: its address 169.254.169.254 is link-local",
    ),
    (
        "[state]",
        "[[feed.crl]]\nurl = \"http://pki/\"\ninterval = \"2h\"\n[state]",
        "dir/gate.toml:16: feed.crl[0].max_age: shorter than `interval`",
    ),
    (
        "[admin]",
        "[gate.limits]\nhandshakes = 0\n[admin]",
        "dir/gate.toml:14: gate.limits.handshakes: at least 1",
    ),
    ("[admin]", "[gate.limits]\nburst = 1\n[admin]", "dir/gate.toml:14: gate.limits.burst: of nothing"),
    (
        "127.0.0.1:0\"\n[gate.tls]",
        "127.0.0.1:9000\"\n[gate.tls]",
        "dir/gate.toml:12: route[0].upstream[0]: `http://127.0.0.1:9000` is gate.listen",
    ),
    (
        "127.0.0.1:0\"\nallow",
        "0.0.0.0:9000\"\nallow",
        "dir/gate.toml:12: route[0].upstream[0]: `http://127.0.0.1:9000` is admin.listen",
    ),
    (
        "[admin]\nlisten = \"127.0.0.1:0\"",
        "[upstream.a]\nendpoints = [\"http://b\", \"https://localhost:9001\"]\n[admin]\nlisten = \"[::]:9001\"",
        "dir/gate.toml:14: upstream.a.endpoints[1]: `https://localhost:9001` is admin.listen",
    ),
    (
        "[state]",
        "[metrics]\nlisten = \"127.0.0.1:9000\"\n[state]",
        "dir/gate.toml:12: route[0].upstream[0]: `http://127.0.0.1:9000` is metrics.listen",
    ),
    (
        "127.0.0.1:0\"\nallow = [\"spiffe://lab.test/admin/ops\"]\n",
        "127.0.0.1:9443\"\nallow = [\"spiffe://lab.test/admin/ops\"]\n[metrics]\nlisten = \"[::ffff:127.0.0.1]:9443\"\n",
        "dir/gate.toml:17: metrics.listen: the same address as admin.listen",
    ),
    ("[identity]", "-----BEGIN CERTIFICATE-----", "dir/gate.toml:7: no TOML: "),
    ("[admin]", "[audit]\nmax_bytes = 4095\n[admin]", "dir/gate.toml:14: audit.max_bytes: at least 4096"),
];

fn error(text: &str, environment: &[(&str, &str)]) -> String {
    let environment: Vec<(String, String)> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let loaded = Config::parse(Path::new("dir/gate.toml"), text.to_owned(), &environment);
    loaded.err().map_or_else(|| "no error".into(), |e| e.to_string())
}

#[test]
fn the_good_one_is_good() {
    assert_eq!(error(GOOD, &[]), "no error");
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let with = |old: &str, new: &str| {
        assert!(GOOD.contains(old), "{old}");
        error(&GOOD.replace(old, new), &[])
    };
    for (old, new, expected) in MISTAKES {
        let actual = with(old, new);
        assert!(actual.starts_with(expected), "{new}\n  expected {expected}\n  actual   {actual}");
    }
}

/// Seen failing with a configuration that loads: the system would deal clients out to both listeners.
#[test]
fn no_two_listeners_have_one_address() {
    let at = |gate: &str, admin: &str, metrics: &str| {
        let listen = |section: &str| format!("PORTCULLIS__{section}__LISTEN");
        let names = ["GATE", "ADMIN", "METRICS"].map(listen);
        error(GOOD, &[(names[0].as_str(), gate), (names[1].as_str(), admin), (names[2].as_str(), metrics)])
    };
    let (one, other, third) = ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3");
    assert_eq!(at(one, other, third), "no error");
    assert_eq!(at("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"), "no error");
    assert_eq!(at(one, "127.0.0.2:1", "[::1]:1"), "no error");
    for (told, reason) in [
        (at(one, one, third), "admin.listen: the same address as gate.listen"),
        (at(one, other, one), "metrics.listen: the same address as gate.listen"),
        (at(one, other, other), "metrics.listen: the same address as admin.listen"),
    ] {
        assert!(told.ends_with(reason), "{told}");
    }
}

#[test]
fn the_environment_overrides_and_is_named_when_it_is_wrong() {
    assert_eq!(
        error(GOOD, &[("PORTCULLIS__GATE__LISTEN", "127.0.0.1:1"), ("PORTCULLIS__GATE__THREADS", "3")]),
        "no error"
    );
    let named = "environment variable PORTCULLIS__GATE__THREADS: gate.threads: ";
    assert!(error(GOOD, &[("PORTCULLIS__GATE__THREADS", "many")]).starts_with(named));
    let unknown = "environment variable PORTCULLIS__GATE__TREADS: gate.treads: unknown field `treads`";
    assert!(error(GOOD, &[("PORTCULLIS__GATE__TREADS", "3")]).starts_with(unknown));
    let required = "environment variable SB_AGENT_MTLS_REQUIRED: route: `perhaps`: true or false";
    assert_eq!(error(GOOD, &[("SB_AGENT_MTLS_REQUIRED", "perhaps")]), required);
}

#[test]
fn the_bridge_settings_are_honoured() {
    let environment = [("SB_AGENT_MTLS_CA_FILE", "bridge.pem"), ("SB_AGENT_MTLS_REQUIRED", "false")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::parse(Path::new("dir/gate.toml"), GOOD.to_owned(), &environment).unwrap();
    assert!(format!("{:?}", config.gate.tls.client_ca).contains("dir/bridge.pem"));
    assert!(config.route.iter().all(|route| route.demand == portcullis::proxy::Demand::None));
}
