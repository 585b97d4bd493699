//! What cannot work does not start: the file, the line, the key and the reason are named, and the exit code tells
//! a wrong configuration from a failure.

use std::fs;
use std::net::TcpListener;

use crate::descriptors_run_out::limited;
use crate::lab::Lab;
use crate::pki::Ca;
use crate::process::Process;
use crate::process::Site;
use crate::process::ended;
use crate::upstream::Upstream;

/// Checks and runs a site that must not start; both must say so, with all of `words`.
async fn assert_refused(site: &Site, words: &[&str]) {
    for command in ["validate", "run"] {
        let ended = ended(site.command(command)).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{command}: {ended:?}");
        assert_eq!(ended.err.lines().count(), 1, "{command}: {}", ended.err);
        for word in words {
            assert!(ended.err.contains(word), "{command}: no `{word}` in {}", ended.err);
        }
    }
}

/// A file that is armoured as a certificate, and is none.
const GARBAGE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

#[tokio::test]
async fn files_that_cannot_be_used() {
    for (name, at) in [
        ("server.pem", ":5: gate.tls.cert: "),
        ("server.key", ":6: gate.tls.key: "),
        ("ca.pem", ":7: gate.tls.client_ca: "),
    ] {
        let site = Site::new();
        let full = site.path(name);
        let named = [&format!("portcullis.toml{at}"), full.to_str().unwrap()];
        let assert = async |reason: &str| assert_refused(&site, &[named[0], named[1], reason]).await;
        fs::remove_file(&full).unwrap();
        assert("No such file").await;
        // Whoever runs the tests, root too, cannot read a directory as a file.
        fs::create_dir(&full).unwrap();
        assert("Is a directory").await;
        fs::remove_dir(&full).unwrap();
        let nothing = if name == "server.key" { "holds no private key" } else { "holds no certificate" };
        for text in ["", "\0\0\0\0", "hello"] {
            site.write(name, text);
            assert(nothing).await;
        }
        site.write(name, GARBAGE);
        assert(if name == "server.key" { nothing } else { "not a certificate" }).await;
        site.write(name, "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n");
        assert("not PEM").await;
    }
}

#[tokio::test]
async fn one_bad_certificate_among_good_ones() {
    let site = Site::new();
    site.write("ca.pem", &format!("{}{GARBAGE}", site.root.pem()));
    assert_refused(&site, &["portcullis.toml:7: gate.tls.client_ca: ", "ca.pem", "not a certificate"]).await;
}

/// Seen failing with every certificate in these files taken for an authority.
#[tokio::test]
async fn certificates_of_no_authority() {
    let feed = |line: &str| format!("[[feed.crl]]\nurl = \"https://127.0.0.1:1/list\"\n{line}\n[state]\n");
    let upstream = "[[route]]\nupstream = \"app\"\n[upstream.app]\nendpoints = [\"https://127.0.0.1:1\"]\n\
                    tls = { ca = \"bad.pem\" }\n";
    for (old, new, key) in [
        ("[\"ca.pem\"]", "[\"bad.pem\"]", "gate.tls.client_ca: "),
        (
            "allow = [",
            "tls = { cert = \"server.pem\", key = \"server.key\", client_ca = [\"bad.pem\"] }\nallow = [",
            "admin.tls.client_ca: ",
        ),
        ("[[route]]\nupstream = [\"http://127.0.0.1:9000\"]\n", upstream, "upstream.app.tls.ca: "),
        ("[state]\n", &feed("ca = \"bad.pem\""), "feed.crl[0].ca: "),
        ("[state]\n", &feed("issuer = \"bad.pem\""), "feed.crl[0].issuer: "),
    ] {
        let site = Site::new();
        let leaf = site.root.agent("a");
        site.write("bad.pem", &format!("{}{}", site.root.pem(), leaf.pem));
        site.edit(old, new);
        let reason = "bad.pem: certificate 2: not the certificate of an authority";
        assert_refused(&site, &[key, reason]).await;
    }
}

#[tokio::test]
async fn a_key_of_another_certificate() {
    let site = Site::new();
    let (_, key) = Ca::root("lab").server();
    site.write("server.key", &key);
    assert_refused(
        &site,
        &[
            "portcullis.toml:6: gate.tls.key: ",
            "server.key: not the key of the certificate in ",
            "server.pem",
        ],
    )
    .await;
}

