//! The configurations in `config/` and in the README are read by the program as they stand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::path::Path;

use portcullis::authority::Role;
use portcullis::config::Config;
use portcullis::proxy::ClientCaConfig;
use portcullis::proxy::UpstreamConfig;
use portcullis::proxy::UpstreamTimeouts;

fn load(name: &str, text: &str) -> Config {
    Config::parse(Path::new(name), text.to_owned(), &[]).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_example_is_a_configuration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in root.join("config").read_dir().unwrap() {
        let path = entry.unwrap().path();
        load(path.to_str().unwrap(), &std::fs::read_to_string(&path).unwrap());
        count += 1;
    }
    assert!(count >= 2, "{count}");
}

/// An administrator comes back from any mistake. Seen failing with a secret that is commented out, one of another role, and an
/// administrator whom the agents' authority or trust domain takes along.
#[test]
fn every_example_has_a_way_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let toml = |text: &str| {
        let blocks = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
        blocks.collect::<Vec<_>>()
    };
    let whole = toml(&read("README.md")).remove(0);
    // The page shows the section alone.
    let gate = whole.split_once("[admin]").unwrap().0;
    let rest = "[state]\ndir = \"state\"\n";
    let section = toml(&read("docs/admin.md")).remove(0);
    let examples = [
        ("README.md", whole.clone()),
        ("docs/admin.md", format!("{gate}{section}{rest}")),
        ("config/edge.toml", read("config/edge.toml")),
        ("config/sidecar.toml", read("config/sidecar.toml")),
    ];
    for (name, text) in examples {
        let config = load(name, &text);
        let admin = config.admin.expect(name);
        assert!(admin.secret.iter().any(|secret| secret.role == Role::Admin), "{name}: no secret");
        let Some(tls) = &admin.tls else { continue };
        let agents = format!("{:?}", config.gate.tls.client_ca);
        for ca in &tls.client_ca {
            let ClientCaConfig::File(file) = ca else { panic!("{name}: {ca:?}") };
            assert!(!agents.contains(&format!("{file:?}")), "{name}: {file:?}");
        }
        let names = admin.roles().into_iter().flat_map(|(.., names)| names.to_vec());
        names.for_each(|id| {
            assert!(!id.starts_with("spiffe:"), "{name}: {id} is in the agents' trust domain")
        });
    }
}

/// What an example comments out must be the truth too: uncommented, it loads and changes nothing.
#[test]
fn the_commented_keys_of_the_sidecar_are_the_defaults() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sidecar.toml")).unwrap();
    // A route's host and claim have no default of their own.
    let is_key = |rest: &str| {
        if rest.starts_with("host =") || rest.starts_with("claim =") {
            return false;
        }
        rest.starts_with('[') || rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line))
        // These two depend on the machine, and the file says so.
        .filter(|line| !line.starts_with("threads = ") && !line.starts_with("connections = 1000 "))
        .collect();
    let (plain, full) = (load("plain.toml", &text), load("full.toml", &uncommented.join("\n")));
    let show = |config: &Config| {
        let Config { gate, route, revocation, audit, log, upstream, .. } = config;
        // What stands for `upstream.app` is never the default: but for its endpoints, TLS and health, the rest is. Its
        // timeouts are those of the gate.
        let plain = UpstreamConfig::of(Vec::new());
        let app = upstream.get("app").map(|app| UpstreamConfig {
            endpoints: Vec::new(),
            tls: plain.tls.clone(),
            health: None,
            ..app.clone()
        });
        let timeouts = UpstreamTimeouts {
            connect: Some(gate.timeouts.upstream_connect),
            queue: Some(gate.timeouts.upstream_connect),
            answer: Some(gate.timeouts.upstream_answer),
            body_idle: Some(gate.timeouts.body_idle),
            idle: Some(gate.timeouts.upstream_idle),
        };
        let app = app.unwrap_or(UpstreamConfig { timeouts, ..plain });
        format!("{gate:?} {route:?} {app:?} {revocation:?} {audit:?} {:?}", log.format)
    };
    assert_ne!(text, uncommented.join("\n"));
    assert_eq!(show(&plain), show(&full));
}

