//! `portcullis revoke`, `suspend`, `reinstate`: one change, and how it is told.

use http::Method;
use http::StatusCode;
use serde_json::Value;

use super::DONE;
use super::REFUSED;
use super::USAGE;
use super::answer::Answer;
use super::batch;
use super::blast::Blast;
use super::blast::Consent;
use super::complain;
use super::order::Change;
use super::order::ChangeArgs;
use super::order::Order;
use super::output::Page;
use super::output::counted;
use super::output::print_document;
use super::server::CallError;
use super::server::Effect;
use super::server::Server;
use super::server::talk;
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
        if change.is_mass() && !self.yes {
            match self.consent(&mut server, order, &change).await {
                Ok(()) => {}
                Err(code) => return code,
            }
        }
        match send(&mut server, &change).await {
            Ok(answer) => self.print(order, &change, &answer),
            Err(error) => error.told(Effect::Changes),
        }
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
        printed
    }

    /// Shows what would be hit, and asks; the exit code if it is not to be done.
    async fn consent(&self, server: &mut Server<'_>, order: Order, change: &Change) -> Result<(), u8> {
        let answer = send(server, &Change { dry_run: true, ..change.clone() }).await;
        let answer = answer.map_err(|error| error.told(Effect::Asks))?;
        if !answer.is_done("dry_run") {
            self.refused(order, change, &answer);
            return Err(REFUSED);
        }
        let blast = Blast::of([&answer.document]);
        match blast.ask(order, &change.subject()) {
            Consent::Given => Ok(()),
            Consent::Refused(code) => Err(code),
        }
    }

    fn print(&self, order: Order, change: &Change, answer: &Answer) -> u8 {
        if self.server.json {
            print_document(&answer.body);
        } else if answer.is_done("id") {
            let mut page = Page::new();
            page.line(&format_args!("{}: {}", order.name(), told(order, change.level, answer)));
            // It is done, whether or not anybody can be told.
            page.print();
        }
        if answer.document["enforced"] == Value::Bool(false) {
            complain(&ADVISORY);
        }
        if answer.is_done("id") {
            return DONE;
        }
        self.refused(order, change, answer);
        REFUSED
    }

    fn refused(&self, order: Order, change: &Change, answer: &Answer) {
        answer.complain(order.name());
        if answer.status == StatusCode::NOT_FOUND && answer.text("code") == UNKNOWN {
            complain(&format_args!(
                "NOTHING was {}: the gate has not seen {}; with --preemptive it is {} all the same",
                order.done(),
                change.subject(),
                order.done(),
            ));
        }
    }
}

/// Said when what is denied is let in all the same.
pub(super) const ADVISORY: &str = "WARNING: the gate is in advisory mode: nothing is refused";
/// The code of a refusal to deny a serial that the gate has not seen.
pub(super) const UNKNOWN: &str = "unknown_certificate";

async fn send(server: &mut Server<'_>, change: &Change) -> Result<Answer, CallError> {
    let body = serde_json::to_value(change).map_err(|error| CallError::Usage(error.to_string()))?;
    server.call(&Method::POST, REVOCATIONS, Some(&body)).await
}

fn told(order: Order, level: Level, answer: &Answer) -> String {
    let target = format!("{} {}", answer.text("level"), answer.text("target"));
    let lifts = matches!(order, Order::Reinstate { .. });
    if lifts && answer.document["changed"] == Value::Bool(false) {
        return format!("nothing was suspended or revoked under {target}");
    }
    let effect = match (level, answer.number("sessions_ended")) {
        _ if lifts => String::new(),
        (Level::Token | Level::Chain, _) => " kept; no token is read yet,".into(),
        (_, ended) => format!(" {} ended,", counted(ended, "session")),
    };
    format!("{target} (id {}),{effect} generation {}", answer.text("id"), answer.number("generation"))
}

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
        let (revoke, reinstate) = (Order::Revoke(Unseen::Refused), Order::Reinstate { force: false });
        let principal = Level::Principal;
        for (sessions, words) in [(0, "0 sessions"), (1, "1 session"), (2, "2 sessions")] {
            let expected = format!("principal a (id i), {words} ended, generation 7");
            assert_eq!(told(revoke, principal, json!({"sessions_ended": sessions})), expected);
        }
        let lifted = told(reinstate, principal, json!({"changed": true}));
        assert_eq!(lifted, "principal a (id i), generation 7");
        let nothing = told(reinstate, principal, json!({"changed": false}));
        assert_eq!(nothing, "nothing was suspended or revoked under principal a");
        let token = told(revoke, Level::Token, json!({"level": "token", "sessions_ended": 0}));
        assert_eq!(token, "token a (id i), kept; no token is read yet, generation 7");
    }
}