/// What to put in place of what in the configuration, and what must be said about it.
const NONSENSE: &[(&str, &str, &[&str])] = &[
    ("mode = \"strict\" ", "mood = \"strict\" ", &[":3: gate.mood: ", "unknown field `mood`"]),
    ("[gate.tls]\n", "[gate.tls]\nciphers = []\n", &[":5: gate.tls.ciphers: ", "unknown field `ciphers`"]),
    ("[state]", "[stat]", &[":23: stat: ", "unknown field `stat`"]),
    ("mode = \"strict\" ", "mode = \"strickt\" ", &[":3: gate.mode: ", "strickt"]),
    ("mode = \"strict\" ", "threads = \"two\" ", &[":3: gate.threads: ", "invalid type", "two"]),
    ("mode = \"strict\" ", "threads = 0 ", &[":3: gate.threads: ", "at least 1"]),
    ("mode = \"strict\" ", "threads = 5000 ", &[":3: gate.threads: ", "at most 1024"]),
    ("mode = \"strict\" ", "drain = 5 ", &[":3: gate.drain: ", "invalid type"]),
    ("[gate.tls]", "[gate.tls", &["portcullis.toml:4: "]),
    ("[gate.tls]", "[gate]", &["portcullis.toml:4: ", "duplicate key"]),
    ("[state]\ndir = \"state\"\n", "", &["portcullis.toml", "missing field `state`"]),
    ("dir = \"state\"\n", "", &[":23: state.dir: ", "missing field `dir`"]),
    (
        "[[route]]\nupstream = [\"http://127.0.0.1:9000\"]\n",
        "",
        &["portcullis.toml: route: ", "at least one"],
    ),
    ("[\"http://127.0.0.1:9000\"]", "[]", &[":13: route[0].upstream: ", "names no upstream"]),
    ("http://127.0.0.1:9000", "ftp://127.0.0.1:9000", &[":13: route[0].upstream[0]: ", "http://HOST:PORT"]),
    ("[\"lab.test\"]", "[\"Lab.test\"]", &[":9: identity.trust_domains[0]: "]),
    ("{agent}\"", "agent\"", &[":10: identity.templates[0]: ", "`{agent}` exactly once"]),
    (
        "{ header = \"x-agent-id\" }",
        "{ head = \"x-agent-id\" }",
        &[":11: identity.claim.head: ", "unknown field"],
    ),
    (
        "{ header = \"x-agent-id\" }",
        "{ header = \"x agent\" }",
        &[":11: identity.claim: ", "not a header name"],
    ),
    ("[\"ca.pem\"]", "[]", &[":7: gate.tls.client_ca: ", "names no file"]),
    ("spiffe://lab.test/admin/ops", "spiffe://other.test/ops", &[":16: admin.allow[0]: ", "no trust domain"]),
];

#[tokio::test]
async fn configurations_that_say_nothing_sensible() {
    for (old, new, words) in NONSENSE {
        let site = Site::new();
        site.edit(old, new);
        assert_refused(&site, words).await;
    }
}

#[tokio::test]
async fn a_configuration_that_is_not_there() {
    let site = Site::new();
    fs::remove_file(site.path("portcullis.toml")).unwrap();
    assert_refused(&site, &["portcullis.toml: ", "No such file"]).await;
}

#[tokio::test]
async fn an_environment_that_says_nothing_sensible() {
    let site = Site::new();
    for (variable, value, key) in [
        ("PORTCULLIS__GATE__LISTEN", "everywhere", "gate.listen: "),
        ("PORTCULLIS__GATE__MOOD", "strict", "gate.mood: "),
        ("SB_AGENT_MTLS_REQUIRED", "perhaps", "route: "),
        ("SB_AGENT_MTLS_CA_FILE", "/nowhere/ca.pem", "gate.tls.client_ca: /nowhere/ca.pem"),
    ] {
        let mut command = site.command("validate");
        command.env(variable, value);
        let ended = ended(command).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains(&format!("environment variable {variable}: {key}")), "{}", ended.err);
    }
}

#[tokio::test]
async fn ports_that_are_taken() {
    for section in ["gate", "admin", "metrics"] {
        let site = Site::new();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let mut command = site.command("run");
        command.env(format!("PORTCULLIS__{}__LISTEN", section.to_uppercase()), &address);
        let ended = ended(command).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let expected = format!("cannot listen on {address} ({section}.listen): Address already in use");
        assert!(ended.err.contains(&expected), "{}", ended.err);
        // `check` takes no ports, and does not ask whether others do.
        assert_eq!(crate::process::ended(site.command("validate")).await.code, Some(0));
    }
}

/// A second SO_REUSEPORT socket would bind silently, and take half of the connections. Seen failing without the probe.
#[tokio::test]
async fn the_port_of_another_gate() {
    let lab = Lab::start().await;
    let site = Site::new();
    let mut command = site.command("run");
    command.env("PORTCULLIS__GATE__LISTEN", lab.gate().to_string());
    let ended = ended(command).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains(&format!("cannot listen on {}", lab.gate())), "{}", ended.err);
}

