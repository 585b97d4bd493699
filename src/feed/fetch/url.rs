//! Where a document is. **Invariant:** what a URL says before its `@` is never shown, nor what it asks behind its
//! `?`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;

use super::Error;
use super::Fault;
use super::address;
use super::address::Reach;
use super::shown;

/// A URL that can be fetched.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub(super) place: Place,
    id: [u8; 32],
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    File(PathBuf),
    Web(Web),
}

/// An `https:` or `http:` URL.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Web {
    pub(super) is_https: bool,
    /// Lower case; of an IPv6 address without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path_and_query: String,
    /// `Authorization: Basic`, from what stands before the `@`.
    pub(super) credentials: Option<String>,
}

/// Why a URL is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a URL that can be fetched: {0}")]
pub struct UrlError(String);

impl Url {
    /// Reads one: `https:`, `http:` or `file:`.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let id = digest::digest(&digest::SHA256, text.as_bytes());
        let id = id.as_ref().try_into().unwrap_or_default();
        let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        let place = match scheme.as_deref() {
            Some("file") => Place::File(file(text.get(5..).unwrap_or_default())?),
            Some("http" | "https") => Place::Web(Web::parse(text)?),
            _ => return Err(UrlError("neither `https:` nor `http:` nor `file:`".to_owned())),
        };
        if let Place::Web(web) = &place
            && let Ok(ip) = web.host.parse::<IpAddr>()
        {
            address::judge(ip, Reach::Anywhere).map_err(|fault| UrlError(fault.to_string()))?;
        }
        Ok(Self { place, id })
    }

    /// SHA-256 of its text, credentials included: two that are shown alike may differ.
    pub fn id(&self) -> [u8; 32] {
        self.id
    }

    /// Whether it asks an `https:` server.
    pub fn is_https(&self) -> bool {
        matches!(&self.place, Place::Web(web) if web.is_https)
    }

    /// Whether it leads over the network.
    pub fn is_remote(&self) -> bool {
        matches!(&self.place, Place::Web(_))
    }

    pub(super) fn error(&self, sent_to: Option<&Web>, fault: Fault) -> Error {
        Error { url: self.to_string(), sent_to: sent_to.map(Web::to_string), fault }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path) => write!(f, "file://{}", path.display()),
            Place::Web(web) => web.fmt(f),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Web {
    fn parse(text: &str) -> Result<Self, UrlError> {
        // The parser's own words would repeat the text.
        let uri = Uri::try_from(text).map_err(|e| UrlError(e.to_string()))?;
        let is_https = match uri.scheme_str().map(str::to_ascii_lowercase).as_deref() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError("neither `https:` nor `http:`".to_owned())),
        };
        let authority = uri.authority().ok_or_else(|| UrlError("no host".to_owned()))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err(UrlError("no host".to_owned()));
        }
        let credentials = authority.as_str().rsplit_once('@').map(|(user, _)| STANDARD.encode(decoded(user)));
        let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let path_and_query =
            if path_and_query.starts_with('/') { path_and_query } else { format!("/{path_and_query}") };
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        Ok(Self { is_https, host, port, path_and_query, credentials })
    }

    /// Where a redirect from here leads (RFC 3986, section 5.2). Credentials stay with the server that they are for.
    pub(super) fn join(&self, location: &str) -> Result<Self, Fault> {
        let scheme = self.scheme();
        if let Some((other, _)) = location.split_once(':')
            && !other.is_empty()
            && other.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
            && !other.eq_ignore_ascii_case(scheme)
        {
            return Err(Fault::Scheme(shown(other)));
        }
        let folder = || {
            let path = self.path_and_query.split('?').next().unwrap_or_default();
            path.rsplit_once('/').map_or("", |(folder, _)| folder)
        };
        let path = match location.as_bytes() {
            [] => return Err(Fault::Redirect("an empty location".to_owned())),
            [b'/', b'/', ..] => return self.moved(&format!("{scheme}:{location}")),
            [b'/', ..] => location.to_owned(),
            [b'?', ..] => format!("{}{location}", self.path_and_query.split('?').next().unwrap_or_default()),
            _ if location.contains("://") => return self.moved(location),
            _ => format!("{}/{location}", folder()),
        };
        self.moved(&format!("{scheme}://{}{path}", self.authority()))
    }

    fn moved(&self, text: &str) -> Result<Self, Fault> {
        let mut to = Self::parse(text).map_err(|e| Fault::Redirect(e.0))?;
        if to.is_https != self.is_https {
            return Err(Fault::Scheme(to.scheme().to_owned()));
        }
        let is_same = to.host == self.host && to.port == self.port;
        to.credentials = self.credentials.clone().filter(|_| is_same);
        Ok(to)
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }

    /// Host and port, as `Host` says them: the port only where it is not the usual one.
    pub(super) fn authority(&self) -> String {
        let usual = if self.is_https { 443 } else { 80 };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, query) = self.path_and_query.split_once('?').unwrap_or((&self.path_and_query, ""));
        let query = if query.is_empty() { "" } else { "?..." };
        write!(f, "{}://{}{path}{query}", self.scheme(), self.authority())
    }
}

