//! What a drill checks besides the time: that the call is one that can be relied on in an incident.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::DrillError;
use super::Plan;
use super::means;
use super::means::Means;
use super::means::Told;
use super::party::Files;
use super::party::Visitor;
use super::visit;
use crate::rig::findings::Check;
use crate::rig::findings::Outcome;
use crate::rig::findings::Party;

/// For each call and command of a check.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of an audit log is read, bytes.
const MOST: u64 = 64 * 1024 * 1024;

/// All of them, in the order of the runbook.
pub(super) async fn all(plan: &Plan, audit_from: Option<u64>) -> Result<Vec<Check>, DrillError> {
    Ok(vec![
        idempotent(plan).await,
        no_credential(plan).await,
        unknown_serial(plan).await,
        recovery(plan).await?,
        audited(plan, audit_from),
    ])
}

fn check(name: &str, passed: Option<bool>, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), passed, detail: detail.into() }
}

async fn idempotent(plan: &Plan) -> Check {
    let again = plan.means.again(&plan.victim.party, PATIENCE).await;
    let unchanged = match again.document.get("changed") {
        Some(changed) if again.succeeded => format!("{}, changed: {changed}", again.words),
        _ => again.words,
    };
    check("revoking again succeeds", Some(again.succeeded), unchanged)
}

async fn no_credential(plan: &Plan) -> Check {
    const NAME: &str = "without a credential it is refused";
    match plan.means.as_nobody(&plan.victim.party, PATIENCE).await {
        Some(told) => {
            // Who demands a certificate in the handshake refuses before there could be a status.
            let refused = told.shut || matches!(told.status, Some(400 | 401 | 403));
            let was_heard = told.shut || told.status.is_some();
            check(NAME, was_heard.then_some(refused), told.words)
        }
        None => check(NAME, None, "a command has no credential to go without"),
    }
}

async fn unknown_serial(plan: &Plan) -> Check {
    const NAME: &str = "an unknown serial is said to be unknown";
    let serial = format!("7{:031x}", fastrand::u128(..) >> 4);
    let nobody = Party { name: "nobody".into(), serial };
    let judged = |told: Told| check(NAME, Some(told.status == Some(404)), told.words);
    match &plan.means {
        Means::Admin(_) => judged(plan.means.again(&nobody, PATIENCE).await),
        Means::Url { body, .. } if body.contains("{serial}") && !body.contains("{principal}") => {
            judged(plan.means.again(&nobody, PATIENCE).await)
        }
        Means::Url { .. } => check(NAME, None, "what is sent is not a {serial} alone"),
        Means::Command(_) => check(NAME, None, "a command is not asked"),
    }
}

async fn recovery(plan: &Plan) -> Result<Check, DrillError> {
    const NAME: &str = "a fresh credential works";
    let Some(command) = &plan.recover_with else {
        return Ok(check(NAME, None, "not asked for (--recover-with)"));
    };
    let failed = |e: io::Error| DrillError::System("a temporary directory", e);
    let directory = tempfile::Builder::new().prefix("portcullis-drill-").tempdir().map_err(failed)?;
    let (certificate, key) = (directory.path().join("fresh.pem"), directory.path().join("fresh.key"));
    let more = [
        ("DRILL_CERT", certificate.to_string_lossy().into_owned()),
        ("DRILL_KEY", key.to_string_lossy().into_owned()),
    ];
    let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let told = means::run(command, &plan.victim.party, &more, PATIENCE).await;
    if !told.succeeded {
        return Ok(check(NAME, Some(false), format!("the command {}", told.words)));
    }
    let files = Files { certificate, key, headers: plan.victim.headers.clone() };
    let fresh = match Visitor::read(&plan.ca, &files) {
        Ok(fresh) => fresh,
        Err(error) => return Ok(check(NAME, Some(false), error.to_string())),
    };
    Ok(match visit(&plan.place, &fresh).await {
        Ok((Outcome::Served, words)) => {
            check(NAME, Some(true), format!("serial {}: {words}", fresh.party.serial))
        }
        Ok((_, words)) => check(NAME, Some(false), words),
        Err(error) => check(NAME, Some(false), error.to_string()),
    })
}

/// Where an audit log ends now.
pub(super) fn end_of(log: &Path) -> Result<u64, DrillError> {
    let failed = |e| DrillError::AuditLog(log.to_owned(), e);
    Ok(std::fs::metadata(log).map_err(failed)?.len())
}

fn audited(plan: &Plan, from: Option<u64>) -> Check {
    const NAME: &str = "it is in the audit";
    let (Some(log), Some(from)) = (&plan.audit_log, from) else {
        return check(NAME, None, "not asked for (--audit-log)");
    };
    let added = match added(log, from) {
        Ok(added) => added,
        Err(error) => return check(NAME, Some(false), format!("{}: {error}", log.display())),
    };
    let Party { name, serial } = &plan.victim.party;
    let names = |line: &&str| {
        let line = line.to_ascii_lowercase();
        line.contains(&serial.to_ascii_lowercase()) || line.contains(&name.to_ascii_lowercase())
    };
    let lines = added.lines().filter(names).count();
    check(NAME, Some(lines > 0), format!("{lines} new lines that name {}", json!(serial)))
}

/// What was added to a file. One that has become shorter was begun anew.
fn added(log: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let from = if file.metadata()?.len() < from { 0 } else { from };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
