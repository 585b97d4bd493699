//! Damage in an audit, and the line by which a person accepts it after an examination.
//!
//! **Invariant:** an acceptance covers one damage as it was examined: the last whole line before it, the damaged bytes, and
//! the whole line with which the chain goes on. A byte that changes between the two lines is new damage.

use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;

use super::AuditError;
use super::Config;
use super::Entry;
use super::Fault;
use super::HeldAudit;
use super::VerifyError;
use super::line::ACCEPTED;
use super::trail::open_writer;
use super::trail::write_notes;
use super::verify;
use crate::clock::Clock;

/// One place where an audit is not as it was written; the member `damage` of the line that accepts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The name of the file in which it was found.
    pub file: String,
    /// The line in that file, from 1.
    pub line: u64,
    /// The fault.
    pub reason: String,
    /// The last whole line before it, as `SEQUENCE:HASH`; that of sequence 0 at the beginning.
    pub after: String,
    /// The SHA-256 of the damaged lines; where there are none, the `prev` of the line that follows.
    pub found: String,
    /// The whole line that follows, as `SEQUENCE:HASH`.
    pub resumes: String,
}

impl Damage {
    /// Returns whether both are the same damage; the name of the file may have changed.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.after, &self.found, &self.resumes) == (&other.after, &other.found, &other.resumes)
    }

    fn is_at(&self, place: &DamagePlace) -> bool {
        (&self.file, self.line) == (&place.file, place.line)
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// An acceptance that covers damage in the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// The sequence of its line.
    pub sequence: u64,
    /// The person who examined the damage.
    pub actor: String,
    /// What the person found.
    pub reason: String,
    /// The damage.
    pub damage: Damage,
}

/// Where a damage is; its text form is `FILE:LINE`, with or without the directory of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagePlace {
    file: String,
    line: u64,
}

impl std::fmt::Display for DamagePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl FromStr for DamagePlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (file, line) = text.rsplit_once(':')?;
            let file = Path::new(file).file_name()?.to_str()?.to_owned();
            Some(Self { file, line: line.parse().ok()? })
        };
        parse()
            .ok_or_else(|| format!("`{text}` is not FILE:LINE, as `portcullis audit verify` names a damage"))
    }
}

/// What a person says of damage that was examined.
#[derive(Clone, Debug)]
pub struct SignOff {
    /// Where the damage is.
    pub places: Vec<DamagePlace>,
    /// The person.
    pub actor: String,
    /// What the person found.
    pub reason: String,
}

/// Why no damage is accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The audit cannot be opened or written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The audit cannot be read.
    #[error(transparent)]
    Read(VerifyError),
    /// There is no audit.
    #[error("there is no audit here")]
    Absent,
    /// No damage is at that place.
    #[error("no damage that can be accepted is at {place}; {there}")]
    NotThere {
        /// The place.
        place: DamagePlace,
        /// Where damage is.
        there: String,
    },
    /// No whole line follows the damage, or it is about the audit as a whole.
    #[error("no acceptance covers this: {0}")]
    Unbounded(Box<Fault>),
    /// The damage was at the very end. It is set aside now, and has another place.
    #[error(
        "the damage was at the very end, and is set aside now; examine it, and accept what `portcullis audit verify` \
         names: {0}"
    )]
    SetAside(String),
}

/// Accepts damage in the audit of a state directory that no process has open: one line for each, on disk when this
/// returns. Returns what it accepted.
///
/// # Errors
/// [`AcceptError::SetAside`] where nothing follows the damage yet: an opening sets it aside, and it can be accepted then.
pub fn accept(
    directory: &Path,
    config: &Config,
    clock: Clock,
    sign_off: &SignOff,
) -> Result<Vec<Damage>, AcceptError> {
    if !super::exists(directory) {
        return Err(AcceptError::Absent);
    }
    // A gate that runs is named before any place.
    drop(HeldAudit::take(directory)?);
    // Before the audit is opened: an opening may put a file aside, and its places have other names then.
    let damages = match damages(directory) {
        Err(AcceptError::Unbounded(_)) => {
            // The line that an opening writes is the whole line that bounds it.
            drop(open_writer(directory, config, clock.clone(), Vec::new())?);
            match damages(directory)?.as_slice() {
                [] => Vec::new(),
                damages => return Err(AcceptError::SetAside(places(damages))),
            }
        }
        found => found?,
    };
    let mut accepted = Vec::new();
    for place in &sign_off.places {
        let count = accepted.len();
        accepted.extend(damages.iter().filter(|damage| damage.is_at(place)).cloned());
        if accepted.len() == count {
            return Err(AcceptError::NotThere { place: place.clone(), there: listed(&damages) });
        }
    }
    let mut writer = open_writer(directory, config, clock, Vec::new())?;
    let entries = accepted.iter().map(|damage| Entry {
        action: ACCEPTED.into(),
        outcome: "applied".into(),
        actor: sign_off.actor.clone().into(),
        reason: Some(sign_off.reason.clone()),
        damage: Some(damage.clone()),
        ..Entry::default()
    });
    write_notes(&mut writer, entries.collect(), directory)?;
    Ok(accepted)
}

/// The damage that is not accepted.
fn damages(directory: &Path) -> Result<Vec<Damage>, AcceptError> {
    match verify(directory, None, &mut |_, _| {}) {
        Ok(_) => Ok(Vec::new()),
        Err(VerifyError::Broken(fault)) if fault.damages.is_empty() => Err(AcceptError::Unbounded(fault)),
        Err(VerifyError::Broken(fault)) => Ok(fault.damages),
        Err(error) => Err(AcceptError::Read(error)),
    }
}

fn listed(damages: &[Damage]) -> String {
    match damages {
        [] => "the audit is whole".into(),
        damages => format!("there is damage at {}", places(damages)),
    }
}

fn places(damages: &[Damage]) -> String {
    let places: Vec<String> =
        damages.iter().map(|damage| format!("{}:{}", damage.file, damage.line)).collect();
    places.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_with_or_without_its_directory() {
        let place = DamagePlace { file: "audit.jsonl".into(), line: 4 };
        assert_eq!("audit.jsonl:4".parse(), Ok(place.clone()));
        assert_eq!("/var/lib/portcullis/audit.jsonl:4".parse(), Ok(place));
        for text in ["", "audit.jsonl", "audit.jsonl:", ":4", "audit.jsonl:four"] {
            assert!(text.parse::<DamagePlace>().is_err(), "{text}");
        }
    }
}
