//! Headers: what a client may not say of itself, what upstreams are told instead, and what ends at each hop.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;

use super::RequestId;
use super::connection::Connection;
use crate::identity::Certificate;
use crate::identity::Identity;

/// The client's certificate and names, in Envoy's format.
pub(super) const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The client's certificate (RFC 9440, section 2.2).
pub(super) const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// The canonical name of the principal.
pub(super) const X_PORTCULLIS_PRINCIPAL: HeaderName = HeaderName::from_static("x-portcullis-principal");
/// What the log calls the request.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How many headers the gate adds, at most.
const ADDED: usize = 6;

/// Names by which upstreams learn who a client is and what it asked for, of ours and of other proxies; never believed from a
/// client.
const IDENTITY: [&str; 20] = [
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "remote-user",
    "ssl-cert",
    "true-client-ip",
    "x-arr-clientcert",
    "x-client-cert",
    "x-client-dn",
    "x-client-ip",
    "x-client-verify",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-remote-user",
    "x-request-id",
    "x-rewrite-url",
    "x-spiffe-id",
    "x-ssl-cert",
    "x-webauth-user",
];
/// The same, whole families.
const IDENTITY_PREFIXES: [&str; 7] = [
    "x-portcullis-",
    "x-ssl-client",
    "ssl-client",
    "x-amzn-mtls-",
    "x-auth-request-",
    "x-forwarded-",
    "x-goog-authenticated-user-",
];
/// What upstreams are told about a client, rendered once a chain.
#[derive(Clone, Debug)]
pub(super) struct IdentityHeaders {
    xfcc: HeaderValue,
    certificate: HeaderValue,
    principal: Option<HeaderValue>,
}

impl IdentityHeaders {
    pub(super) fn new(leaf: &Certificate, identity: Option<&Identity>) -> Self {
        let certificate = format!(":{}:", STANDARD.encode(&leaf.der));
        let principal = identity.and_then(|identity| HeaderValue::try_from(identity.principal.as_str()).ok());
        Self { xfcc: value(xfcc(leaf)), certificate: value(certificate), principal }
    }
}

/// Headers in which clients name their agent id.
#[derive(Clone, Copy)]
pub(super) struct Claims<'a> {
    /// The one that was bound: it may pass, in its one spelling.
    pub(super) own: Option<&'a HeaderName>,
    /// Those of all routes: what was not bound here says nothing.
    pub(super) all: &'a [HeaderName],
}

/// Makes a request's headers those of the next hop: the client's word about itself out, the gate's in.
pub(super) fn forward(headers: &mut HeaderMap, connection: &Connection, id: RequestId, claims: Claims<'_>) {
    end_hop(headers, claims.own);
    scrub(headers, claims);
    join_cookies(headers);
    // `te: trailers` may pass (RFC 9110, section 10.1.4); no other coding ends anywhere but here.
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_if(headers, |name| name == "expect" || (name == "te" && !trailers));
    headers.reserve(ADDED);
    headers.insert(X_REQUEST_ID, id.value());
    headers.insert(X_FORWARDED_FOR, connection.address_value().clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    if let Some(peer) = connection.peer() {
        headers.insert(X_FORWARDED_CLIENT_CERT, peer.headers.xfcc.clone());
        headers.insert(CLIENT_CERT, peer.headers.certificate.clone());
        if let Some(principal) = &peer.headers.principal {
            headers.insert(X_PORTCULLIS_PRINCIPAL, principal.clone());
        }
    }
}

/// Makes a request's trailers those of the next hop. Nothing in them was bound: claims go as well.
pub(super) fn forward_trailers(trailers: &mut HeaderMap, claims: &[HeaderName]) {
    end_hop(trailers, None);
    scrub(trailers, Claims { own: None, all: claims });
}

/// Removes what concerns one hop only (RFC 9110, section 7.6.1), and what `Connection` names; but a client cannot name
/// away where its request goes, nor `bound`, the claim that it was let through for.
pub(super) fn end_hop(headers: &mut HeaderMap, bound: Option<&HeaderName>) {
    if headers.contains_key(header::CONNECTION) {
        for name in named_by_connection(headers) {
            if name != header::HOST && Some(&name) != bound {
                headers.remove(name);
            }
        }
    }
    remove_if(headers, is_hop_by_hop);
}

/// HTTP/2 clients may send a cookie in crumbs, which other protocols do not know (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

/// Removes identity headers and claims in every spelling; of the claim that was bound, every spelling but its own.
pub(super) fn scrub(headers: &mut HeaderMap, claims: Claims<'_>) {
    let claimed = |name: &str| claims.all.iter().any(|claim| same(name, claim.as_str()));
    let bound = |name: &str| claims.own.is_some_and(|own| own.as_str() == name);
    remove_if(headers, |name| !bound(name) && (is_identity(name) || claimed(name)));
}

/// Allocates nothing; most messages hold one such header, or none.
fn remove_if(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| unwanted(name.as_str())).cloned() {
        headers.remove(name);
    }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    // These go anyway.
    let ignored = ["close", "keep-alive", "upgrade", "te", ""];
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(',').map(str::trim))
        .filter(|token| !ignored.iter().any(|other| other.eq_ignore_ascii_case(token)))
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .collect()
}

