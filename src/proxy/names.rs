//! Field names: which of them a client may send, in headers and in trailers.
//!
//! **Invariant:** a field reaches no upstream if its name becomes the variable of a field that the gate sets, binds or
//! frames. CGI and its heirs (PHP-FPM, lighttpd, WSGI, Rack) make one variable of all names that differ only in bytes that
//! are neither letters nor digits, so that names are compared with each of these bytes folded to one.

use http::HeaderName;

/// Names by which upstreams learn who a client is and what it asked for, of the gate and of other proxies; never believed
/// from a client.
const IDENTITY: [&str; 25] = [
    "client-cert",
    "client-cert-chain",
    "forwarded",
    // Gunicorn takes the next one and `script-name` for parts of the target.
    "path-info",
    "remote-user",
    "script-name",
    "ssl-cert",
    "true-client-ip",
    "x-arr-clientcert",
    "x-client-cert",
    "x-client-certificate",
    "x-client-dn",
    "x-client-ip",
    "x-client-verify",
    "x-envoy-external-address",
    "x-forwarded",
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
const IDENTITY_PREFIXES: [&str; 8] = [
    "x-portcullis-",
    "x-ssl-client",
    "ssl-client",
    "x-amzn-mtls-",
    "x-auth-request-",
    "x-forwarded-",
    "x-goog-authenticated-user-",
    "x-tls-client-",
];
/// Names that end at each hop (RFC 9110, section 7.6.1). `te` passes in one form, so that it is looked at by itself.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];
/// Names that say how a request is read. In a header each passes in its own spelling; trailers hold none of them
/// (RFC 9110, section 6.5.1).
const FRAMING: [&str; 7] =
    ["content-encoding", "content-length", "content-type", "expect", "host", "te", "trailer"];
/// Names by which a client proves who it is; trailers hold none of them either.
const CREDENTIALS: [&str; 2] = ["authorization", "cookie"];
/// No field of HTTP, but `HTTP_PROXY` to CGI: programs take it for the proxy of their own requests (CVE-2016-5385).
const PROXY: &str = "proxy";

/// The part of a message in which a field stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Before the body.
    Header,
    /// Behind the body.
    Trailer,
}

/// Headers in which clients name their agent id.
#[derive(Clone, Copy, Debug)]
pub struct ClaimHeaders<'a> {
    /// The claim that the gate has bound: it may pass, in its own spelling.
    pub own: Option<&'a HeaderName>,
    /// The claims of all routes: the gate has not bound the others, so that they do not pass.
    pub all: &'a [HeaderName],
}

/// Whether a client's field of this name may go on to an upstream.
///
/// This is the one rule for headers, trailers and claims. It allocates nothing.
pub fn may_pass(name: &HeaderName, section: Section, claims: ClaimHeaders<'_>) -> bool {
    let name = name.as_str();
    if is_framing(name, section) {
        return false;
    }
    if section == Section::Header && claims.own.is_some_and(|own| own.as_str() == name) {
        return true;
    }
    !is_identity(name) && !claims.all.iter().any(|claim| is_same(name, claim.as_str()))
}

/// Whether a name ends at this hop, in its own spelling.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

/// Whether a name frames a request, or looks as if it did, and does not pass for that reason.
fn is_framing(name: &str, section: Section) -> bool {
    // Most headers are none of these by their first letter.
    if !matches!(name.as_bytes().first(), Some(b'a' | b'c' | b'e' | b'h' | b'k' | b'p' | b't' | b'u')) {
        return false;
    }
    let proves = section == Section::Trailer && CREDENTIALS.contains(&name);
    let ends = proves || name == PROXY || HOP_BY_HOP.iter().any(|known| is_same(name, known));
    let frames = |known: &str| is_same(name, known) && (section == Section::Trailer || name != known);
    ends || FRAMING.iter().any(|known| frames(known))
}

/// Whether a name is one by which upstreams learn who a client is.
fn is_identity(name: &str) -> bool {
    // Most headers are none of these by their first letter.
    matches!(name.as_bytes().first(), Some(b'c' | b'f' | b'p' | b'r' | b's' | b't' | b'x'))
        && (IDENTITY.iter().any(|known| is_same(name, known))
            || IDENTITY_PREFIXES
                .iter()
                .any(|prefix| name.get(..prefix.len()).is_some_and(|head| is_same(head, prefix))))
}

/// Whether two names become the same variable. Both are lower-case.
fn is_same(name: &str, known: &str) -> bool {
    name.len() == known.len() && name.bytes().map(folded).eq(known.bytes().map(folded))
}

const fn folded(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte } else { b'-' }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte that may stand in a field name beside letters and digits (RFC 9110, section 5.6.2).
    const SPECIAL: &[u8] = b"!#$%&'*+-.^_`|~";

    fn name(text: &str) -> HeaderName {
        HeaderName::from_bytes(text.as_bytes()).unwrap()
    }

    fn passes(text: &str, section: Section) -> bool {
        let claims = [name("x-agent-id"), name("x-other-claim")];
        may_pass(&name(text), section, ClaimHeaders { own: Some(&claims[0]), all: &claims })
    }

    /// Seen failing with underscores alone taken for dashes, and with a trailer in which a bound claim passes.
    #[test]
    fn no_spelling_of_a_name_passes_but_its_own() {
        let guarded = [
            "client-cert",
            "x-portcullis-principal",
            "x-forwarded-client-cert",
            "x-agent-id",
            "x-other-claim",
        ];
        for known in guarded.into_iter().chain(HOP_BY_HOP).chain(FRAMING) {
            for &special in SPECIAL {
                let spelled = known.replace('-', char::from(special).to_string().as_str());
                let in_header = spelled == "x-agent-id" || FRAMING.contains(&spelled.as_str());
                assert_eq!(passes(&spelled, Section::Header), in_header, "{spelled}");
                assert!(!passes(&spelled, Section::Trailer), "{spelled}");
            }
        }
        assert!(!passes("Proxy", Section::Header) && !passes("proxy", Section::Trailer));
        assert!(passes("authorization", Section::Header) && !passes("authorization", Section::Trailer));
    }

    #[test]
    fn other_names_pass() {
        for text in [
            "accept",
            "accept-encoding",
            "client-certificate-policy",
            "content-language",
            "if-none-match",
            "proxy-status",
            "te2",
            "x-agent-id-2",
            "xforwardedfor",
            "x-checksum",
            "x.y",
        ] {
            assert!(passes(text, Section::Header) && passes(text, Section::Trailer), "{text}");
        }
    }
}
