//! Revocation lists: what is accepted of whom, what is refused and by which name, and that nothing gets through by halves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod damage;
mod entries;
mod forge;
mod merging;
mod order;
mod scopes;
mod shape;
mod signers;

use std::collections::BTreeMap;

use bytes::Bytes;
use portcullis::identity::Serial;
use portcullis::revocation::crl::Crl;
use portcullis::revocation::crl::Error;
use portcullis::revocation::crl::Issuers;
use portcullis::revocation::crl::Kind;
use portcullis::revocation::crl::Known;
use portcullis::revocation::crl::Limits;
use portcullis::revocation::crl::List;
use portcullis::revocation::crl::Mark;
use portcullis::revocation::crl::Reason;
use portcullis::revocation::crl::Verdict;
use portcullis::revocation::crl::Verified;

fn read(list: &Bytes, issuers: &Issuers) -> Result<Verified, Error> {
    Verified::read(list, issuers, &Limits::default(), forge::now())
}

/// The list, which must be good and new; of a delta, the base is known.
fn accept(list: &Bytes, issuers: &Issuers) -> List {
    let verified = read(list, issuers).unwrap();
    let full = match verified.crl().kind {
        Kind::Full => None,
        Kind::Delta { base } => Some(Mark { number: Some(base), ..verified.crl().mark() }),
    };
    match verified.after(&Known { full, delta: None }).unwrap() {
        Verdict::New(list) => list,
        other => panic!("{other:?}"),
    }
}

/// Why the list is refused, in words.
fn refusal(list: &Bytes, issuers: &Issuers) -> String {
    read(list, issuers).map(|verified| verified.crl().clone()).unwrap_err().to_string()
}

/// Fails unless the list is refused in words that contain `part`.
fn refused(list: &Bytes, issuers: &Issuers, part: &str) {
    let error = refusal(list, issuers);
    assert!(error.contains(part), "`{error}` does not say `{part}`");
    assert!(!error.contains('\n'), "{error}");
}

/// What a list revokes: its serials with their reasons.
fn revoked(list: &List) -> BTreeMap<String, Reason> {
    list.entries().map(|entry| (Serial::from(entry.serial).to_string(), entry.reason)).collect()
}

/// What a good list says, and about whom.
fn good(list: &Bytes, issuers: &Issuers) -> (Crl, BTreeMap<String, Reason>) {
    let list = accept(list, issuers);
    (list.crl().clone(), revoked(&list))
}
