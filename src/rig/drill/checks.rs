//! What a drill checks besides the time: that the call is one that can be relied on in an incident.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use super::DrillError;
use super::Plan;
use super::means::Means;
use super::party::Files;
use super::party::Visitor;
use super::shell;
use super::visit;
use crate::rig::findings::Check;
use crate::rig::findings::Outcome;
use crate::rig::findings::Party;
use crate::rig::upload::UploadSighting;

/// For each call and command of a check.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of an audit log is read, bytes.
const MOST: u64 = 64 * 1024 * 1024;

/// All but whether it is in the audit, in the order of the runbook. What commands said goes to `said`.
pub(super) async fn all(plan: &Plan, said: &mut Vec<String>) -> Vec<Check> {
    vec![
        idempotent(plan, said).await,
        no_credential(plan).await,
        unknown_serial(plan).await,
        recovery(plan, said).await,
    ]
}

/// None of them, and why.
pub(super) fn none(why: &str) -> Vec<Check> {
    [IDEMPOTENT, NO_CREDENTIAL, UNKNOWN_SERIAL, RECOVERY].map(|name| check(name, None, why)).into()
}

const IDEMPOTENT: &str = "revoking again succeeds";
const NO_CREDENTIAL: &str = "without a credential it is refused";
const UNKNOWN_SERIAL: &str = "an unknown serial is said to be unknown";
const RECOVERY: &str = "a fresh credential works";
const AUDITED: &str = "it is in the audit";

const UPLOADED: &str = "the service gets no more of an upload";

/// Whether an upload came to its end with the revocation, as the service behind the server sees it.
pub(super) fn uploaded(seen: &UploadSighting) -> Check {
    let fault = seen.fault();
    let detail = fault.as_ref().map_or_else(|| seen.words(), |fault| format!("{fault}: {}", seen.words()));
    check(UPLOADED, Some(fault.is_none()), detail)
}

fn check(name: &str, passed: Option<bool>, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), passed, detail: detail.into() }
}

async fn idempotent(plan: &Plan, said: &mut Vec<String>) -> Check {
    let again = plan.means.again(&plan.victim.party, PATIENCE).await;
    said.extend(again.said().filter(|_| !again.succeeded));
    let unchanged = match again.document.get("changed") {
        Some(changed) if again.succeeded => format!("{}, changed: {changed}", again.words),
        _ => again.words,
    };
    check(IDEMPOTENT, Some(again.succeeded), unchanged)
}

async fn no_credential(plan: &Plan) -> Check {
    match plan.means.as_nobody(&plan.victim.party, PATIENCE).await {
        Some(told) => {
            let passed = match told.status {
                Some(401 | 403) => Some(true),
                // The query of a URL may be a credential.
                Some(200..300) if plan.means.has_query() => None,
                // It was about how many calls there are, or about the server.
                Some(429 | 500..) => None,
                Some(_) => Some(false),
                // Who demands a certificate in the handshake refuses before there could be a status.
                None => told.shut.then_some(true),
            };
            check(NO_CREDENTIAL, passed, told.words)
        }
        None => check(NO_CREDENTIAL, None, "there is no credential to go without"),
    }
}

async fn unknown_serial(plan: &Plan) -> Check {
    let serial = format!("7{:031x}", fastrand::u128(..) >> 4);
    let nobody = Party { name: "nobody".into(), serial };
    match &plan.means {
        Means::Admin(_) => {
            let told = plan.means.again(&nobody, PATIENCE).await;
            check(UNKNOWN_SERIAL, Some(told.status == Some(404)), told.words)
        }
        Means::Url { .. } if !plan.unknown_serial => {
            check(UNKNOWN_SERIAL, None, "not asked for (--unknown-serial)")
        }
        Means::Url { .. } => {
            let told = plan.means.again(&nobody, PATIENCE).await;
            let refused = told.status.is_some_and(|status| (400..500).contains(&status));
            // An answer that is a success may say it all the same, in words of its own.
            let words = match told.succeeded {
                true => format!("{}; {} may be on record now", told.words, nobody.serial),
                false => told.words,
            };
            check(UNKNOWN_SERIAL, refused.then_some(true), words)
        }
        Means::Command(_) => check(UNKNOWN_SERIAL, None, "a command is not asked"),
    }
}

async fn recovery(plan: &Plan, said: &mut Vec<String>) -> Check {
    let Some(command) = &plan.recover_with else {
        return check(RECOVERY, None, "not asked for (--recover-with)");
    };
    let recovered = recovered(plan, command, said).await;
    let passed = recovered.is_ok();
    check(RECOVERY, Some(passed), recovered.unwrap_or_else(|reason| reason))
}

/// What a fresh credential is served, or why there is none that works.
async fn recovered(plan: &Plan, command: &str, said: &mut Vec<String>) -> Result<String, String> {
    let failed = |e: io::Error| format!("a temporary directory: {e}");
    let directory = tempfile::Builder::new().prefix("portcullis-drill-").tempdir().map_err(failed)?;
    let (certificate, key) = (directory.path().join("fresh.pem"), directory.path().join("fresh.key"));
    let (own, of_key) = (certificate.to_string_lossy(), key.to_string_lossy());
    let more = [("DRILL_CERT", &*own), ("DRILL_KEY", &*of_key)];
    let told = shell::run(command, &plan.victim.party, &more, PATIENCE).await;
    if !told.succeeded {
        said.extend(told.said());
        return Err(format!("the command: {}", told.words));
    }
    let files =
        Files { certificate: certificate.clone(), key: key.clone(), headers: plan.victim.headers.clone() };
    let fresh = Visitor::read(&plan.ca, &files).map_err(|e| e.to_string())?;
    let Party { name, serial } = &fresh.party;
    if *name != plan.victim.party.name {
        return Err(format!("it is for `{name}`, not for the victim"));
    }
    if *serial == plan.victim.party.serial {
        return Err("it is the one that was revoked".to_owned());
    }
    match visit(&plan.place, &fresh).await {
        Ok((Outcome::Served, words)) => Ok(format!("serial {serial}: {words}")),
        Ok((_, words)) => Err(words),
        Err(error) => Err(error.to_string()),
    }
}

/// Where an audit log ends now.
pub(super) fn end_of(log: &Path) -> Result<u64, DrillError> {
    let failed = |e| DrillError::AuditLog(log.to_owned(), e);
    Ok(std::fs::metadata(log).map_err(failed)?.len())
}

/// Whether lines were added that name who was revoked.
pub(super) fn audited(plan: &Plan, from: Option<u64>) -> Check {
    let (Some(log), Some(from)) = (&plan.audit_log, from) else {
        return check(AUDITED, None, "not asked for (--audit-log)");
    };
    let added = match added(log, from) {
        Ok(added) => added.to_ascii_lowercase(),
        Err(error) => return check(AUDITED, Some(false), format!("{}: {error}", log.display())),
    };
    let Party { name, serial } = &plan.victim.party;
    let (name, serial) = (name.to_ascii_lowercase(), serial.to_ascii_lowercase());
    let names = |line: &&str| line.contains(&serial) || !name.is_empty() && line.contains(&name);
    let lines = added.lines().filter(names).count();
    check(AUDITED, Some(lines > 0), format!("{lines} lines since the call that name {name} or {serial}"))
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
