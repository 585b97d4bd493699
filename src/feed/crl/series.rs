//! Which lists a feed is for: those of one authority that replace each other.
//!
//! Whoever answers for a URL may answer with any list that is public: genuine, and of another authority, or of another
//! part of what it issued. Such a list must not make the feed fresh whose own list it stands in for.

use std::fmt;

use serde::Deserialize;
use serde::Serialize;

use crate::revocation::crl;
use crate::revocation::crl::Crl;

/// The lists of one authority's name, kind and scope, whatever its key and their numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Series {
    /// Whose they are: a distinguished name (RFC 2253).
    issuer: String,
    kind: Kind,
    /// What certificates they cover, for who reads it.
    scope: String,
    scope_id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Full,
    Delta,
}

impl Series {
    pub(super) fn of(crl: &Crl) -> Self {
        let kind = if matches!(crl.kind, crl::Kind::Full) { Kind::Full } else { Kind::Delta };
        let scope_id = super::shelf::hex(&crl.scope.id());
        Self { issuer: crl.issuer.name.clone(), kind, scope: crl.scope.to_string(), scope_id }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.kind == other.kind && self.covers_what(other)
    }

    /// Whether it says all of what it speaks of, if these lists are in force: a delta says nothing of who was revoked
    /// before.
    pub(super) fn is_whole(&self, in_force: &[Crl]) -> bool {
        let mut others = in_force.iter().map(Self::of);
        self.kind == Kind::Full || others.any(|other| other.kind == Kind::Full && other.covers_what(self))
    }

    /// Whose certificates, and which of them.
    pub(super) fn covered(&self) -> String {
        format!("{} for {}", self.issuer, self.scope)
    }

    fn covers_what(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.scope_id == other.scope_id
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Full => "full list",
            Kind::Delta => "delta",
        };
        write!(f, "{kind} of {}", self.covered())
    }
}
