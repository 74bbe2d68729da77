//! What every edge must do for the reconciler, with the control plane's end of the wire to it: the same suite for the
//! fake one and for real processes.

use async_trait::async_trait;
use domain::InstanceId;
use domain::routing::{EdgeView, Pool, RouteMatch, RoutingTable, ServiceEntry, Target};
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use super::SOON;

/// Where requests of the suite go.
const HOST: &str = "conforms.test";

/// An edge, and requests to it.
#[async_trait]
pub trait EdgeSubject: Sync {
    fn publish(&self, table: RoutingTable);

    fn view(&self) -> watch::Receiver<EdgeView>;

    fn close_busy(&self, instances: &[InstanceId]);

    /// The process ends at once, and another one begins.
    async fn restart(&self);

    /// A new instance that answers requests.
    async fn instance(&self) -> Target;

    /// One request to `host`: the instance that answers it.
    async fn ask(&self, host: &str) -> Option<InstanceId>;

    /// One request to `host`, whose only instance this is, that the instance keeps. Returns when it has got there.
    async fn begin(&self, host: &str, instance: InstanceId);

    /// The instance answers what it keeps. How many answers arrive.
    async fn finish(&self, instance: InstanceId) -> usize;
}

/// Runs the whole suite, one case after the other, on an edge that has had no table yet.
///
/// # Panics
/// On the first thing that the reconciler could not rely on.
pub async fn check_edge(edge: &dyn EdgeSubject) {
    let mut suite = Suite { edge, epoch: 0 };
    suite.acknowledges_what_it_serves().await;
    suite.serves_the_newest_of_many().await;
    suite.never_goes_back().await;
    suite.tells_who_is_busy_with_the_acknowledgement().await;
    suite.forgets_that_an_instance_was_busy_when_it_is_routed_again().await;
    suite.cuts_only_what_is_not_routed().await;
    suite.serves_its_last_table_after_a_restart().await;
}

struct Suite<'a> {
    edge: &'a dyn EdgeSubject,
    epoch: u64,
}

