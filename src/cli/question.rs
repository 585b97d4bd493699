//! Commands that only ask: one GET, one page. And the options that several of them have.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::DONE;
use super::REFUSED;
use super::answer::Answer;
use super::complain;
use super::failure::Effect;
use super::output::Page;
use super::output::cell;
use super::output::print_document;
use super::server::Server;
use super::server::ServerArgs;
use super::server::talk;
use crate::clock::Clock;
use crate::clock::Timestamp;

/// Which part of a long answer is wanted.
#[derive(Debug, Args)]
pub(super) struct Window {
    /// At most so many, 1 to 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(super) limit: Option<u64>,
    /// Leave out so many first.
    #[arg(long, value_name = "N")]
    pub(super) offset: Option<u64>,
}

/// Asks `path`, prints the answer, whose document has `member`, and returns the exit code.
pub(super) fn ask(
    args: &ServerArgs,
    name: &str,
    path: &str,
    member: &str,
    show: impl FnOnce(&Answer, &mut Page) -> u8,
) -> u8 {
    talk(async {
        let asked = match Server::open(args).await {
            Ok(mut server) => server.get(path).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(answer) => print(args, name, &answer, (member, show)),
            Err(error) => error.told(Effect::Asks),
        }
    })
}

/// Prints an answer, and returns the exit code.
pub(super) fn print(
    args: &ServerArgs,
    name: &str,
    answer: &Answer,
    (member, show): (&str, impl FnOnce(&Answer, &mut Page) -> u8),
) -> u8 {
    let printed = if args.json { print_document(&answer.body) } else { DONE };
    if !answer.is_done(member) {
        answer.complain(name);
        return REFUSED;
    }
    let mut page = Page::new();
    let code = show(answer, &mut page);
    if answer.document["audit_durable"] == Value::Bool(false) {
        complain(&"WARNING: the audit line of this is not on disk: it waits in the gate's memory");
    }
    if args.json {
        return code.max(printed);
    }
    code.max(page.print())
}

/// Adds the rows of `member` as a table; says on standard error if there are none, or more.
pub(super) fn table(document: &Value, page: &mut Page, member: &str, columns: &[(&str, &str)]) -> u8 {
    table_of(document, page, member, columns, cell)
}

/// Adds the rows of `member` as a table whose cells `cell` makes of a row and the name of a column.
pub(super) fn table_of(
    document: &Value,
    page: &mut Page,
    member: &str,
    columns: &[(&str, &str)],
    cell: fn(&Value, &str) -> String,
) -> u8 {
    let all = document[member].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = all.iter().map(|row| columns.iter().map(|(_, name)| cell(row, name)).collect());
    let head: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
    page.table(&head, rows.collect());
    let number = |name: &str| document[name].as_u64().unwrap_or_default();
    let total = number("total");
    let next = number("offset") + all.len() as u64;
    if all.is_empty() {
        complain(&format_args!("no {member}"));
    } else if next < total {
        complain(&format_args!("{} of {total} {member}; --offset {next} shows more", all.len()));
    }
    DONE
}

/// A point in time, or how long ago it was: RFC 3339, Unix seconds, `90s`, `1h`, `2days`, `now`.
pub(super) fn moment(text: &str) -> Result<String, &'static str> {
    if Timestamp::parse(text).is_some() {
        return Ok(text.to_owned());
    }
    let ago = match text {
        "now" => Some(Duration::ZERO),
        text => humantime::parse_duration(text).ok(),
    };
    let ago = ago.and_then(|ago| i64::try_from(ago.as_millis()).ok());
    let at = ago.map(|ago| Timestamp::from_millis(Clock::system().now().millis().saturating_sub(ago)));
    // What is so long ago that it cannot be written is no time.
    let at = at.map(|at| at.to_string()).filter(|at| Timestamp::parse(at).is_some());
    at.ok_or("RFC 3339, such as 2026-11-22T12:00:00Z, Unix seconds, or how long ago, such as 1h, or now")
}

/// A number as the value of a query.
pub(super) fn number(number: Option<u64>) -> Option<String> {
    number.map(|number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_may_be_said_as_ago() {
        for plain in ["2026-11-22T12:00:00Z", "1792000000"] {
            assert_eq!(moment(plain).as_deref(), Ok(plain));
        }
        let before = Clock::system().now();
        let at = Timestamp::parse(&moment("1h").unwrap()).unwrap();
        assert!(at.since(before) == Duration::ZERO && before.since(at) <= Duration::from_secs(3600));
        let now = Timestamp::parse(&moment("now").unwrap()).unwrap();
        assert!(
            now.since(before) < Duration::from_secs(3600) && before.since(now) <= Duration::from_millis(1)
        );
        for nonsense in ["", "yesterday", "h", "9999999years"] {
            assert!(moment(nonsense).is_err(), "{nonsense}");
        }
    }
}
