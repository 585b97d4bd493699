//! Signed lists of revoked tokens: a JWS whose claims name each token that its registry has revoked. Bytes in, verdict
//! out. No network, no files, no clock.
//!
//! `{"crl": "<compact JWS>"}`; header `{"alg": "EdDSA", "typ": "CRL", "kid"}`; claims `iss`, `jti`, `iat`, `exp` and
//! `revocations: [{jti, agentDid, reason?, revokedAt}]`. Keys: `{"keys": [{kid, alg, crv, x, status}]}`.
//!
//! **Invariant:** nothing is read from the claims before the signature holds, by a key that is active; a list of which
//! one entry is not understood is refused in whole.

use std::collections::HashMap;

use jsonwebtoken::Algorithm;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::Validation;
use jsonwebtoken::decode;
use jsonwebtoken::decode_header;
use serde::Deserialize;

use super::Level;
use super::Target;
use crate::clock::Timestamp;

/// The longest reason of an entry, characters.
const MAX_REASON: usize = 280;
/// More keys are no registry's.
const MAX_KEYS: usize = 64;
/// What a token list says it is.
const TYPE: &str = "CRL";

/// Why a list of tokens, or the keys of its registry, are not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not what was expected, or damaged.
    #[error("{0}")]
    Malformed(String),
    /// Signed by a key that is not among the registry's: they are to be fetched anew, once.
    #[error("signed by the key `{0}`, which is not among the registry's active keys")]
    UnknownKey(String),
    /// The signature is not by the key that it names.
    #[error("the signature does not hold: forged or damaged")]
    Signature,
    /// A list of somebody else.
    #[error("issued by `{found}`, not by `{expected}`")]
    Issuer {
        /// What it says.
        found: String,
        /// What the configuration says.
        expected: String,
    },
    /// From the future.
    #[error("issued at {0}, which is in the future")]
    Future(Timestamp),
    /// Older than what is known.
    #[error("issued at {found}, before the one that is known, of {known}")]
    Older {
        /// When this one was.
        found: Timestamp,
        /// When the known one was.
        known: Timestamp,
    },
}

/// The active keys of a registry.
#[derive(Clone, Default)]
pub struct Keys(HashMap<String, DecodingKey>);

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    kid: String,
    alg: String,
    crv: String,
    x: String,
    status: String,
}

impl Keys {
    /// Reads a registry's keys. Those that are revoked, or of another kind, count for nothing.
    pub fn read(json: &[u8]) -> Result<Self, Error> {
        let read = serde_json::from_slice::<KeySet>(json);
        let set = read
            .map_err(|e| Error::Malformed(format!("not a registry's keys: {}", clipped(&e.to_string()))))?;
        if set.keys.len() > MAX_KEYS {
            return Err(Error::Malformed(format!("over {MAX_KEYS} keys")));
        }
        let mut keys = HashMap::new();
        for key in set.keys {
            let is_ours = key.alg == "EdDSA" && key.crv == "Ed25519";
            if !is_ours || key.status != "active" {
                continue;
            }
            let malformed = || Error::Malformed(format!("key `{}`: x is not 32 bytes", clipped(&key.kid)));
            let decoded = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &key.x);
            if decoded.map_err(|_| malformed())?.len() != 32 {
                return Err(malformed());
            }
            let decoding = DecodingKey::from_ed_components(&key.x).map_err(|_| malformed())?;
            // Which of two counted would be chance.
            if keys.insert(key.kid.clone(), decoding).is_some() {
                return Err(Error::Malformed(format!("two keys are called `{}`", clipped(&key.kid))));
            }
        }
        Ok(Self(keys))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keys").field(&self.0.keys()).finish()
    }
}

/// A list whose signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenList {
    /// The registry that issued it, a URL.
    pub issuer: String,
    /// Its own id.
    pub id: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it is out of date.
    pub expires_at: Timestamp,
    /// What it revokes.
    pub entries: Vec<TokenEntry>,
}

/// A token that is revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEntry {
    /// The token, at [`Level::Token`].
    pub target: Target,
    /// Whose it was.
    pub agent: String,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub revoked_at: Timestamp,
}

