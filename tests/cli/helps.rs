//! What the program says of itself: help, completions, manual.

use std::io::Read as _;
use std::process::Stdio;

use crate::stub::ended;
use crate::stub::program;

const COMMANDS: [&str; 31] = [
    "",
    "run",
    "validate",
    "state",
    "state init",
    "demo",
    "revoke",
    "suspend",
    "reinstate",
    "revocations",
    "sessions",
    "sessions end",
    "status",
    "refresh",
    "advisory",
    "check",
    "audit",
    "audit list",
    "audit verify",
    "audit accept",
    "audit replay",
    "queue",
    "queue provision",
    "queue deprovision",
    "drill",
    "bench",
    "bench revocation",
    "bench proxy",
    "report",
    "completions",
    "man",
];

#[test]
fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        let mut program = program();
        program.args(command.split_whitespace()).arg("--help");
        let ended = ended(program);
        assert!(ended.out.contains("Examples:\n  "), "{command}: {}", ended.out);
        insta::assert_snapshot!(format!("help_{}", command.replace(' ', "_")), ended.shown());
    }
}

/// Seen failing with examples that stood in `after_help` alone: clap fills it like prose.
#[test]
fn an_example_is_never_broken() {
    for command in COMMANDS {
        let help = |columns: &str| {
            let mut program = program();
            program.args(command.split_whitespace()).arg("--help").env("COLUMNS", columns);
            ended(program).out
        };
        let examples = |help: &str| help.split_once("\nExamples:\n").unwrap().1.to_owned();
        assert_eq!(examples(&help("80")), examples(&help("400")), "{command}");
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut program = program();
        program.args(["completions", shell]);
        let ended = ended(program);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{shell}");
        for word in ["revocations", "correlation-id", "preemptive"] {
            assert!(ended.out.contains(word), "{shell}: no {word}");
        }
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let mut program = crate::stub::program();
    program.args(["man", "--dir"]).arg(&pages);
    ended(program).said(0, &[]);
    for command in COMMANDS {
        let name = format!("portcullis {command}").trim().replace(' ', "-");
        let page = std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        let title = format!(".TH {name} 1");
        assert!(page.contains(&title) && page.contains(".SH EXAMPLES\n.nf\n"), "{name}: {page}");
        assert!(!page.contains("Examples:\n") && !page.contains("Exit codes:"), "{name}: {page}");
    }
    assert_eq!(std::fs::read_dir(&pages).unwrap().count(), COMMANDS.len());
    let mut program = crate::stub::program();
    program.arg("man");
    let page = ended(program).out;
    for part in [".TH portcullis 1", "\n.SH \"EXIT STATUS\"\n0 done", "\n.SH \"ENVIRONMENT\"\n"] {
        assert!(page.contains(part), "no {part}: {page}");
    }
    let mut program = crate::stub::program();
    program.args(["man", "--dir", "/proc/nowhere"]);
    ended(program).said(1, &["portcullis: man: /proc/nowhere: "]);
}

/// Seen failing with `println!`, which panics.
#[test]
fn a_closed_pipe_is_no_panic() {
    for line in ["completions bash", "man", "--help"] {
        let mut program = program();
        program.args(line.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        drop(child.stdout.take());
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((err.as_str(), child.wait().unwrap().code()), ("", Some(0)), "{line}");
    }
}
