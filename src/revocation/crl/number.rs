//! The number of a revocation list (RFC 5280, section 5.2.3).

use std::fmt;

use super::der::Fault;
use super::der::Value;

/// The longest number that RFC 5280 allows, bytes.
const MAX_BYTES: usize = 20;

/// A list's number: 0 to 2^160 - 1. A later list of one issuer and scope has a greater one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number([u8; MAX_BYTES]);

impl Number {
    /// From the contents of an INTEGER; leading zeros do not count.
    pub(super) fn read(value: Value<'_>) -> Result<Self, Fault> {
        let first = value.body.first().ok_or_else(|| value.fault("an empty number"))?;
        if first & 0x80 != 0 {
            return Err(value.fault("a negative number"));
        }
        let zeros = value.body.iter().take_while(|byte| **byte == 0).count();
        let digits = value.body.get(zeros..).unwrap_or_default();
        let mut number = [0; MAX_BYTES];
        let Some(start) = MAX_BYTES.checked_sub(digits.len()) else {
            return Err(value.fault("a number of over 20 bytes"));
        };
        number.iter_mut().skip(start).zip(digits).for_each(|(to, from)| *to = *from);
        Ok(Self(number))
    }
}

impl From<u128> for Number {
    fn from(value: u128) -> Self {
        let mut number = [0; MAX_BYTES];
        number.iter_mut().skip(MAX_BYTES - 16).zip(value.to_be_bytes()).for_each(|(to, from)| *to = from);
        Self(number)
    }
}

/// Decimal; where it is over 128 bits, hexadecimal behind `0x`.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, low) = self.0.split_at(MAX_BYTES - 16);
        if high.iter().all(|byte| *byte == 0) {
            return write!(f, "{}", low.iter().fold(0, |number: u128, byte| number << 8 | u128::from(*byte)));
        }
        f.write_str("0x")?;
        self.0.iter().skip_while(|byte| **byte == 0).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::der::Reader;
    use super::*;

    fn read(contents: &[u8]) -> Option<Number> {
        let bytes = [&[2, u8::try_from(contents.len()).unwrap()], contents].concat();
        Number::read(Reader::new(&bytes, 0).next().unwrap()).ok()
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert_eq!(read(&[0]), Some(Number::from(0)));
        assert_eq!(read(&[0, 0x80]), Some(Number::from(128)));
        assert_eq!(read(&[0, 0, 7]), Some(Number::from(7)));
        assert!(read(&[1, 0]) > read(&[0, 0xff]));
        assert!(read(&[&[0][..], &[0xff; 20]].concat()) > Some(Number::from(u128::MAX)));
        for bad in [&[][..], &[0x80], &[0xff, 1], &[1; 21]] {
            assert_eq!(read(bad), None, "{bad:x?}");
        }
        assert_eq!(Number::from(1234).to_string(), "1234");
        assert_eq!(read(&[0x7f; 20]).unwrap().to_string(), format!("0x{}", "7f".repeat(20)));
    }
}
