//! Benchmarks of many revocations, and of what requests cost.

pub mod proxy;
pub mod revocation;
