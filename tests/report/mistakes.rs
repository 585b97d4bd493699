//! What cannot be read is named, and nothing is written.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;

use crate::samples;

fn report(folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("report").args(args).current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Whoever reads no input has closed it by now.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_file_that_is_no_findings_is_named_with_its_line_and_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let good = serde_json::to_value(samples::proxies()).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        serde_json::to_string_pretty(&value).unwrap()
    };
    let later = changed(&|value| value["format"] = 2.into());
    let unknown = changed(&|value| value["found"]["proxies"]["costs"][1]["price"] = 1.into());
    let files = [
        ("later.json", later.as_str(), "later.json: is of format 2, and this version reads up to 1"),
        ("unknown.json", &unknown, "unknown.json: found.proxies.costs[1].price: unknown field `price`"),
        ("cut.json", &later[..200], "cut.json: EOF while parsing"),
        ("page.json", "<html>", "page.json: expected value at line 1 column 1"),
        ("empty.json", "", "empty.json: EOF while parsing a value at line 1"),
        ("other.json", "{}", "other.json: missing field `format`"),
    ];
    fs::write(folder.path().join("good.json"), good.to_string()).unwrap();
    for (name, content, told) in files {
        fs::write(folder.path().join(name), content).unwrap();
        let output = report(folder.path(), &["--out", "report.html", "good.json", name], b"");
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(text(&output.stderr).contains(&format!("report: {told}")), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("line") || name == "later.json", "{}", text(&output.stderr));
        assert!(!folder.path().join("report.html").exists() && output.stdout.is_empty());
    }
    let output = report(folder.path(), &["none.json", "later.json"], b"");
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(2), 2));
}

#[test]
fn it_reads_standard_input_and_writes_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let input = serde_json::to_vec(&samples::proxies()).unwrap();
    let output = report(folder.path(), &["-"], &input);
    assert!(
        output.status.success() && output.stdout.starts_with(b"<!DOCTYPE html>\n"),
        "{}",
        text(&output.stderr)
    );
    let output = report(folder.path(), &["-", "-"], &input);
    assert_eq!(output.status.code(), Some(2));
    let output = report(folder.path(), &["--out", "/dev/null", "-"], &input);
    assert!(output.status.success() && !fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn a_report_replaces_an_older_one_but_never_what_it_is_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let input = serde_json::to_vec(&samples::proxies()).unwrap();
    let (findings, out) = (folder.path().join("a.json"), folder.path().join("report.html"));
    fs::write(&findings, &input).unwrap();
    fs::write(&out, "older").unwrap();
    assert!(report(folder.path(), &["--out", "report.html", "a.json"], b"").status.success());
    assert!(fs::read(&out).unwrap().starts_with(b"<!DOCTYPE"));
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o600, 0o600);
    let output = report(folder.path(), &["--out", "a.json", "a.json"], b"");
    assert_eq!((output.status.code(), fs::read(&findings).unwrap()), (Some(2), input));
    let output = report(folder.path(), &["--out", "missing/report.html", "a.json"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something is left behind");
}