#[derive(Deserialize)]
struct Envelope {
    crl: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    jti: String,
    iat: i64,
    exp: i64,
    revocations: Vec<Revocation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Revocation {
    jti: String,
    agent_did: String,
    #[serde(default)]
    reason: Option<String>,
    revoked_at: i64,
}

impl TokenList {
    /// Reads the list of `issuer` and verifies its signature. That it has expired is for the caller to judge: what was
    /// revoked yesterday is no more valid today. `latest`: the latest time at which it may have been issued.
    pub fn read(json: &[u8], keys: &Keys, issuer: &str, latest: Timestamp) -> Result<Self, Error> {
        let envelope = serde_json::from_slice::<Envelope>(json);
        let envelope = envelope
            .map_err(|e| Error::Malformed(format!(r#"not {{"crl": ...}}: {}"#, clipped(&e.to_string()))))?;
        let claims = verified(&envelope.crl, keys)?;
        if claims.iss.trim_end_matches('/') != issuer.trim_end_matches('/') {
            return Err(Error::Issuer { found: clipped(&claims.iss), expected: issuer.to_owned() });
        }
        let (issued_at, expires_at) = (moment("iat", claims.iat)?, moment("exp", claims.exp)?);
        if issued_at > latest {
            return Err(Error::Future(issued_at));
        }
        if expires_at < issued_at {
            return Err(Error::Malformed(format!("exp {expires_at} is before iat {issued_at}")));
        }
        let entries = claims.revocations.into_iter().enumerate().map(|(i, entry)| entry.read(i));
        Ok(Self {
            issuer: issuer.trim_end_matches('/').to_owned(),
            id: claims.jti,
            issued_at,
            expires_at,
            entries: entries.collect::<Result<_, _>>()?,
        })
    }
}

impl Revocation {
    fn read(self, i: usize) -> Result<TokenEntry, Error> {
        let bad = |why: &dyn std::fmt::Display| Error::Malformed(format!("revocations[{i}]: {why}"));
        let target = Target::parse(Level::Token, &self.jti, None).map_err(|e| bad(&e))?;
        if !self.agent_did.starts_with("did:") || self.agent_did.contains(char::is_control) {
            return Err(bad(&"agentDid is not a DID"));
        }
        let reason = self.reason.filter(|reason| !reason.is_empty());
        if reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON) {
            return Err(bad(&format!("reason: over {MAX_REASON} characters")));
        }
        let revoked_at = moment("revokedAt", self.revoked_at).map_err(|e| bad(&e))?;
        Ok(TokenEntry { target, agent: self.agent_did, reason, revoked_at })
    }
}

fn verified(jws: &str, keys: &Keys) -> Result<Claims, Error> {
    let header = decode_header(jws)
        .map_err(|e| Error::Malformed(format!("not a JWS: {}", clipped(&e.to_string()))))?;
    // The algorithm is the key's, never what the list says; that it says another is worth a word.
    if header.alg != Algorithm::EdDSA || header.typ.as_deref() != Some(TYPE) {
        let typ = clipped(header.typ.as_deref().unwrap_or("none"));
        return Err(Error::Malformed(format!("header: {:?} and {typ}, not EdDSA and {TYPE}", header.alg)));
    }
    if header.crit.is_some() {
        return Err(Error::Malformed("header: `crit` asks for what is not understood".to_owned()));
    }
    let kid = header.kid.ok_or_else(|| Error::Malformed("header: no kid".to_owned()))?;
    let key = keys.0.get(&kid).ok_or_else(|| Error::UnknownKey(clipped(&kid)))?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let decoded = decode::<Claims>(jws, key, &validation).map_err(|e| match e.kind() {
        jsonwebtoken::errors::ErrorKind::Json(e) => {
            Error::Malformed(format!("claims: {}", clipped(&e.to_string())))
        }
        _ => Error::Signature,
    })?;
    Ok(decoded.claims)
}

fn moment(name: &str, secs: i64) -> Result<Timestamp, Error> {
    Timestamp::parse(&secs.to_string()).ok_or_else(|| Error::Malformed(format!("{name}: {secs} is no time")))
}

/// The beginning of foreign text, for a message.
fn clipped(text: &str) -> String {
    text.chars().take(160).flat_map(char::escape_default).collect()
}