impl Suite<'_> {
    async fn acknowledges_what_it_serves(&mut self) {
        let view = self.until("is connected", |view| view.connected).await;
        assert!(view.boot.is_some(), "a process has a name");
        assert_eq!((view.acked_epoch, view.busy.len()), (0, 0));
        assert_eq!(self.edge.ask(HOST).await, None, "nobody is routed yet");
        let target = self.edge.instance().await;
        self.serve(&[&target]).await;
        assert_eq!(self.edge.ask(HOST).await, Some(target.instance));
        self.serve(&[]).await;
        assert_eq!(self.edge.ask(HOST).await, None);
    }

    async fn serves_the_newest_of_many(&mut self) {
        let targets = [
            self.edge.instance().await,
            self.edge.instance().await,
            self.edge.instance().await,
        ];
        for target in &targets {
            self.publish(&[target]);
        }
        self.acknowledged().await;
        assert_eq!(self.edge.ask(HOST).await, Some(targets[2].instance));
    }

    async fn never_goes_back(&mut self) {
        let (old, new) = (self.edge.instance().await, self.edge.instance().await);
        let older = self.table(&[&old]);
        self.serve(&[&new]).await;
        self.edge.publish(older);
        // What follows an older table is taken as if that had never been sent.
        self.publish(&[&new]);
        self.acknowledged().await;
        assert_eq!(self.edge.ask(HOST).await, Some(new.instance));
    }

    /// No view ever says that a table without the instance is served, and not that requests are still with it.
    async fn tells_who_is_busy_with_the_acknowledgement(&mut self) {
        let target = self.serve_busy().await;
        assert!(self.edge.view().borrow().busy.is_empty(), "it is routed");
        self.publish(&[]);
        let view = self.acknowledged().await;
        assert_eq!(view.busy.get(&target.instance), Some(&1), "{view:?}");
        self.edge.finish(target.instance).await;
        self.idle().await;
    }

    async fn forgets_that_an_instance_was_busy_when_it_is_routed_again(&mut self) {
        let target = self.serve_busy().await;
        self.serve(&[]).await;
        self.publish(&[&target]);
        let view = self.acknowledged().await;
        assert!(view.busy.is_empty(), "{view:?}");
        self.publish(&[]);
        let view = self.acknowledged().await;
        assert_eq!(view.busy.get(&target.instance), Some(&1), "{view:?}");
        self.edge.finish(target.instance).await;
        self.idle().await;
    }

    async fn cuts_only_what_is_not_routed(&mut self) {
        let target = self.serve_busy().await;
        self.edge.close_busy(&[target.instance]);
        self.serve(&[&target]).await;
        assert_eq!(self.edge.finish(target.instance).await, 1, "it is routed");

        let target = self.serve_busy().await;
        self.publish(&[]);
        // What was asked first is done first, acknowledged or not.
        self.edge.close_busy(&[target.instance]);
        self.acknowledged().await;
        self.idle().await;
        assert_eq!(self.edge.finish(target.instance).await, 0, "it was cut");
    }

    /// Invariant 21.
    async fn serves_its_last_table_after_a_restart(&mut self) {
        let target = self.serve_one().await;
        let before = self.edge.view().borrow().boot;
        self.edge.restart().await;
        let view = self
            .until("is another process", |view| view.connected && view.boot != before)
            .await;
        assert_eq!((view.acked_epoch, view.busy.len()), (self.epoch, 0));
        assert_eq!(self.edge.ask(HOST).await, Some(target.instance));
    }

    /// A new instance, routed alone.
    async fn serve_one(&mut self) -> Target {
        let target = self.edge.instance().await;
        self.serve(&[&target]).await;
        target
    }

    /// As [`Suite::serve_one`], and it keeps one request.
    async fn serve_busy(&mut self) -> Target {
        let target = self.serve_one().await;
        self.edge.begin(HOST, target.instance).await;
        target
    }

    async fn serve(&mut self, targets: &[&Target]) {
        self.publish(targets);
        self.acknowledged().await;
    }

    fn publish(&mut self, targets: &[&Target]) {
        let table = self.table(targets);
        self.edge.publish(table);
    }

    /// The next one.
    fn table(&mut self, targets: &[&Target]) -> RoutingTable {
        self.epoch += 1;
        RoutingTable {
            epoch: self.epoch,
            services: vec![entry(targets.iter().copied().cloned().collect())],
            ..RoutingTable::default()
        }
    }

    /// The view with which the newest table was acknowledged.
    async fn acknowledged(&self) -> EdgeView {
        let epoch = self.epoch;
        self.until("has acknowledged", |view| view.acked_epoch == epoch).await
    }

    async fn idle(&self) {
        self.until("is idle", |view| view.busy.is_empty()).await;
    }

    async fn until(&self, what: &str, wanted: impl Fn(&EdgeView) -> bool) -> EdgeView {
        let mut view = self.edge.view();
        let found = timeout(SOON, view.wait_for(|view| wanted(view))).await;
        let found = found.map(|found| found.expect("the edge's view ends").clone());
        found.unwrap_or_else(|_| panic!("the edge never {what}: {:?}", self.edge.view().borrow()))
    }
}

/// One service at [`HOST`].
fn entry(targets: Vec<Target>) -> ServiceEntry {
    ServiceEntry {
        service: Uuid::from_u128(1).into(),
        project: Uuid::from_u128(2).into(),
        name: "conforms".to_owned(),
        receipt: Uuid::from_u128(3).into(),
        matches: vec![RouteMatch {
            host: HOST.to_owned(),
            path: "/".to_owned(),
        }],
        pools: vec![Pool::new(Uuid::from_u128(3).into(), 1, targets)],
        sticky: false,
        hold: None,
    }
}
