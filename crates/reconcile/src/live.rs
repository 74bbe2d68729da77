//! What is true right now and in no record: the view behind `hob ps`, progress lines and the rollout document.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use domain::plan::{Health, Process, RouteState, Seen, Trial};
use domain::{ServiceId, Stage};
use engine::InstanceStatus;
use store::Deployment;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::evidence::EvidenceBook;
use crate::seams::EdgePort;

/// One instance that the engine knows.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveInstance {
    pub status: InstanceStatus,
    /// What the checks say: `None` before the first verdict, else well, or what was seen instead.
    pub health: Option<Result<(), String>>,
    /// The edge has acknowledged a table that holds it.
    pub routed: bool,
}

impl LiveInstance {
    pub(crate) fn new(seen: &Seen, status: &InstanceStatus) -> Self {
        let health = match &seen.health {
            Health::Unknown => None,
            Health::Passing { .. } => Some(Ok(())),
            Health::Failing { what, .. } => Some(Err(what.clone())),
        };
        LiveInstance {
            status: status.clone(),
            health,
            routed: seen.route == RouteState::In,
        }
    }
}

/// A snapshot that the reconciler writes and everybody may read.
#[derive(Clone)]
pub struct Live {
    services: Arc<RwLock<HashMap<ServiceId, Vec<LiveInstance>>>>,
    pub(crate) evidence: EvidenceBook,
    changes: watch::Sender<u64>,
}

impl Default for Live {
    fn default() -> Self {
        Live {
            services: Arc::default(),
            evidence: EvidenceBook::default(),
            changes: watch::channel(0).0,
        }
    }
}

impl Live {
    pub fn instances(&self, service: ServiceId) -> Vec<LiveInstance> {
        self.read().get(&service).cloned().unwrap_or_default()
    }

    /// What the edge has seen of a version that stands at a step, or is watched after its success, beside the version
    /// before it. Counted when it is asked for; [`Live::changes`] does not tell of it.
    pub fn trial(&self, deployment: &Deployment, edge: &dyn EdgePort) -> Option<Trial> {
        let trial = self.evidence.trial(deployment, edge, Instant::now())?;
        let watched = deployment.stage == Stage::Succeeded && trial.lasts < deployment.spec.options.watch();
        (deployment.at_step || watched).then_some(trial)
    }

    /// All live instances of all services.
    pub fn count(&self) -> usize {
        self.read().values().map(Vec::len).sum()
    }

    /// Wakes whenever [`Live::instances`] of any service may answer something new.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn set(&self, service: ServiceId, mut instances: Vec<LiveInstance>) {
        let mut services = self.services.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let before = services.get(&service).map(Vec::as_slice).unwrap_or_default();
        if before == instances {
            return;
        }
        if instances.is_empty() {
            services.remove(&service);
        } else {
            instances.shrink_to_fit();
            services.insert(service, instances);
        }
        drop(services);
        self.changes.send_modify(|n| *n += 1);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<ServiceId, Vec<LiveInstance>>> {
        self.services.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Whether an instance carries its share: routed where requests come in, healthy where none do.
pub(crate) fn serves(seen: &Seen, routable: bool) -> bool {
    let well = match seen.health {
        Health::Passing { .. } => true,
        Health::Unknown => seen.route == RouteState::In,
        Health::Failing { .. } => false,
    };
    seen.process == Process::Running && !seen.retiring && well && (!routable || seen.route == RouteState::In)
}
