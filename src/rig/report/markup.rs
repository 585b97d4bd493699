//! HTML and SVG as text: escaping, tables, figures.
//!
//! **Invariant:** whatever a table's cell, a caption or [`Text`] is given, it adds no element and no attribute.

use std::fmt;
use std::fmt::Write as _;

/// Text between tags or in a quoted attribute: escaped, without control characters, cut off where nobody reads on.
pub(super) struct Text<T>(pub(super) T);

/// The most characters of one text.
const LONGEST: usize = 600;

impl<T: fmt::Display> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut escaping = Escaping { out: f, left: LONGEST };
        write!(escaping, "{}", self.0)
    }
}

struct Escaping<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    left: usize,
}

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match self.left {
                0 => return Ok(()),
                1 => self.out.write_char('…')?,
                _ => self.escape(c)?,
            }
            self.left -= 1;
        }
        Ok(())
    }
}

impl Escaping<'_, '_> {
    fn escape(&mut self, c: char) -> fmt::Result {
        match c {
            '&' => self.out.write_str("&amp;"),
            '<' => self.out.write_str("&lt;"),
            '>' => self.out.write_str("&gt;"),
            '"' => self.out.write_str("&quot;"),
            '\'' => self.out.write_str("&#39;"),
            '\n' | '\t' => self.out.write_char(' '),
            c if is_harmful(c) => self.out.write_char('\u{fffd}'),
            c => self.out.write_char(c),
        }
    }
}

/// Control characters, non-characters, and those that turn the direction of what follows (Unicode, annex 9).
fn is_harmful(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || u32::from(c) & 0xfffe == 0xfffe || matches!(c, '\u{fdd0}'..='\u{fdef}')
}

/// HTML that is being written.
#[derive(Default)]
pub(super) struct Markup(String);

impl Markup {
    /// Adds markup; what comes from findings must stand in [`Text`] or be a number.
    pub(super) fn put(&mut self, markup: fmt::Arguments<'_>) {
        // A string takes whatever is written into it.
        let _ = self.0.write_fmt(markup);
    }

    /// Adds a paragraph, unless there is nothing to be said.
    pub(super) fn note(&mut self, text: &str) {
        if !text.is_empty() {
            self.put(format_args!("<p class=\"note\">{}</p>\n", Text(text)));
        }
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for Markup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How something is to be taken; shown by colour, sign and word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Careful,
    Bad,
    Plain,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Careful => "careful",
            Self::Bad => "bad",
            Self::Plain => "plain",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Careful => "!",
            Self::Bad => "✕",
            Self::Plain => "·",
        }
    }
}

/// A word with a sign and a colour.
pub(super) struct Chip<'a>(pub(super) Tone, pub(super) &'a str);

impl fmt::Display for Chip<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, sign) = (self.0.class(), self.0.sign());
        write!(f, "<span class=\"chip {class}\"><b aria-hidden=\"true\">{sign}</b> {}</span>", Text(self.1))
    }
}

/// A cell of a table.
pub(super) enum Cell {
    /// Words.
    Words(String),
    /// A number, aligned as one.
    Figure(String),
    /// A verdict.
    Verdict(Tone, String),
}

/// A table; the first column names the rows.
pub(super) struct Table {
    caption: String,
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    left_out: usize,
}

/// The most rows of a table.
const ROWS: usize = 200;

