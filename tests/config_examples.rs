//! The configurations in `config/` and in the README are read by the program as they stand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::path::Path;

use portcullis::config::Config;

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

/// What an example comments out must be the truth too: uncommented, it loads and changes nothing.
#[test]
fn the_commented_keys_of_the_sidecar_are_the_defaults() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sidecar.toml")).unwrap();
    let is_key = |rest: &str| {
        rest.starts_with('[') || rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line))
        .filter(|line| !line.starts_with("threads"))
        .collect();
    let (plain, full) = (load("plain.toml", &text), load("full.toml", &uncommented.join("\n")));
    let show = |config: &Config| {
        let Config { gate, revocation, log, .. } = config;
        format!("{gate:?} {revocation:?} {log:?}")
    };
    assert_ne!(text, uncommented.join("\n"));
    assert_eq!(show(&plain), show(&full));
}

#[test]
fn the_readme_shows_a_configuration() {
    let readme = include_str!("../README.md");
    let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    load("README.md", example);
}
