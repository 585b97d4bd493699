//! Many changes at once: sent in parts, counted, and told by their lines.

use std::collections::BTreeMap;
use std::io;
use std::io::IsTerminal as _;
use std::path::Path;

use http::Method;
use http::StatusCode;
use serde_json::Value;

use super::DONE;
use super::PARTLY;
use super::REFUSED;
use super::USAGE;
use super::answer::Answer;
use super::answer::LOCKED_OUT;
use super::answer::failure_of;
use super::blast::Blast;
use super::blast::Consent;
use super::change::NOTHING_TO_LIFT;
use super::change::REVOCATIONS;
use super::change::UNKNOWN;
use super::change::unenforced;
use super::change::warnings;
use super::complain;
use super::failure::CallError;
use super::failure::Effect;
use super::failure::THAT_WAS_YOU;
use super::fate::Fate;
use super::fate::foreseen;
use super::list;
use super::list::Line;
use super::obstacles::still_refused;
use super::order::Change;
use super::order::ChangeArgs;
use super::order::Order;
use super::output::Page;
use super::output::cell;
use super::output::counted;
use super::output::print_document;
use super::progress;
use super::server::Server;
use super::signals::Signals;
use crate::revocation::Action;

/// So many changes are one call: answered long before a client gives up, and few enough to repeat.
const PART: usize = 500;
/// So many lines with one and the same answer are named.
const NAMED: usize = 10;

/// Reads a list, sends it, prints what came of it, and returns the exit code.
pub(super) async fn run(args: &ChangeArgs, order: Order, file: &Path) -> u8 {
    let lines = match list::read(args, order, file) {
        Ok(lines) => lines,
        Err(faults) => {
            faults.iter().for_each(|fault| complain(fault));
            complain(&format_args!("{}: nothing was sent", order.name()));
            return USAGE;
        }
    };
    let batch = Batch { args, order, name: list::name(file), lines };
    match Server::open(&args.server).await {
        Ok(mut server) => batch.run(&mut server).await,
        Err(error) => error.told(Effect::Asks),
    }
}

struct Batch<'a> {
    args: &'a ChangeArgs,
    order: Order,
    name: String,
    lines: Vec<Line>,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The question what would be hit, whose answer is only for the next one.
    Question,
    /// The same, and the answer is what was asked for.
    DryRun,
    /// The changes.
    Change,
}

/// What came back: the answers of the first lines, and why there are no more.
struct Sent {
    answers: Vec<(StatusCode, Value)>,
    stop: Option<Stop>,
    /// So many lines were sent last.
    last: usize,
}

enum Stop {
    Lost(CallError),
    Refused(String),
    TooLarge(String),
    Interrupted,
}