/// `te` is looked at by itself.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Whether a name is one by which upstreams learn who a client is; underscores count as dashes, as they do in CGI.
fn is_identity(name: &str) -> bool {
    // Most headers are none of these by their first letter.
    matches!(name.as_bytes().first(), Some(b'c' | b'f' | b'r' | b's' | b't' | b'x'))
        && (IDENTITY.iter().any(|known| same(name, known))
            || IDENTITY_PREFIXES
                .iter()
                .any(|prefix| name.get(..prefix.len()).is_some_and(|head| same(head, prefix))))
}

fn same(name: &str, known: &str) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    name.len() == known.len() && name.bytes().map(dashed).eq(known.bytes().map(dashed))
}

/// `Hash=...;Subject="...";URI=...;DNS=...`: Envoy's elements, without `By` and `Chain`.
fn xfcc(leaf: &Certificate) -> String {
    let mut text = format!(
        "Hash={};Subject=\"{}\"",
        leaf.sha256,
        leaf.subject_dn.replace('\\', "\\\\").replace('"', "\\\"")
    );
    if let Ok(subject) = &leaf.subject {
        if let Some(id) = &subject.spiffe {
            let _ = write!(text, ";URI={id}");
        }
        for name in &subject.dns {
            let _ = write!(text, ";DNS={name}");
        }
    }
    text
}

/// All that is put in here is printable ASCII by construction; anything else becomes an empty value, never a panic.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn identity_headers_go_in_every_spelling() {
        let claim = HeaderName::from_static("x-agent-id");
        let mut headers = map(&[
            ("X-Forwarded-Client-Cert", "a"),
            ("x_forwarded_client_cert", "a"),
            ("X-Forwarded_Client-Cert", "a"),
            ("Client-Cert", "a"),
            ("client_cert_chain", "a"),
            ("x-portcullis-anything", "a"),
            ("X_PORTCULLIS_PRINCIPAL", "a"),
            ("ssl_client_s_dn", "a"),
            ("X-Amzn-Mtls-Clientcert", "a"),
            ("x-request-id", "a"),
            ("x_agent_id", "spoof"),
            ("x-agent_id", "spoof"),
            ("x-agent-id", "a"),
            ("x-agent-id-2", "b"),
            ("client-certificate-policy", "c"),
            ("cookie", "d"),
        ]);
        let other = HeaderName::from_static("x-agent-id-2");
        scrub(&mut headers, Claims { own: Some(&claim), all: &[claim.clone(), other] });
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["client-certificate-policy", "cookie", "x-agent-id"]);
    }

    #[test]
    fn what_connection_names_ends_here() {
        let mut headers = map(&[
            ("connection", "close, X-Secret , te, host"),
            ("host", "a.test"),
            ("x-secret", "1"),
            ("keep-alive", "5"),
            ("proxy-authorization", "x"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ]);
        end_hop(&mut headers, None);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host"]);
    }
}
