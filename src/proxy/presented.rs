//! What a client presented that nobody vouches for: so that it can be found and given another, never to be believed.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustls::pki_types::CertificateDer;

use crate::identity::Certificate;
use crate::identity::ChainError;
use crate::identity::limit_bytes;

/// The most that is told of a name, characters.
const LONG: usize = 256;
/// Lines in one second; what is beyond is counted.
const LINES: u64 = 20;

/// Who a client says that it is, unverified.
pub(super) struct Presented {
    /// Its SPIFFE ID, its first DNS name or its distinguished name, cut after 256 characters.
    pub(super) id: String,
    /// Its certificate's serial.
    pub(super) serial: String,
}

impl Presented {
    /// What a certificate says; empty where it cannot be read, or is too large to be.
    pub(super) fn read(leaf: &CertificateDer<'_>) -> Self {
        let parsed = limit_bytes(leaf, &[]).and_then(|()| Certificate::parse(leaf)).ok();
        parsed.as_ref().map_or_else(|| Self { id: String::new(), serial: String::new() }, Self::of)
    }

    /// What a certificate says.
    pub(super) fn of(certificate: &Certificate) -> Self {
        let subject = certificate.subject.as_ref().ok();
        let spiffe = subject.and_then(|names| names.spiffe.as_ref()).map(ToString::to_string);
        let dns = || subject.and_then(|names| names.dns.first()).map(ToString::to_string);
        let id = spiffe.or_else(dns).unwrap_or_else(|| certificate.subject_dn.clone());
        Self { id: id.chars().take(LONG).collect(), serial: certificate.serial.to_string() }
    }
}

/// The code that a chain which does not verify is refused with.
pub(super) fn code_of(error: &ChainError) -> &'static str {
    match error {
        ChainError::Path(webpki::Error::CertExpired { .. }) => "certificate_expired",
        ChainError::TooManyFailures => "too_many_failures",
        _ => "certificate_untrusted",
    }
}

/// Lets so many lines a second through, of what anybody can cause, and counts the others. Threads that race may let
/// one more through, or count one less.
#[derive(Default)]
pub(super) struct Lines {
    second: AtomicI64,
    said: AtomicU64,
    unsaid: AtomicU64,
}

impl Lines {
    /// Whether one more may be said at `now`, in seconds; then, how many were not since the last.
    pub(super) fn pass(&self, now: i64) -> Option<u64> {
        if self.second.swap(now, Ordering::Relaxed) != now {
            self.said.store(0, Ordering::Relaxed);
        }
        if self.said.fetch_add(1, Ordering::Relaxed) < LINES {
            return Some(self.unsaid.swap(0, Ordering::Relaxed));
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_said_in_a_few_lines_and_counted() {
        let lines = Lines::default();
        let said = (0..100).filter(|_| lines.pass(7).is_some()).count();
        assert_eq!((said as u64, lines.pass(8), lines.pass(8)), (LINES, Some(100 - LINES), Some(0)));
    }
}
