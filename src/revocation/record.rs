//! How the journal's file keeps a target: one row each, which says by itself whether it is whole.
//!
//! Key: `LEVEL NUL ISSUER NUL NAME`, text. In the place of the issuer a bare name of a principal or chain has `=`, since
//! versions that kept it in lower case left that empty: such a name hits every spelling. Value: a checksum (SipHash-1-3 of key and rest, 8 bytes) and then
//!
//! ```text
//! register                           what is revoked
//! register                           what is suspended
//!
//! register: count (1 byte), standings…, behind 3 the stamp of the reinstatement by an unsigned message if there is one,
//!           then 0 or, behind 1 (by a feed) or 2 (decided here), the stamp of the reinstatement that lifts everything
//! standing: stamp, flags (1 reason, 2 actor, 4 source, 8 issued_before, 16 expires_at and lapses, 32 unsigned), the first
//!           five as far as they are there, in that order
//! stamp:    at, text (id)
//! at, issued_before, expires_at: 8 bytes, signed; milliseconds, seconds, milliseconds
//! lapses:   8 bytes, unsigned; milliseconds of uptime
//! text:     length (7 bits a byte, the last without the eighth), UTF-8
//! ```
//!
//! Numbers are little-endian. Rows of versions that did not tell unsigned messages apart have neither flag 32 nor 3: what
//! they hold counts as signed. Format 2, which is read and rewritten, had no `lapses`, and a single suspension or
//! reinstatement in place of the second register. **Invariant:** what is read is all that was written, or nothing.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::Level;
use super::Registers;
use super::Spelling;
use super::Standing;
use super::Target;
use super::register::Register;
use super::standing::Stamp;
use super::standing::Tombstone;
use super::uptime::Uptime;
use crate::clock::Timestamp;

/// Stands in a key where an issuer would: the name counts as it is written.
const EXACT: &str = "=";

/// Stands before the reinstatement of an unsigned message.
const UNSIGNED: u8 = 3;

/// How the values of a row are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Of format 2.
    Second,
    /// Of format 3: the only one that is written.
    Third,
}

/// By what a target is found.
pub(super) fn key(target: &Target) -> String {
    let is_marked = target.is_bare() && target.spelling() != Spelling::AnyCase;
    key_in(target, if is_marked { EXACT } else { target.issuer().unwrap_or_default() })
}

/// The key of the same name as the other spelling has it, where a name may have a row of either.
pub(super) fn other_key(target: &Target) -> Option<String> {
    let is_any_case = target.spelling() == Spelling::AnyCase;
    target.is_bare().then(|| key_in(target, if is_any_case { EXACT } else { "" }))
}

/// The key that both spellings of a name share.
pub(super) fn name_key(target: &Target) -> String {
    key_in(target, target.issuer().unwrap_or_default())
}

fn key_in(target: &Target, issuer: &str) -> String {
    format!("{}\0{issuer}\0{}", target.level(), target.name())
}

/// The row of a target.
pub(super) fn write(key: &str, registers: &Registers) -> Vec<u8> {
    let mut row = vec![0; 8];
    write_register(&mut row, &registers.revoked);
    write_register(&mut row, &registers.suspended);
    let sum = checksum(key, &row[8..]).to_le_bytes();
    row.iter_mut().zip(sum).for_each(|(to, from)| *to = from);
    row
}

/// What a row holds; what is wrong with it if it cannot be read.
pub(super) fn read(key: &str, row: &[u8], layout: Layout) -> Result<(Target, Registers), &'static str> {
    let (sum, rest) = row.split_first_chunk().ok_or("it is too short")?;
    if u64::from_le_bytes(*sum) != checksum(key, rest) {
        return Err("its checksum is another");
    }
    let target = target(key).ok_or("its key names no target")?;
    let mut reader = Reader { rest, layout };
    let registers = reader.registers().filter(|_| reader.rest.is_empty()).ok_or("it is not well formed")?;
    Ok((target, registers))
}

