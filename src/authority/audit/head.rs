//! The head of the chain: the sequence and hash of its last line, and the file that remembers it.

use std::str::FromStr;

/// The hash before the first line.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Sequences are exact in every JSON reader: below 2^53.
pub(super) const LAST_SEQUENCE: u64 = (1 << 53) - 1;

/// A place on the chain; its text form is `SEQUENCE:HASH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sequence of a line; 0 before the first.
    pub sequence: u64,
    /// Its hash, 64 lower-case hexadecimal digits; zeros before the first.
    pub hash: String,
}

/// Not `SEQUENCE:HASH`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not SEQUENCE:HASH, with a hash of 64 lower-case hexadecimal digits")]
pub struct HeadError(String);

impl Default for Head {
    fn default() -> Self {
        Self { sequence: 0, hash: NO_HASH.to_owned() }
    }
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        let read = || {
            let (sequence, hash) = text.split_once(':')?;
            let sequence = read_sequence(sequence)?;
            is_hash(hash).then(|| Self { sequence, hash: hash.to_owned() })
        };
        read().ok_or_else(|| HeadError(text.to_owned()))
    }
}

fn read_sequence(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|sequence| digits && *sequence <= LAST_SEQUENCE)
}

pub(super) fn is_hash(text: &str) -> bool {
    text.len() == NO_HASH.len() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
