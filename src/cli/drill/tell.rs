//! What a drill found, for a terminal.

use crate::cli::output::Page;
use crate::cli::output::Paint;
use crate::cli::output::counted;
use crate::rig::drill::Means;
use crate::rig::drill::Plan;
use crate::rig::findings::Drill;
use crate::rig::findings::Probe;
use crate::rig::findings::Verdict;
use crate::rig::findings::Who;

/// What stays revoked, and how that can be lifted. `sure`: the call was a success.
pub(super) fn standing(plan: &Plan, sure: bool) -> String {
    let party = &plan.victim.party;
    let lift = match &plan.means {
        Means::Admin(_) => {
            format!("; portcullis reinstate --level certificate --target {} --force lifts it", party.serial)
        }
        Means::Url { .. } | Means::Command(_) => String::new(),
    };
    let stays = if sure { "stays revoked" } else { "may be revoked" };
    format!("{} (serial {}) {stays}{lift}", party.name, party.serial)
}

/// All of it.
pub(super) fn page(found: &Drill, plan: &Plan) -> Page {
    let mut page = Page::new();
    let (url, at, rate) = (&found.url, &found.address, found.rate);
    page.field("asked", &format_args!("{url} at {at}, {rate} tries a second over each"));
    page.field("victim", &format_args!("{}, serial {}", found.victim.name, found.victim.serial));
    page.field("revoked by", &found.how);
    let answered = found.call.answered_us.map_or("not answered".into(), span);
    page.field("answered", &format_args!("{answered}  {}", found.call.told));
    page.line(&"");
    let victims = found.probes.iter().filter(|probe| probe.who == Who::Victim);
    page.table(
        &["VICTIM", "FIRST REFUSAL", "LAST SERVED", "SERVED AFTER THE ANSWER", "VERDICT"],
        victims.map(row).collect(),
    );
    page.line(&"");
    if let Some(bystander) = &found.bystander {
        let probes = || found.probes.iter().filter(|probe| probe.who == Who::Bystander);
        let tries = probes().map(|probe| probe.tries.len() as u64).sum();
        let lost = probes().map(|probe| probe.lost).sum::<u64>();
        page.field("bystander", &bystander.name);
        let told = format!("asked {}, {lost} of them lost since the call", counted(tries, "time"));
        page.field("", &told);
    }
    for said in &found.said {
        page.field("said", said);
    }
    for check in &found.checks {
        match check.passed {
            Some(true) => {
                page.verdict(Paint::Good, "so      ", &format_args!("  {}: {}", check.name, check.detail))
            }
            Some(false) => {
                page.verdict(Paint::Bad, "NOT SO  ", &format_args!("  {}: {}", check.name, check.detail))
            }
            None => {
                page.verdict(Paint::Plain, "not seen", &format_args!("  {}: {}", check.name, check.detail))
            }
        }
    }
    page.line(&"");
    match found.failures.len() {
        0 => page.verdict(Paint::Good, "passed", &unseen(found)),
        count => {
            let told = format!(": {}", counted(count as u64, "fault"));
            page.verdict(Paint::Bad, "NOT PASSED", &told);
        }
    }
    for failure in &found.failures {
        page.line(&format_args!("  {failure}"));
    }
    page.line(&standing(plan, found.call.succeeded));
    page
}

/// What was not looked at although nothing is wrong.
fn unseen(found: &Drill) -> String {
    let mut unseen = Vec::new();
    let probes = found.probes.iter().filter(|probe| probe.who == Who::Victim);
    for probe in probes.filter(|probe| probe.verdict == Verdict::NotOffered && probe.number == 0) {
        unseen.push(probe.kind.to_string());
    }
    if found.bystander.is_none() {
        unseen.push("a bystander".to_owned());
    }
    match unseen.is_empty() {
        true => String::new(),
        false => format!("; not seen: {}", unseen.join(", ")),
    }
}

fn row(probe: &Probe) -> Vec<String> {
    let refusal = probe.first_refusal_us.map(span).unwrap_or_default();
    let last = match (probe.verdict, probe.last_served_us) {
        (Verdict::NotOffered, _) | (_, None) => String::new(),
        (_, Some(at)) if at < 0 => "before it was asked".into(),
        (_, Some(at)) => span(at),
    };
    let words = probe.refusal.as_deref().unwrap_or_default();
    let verdict = match probe.verdict {
        Verdict::Refused => format!("refused: {words}"),
        Verdict::Served => "SERVED TO THE END".into(),
        Verdict::Flapped => format!("REFUSED, THEN SERVED: {words}"),
        Verdict::NotOffered => format!("not offered: {words}"),
        Verdict::Unclear => format!("UNCLEAR: {words}"),
    };
    let after = match probe.verdict {
        Verdict::NotOffered => String::new(),
        _ => probe.served_after_answer.to_string(),
    };
    vec![probe.kind.to_string(), refusal, last, after, verdict]
}

/// Microseconds as milliseconds, as far as they can be told apart.
fn span(us: i64) -> String {
    format!("{:.2} ms", us as f64 / 1000.0)
}