fn target(key: &str) -> Option<Target> {
    let mut parts = key.splitn(3, '\0');
    let level: Level = parts.next()?.parse().ok()?;
    let issuer = parts.next()?;
    let name = parts.next()?;
    let target = match issuer {
        EXACT => Target::of(level, None, name),
        "" => Target::of(level, None, name).of_earlier_version(),
        issuer => Target::of(level, Some(issuer), name),
    };
    (self::key(&target) == key).then_some(target)
}

fn checksum(key: &str, rest: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write_u64(key.len() as u64);
    hasher.write(key.as_bytes());
    hasher.write(rest);
    hasher.finish()
}

fn write_register(row: &mut Vec<u8>, register: &Register) {
    let standings = register.standings();
    row.push(u8::try_from(standings.len()).unwrap_or(u8::MAX));
    standings.iter().for_each(|standing| write_standing(row, standing));
    let (unsigned, signed): (Vec<_>, Vec<_>) =
        register.tombstones().partition(|tombstone| tombstone.unsigned);
    for tombstone in &unsigned {
        row.push(UNSIGNED);
        write_stamp(row, &tombstone.stamp);
    }
    row.push(signed.first().map_or(0, |tombstone| 1 + u8::from(tombstone.is_local)));
    signed.iter().for_each(|tombstone| write_stamp(row, &tombstone.stamp));
}

fn write_standing(row: &mut Vec<u8>, standing: &Standing) {
    write_stamp(row, &standing.stamp);
    let texts = [&standing.reason, &standing.actor, &standing.source];
    let numbers = [standing.issued_before, standing.expires_at.map(Timestamp::millis)];
    let present = texts.iter().map(|text| text.is_some()).chain(numbers.iter().map(Option::is_some));
    let present = present.chain(std::iter::once(standing.unsigned));
    row.push(present.enumerate().map(|(bit, present)| u8::from(present) << bit).sum());
    texts.into_iter().flatten().for_each(|text| write_text(row, text));
    numbers.into_iter().flatten().for_each(|number| row.extend(number.to_le_bytes()));
    if standing.expires_at.is_some() {
        row.extend(standing.lapses.millis().to_le_bytes());
    }
}

fn write_stamp(row: &mut Vec<u8>, (at, id): &Stamp) {
    row.extend(at.millis().to_le_bytes());
    write_text(row, id);
}

fn write_text(row: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    while length > 0x7f {
        row.push(0x80 | (length & 0x7f) as u8);
        length >>= 7;
    }
    row.push(length as u8);
    row.extend(text.as_bytes());
}

/// What is left of a row.
struct Reader<'a> {
    rest: &'a [u8],
    layout: Layout,
}

