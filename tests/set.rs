//! The set is what a few plain maps would be: any history, many threads, tables that grow and are cleaned.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

use portcullis::revocation::Entry;
use portcullis::revocation::LayerBuilder;
use portcullis::revocation::Set;
use portcullis::session::Fingerprint;
use proptest::prelude::*;

/// Spreads small numbers as the keyed hash spreads targets. One in four is left as it is: those share a group.
fn print(number: u64) -> Fingerprint {
    let number = u128::from(number);
    if number.is_multiple_of(4) {
        return Fingerprint(number);
    }
    let mixed = number.wrapping_mul(0x2d35_8dcc_aa6c_78a5_8bb8_4b93_962e_acc9);
    Fingerprint((mixed ^ (mixed >> 67)).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn entry(revoked_before: i64, suspended_before: i64) -> Entry {
    Entry { revoked_before, suspended_before }
}

fn layer(numbers: &[(u64, Entry)]) -> LayerBuilder {
    let mut layer = LayerBuilder::default();
    numbers.iter().for_each(|(number, entry)| layer.push(print(*number), *entry));
    layer
}

/// Whether a credential of that age is denied.
fn verdict(set: &Set, number: u64, issued_at: i64) -> Option<bool> {
    set.probe([print(number)].iter(), |_, entry| entry.denies(issued_at))
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u64, Option<Entry>),
    /// So many in a row, which makes the table grow.
    Flood(u64, u64, Option<Entry>),
    Load(Vec<(u64, Entry)>),
    Replace(u8, Vec<(u64, Entry)>),
    Remove(u8),
    Settle,
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let bound = || prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(3)];
    prop_oneof![2 => Just(Entry::REVOKED), 1 => (bound(), bound()).prop_map(|(a, b)| entry(a, b))]
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..400_u64;
    let entries = || proptest::collection::vec((number(), any_entry()), 0..200);
    let change = || proptest::option::weighted(0.6, any_entry());
    prop_oneof![
        12 => (number(), change()).prop_map(|(number, entry)| Step::Publish(number, entry)),
        4 => (0..4000_u64, 1..3000_u64, change()).prop_map(|(from, count, to)| Step::Flood(from, count, to)),
        1 => entries().prop_map(Step::Load),
        2 => (0..3_u8, entries()).prop_map(|(name, entries)| Step::Replace(name, entries)),
        1 => (0..3_u8).prop_map(Step::Remove),
        2 => Just(Step::Settle),
    ]
}

/// What stands, in plain maps.
#[derive(Default)]
struct Model {
    live: HashMap<u64, Entry>,
    named: HashMap<u8, HashMap<u64, Entry>>,
}

impl Model {
    fn publish(&mut self, number: u64, entry: Option<Entry>) {
        match entry {
            Some(entry) => self.live.insert(number, entry),
            None => self.live.remove(&number),
        };
    }

    fn denied(&self, number: u64, issued_at: i64) -> bool {
        let layers = std::iter::once(&self.live).chain(self.named.values());
        layers.filter_map(|layer| layer.get(&number)).any(|entry| entry.denies(issued_at).is_some())
    }
}

fn united(entries: &[(u64, Entry)]) -> HashMap<u64, Entry> {
    let mut map: HashMap<u64, Entry> = HashMap::new();
    for (number, entry) in entries {
        map.entry(*number).and_modify(|known| *known = known.union(*entry)).or_insert(*entry);
    }
    map
}

fn walk(set: &Set, model: &mut Model, step: &Step) {
    match step {
        Step::Publish(number, entry) => {
            set.publish([(print(*number), *entry)]);
            model.publish(*number, *entry);
        }
        Step::Flood(from, count, entry) => {
            for number in *from..from + count {
                set.publish([(print(number), *entry)]);
                model.publish(number, *entry);
            }
        }
        Step::Load(entries) => {
            set.load(layer(entries).build());
            model.live = united(entries);
        }
        Step::Replace(name, entries) => {
            set.replace_layer(&name.to_string(), layer(entries).build());
            model.named.insert(*name, united(entries));
        }
        Step::Remove(name) => {
            assert_eq!(set.remove_layer(&name.to_string()), model.named.remove(name).is_some());
        }
        Step::Settle => settle(set),
    }
}

