//! The fuzzers' corpus, replayed: what any of them found once stays found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

use std::path::Path;

use proptest::prelude::*;

#[path = "../fuzz/targets.rs"]
mod targets;

/// Runs one target on every input of its corpus; an input that fails is named.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut inputs: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{}: no inputs", folder.display());
    let failed: Vec<_> = inputs
        .iter()
        .filter(|input| {
            let bytes = std::fs::read(input).unwrap();
            std::panic::catch_unwind(|| target(&bytes)).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn certificate() {
    replay("certificate", targets::certificate);
}

#[test]
fn crl() {
    replay("crl", targets::crl);
}

#[test]
fn frames() {
    replay("frames", targets::frames);
}

proptest! {
    /// Frames that are whole, which random bytes seldom are. Seen failing with a reader that forgets a header that a piece
    /// ends in, and with one that takes a payload for a header.
    #[test]
    fn frames_in_any_pieces(
        cuts in prop::collection::vec(0..40_u8, 16),
        all in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u32>(), 0..70_usize), 0..20),
        left in 0..9_usize,
    ) {
        let mut bytes = cuts;
        for (kind, flags, stream, payload) in all {
            let length = u32::try_from(payload).unwrap().to_be_bytes();
            bytes.extend([&length[1..], &[kind, flags], &stream.to_be_bytes(), &vec![kind; payload]].concat());
        }
        bytes.extend(vec![0; left]);
        targets::frames(&bytes);
    }
}

#[test]
fn header_name() {
    replay("header_name", targets::header_name);
}

proptest! {
    /// Names that come near those that matter, which random bytes seldom do. Seen failing with underscores alone taken for
    /// dashes.
    #[test]
    fn header_names_in_many_spellings(
        words in prop::sample::select(vec![
            "client cert", "client cert chain", "x forwarded client cert", "x forwarded", "x portcullis principal",
            "x portcullis", "x agent id", "agent", "content length", "content type", "transfer encoding", "keep alive",
            "proxy", "host", "remote user", "ssl client", "x ssl client s dn", "x request id", "accept", "x ray",
        ]),
        special in prop::collection::vec("[-!#$%&'*+.^_`|~a0]", 8),
        more in "[-._~a-z0-9]{0,3}",
        upper in any::<bool>(),
    ) {
        let mut special = special.iter();
        let mut words = words.split(' ');
        let first = words.next().unwrap().to_owned();
        let name = words.fold(first, |name, word| name + special.next().unwrap() + word) + &more;
        targets::header_name(if upper { name.to_uppercase() } else { name }.as_bytes());
    }
}

#[test]
fn journal() {
    replay("journal", targets::journal);
}

#[test]
fn message() {
    replay("message", targets::message);
}

#[test]
fn path_claim() {
    replay("path_claim", targets::path_claim);
}

#[test]
fn spiffe_id() {
    replay("spiffe_id", targets::spiffe_id);
}

#[test]
fn token_list() {
    replay("token_list", targets::token_list);
}

#[test]
fn every_target_is_replayed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut targets: Vec<String> =
        entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    targets.sort();
    let all = [
        "certificate",
        "crl",
        "frames",
        "header_name",
        "journal",
        "message",
        "path_claim",
        "spiffe_id",
        "token_list",
    ];
    assert_eq!(targets, all);
}
