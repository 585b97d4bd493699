//! Axes, scales and cumulative curves.

use super::markup::Markup;
use super::markup::Text;
use super::quantity::duration;

/// How many ways there are to draw a series: by colour, dash and shape at once.
pub(super) const SERIES: usize = 7;

/// The most curves of one chart.
pub(super) const CURVES: usize = 14;

/// The most points of a curve that is drawn.
const POINTS: usize = 400;

/// A rectangle of a picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Frame {
    /// Where a part of the whole is, from the bottom.
    fn height_of(&self, part: f64) -> f64 {
        self.bottom - part.clamp(0.0, 1.0) * (self.bottom - self.top)
    }
}

/// Time on a logarithmic scale, of whole decades, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogAxis {
    low: i32,
    high: i32,
}

impl LogAxis {
    /// Wide enough for these times; what is not above zero has no place on it.
    pub(super) fn of(times: impl Iterator<Item = f64>) -> Self {
        let mut range: Option<(f64, f64)> = None;
        for us in times.filter(|us| us.is_finite() && *us > 0.0) {
            let (low, high) = range.unwrap_or((us, us));
            range = Some((low.min(us), high.max(us)));
        }
        let (low, high) = range.unwrap_or((100.0, 1e6));
        let low = (low.log10().floor() as i32).clamp(-1, 13);
        let high = (high.log10().ceil() as i32).clamp(low, 14);
        match high - low {
            0 | 1 => Self { low, high: low + 2 },
            _ => Self { low, high },
        }
    }

    /// From 0 to 1; what lies outside is at the end that is nearer.
    pub(super) fn part(self, us: f64) -> f64 {
        if us.is_nan() || us <= 0.0 {
            return 0.0;
        }
        ((us.log10() - f64::from(self.low)) / f64::from(self.high - self.low)).clamp(0.0, 1.0)
    }

    /// The time at a part of it.
    pub(super) fn time(self, part: f64) -> f64 {
        10f64.powf(f64::from(self.low) + part * f64::from(self.high - self.low))
    }

    fn place(self, frame: &Frame, us: f64) -> f64 {
        frame.left + self.part(us) * (frame.right - frame.left)
    }

    /// Lines, ticks and labels; every second or third decade is named where they are close.
    pub(super) fn draw(self, out: &mut Markup, frame: &Frame) {
        let (top, bottom) = (frame.top, frame.bottom);
        let decade = (frame.right - frame.left) / f64::from(self.high - self.low);
        let every = (52.0 / decade).ceil().max(1.0) as i32;
        for exponent in self.low..=self.high {
            let us = 10f64.powi(exponent);
            let x = self.place(frame, us);
            out.put(format_args!("<path class=\"grid\" d=\"M{x:.1} {top:.1}V{bottom:.1}\"/>"));
            if (exponent - self.low) % every == 0 {
                let (y, text) = (bottom + 17.0, duration(us));
                out.put(format_args!("<text class=\"tick\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"));
            }
        }
        if decade > 60.0 {
            self.draw_minor(out, frame);
        }
        let (left, right) = (frame.left, frame.right);
        out.put(format_args!("<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>\n"));
    }

    fn draw_minor(self, out: &mut Markup, frame: &Frame) {
        let mut path = String::new();
        for exponent in self.low..self.high {
            for step in 2..10 {
                let x = self.place(frame, f64::from(step) * 10f64.powi(exponent));
                path += &format!("M{x:.1} {:.1}v-4", frame.bottom);
            }
        }
        out.put(format_args!("<path class=\"axis\" d=\"{path}\"/>"));
    }
}

/// One cumulative curve.
#[derive(Clone, Debug, Default)]
pub(super) struct Curve {
    /// Whose.
    pub(super) name: String,
    /// The figures that stand behind it in the legend.
    pub(super) aside: String,
    /// How it is drawn: a number below [`SERIES`], or above it, and then again from the first.
    pub(super) series: usize,
    /// Times, and the part of all that took at most so long.
    pub(super) steps: Vec<(f64, f64)>,
    /// Whether some did not come to an end: then the curve goes on in the zone beyond the axis.
    pub(super) has_never: bool,
    /// Whether each step is marked: for a few.
    pub(super) marked: bool,
}

impl Curve {
    /// Of single times; `all` counts those, too, that did not come to an end.
    pub(super) fn of(mut times: Vec<f64>, all: usize) -> Vec<(f64, f64)> {
        times.retain(|us| !us.is_nan());
        times.sort_by(f64::total_cmp);
        let part = |at: usize| (at + 1) as f64 / all.max(times.len()).max(1) as f64;
        times.iter().enumerate().map(|(at, us)| (*us, part(at))).collect()
    }
}

