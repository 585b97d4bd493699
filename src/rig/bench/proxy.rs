//! What requests and handshakes cost a proxy that runs already.
