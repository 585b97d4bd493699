//! What others send: clawdentity's events, bare serials, AgentWrit's revocations. None of these can say that it was
//! signed, or lift anything: all that they do is revoke.

use super::Poison;
use super::event::MAX_NAME;
use super::event::MAX_REASON;
use super::event::target_fault;
use super::json::Fields;
use super::json::bad;
use super::json::kind_of;
use super::json::required;
use crate::clock::Timestamp;
use crate::revocation::Action;
use crate::revocation::Event;
use crate::revocation::Level;
use crate::revocation::Target;

/// Clawdentity's events that revoke nothing. <https://github.com/vrknetha/clawdentity>
const IRRELEVANT: [&str; 6] = [
    "agent.auth.issued",
    "agent.auth.refreshed",
    "agent.auth.refresh_rejected",
    "pair.accepted",
    "group.member.joined",
    "delivery_receipt",
];

/// The id and time of what has none of its own: those of the message that it came in.
#[derive(Clone, Debug)]
pub(super) struct Derived {
    pub(super) id: String,
    pub(super) at: Timestamp,
}

impl Derived {
    fn revoke(self, target: Target) -> Event {
        Event { id: self.id, ..Event::new(Action::Revoke, target, self.at) }
    }
}

/// What a part of a message asks for.
#[derive(Debug)]
pub(super) enum Part {
    Event(Box<Event>),
    Irrelevant(String),
}

/// Clawdentity's event: `{"id", "type", "version": "v1", "timestampUtc", "data": {"reason", "metadata": {"agentDid"}}}`.
/// Its sender counts on it that what concerns nobody is acknowledged, even if it is malformed; that an agent is revoked
/// must not vanish.
pub(super) fn clawdentity(fields: &Fields<'_>, derived: Derived) -> Result<Part, Poison> {
    let kind = required("type", fields.text("type", 128)?)?;
    if let Some(known) = IRRELEVANT.into_iter().find(|known| *known == kind) {
        return Ok(Part::Irrelevant(known.to_owned()));
    }
    if kind != "agent.auth.revoked" {
        return Err(Poison::new("unknown_type", "`type`: no event of clawdentity that is known"));
    }
    let data = match fields.raw("data") {
        Some(text) if kind_of(text) == "an object" => Fields::read(text)?,
        _ => return Ok(Part::Irrelevant("agent.auth.revoked without data".to_owned())),
    };
    if data.text("reason", 128).ok().flatten().as_deref() != Some("agent_revoked") {
        return Ok(Part::Irrelevant("agent.auth.revoked of a session".to_owned()));
    }
    if fields.raw("version") != Some("\"v1\"") {
        return Err(Poison::new("unknown_version", "`version`: only v1 of clawdentity's events is known"));
    }
    let metadata = data.object("metadata")?;
    let did = metadata.map(|metadata| metadata.text("agentDid", MAX_NAME)).transpose()?.flatten();
    let did = required("data.metadata.agentDid", did)?;
    if !is_agent_did(&did) {
        return Err(bad("data.metadata.agentDid", "not `did:cdi:<authority>:agent:<ulid>`"));
    }
    let target = Target::parse(Level::Principal, &did, None).map_err(|e| target_fault(&e))?;
    // An id or a time that cannot be used is no reason to let a revoked agent in.
    let id = fields.id("id").ok().flatten().unwrap_or(derived.id);
    let at = fields.time("timestampUtc").ok().flatten().unwrap_or(derived.at);
    let revoked = Derived { id, at }.revoke(target);
    Ok(Part::Event(Box::new(Event { reason: Some("agent_revoked".to_owned()), ..revoked })))
}

/// `{"serial", "issuer"?, "reason"?, "at"?}`.
pub(super) fn serial(fields: &Fields<'_>, derived: Derived) -> Result<Part, Poison> {
    fields.only(&["serial", "issuer", "reason", "at"])?;
    let serial = required("serial", fields.serial("serial")?)?;
    let issuer = fields.text("issuer", MAX_NAME)?;
    let target =
        Target::parse(Level::Certificate, &serial, issuer.as_deref()).map_err(|e| target_fault(&e))?;
    let at = fields.time("at")?.unwrap_or(derived.at);
    let revoked = Derived { at, ..derived }.revoke(target);
    Ok(Part::Event(Box::new(Event { reason: fields.text("reason", MAX_REASON)?, ..revoked })))
}

/// AgentWrit's `{"level", "target"}`.
pub(super) fn agentwrit(fields: &Fields<'_>, derived: Derived) -> Result<Part, Poison> {
    fields.only(&["level", "target"])?;
    let level = required("level", fields.text("level", 16)?)?;
    let level = match level.as_str() {
        "token" => Level::Token,
        "agent" => Level::Principal,
        "task" => Level::Task,
        "chain" => Level::Chain,
        _ => return Err(bad("level", "not token, agent, task or chain; others need `version` 1")),
    };
    let name = required("target", fields.text("target", MAX_NAME)?)?;
    let target = Target::parse(level, &name, None).map_err(|e| target_fault(&e))?;
    Ok(Part::Event(Box::new(derived.revoke(target))))
}

/// `did:cdi:<authority>:agent:<ulid>`; the authority is a host's name.
fn is_agent_did(did: &str) -> bool {
    let parts: Vec<&str> = did.split(':').collect();
    match parts.as_slice() {
        ["did", "cdi", authority, "agent", id] => {
            !authority.is_empty()
                && authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
                && id.len() == 26
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
        }
        _ => false,
    }
}
