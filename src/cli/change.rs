//! `portcullis revoke`, `suspend`, `reinstate`: one change, and how it is told.

use http::Method;
use http::StatusCode;
use serde_json::Value;

use super::DONE;
use super::PARTLY;
use super::REFUSED;
use super::USAGE;
use super::answer::Answer;
use super::batch;
use super::blast::Blast;
use super::blast::Consent;
use super::complain;
use super::failure::CallError;
use super::failure::Effect;
use super::obstacles::also_lets_in;
use super::obstacles::remedies;
use super::obstacles::still_refused;
use super::obstacles::way_back;
use super::order::Change;
use super::order::ChangeArgs;
use super::order::Order;
use super::output::Page;
use super::output::counted;
use super::output::print_document;
use super::server::Server;
use super::server::talk;
use crate::revocation::Action;
use crate::revocation::Level;

/// Where changes are sent.
pub(super) const REVOCATIONS: &str = "/v1/revocations";

impl ChangeArgs {
    /// Sends what is asked for, prints what came of it, and returns the exit code.
    pub(super) fn run(&self, order: Order) -> u8 {
        if let Some(file) = &self.file {
            return talk(batch::run(self, order, file));
        }
        match self.named(order) {
            Ok(change) => talk(self.one(order, change)),
            Err(reason) => {
                complain(&format_args!("{}: {reason}", order.name()));
                USAGE
            }
        }
    }

    async fn one(&self, order: Order, change: Change) -> u8 {
        let mut server = match Server::open(&self.server).await {
            Ok(server) => server,
            Err(error) => return error.told(Effect::Asks),
        };
        if self.dry_run {
            return self.dry_run(&mut server, order, change).await;
        }
        let ahead = match self.look_ahead(&mut server, order, &change).await {
            Ok(ahead) => ahead,
            Err(code) => return code,
        };
        let sent = send(&mut server, &change).await;
        let may_stand = match &sent {
            Ok(answer) => !answer.text("id").is_empty(),
            Err(error) => error.is_in_doubt(),
        };
        let code = match sent {
            Ok(answer) => self.print(order, &change, &answer),
            Err(error) if ahead.includes_caller() => error.told(Effect::ChangesCaller),
            Err(error) => error.told(Effect::Changes),
        };
        if ahead.includes_caller() && may_stand {
            complain(&self.way_back(&change));
        }
        code
    }

    /// How the caller comes back whom a change shut out.
    pub(super) fn way_back(&self, change: &Change) -> String {
        way_back(change, self.certificate().or(self.server.own_certificate()))
    }

    async fn dry_run(&self, server: &mut Server<'_>, order: Order, change: Change) -> u8 {
        let change = Change { dry_run: true, ..change };
        let answer = match send(server, &change).await {
            Ok(answer) => answer,
            Err(error) => return error.told(Effect::Asks),
        };
        let printed = if self.server.json { print_document(&answer.body) } else { DONE };
        if !answer.is_done("dry_run") {
            self.refused(order, &change, &answer);
            return REFUSED;
        }
        if self.server.json {
            return printed;
        }
        let mut page = Page::new();
        page.line(&format_args!("dry run: {} {}", order.name(), change.subject()));
        let blast = Blast::of([&answer.document]);
        blast.show(&mut page);
        let printed = page.print();
        blast.warn();
        warnings(&answer.document).for_each(|warning| complain(&format_args!("warning: {warning}")));
        match blast.refusal() {
            Some(_) => REFUSED,
            None => printed,
        }
    }

