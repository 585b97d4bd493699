//! The result of a run in one sentence.

use super::probes::Ends;
use super::probes::Last;
use super::probes::phrase;
use super::probes::served_after_answer;
use super::probes::victims;
use super::proxies::named;
use super::quantity::count;
use super::quantity::duration;
use super::quantity::ratio;
use super::quantity::so_many;
use crate::rig::findings::Drill;
use crate::rig::findings::Findings;
use crate::rig::findings::Fleet;
use crate::rig::findings::Found;
use crate::rig::findings::Kind;
use crate::rig::findings::Probe;
use crate::rig::findings::Proxies;
use crate::rig::findings::Revocations;
use crate::rig::findings::Verdict;

/// What the page opens with.
pub(super) fn of_all(runs: &[Findings]) -> String {
    match runs {
        [] => "There is nothing to report.".to_owned(),
        [one] => of(&one.found),
        [first, ..] => drills(runs).unwrap_or_else(|| format!("{}: {}", first.label, of(&first.found))),
    }
}

/// What one run found.
pub(super) fn of(found: &Found) -> String {
    match found {
        Found::Drill(drill) => of_drill(drill),
        Found::Revocations(revocations) => of_revocations(revocations),
        Found::Proxies(proxies) => of_proxies(proxies),
    }
}

/// The figure of a run, and what it says: for its card.
pub(super) fn figure_of(found: &Found) -> (String, String) {
    let nothing = || ("–".to_owned(), "nothing was measured".to_owned());
    match found {
        Found::Drill(drill) => {
            let ends = Ends::of(drill, None);
            let what = "last request served after the revoke call";
            match (ends.never, ends.unclear, ends.max()) {
                (0, 0, Some(us)) => (duration(us.max(0.0)), what.to_owned()),
                (0, 0, None) => nothing(),
                (0, _, _) => ("unclear".to_owned(), what.to_owned()),
                (never, ..) => {
                    let (all, window) = (ends.all(), duration(drill.window_us as f64));
                    ("never".to_owned(), format!("{never} of {all} probes still served after {window}"))
                }
            }
        }
        Found::Revocations(revocations) => largest(revocations).map_or_else(nothing, |fleet| {
            let gates = so_many(fleet.gates.len() as u64, "gate", "gates");
            (
                duration(fleet.last_gate.p99_us),
                format!("p99 until the last request served on the last of {gates}"),
            )
        }),
        Found::Proxies(proxies) => proxies.costs.first().map_or_else(nothing, |cost| {
            (duration(cost.cpu_us), format!("of processor time, {}: {}", cost.proxy, named(cost.work)))
        }),
    }
}

/// The fleet of the most gates.
pub(super) fn largest(revocations: &Revocations) -> Option<&Fleet> {
    revocations.fleets.iter().max_by_key(|fleet| fleet.gates.len())
}

/// Several drills beside each other, whatever else there is.
fn drills(runs: &[Findings]) -> Option<String> {
    let mut ended = Vec::new();
    let mut others = Vec::new();
    for run in runs {
        let Found::Drill(drill) = &run.found else { continue };
        let ends = Ends::of(drill, None);
        match (ends.never, ends.unclear, ends.max()) {
            (0, 0, Some(us)) => ended.push((us.max(0.0), &run.label)),
            (0, ..) => others.push(format!("{} is unclear", run.label)),
            _ => {
                others.push(format!("{} still served after {}", run.label, duration(drill.window_us as f64)))
            }
        }
    }
    ended.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ended: Vec<String> = ended.iter().map(|(us, label)| format!("{label} {}", duration(*us))).collect();
    let others = list(&others);
    Some(match (ended.is_empty(), others.is_empty()) {
        (true, true) => return None,
        (true, _) => format!("{others}."),
        (false, true) => format!("Last request served after the revoke call: {}.", list(&ended)),
        (false, false) => format!("Last request served after the revoke call: {}; {others}.", list(&ended)),
    })
}

