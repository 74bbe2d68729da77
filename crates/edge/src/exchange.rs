//! One request that was routed, from the choice of its service to its line in the receipt.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, StatusCode};

use crate::client::Client;
use crate::instance::Lease;
use crate::pool::Pool;
use crate::service::{Choice, Service};
use crate::table::Found;
use crate::tally::Outcome;
use crate::upstream::Upstream;

/// Exists once per routed request. Dropping it, however that comes about, counts the request exactly once
/// (invariant 5).
pub struct Exchange {
    client: Rc<Client>,
    found: Found,
    chosen: Option<Choice>,
    outcome: Outcome,
    retried: u64,
    /// Since when the app could have answered.
    began: Instant,
    observed: Observed,
}

/// What the version's behaviour knows of this request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Observed {
    Nothing,
    Good,
    Failed,
}

impl Exchange {
    pub fn new(client: Rc<Client>, found: Found) -> Self {
        Exchange {
            client,
            found,
            chosen: None,
            outcome: Outcome::Abandoned,
            retried: 0,
            began: Instant::now(),
            observed: Observed::Nothing,
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.found.service
    }

    /// See [`Found::preview`].
    pub fn preview(&self) -> Option<usize> {
        self.found.preview
    }

    /// The table changed before anything was sent: the request goes by the newer one.
    pub fn reroute(&mut self, found: Found) {
        self.chosen = None;
        self.found = found;
    }

    /// The request has waited for a target, which is not the app's doing.
    pub fn begin_anew(&mut self) {
        self.began = Instant::now();
    }

    /// The request goes to another instance than before, or to its first.
    pub fn assign(&mut self, choice: Choice, is_retry: bool) {
        self.client.set_instance(choice.lease.instance().id);
        self.retried += u64::from(is_retry);
        self.chosen = Some(choice);
    }

    /// The request goes nowhere after all.
    pub fn release(&mut self) {
        self.chosen = None;
    }

    pub fn lease(&self) -> Option<&Lease> {
        self.chosen.as_ref().map(|choice| &choice.lease)
    }

    fn pool(&self) -> Option<&Pool> {
        let choice = self.chosen.as_ref()?;
        self.found.service.pools.get(choice.pool)
    }

    /// The head of the app's answer is there.
    pub fn observe_answer(&mut self, status: StatusCode) {
        let failed = status.is_server_error();
        if let Some(pool) = self.pool() {
            let latency = self.began.elapsed();
            pool.tally.observe(self.client.worker.index, latency, failed);
        }
        self.observed = if failed { Observed::Failed } else { Observed::Good };
    }

    /// The cookie by which the client is to stay with the version that answers, if it is to.
    pub fn introduction(&self) -> Option<HeaderValue> {
        let introduces = self.chosen.as_ref().is_some_and(|choice| choice.introduces);
        if !introduces {
            return None;
        }
        self.pool()?.set_cookie(self.client.forwarding.is_secure())
    }

    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Keeps a connection whose answer has been read to the end.
    pub fn give_back(&self, upstream: Upstream) {
        self.client.worker.upstreams.put(upstream, &self.client.worker);
    }

    /// An instance had the request and did not do its part.
    fn app_failed(&self) -> bool {
        let failed = matches!(self.outcome, Outcome::FailedByApp | Outcome::FailedByHob);
        failed && !self.client.was_cut() && self.observed != Observed::Failed
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let worker = self.client.worker.index;
        let outcome = if self.client.was_cut() {
            Outcome::FailedByHob
        } else {
            self.outcome
        };
        let left = self.lease().is_some_and(|lease| lease.instance().is_leaving());
        let drained = left && !self.client.was_cut() && outcome != Outcome::Abandoned;
        if let (true, Some(pool)) = (self.app_failed(), self.pool()) {
            let was_answered = self.observed != Observed::Nothing;
            pool.tally.observe_failure(worker, was_answered);
        }
        self.found.service.tally.record(worker, outcome, self.retried, drained);
    }
}
