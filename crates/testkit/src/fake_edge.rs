//! An edge without sockets: takes routing tables, acknowledges them later, loses acknowledgements, restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::InstanceId;
use domain::routing::RoutingTable;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

/// What the control plane knows of the edge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EdgeView {
    pub connected: bool,
    /// A new one for each process of the edge.
    pub boot: Uuid,
    /// The newest table that the edge is known to serve.
    pub acked_epoch: u64,
    /// Requests in flight per instance, routed or not. Absent: none.
    pub busy: BTreeMap<InstanceId, u32>,
}

/// A handle; clones are the same edge.
///
/// **Guarantees.** Serves the last table that it took, over restarts too (invariant 21). Never goes back to an older
/// epoch. Tables may be published in any order and any number of times.
#[derive(Clone)]
pub struct FakeEdge {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    view: watch::Sender<EdgeView>,
}

#[derive(Default)]
struct State {
    /// What requests meet right now.
    serving: RoutingTable,
    ack_delay: Duration,
    lose_acks: u32,
    /// Requests that go to each routed instance at any time, and how long they last after it leaves the table.
    load: Option<(u32, Duration)>,
    held: BTreeMap<InstanceId, u32>,
    boots: u128,
    down: bool,
    tables: u64,
    routed_ever: BTreeSet<InstanceId>,
    emptiest: Option<usize>,
}

