//! What a revocation list costs: `cargo bench --bench crl`, or with the numbers of entries behind `--`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot run says so")]

use std::hint::black_box;

use aws_lc_rs::digest;
use bytes::Bytes;
use portcullis::revocation::Fingerprinter;
use portcullis::revocation::crl::Limits;
use portcullis::revocation::crl::Lists;
use portcullis::revocation::crl::Verified;

#[path = "../tests/crl/forge.rs"]
#[expect(dead_code, reason = "only large lists are made here")]
mod forge;

fn main() {
    let asked: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![1_000_000, 10_000_000] } else { asked };
    sizes.into_iter().for_each(measure);
}

fn measure(count: u64) {
    let ca = forge::Ca::root("A");
    let list = forge::large(&ca, count);
    println!("{count} entries, {} MB", list.len() / 1_000_000);
    let issuers = ca.issuers();
    let prints = Fingerprinter::random().unwrap();
    for _ in 0..3 {
        let hash = timed(count, || digest::digest(&digest::SHA256, &list).as_ref().len()).0;
        let read = |list: &Bytes| Verified::read(list, &issuers, &Limits::default(), forge::now()).unwrap();
        let (whole, verified) = timed(count, || read(&list));
        let issuer = verified.crl().issuer.key.clone();
        let mut lists = Lists::default();
        lists.accept(verified).unwrap();
        let mut sum = 0;
        let walk = timed(count, || lists.each(|_, entry| sum += u128::from(entry.is_held()))).0;
        let of_issuer = prints.certificates_of(&issuer);
        let walk_and_print =
            timed(count, || lists.each(|_, entry| sum ^= of_issuer.serial(entry.serial).0)).0;
        black_box(sum);
        let survey = whole - hash;
        println!(
            "ns an entry: hash {hash:.1}, survey {survey:.1}, walk {walk:.1}, walk and fingerprint {walk_and_print:.1}; \
             in all {:.1}",
            whole + walk_and_print
        );
    }
}

/// What it took this thread, nanoseconds of CPU an entry (proc(5), schedstat).
fn timed<T>(count: u64, work: impl FnOnce() -> T) -> (f64, T) {
    let start = cpu();
    let result = work();
    ((cpu() - start) / count as f64, result)
}

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap()
}