impl Table {
    pub(super) fn new(caption: impl Into<String>, head: &[&'static str]) -> Self {
        Self { caption: caption.into(), head: head.to_vec(), rows: Vec::new(), left_out: 0 }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        match self.rows.len() < ROWS {
            true => self.rows.push(cells),
            false => self.left_out += 1,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn is_figures(&self, column: usize) -> bool {
        self.rows.iter().any(|row| matches!(row.get(column), Some(Cell::Figure(_))))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caption = Text(&self.caption);
        write!(f, "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\">")?;
        write!(f, "<table><caption>{caption}</caption><thead><tr>")?;
        for (column, name) in self.head.iter().enumerate() {
            let class = if self.is_figures(column) { " class=\"n\"" } else { "" };
            write!(f, "<th scope=\"col\"{class}>{}</th>", Text(name))?;
        }
        f.write_str("</tr></thead><tbody>\n")?;
        for row in &self.rows {
            f.write_str("<tr>")?;
            for (column, cell) in row.iter().enumerate() {
                write_cell(f, column, cell)?;
            }
            f.write_str("</tr>\n")?;
        }
        f.write_str("</tbody></table></div>\n")?;
        match self.left_out {
            0 => Ok(()),
            more => writeln!(f, "<p class=\"note\">{more} more rows are left out.</p>"),
        }
    }
}

fn write_cell(f: &mut fmt::Formatter<'_>, column: usize, cell: &Cell) -> fmt::Result {
    match cell {
        Cell::Words(text) if column == 0 => write!(f, "<th scope=\"row\">{}</th>", Text(text)),
        Cell::Words(text) => write!(f, "<td>{}</td>", Text(text)),
        Cell::Figure(text) => write!(f, "<td class=\"n\">{}</td>", Text(text)),
        Cell::Verdict(tone, text) => write!(f, "<td>{}</td>", Chip(*tone, text)),
    }
}

/// A picture and what belongs to it.
pub(super) struct Figure<'a> {
    /// Unique on the page.
    pub(super) id: &'a str,
    /// What it shows.
    pub(super) caption: &'a str,
    /// The same in a sentence or two, for those who do not see it.
    pub(super) description: &'a str,
    /// Width and height, in units of the picture.
    pub(super) size: (f64, f64),
    /// Its legend: HTML.
    pub(super) legend: String,
    /// What is in it: SVG.
    pub(super) drawing: &'a Markup,
}

impl fmt::Display for Figure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, (width, height)) = (self.id, self.size);
        let class = if width > 600.0 { "wide" } else { "small" };
        write!(
            f,
            "<figure class=\"{class}\"><figcaption>{}</figcaption>{}",
            Text(self.caption),
            self.legend
        )?;
        write!(
            f,
            "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\">",
            Text(self.caption)
        )?;
        write!(
            f,
            "<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">"
        )?;
        write!(f, "<title id=\"{id}-t\">{}</title>", Text(self.caption))?;
        write!(f, "<desc id=\"{id}-d\">{}</desc>\n{}</svg>", Text(self.description), self.drawing)?;
        f.write_str("</div></figure>\n")
    }
}

/// Something that is folded away, and unfolded in print.
pub(super) fn folded(summary: &str, table: &Table) -> String {
    match table.is_empty() {
        true => String::new(),
        false => format!("<details><summary>{}</summary>\n{table}</details>\n", Text(summary)),
    }
}

/// Words for a cell.
pub(super) fn words(text: impl Into<String>) -> Cell {
    Cell::Words(text.into())
}

/// A number for a cell.
pub(super) fn figure(text: impl Into<String>) -> Cell {
    Cell::Figure(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_adds_no_markup() {
        let text = Text("<script src='x'>\"&\u{0}\u{202e}\u{ffff}\n").to_string();
        assert_eq!(text, "&lt;script src=&#39;x&#39;&gt;&quot;&amp;\u{fffd}\u{fffd}\u{fffd} ");
        assert_eq!(Text("x".repeat(10_000)).to_string().chars().count(), LONGEST);
    }

    #[test]
    fn a_table_escapes_its_cells_and_says_what_it_leaves_out() {
        let mut table = Table::new("<c>", &["a", "b", "c"]);
        for _ in 0..ROWS + 3 {
            table.row(vec![words("<1>"), figure("<2>"), Cell::Verdict(Tone::Bad, "<3>".into())]);
        }
        let text = table.to_string();
        assert!(text.contains("<th scope=\"row\">&lt;1&gt;</th><td class=\"n\">&lt;2&gt;</td>"), "{text}");
        assert!(text.contains("3 more rows") && !text.contains("<3>") && !text.contains("<c>"));
    }
}
