//! A list of changes, one a line: TARGET, or LEVEL TARGET [ISSUER], or a JSON object.
//!
//! **Invariant:** a list is read as a whole or not at all; what is wrong is named by its line.

use std::io;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

use super::order::Change;
use super::order::ChangeArgs;
use super::order::Order;
use crate::clock::Timestamp;
use crate::revocation::Level;

/// A change, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    pub(super) change: Change,
}

/// What a list is called in messages.
pub(super) fn name(file: &Path) -> String {
    if is_stdin(file) { "stdin".into() } else { file.display().to_string() }
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// Reads a list. What the command line says beside it holds for every line that does not say otherwise.
///
/// # Errors
///
/// Everything that is wrong with it, a line each.
pub(super) fn read(args: &ChangeArgs, order: Order, file: &Path) -> Result<Vec<Line>, Vec<String>> {
    let mut bytes = Vec::new();
    let loaded = match is_stdin(file) {
        true => io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes),
        false => std::fs::read(file),
    };
    let name = name(file);
    let bytes = loaded.map_err(|error| vec![format!("{name}: {error}")])?;
    let (mut lines, mut faults) = (Vec::new(), Vec::new());
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = at + 1;
        let read = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned());
        match read.and_then(|line| parse(args, order, line)) {
            Ok(Some(change)) => lines.push(Line { number, change }),
            Ok(None) => {}
            Err(reason) => faults.push(format!("{name}:{number}: {reason}")),
        }
    }
    match (faults.is_empty(), lines.is_empty()) {
        (true, true) => Err(vec![format!("{name}: no change in it")]),
        (true, false) => Ok(lines),
        (false, _) => Err(faults),
    }
}

fn parse(args: &ChangeArgs, order: Order, line: &str) -> Result<Option<Change>, String> {
    let line = line.trim();
    if line.starts_with('{') {
        return object(args, order, line)?.checked().map(Some);
    }
    let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
    let level = |text: &str| text.parse::<Level>().map_err(|error| error.to_string());
    let change = match words.as_slice() {
        [] => return Ok(None),
        [target] => {
            let level = args.level.ok_or("a target alone needs --level")?;
            let issuer = args.issuer.clone().filter(|_| level == Level::Certificate);
            Change { issuer, ..args.change(order, level, target) }
        }
        [first, target] => args.change(order, level(first)?, target),
        [first, target, issuer] => {
            let issuer = Some((*issuer).to_owned());
            Change { issuer, ..args.change(order, level(first)?, target) }
        }
        _ => return Err("more than LEVEL TARGET ISSUER".into()),
    };
    change.checked().map(Some)
}

/// A change in the words of the admin API. What it leaves out is as the command line says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    action: Option<String>,
    level: Option<Level>,
    target: String,
    issuer: Option<String>,
    sha256: Option<String>,
    reason: Option<String>,
    issued_before: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    force: Option<bool>,
    all_names: Option<bool>,
    preemptive: Option<bool>,
}

fn object(args: &ChangeArgs, order: Order, line: &str) -> Result<Change, String> {
    let read: Object = serde_json::from_str(line).map_err(|error| fault(&error))?;
    if let Some(action) = read.action.filter(|action| action != order.name()) {
        return Err(format!("action `{action}` in a list for {}", order.name()));
    }
    let lifts = matches!(order, Order::Reinstate { .. });
    let given = [("force", read.force), ("all_names", read.all_names), ("preemptive", read.preemptive)];
    let foreign =
        |(name, value): &(&str, Option<bool>)| *value == Some(true) && lifts == (*name == "preemptive");
    if let Some((name, _)) = given.into_iter().find(foreign) {
        return Err(format!("{} knows no `{name}`", order.name()));
    }
    let level = read.level.or(args.level).ok_or("level is missing, and there is no --level")?;
    let change = args.change(order, level, &read.target);
    Ok(Change {
        issuer: read.issuer,
        sha256: read.sha256,
        reason: read.reason.or(change.reason),
        issued_before: read.issued_before.map(|at| at.to_string()).or(change.issued_before),
        expires_at: read.expires_at.map(|at| at.to_string()).or(change.expires_at),
        force: read.force.unwrap_or(change.force),
        all_names: read.all_names.unwrap_or(change.all_names),
        preemptive: read.preemptive.unwrap_or(change.preemptive),
        ..change
    })
}

