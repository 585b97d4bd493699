//! Amazon SNS: notifications, and who signed them.
//!
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html>. **Invariant:** where signatures
//! are verified, nothing of a notification is used before its own has held.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use aws_lc_rs::signature::ParsedPublicKey;
use aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::Closed;
use super::Poison;
use super::json::Fields;
use super::json::required;
use super::sns_url::SigningUrl;
use crate::clock::Timestamp;

/// So many certificates that were fetched are kept: one a region, and its successor.
const MAX_FETCHED: usize = 16;
/// A longer certificate is none of SNS.
const MAX_PEM: usize = 64 * 1024;

/// What a notification must be.
#[derive(Debug, Default)]
pub(super) struct Rules {
    verify: bool,
    topics: Vec<String>,
    pinned: Vec<Certificate>,
    /// By the URL that they came from, the one that was fetched first in front.
    fetched: Mutex<VecDeque<(String, Arc<Certificate>)>>,
}

/// A notification that meets the rules.
#[derive(Debug)]
pub(super) struct Notification {
    pub(super) message: String,
    pub(super) id: String,
    pub(super) at: Timestamp,
}

/// The key of a certificate, and when it may be used.
struct Certificate {
    key: ParsedPublicKey,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// What a notification says of itself, as it is signed.
struct Claims {
    message: String,
    id: String,
    subject: Option<String>,
    timestamp: String,
    topic: String,
}

impl Rules {
    /// Reads the certificates that are pinned.
    pub(super) fn read(verify: bool, topics: &[String], certificates: &[PathBuf]) -> Result<Self, String> {
        let mut pinned = Vec::new();
        for file in certificates {
            let fail = |why: String| format!("{}: {why}", file.display());
            let pem = std::fs::read(file).map_err(|e| fail(e.to_string()))?;
            let each = CertificateDer::pem_slice_iter(&pem);
            let before = pinned.len();
            for der in each {
                let der = der.map_err(|e| fail(format!("no PEM can be read: {e}")))?;
                pinned.push(Certificate::parse(&der, |_| true).map_err(|why| fail(why.to_owned()))?);
            }
            if pinned.len() == before {
                return Err(fail("no certificate in it (PEM)".to_owned()));
            }
        }
        Ok(Self { verify, topics: topics.to_vec(), pinned, fetched: Mutex::default() })
    }

    /// Whether only notifications are taken. Anything else beside them could be sent to the queue by whoever wants to
    /// get around the check.
    pub(super) fn are_strict(&self) -> bool {
        self.verify || !self.topics.is_empty()
    }

    /// Opens a notification. Without `sent`, the time at which its certificate must be valid, no signature is verified:
    /// only whether its certificate is known.
    pub(super) fn open(&self, fields: &Fields<'_>, sent: Option<Timestamp>) -> Result<Notification, Closed> {
        match fields.raw("Type") {
            Some("\"Notification\"") => {}
            Some("\"SubscriptionConfirmation\"") => {
                let why = "a subscription to be confirmed: visit its SubscribeURL, or subscribe from the queue's account";
                return Err(envelope(why).into());
            }
            _ => return Err(envelope("`Type` is not Notification").into()),
        }
        let claims = Claims::read(fields).map_err(|poison| envelope(&poison.reason))?;
        if !self.topics.is_empty() && !self.topics.contains(&claims.topic) {
            let why = "`TopicArn` is none of `feed.sqs.sns.topics`";
            return Err(Poison::new("wrong_topic", why).into());
        }
        if self.verify {
            self.verify(fields, &claims, sent)?;
        }
        // Digits alone are no RFC 3339.
        let at = Timestamp::parse(&claims.timestamp).filter(|_| claims.timestamp.contains('T'));
        let at = at.ok_or_else(|| envelope("`Timestamp`: not rfc 3339"))?;
        Ok(Notification { message: claims.message, id: claims.id, at })
    }

    fn verify(&self, fields: &Fields<'_>, claims: &Claims, sent: Option<Timestamp>) -> Result<(), Closed> {
        let bad = |why: &str| Poison::new("bad_signature", why);
        let text = |name| fields.string(name).ok().flatten();
        match text("SignatureVersion").as_deref() {
            Some("2") => {}
            Some("1") => {
                let why = "`SignatureVersion` 1 is SHA-1: set the topic's attribute SignatureVersion to 2";
                return Err(bad(why).into());
            }
            _ => return Err(bad("`SignatureVersion` is not 2").into()),
        }
        let signature = text("Signature").and_then(|text| BASE64_STANDARD.decode(text).ok());
        let signature = signature.ok_or_else(|| bad("`Signature` is missing or not base64"))?;
        let keys = self.certificates(text("SigningCertURL").as_deref(), &claims.topic)?;
        let Some(sent) = sent else { return Ok(()) };
        let signed = claims.canonical();
        let holds = |certificate: &&Certificate| {
            certificate.is_valid(sent) && certificate.key.verify_sig(signed.as_bytes(), &signature).is_ok()
        };
        let known = keys.as_deref().map(std::slice::from_ref).unwrap_or(&self.pinned);
        match known.iter().find(holds) {
            Some(_) => Ok(()),
            None => Err(bad("`Signature` does not hold, or its certificate was not valid then").into()),
        }
    }

