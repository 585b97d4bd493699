//! The admin API: who may change what is revoked, and the record of who did.

mod access;
mod api;
pub mod audit;

pub use access::Access;
pub use access::Limits;
pub use access::Role;
pub use access::Secret;
pub use access::SecretConfig;
pub use access::SecretError;
pub use api::Api;
pub use api::Caller;
pub use api::Load;
pub use api::Recognised;
pub use api::Tokens;
pub use api::authenticates_itself;
pub use api::openapi;
pub use api::router;
pub use audit::Audit;
pub use audit::AuditError;
pub use audit::Config as AuditConfig;
pub use audit::Entry;
