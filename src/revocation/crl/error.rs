//! Why a list is refused. Offsets are bytes from the start of the DER, or of the text where it is PEM.

use super::Number;
use super::SignerFault;
use super::der::Fault;
use super::list::shown;
use crate::clock::Timestamp;

/// Why a list is refused, in whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More bytes than are read.
    #[error("{size} bytes, over the limit of {max}")]
    TooLarge {
        /// How many there are.
        size: usize,
        /// How many are read.
        max: usize,
    },
    /// Something else was sent.
    #[error("not a revocation list: {0}")]
    NotAList(String),
    /// A PEM file that does not hold exactly one list (RFC 7468, section 6).
    #[error("byte {at} of the PEM: {what}")]
    Pem {
        /// Where.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// Not DER, or not what RFC 5280, section 5.1, describes.
    #[error("byte {at}: {what}")]
    Malformed {
        /// Where.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// Bytes behind the list.
    #[error("byte {at}: {what} behind the list")]
    Trailing {
        /// Where they begin.
        at: usize,
        /// What they look like.
        what: &'static str,
    },
    /// A kind of list that is not supported.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// An extension that must be understood and is not.
    #[error("byte {at}: unknown critical extension {oid}")]
    Critical {
        /// Its object identifier.
        oid: String,
        /// Where.
        at: usize,
    },
    /// One entry is wrong.
    #[error("entry {index} (serial {serial}): {error}")]
    Entry {
        /// Which, from 0.
        index: u64,
        /// Its serial number.
        serial: String,
        /// What is wrong with it.
        error: Box<Self>,
    },
    /// A signature algorithm that is not believed, or not known.
    #[error("signature algorithm not supported: {0}")]
    Algorithm(String),
    /// The algorithm outside is not the one that is signed (RFC 5280, section 5.1.1.2).
    #[error("the signature algorithm outside is not the one inside what is signed")]
    AlgorithmsDiffer,
    /// None of the authorities signed it.
    #[error("issuer {name}: {fault}")]
    Signer {
        /// The issuer that the list names.
        name: String,
        /// Why it is not believed.
        fault: SignerFault,
    },
    /// It comes from the future.
    #[error("issued at {this_update}, which is after {now}")]
    Future {
        /// When it was issued.
        this_update: Timestamp,
        /// When it was read.
        now: Timestamp,
    },
    /// RFC 5280, section 5.1.2.5, demands it.
    #[error("no nextUpdate: it would never be stale")]
    NoNextUpdate,
    /// `nextUpdate` lies before `thisUpdate`.
    #[error("its nextUpdate {next_update} is before its thisUpdate {this_update}")]
    Reversed {
        /// When it was issued.
        this_update: Timestamp,
        /// When the next one will have been.
        next_update: Timestamp,
    },
    /// A delta without a number of its own, or with one below its base's.
    #[error("a delta on list {base} with number {number}")]
    DeltaNumber {
        /// The number of its base.
        base: Number,
        /// Its own.
        number: String,
    },
    /// Too many deltas that say more than the full list, none of which covers another.
    #[error("a delta on list {base}, after {max} others; the full list that is known has number {number}", number = shown(*known))]
    Deltas {
        /// The number of its base.
        base: Number,
        /// The number of the full list.
        known: Option<Number>,
        /// How many are kept.
        max: usize,
    },
    /// Too many lists of one scope with the same number and time, which contradict each other.
    #[error("after {max} others with the same number and time, and other content")]
    Twins {
        /// How many are kept.
        max: usize,
    },
    /// Older than what is known.
    #[error("number {number} is below the known {known}: an old list")]
    Fallen {
        /// Its number.
        number: Number,
        /// The number of the last one.
        known: Number,
    },
    /// A number that stands for another list already.
    #[error("number {number} is known with other content")]
    Repeated {
        /// The number.
        number: Number,
    },
    /// A list without a number, after one that had one.
    #[error("no number, but the known list has number {known}: an old list, or no longer numbered")]
    Unnumbered {
        /// The number of the last one.
        known: Number,
    },
    /// Not both have numbers, and it is no later than what is known.
    #[error("issued at {this_update}, no later than the known list of {known}, and without numbers to tell")]
    Earlier {
        /// When it was issued.
        this_update: Timestamp,
        /// When the last one was.
        known: Timestamp,
    },
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Malformed { at: fault.at, what: fault.what }
    }
}