impl Batch<'_> {
    async fn run(&self, server: &mut Server<'_>) -> u8 {
        if self.args.dry_run {
            let sent = self.send(server, Mode::DryRun).await;
            let printed = if self.args.server.json { DONE } else { self.print_dry_run(&sent) };
            self.blast(&sent).warn();
            self.complain(&sent, Mode::DryRun);
            return self.code(&sent).max(printed);
        }
        let shuts_out = match self.look_ahead(server).await {
            Ok(shuts_out) => shuts_out,
            Err(code) => return code,
        };
        let sent = self.send(server, Mode::Change).await;
        self.complain(&sent, Mode::Change);
        if let Some(change) = shuts_out {
            if sent.stop.as_ref().is_some_and(Stop::is_in_doubt) {
                complain(&THAT_WAS_YOU);
            }
            complain(&self.args.way_back(change));
        }
        if !self.args.server.json {
            self.print(&sent);
        }
        self.code(&sent)
    }

    /// The change that would shut the caller out, if one would and was confirmed; the exit code if nothing is to be done. Asks
    /// before much is hit, or the caller.
    async fn look_ahead(&self, server: &mut Server<'_>) -> Result<Option<&Change>, u8> {
        let is_mass = self.lines.iter().any(|line| line.change.is_mass());
        let asks = is_mass || (self.lines.len() > 1 && io::stdin().is_terminal());
        let strikes = self.lines.iter().any(|line| line.change.action != Action::Reinstate);
        if self.args.yes || !(asks || strikes) {
            return Ok(None);
        }
        let sent = self.send(server, Mode::Question).await;
        let is_of_caller = |answer: &Value| answer["includes_caller"] == Value::Bool(true);
        let mut answers = self.lines.iter().zip(&sent.answers);
        let shuts_out = answers.find(|(_, (_, answer))| is_of_caller(answer)).map(|(line, _)| &line.change);
        if !asks && sent.stop.is_none() && shuts_out.is_none() {
            // What would be refused is told of the changes themselves.
            return Ok(None);
        }
        self.complain(&sent, Mode::Question);
        if sent.stop.is_some() || sent.done() == 0 {
            complain(&format_args!("{}: nothing was changed", self.order.name()));
            return Err(self.code(&sent));
        }
        let subject = format!("{} ({})", counted(self.lines.len() as u64, "target"), self.name);
        match self.blast(&sent).ask(self.order, &subject) {
            Consent::Given => Ok(shuts_out),
            Consent::Refused(code) => Err(code),
        }
    }

    /// Sends the lines in parts; stops where an answer does not come or says nothing of the lines.
    async fn send(&self, server: &mut Server<'_>, mode: Mode) -> Sent {
        let mut sent = Sent { answers: Vec::with_capacity(self.lines.len()), stop: None, last: 0 };
        let bar = match self.args.server.json {
            true => progress::none(),
            false => progress::bar(self.lines.len() as u64, self.order.name()),
        };
        // Once listened for, a signal ends nothing by itself: not before the last question was asked.
        let mut signals = match mode {
            Mode::Change => Signals::listen().ok(),
            Mode::Question | Mode::DryRun => None,
        };
        let mut size = PART;
        while let Some(part) = self.lines.get(sent.answers.len()..).filter(|rest| !rest.is_empty()) {
            let part = part.get(..size).unwrap_or(part);
            sent.last = part.len();
            let answered = tokio::select! {
                biased;
                // Whoever stops a long list has to know how far it came.
                () = interrupted(&mut signals) => Err(Stop::Interrupted),
                answered = self.send_part(server, part, mode) => answered,
            };
            match answered {
                Ok(answers) => sent.answers.extend(answers),
                // Long names and reasons: the same again, in smaller parts.
                Err(Stop::TooLarge(_)) if part.len() > 1 => size = part.len() / 2,
                Err(stop) => {
                    sent.stop = Some(stop);
                    break;
                }
            }
            bar.set_position(sent.answers.len() as u64);
        }
        bar.finish_and_clear();
        sent
    }

    async fn send_part(
        &self,
        server: &mut Server<'_>,
        part: &[Line],
        mode: Mode,
    ) -> Result<Vec<(StatusCode, Value)>, Stop> {
        let changes = part.iter().map(|line| Change { dry_run: mode != Mode::Change, ..line.change.clone() });
        let body = serde_json::to_value(changes.collect::<Vec<_>>());
        let body = body.map_err(|error| Stop::Refused(error.to_string()))?;
        let answer = server.call(&Method::POST, REVOCATIONS, Some(&body)).await.map_err(Stop::Lost)?;
        if answer.status == StatusCode::PAYLOAD_TOO_LARGE {
            return Err(Stop::TooLarge(unfit(&answer)));
        }
        if self.args.server.json && mode != Mode::Question {
            print_document(&answer.body);
        }
        let answers = answers(&answer).map(|answers| match mode {
            Mode::Change => answers,
            Mode::Question | Mode::DryRun => answers.into_iter().map(foreseen).collect(),
        });
        let answers = answers.filter(|answers| answers.len() == part.len());
        answers.ok_or_else(|| Stop::Refused(unfit(&answer)))
    }

    /// Says which lines were refused, why there is no more, and where to go on.
    fn complain(&self, sent: &Sent, mode: Mode) {
        self.complain_of_lines(sent);
        let lax = sent.answers.iter().rev().find(|(_, document)| document["enforced"] == Value::Bool(false));
        if let Some((_, document)) = lax {
            complain(&unenforced(&document["break_glass_until"]));
        }
        let unknown = sent.answers.iter().filter(|(_, document)| document["code"] == UNKNOWN).count();
        if unknown > 0 && mode == Mode::Change {
            complain(&format_args!(
                "NOT {}: {} that the gate has not seen; with --preemptive that is done all the same",
                self.order.done(),
                counted(unknown as u64, "certificate"),
            ));
        }
        let unseen = sent.results().filter(|document| document["known"] == Value::Bool(false)).count();
        if unseen > 0 && mode == Mode::Change {
            let targets = counted(unseen as u64, "target");
            complain(&format_args!(
                "note: this gate has never seen {targets} of the list; nothing was hit there so far"
            ));
        }
        self.complain_of_stop(sent, mode);
    }

    /// Names the lines that were not done. Of what is one and the same for thousands, the first ones.
    fn complain_of_lines(&self, sent: &Sent) {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for (line, (status, document)) in self.lines.iter().zip(&sent.answers) {
            for warning in warnings(document) {
                let (name, number, target) = (&self.name, line.number, &line.change.target);
                complain(&format_args!("{name}:{number} {target}: warning: {warning}"));
            }
            let (told, kind) = match Fate::of(*status, document) {
                Fate::Done => continue,
                Fate::Idle => {
                    let subject = line.change.subject();
                    (format!("{NOTHING_TO_LIFT} {subject}"), format!("{NOTHING_TO_LIFT} them"))
                }
                Fate::Shut => {
                    let others = still_refused(document).join("; ");
                    (format!("still refused by {others}"), "still refused by other entries".to_owned())
                }
                Fate::Kept | Fate::Incomplete | Fate::Refused => {
                    let told = format!("{} {}", status.as_u16(), failure_of(document, *status));
                    let kind = document["code"].as_str().map(|code| format!("{} {code}", status.as_u16()));
                    (told.clone(), kind.unwrap_or(told))
                }
            };
            let count = kinds.entry(kind).or_default();
            *count += 1;
            if *count <= NAMED {
                let (name, number, target) = (&self.name, line.number, &line.change.target);
                complain(&format_args!("{name}:{number} {target}: {told}"));
            }
        }
        for (kind, count) in kinds.into_iter().filter(|(_, count)| *count > NAMED) {
            complain(&format_args!("... and {} more with the same answer: {kind}", count - NAMED));
        }
    }

    fn complain_of_stop(&self, sent: &Sent, mode: Mode) {
        let Some(stop) = &sent.stop else { return };
        match stop {
            Stop::Lost(error) => complain(error),
            Stop::Interrupted => complain(&format_args!("{}: interrupted", self.order.name())),
            Stop::Refused(reason) | Stop::TooLarge(reason) => {
                complain(&format_args!("{}: {reason}", self.order.name()))
            }
        }
        let (answered, all) = (sent.answers.len(), self.lines.len());
        let Some(next) = self.lines.get(answered).filter(|_| mode == Mode::Change) else { return };
        complain(&format_args!(
            "{}: {answered} of {all} changes were answered; resume with line {} of {}",
            self.order.name(),
            next.number,
            self.name,
        ));
        let in_doubt = self.lines.iter().skip(answered).take(sent.last).next_back();
        if let Some(last) = in_doubt.filter(|_| stop.is_in_doubt()) {
            complain(&format_args!(
                "whether lines {} to {} are in effect is not known; repeating them does no harm",
                next.number, last.number,
            ));
        }
    }

    fn print(&self, sent: &Sent) {
        let count = |fate| sent.fates().filter(|(one, _)| *one == fate).count();
        let mut words = vec![format!("{} done", count(Fate::Done))];
        let rare = [
            (Fate::Idle, "nothing to lift"),
            (Fate::Shut, "lifted but still refused"),
            (Fate::Kept, "in effect but not on disk"),
            (Fate::Incomplete, "in effect but not complete"),
        ];
        let rare = rare.into_iter().filter(|(fate, _)| count(*fate) > 0);
        words.extend(rare.map(|(fate, told)| format!("{} {told}", count(fate))));
        words.push(format!("{} refused", count(Fate::Refused)));
        if !matches!(self.order, Order::Reinstate { .. }) {
            let hit = sent.fates().filter(|(fate, _)| *fate != Fate::Refused);
            let ended: u64 = hit.map(|(_, result)| result["sessions_ended"].as_u64().unwrap_or(0)).sum();
            words.push(format!("{} ended", counted(ended, "session")));
        }
        let mut page = Page::new();
        page.line(&format_args!("{}: {}", self.order.name(), words.join(", ")));
        // It is done, whether or not anybody can be told.
        page.print();
    }

    fn print_dry_run(&self, sent: &Sent) -> u8 {
        let mut page = Page::new();
        let rows = self.lines.iter().zip(&sent.answers).map(|(line, (_, document))| {
            let would = ["would_change", "known", "sessions", "certificates"];
            let head = [line.number.to_string(), line.change.level.to_string(), line.change.target.clone()];
            head.into_iter().chain(would.iter().map(|name| cell(document, name))).collect()
        });
        let head = ["LINE", "LEVEL", "TARGET", "CHANGES", "KNOWN", "SESSIONS", "CERTIFICATES"];
        page.table(&head, rows.collect());
        page.line(&"");
        page.line(&format_args!(
            "dry run: {} {}",
            self.order.name(),
            counted(self.lines.len() as u64, "target")
        ));
        self.blast(sent).show(&mut page);
        page.print()
    }

    fn blast(&self, sent: &Sent) -> Blast {
        Blast::of(sent.results())
    }

    fn code(&self, sent: &Sent) -> u8 {
        match (&sent.stop, sent.done()) {
            (Some(Stop::Lost(error)), _) if sent.answers.is_empty() => error.code(),
            (Some(Stop::Lost(_)), _) => PARTLY,
            (_, done) if done == self.lines.len() => DONE,
            (_, 0) => REFUSED,
            _ => PARTLY,
        }
    }
}

