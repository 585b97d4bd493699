//! Registries, and the lists of tokens that they sign.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::KeyPair;
use rcgen::SigningKey as _;
use serde_json::Value;
use serde_json::json;

/// Who issues every list.
pub(crate) const ISSUER: &str = "https://registry.lab.test";
/// 2026-10-14T17:46:40Z: now, wherever a list is read.
pub(crate) const NOW: i64 = 1_792_000_000;

/// A registry with one key.
pub(crate) struct Registry {
    pair: KeyPair,
    kid: &'static str,
}

impl Registry {
    pub(crate) fn new(kid: &'static str) -> Self {
        Self { pair: KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), kid }
    }

    /// Its key, as registries show them.
    pub(crate) fn key(&self, status: &str) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key_raw());
        json!({"kid": self.kid, "alg": "EdDSA", "crv": "Ed25519", "x": x, "status": status})
    }

    /// A list with these claims.
    pub(crate) fn list(&self, claims: &Value) -> Vec<u8> {
        self.signed(&json!({"alg": "EdDSA", "typ": "CRL", "kid": self.kid}), claims)
    }

    pub(crate) fn signed(&self, header: &Value, claims: &Value) -> Vec<u8> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()).unwrap());
        json!({"crl": format!("{signed}.{signature}")}).to_string().into_bytes()
    }
}

/// What a good list says that was issued then: these tokens are revoked.
pub(crate) fn claims(issued: i64, tokens: &[&str]) -> Value {
    let entry = |token: &&str| {
        json!({"jti": token, "agentDid": "did:cdi:registry.lab.test:agent:01JD8Q", "reason": "key leaked",
            "revokedAt": NOW - 60})
    };
    let revocations: Vec<Value> = tokens.iter().map(entry).collect();
    json!({"iss": ISSUER, "jti": "01JD8R", "iat": issued, "exp": issued + 390, "revocations": revocations})
}
