//! The two orders on which everything rests.
//!
//! > Once `revoke` has returned, no request, handshake, resumed session, stream or upgraded connection of that
//! > credential is live or can begin.
//!
//! A session **registers, then checks**. A revocation **publishes, then kills**. Whichever way the two interleave,
//! either the check sees what was published, or the kill sees what was registered. They are written here, apart from
//! what they order, so that the model checker (`tests/invariant_loom.rs`) walks through the same lines as the gate.

/// The session's order. Returns what `register` made, unless `check` denies it.
pub fn admit<G, D>(register: impl FnOnce() -> G, check: impl FnOnce(&G) -> Result<(), D>) -> Result<G, D> {
    let guard = register();
    check(&guard)?;
    Ok(guard)
}

/// The order in which break-glass ends: enforcement is switched on, then everything that is live is held against the
/// set. Whoever is let in, or let be, because of break-glass has registered, or published, before it looked whether
/// that lasts. Returns what `sweep` hit.
pub fn enforce<K>(switch_on: impl FnOnce(), sweep: impl FnOnce() -> K) -> K {
    switch_on();
    sweep()
}

/// The revocation's order. Returns what `kill` hit.
pub fn revoke<K>(publish: impl FnOnce(), kill: impl FnOnce() -> K) -> K {
    publish();
    kill()
}
