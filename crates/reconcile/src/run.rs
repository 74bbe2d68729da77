//! The loop: sleep, see what may have changed, consider the services concerned, write, act, publish.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use domain::error::Kind;
use domain::routing::EdgeView;
use domain::{Error, InstanceId, Result, ServiceId};
use engine::{InstanceStatus, Phase};
use store::{Decided, Effect, Fence, ServiceState};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::evidence::EvidenceBook;
use crate::execute::{Done, Operations};
use crate::health::{Belief, HealthBook};
use crate::live::Live;
use crate::observe::ProgressBook;
use crate::pulls::{PullEvent, PullNews, Pulls};
use crate::record::Record;
use crate::routes::{EPOCH_BLOCK, RouteBook};
use crate::seams::Parts;
use crate::service::Decision;

/// Services that are read and decided on in one go.
const BATCH: usize = 200;
/// The wait after the store or the engine did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);
/// In place of a service, for what belongs to none.
const NOBODY: ServiceId = ServiceId(uuid::Uuid::nil());
/// Between the signals for an instance that must not run.
const REMAINS_GRACE: Duration = Duration::from_secs(10);
/// Name of the lease that makes a reconciler the only writer.
const LEASE: &str = "reconciler";

/// The level-triggered loop over all services. See the crate documentation for its guarantees.
pub struct Reconciler {
    pub(crate) parts: Parts,
    fence: Fence,
    lease_renewal: Instant,
    pub(crate) live: Live,
    inbox: Inbox,
    record: Record,
    /// In order, so that the same happenings lead to the same effects in the same order.
    pub(crate) due: BTreeSet<ServiceId>,
    /// See [`Decision::remarks`].
    remarks: BTreeMap<ServiceId, Decided>,
    pub(crate) timers: HashMap<ServiceId, Instant>,
    /// The instances that are looked after, of every service that was looked at.
    pub(crate) tended: HashMap<ServiceId, BTreeSet<InstanceId>>,
    pub(crate) owners: HashMap<InstanceId, ServiceId>,
    /// What the engine last listed. `None` until it has answered once: before that nothing is decided (invariant 20).
    pub(crate) snapshot: BTreeMap<InstanceId, InstanceStatus>,
    snapshot_is_current: bool,
    /// The newest listing was searched for instances that no record knows.
    remains_searched: bool,
    remains_reported: bool,
    pub(crate) edge_view: watch::Receiver<EdgeView>,
    acknowledged: u64,
    pub(crate) routes: RouteBook,
    epoch_promised: u64,
    pub(crate) health: HealthBook,
    pub(crate) operations: Operations,
    pub(crate) pulls: Pulls,
    pub(crate) progress: ProgressBook,
    pub(crate) evidence: EvidenceBook,
}

/// Everything that can wake the loop.
struct Inbox {
    engine: watch::Receiver<u64>,
    done: mpsc::UnboundedReceiver<Done>,
    beliefs: mpsc::UnboundedReceiver<Belief>,
    pulls: mpsc::UnboundedReceiver<PullNews>,
}

impl Reconciler {
    /// Takes the lease and looks at nothing yet.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] while another reconciler holds the lease, or when the store does not answer.
    pub async fn start(parts: Parts, live: Live) -> Result<Reconciler> {
        let system = parts.store.system();
        let lease = system
            .acquire_lease(LEASE, &parts.settings.holder, parts.settings.lease_us)
            .await?;
        let fence = lease.ok_or_else(|| {
            let text = "another control plane works on this store; stop it or wait until its lease has run out";
            Error::unavailable(text, "the reconciler's lease is taken")
        })?;
        let edge_view = parts.edge.view();
        let floor = system.edge_epoch_floor().await?.max(edge_view.borrow().acked_epoch);
        let (done, done_inbox) = mpsc::unbounded_channel();
        let (beliefs, beliefs_inbox) = mpsc::unbounded_channel();
        let (pulls, pulls_inbox) = mpsc::unbounded_channel();
        let inbox = Inbox {
            engine: parts.engine.changes(),
            done: done_inbox,
            beliefs: beliefs_inbox,
            pulls: pulls_inbox,
        };
        Ok(Reconciler {
            fence,
            lease_renewal: Instant::now() + renewal(&parts),
            live,
            inbox,
            record: Record::new(parts.store.clone()),
            due: BTreeSet::new(),
            remarks: BTreeMap::new(),
            timers: HashMap::new(),
            tended: HashMap::new(),
            owners: HashMap::new(),
            snapshot: BTreeMap::new(),
            snapshot_is_current: false,
            remains_searched: false,
            remains_reported: false,
            acknowledged: 0,
            edge_view,
            routes: RouteBook::starting_at(floor),
            epoch_promised: floor,
            health: HealthBook::new(parts.engine.clone(), beliefs),
            operations: Operations::new(parts.engine.clone(), done, parts.settings.launches_at_once),
            pulls: Pulls::new(parts.images.clone(), pulls),
            progress: ProgressBook::default(),
            evidence: EvidenceBook::default(),
            parts,
        })
    }

