//! Our own event, version 1: `docs/event.schema.json`.

use super::Poison;
use super::json::Fields;
use super::json::bad;
use super::json::hexadecimal;
use super::json::required;
use crate::revocation::Action;
use crate::revocation::Event;
use crate::revocation::Level;
use crate::revocation::Target;
use crate::revocation::TargetError;

/// The longest reason, bytes; what the admin API takes.
pub(super) const MAX_REASON: usize = 1024;
/// The longest name of a target, an issuer or an actor, bytes.
pub(super) const MAX_NAME: usize = 2048;
/// All that there is. `source` is not among them: the gate knows where it has an event from.
const FIELDS: [&str; 12] = [
    "version",
    "id",
    "action",
    "level",
    "target",
    "issuer",
    "reason",
    "at",
    "issued_before",
    "expires_at",
    "actor",
    "force",
];

/// Whether a signature of one of our keys was verified over what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signed {
    Yes,
    No,
}

/// Reads an event of version 1.
pub(super) fn read(fields: &Fields<'_>, signed: Signed) -> Result<Event, Poison> {
    match fields.raw("version") {
        Some("1") => {}
        Some(_) => return Err(Poison::new("unknown_version", "`version`: only 1 is known")),
        None => return Err(bad("version", "missing")),
    }
    fields.only(&FIELDS)?;
    let id = required("id", fields.id("id")?)?;
    let action = required("action", fields.text("action", 16)?)?;
    let actions = [Action::Revoke, Action::Suspend, Action::Reinstate];
    let action = actions.into_iter().find(|known| known.name() == action);
    let action = action.ok_or_else(|| bad("action", "not revoke, suspend or reinstate"))?;
    let target = target(fields)?;
    let at = required("at", fields.time("at")?)?;
    let force = fields.flag("force")?.unwrap_or_default();
    if force && action != Action::Reinstate {
        return Err(bad("force", "goes with reinstate alone"));
    }
    // Who may send to a queue is a wider circle than who may lift a revocation.
    if force && signed == Signed::No {
        return Err(Poison::new("force_unsigned", "`force`: only a signed event lifts a revocation"));
    }
    Ok(Event {
        id,
        reason: fields.text("reason", MAX_REASON)?,
        issued_before: fields.seconds("issued_before")?,
        expires_at: fields.time("expires_at")?,
        actor: fields.text("actor", MAX_NAME)?,
        force,
        ..Event::new(action, target, at)
    })
}

fn target(fields: &Fields<'_>) -> Result<Target, Poison> {
    let level = required("level", fields.text("level", 16)?)?;
    let level: Level = level.parse().map_err(|e| target_fault(&e))?;
    let name = required("target", fields.text("target", MAX_NAME)?)?;
    if level == Level::Certificate {
        hexadecimal("target", &name)?;
    }
    let issuer = fields.text("issuer", MAX_NAME)?;
    Target::parse(level, &name, issuer.as_deref()).map_err(|e| target_fault(&e))
}

/// What is wrong with a target, without its name.
pub(super) fn target_fault(error: &TargetError) -> Poison {
    match error {
        TargetError::Level(_) => bad(
            "level",
            "not certificate, key, principal (agent), token, task, chain, issuer or trust_domain",
        ),
        TargetError::Name { level, why, .. } => bad("target", &format!("of level {level}: {why}")),
        TargetError::KeyId(_) => bad("target", "a key or issuer is hexadecimal, whole bytes, 64 at most"),
        TargetError::Issuer(level) => bad("issuer", &format!("level {level} takes none")),
    }
}