    /// What the change would hit; the exit code if it is not to be done. Asks before much is hit, or the caller.
    async fn look_ahead(&self, server: &mut Server<'_>, order: Order, change: &Change) -> Result<Blast, u8> {
        let asks = change.is_mass() && !self.yes;
        if matches!(order, Order::Reinstate { .. }) && !asks {
            return Ok(Blast::default());
        }
        let answer = match send(server, &Change { dry_run: true, ..change.clone() }).await {
            Ok(answer) => answer,
            // Who wants no questions is not kept from a revocation by the answer to one.
            Err(error) if self.yes && error.is_in_doubt() => return Ok(Blast::default()),
            Err(error) => {
                let code = error.told(Effect::Asks);
                complain(&format_args!("{}: nothing was changed", order.name()));
                return Err(code);
            }
        };
        if !answer.is_done("dry_run") {
            if !asks {
                // The call itself says why.
                return Ok(Blast::default());
            }
            self.refused(order, change, &answer);
            return Err(REFUSED);
        }
        let ahead = Blast::of([&answer.document]);
        match ahead.refusal() {
            Some(refusal) if change.is_mass() => {
                complain(&format_args!("{}: refused: {refusal}; nothing was changed", order.name()));
                return Err(REFUSED);
            }
            Some(_) => return Ok(ahead),
            None => {}
        }
        if self.yes || !(asks || ahead.includes_caller()) {
            ahead.warn();
            return Ok(ahead);
        }
        warnings(&answer.document).for_each(|warning| complain(&format_args!("warning: {warning}")));
        match ahead.ask(order, &change.subject()) {
            Consent::Given => Ok(ahead),
            Consent::Refused(code) => Err(code),
        }
    }

    fn print(&self, order: Order, change: &Change, answer: &Answer) -> u8 {
        let is_done = answer.is_done("id");
        if self.server.json {
            print_document(&answer.body);
        } else if is_done {
            let mut page = Page::new();
            match lifted(answer) {
                lines if lines.is_empty() => page.line(&told(order, change.level, answer)),
                lines => lines.iter().for_each(|line| page.line(line)),
            }
            // It is done, whether or not anybody can be told.
            page.print();
        }
        if answer.document["enforced"] == Value::Bool(false) {
            complain(&unenforced(&answer.document["break_glass_until"]));
        }
        warnings(&answer.document).for_each(|warning| complain(&format_args!("warning: {warning}")));
        if is_done {
            return self.remarks(change, answer);
        }
        self.refused(order, change, answer);
        REFUSED
    }

    fn refused(&self, order: Order, change: &Change, answer: &Answer) {
        answer.complain(order.name());
        if answer.text("code") == STILL_REFUSED {
            self.remedies(change, answer);
        }
        if answer.status == StatusCode::NOT_FOUND && answer.text("code") == UNKNOWN {
            complain(&format_args!(
                "NOTHING was {}: the gate has not seen {}; with --preemptive it is {} all the same",
                order.done(),
                change.subject(),
                order.done(),
            ));
        }
    }

    /// Says what a change that is done does not reach, and returns the exit code.
    fn remarks(&self, change: &Change, answer: &Answer) -> u8 {
        let subject = change.subject();
        // Of tokens the answer says that none is read.
        let is_read = !matches!(change.level, Level::Token | Level::Chain);
        if is_read && answer.document["known"] == Value::Bool(false) {
            let stands = match change.action {
                Action::Reinstate => "",
                Action::Revoke | Action::Suspend => "; the entry stands, and hits nothing so far",
            };
            complain(&format_args!("note: this gate has never seen {subject}{stands}"));
        }
        if !answer.text("note").is_empty() {
            complain(&format_args!("note: {}", answer.text("note")));
        }
        if let Some(others) = also_lets_in(&answer.document) {
            complain(&format_args!("note: this also lets in: {others}"));
        }
        let obstacles = still_refused(&answer.document);
        if obstacles.is_empty() {
            return DONE;
        }
        complain(&format_args!("{subject} is STILL REFUSED by other entries:"));
        obstacles.iter().for_each(|obstacle| complain(&format_args!("  {obstacle}")));
        self.remedies(change, answer);
        if answer.document["changed"] == Value::Bool(false) { REFUSED } else { PARTLY }
    }

    /// Says what lifts the entries that still refuse the principal of a change.
    fn remedies(&self, change: &Change, answer: &Answer) {
        let remedies = remedies(&answer.document, &change.subject(), &self.server.credential());
        remedies.iter().for_each(|remedy| complain(remedy));
    }
}

