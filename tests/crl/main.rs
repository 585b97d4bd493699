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
use portcullis::revocation::crl::Entry;
use portcullis::revocation::crl::Error;
use portcullis::revocation::crl::Issuers;
use portcullis::revocation::crl::Limits;
use portcullis::revocation::crl::Lists;
use portcullis::revocation::crl::Reason;
use portcullis::revocation::crl::Verdict;
use portcullis::revocation::crl::Verified;

fn read(list: &Bytes, issuers: &Issuers) -> Result<Verified, Error> {
    Verified::read(list, issuers, &Limits::default(), forge::now())
}

/// The list, which must be good, and what it says about itself.
fn accept(list: &Bytes, issuers: &Issuers) -> (Crl, Lists) {
    let verified = read(list, issuers).unwrap();
    let (crl, mut lists) = (verified.crl().clone(), Lists::default());
    assert_eq!(lists.accept(verified), Ok(Verdict::New));
    (crl, lists)
}

/// What lists name, in their order.
fn entries(lists: &Lists) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    lists.each(|_, entry| entries.push(entry));
    entries
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

/// What a good list says, and about whom: the serials with their reasons.
fn good(list: &Bytes, issuers: &Issuers) -> (Crl, BTreeMap<String, Reason>) {
    let (crl, lists) = accept(list, issuers);
    let named = |entry: Entry<'_>| (Serial::from(entry.serial).to_string(), entry.reason);
    (crl, entries(&lists).into_iter().map(named).collect())
}
