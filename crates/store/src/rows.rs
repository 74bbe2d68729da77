//! What the store answers with: plain values, one type per noun, none with a secret's value in it.
//!
//! All times are microseconds since the epoch.

use domain::routing::{Receipt, RouteMatch};
use domain::{
    AccountId, ApiKeyId, Behaviour, ConfigId, ConfigItemId, Delivery, DeploymentId, DomainId, HealthCheck, InstanceId,
    ProjectId, Resources, RolloutOptions, RouteId, SecretId, SecretItemId, ServiceId, Spec, Stage, Strategy, Template,
};
use serde::Serialize;

/// A person or a robot that owns things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    pub name: String,
    /// Sees and may change everything.
    pub admin: bool,
    pub created_at_us: i64,
}

/// An API key's record. The key itself is shown once, at creation, and only its hash is kept (G.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub account: AccountId,
    pub name: String,
    /// The first characters of the key, to tell keys apart.
    pub prefix: String,
    pub created_at_us: i64,
    /// Coarse: written at most once a minute.
    pub last_used_at_us: Option<i64>,
    pub expires_at_us: Option<i64>,
    pub revoked_at_us: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    pub id: ProjectId,
    pub name: String,
    /// Made with the account; takes resources that name no project.
    pub is_default: bool,
    /// What it is for, in its owner's word: `production`, `staging`.
    pub environment: Option<String>,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}

/// What a member may do in a project. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees everything but the values of secrets.
    Viewer,
    /// Changes what runs, and what it is told.
    Developer,
    /// Decides who is a member, and reads the project's audit log.
    Owner,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Viewer, Role::Developer, Role::Owner];

    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Developer => "developer",
            Role::Owner => "owner",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let known = Role::ALL.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| format!("`{text}` is no role"))
    }
}

/// An account's place in a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub account: AccountId,
    /// Of the account.
    pub name: String,
    pub project: ProjectId,
    pub role: Role,
    /// 0 for members of before there were roles.
    pub created_at_us: i64,
}

/// Whether a service can be routed to (G.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKind {
    /// Listens on a port.
    Service,
    /// Has no port and no routes.
    Worker,
}

impl ServiceKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceKind::Service => "service",
            ServiceKind::Worker => "worker",
        }
    }
}

/// Something that should be running, with what is wanted of it now.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub id: ServiceId,
    pub project: ProjectId,
    pub kind: ServiceKind,
    pub name: String,
    pub image: String,
    /// `None` for a worker.
    pub port: Option<u16>,
    /// Wanted instances.
    pub instances: u32,
    /// Instances that serve, as the reconciler last saw it.
    pub instances_running: u32,
    pub config: Option<ConfigId>,
    pub secret: Option<SecretId>,
    pub delivery: Delivery,
    pub command: Option<Vec<String>>,
    /// Run once in a new image before any instance of it starts.
    pub release: Option<Vec<String>>,
    pub health: HealthCheck,
    pub resources: Resources,
    pub strategy: Strategy,
    pub options: RolloutOptions,
    /// Grows with every asked-for restart.
    pub restart: u32,
    /// The one deployment that is on its way (invariant 7).
    pub active: Option<DeploymentId>,
    /// The newest deployment that succeeded and was not rolled back from: what runs when nothing is on its way.
    pub serving: Option<DeploymentId>,
    /// The newest deployment.
    pub last: Option<DeploymentId>,
    /// Stage of [`Service::last`].
    pub last_stage: Option<Stage>,
    /// Gone for its owner; the reconciler still takes its instances down.
    pub deleting: bool,
    /// Why the reconcilers no longer act on it (a violated invariant). It keeps serving.
    pub frozen: Option<String>,
    /// The newest version number. Never goes back (S0.38).
    pub version_counter: i64,
    /// Grows with every change, over all services.
    pub revision: i64,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}

impl Service {
    /// One of the five words of G.10, computed from the same record as every other view (invariant 9).
    pub fn status(&self) -> &'static str {
        match (self.active, self.serving, self.last_stage) {
            (Some(_), Some(_), _) => "updating",
            (Some(_), None, _) => "pending",
            (None, _, None) => "not ready",
            (None, _, Some(Stage::Succeeded)) => "ready",
            (None, _, Some(_)) => "error",
        }
    }

    /// Whether the newest deployment has succeeded (G.9).
    pub fn deploy_successful(&self) -> bool {
        self.last_stage == Some(Stage::Succeeded)
    }
}

/// What a key of an instance's environment comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attached {
    Config,
    Secret,
}

/// What the next deployment would do to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pending {
    Added,
    Changed,
    Removed,
}

/// A key that has been edited since the service was deployed. Edits reach instances with a deployment only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PendingChange {
    pub of: Attached,
    pub key: String,
    pub change: Pending,
}