impl FakeEdge {
    /// Connected, serving an empty table of epoch 0, acknowledging at once.
    pub fn new() -> Self {
        let edge = FakeEdge {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                view: watch::Sender::new(EdgeView::default()),
            }),
        };
        edge.come_up();
        edge
    }

    // What the reconciler uses.

    /// Sends a table. Never fails and never blocks: [`EdgeView::acked_epoch`] tells when it is served. Lost when the
    /// edge is down, as on a real wire.
    pub fn publish(&self, table: RoutingTable) {
        let (delay, boot) = {
            let mut state = self.lock();
            if state.down {
                return;
            }
            state.tables += 1;
            (state.ack_delay, state.boots)
        };
        if delay.is_zero() {
            return self.take(table, boot);
        }
        let edge = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            edge.take(table, boot);
        });
    }

    pub fn view(&self) -> watch::Receiver<EdgeView> {
        self.shared.view.subscribe()
    }

    // What goes wrong.

    /// From publication until a table is served and acknowledged.
    pub fn set_ack_delay(&self, delay: Duration) {
        self.lock().ack_delay = delay;
    }

    /// The next `count` tables are served, but nobody is told before the next acknowledgement or reconnection.
    pub fn lose_next_acks(&self, count: u32) {
        self.lock().lose_acks = count;
    }

    /// The process dies. Tables on their way are lost; the last one served is kept on disk.
    pub fn go_down(&self) {
        let mut state = self.lock();
        state.down = true;
        state.held.clear();
        drop(state);
        self.shared.view.send_modify(|view| {
            view.connected = false;
            view.busy.clear();
        });
    }

    /// A new process starts from the table that the last one served, and says so.
    pub fn come_up(&self) {
        let mut state = self.lock();
        state.down = false;
        state.boots += 1;
        let (boot, epoch) = (Uuid::from_u128(state.boots), state.serving.epoch);
        drop(state);
        self.shared.view.send_modify(|view| {
            *view = EdgeView {
                connected: true,
                boot,
                acked_epoch: epoch,
                busy: BTreeMap::new(),
            }
        });
    }

    // What requests do.

    /// `requests` are in flight on the instance until told otherwise.
    pub fn hold(&self, instance: InstanceId, requests: u32) {
        let mut state = self.lock();
        if requests == 0 {
            state.held.remove(&instance);
        } else {
            state.held.insert(instance, requests);
        }
        let busy = state.held.clone();
        drop(state);
        self.shared.view.send_modify(|view| view.busy = busy);
    }

    /// Every routed instance has `requests` in flight; they end `lasts` after it left the table.
    pub fn set_load(&self, requests: u32, lasts: Duration) {
        self.lock().load = Some((requests, lasts));
    }

    // What is true.

    /// The table that requests meet right now.
    pub fn serving(&self) -> RoutingTable {
        self.lock().serving.clone()
    }

    /// Instances that requests may be sent to right now.
    pub fn routed(&self) -> BTreeSet<InstanceId> {
        routed(&self.lock().serving)
    }

    pub fn in_flight(&self, instance: InstanceId) -> u32 {
        self.lock().held.get(&instance).copied().unwrap_or(0)
    }

    /// Instances that were ever routed.
    pub fn routed_ever(&self) -> BTreeSet<InstanceId> {
        self.lock().routed_ever.clone()
    }

    /// Fewest targets that any table had since the first one with a target; `None` before that.
    pub fn fewest_targets(&self) -> Option<usize> {
        self.lock().emptiest
    }

    /// Tables that arrived, newer or not.
    pub fn published(&self) -> u64 {
        self.lock().tables
    }

    fn take(&self, table: RoutingTable, boot: u128) {
        let mut state = self.lock();
        if state.down || state.boots != boot {
            return;
        }
        if table.epoch > state.serving.epoch {
            self.swap(&mut state, table);
        }
        let told = state.lose_acks == 0;
        state.lose_acks = state.lose_acks.saturating_sub(1);
        let (epoch, busy) = (state.serving.epoch, state.held.clone());
        drop(state);
        self.shared.view.send_modify(|view| {
            view.busy = busy;
            if told {
                view.acked_epoch = epoch;
            }
        });
    }

    fn swap(&self, state: &mut State, table: RoutingTable) {
        let (before, after) = (routed(&state.serving), routed(&table));
        state.serving = table;
        state.routed_ever.extend(&after);
        if state.emptiest.is_some() || !after.is_empty() {
            state.emptiest = Some(state.emptiest.unwrap_or(usize::MAX).min(after.len()));
        }
        let Some((requests, lasts)) = state.load else { return };
        for id in after.difference(&before) {
            state.held.insert(*id, requests);
        }
        for id in before.difference(&after).copied() {
            self.finish_at(id, Instant::now() + lasts, state.boots);
        }
    }

    /// The requests in flight on an instance end at `at`, unless it is routed again by then.
    fn finish_at(&self, id: InstanceId, at: Instant, boot: u128) {
        let edge = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            let same = {
                let state = edge.lock();
                state.boots == boot && !routed(&state.serving).contains(&id)
            };
            if same {
                edge.hold(id, 0);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for FakeEdge {
    fn default() -> Self {
        Self::new()
    }
}

fn routed(table: &RoutingTable) -> BTreeSet<InstanceId> {
    table
        .services
        .iter()
        .flat_map(|service| &service.targets)
        .map(|target| target.instance)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use domain::routing::{ServiceEntry, Target};
    use domain::{DeploymentId, ProjectId, ServiceId};

    use super::*;

    fn id(n: u128) -> InstanceId {
        InstanceId(Uuid::from_u128(n))
    }

    fn table(epoch: u64, instances: &[u128]) -> RoutingTable {
        let target = |n: &u128| Target {
            instance: id(*n),
            address: Ipv4Addr::LOCALHOST.into(),
            port: 80,
        };
        let service = ServiceEntry {
            service: ServiceId(Uuid::nil()),
            project: ProjectId(Uuid::nil()),
            name: "web".to_owned(),
            receipt: DeploymentId(Uuid::nil()),
            matches: Vec::new(),
            targets: instances.iter().map(target).collect(),
        };
        RoutingTable {
            epoch,
            services: vec![service],
            callers: BTreeMap::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_is_acknowledged_when_it_is_served_and_not_before() {
        let edge = FakeEdge::new();
        edge.set_ack_delay(Duration::from_millis(50));
        let mut view = edge.view();
        edge.publish(table(1, &[1]));
        tokio::time::sleep(Duration::from_millis(49)).await;
        assert_eq!((view.borrow().acked_epoch, edge.routed().len()), (0, 0));
        view.wait_for(|view| view.acked_epoch == 1)
            .await
            .expect("the edge lives");
        assert!(edge.routed().contains(&id(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_table_never_replaces_a_newer_one() {
        let edge = FakeEdge::new();
        edge.publish(table(5, &[1, 2]));
        edge.publish(table(4, &[]));
        assert_eq!((edge.serving().epoch, edge.view().borrow().acked_epoch), (5, 5));
        assert_eq!(edge.fewest_targets(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_acknowledgement_comes_with_the_next_connection() {
        let edge = FakeEdge::new();
        edge.lose_next_acks(1);
        edge.publish(table(1, &[1]));
        assert_eq!((edge.routed().len(), edge.view().borrow().acked_epoch), (1, 0));
        let boot = edge.view().borrow().boot;
        edge.go_down();
        assert!(!edge.view().borrow().connected);
        edge.publish(table(2, &[]));
        edge.come_up();
        let view = edge.view().borrow().clone();
        assert!(view.connected && view.boot != boot && view.acked_epoch == 1, "{view:?}");
        assert_eq!(edge.routed().len(), 1, "a restarted edge serves the last table");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_flight_outlast_the_route() {
        let edge = FakeEdge::new();
        edge.set_load(3, Duration::from_secs(1));
        edge.publish(table(1, &[1]));
        assert_eq!(edge.in_flight(id(1)), 3);
        edge.publish(table(2, &[2]));
        let mut view = edge.view();
        assert_eq!(view.borrow().busy.get(&id(1)), Some(&3));
        let before = Instant::now();
        view.wait_for(|view| !view.busy.contains_key(&id(1)))
            .await
            .expect("the edge lives");
        assert_eq!(before.elapsed(), Duration::from_secs(1));
    }
}
