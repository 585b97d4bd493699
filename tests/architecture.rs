//! The rooms of `src/` keep to their layers: a room uses only rooms below it, so the crate has a reading order.
//!
//! The check reads tokens, not types: it follows every path that starts at `crate`, `self`, `super` or `portcullis`,
//! wherever it stands (imports, expressions, types, visibilities, macro bodies, serde's quoted paths).
//! The planted sources at the end keep the check itself honest.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use syn::buffer::Cursor;
use syn::parse::ParseStream;
use syn::parse::Parser;

/// The rooms, lowest layer first. Rooms of one layer do not know each other.
const LAYERS: [&[&str]; 7] = [
    &["clock", "telemetry", "problem"],
    &["identity"],
    &["session"],
    &["revocation"],
    &["feed", "proxy", "authority"],
    &["config", "app"],
    &["rig", "cli", "main"],
];

/// The only uses inside one layer: (who, whom).
const BESIDE: [(&str, &str); 3] = [("app", "config"), ("cli", "rig"), ("main", "cli")];

#[test]
fn rooms_use_only_lower_rooms() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    let mut files = Vec::new();
    collect(&root, &mut files, &mut faults)?;
    assert!(!files.is_empty(), "no sources under {}", root.display());
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        faults.extend(judge(&name, &fs::read_to_string(&file)?));
    }
    assert!(faults.is_empty(), "the layers are broken:\n{}", faults.join("\n"));
    Ok(())
}

/// Gathers the Rust files below `folder`; a folder without any is a fault.
fn collect(folder: &Path, files: &mut Vec<PathBuf>, faults: &mut Vec<String>) -> io::Result<()> {
    let before = files.len();
    let mut entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files, faults)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    if files.len() == before {
        faults.push(format!("{}: a folder with no module in it", folder.display()));
    }
    Ok(())
}

/// Every fault of one file; `name` is its path below `src/`.
fn judge(name: &str, source: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let module = module_of(name);
    let room = module.first().map_or(name.trim_end_matches(".rs"), |room| room);
    if room != "lib" && layer(room).is_none() {
        faults.push(format!("src/{name}: no layer is known for the room `{room}`"));
    }
    if !opens_with_docs(room, source) {
        faults.push(format!("src/{name}: the first line must be a `//!` that says what lives here"));
    }
    if source.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with("//")) {
        faults.push(format!("src/{name}: the module holds nothing"));
    }
    if room == "feed" && decides_here(source) {
        faults.push(format!(
            "src/{name}: a feed hands its events to `Engine::apply`, never to `Engine::decide`"
        ));
    }
    match uses(&module, source) {
        Ok(uses) => faults.extend(uses.iter().filter_map(|used| used.fault(name, room))),
        Err(error) => faults.push(format!("src/{name}: does not parse: {error}")),
    }
    faults
}

/// `proxy/tls.rs` and `proxy/tls/mod.rs` are `[proxy, tls]`; the two crate roots are `[]`.
fn module_of(name: &str) -> Vec<String> {
    let mut module: Vec<String> = name.trim_end_matches(".rs").split('/').map(String::from).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] || module == ["main"] {
        module.pop();
    }
    module
}

/// The crate root may open with the README instead.
fn opens_with_docs(room: &str, source: &str) -> bool {
    source.starts_with("//!") || (room == "lib" && source.starts_with("#![doc"))
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// Whether a source has an event stamped as one that was decided here, which no clock clamps.
fn decides_here(source: &str) -> bool {
    source.replace(char::is_whitespace, "").contains(".decide(")
}

fn uses(module: &[String], source: &str) -> syn::Result<Vec<Use>> {
    let mut walk = Walk { module: module.to_vec(), uses: Vec::new() };
    let read = |input: ParseStream<'_>| {
        input.step(|start| {
            walk.tokens(*start);
            let mut end = *start;
            while let Some((_, next)) = end.token_tree() {
                end = next;
            }
            Ok(((), end))
        })
    };
    read.parse_str(source)?;
    Ok(walk.uses)
}

/// One path, as written, and the module it is written in.
struct Use {
    module: Vec<String>,
    path: Vec<String>,
    /// Followed by `as`: the path ends here, but its new name reaches further.
    renamed: bool,
}

