//! An edge without sockets: takes routing tables, acknowledges them later, loses acknowledgements, restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::routing::{EdgeView, RoutingTable, ServiceEntry};
use domain::{Behaviour, DeploymentId, InstanceId};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

/// From a broken wire to the next one.
pub const RECONNECT: Duration = Duration::from_millis(100);

/// A handle; clones are the same edge.
///
/// It stands for the edge's process and for the control plane's end of the wire to it: the newest table is delivered
/// again for as long as it is not acknowledged, until [`FakeEdge::forget_unsent`].
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
    /// The instances in it.
    routed: BTreeSet<InstanceId>,
    /// Published, and not served yet.
    unsent: Option<RoutingTable>,
    ack_delay: Duration,
    lose_acks: u32,
    /// Requests that go to each routed instance at any time, and how long they last after it leaves the table.
    load: Option<(u64, Duration)>,
    held: BTreeMap<InstanceId, u64>,
    /// To be cut once this table or a later one is served, unless that routes them.
    cuts: BTreeMap<InstanceId, u64>,
    behaviours: BTreeMap<DeploymentId, Behaviour>,
    boots: u128,
    down: bool,
    tables: u64,
    routed_ever: BTreeSet<InstanceId>,
    emptiest: Option<usize>,
    fullest: usize,
}

impl State {
    fn cut(&mut self) {
        let due = self.cuts.extract_if(.., |_, asked_at| *asked_at <= self.serving.epoch);
        for (id, _) in due {
            if !self.routed.contains(&id) {
                self.held.remove(&id);
            }
        }
    }
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

    /// Makes this the newest table. Never fails and never blocks: [`EdgeView::acked_epoch`] tells when it is served.
    pub fn publish(&self, table: RoutingTable) {
        {
            let mut state = self.lock();
            state.tables += 1;
            if state.unsent.as_ref().is_none_or(|unsent| unsent.epoch <= table.epoch) {
                state.unsent = Some(table);
            }
        }
        self.deliver();
    }

    pub fn view(&self) -> watch::Receiver<EdgeView> {
        self.shared.view.subscribe()
    }

    /// What [`FakeEdge::set_behaviour`] was told last.
    pub fn behaviour(&self, deployment: DeploymentId) -> Behaviour {
        self.lock().behaviours.get(&deployment).cloned().unwrap_or_default()
    }

    /// What the edge is to have seen of a deployment.
    pub fn set_behaviour(&self, deployment: DeploymentId, behaviour: Behaviour) {
        self.lock().behaviours.insert(deployment, behaviour);
    }

    /// Ends what is still in flight on these unrouted instances.
    pub fn close_busy(&self, instances: &[InstanceId]) {
        let mut state = self.lock();
        let newest = state.unsent.as_ref().map_or(state.serving.epoch, |table| table.epoch);
        state.cuts.extend(instances.iter().map(|id| (*id, newest)));
        state.cut();
        self.tell(state, |_| ());
    }

    // What goes wrong.

    /// From publication until a table is served and acknowledged.
    pub fn set_ack_delay(&self, delay: Duration) {
        self.lock().ack_delay = delay;
    }

    /// The next `count` tables are served, but the wire breaks before that is told; it is mended [`RECONNECT`] later.
    pub fn lose_next_acks(&self, count: u32) {
        self.lock().lose_acks = count;
    }

    /// The control plane's end of the wire is a new process: what was published and not served yet is gone.
    pub fn forget_unsent(&self) {
        self.lock().unsent = None;
    }

    /// The process dies, and with it every request in flight. The last table served is kept on disk.
    pub fn go_down(&self) {
        let mut state = self.lock();
        state.down = true;
        state.held.clear();
        self.tell(state, |view| view.connected = false);
    }

    /// A new process starts from the table that the last one served, and says so.
    pub fn come_up(&self) {
        let mut state = self.lock();
        state.down = false;
        state.boots += 1;
        let boot = Uuid::from_u128(state.boots);
        self.tell(state, |view| view.boot = Some(boot));
        self.connect();
    }

    // What requests do.

    /// `requests` are in flight on the instance until told otherwise.
    pub fn hold(&self, instance: InstanceId, requests: u64) {
        let mut state = self.lock();
        state.held.insert(instance, requests);
        self.tell(state, |_| ());
    }

