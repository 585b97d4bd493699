//! How the journal's file keeps a target: one row each, which says by itself whether it is whole.
//!
//! Key: `LEVEL NUL ISSUER NUL NAME`, text. In the place of the issuer a bare name of a principal or chain has `=`, since
//! versions that kept it in lower case left that empty: such a name hits every spelling. Value: a checksum (SipHash-1-3 of key and rest, 8 bytes) and then
//!
//! ```text
//! count (1 byte), revocations…
//! 0 | 1, stamp                       the forced reinstatement
//! 0 | 1 reinstated | 2 suspended, standing
//!
//! standing: stamp, flags (1 reason, 2 actor, 4 source, 8 issued_before, 16 expires_at), those of them in that order
//! stamp:    at, text (id)
//! at, issued_before, expires_at: 8 bytes, signed; milliseconds, seconds, milliseconds
//! text:     length (7 bits a byte, the last without the eighth), UTF-8
//! ```
//!
//! Numbers are little-endian. **Invariant:** what is read is all that was written, or nothing.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::Level;
use super::Registers;
use super::Spelling;
use super::Standing;
use super::Target;
use super::registers::Parts;
use super::registers::Stamp;
use crate::clock::Timestamp;

/// Stands in a key where an issuer would: the name counts as it is written.
const EXACT: &str = "=";

/// By what a target is found.
pub(super) fn key(target: &Target) -> String {
    let is_marked = target.is_bare() && target.spelling() != Spelling::AnyCase;
    let issuer = if is_marked { EXACT } else { target.issuer().unwrap_or_default() };
    format!("{}\0{issuer}\0{}", target.level(), target.name())
}

/// The row of a target.
pub(super) fn write(key: &str, registers: &Registers) -> Vec<u8> {
    let mut row = vec![0; 8];
    let Parts { revoked, cleared, suspension } = registers.parts();
    row.push(u8::try_from(revoked.len()).unwrap_or(u8::MAX));
    revoked.iter().for_each(|standing| write_standing(&mut row, standing));
    row.push(u8::from(cleared.is_some()));
    cleared.iter().for_each(|stamp| write_stamp(&mut row, stamp));
    row.push(suspension.map_or(0, |(_, suspended)| 1 + u8::from(suspended)));
    suspension.iter().for_each(|(standing, _)| write_standing(&mut row, standing));
    let sum = checksum(key, &row[8..]).to_le_bytes();
    row.iter_mut().zip(sum).for_each(|(to, from)| *to = from);
    row
}

/// What a row holds; what is wrong with it if it cannot be read.
pub(super) fn read(key: &str, row: &[u8]) -> Result<(Target, Registers), &'static str> {
    let (sum, rest) = row.split_first_chunk().ok_or("it is too short")?;
    if u64::from_le_bytes(*sum) != checksum(key, rest) {
        return Err("its checksum is another");
    }
    let target = target(key).ok_or("its key names no target")?;
    let mut reader = Reader(rest);
    let registers = reader.registers().filter(|_| reader.0.is_empty()).ok_or("it is not well formed")?;
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

fn write_standing(row: &mut Vec<u8>, standing: &Standing) {
    write_stamp(row, &standing.stamp);
    let texts = [&standing.reason, &standing.actor, &standing.source];
    let numbers = [standing.issued_before, standing.expires_at.map(Timestamp::millis)];
    let present = texts.iter().map(|text| text.is_some()).chain(numbers.iter().map(Option::is_some));
    row.push(present.enumerate().map(|(bit, present)| u8::from(present) << bit).sum());
    texts.into_iter().flatten().for_each(|text| write_text(row, text));
    numbers.into_iter().flatten().for_each(|number| row.extend(number.to_le_bytes()));
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
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn registers(&mut self) -> Option<Registers> {
        let count = self.byte()?;
        let revoked = (0..count).map(|_| self.standing()).collect::<Option<Vec<_>>>()?;
        let cleared = match self.byte()? {
            0 => None,
            1 => Some(self.stamp()?),
            _ => return None,
        };
        let suspension = match self.byte()? {
            0 => None,
            state @ (1 | 2) => Some((self.standing()?, state == 2)),
            _ => return None,
        };
        Some(Registers::of(Parts { revoked, cleared, suspension }))
    }

    fn standing(&mut self) -> Option<Standing> {
        let stamp = self.stamp()?;
        let flags = self.byte()?;
        if flags >= 32 {
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
                let (text, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                return String::from_utf8(text.to_vec()).ok();
            }
        }
        None
    }

    fn number(&mut self) -> Option<i64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i64::from_le_bytes(*bytes))
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Action;
    use super::super::Event;
    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let action = prop_oneof![Just(Action::Revoke), Just(Action::Suspend), Just(Action::Reinstate)];
        let text = || proptest::option::of("\\PC{0,200}");
        let number = || proptest::option::of(any::<i64>());
        let (when, why) = ((any::<i64>(), number(), number()), ("\\PC{0,300}", text(), text(), text()));
        (action, any::<bool>(), when, why).prop_map(|(action, force, when, (id, reason, actor, source))| {
            let target = Target::parse(Level::Certificate, "0a", Some("abcd")).unwrap();
            let event = Event::new(action, target, Timestamp::from_millis(when.0));
            let expires_at = when.2.map(Timestamp::from_millis);
            Event { id, reason, actor, source, force, issued_before: when.1, expires_at, ..event }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_damage_is_seen(
            events in proptest::collection::vec(event(), 1..20),
            at in any::<proptest::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let target = events[0].target.clone();
            let mut registers = Registers::default();
            events.iter().for_each(|event| registers.merge(event));
            let key = key(&target);
            let row = write(&key, &registers);
            prop_assert_eq!(read(&key, &row), Ok((target, registers)));
            let mut damaged = row.clone();
            damaged[at.index(row.len())] ^= flip;
            prop_assert!(read(&key, &damaged).is_err());
            prop_assert!(read(&key, &row[..at.index(row.len())]).is_err());
            prop_assert!(read("certificate\0abcd\x000b", &row).is_err(), "a row of another target");
        }

        #[test]
        fn no_bytes_make_it_panic(key in "\\PC{0,40}", rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let key = format!("principal\0\0{key}");
            let row = [&checksum(&key, &rest).to_le_bytes(), rest.as_slice()].concat();
            if let Ok((target, registers)) = read(&key, &row) {
                prop_assert_eq!(&self::key(&target), &key);
                prop_assert!(read(&self::key(&target), &write(&key, &registers)).is_ok());
            }
        }
    }
}