impl Stop {
    /// Whether the server may have done what was sent last.
    fn is_in_doubt(&self) -> bool {
        match self {
            Self::Lost(error) => error.is_in_doubt(),
            Self::Interrupted => true,
            Self::Refused(_) | Self::TooLarge(_) => false,
        }
    }
}

/// Waits for a signal; for ever, if none can be heard.
async fn interrupted(signals: &mut Option<Signals>) {
    match signals {
        Some(signals) => signals.received().await,
        None => std::future::pending().await,
    }
}

impl Sent {
    fn results(&self) -> impl Iterator<Item = &Value> {
        self.answers.iter().filter(|(status, _)| status.is_success()).map(|(_, document)| document)
    }

    fn done(&self) -> usize {
        self.fates().filter(|(fate, _)| matches!(fate, Fate::Done | Fate::Idle)).count()
    }

    fn fates(&self) -> impl Iterator<Item = (Fate, &Value)> {
        self.answers.iter().map(|(status, document)| (Fate::of(*status, document), document))
    }
}

/// The answers to each change of a part, in its order.
fn answers(answer: &Answer) -> Option<Vec<(StatusCode, Value)>> {
    let all = answer.document.get("answers").filter(|_| answer.status.is_success())?.as_array()?;
    let each = all.iter().map(|one| {
        let status = u16::try_from(one["status"].as_u64()?).ok()?;
        let document = one.get("result").or_else(|| one.get("problem"))?;
        Some((StatusCode::from_u16(status).ok()?, document.clone()))
    });
    each.collect()
}

fn unfit(answer: &Answer) -> String {
    let hint = match answer.is_of_the_api() || answer.document.get("answers").is_some() {
        true => "",
        false => "; is this the gate's port? the admin API listens elsewhere",
    };
    match answer.status.is_success() {
        true => format!("the answer does not fit the changes{hint}"),
        false => match answer.locks_out() {
            Some(code) => format!("{}; {code}: {LOCKED_OUT}", answer.failure()),
            None => format!("{}{hint}", answer.failure()),
        },
    }
}
