//! One revocation on a running deployment, seen from outside.