/// The entries that a reinstatement under all names lifted, a line each.
fn lifted(answer: &Answer) -> Vec<String> {
    let lifted = answer.document["lifted"].as_array().into_iter().flatten();
    let line = |one: &Value| {
        let [level, target, id] =
            ["level", "target", "id"].map(|name| one[name].as_str().unwrap_or_default());
        format!("reinstated {level} {target} (id {id})")
    };
    let mut lines: Vec<String> = lifted.map(line).collect();
    if let Some(last) = lines.last_mut() {
        *last += &format!(", generation {}", answer.number("generation"));
    }
    lines
}

/// The warnings of an answer: done as asked, but perhaps not as meant.
pub(super) fn warnings(document: &Value) -> impl Iterator<Item = &str> {
    document["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Said when what is denied is let in all the same: until when, if break-glass lasts.
pub(super) fn unenforced(until: &Value) -> String {
    let Some(until) = until.as_str() else {
        return "WARNING: NOT ENFORCED: the gate is configured to be in advisory mode: nothing is refused"
            .to_owned();
    };
    format!("WARNING: NOT ENFORCED until {until}: break-glass lasts: nothing is refused")
}
/// The code of a refusal to deny a serial that the gate has not seen.
pub(super) const UNKNOWN: &str = "unknown_certificate";
/// The code of a reinstatement that lifted nothing while other names refuse the same principal.
const STILL_REFUSED: &str = "still_refused";

async fn send(server: &mut Server<'_>, change: &Change) -> Result<Answer, CallError> {
    let body = serde_json::to_value(change).map_err(|error| CallError::Usage(error.to_string()))?;
    server.call(&Method::POST, REVOCATIONS, Some(&body)).await
}

fn told(order: Order, level: Level, answer: &Answer) -> String {
    let target = format!("{} {}", answer.text("level"), answer.text("target"));
    let lifts = matches!(order, Order::Reinstate { .. });
    if lifts && answer.document["changed"] == Value::Bool(false) {
        return format!("{NOTHING_TO_LIFT} {target}");
    }
    let (ended, note) = match level {
        _ if lifts => (String::new(), ""),
        Level::Token | Level::Chain => (String::new(), UNREAD),
        _ if answer.document["enforced"] == Value::Bool(false) => (", NOT ENFORCED".to_owned(), ""),
        _ => (format!(", {} ended", counted(answer.number("sessions_ended"), "session")), ""),
    };
    let (id, generation) = (answer.text("id"), answer.number("generation"));
    format!("{} {target} (id {id}){ended}, generation {generation}{note}", order.done())
}

/// Said of a reinstatement that changed nothing, before its target.
pub(super) const NOTHING_TO_LIFT: &str = "nothing was suspended or revoked under";
const UNREAD: &str = "; the gate reads no tokens of agents yet, admin tokens are refused at once";

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::super::order::Unseen;
    use super::*;

    #[test]
    fn it_is_told_what_came_of_it() {
        let told = |order, level, mut more: Value| {
            let mut document = json!({"id": "i", "level": "principal", "target": "a", "generation": 7});
            document.as_object_mut().unwrap().append(more.as_object_mut().unwrap());
            let answer = Answer { status: StatusCode::OK, document, body: Bytes::new(), retry_after: None };
            super::told(order, level, &answer)
        };
        let (revoke, reinstate) =
            (Order::Revoke(Unseen::Refused), Order::Reinstate { force: false, all_names: false });
        let principal = Level::Principal;
        for (sessions, words) in [(0, "0 sessions"), (1, "1 session"), (2, "2 sessions")] {
            let expected = format!("revoked principal a (id i), {words} ended, generation 7");
            assert_eq!(told(revoke, principal, json!({"sessions_ended": sessions})), expected);
        }
        let lifted = told(reinstate, principal, json!({"changed": true}));
        assert_eq!(lifted, "reinstated principal a (id i), generation 7");
        let nothing = told(reinstate, principal, json!({"changed": false}));
        assert_eq!(nothing, "nothing was suspended or revoked under principal a");
        let token = told(revoke, Level::Token, json!({"level": "token", "sessions_ended": 0}));
        assert_eq!(token, format!("revoked token a (id i), generation 7{UNREAD}"));
    }
}
