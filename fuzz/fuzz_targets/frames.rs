//! Fuzzes `targets::frames`.
#![no_main]

#[path = "../targets.rs"]
#[expect(dead_code, reason = "each fuzz target runs one of them")]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::frames(bytes));
