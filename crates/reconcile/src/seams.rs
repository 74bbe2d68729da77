//! What the reconciler needs from the rest of the world, as traits and values, so that the simulator can stand in.

use std::sync::Arc;

use async_trait::async_trait;
use domain::plan::{Desired, Observed, Plan, guard};
use domain::routing::EdgeView;
use domain::routing::RoutingTable;
use domain::{Behaviour, DeploymentId, InstanceId};
use engine::Engine;
use store::Store;
use tokio::sync::watch;
use uuid::Uuid;

/// The control plane's end of the edge.
pub trait EdgePort: Send + Sync + 'static {
    /// Makes this the newest table. Older ones that were not sent yet are dropped; delivery is retried for ever.
    fn publish(&self, table: RoutingTable);

    /// What the edge last said: which epoch it has acknowledged, and which unrouted instances are still busy.
    fn view(&self) -> watch::Receiver<EdgeView>;

    /// What the edge has counted of a deployment since some beginning; see [`Behaviour::since`].
    fn behaviour(&self, deployment: DeploymentId) -> Behaviour;

    /// Ends what is still in flight on these unrouted instances.
    fn close_busy(&self, instances: &[InstanceId]);
}

/// Where images come from.
#[async_trait]
pub trait ImageSource: Send + Sync + 'static {
    /// Makes the image of `reference` present and answers the digest of its manifest. With `digest`, exactly that one.
    /// `progress` takes a sentence for people whenever there is something to tell.
    ///
    /// # Errors
    /// [`ObtainError`] says whether trying again can help.
    async fn obtain(
        &self,
        reference: &str,
        digest: Option<&str>,
        progress: watch::Sender<String>,
    ) -> Result<String, ObtainError>;
}

/// Why an image is not there. Both texts are for the user.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObtainError {
    #[error("{0}")]
    Permanent(String),
    #[error("{0}")]
    Transient(String),
}

/// Decides what to do next for one service; a violation freezes it. [`guarded`], but for simulations that count
/// decisions or put bugs in.
pub type Planner = Arc<dyn Fn(&Desired, &Observed) -> Result<Plan, guard::Violation> + Send + Sync>;

/// The planner, and the guard on every plan of it.
///
/// # Errors
/// The guard's.
pub fn guarded(desired: &Desired, observed: &Observed) -> Result<Plan, guard::Violation> {
    let plan = domain::plan::plan(desired, observed);
    guard::check(desired, observed, &plan)?;
    Ok(plan)
}

/// Everything that a reconciler works with.
#[derive(Clone)]
pub struct Parts {
    pub store: Store,
    pub engine: Arc<dyn Engine>,
    pub edge: Arc<dyn EdgePort>,
    pub images: Arc<dyn ImageSource>,
    pub planner: Planner,
    /// Wall clock in microseconds, for the record.
    pub clock: store::Clock,
    /// New, time-ordered ids.
    pub new_id: Arc<dyn Fn() -> Uuid + Send + Sync>,
    pub settings: Settings,
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// A service without a route of its own answers at `<service>.<base_domain>`.
    pub base_domain: String,
    /// Instances that are being launched at once; more would only compete for the disk.
    pub launches_at_once: usize,
    /// Name in the lease and in the journal.
    pub holder: String,
    /// How long a lease lasts without renewal, microseconds.
    pub lease_us: i64,
}
