//! The page: what it opens with, its sections in order, and where it all ran.

use super::drills;
use super::headline;
use super::headline::figure_of;
use super::markup::Cell;
use super::markup::Chip;
use super::markup::Markup;
use super::markup::Table;
use super::markup::Text;
use super::markup::Tone;
use super::markup::words;
use super::probes::served_after_answer;
use super::proxies;
use super::quantity::bytes;
use super::quantity::count;
use super::quantity::duration_if;
use super::quantity::so_many;
use super::revocations;
use crate::rig::findings::Drill;
use crate::rig::findings::Findings;
use crate::rig::findings::Found;

/// How the page looks, on screens that are light or dark, and on paper.
const STYLE: &str = include_str!("style.css");

/// What a browser may fetch for it: nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The most runs that have a card.
const CARDS: usize = 8;

/// One HTML document of all runs, complete in itself.
pub fn html(runs: &[Findings]) -> String {
    let headline = headline::of_all(runs);
    let mut out = Markup::default();
    out.put(format_args!("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"));
    out.put(format_args!("<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n"));
    out.put(format_args!("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"));
    out.put(format_args!("<meta name=\"color-scheme\" content=\"light dark\">\n"));
    out.put(format_args!("<meta name=\"generator\" content=\"portcullis {}\">\n", env!("CARGO_PKG_VERSION")));
    out.put(format_args!("<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n", Text(&headline)));
    out.put(format_args!(
        "<header><p class=\"kicker\">{}</p><h1>{}</h1></header>\n<main>\n",
        Text(kicker(runs)),
        Text(&headline)
    ));
    cards(&mut out, runs);
    if !runs.is_empty() {
        out.put(format_args!("<section><h2>Summary</h2>\n{}</section>\n", summary(runs)));
    }
    out.put(format_args!(
        "{}",
        drills::section(&pick(runs, |found| if let Found::Drill(it) = found { Some(it) } else { None }))
    ));
    out.put(format_args!(
        "{}",
        revocations::section(&pick(runs, |found| if let Found::Revocations(it) = found {
            Some(it)
        } else {
            None
        }))
    ));
    out.put(format_args!(
        "{}",
        proxies::section(&pick(runs, |found| if let Found::Proxies(it) = found { Some(it) } else { None }))
    ));
    setup(&mut out, runs);
    out.put(format_args!("</main>\n<footer><p>Made by portcullis {}.", env!("CARGO_PKG_VERSION")));
    out.put(format_args!(" Times are from when the revoke call was sent, as its clients saw them from outside, unless it is said otherwise.</p></footer>\n</body>\n</html>\n"));
    out.into_string()
}

/// The runs of one kind, each with its name; runs of the same label are numbered.
fn pick<T>(runs: &[Findings], wanted: impl Fn(&Found) -> Option<&T>) -> Vec<(String, &T)> {
    names(runs).into_iter().zip(runs).filter_map(|(name, run)| Some((name, wanted(&run.found)?))).collect()
}

fn names(runs: &[Findings]) -> Vec<String> {
    let name = |(at, run): (usize, &Findings)| {
        let alike = |others: &[Findings]| others.iter().filter(|other| other.label == run.label).count();
        match alike(runs) {
            0 | 1 => run.label.clone(),
            _ => format!("{} ({})", run.label, alike(runs.get(..=at).unwrap_or_default())),
        }
    };
    runs.iter().enumerate().map(name).collect()
}

fn kicker(runs: &[Findings]) -> String {
    let first = runs.iter().map(|run| run.at).min();
    let day = first.map(|at| at.to_string().chars().take_while(|c| *c != 'T').collect::<String>());
    match (runs, day) {
        ([one], Some(day)) => format!("{} · {} · {day}", kind(&one.found), one.label),
        (several, Some(day)) => format!("{} · {day}", so_many(several.len() as u64, "run", "runs")),
        (_, None) => "Report".to_owned(),
    }
}

fn kind(found: &Found) -> &'static str {
    match found {
        Found::Drill(_) => "Revocation drill",
        Found::Revocations(_) => "Revocation benchmark",
        Found::Proxies(_) => "Proxy benchmark",
    }
}

