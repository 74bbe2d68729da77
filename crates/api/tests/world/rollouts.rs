//! Ends rollouts the way the reconciler would, through the same door.

use domain::{DeploymentId, InstanceId, ServiceId, Stage};
use store::{Effect, Fence, InstanceState, ServiceState};
use uuid::Uuid;

use super::World;

/// Most memory that instances had that are replaced, in bytes.
pub const ENDED_MEMORY: u64 = 5_000_000;
const LEASE_TTL_US: i64 = 3_600_000_000;

/// What the image of a version is found to be; another one for each.
pub fn digest(version: i64) -> String {
    format!("sha256:{version:064x}")
}

impl World {
    /// The service's active deployment starts, serves and succeeds.
    pub async fn succeed(&self, service: &str) -> DeploymentId {
        let (state, deployment) = self.begin(service).await;
        let active = state.active.as_ref().expect("something is on its way");
        let mut effects = Vec::new();
        for row in state.instances.iter().filter(|row| row.state == InstanceState::Wanted) {
            effects.push(Effect::Retire {
                id: row.id,
                reason: "replaced".to_owned(),
            });
            effects.push(Effect::Gone {
                id: row.id,
                crashed: false,
                exit: None,
                memory_peak: Some(ENDED_MEMORY),
            });
        }
        for _ in 0..active.spec.instances {
            let id = InstanceId(Uuid::now_v7());
            effects.push(Effect::AddInstance {
                id,
                deployment,
                template: active.template.clone(),
            });
            effects.push(Effect::Healthy { id });
        }
        effects.push(Effect::SetRunning {
            count: active.spec.instances,
        });
        effects.push(end(deployment, Stage::Succeeded, None));
        self.apply(state.service.id, effects).await;
        deployment
    }

    /// The service's active deployment is given up.
    pub async fn fail(&self, service: &str, error_message: &str) -> DeploymentId {
        let (state, deployment) = self.begin(service).await;
        let failed = end(deployment, Stage::Failed, Some(error_message.to_owned()));
        self.apply(state.service.id, vec![failed]).await;
        deployment
    }

    /// The active deployment's image is known and its rollout has begun.
    pub async fn begin(&self, service: &str) -> (ServiceState, DeploymentId) {
        let id: ServiceId = service.parse().expect("a service's id");
        let active = self.load(id).await.active.expect("something is on its way");
        let deployment = active.id;
        let mut effects = vec![Effect::SetStage {
            deployment,
            from: Stage::Queued,
            to: Stage::Deploying,
            reason: "the image is here".to_owned(),
            error_message: None,
        }];
        // A rollback runs the very image of its target.
        if active.spec.digest.is_none() {
            let digest = digest(active.version);
            effects.push(Effect::SetDigest { deployment, digest });
        }
        self.apply(id, effects).await;
        (self.load(id).await, deployment)
    }

    pub async fn load(&self, id: ServiceId) -> ServiceState {
        let mut states = self.store.system().load(&[id]).await.expect("services load");
        states.pop().expect("the service exists")
    }

    pub async fn apply(&self, service: ServiceId, effects: Vec<Effect>) {
        let fence = self.fence().await;
        self.store
            .system()
            .apply(&fence, service, &effects)
            .await
            .expect("effects apply");
    }

    async fn fence(&self) -> Fence {
        let lease = self
            .store
            .system()
            .acquire_lease("reconcile", "test", LEASE_TTL_US)
            .await;
        lease.expect("the store answers").expect("nobody else holds the lease")
    }
}

fn end(deployment: DeploymentId, to: Stage, error_message: Option<String>) -> Effect {
    Effect::SetStage {
        deployment,
        from: Stage::Deploying,
        to,
        reason: "the test says so".to_owned(),
        error_message,
    }
}
