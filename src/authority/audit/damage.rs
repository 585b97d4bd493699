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
}

/// Accepts damage in the audit of a state directory that no process has open: one line for each, on disk when this
/// returns. Returns what it accepted.
pub fn accept(
    directory: &Path,
    config: &Config,
    clock: Clock,
    sign_off: &SignOff,
) -> Result<Vec<Damage>, AcceptError> {
    if !super::exists(directory) {
        return Err(AcceptError::Absent);
    }
    // Before the audit is opened: an opening may put a file aside, and its places have other names then.
    let damages = damages(directory)?;
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
        Err(VerifyError::Broken(fault)) => Ok(fault.damages),
        Err(error) => Err(AcceptError::Read(error)),
    }
}

fn listed(damages: &[Damage]) -> String {
    match damages {
        [] => "there is none in the audit; the next start of the gate records damage at its end".into(),
        damages => {
            let places: Vec<String> =
                damages.iter().map(|damage| format!("{}:{}", damage.file, damage.line)).collect();
            format!("there is damage at {}", places.join(", "))
        }
    }
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
