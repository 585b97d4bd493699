//! Certificate serial numbers: compared as numbers, written one way.

use std::fmt;

/// The longest serial that is read, bytes. RFC 5280 allows 20; real lists hold longer ones.
pub(super) const MAX_BYTES: usize = 64;

/// A serial number (RFC 5280, section 4.1.2.2), canonical: sign and magnitude without leading zeros.
///
/// Printed and stored as even-length lower-case hexadecimal, with a leading `-` if negative. Read with leading
/// zeros, colons, spaces, `0x` and upper case too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl Serial {
    /// From the contents of a DER INTEGER: two's complement, big-endian.
    pub fn from_der(contents: &[u8]) -> Self {
        let negative = contents.first().is_some_and(|byte| byte & 0x80 != 0);
        Self::from_parts(negative, if negative { negated(contents) } else { contents.to_vec() })
    }

    /// Reads hexadecimal text; `None` if it is empty, not hexadecimal or over 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        Some(Self::from_parts(negative, unhex(text, MAX_BYTES)?))
    }

    /// Reads decimal digits, with a `-` before them if it is negative; `None` if it is anything else or over 64 bytes.
    pub fn from_decimal(text: &str) -> Option<Self> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let mut magnitude = [0_u8; MAX_BYTES];
        for digit in digits.bytes().filter(|_| is_number) {
            let mut carry = u16::from(digit - b'0');
            for byte in magnitude.iter_mut().rev() {
                let [high, low] = (u16::from(*byte) * 10 + carry).to_be_bytes();
                (*byte, carry) = (low, u16::from(high));
            }
            if carry != 0 {
                return None;
            }
        }
        is_number.then(|| Self::from_parts(negative, magnitude.to_vec()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn from_parts(negative: bool, magnitude: Vec<u8>) -> Self {
        let significant = magnitude.iter().position(|byte| *byte != 0);
        let digits = magnitude.get(significant.unwrap_or(magnitude.len())..).unwrap_or_default();
        let sign = if negative && !digits.is_empty() { "-" } else { "" };
        Self(format!("{sign}{}", if digits.is_empty() { "00".to_owned() } else { hex(digits) }))
    }
}

/// A serial number where it stands, borrowed: the shortest two's complement of it, big-endian.
///
/// Lists hold millions; each is compared and hashed without being copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerialRef<'a>(&'a [u8]);

impl<'a> SerialRef<'a> {
    /// From the contents of a DER INTEGER, minimal or not; `None` if they are empty, or over 64 bytes: a certificate
    /// with such a serial is never let in.
    #[inline]
    pub fn from_der(contents: &'a [u8]) -> Option<Self> {
        let mut rest = contents;
        // The first byte is needed only where it alone gives the sign.
        while let [0x00, 0x00..=0x7f, ..] | [0xff, 0x80..=0xff, ..] = rest {
            rest = rest.get(1..)?;
        }
        Some(Self(rest)).filter(|_| !rest.is_empty() && rest.len() <= MAX_BYTES)
    }

    /// The canonical bytes: the shortest two's complement, big-endian, 1 to 64 of them.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The number without leading zeros, but for zero itself; `None` if it is negative.
    #[inline]
    pub fn magnitude(self) -> Option<&'a [u8]> {
        match self.0 {
            [0x80..=0xff, ..] => None,
            [0x00, rest @ ..] if !rest.is_empty() => Some(rest),
            all => Some(all),
        }
    }

    /// The canonical text of the same [`Serial`], written into `text`.
    #[inline]
    pub fn write(self, text: &mut SerialText) -> &[u8] {
        let Some(magnitude) = self.magnitude() else {
            return self.write_negative(text);
        };
        let length = magnitude.len() * 2;
        text.0.chunks_exact_mut(2).zip(magnitude).for_each(|(to, byte)| to.copy_from_slice(&digits(*byte)));
        text.0.get(..length).unwrap_or_default()
    }

    #[cold]
    fn write_negative(self, text: &mut SerialText) -> &[u8] {
        let serial = Serial::from_der(self.0);
        text.0.iter_mut().zip(serial.as_str().bytes()).for_each(|(to, from)| *to = from);
        text.0.get(..serial.as_str().len()).unwrap_or_default()
    }
}

impl From<SerialRef<'_>> for Serial {
    fn from(serial: SerialRef<'_>) -> Self {
        Self::from_der(serial.0)
    }
}

impl fmt::Display for SerialRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Serial::from(*self).fmt(f)
    }
}

/// Room for the text of one serial.
#[derive(Clone, Copy, Debug)]
pub struct SerialText([u8; MAX_BYTES * 2 + 1]);

