//! Credentials that heed signed entries alone: those of the admin listener.

use super::Denial;
use super::Engine;
use super::registers::Entry;
use crate::session::Credential;
use crate::session::Fingerprint;
use crate::session::Heeds;
use crate::telemetry::LONGEST_NAME;
use crate::telemetry::LONGEST_REASON;
use crate::telemetry::LineKind;
use crate::telemetry::LineSource;
use crate::telemetry::cut;

const UNHEEDED: &str =
    "the admin listener lets somebody in whom an unsigned message denies: it heeds signed entries alone";

impl Engine {
    /// Holds a credential that something denies against the entries that it heeds: what the set has found may be an
    /// unsigned message's.
    ///
    /// The set does not tell the two apart, the ledger does. A publication takes the ledger's lock first and moves the
    /// generation last. If this look at the ledger comes before it, the session was registered before, so that the kill
    /// finds it, and the generation was read before, so that the next request looks again. If it comes after, it sees
    /// what was published.
    #[cold]
    pub(super) fn judge_by_signed(&self, credential: &Credential) -> Result<(), Denial> {
        let mut suspended = None;
        for fingerprint in credential.own.iter().chain(&credential.mass) {
            match self.entry_for(*fingerprint, credential) {
                Some(false) => return Err(self.explain(*fingerprint, false, credential)),
                Some(true) => drop(suspended.get_or_insert(*fingerprint)),
                None => {}
            }
        }
        suspended.map_or(Ok(()), |fingerprint| Err(self.explain(fingerprint, true, credential)))
    }

    /// Whether a fingerprint of a credential is denied by what it heeds, and how: see [`Entry::denies`].
    fn entry_for(&self, fingerprint: Fingerprint, credential: &Credential) -> Option<bool> {
        let live = self.ledger().union(fingerprint, credential.heeds);
        let named = self.set.named(fingerprint).into_iter().map(|(_, entry)| entry);
        named.chain(live).reduce(Entry::union)?.denies(credential.issued_at)
    }

    /// Says, now and then, that somebody is let in whom unsigned messages deny.
    pub(super) fn tell_unheeded(&self, credential: &Credential) {
        let Err(denial) = self.judge(&Credential { heeds: Heeds::All, ..credential.clone() }) else { return };
        let principal_id = credential.holder.principal.as_deref();
        let source = principal_id.map_or(LineSource::Unknown, LineSource::Principal);
        let code = denial.code();
        let Some(unsaid) = self.lines.admit(LineKind::warning(UNHEEDED, code), source, self.clock.elapsed())
        else {
            return;
        };
        let principal_id = principal_id.map(|name| cut(name, LONGEST_NAME));
        let revocation_reason = &*cut(&denial.reason, LONGEST_REASON);
        tracing::warn!(principal_id = principal_id.as_deref(), code, revocation_reason, unsaid, "{UNHEEDED}");
    }
}