    /// Works until `stop` turns true. Instances and routes stay as they are then.
    ///
    /// # Errors
    /// Only when the lease was lost to another reconciler. Everything else is tried again.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<()> {
        let mut refused = false;
        loop {
            if *stop.borrow() {
                return Ok(());
            }
            let before = refused;
            let outcome = self.pass().await;
            refused = matches!(&outcome, Err(error) if matches!(error.kind, Kind::Conflict(_)));
            let pause = match outcome {
                Ok(()) => None,
                Err(error) if refused && !self.keep_lease().await.unwrap_or(true) => {
                    return Err(error.within("the reconciler was overtaken"));
                }
                // A user was quicker than the decision. It is looked at again at once; twice in a row is trouble.
                Err(error) if refused && !before => {
                    tracing::debug!(error = error.context, "a decision is made anew");
                    None
                }
                Err(error) => {
                    tracing::warn!(error = error.context, "reconciling is interrupted and will go on");
                    Some(Instant::now() + TROUBLE_PAUSE)
                }
            };
            self.sleep(pause, &mut stop).await;
            if Instant::now() >= self.lease_renewal && !self.keep_lease().await.unwrap_or(true) {
                return Err(Error::new(
                    Kind::Conflict("lease lost".to_owned()),
                    "the reconciler was overtaken",
                ));
            }
        }
    }

    async fn keep_lease(&mut self) -> Result<bool> {
        self.lease_renewal = Instant::now() + renewal(&self.parts);
        // Notifications can be lost: now and then everybody is asked anew.
        self.record.doubt();
        self.snapshot_is_current = false;
        self.parts
            .store
            .system()
            .renew_lease(&self.fence, self.parts.settings.lease_us)
            .await
    }

    /// One round over everything that may need attention.
    async fn pass(&mut self) -> Result<()> {
        self.due.extend(self.record.changed().await?);
        self.notice_engine().await?;
        self.notice_edge();
        self.notice_timers();
        while !self.due.is_empty() {
            let batch: Vec<ServiceId> = self.due.iter().take(BATCH).copied().collect();
            self.work_on(&batch).await?;
        }
        self.remove_remains().await?;
        self.publish().await?;
        self.write_remarks().await
    }

    /// A listing that failed leaves the last one in place and nothing is decided on it: the pass ends.
    async fn notice_engine(&mut self) -> Result<()> {
        let woken = self.inbox.engine.has_changed().unwrap_or(false);
        if !woken && self.snapshot_is_current {
            return Ok(());
        }
        self.inbox.engine.borrow_and_update();
        self.snapshot_is_current = false;
        let listing = self.parts.engine.list().await.map_err(|error| {
            let context = format!("listing the engine's instances: {error}");
            Error::unavailable("the engine does not answer", context)
        })?;
        let listing: BTreeMap<InstanceId, InstanceStatus> = listing.into_iter().map(|s| (s.id, s)).collect();
        for (id, status) in &listing {
            if self.snapshot.get(id) != Some(status) {
                self.due.extend(self.owners.get(id));
            }
        }
        self.due.extend(
            self.snapshot
                .keys()
                .filter(|id| !listing.contains_key(id))
                .filter_map(|id| self.owners.get(id)),
        );
        let owners = &self.owners;
        self.operations
            .compare(|id| listing.contains_key(&id), |id| owners.contains_key(&id));
        self.snapshot = listing;
        self.snapshot_is_current = true;
        self.remains_searched = false;
        Ok(())
    }

    /// Instances that no row wants. Ended ones are remains: of a removal that failed, or of a crash between record and
    /// removal. Running ones that the record says are gone were started by a control plane that had been overtaken
    /// (invariant 19): they are stopped. Running ones of which the record knows nothing are reported by `hob doctor` and
    /// never killed for that (invariant 20).
    async fn remove_remains(&mut self) -> Result<()> {
        if self.remains_searched {
            return Ok(());
        }
        let now = Instant::now();
        let unknown = |status: &&InstanceStatus| !self.owners.contains_key(&status.id);
        let (ended, running): (Vec<_>, Vec<_>) = self
            .snapshot
            .values()
            .filter(unknown)
            .map(|status| (status.id, &status.phase))
            .partition(|(_, phase)| matches!(phase, Phase::Exited(_)));
        let ended: Vec<InstanceId> = ended.into_iter().map(|(id, _)| id).collect();
        let running: Vec<InstanceId> = running.into_iter().map(|(id, _)| id).collect();
        self.remains_searched = true;
        for id in ended {
            let later = self.operations.remove(NOBODY, id, now);
            self.search_again(later);
        }
        if running.is_empty() {
            return Ok(());
        }
        let gone = self
            .parts
            .store
            .system()
            .gone_of(&running)
            .await
            .inspect_err(|_| self.remains_searched = false)?;
        for id in &gone {
            tracing::warn!(instance.id = %id, "an instance runs that the record says is gone; it is stopped");
            let later = self.operations.stop(NOBODY, *id, REMAINS_GRACE, now);
            self.search_again(later);
        }
        if !std::mem::replace(&mut self.remains_reported, true) {
            for id in running.iter().filter(|id| !gone.contains(id)) {
                tracing::warn!(instance.id = %id, "an instance runs that the record does not know; left alone");
            }
        }
        Ok(())
    }

    fn search_again(&mut self, later: Option<Instant>) {
        if let Some(later) = later {
            let timer = self.timers.entry(NOBODY).or_insert(later);
            *timer = later.min(*timer);
            self.remains_searched = false;
        }
    }

    fn notice_edge(&mut self) {
        let acknowledged = self.edge_view.borrow_and_update().acked_epoch;
        self.due.extend(self.routes.waiting(self.acknowledged));
        self.acknowledged = acknowledged;
    }

    fn notice_timers(&mut self) {
        let now = Instant::now();
        let ripe: Vec<ServiceId> = self
            .timers
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in ripe {
            self.timers.remove(&id);
            self.due.insert(id);
        }
    }

    /// Reads, decides, writes in one transaction, acts.
    async fn work_on(&mut self, batch: &[ServiceId]) -> Result<()> {
        let states = self.record.take(batch).await?;
        let now = Instant::now();
        let found: BTreeSet<ServiceId> = states.iter().map(|state| state.service.id).collect();
        for id in batch {
            if !found.contains(id) {
                self.leave(*id, now);
            }
            self.due.remove(id);
        }
        let mut decided: Vec<(ServiceState, Decision)> = Vec::with_capacity(states.len());
        for state in states {
            let decision = self.consider(&state, now);
            decided.push((state, decision));
        }
        let untouched: Vec<bool> = decided
            .iter_mut()
            .map(|(state, decision)| self.put_off_remarks(state, decision))
            .collect();
        let mut outcomes = self.write(&mut decided).await.into_iter();
        let mut trouble = Ok(());
        for ((state, decision), untouched) in decided.into_iter().zip(untouched) {
            match outcomes.next().unwrap_or(Ok(())) {
                Ok(()) => {
                    self.act(&state, decision.deeds, now);
                    if untouched {
                        self.record.keep(state);
                    }
                }
                Err(error) => {
                    self.due.insert(state.service.id);
                    trouble = Err(error.within("recording a decision"));
                }
            }
        }
        trouble
    }

    /// Remarks go with the effects of their decision; where there are none, they wait until the edge has its table.
    /// Answers whether nothing is to be written now.
    fn put_off_remarks(&mut self, state: &ServiceState, decision: &mut Decision) -> bool {
        let remarks = std::mem::take(&mut decision.remarks);
        self.remarks.remove(&state.service.id);
        if !decision.effects.is_empty() {
            decision.effects.splice(0..0, remarks);
            return false;
        }
        if !remarks.is_empty() {
            self.remarks.insert(state.service.id, bound(state, remarks));
        }
        true
    }

    async fn write_remarks(&mut self) -> Result<()> {
        let remarks: Vec<Decided> = std::mem::take(&mut self.remarks).into_values().collect();
        if remarks.is_empty() {
            return Ok(());
        }
        let outcomes = self.parts.store.system().apply_many(&self.fence, &remarks).await;
        let mut trouble = Ok(());
        for (remark, outcome) in remarks.into_iter().zip(outcomes) {
            if let Err(error) = outcome {
                self.due.insert(remark.service);
                trouble = Err(error.within("recording what a service waits for"));
            }
        }
        trouble
    }

    /// Outcomes in the order of `decided`; those without an effect have succeeded already.
    async fn write(&self, decided: &mut [(ServiceState, Decision)]) -> Vec<Result<()>> {
        let mut writes = Vec::new();
        for (state, decision) in decided.iter_mut() {
            if !decision.effects.is_empty() {
                writes.push(bound(state, std::mem::take(&mut decision.effects)));
            }
        }
        if writes.is_empty() {
            return decided.iter().map(|_| Ok(())).collect();
        }
        let results = self.parts.store.system().apply_many(&self.fence, &writes).await;
        let mut results: HashMap<ServiceId, Result<()>> =
            writes.iter().map(|decided| decided.service).zip(results).collect();
        decided
            .iter()
            .map(|(state, _)| results.remove(&state.service.id).unwrap_or(Ok(())))
            .collect()
    }

    /// Sends the edge a new table if anything in it changed.
    async fn publish(&mut self) -> Result<()> {
        if self.record.refresh_entries().await? {
            self.routes.mark_changed();
        }
        if self.routes.epoch() + 1 > self.epoch_promised {
            let promised = self.routes.epoch() + EPOCH_BLOCK;
            self.parts.store.system().raise_edge_epoch(promised).await?;
            self.epoch_promised = promised;
        }
        if let Some(table) = self
            .routes
            .table(self.record.entries(), &self.parts.settings.base_domain)
        {
            self.parts.edge.publish(table);
        }
        Ok(())
    }

    async fn sleep(&mut self, pause: Option<Instant>, stop: &mut watch::Receiver<bool>) {
        let timer = self
            .timers
            .values()
            .copied()
            .chain(pause)
            .chain([self.lease_renewal])
            .min();
        let timer = timer.unwrap_or(self.lease_renewal);
        // After trouble the loop waits out its pause, whatever else calls.
        if let Some(pause) = pause {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(pause) => {}
                _ = stop.changed() => {}
            }
        } else if self.due.is_empty() {
            let (inbox, record) = (&mut self.inbox, &mut self.record);
            // In this order, so that the same happenings lead to the same effects; nothing is passed over, since all
            // that wait are looked at below.
            tokio::select! {
                biased;
                () = record.woken() => {}
                _ = inbox.engine.changed() => self.snapshot_is_current = false,
                _ = self.edge_view.changed() => {}
                Some(done) = inbox.done.recv() => self.take_done(done),
                Some(belief) = inbox.beliefs.recv() => self.take_belief(belief),
                Some(news) = inbox.pulls.recv() => self.take_news(news),
                () = tokio::time::sleep_until(timer) => {}
                _ = stop.changed() => {}
            }
        }
        self.drain_inbox();
    }

    fn drain_inbox(&mut self) {
        while let Ok(done) = self.inbox.done.try_recv() {
            self.take_done(done);
        }
        while let Ok(belief) = self.inbox.beliefs.try_recv() {
            self.take_belief(belief);
        }
        while let Ok(news) = self.inbox.pulls.try_recv() {
            self.take_news(news);
        }
    }

    fn take_done(&mut self, done: Done) {
        self.due.insert(done.service);
        // The listing that was made before the operation ended says nothing about what it did.
        self.snapshot_is_current = false;
        self.operations.finish(done, Instant::now(), (self.parts.clock)());
    }

    fn take_belief(&mut self, belief: Belief) {
        self.due.insert(belief.service);
        self.health.believe(belief);
    }

    fn take_news(&mut self, news: PullNews) {
        self.due.insert(news.service);
        self.progress.touch(news.deployment, Instant::now());
        if let PullEvent::Ended(outcome) = news.event {
            self.pulls.ended(news.deployment, outcome, Instant::now());
        }
    }
}

/// Binds what was decided to the state that it was decided on.
fn bound(state: &ServiceState, effects: Vec<Effect>) -> Decided {
    Decided {
        service: state.service.id,
        revision: state.service.revision,
        effects,
    }
}

fn renewal(parts: &Parts) -> Duration {
    Duration::from_micros((parts.settings.lease_us / 3).max(1_000_000) as u64)
}
