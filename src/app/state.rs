//! The state directory: [`init`] makes it, and a start tells a lost state from an empty one.
//!
//! **Invariant:** [`init`] alone makes a journal. A start opens the journal that is there, or refuses.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use super::Error;
use crate::authority::Audit;
use crate::authority::AuditConfig;
use crate::authority::AuditError;
use crate::authority::Entry;
use crate::authority::audit;
use crate::authority::audit::PastChange;
use crate::clock::Clock;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::revocation::Action;
use crate::revocation::Engine;

/// The action of the audit line that [`init`] writes.
const MADE: &str = "state_init";
/// What a gate keeps beside the journal and the audit.
const OTHERS: [&str; 3] = ["certificates.redb", "lists", "quarantine.jsonl"];

/// Why nothing starts on a state directory, or why none is made.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory is missing or empty, or a state was only begun in it.
    #[error(
        "{dir}: there is no state here; if there was one, mount the volume or restore a backup; if this gate is new, \
         make the state once with `portcullis state init --config FILE`",
        dir = .0.display()
    )]
    Missing(PathBuf),
    /// The rest of a state is there, and the journal is not.
    #[error(
        "{dir}: the journal (revocations.redb) is missing beside {remains}: what was revoked is lost; restore it from \
         a backup, or rebuild it from the audit with `portcullis audit replay --config FILE`",
        dir = dir.display()
    )]
    LostJournal {
        /// The state directory.
        dir: PathBuf,
        /// The files that are there.
        remains: String,
    },
    /// The journal does not hold a change that the audit records as written.
    #[error(
        "{dir}: the journal (revocations.redb) does not hold `{change}`, which line {sequence} of the audit records: it \
         belongs to another state, or is an old copy; restore the right one, or add what the audit records with \
         `portcullis audit replay --config FILE --merge`",
        dir = dir.display()
    )]
    ForeignJournal {
        /// The state directory.
        dir: PathBuf,
        /// The action and its target.
        change: String,
        /// The sequence of the audit line.
        sequence: u64,
    },
    /// There is a state, or part of one, where one was to be made.
    #[error("{dir}: there is a state already: {found}; nothing was changed", dir = dir.display())]
    Exists {
        /// The state directory.
        dir: PathBuf,
        /// The files that are there.
        found: String,
    },
    /// There is the rest of a state whose journal is missing, where a state was to be made.
    #[error(
        "{dir}: there is a state already: {found}; nothing was changed; its journal is missing: run \
         `portcullis audit replay --config FILE`",
        dir = dir.display()
    )]
    Remains {
        /// The state directory.
        dir: PathBuf,
        /// The files that are there.
        found: String,
    },
    /// The directory cannot be read or made.
    #[error("{dir}: {error}", dir = dir.display())]
    Read {
        /// The state directory.
        dir: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

/// Makes the state that a configuration names: the directory (mode 0700), the audit with a first line that says so, and
/// an empty journal.
///
/// # Errors
/// [`StateError::Exists`] or [`StateError::Remains`] where any part of a state is there.
pub fn init(config: &Config, clock: &Clock) -> Result<(), Error> {
    let dir = &config.state.dir;
    let found = parts(dir)?;
    if !found.is_empty() {
        let (dir, found) = (dir.clone(), found.join(", "));
        return Err(match Engine::has_journal(&dir) {
            true => StateError::Exists { dir, found },
            false => StateError::Remains { dir, found },
        }
        .into());
    }
    Engine::make_directory(dir)?;
    let made = Entry {
        action: MADE.into(),
        outcome: "begun".into(),
        actor: "portcullis".into(),
        reason: Some("a new state, in which nothing is revoked".into()),
        ..Entry::default()
    };
    // The journal comes last: whatever has a journal is a whole state.
    audit::record(dir, &config.audit, clock.clone(), vec![made])?;
    Engine::make_journal(dir)?;
    tracing::info!(state = %dir.display(), "a new state was made; nothing is revoked in it");
    Ok(())
}

/// Opens the engine on the state that a configuration names.
pub(super) fn open(config: &Config, clock: &Clock) -> Result<Engine, Error> {
    require(config, clock)?;
    let engine = Engine::reopen(&config.state.dir, &config.revocation, clock.clone())?;
    compare(&config.state.dir, &config.revocation, &engine, clock.now())?;
    Ok(engine)
}

/// Sees to it that there is a state to start on; makes an ephemeral one.
fn require(config: &Config, clock: &Clock) -> Result<(), Error> {
    match find(config) {
        Err(StateError::Missing(_)) if config.state.ephemeral => init(config, clock),
        found => Ok(found?),
    }
}

/// Looks for the journal of the state that a configuration names, without opening it.
///
/// # Errors
/// [`StateError::Missing`] where there is no state, and [`StateError::LostJournal`] where only the rest of one is there.
pub fn find(config: &Config) -> Result<(), StateError> {
    let dir = &config.state.dir;
    let found = parts(dir)?;
    match found.as_slice() {
        _ if Engine::has_journal(dir) => Ok(()),
        [] => Err(StateError::Missing(dir.clone())),
        remains => Err(StateError::LostJournal { dir: dir.clone(), remains: remains.join(", ") }),
    }
}

/// Holds the journal against the newest changes of the audit: a journal of another state, or an old copy, lacks one.
///
/// Of a target that a recent line reinstates, or whose entry has lapsed, the journal may have forgotten everything. So
/// it may of a change that is older than the journal remembers reinstatements: one of those may have lifted it.
fn compare(
    dir: &Path,
    config: &crate::revocation::Config,
    engine: &Engine,
    now: Timestamp,
) -> Result<(), Error> {
    let changes = audit::newest_changes(dir)?;
    let is_remembered = |change: &&PastChange| change.event.at.plus(config.remember) > now;
    let has_lapsed = |at: Timestamp| at.plus(config.skew) <= now;
    let may_be_forgotten = |change: &&PastChange| {
        change.event.action == Action::Reinstate || change.event.expires_at.is_some_and(has_lapsed)
    };
    // By name: the lines of one target may differ in how its spelling counts.
    let name = |change: &PastChange| change.event.target.to_string();
    let passing: HashSet<String> = changes.iter().filter(may_be_forgotten).map(name).collect();
    let mut latest = BTreeMap::new();
    for change in changes.iter().filter(|change| change.durable).filter(is_remembered) {
        if !passing.contains(&name(change)) {
            latest.insert(name(change), change);
        }
    }
    warn_of_undurable(changes.iter().filter(|change| !passing.contains(&name(change))), engine);
    match latest.into_values().find(|change| !holds(engine, change)) {
        None => Ok(()),
        Some(PastChange { event, sequence, .. }) => {
            let change = format!("{} {}", event.action.name(), event.target);
            Err(StateError::ForeignJournal { dir: dir.to_owned(), change, sequence: *sequence }.into())
        }
    }
}

/// Names each change that took effect before this start, and that the journal could not take and does not hold.
fn warn_of_undurable<'a>(changes: impl Iterator<Item = &'a PastChange>, engine: &Engine) {
    for PastChange { sequence, event, .. } in changes.filter(|it| !it.durable && !holds(engine, it)) {
        let change = format!("{} {}", event.action.name(), event.target);
        tracing::error!(
            sequence,
            change,
            "the journal lacks a change that was in effect; add it with `portcullis audit replay --config FILE --merge`"
        );
    }
}

