//! What a change would hit, and the question whether it is to be done all the same.

use std::collections::BTreeSet;
use std::io;
use std::io::BufRead as _;
use std::io::IsTerminal as _;
use std::io::Write as _;

use serde_json::Value;

use super::REFUSED;
use super::USAGE;
use super::complain;
use super::obstacles;
use super::order::Order;
use super::output::Page;
use super::output::clean;
use super::output::counted;

/// The blast radius: what dry runs said, together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Blast {
    changes: u64,
    would_change: u64,
    unknown: u64,
    sessions: u64,
    certificates: u64,
    principals: BTreeSet<String>,
    principals_total: u64,
    includes_caller: bool,
    /// What one of them would be refused with.
    refusal: Option<String>,
    /// What one of them does not hit although it may look so.
    note: Option<String>,
    /// The entries under other names that reinstatements would lift.
    also_lifts: BTreeSet<String>,
    /// The other principals that share those names.
    also_lets_in: BTreeSet<String>,
}

/// Whether it is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consent {
    Given,
    /// With the exit code that says so.
    Refused(u8),
}

/// As many principals are named.
const NAMED: usize = 10;

impl Blast {
    /// Adds up the answers of dry runs.
    pub(super) fn of<'a>(answers: impl IntoIterator<Item = &'a Value>) -> Self {
        answers.into_iter().fold(Self::default(), |mut blast, answer| {
            let number = |name: &str| answer[name].as_u64().unwrap_or_default();
            blast.changes += 1;
            blast.would_change += u64::from(answer["would_change"] == Value::Bool(true));
            blast.unknown += u64::from(answer["known"] == Value::Bool(false));
            blast.sessions += number("sessions");
            blast.certificates += number("certificates");
            let names = answer["principals"].as_array().into_iter().flatten();
            let names: Vec<&str> = names.filter_map(Value::as_str).collect();
            blast.principals_total += number("principals_total").max(names.len() as u64);
            blast.principals.extend(names.into_iter().map(str::to_owned));
            blast.includes_caller |= answer["includes_caller"] == Value::Bool(true);
            let members = |name: &str| answer[name].as_array().into_iter().flatten();
            blast.also_lifts.extend(members("also_lifts").map(obstacles::entry));
            let others = members("also_lets_in").filter_map(Value::as_str);
            blast.also_lets_in.extend(others.map(str::to_owned));
            blast.note = answer["note"].as_str().map(str::to_owned).or(blast.note);
            blast.refusal = refusal(answer).map(|(_, told)| told).or(blast.refusal);
            blast
        })
    }

    /// Adds what it says to a page.
    pub(super) fn show(&self, page: &mut Page) {
        // What several changes hit is counted by each of them.
        let most = if self.changes > 1 { "at most " } else { "" };
        match (self.changes, self.would_change) {
            (0..=1, _) if self.refusal.is_some() => {
                page.line(&format_args!("would be refused  {}", self.refusal.as_deref().unwrap_or_default()))
            }
            (0..=1, 0) => page.field("would change", &"nothing: it is so already"),
            (0..=1, _) => page.field("would change", &"yes"),
            (all, some) => page.field("would change", &format_args!("{some} of {all}")),
        }
        match (self.changes, self.unknown) {
            (_, 0) => {}
            (0..=1, _) => page.field("not seen", &"the gate does not know it"),
            (all, some) => page.field("not seen", &format_args!("{some} of {all} are not known to the gate")),
        }
        if let Some(note) = &self.note {
            page.field("not hit", note);
        }
        self.show_lifted(page);
        page.field("sessions", &format_args!("{most}{}", self.sessions));
        page.field("certificates", &format_args!("{most}{}", self.certificates));
        page.field("principals", &format_args!("{most}{}{}", self.principals_total, self.names()));
    }

    /// Adds what stands under other names and would be lifted, and the principals that this lets in as well.
    fn show_lifted(&self, page: &mut Page) {
        for entry in self.also_lifts.iter().take(NAMED) {
            page.field("also lifts", entry);
        }
        if self.also_lifts.len() > NAMED {
            page.field("also lifts", &format_args!("{} more", self.also_lifts.len() - NAMED));
        }
        let others: Vec<&str> = self.also_lets_in.iter().map(String::as_str).collect();
        if let Some(others) = obstacles::few(&others) {
            page.field("also lets in", &others);
        }
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.principals.iter().take(NAMED).map(String::as_str).collect();
        match names.len() {
            0 => String::new(),
            some if some as u64 == self.principals_total => format!(": {}", names.join(", ")),
            _ => format!(": {}, ...", names.join(", ")),
        }
    }

    /// Whether whoever asks would be shut out himself.
    pub(super) fn includes_caller(&self) -> bool {
        self.includes_caller
    }

    /// With what it would be refused: `CODE: ERROR`.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Says if whoever asks would be shut out himself.
    pub(super) fn warn(&self) {
        if self.includes_caller {
            complain(&"WARNING: this includes YOU: the admin API would refuse you from then on");
        }
    }

    /// Shows it on standard error, and asks whether to go on. Where nobody can answer, the answer is no.
    pub(super) fn ask(&self, order: Order, subject: &str) -> Consent {
        let mut page = Page::aside();
        page.line(&format_args!("{} {subject}:", order.name()));
        self.show(&mut page);
        page.print_aside();
        self.warn();
        if !io::stdin().is_terminal() {
            complain(&format_args!(
                "{} {subject}: nothing was changed; add --yes to go on where nobody can be asked",
                order.name(),
            ));
            return Consent::Refused(USAGE);
        }
        let ending = match order {
            Order::Reinstate { .. } => String::new(),
            _ => format!(" and end {}", counted(self.sessions, "session")),
        };
        let question = clean(&format_args!("{} {subject}{ending}? [y/N] ", order.name()));
        let _ = io::stderr().write_all(question.as_bytes());
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        if read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Consent::Given;
        }
        complain(&format_args!("{} {subject}: not confirmed; nothing was changed", order.name()));
        Consent::Refused(REFUSED)
    }
}