impl Reader<'_> {
    fn registers(&mut self) -> Option<Registers> {
        let revoked = self.register()?;
        let suspended = match self.layout {
            Layout::Third => self.register()?,
            Layout::Second => self.one_suspension()?,
        };
        Some(Registers { revoked, suspended })
    }

    fn register(&mut self) -> Option<Register> {
        let count = self.byte()?;
        let standings = (0..count).map(|_| self.standing()).collect::<Option<Vec<_>>>()?;
        let mut mark = self.byte()?;
        let mut tombstones = Vec::new();
        if mark == UNSIGNED && self.layout == Layout::Third {
            tombstones.push(Tombstone { stamp: self.stamp()?, is_local: false, unsigned: true });
            mark = self.byte()?;
        }
        let is_local = match (mark, self.layout) {
            (0, _) => None,
            (1, Layout::Third) => Some(false),
            // Of format 2 that is not known: in doubt an event of a feed is not outranked.
            (1, Layout::Second) | (2, Layout::Third) => Some(true),
            _ => return None,
        };
        if let Some(is_local) = is_local {
            tombstones.push(Tombstone { stamp: self.stamp()?, is_local, unsigned: false });
        }
        Some(Register::of(standings, tombstones))
    }

    fn one_suspension(&mut self) -> Option<Register> {
        Some(match self.byte()? {
            0 => Register::default(),
            1 => Register::of(Vec::new(), [self.standing()?.into()]),
            2 => Register::of(vec![self.standing()?], []),
            _ => return None,
        })
    }

    fn standing(&mut self) -> Option<Standing> {
        let stamp = self.stamp()?;
        let flags = self.byte()?;
        let known = match self.layout {
            Layout::Second => 32,
            Layout::Third => 64,
        };
        if flags >= known {
            return None;
        }
        let has = |bit: u8| flags & bit != 0;
        Some(Standing {
            stamp,
            reason: self.given(has(1), Self::text)?,
            actor: self.given(has(2), Self::text)?,
            source: self.given(has(4), Self::text)?,
            issued_before: self.given(has(8), Self::number)?,
            expires_at: self.given(has(16), Self::number)?.map(Timestamp::from_millis),
            unsigned: has(32),
            lapses: match self.layout {
                Layout::Third => self.given(has(16), Self::uptime)?.unwrap_or(Uptime::MAX),
                Layout::Second => Uptime::MAX,
            },
        })
    }

    /// `Some(None)` for what is not there, `None` for what should be and is not.
    fn given<T>(&mut self, is_there: bool, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if is_there { read(self).map(Some) } else { Some(None) }
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some((Timestamp::from_millis(self.number()?), self.text()?))
    }

    fn text(&mut self) -> Option<String> {
        let mut length = 0_usize;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let (text, rest) = self.rest.split_at_checked(length)?;
                self.rest = rest;
                return String::from_utf8(text.to_vec()).ok();
            }
        }
        None
    }

    fn number(&mut self) -> Option<i64> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(i64::from_le_bytes(*bytes))
    }

    fn uptime(&mut self) -> Option<Uptime> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(Uptime::from_millis(u64::from_le_bytes(*bytes)))
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }
}

