//! Drills beside each other: when the last request was served, by connection kind.

use super::chart::AMID;
use super::chart::BEYOND;
use super::chart::Cumulative;
use super::chart::Curve;
use super::chart::Frame;
use super::chart::LogAxis;
use super::chart::class;
use super::chart::draw_never;
use super::chart::legend;
use super::chart::shape;
use super::markup::Cell;
use super::markup::Figure;
use super::markup::Markup;
use super::markup::Table;
use super::markup::Text;
use super::markup::Tone;
use super::markup::figure;
use super::markup::folded;
use super::markup::words;
use super::probes::Ends;
use super::probes::Last;
use super::probes::victims;
use super::quantity::count;
use super::quantity::duration;
use super::quantity::duration_if;
use super::timeline;
use crate::rig::findings::Drill;
use crate::rig::findings::Kind;
use crate::rig::findings::Probe;
use crate::rig::findings::Verdict;
use crate::rig::findings::Who;

/// What stands below an axis of these charts.
const AXIS: &str = "last request served, after the revoke call was sent";
/// The most marks of one row.
const MARKS: usize = 200;

/// All drills, each with the name of its run: HTML.
pub(super) fn section(drills: &[(String, &Drill)]) -> String {
    let mut out = Markup::default();
    if drills.is_empty() {
        return out.into_string();
    }
    let times = |drill: &&Drill| {
        let ends = Ends::of(drill, None).times;
        ends.into_iter().chain([drill.window_us as f64])
    };
    let axis = LogAxis::of(drills.iter().map(|(_, drill)| *drill).flat_map(|drill| times(&drill)));
    out.put(format_args!("<section><h2>When the last request was served</h2>\n"));
    out.note("Each mark is one probe of the revoked party: the moment when the last answer that served it was there. Marks under “never” were still served when the window ended.");
    if drills.iter().any(|(_, drill)| Ends::of(drill, None).times.iter().any(|us| *us <= 0.0)) {
        out.note("“At once”, at the left end: nothing was served after the call was sent.");
    }
    out.put(format_args!("{}", strip(drills, axis)));
    out.put(format_args!("<h3>Share of the probes that were out by then</h3>\n"));
    out.put(format_args!("{}", cumulative(drills, axis)));
    out.put(format_args!("{}", folded("The figures as a table", &ends_table(drills))));
    out.put(format_args!("</section>\n<section><h2>Requests around the revocation</h2>\n"));
    out.note("One lane for each probe, one mark for each try, placed when its outcome was there; the line before a mark is the time it was under way. Tries that would lie upon each other are drawn once. Time is linear near the call and logarithmic away from it.");
    out.put(format_args!("{}</section>\n", timeline::draw(drills)));
    for (label, drill) in drills {
        out.put(format_args!("{}", one(label, drill)));
    }
    out.into_string()
}

/// The kinds that something was seen of.
fn kinds(drills: &[(String, &Drill)]) -> Vec<Kind> {
    let offered = |kind: &Kind| drills.iter().any(|(_, drill)| Ends::of(drill, Some(*kind)).all() > 0);
    Kind::ALL.into_iter().filter(offered).collect()
}

/// A row for each kind, a mark for each probe.
fn strip(drills: &[(String, &Drill)], axis: LogAxis) -> String {
    let kinds = kinds(drills);
    let row = 18.0 + 14.0 * drills.len().min(6) as f64;
    let (width, height) = (1080.0, 12.0 + row * kinds.len() as f64 + 44.0);
    let frame = Frame { left: 178.0, right: width - BEYOND - 8.0, top: 12.0, bottom: height - 44.0 };
    let mut out = Markup::default();
    draw_never(&mut out, &frame);
    axis.draw(&mut out, &frame);
    for (number, kind) in kinds.iter().enumerate() {
        let top = frame.top + row * number as f64;
        let (x, y) = (frame.left - 12.0, top + row / 2.0 + 4.0);
        out.put(format_args!("<text class=\"end strong\" x=\"{x}\" y=\"{y:.1}\">{kind}</text>"));
        out.put(format_args!("<path class=\"lane\" d=\"M4 {top:.1}H{:.1}\"/>\n", frame.right + BEYOND));
        for (series, (label, drill)) in drills.iter().enumerate() {
            let y = top + 9.0 + (row - 18.0) * (series as f64 + 0.5) / drills.len() as f64;
            strip_row(&mut out, (series, label, drill, *kind), (&frame, axis, y));
        }
    }
    let (x, y) = (f64::midpoint(frame.left, frame.right), height - 6.0);
    out.put(format_args!("<text class=\"label\" x=\"{x:.1}\" y=\"{y:.1}\">{AXIS}</text>"));
    let picture = Figure {
        id: "strip",
        caption: "Last request served, by connection kind",
        description: "A row for each kind of connection, a mark for each probe of the revoked party, on a logarithmic time axis. The table below has the figures.",
        size: (width, height),
        legend: if drills.len() > 1 { legend(&by_run(drills, None)) } else { String::new() },
        drawing: &out,
    };
    picture.to_string()
}

