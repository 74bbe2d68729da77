//! What callers ask for: new rows, changes, pages.

use domain::{
    AccountId, ApiKeyId, ConfigId, Delivery, DeploymentId, DomainId, HealthCheck, InstanceId, ProjectId, Resources,
    RolloutOptions, SecretId, ServiceId, Stage, Strategy, Template,
};

use crate::rows::ServiceKind;

/// Who asks, and by what right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub account: AccountId,
    pub admin: bool,
    pub via: Via,
}

/// How a principal has shown who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Key(ApiKeyId),
    Session,
    /// Owns the data directory, and speaks over the socket in it.
    LocalOperator,
}

/// Config values by their keys.
pub type Env = std::collections::BTreeMap<String, String>;

/// A service or worker to be made. Names, sizes and ranges are checked by the store (faces 3.3).
#[derive(Debug, Clone, PartialEq)]
pub struct NewService {
    pub kind: ServiceKind,
    /// `None`: the account's default project.
    pub project: Option<ProjectId>,
    pub name: String,
    pub image: String,
    /// Required for a service, refused for a worker.
    pub port: Option<u16>,
    pub instances: u32,
    pub config: Option<ConfigId>,
    /// Values to set in that config with the change; without one, in a config of the service's name.
    pub env: Env,
    pub secret: Option<SecretId>,
    pub delivery: Delivery,
    pub command: Option<Vec<String>>,
    /// See [`domain::Spec::release`].
    pub release: Option<Vec<String>>,
    pub health: HealthCheck,
    pub resources: Resources,
    pub strategy: Strategy,
    pub options: RolloutOptions,
    /// Kept with the first deployment.
    pub notes: String,
}

impl NewService {
    /// One instance with all defaults: what S2.15 asks for.
    pub fn new(kind: ServiceKind, name: impl Into<String>, image: impl Into<String>, port: Option<u16>) -> Self {
        let mut health = HealthCheck::default();
        if kind == ServiceKind::Worker {
            health.kind = domain::spec::CheckKind::Process;
        }
        NewService {
            kind,
            project: None,
            name: name.into(),
            image: image.into(),
            port,
            instances: 1,
            config: None,
            env: Env::new(),
            secret: None,
            delivery: Delivery::default(),
            command: None,
            release: None,
            health,
            resources: Resources::default(),
            strategy: Strategy::default(),
            options: RolloutOptions::default(),
            notes: String::new(),
        }
    }
}

/// A partial change: `None` leaves a field as it is, `Some(None)` empties one that may be empty.
///
/// A patch that really changes the image, port, instances, config, secret, their delivery, command, health check or
/// resources, or that asks for a restart, makes exactly one deployment; any other makes none (OPEN-1). One that changes the number of
/// instances or restarts them, and nothing else, keeps the config and secret values of the newest deployment; every other
/// one takes those of now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServicePatch {
    pub name: Option<String>,
    pub image: Option<String>,
    pub port: Option<u16>,
    pub instances: Option<u32>,
    pub config: Option<Option<ConfigId>>,
    /// As [`NewService::env`]. Values that differ from those of now make a deployment.
    pub env: Env,
    pub secret: Option<Option<SecretId>>,
    pub delivery: Option<Delivery>,
    pub command: Option<Option<Vec<String>>>,
    pub release: Option<Option<Vec<String>>>,
    pub health: Option<HealthCheck>,
    pub resources: Option<Resources>,
    pub strategy: Option<Strategy>,
    pub options: Option<RolloutOptions>,
    /// Replace all instances although nothing else changed.
    pub restart: bool,
    /// Deploy in any case: with nothing changed, the image's tag is resolved anew.
    pub deploy: bool,
    /// Kept with the deployment, where one is made.
    pub notes: String,
}

/// What a rollback takes from the target and what from now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackRequest {
    pub notes: String,
    pub secrets: Source,
    pub config: Source,
}

