//! What a list says about itself.

use super::Number;
use super::Scope;
use crate::clock::Timestamp;
use crate::identity::KeyId;

/// A list whose signature holds, without its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    /// Who signed it.
    pub issuer: Signer,
    /// What part of the signer's certificates it covers.
    pub scope: Scope,
    /// Whether it says everything, or only what has changed.
    pub kind: Kind,
    /// Its number; RFC 5280, section 5.2.3, wants one, older lists have none.
    pub number: Option<Number>,
    /// When it was issued.
    pub this_update: Timestamp,
    /// When the next one will have been issued: from then on this one is stale.
    pub next_update: Timestamp,
    /// How many entries it has that can be looked up.
    pub entries: u64,
    /// How many more have serials of over 64 bytes; certificates with such are never let in.
    pub skipped: u64,
    /// The first 32 bytes of the hash over what is signed, made with the hash of the signature algorithm (SHA-256 for
    /// Ed25519): lists with the same digest say the same.
    pub digest: [u8; 32],
    /// What it lacks of what RFC 5280 demands. It counts all the same, but an operator should know.
    pub warnings: Vec<&'static str>,
}

impl Crl {
    /// Which list it is, in a few words.
    pub fn title(&self) -> String {
        let signer = &self.issuer.name;
        match self.number {
            Some(number) => format!("revocation list {number} of {signer}"),
            None => format!("revocation list of {signer}, issued at {}", self.this_update),
        }
    }

    /// What to remember of it, so that no older one is taken for newer.
    pub fn mark(&self) -> Mark {
        Mark { number: self.number, this_update: self.this_update, digest: self.digest }
    }
}

/// The authority that signed a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// Its distinguished name (RFC 2253).
    pub name: String,
    /// SHA-256 of its SubjectPublicKeyInfo: the `issuer` of the targets that the entries are.
    pub key: KeyId,
    /// Its subject key identifier, if it has one.
    pub key_id: Option<KeyId>,
    /// The other keys of the same name under the same anchor, sorted: an authority that has changed its key speaks with
    /// the new one about certificates of the old one too (RFC 5280, section 6.3.3, step f).
    pub also: Vec<KeyId>,
}

/// Whether a list says everything, or only what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything that is revoked.
    Full,
    /// What has changed since a full list (RFC 5280, section 5.2.4).
    Delta {
        /// The number of the earliest list that it can be applied to.
        base: Number,
    },
}

impl Kind {
    /// The number of the earliest list that it says more than: of a full one, the least there is.
    pub(super) fn starts_at(self) -> Number {
        match self {
            Self::Full => Number::from(0),
            Self::Delta { base } => base,
        }
    }
}

/// Which of two lists is the newer. The greater is the newer: by number, then by time. A number is above
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Its number.
    pub number: Option<Number>,
    /// When it was issued.
    pub this_update: Timestamp,
    /// The hash over what is signed, see [`Crl::digest`].
    pub digest: [u8; 32],
}

impl Mark {
    /// What makes a list newer than another: two with the same rank and other content contradict each other.
    pub(super) fn rank(self) -> (Option<Number>, Timestamp) {
        (self.number, self.this_update)
    }
}
