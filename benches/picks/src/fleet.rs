//! What there is to pick from: two versions with as many endpoints each.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Two versions, and the ratio by which calls are split.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    /// Of each version.
    pub endpoints: u16,
    /// Weight of the new version.
    pub new: u32,
    /// Weight of the old one.
    pub old: u32,
}

impl Fleet {
    /// The weights' sum.
    pub fn total(self) -> u32 {
        self.new + self.old
    }

    /// The weight of each endpoint, those of the new version first.
    pub fn weights(self) -> Vec<u32> {
        let each = usize::from(self.endpoints);
        [vec![self.new; each], vec![self.old; each]].concat()
    }

    /// The address of an endpoint; nobody listens there.
    pub fn address(is_new: bool, number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, u8::from(!is_new), high, low)), 80)
    }

    /// All addresses, those of the new version first.
    pub fn addresses(self) -> impl Iterator<Item = SocketAddr> {
        let side = move |is_new| (0..self.endpoints).map(move |n| Self::address(is_new, n));
        side(true).chain(side(false))
    }

    /// Whether an address is one of the new version.
    pub fn is_new(address: SocketAddr) -> bool {
        matches!(address.ip(), IpAddr::V4(ip) if ip.octets()[1] == 0)
    }
}

impl fmt::Display for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}, 2 x {} endpoints", self.new, self.old, self.endpoints)
    }
}
