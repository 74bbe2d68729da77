//! How many connections each client address has, so that none can take them all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by all workers; looked at once for each connection, never for a request.
pub struct Crowd {
    /// Bounded by the connections that there are.
    counts: Mutex<HashMap<IpAddr, usize>>,
    /// Zero: any number.
    limit: usize,
}

/// One connection of one client.
pub struct Guest {
    crowd: Arc<Crowd>,
    client: IpAddr,
}

impl Crowd {
    pub fn new(limit: usize) -> Self {
        Crowd {
            counts: Mutex::default(),
            limit,
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in, unless its client has too many already.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Guest> {
        let client = client(peer);
        let mut counts = self.counts();
        let count = counts.entry(client).or_default();
        if self.limit > 0 && *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Guest {
            crowd: Arc::clone(self),
            client,
        })
    }
}

/// Whoever has one IPv6 address has the 2^64 beside it too.
fn client(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts();
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_connections_and_others_have_theirs() {
        let crowd = Arc::new(Crowd::new(2));
        let admit = |peer: &str| crowd.admit(peer.parse().unwrap());
        let guests = [admit("10.0.0.1").unwrap(), admit("10.0.0.1").unwrap()];
        assert!(admit("10.0.0.1").is_none());
        assert!(admit("10.0.0.2").is_some());
        drop(guests);
        assert!(admit("10.0.0.1").is_some());
        assert!(crowd.counts().is_empty());
    }

    #[test]
    fn ipv6_addresses_of_one_network_are_one_client() {
        let crowd = Arc::new(Crowd::new(1));
        let admit = |peer: &str| crowd.admit(peer.parse().unwrap());
        let _guest = admit("2001:db8::1").unwrap();
        assert!(admit("2001:db8::ffff:1").is_none());
        assert!(admit("2001:db8:0:1::1").is_some());
    }

    #[test]
    fn without_a_limit_everybody_is_let_in() {
        let crowd = Arc::new(Crowd::new(0));
        let all: Vec<_> = (0..100).map(|_| crowd.admit("10.0.0.1".parse().unwrap())).collect();
        assert!(all.iter().all(Option::is_some));
    }
}
