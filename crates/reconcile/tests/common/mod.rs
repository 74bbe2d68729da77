//! A world for the reconciler's tests: a real store in memory, a fake engine, a fake edge, images out of thin air.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use domain::routing::{EdgeView, RoutingTable};
use domain::{Behaviour, DeploymentId, InstanceId, ServiceId, Stage};
use reconcile::{EdgePort, ImageSource, Live, ObtainError, Parts, Reconciler, Settings};
use store::{
    Deployment, NewService, OpenOptions, Principal, RootKey, Scope, Service, ServiceKind, ServicePatch, Store, Via,
};
use testkit::{FakeEdge, FakeEngine, Script};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Longest wait for any condition.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub store: Store,
    pub engine: FakeEngine,
    pub edge: FakeEdge,
    pub scope: Scope,
    pub live: Live,
    running: Option<(watch::Sender<bool>, JoinHandle<domain::Result<()>>)>,
}

impl World {
    pub async fn new() -> World {
        let clock = Arc::new(now_us);
        let options = OpenOptions {
            url: "sqlite::memory:".to_owned(),
            root_key: RootKey::new([7; 32]),
            clock,
            create: true,
        };
        let store = Store::open(options).await.map_err(|e| e.context).unwrap();
        let operator = store.system().bootstrap().await.map_err(|e| e.context).unwrap();
        let scope = store.scope(Principal {
            account: operator.id,
            admin: true,
            via: Via::LocalOperator,
        });
        let mut world = World {
            store,
            engine: FakeEngine::new(),
            edge: FakeEdge::new(),
            scope,
            live: Live::default(),
            running: None,
        };
        world.start().await;
        world
    }

    /// A control plane begins (again).
    pub async fn start(&mut self) {
        let parts = Parts {
            store: self.store.clone(),
            engine: Arc::new(self.engine.clone()),
            edge: Arc::new(Wire::to(self.edge.clone())),
            images: Arc::new(ThinAir),
            planner: Arc::new(reconcile::guarded),
            clock: Arc::new(now_us),
            new_id: Arc::new(Uuid::now_v7),
            settings: Settings {
                base_domain: "localhost".to_owned(),
                launches_at_once: 8,
                holder: "test".to_owned(),
                lease_us: 60_000_000,
            },
        };
        self.live = Live::default();
        let reconciler = Reconciler::start(parts, self.live.clone())
            .await
            .map_err(|e| e.context)
            .unwrap();
        let (stop, stopped) = watch::channel(false);
        self.running = Some((stop, tokio::spawn(reconciler.run(stopped))));
    }

