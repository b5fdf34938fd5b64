//! How many of something there are at once, in all and for each source address.

use std::net::{IpAddr, Ipv6Addr};

pub use crate::shares::Full;
use crate::shares::{Share, Shares};

/// Counts things that sources hold. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Sources(Shares<IpAddr>);

/// One thing that a source holds; given back when dropped.
pub type Slot = Share<IpAddr>;

// === impl Sources ===

impl Sources {
    /// At most `in_all` slots, at most `each` of them for one source.
    pub fn new(in_all: usize, each: usize) -> Self {
        Self(Shares::new(in_all, each))
    }

    /// A slot for `address`.
    pub fn take(&self, address: IpAddr) -> Result<Slot, Full> {
        self.0.take(source(address))
    }
}

/// One customer of one network: an IPv4 address, or the /64 that a host picks its IPv6 addresses
/// from.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_the_same_source_however_it_is_written() {
        let sources = Sources::new(9, 1);
        let _one = sources.take(ip("192.0.2.1")).unwrap();
        assert_eq!(sources.take(ip("::ffff:192.0.2.1")).unwrap_err(), Full::Each);
        assert!(sources.take(ip("::ffff:192.0.2.2")).is_ok());
    }

    #[test]
    fn a_host_of_ipv6_is_its_network() {
        let sources = Sources::new(9, 1);
        let _one = sources.take(ip("2001:db8:0:1::1")).unwrap();
        assert_eq!(sources.take(ip("2001:db8:0:1:ffff::2")).unwrap_err(), Full::Each);
        assert!(sources.take(ip("2001:db8:0:2::1")).is_ok());
    }
}
