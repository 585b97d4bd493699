//! HOW LONG: the table of live sessions by what could revoke them, the guards that keep them in it, and the kill.
//!
//! A session is a connection with everything that runs on its behalf: HTTP/2 streams, upgraded tunnels, request
//! bodies on their way upstream. Each holds a [`Guard`] and watches [`Guard::killed`].
//!
//! **Invariant:** a session is in the table from before its first check until its last guard is dropped, and
//! [`Sessions::kill`] always takes the lock of the shard that it looks in: a killer that finds nothing has made sure
//! that whoever registers after it also sees what was published before it.

mod credential;
mod id;
mod live;
mod table;

pub use credential::Cause;
pub use credential::Credential;
pub use credential::Fingerprint;
pub use credential::Heeds;
pub use credential::Holder;
pub use id::SessionId;
pub use id::SessionIdError;
pub use live::Guard;
pub use live::Origin;
pub use live::Session;
pub use table::Killed;
pub use table::Sessions;
