//! The admin API: who may change what is revoked, and the record of who did.

mod api;
pub mod audit;

pub use api::Api;
pub use api::Caller;
pub use api::router;
pub use audit::Audit;
pub use audit::AuditError;
pub use audit::Config as AuditConfig;
