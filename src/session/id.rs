//! What a session is called.

use std::fmt;
use std::str::FromStr;

/// The name of a session: its text form is 16 lower-case hexadecimal digits.
///
/// Unique in a process, and in all likelihood over its restarts: see [`SessionId::first`]. Later sessions have greater
/// ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// The first id of a process whose random number is `random`, of which 31 bits count: an id that is kept over a
    /// restart names nothing, rather than somebody else's session.
    pub fn first(random: u32) -> Self {
        Self(u64::from(random >> 1) << 32)
    }

    /// From its number.
    pub(super) const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub(super) const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Not a session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session id is 16 lower-case hexadecimal digits")]
pub struct SessionIdError;

impl FromStr for SessionId {
    type Err = SessionIdError;

    fn from_str(text: &str) -> Result<Self, SessionIdError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return Err(SessionIdError);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| SessionIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_one_spelling() {
        for id in [SessionId(0), SessionId(0x0123_4567_89ab_cdef), SessionId::first(u32::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!(SessionId::first(u32::MAX).to_string(), "7fffffff00000000");
        for other in
            ["", "0", "0123456789ABCDEF", "+123456789abcdef", "0123456789abcdef0", "0x23456789abcdef"]
        {
            assert_eq!(other.parse::<SessionId>(), Err(SessionIdError), "{other}");
        }
    }
}
