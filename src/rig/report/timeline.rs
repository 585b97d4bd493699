//! The requests of a drill around the revocation: a lane for each probe, a mark for each try.
//!
//! Time is linear near the call and logarithmic away from it, and what lies before takes less room than what comes
//! after. Drills that are shown together share one scale.

use super::lanes::Lane;
use super::lanes::Mark;
use super::markup::Figure;
use super::markup::Markup;
use super::markup::Text;
use super::probes::Last;
use super::quantity::duration;
use crate::rig::findings::Drill;
use crate::rig::findings::Probe;
use crate::rig::findings::Verdict;
use crate::rig::findings::Who;

/// How wide a timeline is.
const WIDTH: f64 = 1080.0;
/// Where the lanes begin and end.
const SIDES: (f64, f64) = (178.0, 946.0);
/// How high a lane is.
const LANE: f64 = 23.0;
/// The most lanes of one picture.
const LANES: usize = 40;
/// How much room a decade before the call has, to one after it.
const BEFORE: f64 = 0.35;
/// How many marks all lanes of a page may have, about.
const MARKS: f64 = 40_000.0;

/// A scale of time with the call at its zero, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Warp {
    knee: f64,
    reach: (f64, f64),
    sides: (f64, f64),
}

impl Warp {
    /// Linear below `knee`; from `reach.0` before the call to `reach.1` after it.
    pub(super) fn of(knee: f64, reach: (f64, f64), sides: (f64, f64)) -> Self {
        let sane = |us: f64| if us.is_finite() { us.clamp(1.0, 1e14) } else { 1e6 };
        Self { knee: sane(knee), reach: (sane(reach.0), sane(reach.1)), sides }
    }

    /// So that all of these drills fit, and their first events can be seen.
    fn over(drills: &[&Drill]) -> Self {
        let most =
            |of: &dyn Fn(&Drill) -> u64| drills.iter().map(|drill| of(drill)).max().unwrap_or(0) as f64;
        let reach = (most(&|drill| drill.before_us), most(&|drill| drill.window_us));
        let seen = drills.iter().flat_map(|drill| {
            let probes = drill.probes.iter().filter(|probe| probe.who == Who::Victim);
            probes
                .flat_map(|probe| [probe.last_served_us, probe.first_refusal_us])
                .chain([drill.call.answered_us])
        });
        let first = seen.flatten().filter(|us| *us > 0).min().unwrap_or(1000) as f64;
        Self::of((first / 3.0).clamp(20.0, 1e5), reach, SIDES)
    }

    fn stretched(&self, us: f64) -> f64 {
        (us / self.knee).ln_1p()
    }

    /// Where a time is; what lies outside is at the end that is nearer.
    pub(super) fn place(&self, us: f64) -> f64 {
        let (before, after) = (BEFORE * self.stretched(self.reach.0), self.stretched(self.reach.1));
        let at = match us < 0.0 {
            true => -BEFORE * self.stretched(-us),
            false => self.stretched(us),
        };
        let part = (at.clamp(-before, after) + before) / (before + after);
        self.sides.0 + part * (self.sides.1 - self.sides.0)
    }

    /// The times that are named below it: zero, and powers of ten that stand far enough apart.
    fn ticks(&self) -> Vec<f64> {
        let mut ticks = vec![0.0];
        for (sign, reach) in [(1.0, self.reach.1), (-1.0, self.reach.0)] {
            let mut last = self.place(0.0);
            for exponent in 0..14 {
                let us = 10f64.powi(exponent);
                let x = self.place(sign * us);
                if us <= reach && (x - last).abs() >= 56.0 {
                    ticks.push(sign * us);
                    last = x;
                }
            }
        }
        ticks
    }
}

/// The timelines of several drills, each with the name of its run: HTML.
pub(super) fn draw(drills: &[(String, &Drill)]) -> String {
    let scale = Warp::over(&drills.iter().map(|(_, drill)| *drill).collect::<Vec<_>>());
    let lanes: usize = drills.iter().map(|(_, drill)| drill.probes.len().min(LANES)).sum();
    let room = (SIDES.1 - SIDES.0) / 4.0 * lanes as f64;
    let coarse = (room / MARKS).max(1.0);
    let mut out = Markup::default();
    out.put(format_args!("{}", legend()));
    for (number, (label, drill)) in drills.iter().enumerate() {
        let (drawing, height, left_out) = picture(drill, &scale, coarse);
        out.put(format_args!(
            "{}",
            Figure {
                id: &format!("timeline-{number}"),
                caption: label,
                description: &described(drill),
                size: (WIDTH, height),
                legend: String::new(),
                drawing: &drawing,
            }
        ));
        if left_out > 0 {
            out.note(&format!("{left_out} more probes are left out of the picture."));
        }
    }
    out.into_string()
}