/// One attempt to make a service run one specification. Immutable but for its stage and what hangs on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    pub id: DeploymentId,
    pub service: ServiceId,
    pub project: ProjectId,
    /// Strictly increasing per service, never reused (invariant 6).
    pub version: i64,
    pub spec: Spec,
    /// SHA-256, in hex, of [`Spec::template_text`]; computed anew when the digest becomes known.
    pub template: Template,
    pub stage: Stage,
    /// Steps of its strategy that it has passed ([`domain::RolloutOptions::steps`]).
    pub step: u32,
    /// Paused because it has reached its next step, and not by a user.
    pub at_step: bool,
    /// Its release command has succeeded.
    pub released: bool,
    /// It succeeded, and a later rollback took its place (S0.25).
    pub rolled_back: bool,
    /// A rollback that the reconciler began by itself. Such a one is never rolled back by itself.
    pub automatic: bool,
    /// What served until this succeeded, unless that had been rolled back from. `None` again once that is pruned.
    pub replaced: Option<DeploymentId>,
    /// The target, where this is a rollback. `None` again once the target has been pruned.
    pub rollback_from: Option<DeploymentId>,
    pub notes: String,
    pub error_message: String,
    /// Why it waits now; empty when it does not.
    pub waiting: String,
    pub created_by: AccountId,
    pub created_at_us: i64,
    pub finished_at_us: Option<i64>,
    /// What the edge has counted for it, over all lives of the edge.
    pub receipt: Receipt,
}

/// What the control plane wants of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstanceState {
    /// Should run.
    Wanted,
    /// Is being unrouted, drained, stopped.
    Retiring,
    /// Nothing of it is left; the row remembers how it ended.
    Gone,
}

impl InstanceState {
    pub fn as_str(self) -> &'static str {
        match self {
            InstanceState::Wanted => "wanted",
            InstanceState::Retiring => "retiring",
            InstanceState::Gone => "gone",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct InstanceRow {
    pub id: InstanceId,
    pub service: ServiceId,
    /// The deployment that it was started for. May have been pruned.
    pub deployment: DeploymentId,
    pub template: Template,
    pub state: InstanceState,
    pub created_at_us: i64,
    pub gone_at_us: Option<i64>,
    /// Passed its health threshold at least once.
    pub healthy_once: bool,
    /// Ended without having been asked to.
    pub crashed: bool,
    /// `engine::Exit` as JSON.
    pub exit: Option<serde_json::Value>,
}

/// A domain and a path that lead to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub id: RouteId,
    pub project: ProjectId,
    pub domain: DomainId,
    /// Of [`Route::domain`].
    pub hostname: String,
    pub service: ServiceId,
    pub path: String,
    pub enabled: bool,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    pub id: DomainId,
    pub project: ProjectId,
    /// Lower case; belongs to one project in the whole system (invariant 24).
    pub hostname: String,
    pub created_at_us: i64,
}

/// A named set of keys that services are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set<I> {
    pub id: I,
    pub project: ProjectId,
    pub name: String,
    /// Made with the account, and stays as long.
    pub is_default: bool,
    pub created_at_us: i64,
}

/// In the clear.
pub type Config = Set<ConfigId>;

/// Sealed.
pub type Secret = Set<SecretId>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigItem {
    pub id: ConfigItemId,
    pub config: ConfigId,
    pub key: String,
    pub value: String,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}

/// A secret's key, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretItem {
    pub id: SecretItemId,
    pub secret: SecretId,
    pub key: String,
    /// Which value it has now; grows within the secret and is never reused.
    pub value_version: i64,
    pub last_accessed_at_us: Option<i64>,
    pub last_accessed_by: Option<AccountId>,
    pub created_at_us: i64,
    pub updated_at_us: i64,
}

/// One line of the journal. Never changed, never deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalEntry {
    pub seq: i64,
    pub deployment: Option<DeploymentId>,
    pub service: Option<ServiceId>,
    pub at_us: i64,
    /// `account:<id>` or `reconciler:<holder>`.
    pub actor: String,
    pub from: Option<Stage>,
    pub to: Option<Stage>,
    pub reason: String,
    pub details: serde_json::Value,
}

/// Everything that the reconciler reads of one service, at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceState {
    pub service: Service,
    pub active: Option<Deployment>,
    pub serving: Option<Deployment>,
    /// Of the other instances: what these were started with, as long as it is not pruned. By version.
    pub former: Vec<Deployment>,
    /// Wanted and retiring ones, oldest first.
    pub instances: Vec<InstanceRow>,
    /// The newest [`crate::CRASHES_LOADED`] that ended by themselves, newest first.
    pub crashes: Vec<InstanceRow>,
}

/// What the routing table needs to know of one service, but for its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeEntry {
    pub service: ServiceId,
    pub project: ProjectId,
    pub kind: ServiceKind,
    pub name: String,
    /// Of the deployment in [`EdgeEntry::receipt`].
    pub port: Option<u16>,
    /// The active deployment, else the serving one, else the newest.
    pub receipt: DeploymentId,
    /// Enabled routes only.
    pub matches: Vec<RouteMatch>,
}

/// What was seen of a deployment. `None`: not known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// By the edge, over all its lives.
    pub behaviour: Option<Behaviour>,
    /// The routes that led to it when it began to serve: hostname and path, in order.
    pub routes: Option<Vec<String>>,
    /// Most memory that one of its ended instances had, in bytes.
    pub memory_peak: Option<u64>,
}

/// How the deployments of a service ended, over its whole life, pruned ones included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Outcomes {
    pub succeeded: u64,
    pub failed: u64,
    pub canceled: u64,
    pub superseded: u64,
    /// Succeeded ones that were rolled back from later; counted under `succeeded` too.
    pub rolled_back: u64,
}

/// A read of a secret's value (G.33).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretAccess {
    pub seq: i64,
    pub item: SecretItemId,
    pub account: AccountId,
    pub at_us: i64,
    /// By what way, e.g. `api item get`.
    pub how: String,
}