/// A row of format 2 of `principal a`: revoked by 1 and suspended by 2, which expires, or reinstated by it.
#[cfg(test)]
pub(super) fn second(state: u8) -> Vec<u8> {
    let stamp = |at: i64, id: u8| [&at.to_le_bytes()[..], &[1, id]].concat();
    let revoked = [stamp(1000, b'1'), vec![0]].concat();
    let other = [stamp(2000, b'2'), vec![16], 9000_i64.to_le_bytes().to_vec()].concat();
    let rest = [vec![1], revoked, vec![0, state], other].concat();
    [&checksum("principal\0\0a", &rest).to_le_bytes(), rest.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::Action;
    use super::super::Event;
    use super::super::State;
    use super::super::registers::Terms;
    use super::*;
    use crate::session::Heeds;

    fn event() -> impl Strategy<Value = (Event, Uptime)> {
        let action = prop_oneof![Just(Action::Revoke), Just(Action::Suspend), Just(Action::Reinstate)];
        let text = || proptest::option::of("\\PC{0,200}");
        let number = || proptest::option::of(any::<i64>());
        let (when, why) = ((any::<i64>(), number(), number()), ("\\PC{0,300}", text(), text(), text()));
        let flags = (any::<bool>(), any::<bool>());
        let whole = (action, flags, when, why, any::<u64>());
        whole.prop_map(|(action, (force, unsigned), when, (id, reason, actor, source), lapses)| {
            let target = Target::parse(Level::Certificate, "0a", Some("abcd")).unwrap();
            let event = Event::new(action, target, Timestamp::from_millis(when.0));
            let expires_at = when.2.map(Timestamp::from_millis);
            let lapses = expires_at.map_or(Uptime::MAX, |_| Uptime::from_millis(lapses));
            let event = Event { id, reason, actor, source, force, unsigned, ..event };
            (Event { issued_before: when.1, expires_at, ..event }, lapses)
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_damage_is_seen(
            events in proptest::collection::vec(event(), 1..20),
            at in any::<proptest::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let target = events[0].0.target.clone();
            let mut registers = Registers::default();
            events.iter().for_each(|(event, lapses)| registers.merge(event, *lapses));
            let key = key(&target);
            let row = write(&key, &registers);
            prop_assert_eq!(read(&key, &row, Layout::Third), Ok((target, registers)));
            let mut damaged = row.clone();
            damaged[at.index(row.len())] ^= flip;
            prop_assert!(read(&key, &damaged, Layout::Third).is_err());
            prop_assert!(read(&key, &row[..at.index(row.len())], Layout::Third).is_err());
            prop_assert!(read("certificate\0abcd\x000b", &row, Layout::Third).is_err(), "a row of another target");
        }

        #[test]
        fn no_bytes_make_it_panic(key in "\\PC{0,40}", rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let key = format!("principal\0\0{key}");
            let row = [&checksum(&key, &rest).to_le_bytes(), rest.as_slice()].concat();
            for layout in [Layout::Second, Layout::Third] {
                if let Ok((target, registers)) = read(&key, &row, layout) {
                    prop_assert_eq!(&self::key(&target), &key);
                    prop_assert!(read(&self::key(&target), &write(&key, &registers), Layout::Third).is_ok());
                }
            }
        }
    }

    #[test]
    fn rows_of_the_second_format_are_read() {
        let (_, mut suspended) = read("principal\0\0a", &second(2), Layout::Second).unwrap();
        let stamps: Vec<_> =
            suspended.standings().map(|(state, standing)| (state, standing.stamp.0.millis())).collect();
        assert_eq!(stamps, [(State::Revoked, 1000), (State::Suspended, 2000)]);
        let terms = Terms {
            now: Timestamp::from_secs(5),
            uptime: Uptime::from_millis(100),
            skew: Duration::from_secs(60),
            remember: Duration::MAX,
        };
        suspended.measure(&terms);
        let lapses: Vec<_> = suspended.standings().map(|(_, standing)| standing.lapses).collect();
        assert_eq!(lapses, [Uptime::MAX, Uptime::from_millis(64_100)]);
        let (_, lifted) = read("principal\0\0a", &second(1), Layout::Second).unwrap();
        assert!(lifted.is_revoked() && !lifted.is_suspended());
        let tombstones: Vec<_> = lifted.suspended.tombstones().map(|one| one.stamp.clone()).collect();
        assert_eq!(tombstones, [(Timestamp::from_secs(2), "2".to_owned())]);
        assert!(lifted.revoked.tombstones().next().is_none());
    }

    /// Reads rows that were written before unsigned messages were told apart. Seen failing with an unsigned reinstatement that lifts
    /// everything.
    #[test]
    fn a_row_that_tells_no_unsigned_messages_apart_counts_as_signed() {
        let stamp = |at: i64, id: u8| [&at.to_le_bytes()[..], &[1, id]].concat();
        let row = |lifted: &[u8], flags: u8| {
            let standing = [stamp(1000, b'1'), vec![flags, 3], b"sqs".to_vec()].concat();
            let rest = [vec![1], standing, lifted.to_vec(), vec![0, 0]].concat();
            [&checksum("principal\0\0a", &rest).to_le_bytes(), rest.as_slice()].concat()
        };
        let lifted = [vec![1], stamp(500, b'0')].concat();
        let read = |row: &[u8]| read("principal\0\0a", row, Layout::Third).map(|(_, registers)| registers);
        let old = read(&row(&lifted, 4)).unwrap();
        assert_eq!(old.entry_for(Heeds::Signed), old.entry());
        assert!(old.is_revoked() && old.revoked.tombstones().all(|tombstone| !tombstone.unsigned));
        let new = read(&row(&[vec![UNSIGNED], stamp(900, b'9'), lifted].concat(), 4 | 32)).unwrap();
        assert!(new.is_revoked() && new.entry_for(Heeds::Signed).is_none());
        let marks: Vec<bool> = new.revoked.tombstones().map(|tombstone| tombstone.unsigned).collect();
        assert_eq!(marks, [false, true]);
        assert!(read(&row(&[0], 64)).is_err());
    }
}