impl Default for SerialText {
    fn default() -> Self {
        Self([0; MAX_BYTES * 2 + 1])
    }
}

/// The two digits of a byte.
#[inline]
fn digits(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    [digit(byte >> 4), digit(byte & 0x0f)]
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads hexadecimal of either case, with colons and spaces between digits; odd lengths get a leading zero.
pub(super) fn unhex(text: &str, max_bytes: usize) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !matches!(c, ':' | ' '))
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    if digits.is_empty() || digits.len() > max_bytes * 2 {
        return None;
    }
    let pad = std::iter::repeat_n(0, digits.len() % 2);
    let padded: Vec<u8> = pad.chain(digits).collect();
    Some(padded.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

fn negated(twos_complement: &[u8]) -> Vec<u8> {
    let mut carry = true;
    let mut magnitude: Vec<u8> = twos_complement
        .iter()
        .rev()
        .map(|byte| {
            let (value, overflow) = (!byte).overflowing_add(u8::from(carry));
            carry = overflow;
            value
        })
        .collect();
    magnitude.reverse();
    magnitude
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_number_are_one_serial() {
        for text in ["0a1b", "A1B", "0x0A1B", "00:00:0a:1b", "0a 1b", " 00000A1B "] {
            assert_eq!(Serial::parse(text).unwrap().as_str(), "0a1b", "{text}");
        }
        assert_eq!(Serial::from_der(&[0x00, 0x80, 0x01]), Serial::parse("8001").unwrap());
        assert_eq!(Serial::from_der(&[0x00, 0x00, 0x01]), Serial::parse("1").unwrap());
        assert_eq!(Serial::from_der(&[0]).as_str(), "00");
        assert_eq!(Serial::from_der(&[]), Serial::parse("-0").unwrap());
        assert_eq!(Serial::from_der(&[0xff]), Serial::parse("-1").unwrap());
        assert_eq!(Serial::from_der(&[0x80, 0x00]), Serial::parse("-8000").unwrap());
        assert_ne!(Serial::from_der(&[0xff]), Serial::from_der(&[0x00, 0xff]));
    }

    #[test]
    fn a_decimal_number_is_a_serial() {
        let decimal = |text: &str| Serial::from_decimal(text).map(|serial| serial.to_string());
        for (text, hex) in
            [("0", "00"), ("10", "0a"), ("255", "ff"), ("256", "0100"), ("-1", "-01"), ("007", "07")]
        {
            assert_eq!(decimal(text).as_deref(), Some(hex), "{text}");
        }
        let most = "340282366920938463463374607431768211455";
        assert_eq!(decimal(most), Some("ff".repeat(16)));
        assert_eq!(decimal(&"9".repeat(154)).map(|hex| hex.len()), Some(128));
        for bad in ["", "-", "1.5", "1e3", "0a", " 1", &"9".repeat(155), &"9".repeat(5000)] {
            assert_eq!(decimal(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_borrowed_serial_is_written_like_an_owned_one() {
        let long = [&[0x80][..], &[0; 63]].concat();
        for contents in [
            &[0][..],
            &[0, 0],
            &[1],
            &[0, 0, 1],
            &[0, 0x80, 1],
            &[0x7f, 0xa9],
            &[0xff],
            &[0xff, 0xff],
            &[0x80],
            &[0xff, 0x7f],
            &[0x7f; 64],
            &long,
        ] {
            let (serial, mut text) = (SerialRef::from_der(contents).unwrap(), SerialText::default());
            let owned = Serial::from_der(contents);
            assert_eq!(serial.write(&mut text), owned.as_str().as_bytes(), "{contents:x?}");
            assert_eq!(Serial::from(serial), owned);
            assert_eq!(SerialRef::from_der(serial.as_bytes()), Some(serial));
        }
        assert_eq!(SerialRef::from_der(&[0, 0, 7]), SerialRef::from_der(&[7]));
        assert_eq!(SerialRef::from_der(&[0xff, 0xff]), SerialRef::from_der(&[0xff]));
        assert_eq!(SerialRef::from_der(&[]), None);
        assert_eq!(SerialRef::from_der(&[1; 65]), None);
        assert_eq!(SerialRef::from_der(&[0; 65]), SerialRef::from_der(&[0]));
    }

    #[test]
    fn nonsense_is_refused() {
        let long = "1".repeat(129);
        for text in ["", " ", "-", "0x", "xyz", "12g", "1.5", &long] {
            assert_eq!(Serial::parse(text), None, "{text}");
        }
    }
}
