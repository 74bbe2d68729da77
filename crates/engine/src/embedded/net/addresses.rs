//! Which instance has which address.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::subnet::Subnet;

/// Gives out addresses in turn, so that one that was freed comes last: caches, connections in their last states and
/// devices on their way out have forgotten it by then.
#[derive(Debug)]
pub struct Addresses {
    subnet: Subnet,
    taken: HashSet<Ipv4Addr>,
    next: u32,
}

impl Addresses {
    /// `taken` are those that instances have; numbering goes on behind the highest of `taken` and `last`.
    pub fn new(subnet: Subnet, taken: impl IntoIterator<Item = Ipv4Addr>, last: Option<Ipv4Addr>) -> Addresses {
        let taken: HashSet<Ipv4Addr> = taken.into_iter().collect();
        let next = last.map_or(subnet.hosts().start, |last| u32::from(last).saturating_add(1));
        Addresses { subnet, taken, next }
    }

    /// `None` when all are taken.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let hosts = self.subnet.hosts();
        let from = if hosts.contains(&self.next) {
            self.next
        } else {
            hosts.start
        };
        let mut candidates = (from..hosts.end).chain(hosts.start..from);
        let address = candidates.find(|number| !self.taken.contains(&Ipv4Addr::from(*number)))?;
        self.next = address + 1;
        self.taken.insert(address.into());
        Some(address.into())
    }

    pub fn free(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_address_is_used_again_only_after_all_others() {
        let subnet: Subnet = "10.0.0.0/28".parse().expect("a network");
        let mut addresses = Addresses::new(subnet, [Ipv4Addr::new(10, 0, 0, 3)], Some(Ipv4Addr::new(10, 0, 0, 3)));
        let first = addresses.take().expect("free");
        assert_eq!(first, Ipv4Addr::new(10, 0, 0, 4));
        addresses.free(first);
        let rest: Vec<Ipv4Addr> = std::iter::from_fn(|| addresses.take()).collect();
        assert_eq!(
            rest.len(),
            12,
            "16 but network, gateway, broadcast and the one that was taken"
        );
        assert_eq!(rest.last(), Some(&first));
        assert!(!rest.contains(&subnet.gateway()));
        assert_eq!(addresses.take(), None);
    }
}
