//! Whether a page is well formed: tags that are closed in their order, attributes that are quoted.

/// Elements that have no end (HTML, section 13.1.2).
const VOID: [&str; 5] = ["meta", "br", "hr", "img", "link"];

/// The first fault.
pub(crate) fn fault(page: &str) -> Option<String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n")?;
    while let Some(start) = rest.find('<') {
        if rest[..start].contains('>') && open.last() != Some(&"style") {
            return Some(format!("a loose `>` before `{}`", around(&rest[start..])));
        }
        let tag = &rest[start + 1..];
        let Some(end) = end_of(tag) else { return Some(format!("no end of `{}`", around(tag))) };
        let (inner, after) = (&tag[..end], &tag[end + 1..]);
        rest = after;
        if let Some(name) = inner.strip_prefix('/') {
            match open.pop() {
                Some(last) if last == name => {}
                last => return Some(format!("</{name}> closes {last:?}")),
            }
            continue;
        }
        let name = inner.split([' ', '/']).next().unwrap_or_default();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Some(format!("no name in `<{}`", around(inner)));
        }
        if !inner.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    open.last().map(|name| format!("<{name}> is not closed"))
}

/// Where a tag ends: at a `>` that is in no quotes.
fn end_of(tag: &str) -> Option<usize> {
    let mut quoted = false;
    for (at, c) in tag.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(at),
            '<' => return None,
            _ => {}
        }
    }
    None
}

fn around(text: &str) -> String {
    text.chars().take(60).collect()
}

#[test]
fn faults_are_found() {
    let page = |body: &str| fault(&format!("<!DOCTYPE html>\n{body}"));
    assert_eq!(page("<p class=\"a>b\">x<br></p><path d=\"M0 0\"/>"), None);
    for wrong in ["<p>", "<p></b></p>", "<p>a > b</p>", "<p title=\"<b>\"></p>", "<p><1></p>", "</p>"] {
        assert!(page(wrong).is_some(), "{wrong}");
    }
}
