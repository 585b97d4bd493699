//! What every file here has in common: a database that panics where it is damaged.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

/// Runs what reads, writes or closes a file: redb refuses most damage, and panics on some (a page of no known type, a
/// number of the wrong width). That must neither end the process nor a thread, whose end nobody would be told. A panic
/// becomes what `damaged` makes of its first line.
pub(super) fn caught<T, E>(
    run: impl FnOnce() -> Result<T, E>,
    damaged: impl FnOnce(String) -> E,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let line = text.and_then(|text| text.lines().next());
        Err(damaged(line.unwrap_or("no reason given").to_owned()))
    })
}
