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
    fn nonsense_is_refused() {
        let long = "1".repeat(129);
        for text in ["", " ", "-", "0x", "xyz", "12g", "1.5", &long] {
            assert_eq!(Serial::parse(text), None, "{text}");
        }
    }
}
