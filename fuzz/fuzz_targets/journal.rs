//! Fuzzes `targets::journal`.
#![no_main]

#[path = "../targets.rs"]
#[expect(dead_code, reason = "each fuzz target runs one of them")]
mod targets;

use std::sync::Once;

static QUIET: Once = Once::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // The database panics over some damage, which the journal catches and refuses: only what nobody catches is a finding.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    targets::journal(bytes);
});