impl Use {
    fn fault(&self, name: &str, room: &str) -> Option<String> {
        // An inline module of the crate root is a room, too.
        let room = self.module.first().map_or(room, String::as_str);
        let reason = self.reason(room)?;
        Some(format!("src/{name}: `{}`: {reason}", self.path.join("::")))
    }

    fn reason(&self, room: &str) -> Option<String> {
        if room == "lib" {
            return None;
        }
        let Some(target) = self.target() else {
            return Some("climbs out of the crate".into());
        };
        match target.first().map(String::as_str) {
            None if self.renamed || self.path.ends_with(&["self".into()]) => {
                Some("names the crate root, which hides the rooms that are used".into())
            }
            None => None,
            Some("*") => Some("imports every room at once".into()),
            Some(other) => refusal(room, other),
        }
    }

    /// The path from the crate root; `None` if it climbs above it.
    fn target(&self) -> Option<Vec<String>> {
        let mut target = self.module.clone();
        for (index, word) in self.path.iter().enumerate() {
            match word.as_str() {
                "crate" | "portcullis" if index == 0 => target.clear(),
                "self" => {}
                "super" => {
                    target.pop()?;
                }
                _ => target.push(word.clone()),
            }
        }
        Some(target)
    }
}

/// Why `room` may not use `other`, if so.
fn refusal(room: &str, other: &str) -> Option<String> {
    if room == other || BESIDE.contains(&(room, other)) {
        return None;
    }
    match (layer(room), layer(other)) {
        (Some(above), Some(below)) if below < above => None,
        (Some(from), Some(to)) => Some(format!("{room} (layer {from}) may not use {other} (layer {to})")),
        // The binary may use what the crate root itself offers.
        (_, None) if room == "main" => None,
        (_, None) => Some(format!("`{other}` is no room of the layer table")),
        (None, Some(_)) => Some(format!("{room}, which has no layer, may not use {other}")),
    }
}

/// Walks the tokens of one file and notes every path that can leave its module.
struct Walk {
    module: Vec<String>,
    uses: Vec<Use>,
}

impl Walk {
    fn tokens(&mut self, mut cursor: Cursor<'_>) {
        while !cursor.eof() {
            cursor = self.token(cursor);
        }
    }

    fn token<'a>(&mut self, cursor: Cursor<'a>) -> Cursor<'a> {
        if let Some((word, rest)) = cursor.ident() {
            return match word.to_string().as_str() {
                "mod" => self.inline_module(rest),
                "crate" | "portcullis" | "self" | "super" => self.path(Vec::new(), cursor),
                _ => rest,
            };
        }
        if let Some((inner, rest)) = attribute(cursor) {
            self.attribute(inner);
            return rest;
        }
        if let Some((inner, _, _, rest)) = cursor.any_group() {
            self.tokens(inner);
            return rest;
        }
        skip(cursor)
    }

    /// After the word `mod`: paths inside the braces are relative to the inner module.
    fn inline_module<'a>(&mut self, cursor: Cursor<'a>) -> Cursor<'a> {
        let Some((name, rest)) = cursor.ident() else {
            return cursor;
        };
        let Some((inner, _, _, rest)) = rest.any_group() else {
            return rest;
        };
        self.module.push(name.to_string());
        self.tokens(inner);
        self.module.pop();
        rest
    }

    /// Follows one path to its end, and into each branch of a group.
    fn path<'a>(&mut self, mut path: Vec<String>, mut cursor: Cursor<'a>) -> Cursor<'a> {
        while let Some((word, rest)) = cursor.ident() {
            path.push(word.to_string().trim_start_matches("r#").into());
            let Some(next) = colons(rest) else {
                self.note(path, rest);
                return rest;
            };
            cursor = next;
        }
        if let Some((star, rest)) = cursor.punct()
            && star.as_char() == '*'
        {
            path.push("*".into());
            self.note(path, rest);
            return rest;
        }
        if let Some((mut branch, _, _, rest)) = cursor.any_group() {
            while !branch.eof() {
                branch = after_comma(self.path(path.clone(), branch));
            }
            return rest;
        }
        self.note(path, cursor);
        cursor
    }

    fn note(&mut self, path: Vec<String>, rest: Cursor<'_>) {
        // `as` of an import, `self` of `extern crate self as ..`
        let renamed = rest.ident().is_some_and(|(next, _)| next == "as" || next == "self");
        let is_value = path.len() == 1 && path.first().is_some_and(|word| word == "self");
        if !is_value {
            self.uses.push(Use { module: self.module.clone(), path, renamed });
        }
    }

    /// Attributes also hold paths as text, such as `#[serde(default = "crate::..")]`; documentation may name any room.
    fn attribute(&mut self, inner: Cursor<'_>) {
        if inner.ident().is_some_and(|(word, _)| word == "doc") {
            return;
        }
        self.quoted(inner);
        self.tokens(inner);
    }

    fn quoted(&mut self, mut cursor: Cursor<'_>) {
        while !cursor.eof() {
            if let Some((inner, _, _, rest)) = cursor.any_group() {
                self.quoted(inner);
                cursor = rest;
                continue;
            }
            if let Some((literal, _)) = cursor.literal() {
                let text = literal.to_string();
                let text = text.trim_matches('"');
                if ["crate::", "self::", "super::"].iter().any(|start| text.starts_with(start)) {
                    let path = text.split("::").map(String::from).collect();
                    self.uses.push(Use { module: self.module.clone(), path, renamed: false });
                }
            }
            cursor = skip(cursor);
        }
    }
}

