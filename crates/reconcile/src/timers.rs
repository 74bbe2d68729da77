//! When to look at which service again, without looking at all of them to find out.

use std::collections::{BTreeSet, HashMap};

use domain::ServiceId;
use tokio::time::Instant;

/// At most one moment for each service.
#[derive(Default)]
pub struct Timers {
    at: HashMap<ServiceId, Instant>,
    /// The same, the soonest first.
    order: BTreeSet<(Instant, ServiceId)>,
}

impl Timers {
    /// Replaces what was set before.
    pub fn set(&mut self, service: ServiceId, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.at.insert(service, at),
            None => self.at.remove(&service),
        };
        self.order.extend(at.map(|at| (at, service)));
        if let Some(before) = before.filter(|before| Some(*before) != at) {
            self.order.remove(&(before, service));
        }
    }

    /// At `at`, or sooner where that was set before.
    pub fn bring_forward(&mut self, service: ServiceId, at: Instant) {
        let known = self.at.get(&service).copied();
        self.set(service, Some(known.map_or(at, |known| known.min(at))));
    }

    /// The soonest moment of all.
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// A service whose moment has come; it has none then.
    pub fn pop_ripe(&mut self, now: Instant) -> Option<ServiceId> {
        let (_, service) = *self.order.first().filter(|(at, _)| *at <= now)?;
        self.set(service, None);
        Some(service)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> ServiceId {
        ServiceId(Uuid::from_u128(n))
    }

    #[test]
    fn services_are_ripe_in_the_order_of_their_moments_and_each_once() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(id(1), Some(after(3)));
        timers.set(id(2), Some(after(1)));
        timers.set(id(3), Some(after(2)));
        timers.set(id(3), None);
        assert_eq!(timers.next(), Some(after(1)));
        assert_eq!(timers.pop_ripe(began), None);
        assert_eq!(timers.pop_ripe(after(3)), Some(id(2)));
        assert_eq!(timers.pop_ripe(after(3)), Some(id(1)));
        assert_eq!((timers.pop_ripe(after(9)), timers.next()), (None, None));
    }

    #[test]
    fn a_moment_is_replaced_or_brought_forward_and_never_put_off_by_that() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(id(1), Some(after(1)));
        timers.set(id(1), Some(after(5)));
        assert_eq!(timers.next(), Some(after(5)));
        timers.bring_forward(id(1), after(9));
        assert_eq!(timers.next(), Some(after(5)));
        timers.bring_forward(id(1), after(2));
        assert_eq!(timers.pop_ripe(after(2)), Some(id(1)));
        assert_eq!(timers.next(), None);
    }
}
