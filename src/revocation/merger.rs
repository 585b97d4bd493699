//! Two rows of one name: one of an earlier version, which counts in any case, and one that counts as it is written.
//!
//! The gate keeps one row a name, because its ledger finds both spellings by one fingerprint. A file may hold two all the
//! same: a gate that was killed had not yet forgotten the older one, or a replay made both.

use super::Registers;
use super::Spelling;
use super::Target;
use super::registers::Terms;

/// Joins the two rows of each name that has two, and returns how many such names there are. The rows are in the order of
/// their keys. What is left counts in any case, unless everything in the older row has had its time.
pub(super) fn join(rows: &mut Vec<(Target, Registers)>, terms: &Terms) -> usize {
    let pairs = pairs(rows);
    for (older, exact) in &pairs {
        let registers = std::mem::take(&mut rows[*exact].1);
        rows[*older].1.expire(terms);
        let kept = if rows[*older].1.is_blank() { exact } else { older };
        rows[*kept].1.absorb(registers);
    }
    if !pairs.is_empty() {
        rows.retain(|(_, registers)| !registers.is_blank());
    }
    pairs.len()
}

/// The places of both rows of each name that has two.
fn pairs(rows: &[(Target, Registers)]) -> Vec<(usize, usize)> {
    let bare = |spelling: Spelling| {
        let rows = rows.iter().map(|(target, _)| target).enumerate();
        rows.filter(move |(_, target)| target.is_bare() && target.spelling() == spelling)
    };
    let mut exact = bare(Spelling::Exact).peekable();
    let mut pairs = Vec::new();
    for (older, target) in bare(Spelling::AnyCase) {
        while exact.next_if(|(_, other)| name(other) < name(target)).is_some() {}
        let twin = exact.next_if(|(_, other)| name(other) == name(target));
        pairs.extend(twin.map(|(exact, _)| (older, exact)));
    }
    pairs
}

/// What the keys of two rows of one name have in common, in the order of keys.
fn name(target: &Target) -> (&str, &str) {
    (target.level().name(), target.name())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use redb::Database;
    use redb::TableDefinition;

    use super::super::Action;
    use super::super::Config;
    use super::super::Engine;
    use super::super::Event;
    use super::super::Level;
    use super::super::record;
    use super::super::uptime::Uptime;
    use super::*;
    use crate::clock::Clock;
    use crate::clock::Timestamp;
    use crate::session::Credential;

    const TARGETS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("targets");

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    fn typed(level: Level, name: &str) -> Target {
        Target::parse(level, name, None).unwrap()
    }

    /// A row that one event has left.
    fn row(action: Action, target: Target, secs: i64) -> (Target, Registers) {
        let mut registers = Registers::default();
        registers.merge(&Event::new(action, target.clone(), at(secs)), Uptime::MAX);
        (target, registers)
    }

    /// Writes rows into the journal of a state, as they are.
    fn plant(state: &Path, rows: &[(Target, Registers)]) {
        let database = Database::open(state.join(Engine::JOURNAL)).unwrap();
        let transaction = database.begin_write().unwrap();
        for (target, registers) in rows {
            let key = record::key(target);
            let row = record::write(&key, registers);
            transaction.open_table(TARGETS).unwrap().insert(key.as_str(), row.as_slice()).unwrap();
        }
        transaction.commit().unwrap();
    }

    /// Whether a credential that carries this name is denied.
    fn denies(engine: &Engine, name: &str) -> bool {
        let own = engine.fingerprinter().all_carried([&typed(Level::Principal, name)]);
        engine.judge(&Credential { own, ..Credential::default() }).is_err()
    }

    /// Seen failing with rows that are taken in as they are, and with a file that keeps both once the reinstatement is
    /// forgotten.
    #[test]
    fn a_name_with_two_rows_is_lifted_for_good_with_one_reinstatement() {
        let state = tempfile::tempdir().unwrap();
        let clock = Clock::manual(at(10));
        let open = || Engine::open(state.path(), &Config::default(), clock.clone()).unwrap();
        drop(open());
        let [revoked, suspended] = [(Action::Revoke, 0), (Action::Suspend, 1)].map(|(action, secs)| {
            let target = typed(Level::Principal, "a");
            let target = if secs == 0 { target.of_earlier_version() } else { target };
            row(action, target, secs)
        });
        plant(state.path(), &[revoked, suspended]);
        let engine = open();
        assert_eq!(engine.entries(), 1);
        assert!(denies(&engine, "a") && denies(&engine, "A"));
        let standing = engine.standing(&typed(Level::Principal, "a")).unwrap();
        assert!(standing.is_revoked() && standing.is_suspended());
        let lift =
            Event { force: true, ..Event::new(Action::Reinstate, typed(Level::Principal, "a"), at(10)) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert!(runtime.block_on(engine.decide(lift)).unwrap().as_asked);
        drop(engine);
        for _ in 0..2 {
            let engine = open();
            assert!(!denies(&engine, "a") && !denies(&engine, "A") && engine.entries() == 0);
            clock.advance(Config::default().remember + Duration::from_secs(60));
            engine.expire();
        }
    }

    /// Seen failing with a join that lets the older row count whatever is left of it.
    #[test]
    fn an_older_row_that_has_had_its_time_widens_nothing() {
        let older = |name: &str| typed(Level::Principal, name).of_earlier_version();
        let mut rows = vec![
            row(Action::Revoke, typed(Level::Chain, "b").of_earlier_version(), 0),
            row(Action::Revoke, older("a"), 0),
            row(Action::Reinstate, older("b"), 0),
            row(Action::Revoke, older("c"), 0),
            row(Action::Revoke, typed(Level::Principal, "a"), 1),
            row(Action::Revoke, typed(Level::Principal, "b"), 1),
            row(Action::Revoke, typed(Level::Principal, "d"), 1),
        ];
        let remember = Duration::from_secs(60);
        let terms = Terms { now: at(90), uptime: Uptime::default(), skew: Duration::ZERO, remember };
        assert_eq!(join(&mut rows, &terms), 2);
        let left: Vec<_> =
            rows.iter().map(|(target, _)| (target.level(), target.name(), target.spelling())).collect();
        let (chain, principal) = (Level::Chain, Level::Principal);
        let expected = [
            (chain, "b", Spelling::AnyCase),
            (principal, "a", Spelling::AnyCase),
            (principal, "c", Spelling::AnyCase),
            (principal, "b", Spelling::Exact),
            (principal, "d", Spelling::Exact),
        ];
        assert_eq!(left, expected);
        assert!(rows.iter().all(|(_, registers)| registers.is_revoked()));
    }
}