/// Steps as they can be drawn: finite, rising, and not too many.
pub(super) fn tidy(steps: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut tidy: Vec<(f64, f64)> =
        steps.iter().copied().filter(|(us, part)| us.is_finite() && part.is_finite()).collect();
    tidy.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut reached = 0.0;
    for (_, part) in &mut tidy {
        reached = f64::max(reached, part.clamp(0.0, 1.0));
        *part = reached;
    }
    let (step, last) = (tidy.len().div_ceil(POINTS).max(1), tidy.len().saturating_sub(1));
    let mut at = 0;
    tidy.retain(|_| {
        let kept = at % step == 0 || at == last;
        at += 1;
        kept
    });
    tidy
}

/// The part of all that took at most `us`; `steps` are tidy.
pub(super) fn part_at(steps: &[(f64, f64)], us: f64) -> f64 {
    let after = steps.partition_point(|(step, _)| *step <= us);
    after.checked_sub(1).and_then(|at| steps.get(at)).map_or(0.0, |(_, part)| *part)
}

/// A chart of cumulative curves.
pub(super) struct Cumulative<'a> {
    pub(super) axis: LogAxis,
    pub(super) curves: &'a [Curve],
    /// Of the whole picture.
    pub(super) size: (f64, f64),
    /// What stands below the axis.
    pub(super) title: &'a str,
}

/// How wide the zone of those is that did not come to an end.
const NEVER: f64 = 64.0;
/// How far it is from the axis.
const GAP: f64 = 26.0;

/// What stands beside the axis.
pub(super) const BEYOND: f64 = GAP + NEVER;
/// Where in it a mark is placed.
pub(super) const AMID: f64 = GAP + NEVER / 2.0;

impl Cumulative<'_> {
    pub(super) fn draw(&self) -> Markup {
        let (width, height) = self.size;
        let frame = Frame { left: 46.0, right: width - BEYOND - 8.0, top: 12.0, bottom: height - 44.0 };
        let mut out = Markup::default();
        draw_never(&mut out, &frame);
        for percent in [0, 25, 50, 75, 100] {
            let (left, right) = (frame.left, frame.right + BEYOND);
            let y = frame.height_of(f64::from(percent) / 100.0);
            out.put(format_args!("<path class=\"grid\" d=\"M{left:.1} {y:.1}H{right:.1}\"/>"));
            let (x, y) = (left - 8.0, y + 4.0);
            out.put(format_args!("<text class=\"end\" x=\"{x:.1}\" y=\"{y:.1}\">{percent} %</text>"));
        }
        self.axis.draw(&mut out, &frame);
        let (x, y) = (f64::midpoint(frame.left, frame.right), height - 6.0);
        out.put(format_args!(
            "<text class=\"label\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n",
            Text(self.title)
        ));
        // The first is what the others are compared with: on top.
        for curve in self.curves.iter().take(CURVES).rev() {
            self.draw_curve(&mut out, &frame, curve);
        }
        out
    }

    fn draw_curve(&self, out: &mut Markup, frame: &Frame, curve: &Curve) {
        let steps = tidy(&curve.steps);
        let mut path = format!("M{:.1} {:.1}", frame.left, frame.bottom);
        let mut marks = String::new();
        for (us, part) in &steps {
            let (x, y) = (self.axis.place(frame, *us), frame.height_of(*part));
            path += &format!("H{x:.1}V{y:.1}");
            if curve.marked {
                marks += &shape(curve.series, x, y);
            }
        }
        let end = if curve.has_never { frame.right + BEYOND } else { frame.right };
        path += &format!("H{end:.1}");
        let class = class(curve.series);
        out.put(format_args!(
            "<g class=\"{class}\"><title>{}</title>",
            Text(format_args!("{}: {}", curve.name, curve.aside))
        ));
        out.put(format_args!(
            "<path class=\"curve\" d=\"{path}\"/><path class=\"mark\" d=\"{marks}\"/></g>\n"
        ));
    }
}

/// The zone beyond the axis, for what did not come to an end.
pub(super) fn draw_never(out: &mut Markup, frame: &Frame) {
    let (x, y, height) = (frame.right + GAP, frame.top, frame.bottom - frame.top);
    out.put(format_args!(
        "<rect class=\"zone\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{NEVER}\" height=\"{height:.1}\"/>"
    ));
    let (x, y) = (frame.right + AMID, frame.bottom + 17.0);
    out.put(format_args!("<text class=\"tick strong\" x=\"{x:.1}\" y=\"{y:.1}\">never</text>"));
}

