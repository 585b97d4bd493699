//! What is different at a terminal: questions, colours, progress.

use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::process::Command;

use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::json;

use crate::stub::Reply;
use crate::stub::Stub;
use crate::stub::radius;

/// What a program said, and its exit code.
struct Seen {
    code: Option<i32>,
    text: String,
}

/// Runs a program at a terminal, at which `typed` is typed ahead.
fn at_terminal(mut program: Command, typed: &str) -> Seen {
    let pty = openpty(None, None).unwrap();
    let mut child = {
        let end = || pty.slave.try_clone().unwrap();
        program.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    };
    // What still holds the other end would keep this one from ending: the builder and the pair itself.
    drop(program);
    drop(pty.slave);
    let mut master = File::from(pty.master);
    master.write_all(typed.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    // Linux tells the end as an error.
    while let Ok(some @ 1..) = master.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..some]);
    }
    let text = String::from_utf8(bytes).unwrap().replace("\r\n", "\n");
    Seen { code: child.wait().unwrap().code(), text }
}

fn seen(stub: &Stub, line: &str, typed: &str) -> String {
    let seen = at_terminal(stub.command(line), typed);
    let asked = stub.asked().join("\n");
    stub.masked(&format!(
        "$ portcullis {line}\nexit code {:?}\n{}\n--- asked\n{asked}\n",
        seen.code, seen.text
    ))
}

fn replies() -> Vec<Reply> {
    let done = json!({"id": "01", "level": "trust_domain", "target": "lab.test", "generation": 7, "sessions_ended": 12});
    vec![Reply::Json(200, radius(true)), Reply::Json(200, done)]
}

/// Seen failing with `yes` as the default.
#[test]
fn a_mass_revocation_asks_and_the_default_is_no() {
    let line = "revoke --level trust_domain --target lab.test";
    for typed in ["\n", "n\n", "\u{4}", "ye\n"] {
        let stub = Stub::start(replies());
        let seen = at_terminal(stub.command(line), typed);
        assert_eq!((seen.code, stub.asked().len()), (Some(1), 1), "{typed:?}: {}", seen.text);
        assert!(seen.text.contains("not confirmed; nothing was changed"), "{typed:?}: {}", seen.text);
    }
    insta::assert_snapshot!(seen(&Stub::start(replies()), line, "y\n"));
}

#[test]
fn a_list_asks_at_a_terminal_and_a_single_target_does_not() {
    let answers = json!([{"status": 200, "result": radius(false)}, {"status": 200, "result": radius(false)}]);
    let stub =
        Stub::start(vec![Reply::Json(200, json!({"answers": answers, "done": 2, "refused": 0})), Reply::All]);
    stub.write("list", "task a\ntask b\n");
    let seen = at_terminal(stub.command("revoke --file list"), "n\n");
    assert_eq!((seen.code, stub.asked().len()), (Some(1), 1), "{}", seen.text);
    assert!(seen.text.contains("revoke 2 targets (list) and end 24 sessions? [y/N]"), "{}", seen.text);
    let stub = Stub::start(vec![Reply::All, Reply::All]);
    stub.write("list", "task a\n");
    assert_eq!(at_terminal(stub.command("revoke --file list"), "").code, Some(0));
}

/// Seen failing with the first call that breaks off told as any other.
#[test]
fn a_list_that_shuts_its_caller_out_names_the_way_back() {
    let answers = json!([{"status": 200, "result": radius(true)}]);
    let foreseen = Reply::Json(200, json!({"answers": answers, "done": 1, "refused": 0}));
    let stub = Stub::start(vec![foreseen, Reply::HangUp]);
    stub.write("list", "principal spiffe://lab.test/admin/ops\n");
    let seen = at_terminal(stub.command("revoke --file list"), "y\n");
    assert_eq!(stub.asked().len(), 2, "{}", seen.text);
    let back = "come back with: portcullis reinstate --level principal --target spiffe://lab.test/admin/ops --force --secret-file FILE";
    for told in ["this includes YOU", "that was you", back] {
        assert!(seen.text.contains(told), "no `{told}` in {}", seen.text);
    }
}

/// Seen failing with a dry run that listened for signals: Ctrl-C was swallowed, and the question still stood.
#[test]
fn ctrl_c_ends_the_question() {
    let answers = json!([{"status": 200, "result": radius(false)}, {"status": 200, "result": radius(false)}]);
    let stub =
        Stub::start(vec![Reply::Json(200, json!({"answers": answers, "done": 2, "refused": 0})), Reply::All]);
    stub.write("list", "task a\ntask b\n");
    let pty = openpty(None, None).unwrap();
    let mut program = stub.command("revoke --file list");
    let end = || pty.slave.try_clone().unwrap();
    let mut child = program.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    drop(program);
    drop(pty.slave);
    let mut master = File::from(pty.master);
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("[y/N]") {
        let some = master.read(&mut buffer).unwrap();
        text += &String::from_utf8_lossy(&buffer[..some]);
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    // For a program that has swallowed it.
    let _ = master.write_all(b"n\n");
    assert_eq!((child.wait().unwrap().code(), stub.asked().len()), (None, 1));
}

#[test]
fn a_list_has_a_bar_unless_a_program_reads() {
    let list: String = (1..=1001).map(|number| format!("a-{number}\n")).collect();
    for (line, is_shown) in [
        ("revoke --level task --file list --yes", true),
        ("revoke --level task --file list --yes --json", false),
    ] {
        let stub = Stub::start(vec![Reply::All, Reply::All, Reply::All]);
        stub.write("list", &list);
        let seen = at_terminal(stub.command(line), "");
        assert_eq!((seen.code, seen.text.contains("of 1001")), (Some(0), is_shown), "{}", seen.text);
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let document = || {
        json!({"allowed": false, "code": "task_revoked", "sessions": 0, "hits": [
        {"state": "revoked", "applies": true, "level": "task", "target": "t"}]})
    };
    let check = |colourless: bool| {
        let stub = Stub::start(vec![Reply::Json(200, document())]);
        let mut program = stub.command("check --task t");
        if colourless {
            program.env("NO_COLOR", "1");
        }
        at_terminal(program, "").text
    };
    let coloured = check(false);
    assert!(
        coloured.contains("\x1b[31mwould be REFUSED\x1b[0m") && coloured.contains("\x1b[31mrevoked\x1b[0m")
    );
    assert!(!check(true).contains('\x1b'));
}

#[test]
fn a_document_is_indented_and_harmless() {
    let stub = Stub::start(vec![Reply::Json(200, json!({"version": "\u{9b}2J", "mode": "strict"}))]);
    let seen = at_terminal(stub.command("status --json"), "");
    assert_eq!(seen.text, "{\n  \"mode\": \"strict\",\n  \"version\": \"\\u009b2J\"\n}\n");
}
