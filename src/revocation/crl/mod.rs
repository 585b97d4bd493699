//! Certificate revocation lists (RFC 5280, section 5): bytes in, verdict out. No network, no files, no clock.
//!
//! [`Verified::read`] takes one list apart, finds the authority that signed it and verifies the signature;
//! [`Lists::accept`] compares it with those of the same authority that are known; [`Lists::each`] walks through what
//! they revoke together, full and delta, without a copy.
//!
//! **Invariant:** no entry leaves this room before the signature of its list has held, every entry of it has been read
//! once, and it is newer than what is known. A list that is not understood in whole is refused in whole, by name.

mod about;
mod algorithm;
mod der;
mod entry;
mod error;
mod extension;
mod input;
mod issuers;
mod list;
mod lists;
mod moment;
mod number;
mod scope;

use std::time::Duration;

pub use about::Crl;
pub use about::Kind;
pub use about::Mark;
pub use about::Signer;
use entry::Entries;
pub use entry::Entry;
pub use entry::Reason;
pub use error::Error;
pub use issuers::IssuerError;
pub use issuers::Issuers;
pub use issuers::SignerFault;
use list::List;
pub use list::Verified;
pub use lists::Lists;
pub use lists::Verdict;
pub use number::Number;
pub use scope::Scope;

/// How large a list may be, and how far ahead its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest input that is read, bytes, DER or PEM. 10,000,000 entries are about 400 MB.
    pub max_bytes: usize,
    /// How far in the future `thisUpdate` may lie.
    pub skew: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 512 << 20, skew: Duration::from_secs(60) }
    }
}