/// Whether all was as it should be, in a word or a few.
fn judged(found: &Found) -> (Tone, String) {
    match found {
        Found::Drill(drill) if drill.failures.is_empty() => (Tone::Good, "passed".to_owned()),
        Found::Drill(drill) => {
            (Tone::Bad, format!("failed: {}", so_many(drill.failures.len() as u64, "reason", "reasons")))
        }
        Found::Revocations(run) => {
            let sum = |of: fn(&crate::rig::findings::Fleet) -> u64| {
                run.fleets.iter().fold(0u64, |sum, fleet| sum.saturating_add(of(fleet)))
            };
            match (sum(|fleet| fleet.served_after_answer), sum(|fleet| fleet.last_gate.never)) {
                (0, 0) => (Tone::Good, "nothing served after the answer".to_owned()),
                (0, never) => (Tone::Bad, format!("{} never took effect", count(never))),
                (late, _) => (Tone::Bad, format!("{} served after the answer", count(late))),
            }
        }
        Found::Proxies(run) => match run.costs.iter().fold(0u64, |sum, cost| sum.saturating_add(cost.errors))
        {
            0 => (Tone::Good, "no errors".to_owned()),
            errors => (Tone::Careful, so_many(errors, "error", "errors")),
        },
    }
}

fn cards(out: &mut Markup, runs: &[Findings]) {
    if runs.len() < 2 || runs.len() > CARDS {
        return;
    }
    out.put(format_args!("<ul class=\"cards\">\n"));
    for (name, run) in names(runs).iter().zip(runs) {
        let ((figure, told), (tone, word)) = (figure_of(&run.found), judged(&run.found));
        out.put(format_args!(
            "<li><h2>{}</h2><p class=\"figure {}\">{}</p>",
            Text(name),
            tone.class(),
            Text(figure)
        ));
        out.put(format_args!("<p>{}</p><p>{}</p></li>\n", Text(told), Chip(tone, &word)));
    }
    out.put(format_args!("</ul>\n"));
}

fn summary(runs: &[Findings]) -> Table {
    let mut table = Table::new(
        "Verdict, result and figures of each run",
        &["Run", "Kind", "Verdict", "Result", "Figures"],
    );
    for (name, run) in names(runs).into_iter().zip(runs) {
        let (tone, word) = judged(&run.found);
        table.row(vec![
            words(name),
            words(kind(&run.found)),
            Cell::Verdict(tone, word),
            words(headline::of(&run.found)),
            words(key_figures(&run.found)),
        ]);
    }
    table
}

fn key_figures(found: &Found) -> String {
    match found {
        Found::Drill(drill) => of_drill(drill),
        Found::Revocations(run) => revocations::key_figures(run),
        Found::Proxies(run) => so_many(run.costs.len() as u64, "cost", "costs"),
    }
}

fn of_drill(drill: &Drill) -> String {
    format!(
        "call answered after {}; {} served after it; {}",
        duration_if(drill.call.answered_us),
        count(served_after_answer(drill)),
        so_many(drill.probes.len() as u64, "probe", "probes")
    )
}

fn setup(out: &mut Markup, runs: &[Findings]) {
    if runs.is_empty() {
        return;
    }
    out.put(format_args!("<section><h2>Where and how it ran</h2>\n"));
    for (name, run) in names(runs).iter().zip(runs) {
        let setup = &run.setup;
        let facts = [
            ("At", run.at.to_string()),
            ("Measured by", format!("portcullis {}", setup.portcullis)),
            ("System", setup.system.clone()),
            ("Processor", setup.processor.clone()),
            ("Cores", setup.cores.to_string()),
            ("Memory", bytes(setup.memory)),
            ("Format", run.format.to_string()),
        ];
        out.put(format_args!("<h3>{}</h3><dl class=\"facts\">", Text(name)));
        for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
            out.put(format_args!("<dt>{name}</dt><dd>{}</dd>", Text(value)));
        }
        out.put(format_args!("</dl>\n<pre>{}</pre>\n", Text(command(&setup.command))));
    }
    out.put(format_args!("</section>\n"));
}

/// The words of a command line, quoted where a shell would want it.
fn command(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    let quoted = words.iter().map(|word| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_given_to_a_shell_again() {
        let words = ["portcullis", "drill", "--revoke-with", "nginx -s 'x'", ""].map(str::to_owned);
        assert_eq!(command(&words), "portcullis drill --revoke-with 'nginx -s '\\''x'\\''' ''");
    }

    #[test]
    fn nothing_makes_a_page_too() {
        let page = html(&[]);
        assert!(page.contains("There is nothing to report.") && page.ends_with("</html>\n"));
    }
}
