//! Request ids: what the log and the upstream call a request.

use std::cell::Cell;
use std::fmt;

use http::HeaderValue;
use uuid::Uuid;

/// What the log and the upstream call a request: a random number of the thread, and a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u64, u64);

impl RequestId {
    /// As a number.
    pub(super) fn number(self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }

    /// As a header's value.
    pub(super) fn value(self) -> HeaderValue {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'0'; 32];
        let number = self.number();
        for (i, digit) in text.iter_mut().rev().enumerate() {
            *digit = DIGITS[(number >> (4 * i) & 0xf) as usize];
        }
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

/// Makes the request ids of one thread.
pub struct RequestIds {
    thread: u64,
    count: Cell<u64>,
}

impl RequestIds {
    /// Starts a sequence of its own.
    pub fn new() -> Self {
        let thread = Uuid::new_v4().as_u64_pair().0;
        Self { thread, count: Cell::new(0) }
    }

    pub(super) fn next(&self) -> RequestId {
        let count = self.count.get();
        self.count.set(count.wrapping_add(1));
        RequestId(self.thread, count)
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_and_the_log_say_the_same() {
        let ids = RequestIds::new();
        let (first, second) = (ids.next(), ids.next());
        assert_ne!(first, second);
        assert_eq!(second.value().to_str().unwrap(), second.to_string());
        assert_eq!(second.to_string().len(), 32);
    }
}
