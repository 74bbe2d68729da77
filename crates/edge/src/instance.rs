//! One instance as the edge sees it: an address, how many requests it is busy with, and whether it may get new ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use domain::InstanceId;
use tokio::sync::Notify;

/// Shared by every table that names the instance and by every request that it serves. An [`InstanceId`] keeps the same
/// `Instance` from one table to the next.
pub struct Instance {
    pub id: InstanceId,
    pub address: SocketAddr,
    in_flight: AtomicU64,
    leaving: AtomicBool,
    /// Rung when the last request of a leaving instance has ended.
    idle: Arc<Notify>,
}

impl Instance {
    pub fn new(id: InstanceId, address: SocketAddr, idle: Arc<Notify>) -> Self {
        Instance {
            id,
            address,
            in_flight: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            idle,
        }
    }

    /// Requests that hold a [`Lease`] now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// It is in no current table: it gets no new request.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::SeqCst);
    }

    /// Takes the right to send one request to this instance, unless it is leaving.
    ///
    /// # Guarantees
    /// The hand-over of invariant 4. This counts first and looks at `leaving` second; whoever takes the instance out of
    /// the table sets `leaving` first and reads the count second, all in one total order. So either this sees the flag
    /// and gives up, or the other sees the request and reports the instance as busy. There is no third way.
    pub fn enter(self: &Arc<Self>) -> Option<Lease> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let lease = Lease {
            instance: Arc::clone(self),
        };
        (!self.is_leaving()).then_some(lease)
    }
}

/// One request's claim on an instance; dropping it ends the claim.
pub struct Lease {
    instance: Arc<Instance>,
}

impl Lease {
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let before = self.instance.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.instance.is_leaving() {
            self.instance.idle.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Arc<Instance> {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        Arc::new(Instance::new(uuid::Uuid::new_v4().into(), address, Arc::default()))
    }

    #[test]
    fn a_leaving_instance_takes_nobody_and_stays_at_zero() {
        let instance = instance();
        instance.set_leaving(true);
        assert!(instance.enter().is_none());
        assert_eq!(instance.in_flight(), 0);
    }

    /// Invariant 4, the flag and the counter raced against each other: after `leaving` is set and zero was read,
    /// nobody ever holds a lease.
    #[test]
    fn nobody_enters_unseen_while_an_instance_leaves() {
        for _ in 0..2_000 {
            let instance = instance();
            let entered = Arc::new(AtomicBool::new(false));
            let contender = std::thread::spawn({
                let (instance, entered) = (Arc::clone(&instance), Arc::clone(&entered));
                move || {
                    let lease = instance.enter();
                    entered.store(lease.is_some(), Ordering::SeqCst);
                    lease
                }
            });
            instance.set_leaving(true);
            let seen_idle = instance.in_flight() == 0;
            let entered_before_the_look = entered.load(Ordering::SeqCst);
            let lease = contender.join().expect("contender ends");
            // Seen idle: a lease that exists now must not have been there, nor come later.
            assert!(
                !(seen_idle && lease.is_some()),
                "entered unseen (early: {entered_before_the_look})"
            );
        }
    }
}
