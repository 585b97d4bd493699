//! What an audit line says of an event, before it has its place in the chain.

use std::borrow::Cow;

use serde::Serialize;

use super::MAX_LINE;
use super::damage::Damage;
use crate::clock::Timestamp;
use crate::revocation::Spelling;
use crate::revocation::Target;
use crate::revocation::Timeline;

/// How much of each text is kept of an entry that would not fit a line, bytes.
const CLIPPED: usize = 8 * 1024;
/// The `spelling` of a bare name that counts as it is written. Lines of earlier versions have none: theirs counted in any case.
pub(super) const EXACT: &str = "exact";

/// One event, as whoever acts on it knows it; the writer adds `sequence`, `time`, `prev` and `hash`.
///
/// What is `None`, and an address or id that is empty, is left out of the line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// What was asked: `revoke`, `suspend`, `reinstate`, `list`, `end_session`, `refresh`, `advisory`, `authenticate`, `call`,
    /// `state_init`, `audit_recovered`, `audit_continued`, `audit_accepted`.
    pub action: Cow<'static, str>,
    /// What became of it: `applied`, `effective_not_durable`, `asked`, `refused`, `left_out` (refusals that have no
    /// line of their own), `failed`, `begun`, `lapsed` and the like.
    pub outcome: Cow<'static, str>,
    /// Who asked: a principal, or `secret:NAME`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub actor: Cow<'static, str>,
    /// In which role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Cow<'static, str>>,
    /// From where.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub address: String,
    /// What the log calls the request.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_id: String,
    /// What the caller calls it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub correlation_id: String,
    /// The id of the event that it became.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The level of its target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Cow<'static, str>>,
    /// Its target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The issuer that narrows the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `exact` of a bare name of a principal or chain that counts as it is written; else it counts in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spelling: Option<&'static str>,
    /// The principal that the target belongs to, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The serial of the certificate that it is about, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Why, in the words of whoever asked; of a refusal, why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Hits only credentials issued before this, whole Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<i64>,
    /// When it lapses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Of a reinstatement: whether it lifts a revocation too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// True if an unsigned message said so: the admin listener does not heed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsigned: Option<bool>,
    /// The engine's generation with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// How many sessions it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_ended: Option<usize>,
    /// The code of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'static, str>>,
    /// The method of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Refusals like this one that were left out before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsaid: Option<u64>,
    /// The damage in the audit that is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
    /// How long it took, step by step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
}

impl Entry {
    /// The same entry about a target, as the gate keeps it.
    #[must_use]
    pub fn aimed_at(self, target: &Target) -> Self {
        let is_exact = target.is_bare() && target.spelling() != Spelling::AnyCase;
        Self {
            level: Some(target.level().name().into()),
            target: Some(target.name().to_owned()),
            issuer: target.issuer().map(str::to_owned),
            spelling: is_exact.then_some(EXACT),
            ..self
        }
    }

    /// Its members as they stand in the line, without braces. Texts are shortened if it would not fit a line.
    pub(super) fn members(mut self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string(&self)?;
        if text.len() > MAX_LINE / 2 {
            self.clip();
            text = serde_json::to_string(&self)?;
        }
        Ok(text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default().to_owned())
    }

    fn clip(&mut self) {
        let owned = [&mut self.address, &mut self.request_id, &mut self.correlation_id];
        owned.into_iter().for_each(clip);
        let optional = [
            &mut self.id,
            &mut self.target,
            &mut self.issuer,
            &mut self.principal,
            &mut self.serial,
            &mut self.reason,
            &mut self.method,
            &mut self.path,
        ];
        optional.into_iter().flatten().for_each(clip);
        let borrowed = [&mut self.action, &mut self.outcome, &mut self.actor].into_iter();
        let optional = [&mut self.role, &mut self.level, &mut self.code].into_iter().flatten();
        borrowed.chain(optional).for_each(|text| clip(text.to_mut()));
    }
}

fn clip(text: &mut String) {
    if text.len() > CLIPPED {
        let whole = text.len();
        let end = (0..=CLIPPED).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str(&format!("... ({whole} bytes)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_flat_and_leave_out_what_is_not_known() {
        let entry = Entry { action: "revoke".into(), outcome: "applied".into(), ..Entry::default() };
        assert_eq!(entry.members().unwrap(), r#""action":"revoke","outcome":"applied""#);
    }

    #[test]
    fn what_would_not_fit_a_line_is_shortened() {
        // Six bytes each in JSON.
        let huge = || "\u{1}".repeat(MAX_LINE);
        let entry = Entry {
            action: huge().into(),
            outcome: huge().into(),
            actor: huge().into(),
            role: Some(huge().into()),
            address: huge(),
            request_id: huge(),
            correlation_id: huge(),
            id: Some(huge()),
            level: Some(huge().into()),
            target: Some(huge()),
            issuer: Some(huge()),
            principal: Some(huge()),
            serial: Some(huge()),
            reason: Some(huge()),
            code: Some(huge().into()),
            method: Some(huge()),
            path: Some(huge()),
            ..Entry::default()
        };
        let text = entry.members().unwrap();
        assert!(text.len() < MAX_LINE - 1024, "{}", text.len());
        assert!(text.contains("(1048576 bytes)"));
    }
}