    /// The certificate that a notification names; `None` where the pinned ones count.
    fn certificates(&self, url: Option<&str>, topic: &str) -> Result<Option<Arc<Certificate>>, Closed> {
        if !self.pinned.is_empty() {
            return Ok(None);
        }
        let url = SigningUrl::parse(url.unwrap_or_default())?;
        url.is_of(topic)?;
        let fetched = self.fetched();
        let known = fetched.iter().find(|(known, _)| *known == url.as_str());
        known.map(|(_, known)| Some(Arc::clone(known))).ok_or_else(|| Closed::Wants(url.as_str().to_owned()))
    }

    /// Takes a certificate in that was fetched, over TLS that was verified, from `url`.
    pub(super) fn learn(&self, url: &str, pem: &[u8], now: Timestamp) -> Result<(), Poison> {
        let bad = |why: &str| Poison::new("bad_certificate", format!("{}: {why}", super::clip(url)));
        let url = SigningUrl::parse(url)?;
        if pem.len() > MAX_PEM {
            return Err(bad("too long for a certificate"));
        }
        let der = CertificateDer::from_pem_slice(pem).map_err(|_| bad("no certificate in it (PEM)"))?;
        let certificate = Certificate::parse(&der, |name| url.may_be_signed_by(name)).map_err(bad)?;
        if !certificate.is_valid(now) {
            return Err(bad("not valid now"));
        }
        let mut fetched = self.fetched();
        fetched.retain(|(known, _)| *known != url.as_str());
        if fetched.len() == MAX_FETCHED {
            fetched.pop_front();
        }
        fetched.push_back((url.as_str().to_owned(), Arc::new(certificate)));
        Ok(())
    }

    fn fetched(&self) -> MutexGuard<'_, VecDeque<(String, Arc<Certificate>)>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claims {
    fn read(fields: &Fields<'_>) -> Result<Self, Poison> {
        // Without line breaks in these, a signed text can be taken apart in one way only: see `canonical`.
        let line = |name: &'static str| fields.text(name, 512);
        // The longest for which an id of a part still fits.
        let id = required("MessageId", fields.id("MessageId")?)?;
        if id.len() > 100 {
            return Err(super::json::bad("MessageId", "over 100 characters"));
        }
        let subject = if fields.raw("Subject") == Some("null") { None } else { line("Subject")? };
        Ok(Self {
            message: required("Message", fields.string("Message")?)?,
            id,
            subject,
            timestamp: required("Timestamp", line("Timestamp")?)?,
            topic: required("TopicArn", line("TopicArn")?)?,
        })
    }

    /// What is signed: each name and value on a line of its own.
    fn canonical(&self) -> String {
        let subject =
            self.subject.as_ref().map(|subject| format!("Subject\n{subject}\n")).unwrap_or_default();
        format!(
            "Message\n{}\nMessageId\n{}\n{subject}Timestamp\n{}\nTopicArn\n{}\nType\nNotification\n",
            self.message, self.id, self.timestamp, self.topic
        )
    }
}

impl Certificate {
    /// The key of a certificate that was issued to a name which is `right`.
    fn parse(der: &CertificateDer<'_>, right: impl Fn(&str) -> bool) -> Result<Self, &'static str> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| "not a certificate")?;
        if !rest.is_empty() {
            return Err("something behind the certificate");
        }
        let alternative = parsed.subject_alternative_name().map_err(|_| "its names cannot be read")?;
        let issued_to = match alternative {
            Some(names) => names.value.general_names.iter().any(|name| match name {
                GeneralName::DNSName(name) => right(name),
                _ => false,
            }),
            None => parsed.subject().iter_common_name().any(|name| name.as_str().is_ok_and(&right)),
        };
        // A certificate without any name satisfies nobody who asks for one.
        if !issued_to && !right("") {
            return Err("issued to somebody else than Amazon SNS");
        }
        let key = parsed.public_key().subject_public_key.data.as_ref();
        let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key);
        Ok(Self {
            key: key.map_err(|_| "not the certificate of an rsa key of 2048 to 8192 bits")?,
            not_before: Timestamp::from_secs(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_secs(parsed.validity().not_after.timestamp()),
        })
    }

    fn is_valid(&self, at: Timestamp) -> bool {
        self.not_before <= at && at <= self.not_after
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.not_before, self.not_after)
    }
}

fn envelope(why: &str) -> Poison {
    Poison::new("bad_envelope", format!("sns: {why}"))
}