/// Sockets for all threads are bound, and then there are no descriptors for their runtimes. Seen failing with runtimes made in
/// threads that nobody waits for: it said that it was up, and served with some of them.
#[tokio::test]
async fn threads_that_cannot_be_started() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    for (threads, descriptors) in [(200, 300), (60, 100), (30, 64)] {
        let mut command = site.run(upstream.address);
        command.env("PORTCULLIS__GATE__THREADS", threads.to_string());
        let ended = ended(limited(&command, descriptors)).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for word in ["cannot start the thread", "Too many open files", "gate.threads", "LimitNOFILE="] {
            assert!(ended.err.contains(word), "no `{word}` in {}", ended.err);
        }
        assert!(!ended.err.contains("portcullis is up"), "{}", ended.err);
    }
}

#[tokio::test]
async fn the_state_of_another_gate() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    let (_first, _) = Process::start(site.run(upstream.address)).await;
    let second = ended(site.run(upstream.address)).await;
    assert_eq!(second.code, Some(1), "{second:?}");
    let journal = site.path("state/revocations.redb");
    assert!(second.err.contains(journal.to_str().unwrap()), "{}", second.err);
    assert!(second.err.contains("in use by another process"), "{}", second.err);
    assert_eq!(ended(site.command("validate")).await.code, Some(0));
}

#[tokio::test]
async fn state_that_cannot_be_read() {
    let site = Site::new();
    site.write("state/revocations.redb", "these are no revocations");
    let run = ended(site.command("run")).await;
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(
        run.err.contains("revocations.redb") && run.err.contains("not a readable journal"),
        "{}",
        run.err
    );
    // Nor may the state be anything but a directory.
    let site = Site::new();
    fs::remove_dir_all(site.path("state")).unwrap();
    site.write("state", "");
    let run = ended(site.command("run")).await;
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.err.contains(site.path("state").to_str().unwrap()), "{}", run.err);
}

/// Two tenants may have agents of the same id: what that does to claims is said before the first of them is refused.
#[tokio::test]
async fn tenants_are_warned_of() {
    let site = Site::new();
    let warns = async |scope: &str| {
        let mut command = site.command("validate");
        command
            .env("PORTCULLIS__IDENTITY__TEMPLATES", "[\"spiffe://{trust_domain}/{tenant}/agent/{agent}\"]");
        command.env("PORTCULLIS__IDENTITY__CLAIM_SCOPE", scope);
        let ended = ended(command).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.err.contains("a claim of the agent id alone is refused") && ended.err.contains("{tenant}")
    };
    assert!(warns("principal").await);
    assert!(!warns("agent").await);
}

#[tokio::test]
async fn what_is_right_is_said_to_be() {
    let site = Site::new();
    fs::remove_dir_all(site.path("state")).unwrap();
    let ended = ended(site.command("validate")).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.out, format!("{}: ok\n", site.path("portcullis.toml").display()));
    assert!(!site.path("state").exists());
}

/// Seen failing with warnings as the JSON lines of the log, between the notes of the command.
#[tokio::test]
async fn what_validate_says_is_for_people() {
    let site = Site::new();
    fs::remove_dir_all(site.path("state")).unwrap();
    site.edit("[[route]]\n", "[[route]]\ndemand = \"none\"\n");
    site.edit("role = \"admin\"", "role = \"operator\"");
    // The log's filter is not for it.
    let mut command = site.command("validate");
    command.env("PORTCULLIS_LOG", "off");
    let ended = ended(command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<&str> = ended.err.lines().collect();
    let way_back = "add [[admin.secret]] with role = \"admin\" (docs/admin.md, \"Locked out\")";
    assert_eq!(lines.len(), 3, "{}", ended.err);
    assert_eq!(lines[0], "portcullis: warning: this route demands no client certificate (route: /)");
    assert!(
        lines[1].starts_with("portcullis: warning: no [[admin.secret]] has role")
            && lines[1].ends_with(way_back)
    );
    assert!(lines[2].starts_with("portcullis: note: ") && lines[2].contains("state init"), "{}", lines[2]);
}

/// Seen failing with filters that were taken for targets of libraries: nothing was logged.
#[tokio::test]
async fn a_filter_that_is_misspelt_silences_nothing() {
    let (site, upstream) = (Site::new(), Upstream::start().await);
    for (filter, is_named) in [("", false), ("warning", true), ("nonsense", true), ("h2=debug", false)] {
        let mut command = site.run(upstream.address);
        command.env("PORTCULLIS_LOG", filter);
        // It waits for the line that says that it is up.
        let (gate, _) = Process::start(command).await;
        let named = gate.log.iter().find(|line| line["value"] == filter);
        assert_eq!(named.is_some(), is_named, "{filter}: {:?}", gate.log);
        if let Some(line) = named {
            let message = line["message"].as_str().unwrap();
            assert!(message.contains("using `info`") && message.contains("info,h2=debug"), "{line}");
        }
        drop(gate);
    }
}

/// A certificate in place of the configuration. Seen failing with the words of the TOML reader.
#[tokio::test]
async fn a_certificate_is_no_configuration() {
    let site = Site::new();
    site.write("portcullis.toml", site.root.pem());
    assert_refused(&site, &["portcullis.toml:1: ", "a PEM file, and no TOML"]).await;
}