/// `#[..]` or `#![..]`: what is inside, and what follows.
fn attribute(cursor: Cursor<'_>) -> Option<(Cursor<'_>, Cursor<'_>)> {
    let rest = punct(cursor, '#')?;
    let rest = punct(rest, '!').unwrap_or(rest);
    let (inner, _, _, rest) = rest.any_group()?;
    Some((inner, rest))
}

fn colons(cursor: Cursor<'_>) -> Option<Cursor<'_>> {
    punct(punct(cursor, ':')?, ':')
}

fn punct(cursor: Cursor<'_>, wanted: char) -> Option<Cursor<'_>> {
    let (found, rest) = cursor.punct()?;
    (found.as_char() == wanted).then_some(rest)
}

fn after_comma(mut cursor: Cursor<'_>) -> Cursor<'_> {
    while !cursor.eof() {
        if let Some(rest) = punct(cursor, ',') {
            return rest;
        }
        cursor = skip(cursor);
    }
    cursor
}

fn skip(cursor: Cursor<'_>) -> Cursor<'_> {
    cursor.token_tree().map_or(cursor, |(_, rest)| rest)
}

/// The one fault of a planted file.
fn only_fault(name: &str, body: &str) -> String {
    let faults = judge(name, &format!("//! Planted.\n{body}\n"));
    assert_eq!(faults.len(), 1, "{body}: {faults:?}");
    faults.concat()
}

fn assert_clean(name: &str, body: &str) {
    let faults = judge(name, &format!("//! Planted.\n{body}\n"));
    assert!(faults.is_empty(), "{body}: {faults:?}");
}

#[test]
fn an_upward_import_is_reported() {
    let fault = only_fault("session.rs", "use crate::revocation::Engine;");
    assert_eq!(
        fault,
        "src/session.rs: `crate::revocation::Engine`: session (layer 2) may not use revocation (layer 3)"
    );
}

#[test]
fn a_sideways_import_is_reported() {
    let fault = only_fault("feed/crl.rs", "use crate::proxy::Gate;");
    assert!(fault.contains("src/feed/crl.rs") && fault.contains("may not use proxy"), "{fault}");
    only_fault("config.rs", "use crate::app::App;");
    only_fault("rig/drill.rs", "use crate::cli::Arguments;");
}

#[test]
fn a_grouped_import_is_reported_by_its_branch() {
    let fault = only_fault("identity/mod.rs", "use crate::{clock::Clock, proxy::Gate};");
    assert!(fault.contains("`crate::proxy::Gate`"), "{fault}");
    only_fault("identity/mod.rs", "use {std::fmt, crate::{clock::{self, Clock as C}, proxy::{tls::A}}};");
}

#[test]
fn a_climb_is_reported() {
    let fault = only_fault("feed/sqs.rs", "use super::super::authority::Registry;");
    assert!(fault.contains("may not use authority"), "{fault}");
    only_fault("feed/mod.rs", "use super::{proxy::Gate};");
    only_fault("feed/sqs.rs", "use self::super::{super::proxy::Gate, Feed};");
    only_fault("feed/sqs.rs", "mod tests { use super::super::super::proxy::Gate; }");
    only_fault("feed/mod.rs", "use super::super::Other;");
}

#[test]
fn an_inline_path_is_reported() {
    let fault = only_fault("proxy/listener.rs", "fn run() { crate::app::start(); }");
    assert!(fault.contains("`crate::app::start`"), "{fault}");
    only_fault("session.rs", "struct Held(Vec<crate::proxy::Gate<'static>>);");
    only_fault("session.rs", "pub(in crate::feed) fn held() {}");
    only_fault("session.rs", "fn held() { Box::<u8>::from(crate::feed::Of::<u8>::new()); }");
}

#[test]
fn a_path_in_a_macro_or_an_attribute_is_reported() {
    only_fault("session.rs", "macro_rules! held { () => { $crate::proxy::held() } }");
    only_fault("session.rs", "fn held() { tokio::select! { _ = crate::feed::next() => {} } }");
    only_fault(
        "clock.rs",
        "#[derive(Deserialize)] struct A { #[serde(default = \"crate::config::port\")] port: u16 }",
    );
}

#[test]
fn a_path_under_test_is_reported() {
    only_fault("clock.rs", "#[cfg(test)] mod tests { use crate::app; #[test] fn works() {} }");
}

#[test]
fn a_way_around_is_reported() {
    only_fault("session.rs", "use crate::*;");
    only_fault("session.rs", "use super::*;");
    only_fault("session.rs", "use crate::{self as root};");
    only_fault("session.rs", "use super as root;");
    only_fault("session.rs", "extern crate self as portcullis;");
    only_fault("session.rs", "use portcullis::proxy::Gate;");
    only_fault("session.rs", "use crate::Gate;");
    only_fault("main.rs", "use portcullis::rig::Drill;");
}

#[test]
fn a_feed_that_decides_is_reported() {
    let fault = only_fault("feed/intake.rs", "fn take(&self) { self.engine\n.decide(event); }");
    assert!(fault.contains("never to `Engine::decide`"), "{fault}");
    assert_clean("feed/intake.rs", "fn take(&self) { self.engine.apply(event); }");
    assert_clean("authority/api/decision.rs", "fn take(&self) { self.engine.decide(event); }");
}

#[test]
fn a_missing_or_late_doc_comment_is_reported() {
    for source in ["use std::fmt;\n", "\n//! Late.\nuse std::fmt;\n", "// Plain.\nuse std::fmt;\n"] {
        let faults = judge("clock.rs", source);
        assert!(faults.len() == 1 && faults.concat().contains("//!"), "{source}: {faults:?}");
    }
}

#[test]
fn an_unknown_or_empty_room_is_reported() {
    assert!(only_fault("attic/mod.rs", "pub struct Attic;").contains("`attic`"));
    assert!(only_fault("proxy/mod.rs", "").contains("holds nothing"));
}

#[test]
fn what_the_layers_allow_is_clean() {
    assert_clean("app.rs", "use crate::{config::Config, feed, proxy::Gate, clock::{self, Clock}};");
    assert_clean("cli/mod.rs", "use crate::rig;\nuse crate::app::App;");
    assert_clean("main.rs", "fn main() -> std::process::ExitCode { portcullis::cli::run() }");
    assert_clean("lib.rs", "pub mod app;\npub use crate::proxy::Gate;\npub use app::App;");
    assert_clean(
        "proxy/tls.rs",
        "use super::Gate;\npub(super) fn f() {}\npub(crate) fn g(self: &Self) { self.h(); self as u8; }",
    );
    assert_clean(
        "proxy/tls.rs",
        "#[cfg(test)] mod tests { use super::*; use super::super::Gate; use crate::proxy::Route; }",
    );
    assert_clean(
        "session.rs",
        "/// See [`crate::proxy::Gate`].\npub struct Session;\nconst WHERE: &str = \"crate::proxy\";",
    );
}
