//! Request accounting: one [`Tally`] per deployment, one slot of it per worker, summed only when somebody asks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use domain::behaviour::BUCKETS;
use domain::routing::Receipt;
use domain::{Behaviour, DeploymentId};
use tokio::sync::Notify;

/// Most deployments that are kept in the books although no table names them and no request holds them. Beyond it, those
/// that were named last longest ago are forgotten; their last figures have been reported long before.
pub const MAX_IDLE: usize = 1_000;

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
    /// Made with the first answer: most deployments in a large table never get one.
    observed: OnceLock<Box<Observed>>,
}

/// One worker's part of a [`Behaviour`].
struct Observed {
    requests: AtomicU64,
    failed: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

/// The receipt and the behaviour of one deployment in the making.
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

    /// Counts a request that the app has begun to answer after `latency`. Called by worker `worker` only.
    pub fn observe(&self, worker: usize, latency: Duration, failed: bool) {
        let observed = self.slots[worker].observed();
        bump(&observed.requests, 1);
        bump(&observed.failed, u64::from(failed));
        bump(&observed.latency[Behaviour::bucket(latency)], 1);
        self.dirty.mark();
    }

    /// Counts a request that the app did not answer, or whose answer it broke off after it had been observed as a good
    /// one. Called by worker `worker` only.
    pub fn observe_failure(&self, worker: usize, was_answered: bool) {
        let observed = self.slots[worker].observed();
        bump(&observed.requests, u64::from(!was_answered));
        bump(&observed.failed, 1);
        self.dirty.mark();
    }

    /// The sum over all workers. `None` when nothing was ever observed.
    pub fn behaviour(&self) -> Option<Behaviour> {
        let read = |field: &AtomicU64| field.load(Ordering::Relaxed);
        let parts = self.slots.iter().filter_map(|slot| slot.observed.get());
        let parts = parts.map(|part| Behaviour {
            requests: read(&part.requests),
            failed: read(&part.failed),
            latency: part.latency.iter().map(read).collect(),
        });
        parts.reduce(|sum, part| sum.plus(&part))
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

impl Slot {
    fn observed(&self) -> &Observed {
        self.observed.get_or_init(|| {
            Box::new(Observed {
                requests: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                latency: [const { AtomicU64::new(0) }; BUCKETS],
            })
        })
    }
}

/// Adds without a locked instruction: each slot has exactly one writer.
fn bump(field: &AtomicU64, by: u64) {
    field.store(field.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

/// The tallies of every deployment since this edge began, but for the oldest idle ones.
pub struct Books {
    workers: usize,
    dirty: Arc<Dirty>,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    /// With the age of the book when the deployment was last named.
    tallies: HashMap<DeploymentId, (Arc<Tally>, u64)>,
    /// Grows with every table.
    age: u64,
}

impl Books {
    pub fn new(workers: usize) -> Self {
        Books {
            workers,
            dirty: Arc::default(),
            pages: Mutex::default(),
        }
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    pub fn dirty(&self) -> &Arc<Dirty> {
        &self.dirty
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tally of a deployment, the same one for as long as anybody holds it, and a good while longer.
    pub fn tally(&self, deployment: DeploymentId) -> Arc<Tally> {
        let mut pages = self.pages();
        let age = pages.age;
        let fresh = || (Arc::new(Tally::new(self.workers, Arc::clone(&self.dirty))), age);
        let (tally, named) = pages.tallies.entry(deployment).or_insert_with(fresh);
        *named = age;
        Arc::clone(tally)
    }

    /// To be called once for each table: forgets what has been idle for longest, where that is too much.
    pub fn turn_page(&self) {
        let mut pages = self.pages();
        pages.age += 1;
        let is_idle = |tally: &Arc<Tally>| Arc::strong_count(tally) == 1;
        let idle = pages.tallies.values().filter(|(tally, _)| is_idle(tally));
        let mut ages: Vec<u64> = idle.map(|(_, named)| *named).collect();
        if let Some(excess) = ages.len().checked_sub(MAX_IDLE + 1) {
            let (_, last_forgotten, _) = ages.select_nth_unstable(excess);
            let last_forgotten = *last_forgotten;
            pages
                .tallies
                .retain(|_, (tally, named)| !is_idle(tally) || *named > last_forgotten);
        }
    }

    /// Every receipt that is not all zero, cumulative since this edge began.
    pub fn receipts(&self) -> HashMap<DeploymentId, Receipt> {
        let pages = self.pages();
        let sums = pages.tallies.iter().map(|(id, (tally, _))| (*id, tally.receipt()));
        sums.filter(|(_, receipt)| *receipt != Receipt::default()).collect()
    }

    /// What was observed of each deployment, cumulative since this edge began.
    pub fn behaviours(&self) -> HashMap<DeploymentId, Behaviour> {
        let pages = self.pages();
        let tallies = pages.tallies.iter();
        tallies
            .filter_map(|(id, (tally, _))| Some((*id, tally.behaviour()?)))
            .collect()
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
    fn a_behaviour_is_the_sum_over_all_workers() {
        let books = Books::new(2);
        let id = uuid::Uuid::new_v4().into();
        let tally = books.tally(id);
        assert_eq!(tally.behaviour(), None);
        tally.observe(0, Duration::from_millis(3), false);
        tally.observe(1, Duration::from_millis(3), true);
        tally.observe_failure(1, false);
        tally.observe_failure(0, true);
        let behaviour = books.behaviours().remove(&id).unwrap();
        assert_eq!((behaviour.requests, behaviour.failed), (3, 3));
        assert_eq!(behaviour.latency[Behaviour::bucket(Duration::from_millis(3))], 2);
    }

    #[test]
    fn the_books_forget_only_what_nobody_holds_the_oldest_first() {
        let books = Books::new(1);
        let kept: DeploymentId = uuid::Uuid::new_v4().into();
        let tally = books.tally(kept);
        tally.record(0, Outcome::Ok, 0, false);
        let ids: Vec<DeploymentId> = (0..MAX_IDLE + 10).map(|_| uuid::Uuid::new_v4().into()).collect();
        for id in &ids {
            books.turn_page();
            books.tally(*id).record(0, Outcome::Ok, 0, false);
        }
        books.turn_page();
        assert_eq!(books.tally(kept).receipt().ok, 1);
        let known: Vec<bool> = ids
            .iter()
            .map(|id| books.receipts().contains_key(id))
            .take(20)
            .collect();
        assert_eq!(known, [[false; 10], [true; 10]].concat());
    }
}
