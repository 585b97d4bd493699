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
use super::names::ClaimHeaders;
use super::names::Section;
use super::names::is_hop_by_hop;
use super::names::may_pass;
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
const ADDED: usize = 7;

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

    /// How long they are.
    pub(super) fn bytes(&self) -> usize {
        let principal = self.principal.as_ref().map_or(0, HeaderValue::len);
        self.xfcc.len() + self.certificate.len() + principal
    }
}

/// Makes a request's headers those of the next hop: the client's word about itself out, the gate's in.
pub(super) fn forward(
    headers: &mut HeaderMap,
    connection: &Connection,
    id: RequestId,
    claims: ClaimHeaders<'_>,
) {
    let trailers = takes_trailers(headers);
    end_named(headers, claims.own);
    scrub(headers, Section::Header, claims);
    join_cookies(headers);
    remove_if(headers, |name| name == header::EXPECT || (name == header::TE && !trailers));
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
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
    end_named(trailers, None);
    scrub(trailers, Section::Trailer, ClaimHeaders { own: None, all: claims });
}

/// Removes from a response what concerns one hop only (RFC 9110, section 7.6.1), and what `Connection` names.
pub(super) fn end_hop(headers: &mut HeaderMap) {
    end_named(headers, None);
    remove_if(headers, is_hop_by_hop);
}

/// Removes what `Connection` names, on each of its lines; but a client cannot name away where its request goes and has been,
/// nor `bound`, the claim that it was let through for.
fn end_named(headers: &mut HeaderMap, bound: Option<&HeaderName>) {
    if headers.contains_key(header::CONNECTION) {
        for name in named_by_connection(headers) {
            if name != header::HOST && name != header::VIA && Some(&name) != bound {
                headers.remove(name);
            }
        }
    }
}

/// Whether any line of `TE` says that trailers are welcome (RFC 9110, section 10.1.4); only that passes, other codings end
/// here.
fn takes_trailers(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TE).iter();
    lines.any(|line| members(line).any(|member| member.eq_ignore_ascii_case(b"trailers")))
}

/// The members of a list in one line of a field.
pub(super) fn members(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
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

/// Removes every field that a client may not send.
pub(super) fn scrub(headers: &mut HeaderMap, section: Section, claims: ClaimHeaders<'_>) {
    remove_if(headers, |name| !may_pass(name, section, claims));
}

/// Allocates nothing; most messages hold one such header, or none.
fn remove_if(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| unwanted(name)).cloned() {
        headers.remove(name);
    }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    // These go anyway.
    let ignored = ["close", "keep-alive", "upgrade", "te", ""];
    let lines = headers.get_all(header::CONNECTION).iter();
    lines
        .flat_map(members)
        .filter(|member| !ignored.iter().any(|other| other.as_bytes().eq_ignore_ascii_case(member)))
        .filter_map(|member| HeaderName::from_bytes(member).ok())
        .collect()
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

    fn left(headers: &HeaderMap) -> Vec<&str> {
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn identity_headers_go_in_every_spelling() {
        let claim = HeaderName::from_static("x-agent-id");
        let mut headers = map(&[
            ("X-Forwarded-Client-Cert", "a"),
            ("x_forwarded_client_cert", "a"),
            ("X-Forwarded_Client-Cert", "a"),
            ("x+forwarded+client+cert", "a"),
            ("Client-Cert", "a"),
            ("client.cert", "a"),
            ("client_cert_chain", "a"),
            ("x-portcullis-anything", "a"),
            ("X~Portcullis~Principal", "a"),
            ("ssl_client_s_dn", "a"),
            ("X-Amzn-Mtls-Clientcert", "a"),
            ("x-request-id", "a"),
            ("x_agent_id", "spoof"),
            ("x.agent.id", "spoof"),
            ("x-agent_id", "spoof"),
            ("x-agent-id", "a"),
            ("x-agent-id-2", "b"),
            ("client-certificate-policy", "c"),
            ("cookie", "d"),
        ]);
        let other = HeaderName::from_static("x-agent-id-2");
        let claims = ClaimHeaders { own: Some(&claim), all: &[claim.clone(), other] };
        scrub(&mut headers, Section::Header, claims);
        assert_eq!(left(&headers), ["client-certificate-policy", "cookie", "x-agent-id"]);
    }

    /// Seen failing with the first line of `Connection` alone, and with lines that are no text left out.
    #[test]
    fn what_any_line_of_connection_names_ends_here() {
        let mut headers = map(&[
            ("connection", "close, X-Secret , te, host"),
            ("connection", "x-second"),
            ("host", "a.test"),
            ("x-secret", "1"),
            ("x-second", "1"),
            ("x-third", "1"),
            ("keep-alive", "5"),
            ("proxy-authorization", "x"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ]);
        headers.append(header::CONNECTION, HeaderValue::from_bytes(b"\xff, x-third").unwrap());
        end_hop(&mut headers);
        assert_eq!(left(&headers), ["accept", "host"]);
    }

    /// Seen failing with the first line of `TE` alone.
    #[test]
    fn trailers_are_welcome_on_any_line_of_te() {
        for (lines, welcome) in [
            (&["trailers"][..], true),
            (&["gzip", "Trailers"], true),
            (&["gzip, trailers;q=1, trailers"], true),
            (&["gzip"], false),
            (&["trailers-2"], false),
            (&[], false),
        ] {
            let headers: Vec<_> = lines.iter().map(|line| ("te", *line)).collect();
            assert_eq!(takes_trailers(&map(&headers)), welcome, "{lines:?}");
        }
    }
}
