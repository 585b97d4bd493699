//! Many revocations on fleets of gates.

use super::chart::Cumulative;
use super::chart::Curve;
use super::chart::LogAxis;
use super::chart::legend;
use super::headline::largest;
use super::heat;
use super::markup::Cell;
use super::markup::Figure;
use super::markup::Markup;
use super::markup::Table;
use super::markup::Text;
use super::markup::figure;
use super::markup::folded;
use super::markup::words;
use super::quantity::bytes;
use super::quantity::count;
use super::quantity::duration;
use super::quantity::number;
use super::quantity::so_many;
use crate::rig::findings::Distribution;
use crate::rig::findings::Fleet;
use crate::rig::findings::Revocations;

/// What stands below an axis of these charts.
const AXIS: &str = "last request served, after the call or message was due";

/// All such runs, each with its name: HTML.
pub(super) fn section(runs: &[(String, &Revocations)]) -> String {
    let mut out = Markup::default();
    if runs.is_empty() {
        return out.into_string();
    }
    let axis = LogAxis::of(runs.iter().flat_map(|(_, run)| &run.fleets).flat_map(times));
    out.put(format_args!("<section><h2>How long revocations take</h2>\n"));
    out.note("From when a call or message was due, on the schedule it was meant to keep, until the last answer that still served who was revoked.");
    out.put(format_args!("<h3>On the last gate of each revocation</h3>\n"));
    out.put(format_args!(
        "{}",
        chart("last-gate", "The last gate, by size of the fleet", &last_gate(runs), axis)
    ));
    out.put(format_args!("{}", percentiles(runs)));
    out.put(format_args!("<h3>By connection kind</h3>\n"));
    for (at, (label, run)) in runs.iter().enumerate() {
        if let Some(fleet) = largest(run) {
            let caption = format!("{label}: {}", gates(fleet));
            out.put(format_args!("{}", chart(&format!("kinds-{at}"), &caption, &by_kind(fleet), axis)));
        }
    }
    out.put(format_args!("{}", folded("By kind, as a table", &kinds_table(runs))));
    out.put(format_args!("<h3>Gate by gate</h3>\n"));
    for (at, (label, run)) in runs.iter().enumerate() {
        out.put(format_args!("{}", heat::draw(&format!("heat-{at}"), label, &run.fleets, axis)));
    }
    out.put(format_args!("{}", folded("Gate by gate, as a table", &gates_table(runs))));
    out.put(format_args!("<h3>What it cost</h3>\n{}", load(runs)));
    for (label, run) in runs {
        out.note(&format!("{label}: {}.", conditions(run)));
    }
    out.put(format_args!("</section>\n"));
    out.into_string()
}

fn conditions(run: &Revocations) -> String {
    format!(
        "fed by {}, {} on each gate before, {} of others, {} revocations a second",
        run.feed,
        so_many(run.entries, "entry", "entries"),
        so_many(run.connections, "live connection", "live connections"),
        number(run.rate)
    )
}

fn times(fleet: &Fleet) -> Vec<f64> {
    let all = fleet.gates.iter().chain([&fleet.last_gate]).chain(fleet.kinds.iter().map(|(_, found)| found));
    // The first hundredth may lie decades below the rest, where nobody looks.
    let shown = |found: &Distribution| {
        let first = found.ecdf.iter().find(|(_, part)| *part >= 0.005).map(|(us, _)| *us);
        [first.unwrap_or(found.p50_us), found.max_us]
    };
    all.flat_map(shown).collect()
}

fn gates(fleet: &Fleet) -> String {
    so_many(fleet.gates.len() as u64, "gate", "gates")
}

/// The name of a fleet; of its run, too, if there are several.
fn name(runs: &[(String, &Revocations)], label: &str, fleet: &Fleet) -> String {
    match runs {
        [_] => gates(fleet),
        _ => format!("{label}, {}", gates(fleet)),
    }
}

