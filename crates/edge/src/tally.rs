//! Request accounting: one [`Tally`] per deployment, one slot of it per worker, summed only when somebody asks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use domain::DeploymentId;
use domain::routing::Receipt;
use tokio::sync::Notify;

/// Most deployments that are kept in the books. Beyond it, those that no table names and no request holds are
/// forgotten; their last figures have been reported long before.
pub const MAX_TALLIES: usize = 10_000;

/// What one request did to its deployment's receipt. See [`Receipt`] for the meaning of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    FailedByHob,
    FailedByApp,
    /// The client left before it was answered: nobody failed, nothing is counted.
    Abandoned,
}

/// One worker's counters, alone on their cache lines: only that worker writes them.
#[derive(Default)]
#[repr(align(128))]
struct Slot {
    ok: AtomicU64,
    failed_by_hob: AtomicU64,
    failed_by_app: AtomicU64,
    retried: AtomicU64,
    drained: AtomicU64,
}

/// The receipt of one deployment in the making.
pub struct Tally {
    slots: Box<[Slot]>,
    dirty: Arc<Dirty>,
}

/// Wakes the reporter at the first change after it has looked; silent when nothing happens.
#[derive(Default)]
pub struct Dirty {
    flag: AtomicBool,
    bell: Notify,
}

impl Dirty {
    fn mark(&self) {
        if !self.flag.load(Ordering::Relaxed) && !self.flag.swap(true, Ordering::AcqRel) {
            self.bell.notify_one();
        }
    }

    /// Returns once something was counted since the last [`Dirty::clear`].
    pub async fn wait(&self) {
        while !self.flag.load(Ordering::Acquire) {
            self.bell.notified().await;
        }
    }

    /// To be called before reading the sums, so that a change in between marks again.
    pub fn clear(&self) {
        self.flag.store(false, Ordering::SeqCst);
    }
}

impl Tally {
    fn new(workers: usize, dirty: Arc<Dirty>) -> Self {
        Tally {
            slots: (0..workers).map(|_| Slot::default()).collect(),
            dirty,
        }
    }

    /// Counts one ended request. Called by worker `worker` only.
    pub fn record(&self, worker: usize, outcome: Outcome, retried: u64, drained: bool) {
        let slot = &self.slots[worker];
        let field = match outcome {
            Outcome::Ok => Some(&slot.ok),
            Outcome::FailedByHob => Some(&slot.failed_by_hob),
            Outcome::FailedByApp => Some(&slot.failed_by_app),
            Outcome::Abandoned => None,
        };
        field.inspect(|field| bump(field, 1));
        if retried > 0 {
            bump(&slot.retried, retried);
        }
        if drained {
            bump(&slot.drained, 1);
        }
        self.dirty.mark();
    }

    /// The sum over all workers. Each counter is exact; together they are of about the same moment.
    pub fn receipt(&self) -> Receipt {
        let read = |field: &AtomicU64| field.load(Ordering::Relaxed);
        self.slots.iter().fold(Receipt::default(), |sum, slot| {
            sum.plus(Receipt {
                ok: read(&slot.ok),
                failed_by_hob: read(&slot.failed_by_hob),
                failed_by_app: read(&slot.failed_by_app),
                retried: read(&slot.retried),
                drained: read(&slot.drained),
            })
        })
    }
}

/// Adds without a locked instruction: each slot has exactly one writer.
fn bump(field: &AtomicU64, by: u64) {
    field.store(field.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

/// The tallies of every deployment since this edge began.
pub struct Books {
    workers: usize,
    dirty: Arc<Dirty>,
    tallies: Mutex<HashMap<DeploymentId, Arc<Tally>>>,
}

impl Books {
    pub fn new(workers: usize) -> Self {
        Books {
            workers,
            dirty: Arc::default(),
            tallies: Mutex::default(),
        }
    }

    pub fn dirty(&self) -> &Arc<Dirty> {
        &self.dirty
    }

    /// The tally of a deployment, the same one for as long as this edge lives.
    pub fn tally(&self, deployment: DeploymentId) -> Arc<Tally> {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        if tallies.len() >= MAX_TALLIES {
            tallies.retain(|_, tally| Arc::strong_count(tally) > 1);
        }
        let fresh = || Arc::new(Tally::new(self.workers, Arc::clone(&self.dirty)));
        Arc::clone(tallies.entry(deployment).or_insert_with(fresh))
    }

    /// Every receipt that is not all zero, cumulative since this edge began.
    pub fn receipts(&self) -> HashMap<DeploymentId, Receipt> {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = tallies.iter().map(|(id, tally)| (*id, tally.receipt()));
        sums.filter(|(_, receipt)| *receipt != Receipt::default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_the_sum_over_all_workers() {
        let books = Books::new(3);
        let id = uuid::Uuid::new_v4().into();
        let tally = books.tally(id);
        tally.record(0, Outcome::Ok, 0, false);
        tally.record(1, Outcome::Ok, 2, true);
        tally.record(2, Outcome::FailedByApp, 0, false);
        tally.record(2, Outcome::FailedByHob, 0, false);
        tally.record(2, Outcome::Abandoned, 1, false);
        let expected = Receipt {
            ok: 2,
            failed_by_hob: 1,
            failed_by_app: 1,
            retried: 3,
            drained: 1,
        };
        assert_eq!(books.receipts(), HashMap::from([(id, expected)]));
    }

    #[test]
    fn the_books_forget_only_what_nobody_holds() {
        let books = Books::new(1);
        let kept: DeploymentId = uuid::Uuid::new_v4().into();
        let tally = books.tally(kept);
        tally.record(0, Outcome::Ok, 0, false);
        for _ in 0..MAX_TALLIES + 10 {
            books.tally(uuid::Uuid::new_v4().into());
        }
        assert!(books.tallies.lock().unwrap().len() <= MAX_TALLIES);
        assert_eq!(books.tally(kept).receipt().ok, 1);
    }
}