fn settle(set: &Set) {
    while set.is_rebuilding() {
        thread::yield_now();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_leaves_what_plain_maps_would_hold(steps in proptest::collection::vec(step(), 1..60)) {
        let set = Set::default();
        let mut model = Model::default();
        for step in &steps {
            let before = set.generation();
            walk(&set, &mut model, step);
            prop_assert!(set.generation() > before || matches!(step, Step::Settle));
            for number in (0..400).step_by(7) {
                prop_assert_eq!(verdict(&set, number, 2).is_some(), model.denied(number, 2));
            }
        }
        for settled in [false, true] {
            for number in 0..7000 {
                for issued_at in [2, 3] {
                    let denied = verdict(&set, number, issued_at).is_some();
                    prop_assert_eq!(denied, model.denied(number, issued_at), "{} {}", number, settled);
                }
            }
            settle(&set);
        }
    }
}

#[test]
fn what_a_verdict_is_based_on_is_told() {
    let set = Set::default();
    set.publish([(print(1), Some(entry(5, i64::MAX)))]);
    set.replace_layer("list", layer(&[(2, Entry::REVOKED), (3, Entry::SUSPENDED)]).build());
    assert_eq!(verdict(&set, 1, 4), Some(false));
    assert_eq!(verdict(&set, 1, 5), Some(true));
    assert_eq!(verdict(&set, 2, 4), Some(false));
    assert_eq!(verdict(&set, 3, 4), Some(true));
    let prints = [9, 8, 7, 6, 5, 4, 3, 10, 11, 1].map(print);
    let mut hits = Vec::new();
    set.probe(prints.iter(), |fingerprint, _| {
        hits.push(fingerprint);
        None::<()>
    });
    assert_eq!(hits, [print(1), print(3)]);
}

#[test]
fn every_layer_stands_for_itself() {
    let set = Set::default();
    set.publish([(print(1), Some(Entry::REVOKED))]);
    set.replace_layer("one", layer(&[(1, Entry::REVOKED), (2, Entry::REVOKED)]).build());
    set.replace_layer("two", layer(&[(2, Entry::SUSPENDED)]).build());
    set.publish([(print(1), None)]);
    assert_eq!(verdict(&set, 1, 0), Some(false));
    set.replace_layer("one", layer(&[]).build());
    assert_eq!((verdict(&set, 1, 0), verdict(&set, 2, 0)), (None, Some(true)));
    assert!(set.remove_layer("two") && !set.remove_layer("two"));
    assert_eq!(verdict(&set, 2, 0), None);
}

/// One publishes, in order, and says how far it came; two look up what was published, and what was not; lists are
/// replaced and credentials go through all that can stand for them; the table grows many times meanwhile.
///
/// Seen failing: changes that are not collected while the next table is made (6372 of 6454 was let pass), a flag before
/// its condition (let pass on its way). *Not* seen to fail here: an exchange before the last look at what was changed;
/// `set_loom.rs` finds it.
#[test]
fn what_was_published_is_found_whatever_goes_on() {
    const LAST: u64 = 300_000;
    let (set, published, done) = (Set::default(), AtomicU64::new(0), AtomicBool::new(false));
    let own = |number: u64| print(number * 4 + 1);
    set.publish([(own(LAST + 1), Some(Entry::SUSPENDED))]);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..LAST {
                set.publish([(own(number), Some(Entry::REVOKED))]);
                published.store(number + 1, Ordering::Release);
                // Denied all the time, in one way or another.
                let ways = [Entry::REVOKED, Entry::SUSPENDED, entry(5, i64::MIN)];
                set.publish([(own(LAST + 1), ways.get(number as usize % 3).copied())]);
                set.publish([(
                    own(LAST + 2 + number % 5000),
                    Some(Entry::SUSPENDED).filter(|_| number % 2 == 0),
                )]);
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                set.replace_layer("list", layer(&[(2, Entry::REVOKED)]).build());
            }
        });
        for seed in [1_u64, 2] {
            let (set, published, done) = (&set, &published, &done);
            scope.spawn(move || {
                let mut turn = seed;
                while !done.load(Ordering::Acquire) {
                    turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let known = published.load(Ordering::Acquire);
                    if let Some(number) = (turn >> 33).checked_rem(known) {
                        assert!(denied(set, own(number)), "{number} of {known} was let pass");
                        assert!(denied(set, own(known - 1)), "the latest, {known}, was let pass");
                    }
                    assert!(denied(set, own(LAST + 1)), "let pass on its way from one to another");
                    assert!(!denied(set, own(LAST + 6000 + turn % 1000)), "denied, and never published");
                }
            });
        }
    });
    assert!((0..LAST).all(|number| denied(&set, own(number))));
}

fn denied(set: &Set, fingerprint: Fingerprint) -> bool {
    set.probe([fingerprint].iter(), |_, entry| entry.denies(1)).is_some()
}