fn legend() -> String {
    let mut out = Markup::default();
    out.put(format_args!("<ul class=\"legend\">"));
    for mark in Mark::ALL {
        let (path, class) = (mark.path(10.0, 8.0), mark.class());
        out.put(format_args!("<li><svg class=\"try\" viewBox=\"0 0 20 16\" aria-hidden=\"true\">"));
        out.put(format_args!("<path class=\"{class}\" d=\"{path}\"/></svg> {}</li>", mark.name()));
    }
    out.put(format_args!("</ul>\n"));
    out.into_string()
}

fn described(drill: &Drill) -> String {
    let answered = match drill.call.answered_us {
        Some(us) => format!("answered after {}", duration(us as f64)),
        None => "not answered".to_owned(),
    };
    format!(
        "One lane for each of {} probes, one mark for each try, placed when its outcome was there. The revoke call is sent at 0 and {answered}. The tables have the figures.",
        drill.probes.len()
    )
}

/// The lanes in their order; and how many are left out: first those of whom there is least to see.
fn chosen(drill: &Drill) -> (Vec<&Probe>, usize) {
    let mut probes: Vec<&Probe> = drill.probes.iter().collect();
    let rank = |probe: &Probe| match probe.verdict {
        Verdict::Served | Verdict::Flapped if probe.who == Who::Victim => 0,
        Verdict::Refused if probe.who == Who::Bystander => 0,
        Verdict::NotOffered => 2,
        _ => 1,
    };
    probes.sort_by_key(|probe| rank(probe));
    let left_out = probes.len().saturating_sub(LANES);
    probes.truncate(LANES);
    probes.sort_by_key(|probe| (probe.who, probe.kind, probe.number));
    (probes, left_out)
}

fn picture(drill: &Drill, scale: &Warp, coarse: f64) -> (Markup, f64, usize) {
    let (probes, left_out) = chosen(drill);
    let groups = probes.chunk_by(|a, b| a.who == b.who);
    let top = 40.0;
    let bottom = top + probes.len() as f64 * LANE + groups.clone().count() as f64 * LANE;
    let mut out = Markup::default();
    let victims = probes.iter().filter(|probe| probe.who == Who::Victim).count();
    let forbidden = if victims > 0 { (victims + 1) as f64 * LANE } else { 0.0 };
    draw_call(&mut out, drill, scale, (top, bottom, forbidden));
    draw_ticks(&mut out, scale, (top, bottom));
    let mut y = top;
    for group in groups {
        let (name, party) = match group.first().map(|probe| probe.who) {
            Some(Who::Victim) => ("revoked", Some(&drill.victim)),
            _ => ("bystander", drill.bystander.as_ref()),
        };
        let who = party.map_or("", |party| party.name.as_str());
        let (x, at) = (SIDES.0, y + 16.0);
        out.put(format_args!("<text class=\"group\" x=\"4\" y=\"{at:.1}\">{name}</text>"));
        out.put(format_args!("<text class=\"who\" x=\"{x}\" y=\"{at:.1}\">{}</text>", Text(who)));
        y += LANE;
        for probe in group {
            draw_lane(&mut out, (drill, probe), scale, (y + LANE / 2.0, coarse));
            y += LANE;
        }
    }
    (out, bottom + 30.0, left_out)
}

/// Two lines; and, `forbidden` high, where nothing may be served any more.
fn draw_call(out: &mut Markup, drill: &Drill, scale: &Warp, (top, bottom, forbidden): (f64, f64, f64)) {
    let sent = scale.place(0.0);
    if let Some(us) = drill.call.answered_us {
        let (x, width) = (scale.place(us as f64), SIDES.1 - scale.place(us as f64));
        let told = duration(us as f64);
        let word = if drill.call.succeeded { "answered" } else { "failed" };
        out.put(format_args!(
            "<rect class=\"after\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{forbidden:.1}\"/>"
        ));
        out.put(format_args!("<path class=\"answered\" d=\"M{x:.1} {:.1}V{bottom:.1}\"/>", top - 22.0));
        let (x, anchor) = if x > SIDES.1 - 130.0 { (x - 6.0, "end") } else { (x + 6.0, "start") };
        let y = top - 10.0;
        out.put(format_args!(
            "<text class=\"event {anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{word} {told}</text>"
        ));
    }
    let (x, y) = (sent - 6.0, top - 10.0);
    out.put(format_args!("<path class=\"sent\" d=\"M{sent:.1} {:.1}V{bottom:.1}\"/>", top - 22.0));
    out.put(format_args!("<text class=\"event end\" x=\"{x:.1}\" y=\"{y:.1}\">revoke call sent</text>\n"));
}

