//! Events that are signed: a compact JWS (RFC 7515) whose payload is an event of ours, or a batch of them.
//!
//! The header is `{"alg", "kid", "typ": "portcullis+jws"}`. **Invariant:** the key says which algorithm it is for, the
//! header only repeats it; and a JWS that was made for something else with the same key has another `typ`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED;
use aws_lc_rs::signature::ED25519;
use aws_lc_rs::signature::ParsedPublicKey;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use super::Poison;
use super::json::Fields;

/// What the header must say that it is (RFC 8725, section 3.11).
const TYPE: &str = "portcullis+jws";
/// A shorter secret could be guessed.
const MIN_SECRET: usize = 32;
/// No key is longer.
const MAX_KEY: u64 = 16 * 1024;
/// `id-Ed25519` (RFC 8410).
const ED25519_OID: &str = "1.3.101.112";
/// `id-ecPublicKey` and, as its parameter, P-256 (RFC 5480).
const EC_OID: &str = "1.2.840.10045.2.1";
const P256_OID: &str = "1.2.840.10045.3.1.7";

/// The keys that may sign events, by key id.
#[derive(Debug, Default)]
pub(super) struct Keys(BTreeMap<String, Key>);

enum Key {
    Ed25519(ParsedPublicKey),
    P256(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

impl Keys {
    /// Reads the key files.
    ///
    /// # Errors
    /// The key id, the file and what is wrong with it; nothing of what is in it.
    pub(super) fn read(files: &BTreeMap<String, PathBuf>) -> Result<Self, String> {
        let read = |(id, file): (&String, &PathBuf)| match read_key(file) {
            Ok(key) => Ok((id.clone(), key)),
            Err(why) => Err(format!("`{id}`: {}: {why}", file.display())),
        };
        files.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The payload of a compact JWS, once one of the keys has signed it.
    pub(super) fn open(&self, jws: &str) -> Result<String, Poison> {
        let bad = |why: &str| Poison::new("bad_signature", why);
        let mut parts = jws.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad("not a compact jws: three parts are needed"));
        };
        let text = decode(header).ok_or_else(|| bad("the header of the jws is not base64url"))?;
        let key = self.named_by(&text).map_err(|why| bad(&why))?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature);
        let signature = signature.map_err(|_| bad("the signature of the jws is not base64url"))?;
        let message = jws.get(..header.len() + 1 + payload.len()).unwrap_or_default();
        if !key.has_signed(message.as_bytes(), &signature) {
            return Err(bad("the signature of the jws does not hold"));
        }
        decode(payload).ok_or_else(|| bad("the payload of the jws is not text in base64url"))
    }

    /// The key of a header that asks for nothing else.
    fn named_by(&self, header: &str) -> Result<&Key, String> {
        let fields = match header.starts_with('{') {
            true => {
                Fields::read(header).map_err(|poison| format!("the header of the jws: {}", poison.reason))?
            }
            false => return Err("the header of the jws is no object".to_owned()),
        };
        let text = |name| fields.text(name, 256).ok().flatten();
        if text("typ").as_deref() != Some(TYPE) {
            return Err(format!("`typ` of the jws is not `{TYPE}`: it was made for something else"));
        }
        // What an extension means is not known here, and it demands to be (RFC 7515, section 4.1.11).
        if fields.has("crit") || fields.has("b64") {
            return Err("the jws asks for an extension (`crit`)".to_owned());
        }
        let id = text("kid").ok_or("the jws names no key (`kid`)")?;
        let key = self.0.get(&id).ok_or("`kid` of the jws is none of `feed.sqs.keys`")?;
        if text("alg").as_deref() != Some(key.algorithm()) {
            return Err(format!("`alg` of the jws is not that of its key, {}", key.algorithm()));
        }
        Ok(key)
    }
}

impl Key {
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::P256(_) => "ES256",
            Self::Secret(_) => "HS256",
        }
    }

    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) | Self::P256(key) => key.verify_sig(message, signature).is_ok(),
            Self::Secret(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm())
    }
}

/// Whether a text looks like a compact JWS: nothing else that is known does.
pub(super) fn is_compact(text: &str) -> bool {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes().filter(|byte| *byte == b'.').count() == 2 && text.bytes().all(part)
}

fn decode(part: &str) -> Option<String> {
    String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn read_key(file: &Path) -> Result<Key, String> {
    let length = std::fs::metadata(file).map_err(|e| e.to_string())?.len();
    if length > MAX_KEY {
        return Err(format!("{length} bytes: no key is that long"));
    }
    let bytes = std::fs::read(file).map(Zeroizing::new).map_err(|e| e.to_string())?;
    if bytes.trim_ascii().is_empty() {
        return Err("it is empty".to_owned());
    }
    if bytes.windows(10).any(|window| window == b"-----BEGIN") {
        return public_key(&bytes);
    }
    // Whoever has a public key could sign with it, if it were taken for a secret.
    if let Some(public) = other_than_a_secret(&bytes) {
        return Err(format!("{public}; a public key must be PEM, of Ed25519 or P-256"));
    }
    let secret = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.len() < MIN_SECRET {
        return Err(format!(
            "a secret of {} bytes; {MIN_SECRET} are needed, such as `openssl rand -hex 32` makes",
            secret.len()
        ));
    }
    Ok(Key::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))))
}

fn public_key(pem: &[u8]) -> Result<Key, String> {
    let mut keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem);
    let der = match keys.next() {
        Some(Ok(der)) => der,
        Some(Err(error)) => return Err(format!("no PEM can be read: {error}")),
        None => return Err("PEM without a PUBLIC KEY".to_owned()),
    };
    if keys.next().is_some() {
        return Err("PEM with more than one PUBLIC KEY".to_owned());
    }
    let wrong = || "not the public key of Ed25519 or P-256".to_owned();
    let (rest, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| wrong())?;
    let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let curve = curve.map(|oid| oid.to_id_string());
    let bytes = info.subject_public_key.data.as_ref();
    match (rest, info.algorithm.algorithm.to_id_string().as_str(), curve.as_deref()) {
        ([], ED25519_OID, None) => {
            ParsedPublicKey::new(&ED25519, bytes).map(Key::Ed25519).map_err(|_| wrong())
        }
        ([], EC_OID, Some(P256_OID)) => {
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).map(Key::P256).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

/// What everybody may know, in a form in which it is often kept.
fn other_than_a_secret(bytes: &[u8]) -> Option<&'static str> {
    if SubjectPublicKeyInfo::from_der(bytes).is_ok() {
        return Some("a public key in DER");
    }
    if X509Certificate::from_der(&CertificateDer::from(bytes)).is_ok() {
        return Some("a certificate in DER");
    }
    let text = bytes.trim_ascii();
    if text.starts_with(b"{") {
        return Some("a key in JSON");
    }
    let ssh = [&b"ssh-"[..], b"ecdsa-sha2-", b"sk-"].iter().any(|start| text.starts_with(start));
    ssh.then_some("a key of ssh")
}