impl Default for RollbackRequest {
    /// Config values of then, secrets of now: they may have been rotated for a reason.
    fn default() -> Self {
        RollbackRequest {
            notes: String::new(),
            secrets: Source::Current,
            config: Source::Snapshot,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// As the target deployment recorded it.
    Snapshot,
    /// As it is now.
    Current,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewProject {
    pub name: String,
    /// See [`crate::Project::environment`].
    pub environment: Option<String>,
}

impl From<&str> for NewProject {
    fn from(name: &str) -> Self {
        NewProject {
            name: name.to_owned(),
            environment: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProjectPatch {
    pub name: Option<String>,
    pub environment: Option<Option<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoute {
    pub domain: DomainId,
    /// A service, never a worker.
    pub service: ServiceId,
    pub path: String,
    pub enabled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutePatch {
    pub domain: Option<DomainId>,
    pub service: Option<ServiceId>,
    pub path: Option<String>,
    pub enabled: Option<bool>,
}

/// Most rows of one page (OPEN-10).
pub const PAGE_SIZE_MAX: u32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageNumber {
    /// From 1 on.
    Number(u64),
    Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

/// Which rows of a list, in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    pub page: PageNumber,
    /// 1 to [`PAGE_SIZE_MAX`]; others are brought into that range.
    pub page_size: u32,
    /// Fields by their names on the platform face. Unknown ones are ignored; none: the list's default (I.8).
    pub ordering: Vec<(String, Direction)>,
    /// A project that the caller cannot see gives an empty page (I.9).
    pub project: Option<ProjectId>,
    /// For deployments and routes.
    pub service: Option<ServiceId>,
}

impl Default for ListQuery {
    fn default() -> Self {
        ListQuery {
            page: PageNumber::Number(1),
            page_size: 20,
            ordering: Vec::new(),
            project: None,
            service: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// All rows of the list, exactly, from maintained counters.
    pub count: u64,
    /// The page that this is, from 1 on.
    pub number: u64,
    /// How many pages there are, at least 1.
    pub pages: u64,
    pub rows: Vec<T>,
}

/// The right to act for the holder of a lease. Stale once somebody has acquired the lease anew (invariant 19).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub name: String,
    /// Grows with every acquisition.
    pub number: i64,
    pub holder: String,
}

/// What a reconciler decided to write about a service, and what it had seen of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    pub service: ServiceId,
    /// [`crate::Service::revision`] of the state that the decision rests on.
    pub revision: i64,
    /// In this order, all or none.
    pub effects: Vec<Effect>,
}

/// One write of the reconcilers, see [`crate::System::apply_many`].
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Records the intent to run an instance, before the engine is asked.
    AddInstance {
        id: InstanceId,
        deployment: DeploymentId,
        template: Template,
    },
    /// Wanted → retiring.
    Retire { id: InstanceId, reason: String },
    /// Nothing of it is left.
    Gone {
        id: InstanceId,
        crashed: bool,
        exit: Option<serde_json::Value>,
        /// Most memory that it had, in bytes, where that is known.
        memory_peak: Option<u64>,
    },
    /// Passed its health threshold for the first time.
    Healthy { id: InstanceId },
    /// Fixes what the image's reference means for this deployment. Can be done once; the same digest again is no error.
    SetDigest { deployment: DeploymentId, digest: String },
    /// Compare-and-set on the stage (invariant 8).
    SetStage {
        deployment: DeploymentId,
        from: Stage,
        to: Stage,
        reason: String,
        error_message: Option<String>,
    },
    /// Deploying → paused, because the next step is reached: the deployment waits at it ([`crate::Deployment::at_step`]).
    ReachStep { deployment: DeploymentId },
    /// One more step is passed. `step` is what [`crate::Deployment::step`] is then; a compare-and-set on one less. A
    /// deployment that was paused at its step is deploying again; one that a user has paused does not advance.
    Advance { deployment: DeploymentId, step: u32 },
    /// The release command has succeeded. Twice is no error.
    Released { deployment: DeploymentId },
    /// Goes back by itself from what serves: `failed` is marked rolled back and a deployment of what `to` was begins,
    /// as if its owner had asked for it. At most once, and never from a rollback; refused (`Conflict`) when a newer
    /// deployment is on its way already.
    RollBack {
        failed: DeploymentId,
        to: DeploymentId,
        reason: String,
    },
    /// Why the deployment waits now; empty when it does not.
    SetWaiting { deployment: DeploymentId, text: String },
    /// How many instances serve.
    SetRunning { count: u32 },
    /// The service violates an invariant: keep serving, stop acting.
    Freeze { reason: String },
    /// Removes the rows of a deleted service that has nothing left.
    Purge,
}
