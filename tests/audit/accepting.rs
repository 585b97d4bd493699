//! Damage that a person has examined is accepted by a line of the audit; nothing else is accepted with it.
//!
//! Seen failing with an acceptance that covers whatever is wrong at its place (the bytes are not compared), with one that
//! covers all damage, and with one that covers a head that was noted.

use portcullis::authority::AuditConfig;
use portcullis::authority::AuditError;
use portcullis::authority::audit;
use portcullis::authority::audit::AcceptError;
use portcullis::authority::audit::Damage;
use portcullis::authority::audit::SignOff;
use proptest::prelude::*;

use crate::site::CURRENT;
use crate::site::Site;
use crate::site::append;
use crate::site::fault;

/// Accepts the damage at these places.
fn accept(site: &Site, places: &[&str]) -> Result<Vec<Damage>, AcceptError> {
    let sign_off = SignOff {
        places: places.iter().map(|place| place.parse().unwrap()).collect(),
        actor: "J. Doe".into(),
        reason: "the disk of INC-42".into(),
    };
    let config = AuditConfig { max_bytes: site.max_bytes };
    // A test beside this one that starts a program has for a moment all files open twice, with their locks.
    let mut tries = (0..200).map(|_| {
        let accepted = audit::accept(site.path(), &config, site.clock.clone(), &sign_off);
        if matches!(accepted, Err(AcceptError::Audit(AuditError::InUse(_)))) {
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        accepted
    });
    let last = tries.find(|accepted| !matches!(accepted, Err(AcceptError::Audit(AuditError::InUse(_)))));
    last.unwrap()
}

/// Accepts all that can be accepted, one after the other; returns how many there were.
fn accept_all(site: &Site) -> usize {
    let mut count = 0;
    while let Err(error) = site.verify() {
        let named = site.name(fault(Err(error)));
        count += accept(site, &[&named.0]).unwrap_or_else(|e| panic!("{named:?}: {e}")).len();
        assert!(count < 50, "{named:?}");
    }
    count
}

type Change = fn(&Site);

/// Ways to damage an audit of 30 lines in three files.
const WAYS: [(&str, Change); 9] = [
    ("a changed line", |site| {
        let name = &site.files()[0];
        site.meddle_lines(name, |lines| lines[3] = lines[3].replace("agent-3", "agent-9"));
    }),
    ("lines cut out", |site| site.meddle_lines(&site.files()[0], |lines| drop(lines.drain(3..6)))),
    ("a front cut away", |site| site.meddle_lines(&site.files()[1], |lines| drop(lines.drain(..2)))),
    ("a file deleted", |site| std::fs::remove_file(site.file(&site.files()[1])).unwrap()),
    ("a line repeated", |site| {
        site.meddle_lines(&site.files()[0], |lines| lines.insert(5, lines[2].clone()));
    }),
    ("garbage between the lines", |site| {
        let long = format!("{}\n", "x".repeat(3 << 20));
        site.meddle_lines(&site.files()[0], |lines| drop(lines.splice(2..4, ["\0\n".into(), long])));
    }),
    ("a file without its end", |site| {
        site.meddle(&site.files()[0], |bytes| bytes.truncate(bytes.len() - 40));
    }),
    ("the newest line changed", |site| {
        site.meddle_lines(CURRENT, |lines| {
            let last = lines.len() - 1;
            lines[last] = lines[last].replace("agent-", "AGENT-");
        });
    }),
    ("all beginnings gone", |site| {
        site.meddle_lines(&site.files()[0], |lines| drop(lines.drain(..2)));
    }),
];

#[test]
fn each_kind_of_damage_is_accepted_as_it_is_and_no_other_with_it() {
    for (way, damage) in WAYS {
        let site = Site::with(30);
        damage(&site);
        assert!(site.verify().is_err(), "{way}");
        // A gate starts and goes on with it.
        append(&site.open(), 3);
        let count = accept_all(&site);
        let report = site.verify().unwrap();
        assert!(count >= 1 && report.accepted.len() == count, "{way}: {count}, {report:?}");
        assert!(report.accepted.iter().all(|accepted| accepted.actor == "J. Doe"), "{way}");
        // Accepted for good: later lines and starts change nothing.
        append(&site.open(), 40);
        assert_eq!(site.verify().unwrap().accepted.len(), count, "{way}");
        // Every change to any line is found as before.
        for name in site.files() {
            let whole = std::fs::read(site.file(&name)).unwrap();
            let text = String::from_utf8_lossy(&whole).into_owned();
            for (number, line) in text.lines().enumerate().step_by(7) {
                if line.len() > 4096 {
                    continue;
                }
                site.meddle_lines(&name, |lines| drop(lines.remove(number)));
                assert!(site.verify().is_err(), "{way}: {name}:{} was removed", number + 1);
                std::fs::write(site.file(&name), &whole).unwrap();
            }
        }
        assert_eq!(site.verify().unwrap().accepted.len(), count, "{way}");
    }
}

#[test]
fn damage_that_changes_after_it_was_accepted_is_new_damage() {
    for (way, damage) in
        WAYS.iter().filter(|(way, _)| way.contains("changed line") || way.contains("garbage"))
    {
        let site = Site::with(30);
        damage(&site);
        accept_all(&site);
        let name = site.files()[0].clone();
        let changes: [fn(&mut Vec<u8>); 2] = [
            |bytes| {
                let at = bytes.windows(8).position(|window| window == b"agent-9\"" || window == b"xxxxxxxx");
                bytes[at.unwrap() + 2] ^= 1;
            },
            |bytes| {
                let at = bytes.windows(7).rposition(|window| window == b"\"time\":" || window == b"xxxxxxx");
                bytes[at.unwrap() + 2] ^= 1;
            },
        ];
        for change in changes {
            let whole = std::fs::read(site.file(&name)).unwrap();
            site.meddle(&name, change);
            assert!(site.verify().is_err(), "{way}");
            std::fs::write(site.file(&name), whole).unwrap();
            site.verify().unwrap();
        }
    }
}

#[test]
fn one_acceptance_covers_one_damage_and_all_others_are_named() {
    let site = Site::with(30);
    let names = site.files();
    for (name, line) in [(&names[0], 3), (&names[0], 6), (&names[1], 4)] {
        site.meddle_lines(name, |lines| lines[line] = lines[line].replace("agent-", "AGENT-"));
    }
    let places = |site: &Site| -> Vec<String> {
        let damages = fault(site.verify()).damages;
        damages.iter().map(|damage| format!("{}:{}", damage.file, damage.line)).collect()
    };
    let [first, second, third] =
        [(0, 4), (0, 7), (1, 5)].map(|(file, line)| format!("{}:{line}", names[file]));
    assert_eq!(places(&site), [first.clone(), second.clone(), third.clone()]);
    assert_eq!(fault(site.verify()).count, 3);
    accept(&site, &[&second]).unwrap();
    assert_eq!(places(&site), [first.clone(), third.clone()]);
    let error = accept(&site, &[&second]).unwrap_err().to_string();
    assert!(error.contains(&format!("there is damage at {first}, {third}")), "{error}");
    accept(&site, &[&first, &third]).unwrap();
    assert_eq!(site.verify().unwrap().accepted.len(), 3);
    assert!(accept(&site, &[&third]).unwrap_err().to_string().contains("the audit is whole"));
}

/// A person who can write all lines anew can write an acceptance as well; a head that was noted elsewhere still tells.
#[test]
fn a_head_that_was_noted_is_covered_by_no_acceptance() {
    let site = Site::with(10);
    let noted = site.verify().unwrap().head;
    site.meddle_lines(&site.files()[0], |lines| drop(lines.drain(5..)));
    append(&site.open(), 5);
    accept_all(&site);
    site.verify().unwrap();
    let reason = fault(site.verify_with(&noted)).reason;
    assert!(reason.contains("the head that was noted names"), "{reason}");
    // All lines are others, and one damage among them is accepted.
    let other = Site::new();
    other.clock.advance(std::time::Duration::from_secs(1));
    append(&other.open(), 20);
    other.meddle_lines(&other.files()[0], |lines| lines[2] = lines[2].replace("agent-", "AGENT-"));
    assert_eq!(accept_all(&other), 1);
    let reason = fault(other.verify_with(&noted)).reason;
    assert_eq!(reason, "it is not the line that the head that was noted names");
}

#[test]
fn where_there_is_nothing_to_accept_nothing_is_made() {
    let site = Site::new();
    assert!(matches!(accept(&site, &["audit.jsonl:1"]), Err(AcceptError::Absent)));
    assert!(site.path().read_dir().unwrap().next().is_none());
    let site = Site::with(3);
    let lines = site.lines().len();
    assert!(matches!(accept(&site, &["audit.jsonl:1"]), Err(AcceptError::NotThere { .. })));
    assert_eq!(site.lines().len(), lines);
}

/// No gate starts between: where the journal is lost too, none can.
#[test]
fn damage_at_the_very_end_is_set_aside_and_accepted_there() {
    for way in ["cut", "changed", "no head"] {
        let site = Site::with(3);
        match way {
            "cut" => site.meddle(CURRENT, |bytes| bytes.truncate(bytes.len() - 9)),
            "changed" => site.meddle_lines(CURRENT, |lines| lines[2] = lines[2].replace("agent", "AGENT")),
            _ => std::fs::remove_file(site.file("audit.head")).unwrap(),
        }
        assert!(fault(site.verify()).damages.is_empty(), "{way}");
        let Err(AcceptError::SetAside(places)) = accept(&site, &["audit.jsonl:3"]) else { panic!("{way}") };
        let named: Vec<String> = fault(site.verify()).damages.iter().map(place).collect();
        assert_eq!(places, named.join(", "), "{way}");
        assert_eq!(accept_all(&site), named.len(), "{way}");
        site.verify().unwrap();
    }
}

fn place(damage: &Damage) -> String {
    format!("{}:{}", damage.file, damage.line)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is done to the bytes of a file: it is accepted as it is, or it cannot be; a second change is new damage.
    #[test]
    fn any_change_is_accepted_alone(
        file in any::<prop::sample::Index>(),
        (first, second) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        flip in 1..=255_u8,
    ) {
        let site = Site::with(30);
        let name = file.get(&site.files()[..2]).clone();
        let len = std::fs::read(site.file(&name)).unwrap().len();
        let (first, second) = (first.index(len), second.index(len));
        // Twice at one place is none.
        prop_assume!(first != second);
        site.meddle(&name, |bytes| bytes[first] ^= flip);
        prop_assert!(site.verify().is_err());
        accept_all(&site);
        site.verify().unwrap();
        site.meddle(&name, |bytes| bytes[second] ^= flip);
        prop_assert!(site.verify().is_err(), "{name}: a second change is not noticed");
    }
}
