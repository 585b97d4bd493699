//! What the command line prints: lines, columns, the server's own documents.
//!
//! **Invariant:** what came from a server, a file or a certificate reaches the terminal without control characters:
//! every line is made harmless here, and colours are added afterwards.

use std::fmt;
use std::fmt::Display;
use std::fmt::Write as _;
use std::io;
use std::io::IsTerminal;
use std::io::Write as _;

use serde_json::Value;

use super::DONE;
use super::REFUSED;
use super::complain;

/// How a word is painted (ECMA-48, section 8.3.117).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Strong,
    Good,
    Bad,
    Careful,
}

impl Paint {
    /// How the state of something is painted, where a column of a table has one.
    fn of(word: &str) -> Self {
        match word {
            "revoked" | "revoke" | "refused" | "failed" => Self::Bad,
            "suspended" | "suspend" | "effective_not_durable" => Self::Careful,
            _ => Self::Plain,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Strong => "1",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Careful => "33",
        }
    }
}

/// Whether `stream` is a terminal that may be given colours (<https://no-color.org>).
pub(super) fn is_coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Text that is gathered, and then written at once.
pub(super) struct Page {
    text: String,
    coloured: bool,
}

impl Page {
    /// A page for standard output.
    pub(super) fn new() -> Self {
        Self { text: String::new(), coloured: is_coloured(&io::stdout()) }
    }

    /// A page for standard error.
    pub(super) fn aside() -> Self {
        Self { text: String::new(), coloured: is_coloured(&io::stderr()) }
    }

    /// Adds a line.
    pub(super) fn line(&mut self, line: &dyn Display) {
        let _ = writeln!(self.text, "{}", clean(line));
    }

    /// Adds a line whose first word is painted.
    pub(super) fn verdict(&mut self, paint: Paint, word: &str, told: &dyn Display) {
        let word = self.painted(paint, &clean(&word));
        let _ = writeln!(self.text, "{word}{}", clean(told));
    }

    /// Adds `name  value`.
    pub(super) fn field(&mut self, name: &str, value: &dyn Display) {
        self.line(&format_args!("{name:FIELD$}{value}"));
    }

    /// The same, if there is a value.
    pub(super) fn field_if(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.field(name, &value);
        }
    }

    /// Adds columns: as wide as what is in them, `-` for what is not there.
    pub(super) fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>) {
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|row| row.iter().map(|cell| clean(&cell)).collect()).collect();
        let width = |at: usize| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain(head.get(at).map(|name| name.len())).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let heading: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
        self.row(&heading, &widths, |_, _| Paint::Strong);
        for row in &rows {
            self.row(row, &widths, |at, cell| match head.get(at) {
                Some(&("STATE" | "OUTCOME" | "ACTION")) => Paint::of(cell),
                _ => Paint::Plain,
            });
        }
    }

    fn row(&mut self, cells: &[String], widths: &[usize], paint: impl Fn(usize, &str) -> Paint) {
        let mut line = String::new();
        let mut owed = 0;
        for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let cell = if cell.is_empty() { "-" } else { cell };
            let _ = write!(line, "{:owed$}{}", "", self.painted(paint(at, cell), cell));
            owed = width.saturating_sub(cell.chars().count()) + 2;
        }
        self.text += &line;
        self.text.push('\n');
    }

    fn painted(&self, paint: Paint, text: &str) -> String {
        match self.coloured && paint != Paint::Plain {
            true => format!("\x1b[{}m{text}\x1b[0m", paint.code()),
            false => text.to_owned(),
        }
    }

    /// Writes it to standard output, and returns the exit code.
    pub(super) fn print(self) -> u8 {
        write_out(self.text.as_bytes())
    }

    /// Writes it to standard error.
    pub(super) fn print_aside(self) {
        // Nobody is left to tell.
        let _ = io::stderr().write_all(self.text.as_bytes());
    }
}

/// The column at which the values of fields begin.
const FIELD: usize = 16;

/// Prints a server's document: as it is, or indented where a person reads it.
pub(super) fn print_document(body: &[u8]) -> u8 {
    let text = match io::stdout().is_terminal() {
        false => String::from_utf8_lossy(body).trim_end().to_owned(),
        true => indented(body),
    };
    write_out(format!("{text}\n").as_bytes())
}