fn of_drill(drill: &Drill) -> String {
    let ends = Ends::of(drill, None);
    if ends.all() == 0 {
        return "No connection of the victim was measured.".to_owned();
    }
    let kinds = |wanted: &dyn Fn(&Probe) -> bool| {
        let mut kinds: Vec<Kind> =
            victims(drill).filter(|probe| wanted(probe)).map(|probe| probe.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        list_short(&kinds.into_iter().map(phrase).collect::<Vec<_>>())
    };
    if ends.never > 0 {
        let kinds = kinds(&|probe| Last::of(probe) == Some(Last::Never));
        return format!(
            "Still served on {kinds} when the window ended, {} later.",
            duration(drill.window_us as f64)
        );
    }
    let last = ends.max().unwrap_or_default();
    let served = match last > 0.0 {
        true => format!("Last request served {} after the revoke call", duration(last)),
        false => "No request was served after the revoke call".to_owned(),
    };
    let flapped = kinds(&|probe| probe.verdict == Verdict::Flapped);
    let unclear = kinds(&|probe| probe.verdict == Verdict::Unclear);
    let after = match (served_after_answer(drill), drill.call.answered_us) {
        _ if !drill.call.succeeded => format!("the call failed ({})", drill.call.told),
        _ if !flapped.is_empty() => format!("refused and then served again on {flapped}"),
        (1.., Some(_)) => format!("{} after its answer", count(served_after_answer(drill))),
        (_, None) => "the call was not answered".to_owned(),
        _ if !unclear.is_empty() => format!("what became of {unclear} is unclear"),
        (0, Some(_)) if last <= 0.0 => return format!("{served}."),
        (0, Some(answered)) if last > answered as f64 => {
            format!("begun before its answer, which came after {}", duration(answered as f64))
        }
        (0, Some(_)) => "nothing after its answer".to_owned(),
    };
    format!("{served}; {after}.")
}

fn of_revocations(revocations: &Revocations) -> String {
    let Some(fleet) = largest(revocations) else {
        return "No gate was measured.".to_owned();
    };
    let gates = so_many(fleet.gates.len() as u64, "gate", "gates");
    let (last, all) = (&fleet.last_gate, fleet.last_gate.count.saturating_add(fleet.last_gate.never));
    let revocations_ = so_many(all, "revocation", "revocations");
    let late: u64 =
        revocations.fleets.iter().fold(0, |sum, fleet| sum.saturating_add(fleet.served_after_answer));
    let never = match last.never {
        0 => String::new(),
        never => format!(" {} did not take effect in time.", count(never)),
    };
    let late = match late {
        0 => "no request was served after the answer".to_owned(),
        late => format!("{} served after the answer", so_many(late, "request was", "requests were")),
    };
    format!(
        "{revocations_} on {gates}: the last request was served {} after the call in half of them and {} in 99 of 100; {late}.{never}",
        duration(last.p50_us),
        duration(last.p99_us)
    )
}

fn of_proxies(proxies: &Proxies) -> String {
    let Some(first) = proxies.costs.first() else {
        return "No proxy was measured.".to_owned();
    };
    let others: Vec<String> = proxies
        .costs
        .iter()
        .skip(1)
        .filter(|cost| cost.work == first.work)
        .take(4)
        .map(|cost| format!("{} {} ({})", cost.proxy, duration(cost.cpu_us), ratio(cost.ratio)))
        .collect();
    let beside = if others.is_empty() { String::new() } else { format!("; {}", list(&others)) };
    format!(
        "{}: {} takes {} of processor time{beside}.",
        named(first.work),
        first.proxy,
        duration(first.cpu_us)
    )
}

/// `a, b and c`.
fn list<T: AsRef<str>>(items: &[T]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

/// The same; of more than three, two are named.
fn list_short(items: &[&str]) -> String {
    match items {
        [a, b, more @ ..] if more.len() > 1 => format!("{a}, {b} and {} other kinds", more.len()),
        few => list(few),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::findings::Call;
    use crate::rig::findings::Party;
    use crate::rig::findings::Who;

    fn drill(probes: &[(Kind, Verdict, Option<i64>, u64)]) -> Drill {
        let probe = |(kind, verdict, last, late): &(Kind, Verdict, Option<i64>, u64)| Probe {
            who: Who::Victim,
            kind: *kind,
            number: 0,
            verdict: *verdict,
            first_refusal_us: None,
            refusal: None,
            last_served_us: *last,
            refused_from_us: None,
            lost: 0,
            served_after_answer: *late,
            tries: Vec::new(),
        };
        Drill {
            address: String::new(),
            url: String::new(),
            victim: Party::default(),
            bystander: None,
            how: String::new(),
            call: Call { answered_us: Some(600), succeeded: true, told: "200".into() },
            window_us: 20_000_000,
            before_us: 0,
            rate: 10.0,
            probes: probes.iter().map(probe).collect(),
            checks: Vec::new(),
            failures: Vec::new(),
            said: Vec::new(),
        }
    }

    #[test]
    fn a_drill_is_told_in_a_sentence() {
        let refused = (Kind::Http1, Verdict::Refused, Some(410), 0);
        let told = |probes: &[(Kind, Verdict, Option<i64>, u64)]| of_drill(&drill(probes));
        assert_eq!(
            told(&[refused]),
            "Last request served 0.41 ms after the revoke call; nothing after its answer."
        );
        assert_eq!(
            told(&[(Kind::Stream, Verdict::Refused, Some(3_000_000), 0)]),
            "Last request served 3 s after the revoke call; begun before its answer, which came after 0.6 ms."
        );
        assert_eq!(
            told(&[refused, (Kind::Http1, Verdict::Served, Some(19_900_000), 99)]),
            "Still served on an open HTTP/1.1 connection when the window ended, 20 s later."
        );
        assert_eq!(
            told(&[(Kind::Http2, Verdict::Refused, Some(9000), 3)]),
            "Last request served 9 ms after the revoke call; 3 after its answer."
        );
        assert_eq!(
            told(&[(Kind::Handshake, Verdict::Flapped, Some(9000), 1)]),
            "Last request served 9 ms after the revoke call; refused and then served again on new connections."
        );
        assert_eq!(
            told(&[refused, (Kind::Body, Verdict::Unclear, None, 0)]),
            "Last request served 0.41 ms after the revoke call; what became of a request in the middle of its body is unclear."
        );
        assert_eq!(
            told(&[(Kind::Body, Verdict::Refused, None, 0)]),
            "No request was served after the revoke call."
        );
        assert_eq!(
            told(&[(Kind::WebSocket, Verdict::NotOffered, None, 0)]),
            "No connection of the victim was measured."
        );
    }

    #[test]
    fn a_call_that_failed_is_named() {
        let mut failed = drill(&[(Kind::Http1, Verdict::Refused, Some(410), 0)]);
        failed.call = Call { answered_us: Some(600), succeeded: false, told: "500".into() };
        assert!(of_drill(&failed).ends_with("; the call failed (500)."));
    }
}