/// Without the line, which is always 1 here.
fn fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(" at line 1 column ") {
        Some((reason, column)) => format!("{reason}, column {column}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::order::Unseen;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ChangeArgs,
    }

    fn read(options: &[&str], line: &str) -> Result<Option<Change>, String> {
        let all = ["x", "--file", "-"].iter().chain(options);
        let parsed = Line::try_parse_from(all).unwrap();
        parse(&parsed.args, Order::Revoke(Unseen::Refused), line)
    }

    fn fields(line: &str) -> (Level, String, Option<String>) {
        let change = read(&["--level", "certificate", "--issuer", "aa"], line).unwrap().unwrap();
        (change.level, change.target, change.issuer)
    }

    #[test]
    fn a_line_is_read_in_each_of_its_forms() {
        let issuer = || Some("aa".to_owned());
        assert_eq!(fields("0a1b"), (Level::Certificate, "0a1b".into(), issuer()));
        assert_eq!(fields(" serial=0A1B # lost\r"), (Level::Certificate, "0A1B".into(), issuer()));
        assert_eq!(fields("agent\tspiffe://a/b"), (Level::Principal, "spiffe://a/b".into(), None));
        let did = "principal did:x:y#z".to_owned();
        assert_eq!(fields(&did), (Level::Principal, "did:x:y#z".into(), None));
        assert_eq!(fields("certificate 0a bb"), (Level::Certificate, "0a".into(), Some("bb".into())));
        assert_eq!(fields(r#"{"target": "0a"}"#), (Level::Certificate, "0a".into(), None));
        assert_eq!(fields(r#"{"level": "task", "target": "t"}"#), (Level::Task, "t".into(), None));
        for nothing in ["", "  \r", "# all of it", "  # and this"] {
            assert_eq!(read(&[], nothing), Ok(None), "{nothing}");
        }
    }

    #[test]
    fn a_line_goes_before_the_command_line() {
        let options = ["--level", "task", "--reason", "r", "--issued-before", "5"];
        let plain = read(&options, "t").unwrap().unwrap();
        assert_eq!((plain.reason.as_deref(), plain.issued_before.as_deref()), (Some("r"), Some("5")));
        let line = r#"{"target": "t", "reason": "own", "issued_before": 7, "preemptive": true}"#;
        let own = read(&options, line).unwrap().unwrap();
        assert_eq!(own.reason.as_deref(), Some("own"));
        assert_eq!(own.issued_before.as_deref(), Some("1970-01-01T00:00:07.000Z"));
        assert!(own.preemptive && !plain.preemptive);
    }

    #[test]
    fn what_cannot_be_a_change_is_refused() {
        for (line, reason) in [
            ("t", "a target alone needs --level"),
            ("leaf t", "unknown level `leaf`"),
            ("task a b c", "more than LEVEL TARGET ISSUER"),
            ("task a b", "level task takes no issuer"),
            ("certificate xyz", "certificate `xyz`"),
            (r#"{"target": "t"}"#, "level is missing"),
            (r#"{"level": "task"}"#, "missing field `target`"),
            (r#"{"level": "task", "target": "t", "until": 1}"#, "unknown field `until`"),
            (
                r#"{"level": "task", "target": "t", "action": "suspend"}"#,
                "action `suspend` in a list for revoke",
            ),
            (r#"{"level": "task", "target": "t", "force": true}"#, "revoke knows no `force`"),
            (r#"{"level": "task", "#, "EOF"),
        ] {
            let refused = read(&[], line).unwrap_err();
            assert!(refused.starts_with(reason), "{line}: {refused}");
        }
    }
}
