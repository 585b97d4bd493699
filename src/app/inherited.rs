//! Sockets that were bound before the process started: `sd_listen_fds(3)`, systemd's socket activation.
//!
//! A connection that comes while nobody accepts waits in such a socket: a restart refuses none.

use std::net::SocketAddr;
use std::net::TcpListener as StdListener;

use listenfd::ListenFd;
use socket2::SockRef;

use super::Error;
use crate::config::Config;

/// The first descriptor that is handed over.
const FIRST: usize = 3;
/// What the listeners are called in `FileDescriptorName=`.
const NAMES: [&str; 3] = ["gate", "admin", "metrics"];

/// Sockets that the process was started with.
#[derive(Default)]
pub(super) struct Inherited(Vec<Socket>);

struct Socket {
    descriptor: usize,
    name: String,
    address: SocketAddr,
    listener: StdListener,
}

/// The sockets of the listeners that need not be bound any more.
#[derive(Default)]
pub(super) struct Assigned {
    pub(super) gate: Option<StdListener>,
    pub(super) admin: Option<StdListener>,
    pub(super) metrics: Option<StdListener>,
}

impl Inherited {
    /// Those that `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` tell of. To be called before the process has a second
    /// thread: the variables are taken away.
    pub(super) fn from_environment() -> Result<Self, Error> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..handed.len() {
            let (descriptor, name) = (FIRST + index, names.next().unwrap_or_default().to_owned());
            let fail = |reason: String| Error::Inherited { descriptor, name: name.clone(), reason };
            let listener = handed.take_tcp_listener(index).map_err(|e| fail(e.to_string()))?;
            let Some(listener) = listener else { continue };
            let address = listener.local_addr().map_err(|e| fail(e.to_string()))?;
            if !SockRef::from(&listener).is_listener().is_ok_and(|listens| listens) {
                return Err(fail(format!("{address} is not a socket that listens")));
            }
            sockets.push(Socket { descriptor, name, address, listener });
        }
        Ok(Self(sockets))
    }

    /// Gives each to the listener that it is for: by its name, else by its address.
    pub(super) fn assign(self, config: &Config) -> Result<Assigned, Error> {
        let configured = [
            Some(config.gate.listen),
            config.admin.as_ref().map(|admin| admin.listen),
            config.metrics.as_ref().map(|metrics| metrics.listen),
        ];
        let mut assigned = Assigned::default();
        for Socket { descriptor, name, address, listener } in self.0 {
            let fail = |reason: String| Error::Inherited { descriptor, name: name.clone(), reason };
            let named = NAMES.iter().position(|known| *known == name);
            let which = named.or_else(|| configured.iter().position(|listen| *listen == Some(address)));
            let Some(which) = which.filter(|which| configured.get(*which).is_some_and(Option::is_some))
            else {
                return Err(fail(format!(
                    "{address} is where no listener is configured; name it gate, admin or metrics (FileDescriptorName=)"
                )));
            };
            let place = match which {
                0 => &mut assigned.gate,
                1 => &mut assigned.admin,
                _ => &mut assigned.metrics,
            };
            if place.replace(listener).is_some() {
                return Err(fail(format!("{address} is the second for the same listener")));
            }
        }
        Ok(assigned)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CONFIG: &str = r#"
gate = { listen = "GATE", tls = { cert = "c", key = "k", client_ca = ["ca"] } }
identity = { trust_domains = ["lab.test"], templates = ["dns:{agent}.lab.test"], claim = "none" }
route = [{ upstream = ["http://127.0.0.1:9"] }]
metrics = { listen = "METRICS" }
state = { dir = "state" }
"#;

    fn assign(sockets: [(&str, StdListener); 2], gate: SocketAddr) -> Result<Assigned, String> {
        let metrics = sockets[1].1.local_addr().unwrap();
        let text = CONFIG.replace("GATE", &gate.to_string()).replace("METRICS", &metrics.to_string());
        let config = Config::parse(Path::new("gate.toml"), text, &[]).unwrap();
        let sockets = sockets.into_iter().enumerate().map(|(i, (name, listener))| {
            let address = listener.local_addr().unwrap();
            Socket { descriptor: FIRST + i, name: name.to_owned(), address, listener }
        });
        Inherited(sockets.collect()).assign(&config).map_err(|e| e.to_string())
    }

    #[test]
    fn by_name_or_by_address() {
        let bind = || StdListener::bind("127.0.0.1:0").unwrap();
        let (first, second) = (bind(), bind());
        let at = first.local_addr().unwrap();
        let assigned = assign([("portcullis.socket", first), ("", second)], at).unwrap();
        assert_eq!(assigned.gate.unwrap().local_addr().unwrap(), at);
        assert!(assigned.metrics.is_some() && assigned.admin.is_none());

        let elsewhere = "127.0.0.1:1".parse().unwrap();
        let assigned = assign([("gate", bind()), ("metrics", bind())], elsewhere).unwrap();
        assert!(assigned.gate.is_some() && assigned.metrics.is_some());
    }

    #[test]
    fn one_that_is_for_nobody_is_named() {
        let bind = || StdListener::bind("127.0.0.1:0").unwrap();
        let elsewhere = "127.0.0.1:1".parse().unwrap();
        let fault = |name: &str| assign([(name, bind()), ("metrics", bind())], elsewhere).err().unwrap();
        assert!(fault("web").contains("inherited socket 3 (`web`): 127.0.0.1:"), "{}", fault("web"));
        assert!(fault("admin").contains("where no listener is configured"), "{}", fault("admin"));
        assert!(fault("metrics").contains("the second for the same listener"), "{}", fault("metrics"));
    }
}