fn strip_row(
    out: &mut Markup,
    (series, label, drill, kind): (usize, &str, &Drill, Kind),
    place: (&Frame, LogAxis, f64),
) {
    let (frame, axis, y) = place;
    out.put(format_args!("<g class=\"{}\">", class(series)));
    let mut latest: Option<(f64, f64)> = None;
    for last in victims(drill).filter(|probe| probe.kind == kind).filter_map(Last::of).take(MARKS) {
        let (x, told, hollow) = match last {
            Last::At(us) => {
                (frame.left + axis.part(us) * (frame.right - frame.left), duration(us.max(0.0)), "")
            }
            Last::Never => (frame.right + AMID, "never".to_owned(), ""),
            Last::Unclear => (frame.right + AMID, "unclear".to_owned(), " hollow"),
        };
        let (path, title) = (shape(series, x, y), Text(format_args!("{label}, {kind}: {told}")));
        out.put(format_args!("<path class=\"mark{hollow}\" d=\"{path}\"><title>{title}</title></path>"));
        if let Last::At(us) = last
            && latest.is_none_or(|(_, other)| us > other)
        {
            latest = Some((x, us));
        }
    }
    if let Some((x, us)) = latest {
        let (x, anchor) = if x > frame.right - 80.0 { (x - 9.0, "end") } else { (x + 9.0, "start") };
        out.put(format_args!(
            "<text class=\"value {anchor}\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            y + 4.0,
            after(us)
        ));
    }
    out.put(format_args!("</g>\n"));
}

/// A time after the call, or that it was before.
fn after(us: f64) -> String {
    if us > 0.0 { duration(us) } else { "at once".to_owned() }
}

/// A curve for each run; of one kind, or of all.
fn by_run(drills: &[(String, &Drill)], kind: Option<Kind>) -> Vec<Curve> {
    let curve = |(series, (label, drill)): (usize, &(String, &Drill))| {
        curve(label.clone(), series, &Ends::of(drill, kind))
    };
    drills.iter().enumerate().map(curve).filter(|curve| kind.is_none() || !curve.aside.is_empty()).collect()
}

fn curve(name: String, series: usize, ends: &Ends) -> Curve {
    let (ended, all) = (ends.times.len(), ends.all());
    let aside = match (ends.max(), all) {
        (_, 0) => String::new(),
        (Some(us), _) if ended == all && us <= 0.0 => format!("{ended} of {all} out at once"),
        (Some(us), _) if ended == all => format!("{ended} of {all} out, the last after {}", duration(us)),
        _ => format!("{ended} of {all} out"),
    };
    let steps = Curve::of(ends.times.clone(), all);
    Curve { name, aside, series, marked: steps.len() <= 60, steps, has_never: ended < all }
}

/// Of one drill, a curve for each kind; of several, one for each run, and a small chart for each kind.
fn cumulative(drills: &[(String, &Drill)], axis: LogAxis) -> String {
    let kinds = kinds(drills);
    let curves = match drills {
        [(_, drill)] => {
            let of = |(series, kind): (usize, &Kind)| {
                curve(kind.to_string(), series, &Ends::of(drill, Some(*kind)))
            };
            kinds.iter().enumerate().map(of).collect()
        }
        _ => by_run(drills, None),
    };
    let caption = if drills.len() == 1 { "By connection kind" } else { "All kinds together" };
    let mut out = chart("ecdf", caption, &curves, (axis, (1080.0, 330.0)));
    if drills.len() > 1 {
        out += "<div class=\"panels\">\n";
        for kind in kinds {
            let id = format!("ecdf-{kind:?}").to_lowercase();
            out += &chart(&id, kind.name(), &by_run(drills, Some(kind)), (axis, (352.0, 236.0)));
        }
        out += "</div>\n";
    }
    out
}

