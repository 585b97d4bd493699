//! Many revocations on gates that are started for it.
