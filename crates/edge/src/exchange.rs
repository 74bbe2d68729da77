//! One request that was routed, from the choice of its service to its line in the receipt.

use std::rc::Rc;
use std::sync::Arc;

use crate::client::Client;
use crate::instance::Lease;
use crate::pool::Upstream;
use crate::table::Service;
use crate::tally::Outcome;

/// Exists once per routed request. Dropping it, however that comes about, counts the request exactly once
/// (invariant 5).
pub struct Exchange {
    client: Rc<Client>,
    service: Arc<Service>,
    lease: Option<Lease>,
    outcome: Outcome,
    retried: u64,
}

impl Exchange {
    pub fn new(client: Rc<Client>, service: Arc<Service>) -> Self {
        Exchange {
            client,
            service,
            lease: None,
            outcome: Outcome::Abandoned,
            retried: 0,
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The table changed before anything was sent: the request goes by the newer one.
    pub fn reroute(&mut self, service: Arc<Service>) {
        self.service = service;
    }

    /// The request goes to another instance than before, or to its first.
    pub fn assign(&mut self, lease: Lease, is_retry: bool) {
        self.client.set_instance(lease.instance().id);
        self.retried += u64::from(is_retry);
        self.lease = Some(lease);
    }

    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Keeps a connection whose answer has been read to the end.
    pub fn give_back(&self, upstream: Upstream) {
        self.client.worker.pool.put(upstream, &self.client.worker);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let outcome = if self.client.was_cut() {
            Outcome::FailedByHob
        } else {
            self.outcome
        };
        let left = self.lease.as_ref().is_some_and(|lease| lease.instance().is_leaving());
        let drained = left && !self.client.was_cut() && outcome != Outcome::Abandoned;
        self.service
            .tally
            .record(self.client.worker.index, outcome, self.retried, drained);
    }
}