/// Returns whether the journal holds a change, or a later one of its target.
fn holds(engine: &Engine, change: &PastChange) -> bool {
    let latest = engine.standing(&change.event.target).and_then(|registers| registers.latest());
    latest.is_some_and(|latest| latest >= change.event.at)
}

/// Opens the audit of a state. Where none is left beside the journal, a new one begins with a line that says so.
pub(super) fn open_audit(dir: &Path, config: &AuditConfig, clock: Clock) -> Result<Audit, AuditError> {
    match audit::exists(dir) {
        true => Audit::open(dir, config, clock),
        false => Audit::open_after_loss(dir, config, clock),
    }
}

/// Warns of a state that no feed rebuilds.
pub(super) fn warn(config: &Config) {
    if config.state.ephemeral && !config.feed.is_required() {
        tracing::warn!(
            "state.ephemeral: no feed is `required`: a gate that starts on an empty directory serves clients that were revoked"
        );
    }
}

/// The names of the parts of a state that a directory holds; none where a state was only begun.
fn parts(dir: &Path) -> Result<Vec<String>, StateError> {
    let failed = |error| StateError::Read { dir: dir.to_owned(), error };
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name == Engine::JOURNAL || OTHERS.contains(&name.as_str()) || audit::is_part(&name) {
            names.push(name);
        }
    }
    names.sort();
    // An `init` that was killed before it made the journal: nothing was revoked yet, and another one goes on.
    if names.iter().all(|name| audit::is_part(name)) && audit::holds_only(dir, MADE) {
        names.clear();
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both lines are of one row of the journal. Seen failing with changes that are told apart by how their spelling counts.
    #[test]
    fn a_reinstatement_counts_for_its_name_however_the_spelling_of_either_line_counts() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let engine = Engine::in_memory(&crate::revocation::Config::default(), clock.clone()).unwrap();
        let change = |action: &'static str, spelling| Entry {
            action: action.into(),
            outcome: "applied".into(),
            id: Some(action.into()),
            level: Some("principal".into()),
            target: Some("a".into()),
            spelling,
            at: Some(clock.now()),
            ..Entry::default()
        };
        let write = |entry| {
            audit::record(directory.path(), &AuditConfig::default(), clock.clone(), vec![entry]).unwrap();
        };
        let config = crate::revocation::Config::default();
        let compared = || compare(directory.path(), &config, &engine, clock.now());
        write(change("revoke", None));
        assert!(compared().is_err());
        write(change("reinstate", Some("exact")));
        compared().unwrap();
    }
}
