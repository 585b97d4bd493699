//! What requests and handshakes cost, proxy beside proxy.

use super::chart::class;
use super::markup::Figure;
use super::markup::Markup;
use super::markup::Table;
use super::markup::Text;
use super::markup::figure;
use super::markup::words;
use super::quantity::bytes;
use super::quantity::count;
use super::quantity::duration;
use super::quantity::number;
use super::quantity::ratio;
use super::quantity::so_many;
use crate::rig::findings::Cost;
use crate::rig::findings::Kind;
use crate::rig::findings::Proxies;

/// The most bars of one chart.
const BARS: usize = 24;

/// A work as it stands in a caption.
pub(super) fn named(work: Kind) -> &'static str {
    match work {
        Kind::Http1 => "A request over HTTP/1.1",
        Kind::Http2 => "A request over HTTP/2",
        Kind::Stream => "A piece of an HTTP/2 stream",
        Kind::Body => "A piece of a request body",
        Kind::WebSocket => "A WebSocket message",
        Kind::Handshake => "A full handshake and a request",
        Kind::Resumption => "A resumed session and a request",
    }
}

/// All such runs, each with its name: HTML.
pub(super) fn section(runs: &[(String, &Proxies)]) -> String {
    let mut out = Markup::default();
    if runs.is_empty() {
        return out.into_string();
    }
    out.put(format_args!("<section><h2>What requests cost</h2>\n"));
    out.note("Processor time of the proxy, medians of the rounds; “×” is the ratio to the first proxy of the run. Less is better.");
    for (label, run) in runs {
        out.note(&format!(
            "{label}: {} of {} each.",
            so_many(run.rounds as u64, "round", "rounds"),
            duration(run.seconds * 1e6)
        ));
    }
    out.put(format_args!("<div class=\"panels two\">\n"));
    for work in Kind::ALL {
        let costs: Vec<(usize, String, &Cost)> =
            costs(runs).filter(|(_, _, cost)| cost.work == work).collect();
        if !costs.is_empty() {
            out.put(format_args!("{}", bars(work, &costs)));
        }
    }
    out.put(format_args!("</div>\n{}</section>\n", table(runs)));
    out.into_string()
}

/// Each cost with the number of its proxy, in the order in which they first come, and its name.
fn costs<'a>(runs: &'a [(String, &'a Proxies)]) -> impl Iterator<Item = (usize, String, &'a Cost)> {
    let mut known: Vec<String> = Vec::new();
    let named = runs.iter().flat_map(move |(label, run)| {
        run.costs.iter().map(move |cost| match runs {
            [_] => (cost.proxy.clone(), cost),
            _ => (format!("{label}: {}", cost.proxy), cost),
        })
    });
    named.map(move |(name, cost)| {
        let at = known.iter().position(|one| *one == name).unwrap_or_else(|| {
            known.push(name.clone());
            known.len() - 1
        });
        (at, name, cost)
    })
}

/// A bar for each proxy, from zero.
fn bars(work: Kind, costs: &[(usize, String, &Cost)]) -> String {
    let shown = costs.len().min(BARS);
    let (width, height) = (520.0, 14.0 + 44.0 * shown as f64);
    let longest =
        costs.iter().map(|(_, _, cost)| cost.cpu_us).filter(|us| us.is_finite()).fold(0.0, f64::max);
    let mut out = Markup::default();
    for (row, (series, name, cost)) in costs.iter().take(BARS).enumerate() {
        let y = 14.0 + 44.0 * row as f64;
        let part = if longest > 0.0 && cost.cpu_us.is_finite() {
            (cost.cpu_us / longest).clamp(0.0, 1.0)
        } else {
            0.0
        };
        let (long, class, bar) = ((part * (width - 150.0)).max(1.0), class(*series), y + 8.0);
        let (value, ratio) = (duration(cost.cpu_us), ratio(cost.ratio));
        out.put(format_args!("<text x=\"2\" y=\"{y:.1}\" class=\"strong\">{}</text>", Text(name)));
        out.put(format_args!("<g class=\"{class}\"><rect class=\"bar\" x=\"2\" y=\"{bar:.1}\" width=\"{long:.1}\" height=\"16\" rx=\"2\"/></g>"));
        let (x, y) = (long + 10.0, y + 21.0);
        out.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\">{value} <tspan class=\"quiet\">{ratio}</tspan></text>\n"
        ));
    }
    let told: Vec<String> = costs
        .iter()
        .take(BARS)
        .map(|(_, name, cost)| format!("{name}: {}.", duration(cost.cpu_us)))
        .collect();
    Figure {
        id: &format!("cost-{work:?}").to_lowercase(),
        caption: named(work),
        description: &format!("Bars of processor time. {}", told.join(" ")),
        size: (width, height),
        legend: String::new(),
        drawing: &out,
    }
    .to_string()
}

fn table(runs: &[(String, &Proxies)]) -> Table {
    let head = ["Proxy", "Work", "CPU", "Ratio", "A second", "Errors", "Memory"];
    let mut table = Table::new("Cost of requests and handshakes", &head);
    for (_, name, cost) in costs(runs) {
        table.row(vec![
            words(name),
            words(named(cost.work)),
            figure(duration(cost.cpu_us)),
            figure(ratio(cost.ratio)),
            figure(number(cost.per_second)),
            figure(count(cost.errors)),
            figure(bytes(cost.memory)),
        ]);
    }
    table
}