fn chart(id: &str, caption: &str, curves: &[Curve], (axis, size): (LogAxis, (f64, f64))) -> String {
    let told: Vec<String> = curves.iter().map(|curve| format!("{}: {}.", curve.name, curve.aside)).collect();
    let is_small = size.0 < 600.0;
    let drawing =
        Cumulative { axis, curves, size, title: if is_small { "after the call" } else { AXIS } }.draw();
    let description = format!("Cumulative curves on a logarithmic time axis. {}", told.join(" "));
    let legend = if is_small { String::new() } else { legend(curves) };
    Figure { id, caption, description: &description, size, legend, drawing: &drawing }.to_string()
}

fn ends_table(drills: &[(String, &Drill)]) -> Table {
    let head = ["Run", "Kind", "Probes", "First", "Median", "Last", "Never", "Unclear"];
    let mut table = Table::new("Last request served, after the revoke call was sent", &head);
    for (label, drill) in drills {
        for kind in kinds(&[(label.clone(), drill)]) {
            let mut ends = Ends::of(drill, Some(kind));
            ends.times.sort_by(f64::total_cmp);
            let at =
                |at: usize| figure(ends.times.get(at).map_or_else(|| "–".into(), |us| duration(us.max(0.0))));
            table.row(vec![
                words(label),
                words(kind.name()),
                figure(count(ends.all() as u64)),
                at(0),
                at(ends.times.len().saturating_sub(1) / 2),
                at(ends.times.len().saturating_sub(1)),
                figure(count(ends.never as u64)),
                figure(count(ends.unclear as u64)),
            ]);
        }
    }
    table
}

/// One drill by itself: its tables, checks and failures.
fn one(label: &str, drill: &Drill) -> String {
    let mut out = Markup::default();
    out.put(format_args!("<section><h2>Drill: {}</h2>\n", Text(label)));
    out.put(format_args!("<dl class=\"facts\">"));
    let bystander = drill.bystander.as_ref().map_or("nobody", |party| &party.name);
    let call = match drill.call.answered_us {
        Some(us) => format!("{} after {}", drill.call.told, duration(us as f64)),
        None => format!("not answered: {}", drill.call.told),
    };
    let victim = format!("{} (serial {})", drill.victim.name, drill.victim.serial);
    let pace = format!(
        "{} tries a second on each probe, from {} before the call to {} after it",
        super::quantity::number(drill.rate),
        duration(drill.before_us as f64),
        duration(drill.window_us as f64)
    );
    let target = match drill.address.as_str() {
        "" => drill.url.clone(),
        address => format!("{} at {address}", drill.url),
    };
    let facts = [
        ("Target", target.as_str()),
        ("Revoked", &victim),
        ("Bystander", bystander),
        ("How", &drill.how),
        ("The call", &call),
        ("Pace", &pace),
    ];
    for (name, value) in facts {
        out.put(format_args!("<dt>{name}</dt><dd>{}</dd>", Text(value)));
    }
    out.put(format_args!("</dl>\n"));
    failures(&mut out, drill);
    out.put(format_args!("{}", victim_table(drill)));
    let others = bystander_table(drill);
    if !others.is_empty() {
        out.put(format_args!("{others}"));
    }
    let checks = checks_table(drill);
    if !checks.is_empty() {
        out.put(format_args!("{checks}"));
    }
    out.put(format_args!("</section>\n"));
    out.into_string()
}

fn failures(out: &mut Markup, drill: &Drill) {
    const MOST: usize = 50;
    if drill.failures.is_empty() {
        return;
    }
    out.put(format_args!("<div class=\"failures\"><h3>What is wrong</h3><ul>"));
    for failure in drill.failures.iter().take(MOST) {
        out.put(format_args!("<li>{}</li>", Text(failure)));
    }
    if let Some(more) = drill.failures.len().checked_sub(MOST).filter(|more| *more > 0) {
        out.put(format_args!("<li>and {more} more</li>"));
    }
    out.put(format_args!("</ul></div>\n"));
}

