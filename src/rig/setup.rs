//! The machine and the command line, as findings name them.

use std::fs;

use super::findings::Setup;

/// What this process can say of where it runs; what cannot be read is empty.
pub fn setup() -> Setup {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let system = format!("{}, kernel {}", name.unwrap_or("").trim_matches('"'), kernel.trim());
    let kib = value(&meminfo, "MemTotal").and_then(|value| value.split(' ').next()?.parse::<u64>().ok());
    Setup {
        portcullis: env!("CARGO_PKG_VERSION").to_owned(),
        command: shown(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned())),
        system: system.trim_start_matches(", ").to_owned(),
        processor: value(&cpuinfo, "model name").unwrap_or_default().to_owned(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory: kib.unwrap_or_default() * 1024,
    }
}

/// A command line without what may hold credentials: the values of headers, bodies and queries, and all but the names
/// of commands. Reports are posted.
fn shown(args: impl Iterator<Item = String>) -> Vec<String> {
    let mut hides = None::<fn(&str) -> String>;
    let shown = |arg: String| match (hides.take(), arg.split_once('=')) {
        (Some(shows), _) => shows(&arg),
        (None, Some((option, value))) if option.starts_with("--") => {
            format!("{option}={}", way(option).unwrap_or(shown_url)(value))
        }
        (None, _) => {
            hides = way(&arg);
            shown_url(&arg)
        }
    };
    args.map(shown).collect()
}

/// How the value of an option is shown, if not as it is.
fn way(option: &str) -> Option<fn(&str) -> String> {
    match option {
        "--revoke-body" => Some(hidden),
        "--revoke-with" | "--recover-with" => Some(shown_command),
        option if option.starts_with("--") && option.ends_with("header") => Some(hidden),
        _ => None,
    }
}

/// The name of a command, without what it is told.
pub(super) fn shown_command(command: &str) -> String {
    let mut words = command.split_whitespace();
    match (words.next(), words.next()) {
        // An assignment, or the beginning of a script.
        (Some(name), _) if name.contains(['=', '$', '"', '\'', '(']) => "...".to_owned(),
        (Some(name), Some(_)) => format!("{name} ..."),
        (name, _) => name.unwrap_or_default().to_owned(),
    }
}

/// A URL without its query; anything else as it is.
pub(super) fn shown_url(text: &str) -> String {
    match text.split_once('?') {
        Some((url, _)) if url.starts_with("https://") || url.starts_with("http://") => format!("{url}?..."),
        _ => text.to_owned(),
    }
}

/// The name of a header, without its value.
fn hidden(value: &str) -> String {
    value.split_once(':').map_or("...".to_owned(), |(name, _)| format!("{name}: ..."))
}

/// The value behind `name:`, as `/proc` has it.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        let given = [
            "portcullis",
            "drill",
            "--revoke-header",
            "Authorization: Bearer s3cret",
            "--revoke-body=s3cret",
            "--rate",
            "5",
            "--victim-header=x-key: s3cret",
            "--header",
            "s3cret",
            "--label",
            "a: b=c",
            "--revoke-with",
            "curl -H 's3cret' https://a/",
            "--recover-with=TOKEN=s3cret issue",
            "--url=https://a/x?key=s3cret",
            "https://a/?s3cret",
        ];
        let told = shown(given.map(str::to_owned).into_iter()).join(" ");
        assert_eq!(
            told,
            "portcullis drill --revoke-header Authorization: ... --revoke-body=... --rate 5 \
             --victim-header=x-key: ... --header ... --label a: b=c \
             --revoke-with curl ... --recover-with=... --url=https://a/x?... https://a/?..."
        );
    }
}