fn indented(body: &[u8]) -> String {
    let document = serde_json::from_slice::<Value>(body).and_then(|read| serde_json::to_string_pretty(&read));
    let Ok(pretty) = document else {
        return clean(&String::from_utf8_lossy(body));
    };
    // JSON escapes the lower control characters only.
    pretty.chars().fold(String::new(), |mut text, c| {
        match c != '\n' && is_harmful(c) {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(text, "\\u{unit:04x}");
            }),
            false => text.push(c),
        }
        text
    })
}

/// Writes bytes to standard output as they are, and returns the exit code.
pub(super) fn write_out(bytes: &[u8]) -> u8 {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => DONE,
        // Whoever closed the pipe has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => DONE,
        Err(error) => {
            complain(&format_args!("standard output: {error}"));
            REFUSED
        }
    }
}

/// What is shown, without anything that a terminal or a reader could be led astray by.
pub(super) fn clean(shown: &dyn Display) -> String {
    let mut text = Harmless(String::new());
    let _ = write!(text, "{shown}");
    text.0
}

struct Harmless(String);

impl fmt::Write for Harmless {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match is_harmful(c) {
                true => self.0.extend(c.escape_default()),
                false => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// Control characters, and those that are not seen or that turn the text around them (Unicode TR 36, section 2.5).
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A member of a document as a cell of a table; empty if it is not there.
pub(super) fn cell(document: &Value, name: &str) -> String {
    let shown = shown(&document[name]);
    match (name, document["unsaid"].as_u64()) {
        // Of a line of the audit: so many like it were left out before.
        ("reason", Some(more @ 1..)) => format!("{shown} ({more} more)").trim_start().to_owned(),
        _ => shown,
    }
}

/// A value in words; empty if there is none.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        other => other.to_string(),
    }
}

/// `1 session`, `2 sessions`.
pub(super) fn counted(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_that_were_left_out_are_counted() {
        let reason = |document: Value| cell(&document, "reason");
        assert_eq!(reason(json!({"reason": "no role", "unsaid": 15})), "no role (15 more)");
        assert_eq!(reason(json!({"unsaid": 1})), "(1 more)");
        assert_eq!(reason(json!({"reason": "no role"})), "no role");
    }

    #[test]
    fn nothing_harmful_is_shown() {
        assert_eq!(clean(&"a\x1b[2Jb\r\nc\u{202e}d\u{9b}é"), "a\\u{1b}[2Jb\\r\\nc\\u{202e}d\\u{9b}é");
        assert_eq!(indented(b"{\"a\": \"\xc2\x9b\\u001b\"}"), "{\n  \"a\": \"\\u009b\\u001b\"\n}");
        assert_eq!(indented(b"<b>\x1b</b>"), "<b>\\u{1b}</b>");
    }

    #[test]
    fn columns_stand_below_each_other_and_colours_take_no_room() {
        let mut page = Page { text: String::new(), coloured: false };
        let rows = || vec![vec!["revoked".into(), String::new(), "x".into()], vec!["\x1b".into()]];
        page.table(&["STATE", "REASON", "ID"], rows());
        assert_eq!(page.text, "STATE    REASON  ID\nrevoked  -       x\n\\u{1b}\n");
        let mut painted = Page { text: String::new(), coloured: true };
        painted.table(&["STATE", "REASON", "ID"], rows());
        let bare = painted.text.replace("\x1b[1m", "").replace("\x1b[31m", "").replace("\x1b[0m", "");
        assert!(painted.text.contains("\x1b[31mrevoked\x1b[0m") && bare == page.text, "{}", painted.text);
    }

    #[test]
    fn what_is_not_there_is_empty() {
        let document = serde_json::json!({"a": 1, "b": true, "c": "t", "d": [1]});
        let cells: Vec<String> = ["a", "b", "c", "d", "e"].iter().map(|name| cell(&document, name)).collect();
        assert_eq!(cells, ["1", "yes", "t", "[1]", ""]);
        assert_eq!((counted(1, "session"), counted(0, "session")), ("1 session".into(), "0 sessions".into()));
    }
}