fn of_kind(drill: &Drill, who: Who, kind: Kind) -> Vec<&Probe> {
    drill.probes.iter().filter(|probe| probe.who == who && probe.kind == kind).collect()
}

fn victim_table(drill: &Drill) -> Table {
    let head = [
        "Kind",
        "Verdict",
        "Probes",
        "First refusal",
        "Last served",
        "Served after the answer",
        "Refused with",
    ];
    let mut table = Table::new("The revoked party", &head);
    for kind in Kind::ALL {
        let probes = of_kind(drill, Who::Victim, kind);
        let Some(worst) = probes.iter().map(|probe| probe.verdict).max_by_key(|verdict| badness(*verdict))
        else {
            continue;
        };
        let first = probes.iter().filter_map(|probe| probe.first_refusal_us).min();
        let late = probes.iter().fold(0u64, |sum, probe| sum.saturating_add(probe.served_after_answer));
        let ends = Ends::of(drill, Some(kind));
        let last = match (ends.all(), ends.never, ends.max()) {
            (0, ..) => "–".to_owned(),
            (_, 0, Some(us)) if us <= 0.0 => "before the call".to_owned(),
            (_, 0, us) => us.map_or_else(|| "–".to_owned(), duration),
            _ => "never ended".to_owned(),
        };
        let (tone, word) = verdict(worst);
        table.row(vec![
            words(kind.name()),
            Cell::Verdict(tone, word.to_owned()),
            figure(count(probes.len() as u64)),
            figure(duration_if(first)),
            figure(last),
            figure(count(late)),
            words(probes.iter().find_map(|probe| probe.refusal.clone()).unwrap_or_default()),
        ]);
    }
    table
}

fn bystander_table(drill: &Drill) -> Table {
    let mut table = Table::new("The bystander", &["Kind", "Verdict", "Probes", "Tries", "Lost"]);
    for kind in Kind::ALL {
        let probes = of_kind(drill, Who::Bystander, kind);
        if probes.is_empty() {
            continue;
        }
        let verdicts = || probes.iter().map(|probe| probe.verdict);
        let (tone, word) = match () {
            () if verdicts().any(|v| matches!(v, Verdict::Refused | Verdict::Flapped)) => {
                (Tone::Bad, "refused")
            }
            () if verdicts().any(|v| v == Verdict::Unclear) => (Tone::Careful, "unclear"),
            () if verdicts().all(|v| v == Verdict::NotOffered) => (Tone::Plain, "not offered"),
            () => (Tone::Good, "served"),
        };
        table.row(vec![
            words(kind.name()),
            Cell::Verdict(tone, word.to_owned()),
            figure(count(probes.len() as u64)),
            figure(count(probes.iter().map(|probe| probe.tries.len() as u64).sum())),
            figure(count(probes.iter().fold(0, |sum: u64, probe| sum.saturating_add(probe.lost)))),
        ]);
    }
    table
}

fn checks_table(drill: &Drill) -> Table {
    let mut table = Table::new("Checks", &["Check", "Result", "Seen"]);
    for check in &drill.checks {
        let (tone, word) = match check.passed {
            Some(true) => (Tone::Good, "passed"),
            Some(false) => (Tone::Bad, "failed"),
            None => (Tone::Plain, "not checked"),
        };
        table.row(vec![words(&check.name), Cell::Verdict(tone, word.to_owned()), words(&check.detail)]);
    }
    table
}

/// Of the revoked party, worst last.
fn badness(verdict: Verdict) -> usize {
    match verdict {
        Verdict::NotOffered => 0,
        Verdict::Refused => 1,
        Verdict::Unclear => 2,
        Verdict::Flapped => 3,
        Verdict::Served => 4,
    }
}

fn verdict(verdict: Verdict) -> (Tone, &'static str) {
    match verdict {
        Verdict::Refused => (Tone::Good, "refused"),
        Verdict::Served => (Tone::Bad, "still served"),
        Verdict::Flapped => (Tone::Bad, "served again"),
        Verdict::Unclear => (Tone::Careful, "unclear"),
        Verdict::NotOffered => (Tone::Plain, "not offered"),
    }
}
