//! The signature checks that one chain costs, counted.
//!
//! **Invariant:** one chain costs at most [`MAX_CHECKS`] of them, or as many as its verifier allows, whatever is presented.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use aws_lc_rs::digest;
use rustls::pki_types::AlgorithmIdentifier;
use rustls::pki_types::InvalidSignature;
use rustls::pki_types::SignatureVerificationAlgorithm;

/// Signature checks that one chain may cost. A path of six intermediates takes seven; six certificates of a name that
/// three configured authorities share, twenty before the path among them is found.
pub(crate) const MAX_CHECKS: usize = 32;

/// Signature checks of one chain: each is made once, at most so many are made, and those beyond fail.
#[derive(Debug)]
pub(super) struct SignatureChecks {
    most: usize,
    state: Mutex<ChecksState>,
}

#[derive(Debug, Default)]
struct ChecksState {
    made: Vec<SignatureCheck>,
    /// True if one was refused because it was one too many.
    exhausted: bool,
}

/// A signature check that was made.
#[derive(Debug)]
struct SignatureCheck {
    /// SHA-256 of the algorithm, the key, the message and the signature.
    digest: [u8; 32],
    is_good: bool,
}

impl Default for SignatureChecks {
    fn default() -> Self {
        Self::at_most(MAX_CHECKS)
    }
}

impl SignatureChecks {
    /// None so far, and never more than `most`.
    pub(super) fn at_most(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// How many may be made.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// The algorithms that webpki supports, counted.
    pub(super) fn algorithms(&self) -> Vec<CountedAlgorithm<'_>> {
        let all = webpki::ALL_VERIFICATION_ALGS.iter();
        all.map(|algorithm| CountedAlgorithm { algorithm: *algorithm, checks: self }).collect()
    }

    /// True if a check was refused because it was one too many.
    pub(super) fn are_exhausted(&self) -> bool {
        self.state().exhausted
    }

    /// How many were made.
    pub(super) fn count(&self) -> usize {
        self.state().made.len()
    }

    fn once(&self, digest: [u8; 32], check: impl FnOnce() -> bool) -> bool {
        let mut state = self.state();
        if let Some(known) = state.made.iter().find(|known| known.digest == digest) {
            return known.is_good;
        }
        if state.made.len() >= self.most {
            state.exhausted = true;
            return false;
        }
        let is_good = check();
        state.made.push(SignatureCheck { digest, is_good });
        is_good
    }

    fn state(&self) -> MutexGuard<'_, ChecksState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A signature algorithm whose checks are counted.
#[derive(Debug)]
pub(super) struct CountedAlgorithm<'a> {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    checks: &'a SignatureChecks,
}

impl SignatureVerificationAlgorithm for CountedAlgorithm<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let id = self.signature_alg_id();
        let digest = digest_of([id.as_ref(), public_key, message, signature]);
        let check = || self.algorithm.verify_signature(public_key, message, signature).is_ok();
        if self.checks.once(digest, check) { Ok(()) } else { Err(InvalidSignature) }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

/// SHA-256 over the length-prefixed parts.
fn digest_of(parts: [&[u8]; 4]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
