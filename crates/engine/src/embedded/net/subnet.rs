//! A range of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network such as `10.213.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    prefix_len: u8,
}

/// Why a text is not a network that can be used for instances.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSubnet(String);

impl Subnet {
    /// # Errors
    /// A prefix longer than 32 bits.
    pub fn new(address: Ipv4Addr, prefix_len: u8) -> Result<Subnet, BadSubnet> {
        if prefix_len > 32 {
            return Err(BadSubnet(format!("/{prefix_len} is longer than an address")));
        }
        Ok(Subnet {
            network: u32::from(address) & mask(prefix_len),
            prefix_len,
        })
    }

    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// The first address of the network, which names it.
    pub fn network(self) -> Ipv4Addr {
        self.network.into()
    }

    /// The first usable address.
    pub fn gateway(self) -> Ipv4Addr {
        (self.network + 1).into()
    }

    /// Addresses that instances may have: all but network, gateway and broadcast.
    pub fn hosts(self) -> std::ops::Range<u32> {
        self.network + 2..self.network + (!mask(self.prefix_len))
    }

    pub fn overlaps(self, other: Subnet) -> bool {
        let shorter = mask(self.prefix_len.min(other.prefix_len));
        self.network & shorter == other.network & shorter
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix_len)
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    /// The form of `--instance-network`: `/8` to `/28`, written with its own first address.
    fn from_str(text: &str) -> Result<Subnet, BadSubnet> {
        let example = "write it as 10.213.0.0/16";
        let bad = |why: &str| {
            BadSubnet(format!(
                "`{}` is not an IPv4 network: {why}; {example}",
                text.escape_debug()
            ))
        };
        let (address, prefix_len) = text.split_once('/').ok_or_else(|| bad("no prefix length"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad("no address"))?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_| bad("no prefix length"))?;
        if !(8..=28).contains(&prefix_len) {
            return Err(bad("the prefix must be between /8 and /28"));
        }
        let subnet = Subnet::new(address, prefix_len)?;
        if subnet.network() != address {
            return Err(bad(&format!("{address} is in the middle of {subnet}")));
        }
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() || address.is_link_local() {
            return Err(bad("the range is reserved"));
        }
        Ok(subnet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_private_network_is_taken() {
        let subnet: Subnet = "10.213.0.0/16".parse().expect("a network");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 213, 0, 1));
        assert_eq!(subnet.hosts().len(), 65_533);
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/4",
            "10.0.0.1/16",
            "127.0.0.0/8",
            "a/8",
            "10.0.0.0/30",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        let subnet = |text: &str| {
            let (address, len) = text.split_once('/').expect("slash");
            Subnet::new(address.parse().expect("address"), len.parse().expect("length")).expect("network")
        };
        assert!(subnet("10.0.0.0/8").overlaps(subnet("10.213.0.0/16")));
        assert!(subnet("10.213.7.9/32").overlaps(subnet("10.213.0.0/16")));
        assert!(!subnet("10.212.0.0/16").overlaps(subnet("10.213.0.0/16")));
        assert!(subnet("0.0.0.0/0").overlaps(subnet("10.213.0.0/16")));
    }
}
