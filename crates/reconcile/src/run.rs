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

use crate::execute::{Done, Operations};
use crate::health::{Belief, HealthBook};
use crate::live::Live;
use crate::observe::ProgressBook;
use crate::pulls::{PullEvent, PullNews, Pulls};
use crate::record::Record;
use crate::routes::{EPOCH_BLOCK, RouteBook};
use crate::seams::Parts;
use crate::service::Decision;
use crate::timers::Timers;

/// Services that are read and decided on in one go.
const BATCH: usize = 200;
/// The wait after the store or the engine did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);
/// In place of a service, for what belongs to none.
const NOBODY: ServiceId = ServiceId(uuid::Uuid::nil());
/// Between the signals for an instance that must not run.
const REMAINS_GRACE: Duration = Duration::from_secs(10);
/// After work that grows with everything there is (comparing a listing, making a table) the loop rests this many times
/// as long, so that it takes a bounded share of the time and each round serves more of those who wait.
const REST_FACTOR: u32 = 3;
/// A shorter rest is not worth a timer.
const REST_SHORTEST: Duration = Duration::from_millis(2);
/// With fewer instances there is none: where work on everything took long then, something else had the processor.
const REST_FROM: usize = 1_000;
const REST_LONGEST: Duration = Duration::from_millis(500);
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
    pub(crate) timers: Timers,
    /// The instances that are looked after, of every service that was looked at.
    pub(crate) tended: HashMap<ServiceId, BTreeSet<InstanceId>>,
    pub(crate) owners: HashMap<InstanceId, ServiceId>,
    /// What the engine last listed. `None` until it has answered once: before that nothing is decided (invariant 20).
    pub(crate) snapshot: BTreeMap<InstanceId, InstanceStatus>,
    snapshot_is_current: bool,
    /// Listed instances that no service is known to own; [`Reconciler::remove_remains`] looks at nothing else.
    pub(crate) strangers: BTreeSet<InstanceId>,
    /// The newest listing was searched for instances that no record knows.
    remains_searched: bool,
    remains_reported: bool,
    pub(crate) edge_view: watch::Receiver<EdgeView>,
    /// The edge has said nothing since it was last listened to.
    edge_is_heard: bool,
    /// What the work on everything took in this round; see [`REST_FACTOR`].
    toil: Duration,
    pub(crate) routes: RouteBook,
    epoch_promised: u64,
    pub(crate) health: HealthBook,
    pub(crate) operations: Operations,
    pub(crate) pulls: Pulls,
    pub(crate) progress: ProgressBook,
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
            timers: Timers::default(),
            tended: HashMap::new(),
            owners: HashMap::new(),
            snapshot: BTreeMap::new(),
            snapshot_is_current: false,
            strangers: BTreeSet::new(),
            remains_searched: false,
            remains_reported: false,
            edge_view,
            edge_is_heard: false,
            toil: Duration::ZERO,
            routes: RouteBook::starting_at(floor),
            epoch_promised: floor,
            health: HealthBook::new(parts.engine.clone(), beliefs),
            operations: Operations::new(parts.engine.clone(), done, parts.settings.launches_at_once),
            pulls: Pulls::new(parts.images.clone(), pulls),
            progress: ProgressBook::default(),
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
        let began = Instant::now();
        let listing: BTreeMap<InstanceId, InstanceStatus> = listing.into_iter().map(|s| (s.id, s)).collect();
        for (id, is_listed) in differences(&self.snapshot, &listing) {
            match self.owners.get(&id) {
                Some(owner) => drop(self.due.insert(*owner)),
                None if is_listed => drop(self.strangers.insert(id)),
                None => drop(self.strangers.remove(&id)),
            }
        }
        let owners = &self.owners;
        self.operations
            .compare(|id| listing.contains_key(&id), |id| owners.contains_key(&id));
        self.snapshot = listing;
        self.snapshot_is_current = true;
        self.remains_searched = false;
        self.toil += began.elapsed();
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
        let (ended, running): (Vec<_>, Vec<_>) = self
            .strangers
            .iter()
            .filter_map(|id| self.snapshot.get(id))
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
            self.timers.bring_forward(NOBODY, later);
            self.remains_searched = false;
        }
    }

    fn notice_edge(&mut self) {
        if self.edge_is_heard && !self.edge_view.has_changed().unwrap_or(false) {
            return;
        }
        self.edge_is_heard = true;
        let acknowledged = self.edge_view.borrow_and_update().acked_epoch;
        self.due.extend(self.routes.hear(acknowledged));
    }

    fn notice_timers(&mut self) {
        let now = Instant::now();
        while let Some(service) = self.timers.pop_ripe(now) {
            self.due.insert(service);
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
        let began = Instant::now();
        let table = self
            .routes
            .table(self.record.entries(), &self.parts.settings.base_domain);
        if let Some(table) = table {
            self.parts.edge.publish(table);
            self.toil += began.elapsed();
        }
        Ok(())
    }

    /// While it rests, whatever comes waits, and is answered together then.
    async fn rest(&mut self, stop: &mut watch::Receiver<bool>) {
        let toil = std::mem::take(&mut self.toil);
        let Some(rest) = rest_after(toil, self.snapshot.len()) else {
            return;
        };
        if *stop.borrow() {
            return;
        }
        tokio::select! {
            biased;
            _ = stop.changed() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }

    async fn sleep(&mut self, pause: Option<Instant>, stop: &mut watch::Receiver<bool>) {
        let timer = self
            .timers
            .next()
            .into_iter()
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
                _ = self.edge_view.changed() => self.edge_is_heard = false,
                Some(done) = inbox.done.recv() => self.take_done(done),
                Some(belief) = inbox.beliefs.recv() => self.take_belief(belief),
                Some(news) = inbox.pulls.recv() => self.take_news(news),
                () = tokio::time::sleep_until(timer) => {}
                _ = stop.changed() => {}
            }
        }
        self.rest(stop).await;
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

/// The instances that stand in only one of two listings, or otherwise than in the other, and whether the new one has
/// them. Both are walked once, side by side.
fn differences(
    before: &BTreeMap<InstanceId, InstanceStatus>,
    now: &BTreeMap<InstanceId, InstanceStatus>,
) -> Vec<(InstanceId, bool)> {
    let mut found = Vec::new();
    let mut old = before.values().peekable();
    for status in now.values() {
        while let Some(gone) = old.next_if(|known| known.id < status.id) {
            found.push((gone.id, false));
        }
        if old.next_if(|known| known.id == status.id) != Some(status) {
            found.push((status.id, true));
        }
    }
    found.extend(old.map(|gone| (gone.id, false)));
    found
}

fn rest_after(toil: Duration, instances: usize) -> Option<Duration> {
    let rest = toil.saturating_mul(REST_FACTOR).min(REST_LONGEST);
    (rest >= REST_SHORTEST && instances >= REST_FROM).then_some(rest)
}

fn renewal(parts: &Parts) -> Duration {
    Duration::from_micros((parts.settings.lease_us / 3).max(1_000_000) as u64)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn listing(instances: &[(u128, Phase)]) -> BTreeMap<InstanceId, InstanceStatus> {
        let status = |(n, phase): &(u128, Phase)| InstanceStatus {
            id: InstanceId(Uuid::from_u128(*n)),
            phase: phase.clone(),
            address: None,
            pid: None,
            started_at_us: None,
        };
        instances.iter().map(status).map(|status| (status.id, status)).collect()
    }

    #[test]
    fn two_listings_differ_in_what_came_what_went_and_what_is_otherwise_now() {
        let before = listing(&[
            (1, Phase::Running),
            (2, Phase::Running),
            (4, Phase::Starting),
            (9, Phase::Running),
        ]);
        let now = listing(&[
            (2, Phase::Running),
            (3, Phase::Starting),
            (4, Phase::Running),
            (5, Phase::Starting),
        ]);
        let found = differences(&before, &now);
        let found: Vec<(u128, bool)> = found.into_iter().map(|(id, listed)| (id.0.as_u128(), listed)).collect();
        assert_eq!(found, [(1, false), (3, true), (4, true), (5, true), (9, false)]);
        assert_eq!(differences(&now, &now), []);
    }

    #[test]
    fn the_loop_rests_after_much_work_only_and_never_for_long() {
        let rest_after = |ms, instances| rest_after(Duration::from_millis(ms), instances);
        assert_eq!(rest_after(0, 100_000), None);
        assert_eq!(rest_after(10, REST_FROM), Some(Duration::from_millis(30)));
        assert_eq!(rest_after(10, 20), None);
        assert_eq!(rest_after(60_000, 100_000), Some(REST_LONGEST));
    }
}