/// The class of a series.
pub(super) fn class(series: usize) -> String {
    format!("s{}", series % SERIES)
}

/// The mark of a series at a place, as a path.
pub(super) fn shape(series: usize, x: f64, y: f64) -> String {
    match series % SERIES {
        0 => format!("M{x:.1} {:.1}a4.5 4.5 0 1 1 0 9a4.5 4.5 0 1 1 0-9z", y - 4.5),
        1 => format!("M{:.1} {:.1}h8v8h-8z", x - 4.0, y - 4.0),
        2 => format!("M{x:.1} {:.1}l5 9h-10z", y - 5.5),
        3 => format!("M{x:.1} {:.1}l5.5 5.5l-5.5 5.5l-5.5-5.5z", y - 5.5),
        4 => format!("M{x:.1} {:.1}l5-9h-10z", y + 5.5),
        5 => format!("M{:.1} {:.1}h3v-3h3v3h3v3h-3v3h-3v-3h-3z", x - 4.5, y - 1.5),
        _ => format!("M{:.1} {:.1}l5 3l5-3v6l-5 3l-5-3z", x - 5.0, y - 3.0),
    }
}

/// The names of series, each with its line and mark: HTML.
pub(super) fn legend(curves: &[Curve]) -> String {
    let mut out = Markup::default();
    out.put(format_args!("<ul class=\"legend\">"));
    for curve in curves.iter().take(CURVES) {
        let (class, mark) = (class(curve.series), shape(curve.series, 17.0, 8.0));
        out.put(format_args!("<li><svg class=\"{class}\" viewBox=\"0 0 34 16\" aria-hidden=\"true\">"));
        out.put(format_args!("<path class=\"curve\" d=\"M0 8H34\"/>"));
        if curve.marked {
            out.put(format_args!("<path class=\"mark\" d=\"{mark}\"/>"));
        }
        out.put(format_args!("</svg> {} <span>{}</span></li>", Text(&curve.name), Text(&curve.aside)));
    }
    out.put(format_args!("</ul>\n"));
    if let Some(more) = curves.len().checked_sub(CURVES).filter(|more| *more > 0) {
        out.note(&format!("{more} more are left out of the picture; the table has them."));
    }
    out.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_whole_decades_and_at_least_two() {
        assert_eq!(LogAxis::of([410.0, 20e6].into_iter()), LogAxis { low: 2, high: 8 });
        assert_eq!(LogAxis::of([410.0].into_iter()), LogAxis { low: 2, high: 4 });
        assert_eq!(
            LogAxis::of([f64::NAN, f64::INFINITY, -5.0, 0.0].into_iter()),
            LogAxis { low: 2, high: 6 }
        );
        assert_eq!(LogAxis::of([f64::MIN_POSITIVE, f64::MAX].into_iter()), LogAxis { low: -1, high: 14 });
    }

    #[test]
    fn a_time_has_one_place_on_the_axis() {
        let axis = LogAxis { low: 2, high: 6 };
        for (us, part) in
            [(100.0, 0.0), (1e4, 0.5), (1e6, 1.0), (1e9, 1.0), (0.0, 0.0), (-7.0, 0.0), (f64::NAN, 0.0)]
        {
            assert!((axis.part(us) - part).abs() < 1e-9, "{us}");
        }
        assert!((axis.time(0.5) - 1e4).abs() < 1e-6);
    }

    #[test]
    fn a_curve_with_some_that_never_end_does_not_reach_one() {
        assert_eq!(Curve::of(vec![30.0, 10.0], 4), [(10.0, 0.25), (30.0, 0.5)]);
        assert_eq!(Curve::of(vec![], 4), []);
        assert_eq!(Curve::of(vec![5.0, f64::NAN], 1), [(5.0, 1.0)]);
    }

    #[test]
    fn odd_steps_are_drawn_in_order_or_not_at_all() {
        let odd = [(5.0, 0.5), (f64::NAN, 0.6), (1.0, 0.7), (9.0, 7.0), (8.0, f64::INFINITY)];
        assert_eq!(tidy(&odd), [(1.0, 0.7), (5.0, 0.7), (9.0, 1.0)]);
        let many: Vec<(f64, f64)> = (0..100_000).map(|at| (f64::from(at), f64::from(at) / 1e5)).collect();
        let tidied = tidy(&many);
        assert!(tidied.len() <= POINTS + 1 && tidied.last() == many.last());
        assert!((part_at(&odd[..1], 4.9) - 0.0).abs() < 1e-9 && (part_at(&odd[..1], 5.0) - 0.5).abs() < 1e-9);
    }
}