/// With what status a change would be refused, and why: `CODE: ERROR`.
pub(super) fn refusal(answer: &Value) -> Option<(u64, String)> {
    let refused = answer.get("refused").filter(|refused| refused.is_object())?;
    let text = |name: &str| refused[name].as_str().unwrap_or_default();
    let told = match (text("code"), text("error")) {
        (one, "") | ("", one) => one.to_owned(),
        (code, error) => format!("{code}: {error}"),
    };
    Some((refused["status"].as_u64().unwrap_or_default(), told))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dry_runs_add_up() {
        let one = json!({"dry_run": true, "would_change": true, "known": true, "sessions": 2, "certificates": 1,
            "principals": ["a"], "principals_total": 1, "includes_caller": false});
        let other = json!({"dry_run": true, "would_change": false, "known": false, "sessions": 1,
            "principals": ["a", "b"], "principals_total": 120, "includes_caller": true});
        let blast = Blast::of([&one, &other]);
        assert_eq!((blast.changes, blast.would_change, blast.unknown), (2, 1, 1));
        assert_eq!((blast.sessions, blast.certificates, blast.principals_total), (3, 1, 121));
        assert!(blast.includes_caller && !Blast::of([&one]).includes_caller);
        assert_eq!((blast.names(), Blast::of([&one]).names()), (": a, b, ...".into(), ": a".into()));
        assert_eq!(Blast::of([&json!({})]).names(), "");
        let refused = json!({"refused": {"status": 409, "code": "revoked", "error": "it is revoked"}});
        assert_eq!(refusal(&refused), Some((409, "revoked: it is revoked".into())));
        assert_eq!((refusal(&one), refusal(&json!({"refused": false}))), (None, None));
    }
}
