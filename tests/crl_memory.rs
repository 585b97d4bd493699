//! A revocation list is read in place: whatever its size, a few kilobytes are needed beside its bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::fs;

use bytes::Bytes;
use portcullis::revocation::crl::Limits;
use portcullis::revocation::crl::Lists;
use portcullis::revocation::crl::Verified;

#[path = "crl/forge.rs"]
#[expect(dead_code, reason = "one list is enough here")]
mod forge;

/// The most that may be added to what the process holds, kilobytes. The list has 37,597; its entries in a vector would be
/// another 31,000.
const MOST: u64 = 1024;

/// The only test of its process, so that the peak is its own.
/// Seen failing where the entries were gathered in a vector.
#[test]
fn reading_a_million_entries_takes_no_memory() {
    let ca = forge::Ca::root("A");
    let list = Bytes::from(forge::large(&ca, 1_000_000).to_vec());
    let issuers = ca.issuers();
    read(&list, &issuers);
    // From here the peak counts anew (proc(5), clear_refs).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = kilobytes("VmHWM:");
    assert_eq!(read(&list, &issuers), 1_000_000);
    let grown = kilobytes("VmHWM:") - before;
    assert!(grown < MOST, "{grown} kB more for {} kB of list", list.len() / 1024);
}

fn read(list: &Bytes, issuers: &portcullis::revocation::crl::Issuers) -> usize {
    let verified = Verified::read(list, issuers, &Limits::default(), forge::now()).unwrap();
    let (mut lists, mut count) = (Lists::default(), 0);
    lists.accept(verified).unwrap();
    lists.each(|_, _| count += 1);
    count
}

fn kilobytes(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|status| status.strip_prefix(line)).unwrap();
    found.trim().trim_end_matches(" kB").parse().unwrap()
}