/// The path of a `file:` URL (RFC 8089), from what is behind its colon.
fn file(rest: &str) -> Result<PathBuf, UrlError> {
    use std::os::unix::ffi::OsStringExt as _;
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest),
        None => rest,
    };
    if !path.starts_with('/') {
        return Err(UrlError("a `file:` URL is `file:///` and an absolute path".to_owned()));
    }
    let path = decoded(path);
    if path.contains(&0) {
        return Err(UrlError("a NUL in a file's name".to_owned()));
    }
    Ok(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

/// Without its percent-encoding; what is none stays.
fn decoded(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { behind.get(2..).unwrap_or_default() } else { behind };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::prop;
    use proptest::proptest;

    use super::*;

    fn web(text: &str) -> Web {
        Web::parse(text).unwrap()
    }

    #[test]
    fn credentials_are_sent_and_never_shown() {
        let url = Url::parse("https://reader:s%33cret@PKI.lab.test:8443/a.crl?sig=s3cret").unwrap();
        assert_eq!(url.to_string(), "https://pki.lab.test:8443/a.crl?...");
        assert_eq!(format!("{url:?}"), url.to_string());
        let Place::Web(web) = &url.place else { panic!("{url}") };
        assert_eq!(web.credentials.as_deref(), Some(STANDARD.encode("reader:s3cret").as_str()));
        for bad in
            ["https://user:s3cret@", "ldap://u:s3cret@x/", "https://u:s3cret@x y/", "https://u:s3cret@[::1/"]
        {
            let error = Url::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_fetched_is_refused() {
        for good in
            ["http://[2001:db8::1]:8080/x", "HTTPS://pki", "file:///a/b.crl", "file:/a", "file://localhost/a"]
        {
            assert!(Url::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "pki.crl",
            "ftp://x/y",
            "ldap:///cn=x",
            "file:a",
            "file://host/a",
            "file:///a%00b",
            "http:///x",
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[fd00:ec2::254]/",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        let Place::File(path) = Url::parse("file:///a%20b/%C3%BC").unwrap().place else { panic!("a file") };
        assert_eq!(path, PathBuf::from("/a b/ü"));
    }

    #[test]
    fn a_redirect_is_read_from_where_it_stands() {
        let at = web("https://u:p@pki.test/lists/a.crl?x=1");
        for (location, expected) in [
            ("/b.crl", "https://pki.test/b.crl"),
            ("b.crl", "https://pki.test/lists/b.crl"),
            ("?y=2", "https://pki.test/lists/a.crl?..."),
            ("//other.test/c", "https://other.test/c"),
            ("https://other.test:444/c", "https://other.test:444/c"),
        ] {
            assert_eq!(at.join(location).unwrap().to_string(), expected);
        }
        assert!(at.join("/b").unwrap().credentials.is_some());
        assert!(at.join("https://evil:x@other.test/").unwrap().credentials.is_none());
        for bad in ["http://pki.test/", "file:///etc/passwd", "FILE:/etc/passwd", "gopher://x", "data:,x"] {
            assert!(matches!(at.join(bad), Err(Fault::Scheme(_))), "{bad}");
        }
        for bad in ["", "://other.test/", "https://", "//"] {
            assert!(matches!(at.join(bad), Err(Fault::Redirect(_))), "{bad}");
        }
    }

    proptest! {
        /// Whatever a server says: it stays with the scheme, credentials stay with their server, and none is shown.
        ///
        /// Seen failing at `://host`, which was read as an `http:` URL.
        #[test]
        fn no_redirect_leads_to_another_scheme(location in prop::string::string_regex(LOCATIONS).unwrap()) {
            let at = web("https://u:s3cret@pki.test/lists/a.crl");
            match at.join(&location) {
                Ok(to) => {
                    assert!(to.is_https && to.path_and_query.starts_with('/'), "{location}");
                    assert!(to.credentials.is_none() || (to.host == at.host && to.port == 443), "{location}");
                    assert!(to.to_string().starts_with("https://"), "{to}");
                }
                Err(fault) => assert!(!fault.to_string().contains('\n'), "{fault}"),
            }
        }
    }

    const LOCATIONS: &str =
        "(https?|HTTPS|file|data)?:?/{0,3}([a-z.:@%?#\\[\\]/\\\\ -]|pki.test|127.0.0.1|\\PC){0,12}";
}
