//! The network of a client: what one client may have all addresses of.

use std::net::IpAddr;
use std::net::Ipv6Addr;

/// The network that budgets of a client are kept for: an IPv4 address, mapped into IPv6 or not, or the /64 of an IPv6
/// address, all of which one client may have (RFC 4291, section 2.5.4).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_is_one_client() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1:2:3:4:5"), of("2001:db8:0:1::"));
        assert_ne!(of("2001:db8:0:1::"), of("2001:db8:0:2::"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.2"), of("192.0.2.1"));
    }
}
