//! Where an upstream is, and what it speaks.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;

use http::Uri;
use http::uri::Scheme;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;

/// What is spoken with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `http://`: HTTP/1.1.
    Http,
    /// `h2c://`: HTTP/2 with prior knowledge (RFC 9113, section 3.3).
    H2c,
    /// `https://`: over TLS, HTTP/2 or HTTP/1.1 as the endpoint chooses (ALPN, RFC 7301).
    Https,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Http, Self::H2c, Self::Https];

    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::H2c => "h2c",
            Self::Https => "https",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Http | Self::H2c => 80,
            Self::Https => 443,
        }
    }

    /// The scheme that a request over HTTP/2 names.
    pub(super) fn scheme(self) -> Scheme {
        match self {
            Self::Https => Scheme::HTTPS,
            Self::Http | Self::H2c => Scheme::HTTP,
        }
    }
}

/// `http://HOST:PORT`, `h2c://HOST:PORT` or `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What is spoken with it.
    pub protocol: Protocol,
    host: String,
    port: u16,
}

impl Endpoint {
    const FORM: &'static str = "an upstream is `http://HOST:PORT`, `h2c://HOST:PORT` or `https://HOST:PORT`";

    /// Reads an endpoint; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|e| format!("`{text}`: {e}"))?;
        let scheme = uri.scheme_str().unwrap_or_default();
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.name() == scheme);
        let protocol = protocol.ok_or_else(|| format!("`{text}`: {}", Self::FORM))?;
        let authority = uri.authority().ok_or_else(|| format!("`{text}`: no host"))?;
        if !uri.path().trim_matches('/').is_empty()
            || uri.query().is_some()
            || authority.as_str().contains('@')
        {
            return Err(format!("`{text}`: {}, without a path", Self::FORM));
        }
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" => protocol.port(),
            port => {
                port.trim_start_matches(':').parse().map_err(|_| format!("`{text}`: not a port: `{port}`"))?
            }
        };
        Ok(Self { protocol, host: authority.host().to_owned(), port })
    }

    /// Whether it is reached over TLS.
    pub(super) fn is_secured(&self) -> bool {
        self.protocol == Protocol::Https
    }

    /// True if a connection to it ends at a listener of this machine. Only addresses and `localhost` are told: names are not
    /// looked up. A listener on port 0 has no port yet.
    pub fn leads_to(&self, listen: SocketAddr) -> bool {
        let own = listen.ip().to_canonical();
        let at = |ip: IpAddr| {
            let ip = ip.to_canonical();
            // No address at all stands for this machine, on either side.
            ip == own
                || (ip.is_unspecified() && own.is_loopback())
                || (own.is_unspecified() && (ip.is_loopback() || is_of_this_machine(ip)))
        };
        let here = match self.host().parse::<IpAddr>() {
            Ok(ip) => at(ip),
            Err(_) => {
                let name = self.host.trim_end_matches('.');
                name.eq_ignore_ascii_case("localhost") && (own.is_loopback() || own.is_unspecified())
            }
        };
        here && self.port == listen.port()
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The host alone; of an IPv6 address, without its brackets.
    pub(super) fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }
}

/// True if an address is one of this machine's: the system would send to it from itself. Nothing is sent.
fn is_of_this_machine(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.protocol.name(), self.host, self.port)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_of_this_machine() {
        for (endpoint, listen, leads) in [
            ("https://127.0.0.1:8443", "127.0.0.1:8443", true),
            ("http://127.0.0.1:8443", "0.0.0.0:8443", true),
            ("https://127.8.8.8:8443", "0.0.0.0:8443", true),
            ("https://127.0.0.1:8443", "[::]:8443", true),
            ("https://0.0.0.0:8443", "127.0.0.1:8443", true),
            ("https://[::1]:8443", "[::]:8443", true),
            ("https://[::ffff:127.0.0.1]:8443", "127.0.0.1:8443", true),
            ("https://LocalHost.:8443", "127.0.0.1:8443", true),
            ("https://localhost", "[::]:443", true),
            ("https://127.0.0.1:8444", "127.0.0.1:8443", false),
            ("https://127.0.0.2:8443", "127.0.0.1:8443", false),
            // For documentation (RFC 5737): of nobody's machine.
            ("https://192.0.2.1:8443", "0.0.0.0:8443", false),
            ("https://localhost:8443", "192.0.2.1:8443", false),
            ("https://app:8443", "0.0.0.0:8443", false),
        ] {
            let at = Endpoint::parse(endpoint).unwrap();
            assert_eq!(at.leads_to(listen.parse().unwrap()), leads, "{endpoint} at {listen}");
        }
    }

    #[test]
    fn endpoints() {
        let read = |text: &str| Endpoint::parse(text).map(|endpoint| endpoint.to_string());
        assert_eq!(read("http://127.0.0.1:9000"), Ok("http://127.0.0.1:9000".into()));
        assert_eq!(read("http://app/"), Ok("http://app:80".into()));
        assert_eq!(read("h2c://app:1"), Ok("h2c://app:1".into()));
        assert_eq!(read("https://app"), Ok("https://app:443".into()));
        assert_eq!(
            Endpoint::parse("https://[::1]:9").map(|at| (at.host().into(), at.port())),
            Ok(("::1".to_owned(), 9))
        );
        for bad in [
            "",
            "app:80",
            "ftp://app",
            "HTTP2://app",
            "http://",
            "http://app/path",
            "http://app?q",
            "http://u@app",
            "http://app:99999",
            "https://app:",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
