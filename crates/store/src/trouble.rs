//! What can be made to go wrong with a store, for simulation: commits that fail, answers that are lost, and known bugs.
//!
//! Without the feature `simulation` nothing of this is compiled but the names of the bugs, which are then never there.

/// A known bug, put in on purpose: the simulator must find each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Writes of an overtaken reconciler are taken.
    SkipLease,
    /// A decision is written whatever happened to its service since it was made.
    StaleDecision,
    /// A new deployment gets the lowest version number that is free.
    ReuseVersion,
    /// Retention lets the serving deployment go.
    PruneServing,
    /// A rollback runs what the service runs now.
    RollbackToNow,
}

#[cfg(feature = "simulation")]
pub use told::{Fault, Trouble, Watcher};

#[cfg(feature = "simulation")]
mod told {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use domain::{Error, Result, error::Kind};

    use super::Mutant;

    /// How a transaction that writes goes wrong (C5.6, C5.7).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// Somebody else holds the database: it does not begin.
        Busy,
        /// It is rolled back, and its caller is told so.
        CommitFails,
        /// It is durable, and its caller is told that it failed.
        AnswerLost,
    }

    /// What is arranged. Clones are the same.
    #[derive(Clone, Default)]
    pub struct Trouble(Arc<Mutex<Arranged>>);

    #[derive(Default)]
    struct Arranged {
        /// Fates of the next transactions that write, in their order; those after them are well.
        next: VecDeque<Option<Fault>>,
        mutant: Option<Mutant>,
        watcher: Option<Watcher>,
    }

    /// Is told of every commit: right before it (`false`) and right after it (`true`). It may panic, as a crash would.
    pub type Watcher = Arc<dyn Fn(bool) + Send + Sync>;

    impl Trouble {
        pub fn watch(&self, watcher: Watcher) {
            self.lock().watcher = Some(watcher);
        }

        pub(crate) fn commits(&self, done: bool) {
            let watcher = self.lock().watcher.clone();
            if let Some(watcher) = watcher {
                watcher(done);
            }
        }

        /// After `spared` transactions that write, the next `count` ones meet `fault`.
        pub fn arrange(&self, spared: u32, fault: Fault, count: u32) {
            let mut arranged = self.lock();
            arranged.next.extend((0..spared).map(|_| None));
            arranged.next.extend((0..count).map(|_| Some(fault)));
        }

        /// Nothing goes wrong any more.
        pub fn clear(&self) {
            self.lock().next.clear();
        }

        pub fn set_mutant(&self, mutant: Mutant) {
            self.lock().mutant = Some(mutant);
        }

        pub(crate) fn is(&self, mutant: Mutant) -> bool {
            self.lock().mutant == Some(mutant)
        }

        pub(crate) fn at_begin(&self) -> Result<()> {
            let mut arranged = self.lock();
            match arranged.next.front() {
                Some(Some(Fault::Busy)) => {
                    arranged.next.pop_front();
                    Err(trouble("begin"))
                }
                _ => Ok(()),
            }
        }

        pub(crate) fn at_commit(&self) -> Option<Fault> {
            self.lock().next.pop_front().flatten()
        }

        fn lock(&self) -> MutexGuard<'_, Arranged> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    pub(crate) fn trouble(what: &str) -> Error {
        let text = "The database is busy; try again".to_owned();
        Error::new(Kind::Unavailable(text), format!("simulated trouble at {what}"))
    }
}

#[cfg(feature = "simulation")]
pub(crate) use told::trouble;
