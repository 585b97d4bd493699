//! Signatures of lists (RFC 5280, section 5.1.1.2), and of the certificates of those who sign them.

use aws_lc_rs::digest;
use aws_lc_rs::digest::Digest;
use aws_lc_rs::signature;
use aws_lc_rs::signature::UnparsedPublicKey;
use aws_lc_rs::signature::VerificationAlgorithm;
use rustls::pki_types::AlgorithmIdentifier;
use rustls::pki_types::alg_id;

use super::der::BIT_STRING;
use super::der::Fault;
use super::der::OID;
use super::der::Reader;
use super::der::SEQUENCE;
use super::der::dotted;

/// A signature algorithm with the kind of key that it goes with.
struct Algorithm {
    /// The contents of the AlgorithmIdentifier.
    signature: AlgorithmIdentifier,
    key: AlgorithmIdentifier,
    /// What it hashes with; `None` where it takes the message itself (RFC 8032).
    hash: Option<&'static digest::Algorithm>,
    verification: &'static dyn VerificationAlgorithm,
}

/// What is signed, hashed once, however many keys are tried.
pub(super) struct Signed<'a> {
    message: &'a [u8],
    digest: Digest,
    candidates: Vec<&'static Algorithm>,
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Hashes `message` as its `algorithm` (the contents of the AlgorithmIdentifier) wants it. `Err` has the name of an
    /// algorithm that is not supported.
    pub(super) fn new(message: &'a [u8], algorithm: &[u8], signature: &'a [u8]) -> Result<Self, String> {
        let named = |known: &&Algorithm| is_same(&known.signature, algorithm);
        let candidates: Vec<_> = ALGORITHMS.iter().filter(named).collect();
        let Some(first) = candidates.first() else {
            return Err(refused(algorithm));
        };
        let digest = digest::digest(first.hash.unwrap_or(&digest::SHA256), message);
        Ok(Self { message, digest, candidates, signature })
    }

    /// The first 32 bytes of the hash over what is signed.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut short = [0; 32];
        short.iter_mut().zip(self.digest.as_ref()).for_each(|(to, from)| *to = *from);
        short
    }

    /// Whether the holder of this key (DER of its SubjectPublicKeyInfo) signed it.
    pub(super) fn is_by(&self, spki: &[u8]) -> bool {
        let Ok((kind, key)) = public_key(spki) else {
            return false;
        };
        let found = self.candidates.iter().find(|known| known.key.as_ref() == kind);
        found.is_some_and(|algorithm| {
            let key = UnparsedPublicKey::new(algorithm.verification, key);
            let verdict = match algorithm.hash {
                Some(_) => key.verify_digest(&self.digest, self.signature),
                None => key.verify(self.message, self.signature),
            };
            verdict.is_ok()
        })
    }
}

/// The parameters of RSA with PKCS#1 v1.5 are NULL (RFC 4055, section 5); left out, they say nothing else.
fn is_same(known: &AlgorithmIdentifier, found: &[u8]) -> bool {
    known.as_ref() == found || known.as_ref().strip_suffix(&[0x05, 0x00]) == Some(found)
}

fn public_key(spki: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let mut outer = Reader::new(spki, 0).expect(SEQUENCE, "not a public key")?.inside();
    let kind = outer.expect(SEQUENCE, "not a public key")?;
    let key = outer.expect(BIT_STRING, "not a public key")?;
    Ok((kind.body, key.whole_bytes()?))
}

/// The name of an algorithm that is not supported, and why if it is known.
fn refused(algorithm: &[u8]) -> String {
    let Ok(oid) = Reader::new(algorithm, 0).expect(OID, "no algorithm") else {
        return "without a name".to_owned();
    };
    let oid = dotted(oid.body);
    let known = BROKEN.iter().find(|(broken, _)| *broken == oid);
    match known {
        Some((_, name)) => format!("{name}: it is broken"),
        None if oid == PSS => format!("{oid} (RSASSA-PSS) with parameters other than those of RFC 4055"),
        None => oid,
    }
}

const PSS: &str = "1.2.840.113549.1.1.10";

const BROKEN: [(&str, &str); 6] = [
    ("1.2.840.113549.1.1.2", "RSA with MD2"),
    ("1.2.840.113549.1.1.4", "RSA with MD5"),
    ("1.2.840.113549.1.1.5", "RSA with SHA-1"),
    ("1.3.14.3.2.29", "RSA with SHA-1"),
    ("1.2.840.10040.4.3", "DSA with SHA-1"),
    ("1.2.840.10045.4.1", "ECDSA with SHA-1"),
];

macro_rules! algorithm {
    ($signature:ident, $key:ident, $hash:ident, $verification:ident) => {
        Algorithm {
            signature: alg_id::$signature,
            key: alg_id::$key,
            hash: Some(&digest::$hash),
            verification: &signature::$verification,
        }
    };
}

/// What webpki verifies certificates with, less what is post-quantum.
static ALGORITHMS: [Algorithm; 16] = [
    algorithm!(RSA_PKCS1_SHA256, RSA_ENCRYPTION, SHA256, RSA_PKCS1_2048_8192_SHA256),
    algorithm!(RSA_PKCS1_SHA384, RSA_ENCRYPTION, SHA384, RSA_PKCS1_2048_8192_SHA384),
    algorithm!(RSA_PKCS1_SHA512, RSA_ENCRYPTION, SHA512, RSA_PKCS1_2048_8192_SHA512),
    algorithm!(RSA_PSS_SHA256, RSA_ENCRYPTION, SHA256, RSA_PSS_2048_8192_SHA256),
    algorithm!(RSA_PSS_SHA384, RSA_ENCRYPTION, SHA384, RSA_PSS_2048_8192_SHA384),
    algorithm!(RSA_PSS_SHA512, RSA_ENCRYPTION, SHA512, RSA_PSS_2048_8192_SHA512),
    algorithm!(ECDSA_SHA256, ECDSA_P256, SHA256, ECDSA_P256_SHA256_ASN1),
    algorithm!(ECDSA_SHA384, ECDSA_P256, SHA384, ECDSA_P256_SHA384_ASN1),
    algorithm!(ECDSA_SHA512, ECDSA_P256, SHA512, ECDSA_P256_SHA512_ASN1),
    algorithm!(ECDSA_SHA256, ECDSA_P384, SHA256, ECDSA_P384_SHA256_ASN1),
    algorithm!(ECDSA_SHA384, ECDSA_P384, SHA384, ECDSA_P384_SHA384_ASN1),
    algorithm!(ECDSA_SHA512, ECDSA_P384, SHA512, ECDSA_P384_SHA512_ASN1),
    algorithm!(ECDSA_SHA256, ECDSA_P521, SHA256, ECDSA_P521_SHA256_ASN1),
    algorithm!(ECDSA_SHA384, ECDSA_P521, SHA384, ECDSA_P521_SHA384_ASN1),
    algorithm!(ECDSA_SHA512, ECDSA_P521, SHA512, ECDSA_P521_SHA512_ASN1),
    Algorithm {
        signature: alg_id::ED25519,
        key: alg_id::ED25519,
        hash: None,
        verification: &signature::ED25519,
    },
];
