//! The heat strip: a row for each gate, time in columns, and how often a revocation took so long.

use super::chart::Frame;
use super::chart::LogAxis;
use super::chart::part_at;
use super::chart::tidy;
use super::markup::Figure;
use super::markup::Markup;
use super::markup::Text;
use super::quantity::duration;
use super::quantity::so_many;
use crate::rig::findings::Distribution;
use crate::rig::findings::Fleet;

/// How many columns a row has.
const COLUMNS: usize = 82;
/// The most rows of one fleet.
const ROWS: usize = 64;
/// The most fleets of one picture.
const FLEETS: usize = 12;
/// How high a row is.
const ROW: f64 = 15.0;

/// The fleets of a run below each other, on one axis: HTML.
pub(super) fn draw(id: &str, label: &str, fleets: &[Fleet], axis: LogAxis) -> String {
    let rows: usize = fleets.iter().take(FLEETS).map(|fleet| fleet.gates.len().min(ROWS) + 1).sum();
    let (width, height) = (1080.0, 8.0 + rows as f64 * ROW + fleets.len().min(FLEETS) as f64 * 6.0 + 44.0);
    let frame = Frame { left: 110.0, right: width - 150.0, top: 8.0, bottom: height - 44.0 };
    let mut out = Markup::default();
    axis.draw(&mut out, &frame);
    let most = densest(fleets, axis);
    let mut y = frame.top;
    for fleet in fleets.iter().take(FLEETS) {
        let name = so_many(fleet.gates.len() as u64, "gate", "gates");
        out.put(format_args!("<text class=\"group\" x=\"4\" y=\"{:.1}\">{name}</text>\n", y + 12.0));
        y += ROW;
        for (number, gate) in fleet.gates.iter().take(ROWS).enumerate() {
            draw_gate(&mut out, (number + 1, gate), (&frame, axis, y), most);
            y += ROW;
        }
        y += 6.0;
    }
    let (x, y) = (f64::midpoint(frame.left, frame.right), height - 6.0);
    out.put(format_args!("<text class=\"label\" x=\"{x:.1}\" y=\"{y:.1}\">last request served, after the call or message was due</text>"));
    let picture = Figure {
        id,
        caption: &format!("{label}: gate by gate"),
        description: "A row for each gate, logarithmic time in columns; the darker a column, the more revocations took so long on that gate. The longest is marked. The table has the percentiles of each gate.",
        size: (width, height),
        legend: legend(),
        drawing: &out,
    };
    let mut html = Markup::default();
    html.put(format_args!("{picture}"));
    if fleets.iter().any(|fleet| fleet.gates.len() > ROWS) || fleets.len() > FLEETS {
        html.note(&format!("Of more than {ROWS} gates or {FLEETS} fleets, the first are shown."));
    }
    html.into_string()
}

/// One row; the column that holds `most` of all is darkest.
fn draw_gate(
    out: &mut Markup,
    (number, gate): (usize, &Distribution),
    (frame, axis, y): (&Frame, LogAxis, f64),
    most: f64,
) {
    let (x, text) = (frame.left - 10.0, y + 11.0);
    let told = format!(
        "p50 {}, p99 {}, longest {}",
        duration(gate.p50_us),
        duration(gate.p99_us),
        duration(gate.max_us)
    );
    out.put(format_args!("<text class=\"end small\" x=\"{x:.1}\" y=\"{text:.1}\">gate {number}</text>"));
    out.put(format_args!("<g class=\"heat\"><title>gate {number}: {}</title>", Text(told)));
    let width = (frame.right - frame.left) / COLUMNS as f64;
    for (column, density) in densities(gate, axis).into_iter().enumerate() {
        if density > 0.0 {
            let x = frame.left + column as f64 * width;
            // The root lets the few slow ones be seen beside the many.
            let shade = (0.06 + 0.94 * (density / most).sqrt()).min(1.0);
            let high = ROW - 2.0;
            out.put(format_args!(
                "<rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{high}\" fill-opacity=\"{shade:.2}\"/>"
            ));
        }
    }
    out.put(format_args!("</g>"));
    let (right, class) = (frame.right + 12.0, if gate.never > 0 { "bad" } else { "plain" });
    if gate.max_us.is_finite() && gate.max_us > 0.0 {
        let x = frame.left + axis.part(gate.max_us) * (frame.right - frame.left);
        let (top, bottom) = (y, y + ROW - 2.0);
        out.put(format_args!("<path class=\"longest\" d=\"M{x:.1} {top:.1}V{bottom:.1}\"/>"));
    }
    let told = match gate.never {
        0 => format!("p99 {}", duration(gate.p99_us)),
        never => format!("✕ {never} never"),
    };
    out.put(format_args!(
        "<text class=\"outcome small {class}\" x=\"{right:.1}\" y=\"{text:.1}\">{}</text>\n",
        Text(told)
    ));
}

/// The largest part of all revocations that falls into one column of one gate; that is darkest.
fn densest(fleets: &[Fleet], axis: LogAxis) -> f64 {
    let gates = fleets.iter().take(FLEETS).flat_map(|fleet| fleet.gates.iter().take(ROWS));
    gates.flat_map(|gate| densities(gate, axis)).fold(1e-6, f64::max)
}

/// For each column, how large a part of all revocations falls into it.
fn densities(gate: &Distribution, axis: LogAxis) -> Vec<f64> {
    let steps = tidy(&gate.ecdf);
    let mut before = 0.0;
    let last = COLUMNS - 1;
    (0..COLUMNS)
        .map(|column| {
            let end =
                if column == last { f64::INFINITY } else { axis.time((column + 1) as f64 / COLUMNS as f64) };
            let until = part_at(&steps, end);
            let density = until - before;
            before = until;
            density
        })
        .collect()
}

fn legend() -> String {
    let mut out = Markup::default();
    out.put(format_args!(
        "<ul class=\"legend\"><li><svg class=\"heat\" viewBox=\"0 0 80 16\" aria-hidden=\"true\">"
    ));
    for (at, part) in [0.001, 0.05, 0.2, 0.5, 1.0].into_iter().enumerate() {
        let shade = 0.06 + 0.94 * f64::sqrt(part);
        out.put(format_args!(
            "<rect x=\"{}\" y=\"2\" width=\"16\" height=\"12\" fill-opacity=\"{shade:.2}\"/>",
            at * 16
        ));
    }
    out.put(format_args!("</svg> few to many revocations</li>"));
    out.put(format_args!("<li><svg viewBox=\"0 0 10 16\" aria-hidden=\"true\"><path class=\"longest\" d=\"M5 2V14\"/></svg> the longest</li></ul>\n"));
    out.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_ended_is_in_some_column() {
        let axis = LogAxis::of([100.0, 1e5].into_iter());
        let ecdf = vec![(1.0, 0.25), (1e3, 0.5), (1e9, 0.75)];
        let gate = Distribution { ecdf, ..Distribution::default() };
        let sum: f64 = densities(&gate, axis).iter().sum();
        assert!((sum - 0.75).abs() < 1e-9, "{sum}");
        assert!(densities(&Distribution::default(), axis).iter().all(|density| *density == 0.0));
    }
}
