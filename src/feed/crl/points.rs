//! Where authorities say that their lists are: the CRL distribution points in their own certificates (RFC 5280,
//! section 4.2.1.13). Only in certificates that are configured, never in one that a client brings.

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::CRLDistributionPoint;
use x509_parser::extensions::DistributionPointName;
use x509_parser::extensions::GeneralName;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

use super::authorities::names;
use super::authorities::parse;
use crate::feed::fetch::Url;
use crate::identity::Certificate;

/// One list that an authority's certificate points to: that of who issued it.
pub(super) struct Point {
    pub(super) url: Url,
    /// Who issued the certificate, and so the list: several where an authority has a new key.
    pub(super) authority: Vec<Certificate>,
}

impl Point {
    /// What a feed for it is called, unless that is taken.
    pub(super) fn name(&self) -> String {
        let subject = self.authority.first().map_or("", |first| &first.subject_dn);
        let common = subject.split(',').find_map(|part| part.strip_prefix("CN=")).unwrap_or(subject);
        let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
        let name: String = common.chars().take(48).map(fits).collect();
        format!("ca-{}", name.to_ascii_lowercase())
    }
}

/// Every list that one of these certificates points to, once. What cannot be used is said in the log.
pub(super) fn discover(authorities: &[CertificateDer<'static>]) -> Vec<Point> {
    let mut found: Vec<Point> = Vec::new();
    for der in authorities {
        let Some((certificate, (_, issuer))) = parse(der).zip(names(der)) else { continue };
        let urls = urls(der, &certificate.subject_dn);
        let is_issuer =
            |other: &&CertificateDer<'static>| names(other).is_some_and(|(subject, _)| subject == issuer);
        let authority: Vec<Certificate> = authorities.iter().filter(is_issuer).filter_map(parse).collect();
        if authority.is_empty() && !urls.is_empty() {
            let of = certificate.subject_dn;
            tracing::warn!(
                of,
                "its distribution points are left out: the authority that issued it is not configured"
            );
            continue;
        }
        for url in urls {
            if !found.iter().any(|point| point.url == url) {
                found.push(Point { url, authority: authority.clone() });
            }
        }
    }
    found
}

/// Of each distribution point the first URL that can be fetched over the network: the others lead to the same list.
fn urls(der: &CertificateDer<'_>, of: &str) -> Vec<Url> {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return Vec::new() };
    let points = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::CRLDistributionPoints(points) => Some(&points.points),
        _ => None,
    });
    let mut urls = Vec::new();
    for point in points.into_iter().flatten() {
        match url(point) {
            Ok(url) => urls.push(url),
            Err(why) => tracing::warn!(of, why, "a distribution point is left out"),
        }
    }
    urls
}

fn url(point: &CRLDistributionPoint<'_>) -> Result<Url, String> {
    if point.crl_issuer.is_some() {
        return Err("its list is signed by another authority (cRLIssuer)".to_owned());
    }
    if point.reasons.is_some() {
        return Err("its list is for some reasons only".to_owned());
    }
    let Some(DistributionPointName::FullName(names)) = &point.distribution_point else {
        return Err("it has no full name".to_owned());
    };
    let mut why = "it has no URL".to_owned();
    for name in names {
        let GeneralName::URI(uri) = name else { continue };
        match Url::parse(uri) {
            Ok(url) if url.is_remote() => return Ok(url),
            Ok(_) => why = "a file, which only the configuration may name".to_owned(),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}
