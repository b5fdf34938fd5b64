//! Which addresses a service may have. Pure.
//!
//! Whoever may write an EndpointSlice chooses where the agent dials: without these rules that is
//! the agent's own host, the metadata service of a cloud, or an API server without its RBAC.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses that no service may have.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressRules {
    /// The owner lets services of the agent's own host be reached.
    pub(super) loopback: bool,
    /// Where the API server is.
    pub(super) api_server: Vec<SocketAddr>,
}

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::agent) enum Forbidden {
    #[error("it is the agent's own host (--expose-loopback-services lets it)")]
    Loopback,
    #[error("it is link-local")]
    LinkLocal,
    #[error("it is where a cloud tells machines their secrets")]
    Metadata,
    #[error("it is the unspecified address")]
    Unspecified,
    #[error("it is a multicast or broadcast address")]
    Multicast,
    #[error("it is the API server")]
    ApiServer,
}

// === impl AddressRules ===

impl AddressRules {
    /// Whether `address` may be dialled.
    pub(super) fn check(&self, address: SocketAddr) -> Result<(), Forbidden> {
        // `::ffff:127.0.0.1` is dialled as 127.0.0.1.
        let ip = address.ip().to_canonical();
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        // All of 0.0.0.0/8 is "this host" (RFC 1122 section 3.2.1.3).
        let unspecified = match ip {
            IpAddr::V4(ip) => ip.octets()[0] == 0,
            IpAddr::V6(ip) => ip.is_unspecified(),
        };
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        let is_api_server = |server: &SocketAddr| {
            server.ip().to_canonical() == ip && server.port() == address.port()
        };
        if self.api_server.iter().any(is_api_server) {
            Err(Forbidden::ApiServer)
        } else if ip.is_loopback() && !self.loopback {
            Err(Forbidden::Loopback)
        } else if link_local {
            Err(Forbidden::LinkLocal)
        } else if METADATA.contains(&ip) {
            Err(Forbidden::Metadata)
        } else if unspecified {
            Err(Forbidden::Unspecified)
        } else if ip.is_multicast() || broadcast {
            Err(Forbidden::Multicast)
        } else {
            Ok(())
        }
    }
}

/// The metadata services of clouds, where they are not link-local: Amazon's and Google's over IPv6,
/// Azure's WireServer, Alibaba's.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rules: &AddressRules, address: &str) -> Result<(), Forbidden> {
        rules.check(address.parse().unwrap())
    }

    #[test]
    fn pods_are_dialled_and_nothing_near_the_agent() {
        let rules = AddressRules::default();
        for good in [
            "10.0.0.1:80",
            "192.168.1.1:80",
            "100.100.100.201:80",
            "[fd00::1]:80",
            "[fd00:ec2::253]:80",
            "[::ffff:10.0.0.1]:80",
        ] {
            assert_eq!(check(&rules, good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("127.0.0.1:80", Forbidden::Loopback),
            ("127.9.9.9:80", Forbidden::Loopback),
            ("[::1]:80", Forbidden::Loopback),
            ("[::ffff:127.0.0.1]:80", Forbidden::Loopback),
            ("169.254.169.254:80", Forbidden::LinkLocal),
            ("[::ffff:169.254.169.254]:80", Forbidden::LinkLocal),
            ("[fe80::1]:80", Forbidden::LinkLocal),
            ("[fd00:ec2::254]:80", Forbidden::Metadata),
            ("[fd20:ce::254]:80", Forbidden::Metadata),
            ("168.63.129.16:32526", Forbidden::Metadata),
            ("[::ffff:100.100.100.200]:80", Forbidden::Metadata),
            ("0.0.0.0:80", Forbidden::Unspecified),
            ("0.1.2.3:80", Forbidden::Unspecified),
            ("[::]:80", Forbidden::Unspecified),
            ("224.0.0.1:80", Forbidden::Multicast),
            ("255.255.255.255:80", Forbidden::Multicast),
            ("[ff02::1]:80", Forbidden::Multicast),
        ] {
            assert_eq!(check(&rules, bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn loopback_only_where_the_owner_says_so_and_never_the_api_server() {
        let api_server = vec!["127.0.0.1:6443".parse().unwrap()];
        let rules = AddressRules { loopback: true, api_server };
        assert_eq!(check(&rules, "127.0.0.1:80"), Ok(()));
        assert_eq!(check(&rules, "127.0.0.1:6443"), Err(Forbidden::ApiServer));
        assert_eq!(check(&rules, "[::ffff:127.0.0.1]:6443"), Err(Forbidden::ApiServer));
        assert_eq!(check(&rules, "169.254.169.254:80"), Err(Forbidden::LinkLocal));
    }
}