/// Whoever adds a key shows it in the sidecar's file, which has them all.
#[test]
fn the_sidecar_has_every_key() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = std::fs::read_to_string(root.join("config/sidecar.toml")).unwrap();
    let is_shown = |example: &str, key: &str, times: usize| {
        let assignment = format!("{key} = ");
        let assigned = example.match_indices(&assignment).filter(|(at, _)| {
            let before = example[..*at].chars().next_back();
            before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
        });
        assigned.count() >= times
            || [format!("[{key}]"), format!("[{key}."), format!(".{key}]")]
                .iter()
                .any(|t| example.contains(t))
    };
    // Of names that several sections have, each section shows its own; and of names that several of its structs have,
    // as many.
    let section = |name: &str| {
        let (_, rest) = example.split_once(name).unwrap();
        rest.split("\n[").next().unwrap().split("\n# [").next().unwrap()
    };
    let files = [
        "config.rs",
        "authority/access.rs",
        "authority/audit/mod.rs",
        "feed/mod.rs",
        "identity/mod.rs",
        "identity/binding.rs",
        "proxy/mod.rs",
        "proxy/route.rs",
        "revocation/mod.rs",
        "telemetry/access_log.rs",
        "telemetry/trace.rs",
    ];
    let sections = [
        ("proxy/upstream/config.rs", section("\n# [upstream.app]")),
        ("feed/sqs/mod.rs", section("\n# [feed.sqs]")),
        ("feed/crl/mod.rs", section("\n# [[feed.crl]]")),
        ("feed/clawdentity/mod.rs", section("\n# [[feed.clawdentity]]")),
    ];
    let files = files.map(|file| (file, example.as_str())).into_iter().chain(sections);
    let keys: Vec<(String, &str)> = files
        .flat_map(|(file, shown)| {
            let keys = keys(&root.join("src").join(file));
            assert!(!keys.is_empty(), "{file}");
            keys.into_iter().map(move |key| (key, shown))
        })
        .collect();
    assert!(keys.len() > 80, "{}", keys.len());
    let times = |key: &(String, &str)| keys.iter().filter(|other| *other == key).count();
    let missing: Vec<&String> = keys
        .iter()
        .filter(|key| !is_shown(key.1, &key.0, if key.1 == example { 1 } else { times(key) }))
        .map(|(key, _)| key)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The fields of all structs in a file that know no other fields, as configuration does.
fn keys(file: &Path) -> Vec<String> {
    let file = syn::parse_file(&std::fs::read_to_string(file).unwrap()).unwrap();
    let says = |attributes: &[syn::Attribute], word: &str| {
        let mut lists = attributes.iter().filter_map(|attribute| attribute.meta.require_list().ok());
        lists.any(|list| {
            list.path.is_ident("serde") && list.tokens.to_string().split([',', ' ']).any(|w| w == word)
        })
    };
    let structs = file.items.iter().filter_map(|item| match item {
        syn::Item::Struct(item) if says(&item.attrs, "deny_unknown_fields") => Some(item),
        _ => None,
    });
    let fields = structs.flat_map(|item| &item.fields).filter(|field| !says(&field.attrs, "skip"));
    fields.map(|field| field.ident.as_ref().unwrap().to_string()).collect()
}

#[test]
fn the_readme_shows_a_configuration() {
    let readme = include_str!("../README.md");
    let examples = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    // The first is a whole one; those that follow are added to it.
    let whole = examples.collect::<Vec<_>>();
    assert!(whole.len() >= 2);
    load("README.md", whole[0]);
    let config = load("README.md", &whole.concat());
    assert!(config.feed.sqs.is_some() && config.feed.crl.len() == 1 && config.feed.clawdentity.len() == 1);
}

/// An alert on a metric that nobody writes never fires.
#[test]
fn alerts_are_on_metrics_that_there_are() {
    let rules = include_str!("../deploy/prometheus/portcullis.rules.yml");
    let source = concat!(
        include_str!("../src/telemetry/mod.rs"),
        include_str!("../src/telemetry/log_queue.rs"),
        include_str!("../src/telemetry/traffic.rs")
    );
    let expressions = rules.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words = expressions.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let names: Vec<&str> = words.filter(|word| word.starts_with("portcullis_")).collect();
    assert!(names.len() >= 6, "{names:?}");
    for name in names {
        let name = name.trim_end_matches("_bucket");
        assert!(source.contains(&format!("\"{name}\"")), "{name}");
    }
}

/// The units are held against what the program takes from systemd; that systemd takes them is `systemd-analyze verify`'s.
#[test]
fn the_units_say_what_the_program_goes_by() {
    let (service, socket) = (
        include_str!("../deploy/systemd/portcullis.service"),
        include_str!("../deploy/systemd/portcullis.socket"),
    );
    let value = |unit: &'static str, key: &str| {
        let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let value = values.next().unwrap_or_else(|| panic!("{key}"));
        assert_eq!(values.next(), None, "{key} twice");
        value
    };
    assert_eq!((value(service, "Type"), value(service, "NotifyAccess")), ("notify", "main"));
    assert_eq!(value(service, "Requires"), "portcullis.socket");
    assert!(value(service, "ExecStart").ends_with("portcullis run --config /etc/portcullis/gate.toml"));
    assert_eq!(value(socket, "FileDescriptorName"), "gate");
    assert_eq!(value(socket, "Backlog"), "4096");
    let seconds = |key: &str| {
        let limit = humantime::parse_duration(value(service, key)).unwrap();
        assert!(limit.as_secs() > 0, "{key}");
        limit
    };
    let sidecar = load("sidecar.toml", include_str!("../config/sidecar.toml"));
    assert!(service.contains("portcullis state init --config /etc/portcullis/gate.toml"));
    assert!(seconds("TimeoutStopSec") > sidecar.gate.drain);
    seconds("WatchdogSec");
    for line in service.lines().chain(socket.lines()).filter(|line| !line.is_empty()) {
        assert!(line.starts_with(['#', '[']) || line.split_once('=').is_some(), "{line}");
    }
}