    /// Every routed instance has `requests` in flight; they end `lasts` after it left the table.
    pub fn set_load(&self, requests: u64, lasts: Duration) {
        self.lock().load = Some((requests, lasts));
    }

    // What is true.

    /// The table that requests meet right now.
    pub fn serving(&self) -> RoutingTable {
        self.lock().serving.clone()
    }

    /// Instances that requests may be sent to right now.
    pub fn routed(&self) -> BTreeSet<InstanceId> {
        self.lock().routed.clone()
    }

    /// How many [`FakeEdge::routed`] has.
    pub fn count_routed(&self) -> usize {
        self.lock().routed.len()
    }

    pub fn in_flight(&self, instance: InstanceId) -> u64 {
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

    /// Most targets that any table had.
    pub fn most_targets(&self) -> usize {
        self.lock().fullest
    }

    /// Begins to look for [`FakeEdge::fewest_targets`] and [`FakeEdge::most_targets`] anew, with the table of now.
    pub fn look_anew(&self) {
        let mut state = self.lock();
        let now = state.routed.len();
        state.emptiest = Some(now);
        state.fullest = now;
    }

    /// Tables that arrived, newer or not.
    pub fn published(&self) -> u64 {
        self.lock().tables
    }

    fn connect(&self) {
        let state = self.lock();
        let epoch = state.serving.epoch;
        self.tell(state, |view| {
            view.connected = true;
            view.acked_epoch = epoch;
        });
        self.deliver();
    }

    fn deliver(&self) {
        let (delay, boot, down) = {
            let state = self.lock();
            (state.ack_delay, state.boots, state.down)
        };
        if down {
            return;
        }
        if delay.is_zero() {
            return self.take(boot);
        }
        let edge = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            edge.take(boot);
        });
    }

    fn take(&self, boot: u128) {
        let mut state = self.lock();
        if state.down || state.boots != boot {
            return;
        }
        let Some(table) = state.unsent.take() else { return };
        if table.epoch > state.serving.epoch {
            self.swap(&mut state, table);
            state.cut();
        }
        if state.lose_acks > 0 {
            state.lose_acks -= 1;
            self.tell(state, |view| view.connected = false);
            return self.reconnect_later(boot);
        }
        let epoch = state.serving.epoch;
        self.tell(state, |view| view.acked_epoch = epoch);
    }

    fn reconnect_later(&self, boot: u128) {
        let edge = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RECONNECT).await;
            let same = {
                let state = edge.lock();
                state.boots == boot && !state.down
            };
            if same {
                edge.connect();
            }
        });
    }

    fn swap(&self, state: &mut State, table: RoutingTable) {
        let after = routed(&table);
        state.serving = table;
        let fresh: Vec<InstanceId> = after.difference(&state.routed).copied().collect();
        let gone: Vec<InstanceId> = state.routed.difference(&after).copied().collect();
        state.routed_ever.extend(&fresh);
        state.fullest = state.fullest.max(after.len());
        if state.emptiest.is_some() || !after.is_empty() {
            state.emptiest = Some(state.emptiest.unwrap_or(usize::MAX).min(after.len()));
        }
        state.routed = after;
        let Some((requests, lasts)) = state.load else { return };
        for id in fresh {
            state.held.insert(id, requests);
        }
        for id in gone {
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
                state.boots == boot && !state.routed.contains(&id)
            };
            if same {
                edge.hold(id, 0);
            }
        });
    }

    /// Changes the view, after bringing its busy instances (those that are not routed) up to date.
    fn tell(&self, mut state: MutexGuard<'_, State>, change: impl FnOnce(&mut EdgeView)) {
        state.held.retain(|_, requests| *requests > 0);
        let busy = state
            .held
            .iter()
            .filter(|(id, _)| !state.routed.contains(id))
            .map(|(id, n)| (*id, *n))
            .collect();
        drop(state);
        self.shared.view.send_modify(|view| {
            view.busy = busy;
            change(view);
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
        .flat_map(ServiceEntry::targets)
        .map(|target| target.instance)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;
    use domain::routing::{Pool, Target};
    use domain::{DeploymentId, ProjectId, ServiceId};

    use super::*;
    use crate::conformance::{EdgeSubject, check_edge};

    /// With requests that are numbers.
    struct Alone {
        edge: FakeEdge,
        instances: AtomicU64,
    }

    #[async_trait]
    impl EdgeSubject for Alone {
        fn publish(&self, table: RoutingTable) {
            self.edge.publish(table);
        }

        fn view(&self) -> watch::Receiver<EdgeView> {
            self.edge.view()
        }

        fn close_busy(&self, instances: &[InstanceId]) {
            self.edge.close_busy(instances);
        }

        async fn restart(&self) {
            self.edge.go_down();
            self.edge.come_up();
        }

        async fn instance(&self) -> Target {
            Target {
                instance: id(self.instances.fetch_add(1, Ordering::Relaxed).into()),
                address: Ipv4Addr::LOCALHOST.into(),
                port: 80,
            }
        }

        async fn ask(&self, host: &str) -> Option<InstanceId> {
            let table = self.edge.serving();
            let leads = |entry: &&ServiceEntry| entry.matches.iter().any(|route| route.host == host);
            let entry = table.services.iter().find(leads)?;
            entry.targets().next().map(|target| target.instance)
        }

        async fn begin(&self, _host: &str, instance: InstanceId) {
            self.edge.hold(instance, 1);
        }

        async fn finish(&self, instance: InstanceId) -> usize {
            let kept = self.edge.in_flight(instance);
            self.edge.hold(instance, 0);
            kept as usize
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_an_edge_like_any_other() {
        for delay in [Duration::ZERO, Duration::from_millis(50)] {
            let edge = FakeEdge::new();
            edge.set_ack_delay(delay);
            let instances = AtomicU64::new(1);
            check_edge(&Alone { edge, instances }).await;
        }
    }

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
            pools: vec![Pool::new(
                DeploymentId(Uuid::nil()),
                1,
                instances.iter().map(target).collect(),
            )],
            sticky: false,
            hold: None,
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
        let mut view = edge.view();
        edge.lose_next_acks(1);
        edge.publish(table(1, &[1]));
        assert!(edge.routed().len() == 1 && view.borrow().acked_epoch == 0 && !view.borrow().connected);
        view.wait_for(|view| view.connected && view.acked_epoch == 1)
            .await
            .expect("the edge lives");
    }

    #[tokio::test(start_paused = true)]
    async fn a_restarted_edge_serves_the_last_table_and_then_gets_the_newest() {
        let edge = FakeEdge::new();
        edge.publish(table(1, &[1]));
        let boot = edge.view().borrow().boot;
        edge.go_down();
        edge.publish(table(2, &[]));
        assert!(!edge.view().borrow().connected && edge.routed().len() == 1);
        edge.set_ack_delay(Duration::from_millis(10));
        edge.come_up();
        let mut view = edge.view();
        assert!(view.borrow().connected && view.borrow().boot != boot && view.borrow().acked_epoch == 1);
        view.wait_for(|view| view.acked_epoch == 2)
            .await
            .expect("the edge lives");
        edge.go_down();
        edge.publish(table(3, &[1]));
        edge.forget_unsent();
        edge.come_up();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(edge.serving().epoch, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_flight_outlast_the_route_unless_they_are_closed() {
        let edge = FakeEdge::new();
        edge.set_load(3, Duration::from_secs(1));
        edge.publish(table(1, &[1]));
        let mut view = edge.view();
        assert!(
            edge.in_flight(id(1)) == 3 && view.borrow().busy.is_empty(),
            "routed ones are not reported"
        );
        edge.publish(table(2, &[2]));
        assert_eq!(view.borrow().busy.get(&id(1)), Some(&3));
        let before = Instant::now();
        view.wait_for(|view| view.busy.is_empty())
            .await
            .expect("the edge lives");
        assert_eq!(before.elapsed(), Duration::from_secs(1));
        edge.publish(table(3, &[]));
        assert_eq!(view.borrow().busy.get(&id(2)), Some(&3));
        edge.close_busy(&[id(2)]);
        assert!(view.borrow().busy.is_empty());
    }
}
