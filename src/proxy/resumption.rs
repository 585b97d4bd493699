//! TLS sessions that a listener keeps for resumption, bounded in bytes.
//!
//! A session holds the whole chain that its client presented, of which the client chooses the size. **Invariant:** no
//! session of a client whose chain did not verify is kept.

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rustls::server::StoresServerSessions;

use super::handshake::Handshake;

/// The most that one listener keeps, bytes: about fourteen thousand sessions of clients that present two certificates.
const MAX_BYTES: u64 = 32 << 20;
/// A larger session is not kept, bytes; its client gets no ticket, and shakes hands in full each time.
const MAX_SESSION_BYTES: usize = 16 << 10;
/// Sessions of usual size that fit, for which room is prepared.
const USUAL_SESSIONS: usize = 16_384;
/// The size of a session beside its key and value, bytes.
const OVERHEAD: usize = 160;

/// The TLS sessions of one listener.
pub(super) struct ResumptionCache {
    sessions: Cache<Vec<u8>, Box<[u8]>, SessionWeight>,
}

impl ResumptionCache {
    /// Keeps none yet.
    pub(super) fn new() -> Self {
        Self { sessions: Cache::with_weighter(USUAL_SESSIONS, MAX_BYTES, SessionWeight) }
    }
}

impl StoresServerSessions for ResumptionCache {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        if value.len() > MAX_SESSION_BYTES || Handshake::is_of_stranger() {
            return false;
        }
        // Without what the vector has to spare, up to as much again.
        self.sessions.insert(key, value.into_boxed_slice());
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.sessions.get(key).map(<[u8]>::into_vec)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.sessions.remove(key).map(|(_, value)| value.into_vec())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for ResumptionCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumptionCache")
    }
}

/// How much memory a session takes, bytes.
#[derive(Clone)]
struct SessionWeight;

impl Weighter<Vec<u8>, Box<[u8]>> for SessionWeight {
    fn weight(&self, key: &Vec<u8>, value: &Box<[u8]>) -> u64 {
        (key.len() + value.len() + OVERHEAD) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::identity::ChainError;

    fn key(number: u32) -> Vec<u8> {
        [number.to_be_bytes(); 8].concat()
    }

    /// How many bytes of values a store gives back of so many sessions of this size.
    fn kept(store: &dyn StoresServerSessions, count: u32, size: usize) -> usize {
        let _ = (0..count).filter(|i| store.put(key(*i), vec![7; size])).count();
        (0..count).filter_map(|i| store.get(&key(i))).map(|value| value.len()).sum()
    }

    /// Seen failing with `ServerSessionMemoryCache`, bounded by number: it kept all of them, 67,108,864 bytes and more.
    #[test]
    fn sessions_of_any_size_are_bounded_in_bytes() {
        for (count, size) in [(4096, MAX_SESSION_BYTES), (100_000, 2048), (300_000, 200)] {
            let store = ResumptionCache::new();
            let kept = kept(&store, count, size);
            let most = usize::try_from(MAX_BYTES).unwrap();
            assert!(kept <= most, "{size}: {kept}");
            // And no fewer than fit, about; much of one of 200 bytes is its overhead.
            assert!(kept > most / 3, "{size}: {kept}");
        }
    }

    /// Seen failing with `ServerSessionMemoryCache`.
    #[test]
    fn a_session_that_is_too_large_is_not_kept() {
        let store = ResumptionCache::new();
        assert_eq!(kept(&store, 10, MAX_SESSION_BYTES + 1), 0);
    }

    #[test]
    fn a_session_is_taken_once() {
        let store = ResumptionCache::new();
        assert!(store.put(key(1), vec![1, 2, 3]) && store.put(key(1), vec![4, 5]));
        assert_eq!(store.get(&key(1)), Some(vec![4, 5]));
        assert_eq!((store.take(&key(1)), store.take(&key(1))), (Some(vec![4, 5]), None));
        assert_eq!(store.get(&key(1)), None);
    }

    /// Seen failing without the look at the handshake.
    #[tokio::test]
    async fn a_session_of_a_stranger_is_not_kept() {
        let store = ResumptionCache::new();
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        let put = async |number, fault: Option<&ChainError>| {
            let shaking = async {
                fault.iter().for_each(|fault| Handshake::note(fault));
                store.put(key(number), vec![1])
            };
            Handshake::of(address).run(shaking).await
        };
        assert!(put(1, None).await);
        assert!(!put(2, Some(&ChainError::LeafSigns)).await);
        assert_eq!((store.get(&key(1)), store.get(&key(2))), (Some(vec![1]), None));
    }
}
