//! The entries that still refuse the principal of a reinstatement, and the commands that lift them.

use std::path::Path;

use serde_json::Value;
use serde_json::json;

use super::order::Change;
use crate::revocation::Action;
use crate::revocation::Level;

/// The most entries and principals that are named.
const NAMED: usize = 10;
/// The level of the entries that `--all-names` lifts.
const OF_NAMES: &str = "principal";

/// The entries that still refuse the principal of a reinstatement, a line each.
pub(super) fn still_refused(document: &Value) -> Vec<String> {
    document["still_refused"].as_array().into_iter().flatten().map(entry).collect()
}

/// An entry in words.
pub(super) fn entry(entry: &Value) -> String {
    let reason = entry["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let [level, target, state, since] =
        ["level", "target", "state", "since"].map(|name| entry[name].as_str().unwrap_or_default());
    let unsigned = if entry["unsigned"] == Value::Bool(true) { " by an unsigned message" } else { "" };
    format!("{level} {target}, {state}{unsigned} since {since}{reason}")
}

/// The options and commands that lift the entries that still refuse `subject`, a line each. `credential` are the options of a
/// command that say who calls.
pub(super) fn remedies(document: &Value, subject: &str, credential: &str) -> Vec<String> {
    let entries = document["still_refused"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_name = |entry: &&Value| entry["level"] == OF_NAMES;
    let mut remedies = Vec::new();
    if entries.iter().any(|entry| is_name(&entry)) {
        let others = also_lets_in(document).map(|others| format!("; this also lets in: {others}"));
        let others = others.unwrap_or_default();
        remedies.push(format!("with --all-names the other names of {subject} are lifted too{others}"));
    }
    let mut commands: Vec<String> = Vec::new();
    for entry in entries.iter().filter(|entry| !is_name(entry)) {
        let [level, target] = ["level", "target"].map(|name| entry[name].as_str().unwrap_or_default());
        let command = format!("{level} {target} is lifted by: {}{credential}", command(entry));
        if !commands.contains(&command) {
            commands.push(command);
        }
    }
    let all = commands.len();
    remedies.extend(commands.into_iter().take(NAMED));
    if all > NAMED {
        remedies.push(format!("and {} more", all - NAMED));
    }
    remedies
}

/// How a caller comes back whom a revocation or suspension shut out. `certificate` is the file of the certificate that it is about,
/// or of the caller's own.
pub(super) fn way_back(change: &Change, certificate: Option<&Path>) -> String {
    match (change.level, certificate) {
        (Level::Token, _) => {
            return "come back with --secret-file FILE: the secret buys another token".to_owned();
        }
        (Level::Principal, _) if change.target.starts_with("secret:") => {
            return "come back with another secret; or give this one another name in the configuration, and restart"
                .to_owned();
        }
        _ => {}
    }
    let state = if change.action == Action::Revoke { "revoked" } else { "suspended" };
    let entry = json!({"level": change.level.name(), "target": change.target, "issuer": change.issuer, "state": state});
    let command = match (change.level, certificate) {
        // By its file: a serial alone may be that of several authorities' certificates.
        (Level::Certificate, Some(file)) => {
            let force = if change.action == Action::Revoke { " --force" } else { "" };
            format!("portcullis reinstate --certificate {}{force}", quoted(&file.display().to_string()))
        }
        _ => command(&entry),
    };
    format!("come back with: {command} --secret-file FILE (docs/admin.md, \"Locked out\")")
}

/// The other principals that a reinstatement under all names lets in, if there are any.
pub(super) fn also_lets_in(document: &Value) -> Option<String> {
    let others = document["also_lets_in"].as_array().into_iter().flatten().filter_map(Value::as_str);
    few(&others.collect::<Vec<_>>())
}

/// The first ones, and how many more there are; `None` of nothing.
pub(super) fn few(all: &[&str]) -> Option<String> {
    let named = all.get(..NAMED).unwrap_or(all).join(", ");
    match all.len() {
        0 => None,
        1..=NAMED => Some(named),
        all => Some(format!("{named}, and {} more", all - NAMED)),
    }
}

/// The command that lifts an entry.
pub(super) fn command(entry: &Value) -> String {
    let text = |name: &str| entry[name].as_str();
    let mut command = "portcullis reinstate".to_owned();
    for name in ["level", "target", "issuer"] {
        if let Some(value) = text(name) {
            command += &format!(" --{name} {}", quoted(value));
        }
    }
    if text("state") == Some("revoked") {
        command += " --force";
    }
    command
}

/// A word as a shell reads it back: what a certificate says may have any characters.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_another_level_has_a_command_that_a_shell_reads_back() {
        let entry = |level: &str, target: &str, state: &str| json!({"level": level, "target": target, "state": state});
        let mut certificate = entry("certificate", "0a1b", "suspended");
        certificate["issuer"] = "3b55".into();
        let document = json!({"still_refused": [
            certificate, certificate, entry("task", "t'; reboot #", "revoked"),
        ]});
        let expected = [
            "certificate 0a1b is lifted by: portcullis reinstate --level certificate --target 0a1b --issuer 3b55",
            r"task t'; reboot # is lifted by: portcullis reinstate --level task --target 't'\''; reboot #' --force",
        ];
        assert_eq!(remedies(&document, "principal a", ""), expected);
        let with_a_secret = remedies(&document, "principal a", " --secret-file s");
        assert_eq!(with_a_secret, expected.map(|command| format!("{command} --secret-file s")));
    }

    #[test]
    fn long_lists_are_cut() {
        let many: Vec<String> = (0..12).map(|i| format!("p{i}")).collect();
        let told = also_lets_in(&json!({"also_lets_in": many})).unwrap();
        assert!(told.starts_with("p0, p1") && told.ends_with("p9, and 2 more"), "{told}");
        assert_eq!(also_lets_in(&json!({})), None);
    }
}