fn fleets<'a>(runs: &'a [(String, &'a Revocations)]) -> impl Iterator<Item = (String, &'a Fleet)> {
    runs.iter()
        .flat_map(move |(label, run)| run.fleets.iter().map(move |fleet| (name(runs, label, fleet), fleet)))
}

fn last_gate(runs: &[(String, &Revocations)]) -> Vec<Curve> {
    fleets(runs).enumerate().map(|(series, (name, fleet))| curve(name, series, &fleet.last_gate)).collect()
}

fn by_kind(fleet: &Fleet) -> Vec<Curve> {
    let kinds = fleet.kinds.iter().enumerate();
    kinds.map(|(series, (kind, found))| curve(kind.to_string(), series, found)).collect()
}

fn curve(name: String, series: usize, found: &Distribution) -> Curve {
    let aside = match (found.count, found.never) {
        (0, 0) => "nothing was seen".to_owned(),
        (_, 0) => format!("p50 {}, p99 {}", duration(found.p50_us), duration(found.p99_us)),
        (_, never) => format!("p99 {}, {} never", duration(found.p99_us), count(never)),
    };
    Curve { name, aside, series, steps: found.ecdf.clone(), has_never: found.never > 0, marked: false }
}

fn chart(id: &str, caption: &str, curves: &[Curve], axis: LogAxis) -> String {
    let size = (1080.0, 330.0);
    let told: Vec<String> = curves.iter().map(|curve| format!("{}: {}.", curve.name, curve.aside)).collect();
    let drawing = Cumulative { axis, curves, size, title: AXIS }.draw();
    let description = format!("Cumulative curves on a logarithmic time axis. {}", told.join(" "));
    Figure { id, caption, description: &description, size, legend: legend(curves), drawing: &drawing }
        .to_string()
}

/// The cells of the percentiles, as the tables have them.
fn cells(found: &Distribution) -> Vec<Cell> {
    let mut cells = vec![figure(count(found.count)), figure(count(found.never))];
    let shown = [found.p50_us, found.p90_us, found.p99_us, found.p999_us, found.max_us];
    cells.extend(shown.map(|us| figure(if found.count == 0 { "–".to_owned() } else { duration(us) })));
    cells
}

fn percentiles(runs: &[(String, &Revocations)]) -> Table {
    let head = ["Fleet", "What", "Seen", "Never", "p50", "p90", "p99", "p99.9", "Longest"];
    let mut table = Table::new("Percentiles of the fleets", &head);
    for (name, fleet) in fleets(runs) {
        let rows = [
            ("last request served, last gate", &fleet.last_gate),
            ("the same, since it was sent", &fleet.since_sent),
            ("answered by all", &fleet.answered),
            ("journal commit", &fleet.durable),
        ];
        for (what, found) in rows {
            let mut row = vec![words(&name), words(what)];
            row.extend(cells(found));
            table.row(row);
        }
    }
    table
}

fn kinds_table(runs: &[(String, &Revocations)]) -> Table {
    let head = ["Fleet", "Kind", "Seen", "Never", "p50", "p90", "p99", "p99.9", "Longest"];
    let mut table = Table::new("Last request served, by kind, all gates together", &head);
    for (name, fleet) in fleets(runs) {
        for (kind, found) in &fleet.kinds {
            let mut row = vec![words(&name), words(kind.name())];
            row.extend(cells(found));
            table.row(row);
        }
    }
    table
}

fn gates_table(runs: &[(String, &Revocations)]) -> Table {
    let head = ["Fleet", "Gate", "Seen", "Never", "p50", "p90", "p99", "p99.9", "Longest"];
    let mut table = Table::new("Last request served, gate by gate", &head);
    for (name, fleet) in fleets(runs) {
        for (at, found) in fleet.gates.iter().enumerate() {
            let mut row = vec![words(&name), figure((at + 1).to_string())];
            row.extend(cells(found));
            table.row(row);
        }
    }
    table
}

fn load(runs: &[(String, &Revocations)]) -> Table {
    let head = [
        "Fleet",
        "Served after the answer",
        "Tried after it",
        "Requests of others a second",
        "Their errors",
        "Took",
        "CPU, all gates",
        "Cores busy",
        "Memory, largest gate",
    ];
    let mut table = Table::new("Requests, processor and memory", &head);
    for (name, fleet) in fleets(runs) {
        let busy = if fleet.seconds > 0.0 { fleet.cpu_seconds / fleet.seconds } else { f64::NAN };
        table.row(vec![
            words(name),
            figure(count(fleet.served_after_answer)),
            figure(count(fleet.tried_after_answer)),
            figure(number(fleet.requests_per_second)),
            figure(count(fleet.bystander_errors)),
            figure(duration(fleet.seconds * 1e6)),
            figure(duration(fleet.cpu_seconds * 1e6)),
            figure(number(busy)),
            figure(bytes(fleet.memory)),
        ]);
    }
    table
}

/// What the title of the section's runs says in the summary.
pub(super) fn key_figures(run: &Revocations) -> String {
    let Some(fleet) = largest(run) else { return "no gate".to_owned() };
    let name = Text(gates(fleet)).to_string();
    format!(
        "{name}: p50 {}, p99 {}, longest {} on the last gate",
        duration(fleet.last_gate.p50_us),
        duration(fleet.last_gate.p99_us),
        duration(fleet.last_gate.max_us)
    )
}