    /// The control plane is killed: nothing of it runs a line further.
    pub async fn kill(&mut self) {
        let (_, task) = self.running.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    pub async fn create(&self, name: &str, image: &str, instances: u32) -> (Service, Deployment) {
        let new = NewService {
            instances,
            ..NewService::new(ServiceKind::Service, name, image, Some(8080))
        };
        self.scope.create_service(new).await.map_err(|e| e.context).unwrap()
    }

    pub async fn patch(&self, service: ServiceId, patch: ServicePatch) -> Deployment {
        let (_, deployment) = self
            .scope
            .patch_service(service, patch)
            .await
            .map_err(|e| e.context)
            .unwrap();
        deployment.expect("the patch makes a deployment")
    }

    #[allow(dead_code, reason = "not every test file deploys that way")]
    pub async fn image(&self, service: ServiceId, image: &str) -> Deployment {
        self.patch(
            service,
            ServicePatch {
                image: Some(image.to_owned()),
                ..ServicePatch::default()
            },
        )
        .await
    }

    pub fn script(&self, image: &str, script: Script) {
        self.engine.set_script(&digest(image), script);
    }

    pub async fn deployment(&self, id: DeploymentId) -> Deployment {
        self.scope.deployment(id).await.map_err(|e| e.context).unwrap()
    }

    /// Waits until a deployment has ended, and answers it.
    pub async fn end_of(&self, id: DeploymentId) -> Deployment {
        self.until("the deployment has ended", async || {
            !self.deployment(id).await.stage.is_active()
        })
        .await;
        self.deployment(id).await
    }

    pub async fn succeeded(&self, id: DeploymentId) -> Deployment {
        let deployment = self.end_of(id).await;
        assert_eq!(deployment.stage, Stage::Succeeded, "{}", deployment.error_message);
        deployment
    }

    /// Images of the routed instances of a service, sorted.
    pub fn routed(&self, service: ServiceId) -> Vec<InstanceId> {
        let table = self.edge.serving();
        let entry = table.services.iter().find(|entry| entry.service == service);
        entry
            .map(|entry| entry.targets().map(|t| t.instance).collect())
            .unwrap_or_default()
    }

    /// Why services are frozen, and what their deployments wait for.
    async fn services(&self) -> Vec<String> {
        let mut told = vec![];
        for (id, _) in self
            .store
            .system()
            .services_changed_since(0, 10)
            .await
            .unwrap_or_default()
        {
            let Ok(service) = self.scope.service(id).await else {
                continue;
            };
            told.extend(service.frozen);
            if let Some(last) = service.last {
                told.push(self.deployment(last).await.waiting);
            }
        }
        told
    }

    pub async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut wait = Duration::from_millis(1);
        while !condition().await {
            assert!(
                tokio::time::Instant::now() < deadline,
                "waited in vain until {what}\n{:?}\n{:?}",
                self.engine.events(),
                self.services().await
            );
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    }

    /// Waits until `count` instances are routed and the engine runs no other.
    pub async fn settled(&self, service: ServiceId, count: usize) {
        self.until("the service is settled", async || {
            self.routed(service).len() == count && self.engine.live_of(service) == count && self.engine.known() == count
        })
        .await;
    }
}

pub fn digest(image: &str) -> String {
    format!("sha256:{image}")
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
}

/// Every image exists, but those named `missing`.
struct ThinAir;

#[async_trait]
impl ImageSource for ThinAir {
    async fn obtain(
        &self,
        reference: &str,
        known: Option<&str>,
        _progress: watch::Sender<String>,
    ) -> Result<String, ObtainError> {
        if reference.starts_with("missing") {
            return Err(ObtainError::Permanent(format!("there is no image {reference}")));
        }
        Ok(known.map(str::to_owned).unwrap_or_else(|| digest(reference)))
    }
}

/// The wire to the fake edge: sends the newest table again whenever the edge comes back, as the real client does.
pub struct Wire {
    edge: FakeEdge,
    newest: watch::Sender<Option<RoutingTable>>,
    view: watch::Receiver<EdgeView>,
    task: JoinHandle<()>,
}

impl Wire {
    pub fn to(edge: FakeEdge) -> Wire {
        let newest = watch::Sender::new(None::<RoutingTable>);
        let (told, view) = watch::channel(edge.view().borrow().clone());
        let task = tokio::spawn({
            let (edge, mut tables) = (edge.clone(), newest.subscribe());
            let mut seen = edge.view();
            async move {
                loop {
                    tokio::select! {
                        changed = seen.changed() => if changed.is_err() { return },
                        changed = tables.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(Duration::from_millis(100)) => {}
                    }
                    let now = seen.borrow_and_update().clone();
                    let newest = tables.borrow_and_update().clone();
                    if let Some(table) = newest
                        && now.connected
                        && table.epoch > now.acked_epoch
                    {
                        edge.publish(table);
                    }
                    told.send_if_modified(|view| std::mem::replace(view, now.clone()) != now);
                }
            }
        });
        Wire {
            edge,
            newest,
            view,
            task,
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl EdgePort for Wire {
    fn publish(&self, table: RoutingTable) {
        self.newest.send_replace(Some(table));
    }

    fn view(&self) -> watch::Receiver<EdgeView> {
        self.view.clone()
    }

    fn behaviour(&self, deployment: DeploymentId) -> Behaviour {
        self.edge.behaviour(deployment)
    }

    fn close_busy(&self, instances: &[InstanceId]) {
        for instance in instances {
            self.edge.hold(*instance, 0);
        }
    }
}
