//! What the store holds, as far as it was read, so that only what has changed is read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use domain::{Result, ServiceId};
use store::{EdgeEntry, ServiceState, Store};
use tokio::sync::watch;

/// Services of one answer.
const PAGE: usize = 200;
/// Most services whose states stay in memory between two looks; a rollout looks at its service many times between two
/// changes of the record.
const STATES_MAX: usize = 1_000;

/// The reconciler's side of the store.
pub struct Record {
    store: Store,
    wake: watch::Receiver<u64>,
    /// Everything up to this revision was looked at.
    revision: i64,
    /// Nothing was committed since, as far as the store has told.
    caught_up: bool,
    states: HashMap<ServiceId, ServiceState>,
    /// What the edge's table says of every service. `None` until it was read wholly once.
    entries: Option<BTreeMap<ServiceId, EdgeEntry>>,
    /// Services whose entries may have changed.
    entries_due: BTreeSet<ServiceId>,
}

impl Record {
    pub fn new(store: Store) -> Record {
        Record {
            wake: store.wake(),
            store,
            revision: 0,
            caught_up: false,
            states: HashMap::new(),
            entries: None,
            entries_due: BTreeSet::new(),
        }
    }

    /// Waits for a commit that changed something.
    pub async fn woken(&mut self) {
        // The sender lives as long as the store, of which this is a handle.
        let _ = self.wake.changed().await.is_ok();
        self.caught_up = false;
    }

    /// The next [`Record::changed`] asks the store, even where it has told nothing: a notification may be lost.
    pub fn doubt(&mut self) {
        self.caught_up = false;
    }

    /// Services that have changed since the last call.
    pub async fn changed(&mut self) -> Result<Vec<ServiceId>> {
        if self.caught_up && !self.wake.has_changed().unwrap_or(true) {
            return Ok(Vec::new());
        }
        self.wake.borrow_and_update();
        self.caught_up = false;
        let mut all = Vec::new();
        loop {
            let page = self
                .store
                .system()
                .services_changed_since(self.revision, PAGE as u32)
                .await?;
            self.revision = page.last().map_or(self.revision, |(_, newest)| *newest);
            for (id, _) in &page {
                self.states.remove(id);
                self.entries_due.insert(*id);
                all.push(*id);
            }
            if page.len() < PAGE {
                self.caught_up = true;
                return Ok(all);
            }
        }
    }

    /// The states of services, in the order asked for. Purged ones are left out.
    pub async fn take(&mut self, ids: &[ServiceId]) -> Result<Vec<ServiceState>> {
        let unknown: Vec<ServiceId> = ids.iter().copied().filter(|id| !self.states.contains_key(id)).collect();
        if !unknown.is_empty() {
            let read = self.store.system().load(&unknown).await?;
            self.states
                .extend(read.into_iter().map(|state| (state.service.id, state)));
        }
        Ok(ids.iter().filter_map(|id| self.states.remove(id)).collect())
    }

    /// Gives a state back that nothing was written to.
    pub fn keep(&mut self, state: ServiceState) {
        if self.states.len() < STATES_MAX {
            self.states.insert(state.service.id, state);
        }
    }

    /// Brings the entries up to date. Answers whether any of them is another one than before.
    pub async fn refresh_entries(&mut self) -> Result<bool> {
        let Some(entries) = &mut self.entries else {
            let all = self.store.system().edge_entries().await?;
            self.entries = Some(all.into_iter().map(|entry| (entry.service, entry)).collect());
            self.entries_due.clear();
            return Ok(true);
        };
        if self.entries_due.is_empty() {
            return Ok(false);
        }
        let due: Vec<ServiceId> = self.entries_due.iter().copied().collect();
        let found = self.store.system().edge_entries_of(&due).await?;
        let mut found: HashMap<ServiceId, EdgeEntry> = found.into_iter().map(|entry| (entry.service, entry)).collect();
        let mut changed = false;
        for id in due {
            let now = found.remove(&id);
            changed |= entries.get(&id) != now.as_ref();
            match now {
                Some(entry) => entries.insert(id, entry),
                None => entries.remove(&id),
            };
        }
        self.entries_due.clear();
        Ok(changed)
    }

    /// In the order of their ids.
    pub fn entries(&self) -> impl Iterator<Item = &EdgeEntry> {
        self.entries.iter().flat_map(BTreeMap::values)
    }
}