fn draw_ticks(out: &mut Markup, scale: &Warp, (top, bottom): (f64, f64)) {
    for us in scale.ticks() {
        let (x, y) = (scale.place(us), bottom + 18.0);
        let text = if us > 0.0 { format!("+{}", duration(us)) } else { duration(us) };
        out.put(format_args!("<path class=\"grid\" d=\"M{x:.1} {top:.1}V{bottom:.1}\"/>"));
        out.put(format_args!("<text class=\"tick\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"));
    }
    out.put(format_args!("<path class=\"axis\" d=\"M{:.1} {bottom:.1}H{:.1}\"/>\n", SIDES.0, SIDES.1));
}

fn draw_lane(out: &mut Markup, (drill, probe): (&Drill, &Probe), scale: &Warp, (y, coarse): (f64, f64)) {
    let alike = |other: &&Probe| other.who == probe.who && other.kind == probe.kind;
    let name = match drill.probes.iter().filter(alike).nth(1) {
        Some(_) => format!("{} {}", probe.kind, probe.number),
        None => probe.kind.to_string(),
    };
    let (left, right) = SIDES;
    let (x, text) = (left - 10.0, y + 4.0);
    out.put(format_args!("<text class=\"end\" x=\"{x:.1}\" y=\"{text:.1}\">{}</text>", Text(name)));
    out.put(format_args!("<path class=\"lane\" d=\"M{left:.1} {y:.1}H{right:.1}\"/><g class=\"try\">"));
    let lane = Lane::of(probe, drill.call.answered_us, scale, (y, coarse));
    out.put(format_args!("<path class=\"under-way\" d=\"{}\"/>", lane.under_way));
    for (mark, path) in lane.paths() {
        out.put(format_args!("<path class=\"{}\" d=\"{path}\"/>", mark.class()));
    }
    let (word, class) = outcome(probe);
    let x = right + 12.0;
    out.put(format_args!("</g><text class=\"outcome {class}\" x=\"{x:.1}\" y=\"{text:.1}\">{word}</text>\n"));
}

/// What stands at the end of a lane.
fn outcome(probe: &Probe) -> (String, &'static str) {
    match (probe.who, probe.verdict, Last::of(probe)) {
        (_, Verdict::NotOffered, _) | (_, _, None) => ("not offered".to_owned(), "plain"),
        (Who::Bystander, Verdict::Served, _) => ("served".to_owned(), "plain"),
        (Who::Bystander, Verdict::Refused | Verdict::Flapped, _) => ("✕ refused".to_owned(), "bad"),
        (_, Verdict::Unclear, _) => ("! unclear".to_owned(), "careful"),
        (_, Verdict::Flapped, _) => ("✕ served again".to_owned(), "bad"),
        (_, _, Some(Last::At(us))) if us > 0.0 => (format!("ends at {}", duration(us)), "plain"),
        (_, _, Some(Last::At(_))) => ("ends at once".to_owned(), "plain"),
        (..) => ("✕ never ends".to_owned(), "bad"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_rises_and_holds_what_lies_outside_at_its_ends() {
        let scale = Warp::of(100.0, (1e6, 2e7), (100.0, 900.0));
        let times = [f64::MIN, -1e6, -1e3, -1.0, 0.0, 1.0, 500.0, 1e6, 2e7, f64::MAX];
        let places = times.map(|us| scale.place(us));
        assert!(places.is_sorted(), "{places:?}");
        assert!((places[0] - 100.0).abs() < 1e-6 && (places[9] - 900.0).abs() < 1e-6);
        assert!(places[4] - 100.0 < 900.0 - places[4], "what lies before takes less room");
    }

    #[test]
    fn its_ticks_stand_apart_and_lie_within() {
        for knee in [0.0, 20.0, 1e5, f64::NAN] {
            let scale = Warp::of(knee, (1e6, 2e7), (100.0, 900.0));
            let mut places: Vec<f64> = scale.ticks().into_iter().map(|us| scale.place(us)).collect();
            places.sort_by(f64::total_cmp);
            assert!(places.len() > 2 && places.windows(2).all(|two| two[1] - two[0] > 55.0), "{places:?}");
        }
    }
}
