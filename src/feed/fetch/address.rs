//! Where a feed may be: every address is judged after its name was looked up, and just that address is connected to.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use tokio::net::lookup_host;

use super::Fault;

/// What addresses a request may go to. None may go to a link-local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Where the configuration sends it.
    Anywhere,
    /// Not to this machine: it was sent there by another.
    Elsewhere,
}

impl Reach {
    /// Where a redirect by who has this address may lead.
    pub(super) fn after(self, by: IpAddr) -> Self {
        if is_local(by) { self } else { Self::Elsewhere }
    }
}

/// The addresses of a host that a request may go to. A literal goes the same way as a name.
pub(super) async fn resolve(host: &str, port: u16, reach: Reach) -> Result<Vec<SocketAddr>, Fault> {
    let found = lookup_host((host, port)).await;
    let found = found.map_err(|error| Fault::Lookup { host: super::shown(host), error })?;
    let (mut good, mut refused) = (Vec::new(), None);
    for address in found {
        match judge(address.ip(), reach) {
            Ok(()) => good.push(address),
            Err(fault) => refused = Some(fault),
        }
    }
    match (good.is_empty(), refused) {
        (false, _) => Ok(good),
        (true, Some(fault)) => Err(fault),
        (true, None) => {
            let error = std::io::Error::other("it has no address");
            Err(Fault::Lookup { host: super::shown(host), error })
        }
    }
}

/// Whether a request may go to an address.
pub(super) fn judge(ip: IpAddr, reach: Reach) -> Result<(), Fault> {
    let meant = meant(ip);
    if is_link_local(meant) || METADATA.contains(&meant) {
        return Err(Fault::LinkLocal(ip));
    }
    if reach == Reach::Elsewhere && (is_loopback(meant) || is_unspecified(meant)) {
        return Err(Fault::Loopback(ip));
    }
    Ok(())
}

/// Whether an address is this machine's own.
fn is_local(ip: IpAddr) -> bool {
    let meant = meant(ip);
    is_loopback(meant) || is_unspecified(meant)
}

/// Where clouds keep credentials, outside what is link-local: of AWS, Google, Azure, Oracle and Alibaba.
const METADATA: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

/// The IPv4 address that an IPv6 one stands for: mapped, compatible (RFC 4291, section 2.5.5), or translated (RFC
/// 6052).
fn meant(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let [.., high, low] = v6.segments();
    let inner = || IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => inner(),
        // `::` and `::1` stand for themselves.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => inner(),
        _ => ip,
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.is_loopback()
}

/// All of 0.0.0.0/8 means this machine.
fn is_unspecified(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets().first() == Some(&0),
        IpAddr::V6(v6) => v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str, reach: Reach) -> String {
        judge(text.parse().unwrap(), reach).map_or_else(|fault| fault.to_string(), |()| "good".to_owned())
    }

    #[test]
    fn nothing_leads_to_where_clouds_keep_credentials() {
        for refused in [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "febf::1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fd00:ec2::254",
            "fd20:ce::254",
            "168.63.129.16",
            "::ffff:100.100.100.200",
        ] {
            for reach in [Reach::Anywhere, Reach::Elsewhere] {
                assert!(judged(refused, reach).contains("link-local"), "{refused}");
            }
        }
        for good in ["192.0.2.1", "10.0.0.1", "fd00::1", "2001:db8::1", "169.253.0.1", "fec0::1"] {
            for reach in [Reach::Anywhere, Reach::Elsewhere] {
                assert_eq!(judged(good, reach), "good", "{good}");
            }
        }
    }

    #[test]
    fn only_the_configuration_leads_to_this_machine() {
        for local in
            ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1"]
        {
            assert_eq!(judged(local, Reach::Anywhere), "good", "{local}");
            assert!(judged(local, Reach::Elsewhere).contains("on this machine"), "{local}");
            let (own, other) = (local.parse().unwrap(), "192.0.2.1".parse().unwrap());
            assert_eq!(Reach::Anywhere.after(own), Reach::Anywhere);
            assert_eq!(Reach::Anywhere.after(other).after(own), Reach::Elsewhere);
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_its_addresses() {
        // However it is written: the system reads each of these.
        for (host, reach) in [
            ("169.254.169.254", Reach::Anywhere),
            ("2852039166", Reach::Anywhere),
            ("localhost", Reach::Elsewhere),
        ] {
            let fault = resolve(host, 80, reach).await.unwrap_err();
            assert!(matches!(fault, Fault::LinkLocal(_) | Fault::Loopback(_)), "{host}: {fault}");
        }
        assert!(!resolve("localhost", 80, Reach::Anywhere).await.unwrap().is_empty());
    }
}
