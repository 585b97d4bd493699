//! Whose list a feed takes: the gate's client authorities, or one that is named.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::Error;
use crate::identity::Anchor;
use crate::identity::AnchorUse;
use crate::identity::Certificate;
use crate::identity::KeyId;
use crate::revocation::Level;
use crate::revocation::Target;
use crate::revocation::crl::IssuerError;
use crate::revocation::crl::Issuers;

/// Whose lists are taken.
#[derive(Clone, Debug)]
pub(super) struct Authorities {
    pub(super) issuers: Arc<Issuers>,
    /// Those whose certificates the lists revoke; `None`: any client authority.
    scope: Option<Vec<Certificate>>,
}

impl Authorities {
    /// The gate's client authorities.
    pub(super) fn any(pool: &Pool<'_>) -> Result<Self, Error> {
        let keys = pool.anchors.iter().filter_map(parse).map(|anchor| anchor.key).collect();
        let (issuers, _) = pool.issuers()?;
        Ok(Self { issuers: Arc::new(issuers.only(keys)), scope: None })
    }

    /// The one in these certificates that issued no other of them. Each is a client authority, or must be signed by
    /// one, or by another of them; their order makes no difference.
    pub(super) fn named(pool: &Pool<'_>, certificates: &[CertificateDer<'static>]) -> Result<Self, Error> {
        let refused = |reason| Error { key: "issuer", reason };
        let own = lowest(certificates).map_err(refused)?;
        if !own.iter().any(|own| own.signs_lists) {
            let first = own.first().and_then(|own| certificates.iter().position(|der| *der == own.der));
            let place = first.map_or(1, |first| first + 1);
            return Err(refused(format!(
                "certificate {place}: may not sign revocation lists: its key usage lacks cRLSign"
            )));
        }
        // By themselves: what another feed's file holds vouches for nobody here.
        let (_, failed) = Pool { anchors: pool.anchors, others: certificates }.issuers()?;
        let is_anchor = |key: &KeyId| pool.anchors.iter().filter_map(parse).any(|anchor| anchor.key == *key);
        let unknown: Vec<_> = failed.iter().filter(|(key, _)| !is_anchor(key)).collect();
        if unknown.iter().any(|(key, _)| own.iter().any(|own| own.key == *key)) {
            // What stands between it and the client authorities may be at fault.
            let why: Vec<String> = unknown.iter().map(|(_, error)| error.to_string()).collect();
            return Err(refused(why.join("; ")));
        }
        Self::of(pool, own)
    }

    /// The authorities `own`.
    pub(super) fn of(pool: &Pool<'_>, own: Vec<Certificate>) -> Result<Self, Error> {
        let (issuers, _) = pool.issuers()?;
        let keys = own.iter().map(|own| own.key.clone()).collect();
        Ok(Self { issuers: Arc::new(issuers.only(keys)), scope: Some(own) })
    }

    /// What depends on their lists; `None`: everything may.
    pub(super) fn scope(&self) -> Option<Vec<Target>> {
        let ids = |own: &Certificate| [Some(own.key.clone()), own.key_id.clone()].into_iter().flatten();
        let target = |id: KeyId| Target::parse(Level::Issuer, id.as_str(), None).ok();
        self.scope.as_ref().map(|own| own.iter().flat_map(ids).filter_map(target).collect())
    }
}

/// Every authority that is configured. All feeds know all of them, so that the same list speaks for the same keys
/// whichever feed brings it: else two feeds would take turns in undoing what the other said of an authority's old
/// key.
#[derive(Clone, Copy)]
pub(super) struct Pool<'a> {
    /// The gate's client authorities.
    pub(super) anchors: &'a [CertificateDer<'static>],
    /// What the feeds name beside them.
    pub(super) others: &'a [CertificateDer<'static>],
}

impl Pool<'_> {
    /// Those that are believed, and why the others are not.
    fn issuers(&self) -> Result<(Issuers, Vec<(KeyId, IssuerError)>), Error> {
        let mut issuers = believed(self.anchors)?;
        let failed = vouch(&mut issuers, self.others);
        Ok((issuers, failed))
    }
}

/// The certificates in a PEM file, at least one.
pub(super) fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |reason: String| format!("{}: {reason}", file.display());
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(failed("holds no certificate (PEM)".to_owned())),
        Ok(found) => {
            for (i, der) in found.iter().enumerate() {
                let anchor = Anchor::read(der, AnchorUse::Lists);
                anchor.map_err(|error| failed(format!("certificate {}: {error}", i + 1)))?;
            }
            Ok(found)
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The subject and the issuer of a certificate, DER.
pub(super) fn names(der: &CertificateDer<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    Some((parsed.subject().as_raw().to_vec(), parsed.issuer().as_raw().to_vec()))
}

pub(super) fn parse(der: &CertificateDer<'static>) -> Option<Certificate> {
    Certificate::parse(der).ok()
}

/// The client authorities. One that may not sign lists is none here; one at least must be left.
fn believed(anchors: &[CertificateDer<'static>]) -> Result<Issuers, Error> {
    let mut issuers = Issuers::new();
    let mut refused = Vec::new();
    for anchor in anchors {
        if let Err(error) = issuers.add_anchor(anchor) {
            refused.push(error.to_string());
        }
    }
    match refused.len() {
        0 => {}
        some if some == anchors.len() => {
            let reason = format!("no client authority may sign a list: {}", refused.join("; "));
            return Err(Error { key: "issuer", reason });
        }
        _ => tracing::warn!(
            why = refused.join("; "),
            "no revocation list of these client authorities is taken"
        ),
    }
    Ok(issuers)
}

/// Adds what can be added, in whatever order; returns the rest.
fn vouch(issuers: &mut Issuers, others: &[CertificateDer<'static>]) -> Vec<(KeyId, IssuerError)> {
    let mut left: Vec<&CertificateDer<'static>> = others.iter().collect();
    loop {
        let before = left.len();
        let mut failed = Vec::new();
        left.retain(|der| match (issuers.add_intermediate(der), parse(der)) {
            (Err(error), Some(certificate)) => {
                failed.push((certificate.key, error));
                true
            }
            _ => false,
        });
        if left.is_empty() || left.len() == before {
            return failed;
        }
    }
}

/// Those that issued no other, which must be of one name.
fn lowest(certificates: &[CertificateDer<'static>]) -> Result<Vec<Certificate>, String> {
    let parsed = certificates.iter().map(|der| {
        let certificate = Certificate::parse(der).map_err(|e| e.to_string())?;
        let (subject, issuer) = names(der).ok_or("not a certificate")?;
        Ok::<_, String>((certificate, subject, issuer))
    });
    let parsed: Vec<(Certificate, Vec<u8>, Vec<u8>)> = parsed.collect::<Result<_, _>>()?;
    let issued =
        |subject: &Vec<u8>| parsed.iter().any(|(_, other, issuer)| issuer == subject && other != subject);
    let lowest: Vec<_> = parsed.iter().filter(|(_, subject, _)| !issued(subject)).collect();
    if let Some(((first, name, _), rest)) = lowest.split_first()
        && let Some((other, ..)) = rest.iter().find(|(_, other, _)| other != name)
    {
        let (first, other) = (&first.subject_dn, &other.subject_dn);
        return Err(format!("two authorities, {first} and {other}: a feed is for one"));
    }
    if lowest.is_empty() {
        return Err("each of its authorities is issued by another of them".to_owned());
    }
    Ok(lowest.into_iter().map(|(certificate, ..)| certificate.clone()).collect())
}
