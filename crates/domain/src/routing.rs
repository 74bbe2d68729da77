//! The routing table: the only thing that the control plane tells the edge.
//!
//! Level-triggered: a table is always whole. The edge serves the last one that it acknowledged, whatever happens to
//! its author (invariant 21).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{DeploymentId, InstanceId, ProjectId, ServiceId};

/// Everything the edge needs to know. Epochs only grow.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RoutingTable {
    /// Grows with every table that is published; an older one is refused.
    pub epoch: u64,
    pub services: Vec<ServiceEntry>,
    /// Which project an instance's address belongs to, for names inside (`<service>.hob.internal`).
    /// Holds every live instance, routed or not.
    pub callers: BTreeMap<IpAddr, ProjectId>,
}

/// One service that can be reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceEntry {
    pub service: ServiceId,
    pub project: ProjectId,
    /// The label before `.hob.internal`.
    pub name: String,
    /// The deployment whose receipt counts the requests of now: the active one, else the one that serves.
    pub receipt: DeploymentId,
    pub matches: Vec<RouteMatch>,
    /// Ready instances, by version. No target anywhere: 503 with `Retry-After`, unless requests are held.
    pub pools: Vec<Pool>,
    /// A client that was answered by one pool stays with it, as long as that pool may be chosen.
    pub sticky: bool,
    /// What happens to requests while no target is ready.
    pub hold: Option<Hold>,
}

impl ServiceEntry {
    /// The instances of all pools.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.pools.iter().flat_map(|pool| &pool.targets)
    }
}

/// The ready instances of one version of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Whose [`crate::Behaviour`] their answers are.
    pub deployment: DeploymentId,
    /// For requests that ask for a version on purpose.
    pub version: i64,
    pub share: Share,
    /// Hosts at which only this pool is reached, whatever its share.
    pub preview: Vec<RouteMatch>,
    pub targets: Vec<Target>,
}

impl Pool {
    /// A version that takes part by its instances and has no host of its own.
    pub fn new(deployment: DeploymentId, version: i64, targets: Vec<Target>) -> Self {
        Pool {
            deployment,
            version,
            share: Share::ByInstances,
            preview: vec![],
            targets,
        }
    }
}

/// How many of a service's requests a pool gets.
///
/// Pools with [`Share::Percent`] get that; the rest goes to those by instances. A pool without a ready target yields
/// to the others; one at 0 percent is never chosen but on purpose (preview host, header, cookie does not count).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// Balanced over the instances of all such pools, as if they were one.
    #[default]
    ByInstances,
    /// 0 to 100.
    Percent(u32),
}

/// Requests wait for a target instead of being refused. How many and how large: the edge's own limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Longest wait of one request, milliseconds; then 503.
    pub longest_ms: u64,
}

/// A host and a path prefix; prefixes match on whole segments and the longest one wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteMatch {
    /// Lower case, no port, no final dot.
    pub host: String,
    /// Starts with `/`.
    pub path: String,
}

/// One instance that may be sent requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub instance: InstanceId,
    pub address: IpAddr,
    pub port: u16,
}

/// What the control plane knows of the edge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EdgeView {
    pub connected: bool,
    /// A new one for each process of the edge; `None` before the first contact.
    pub boot: Option<Uuid>,
    /// The newest epoch that the edge serves and has kept safe.
    pub acked_epoch: u64,
    /// Requests in flight on instances that are no longer in the table. Absent: none.
    pub busy: BTreeMap<InstanceId, u64>,
}

/// What the edge has counted for one deployment (the deployment's receipt).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Receipt {
    /// Answered by the app with anything below 500, or an upgrade that ran its course.
    pub ok: u64,
    /// Failed by the edge or the engine: no ready instance, no answer from a routed one.
    pub failed_by_hob: u64,
    /// The app answered 5xx, or broke off after it had begun to answer.
    pub failed_by_app: u64,
    /// Sent to another instance because nothing of it could have reached the first.
    pub retried: u64,
    /// Finished on an instance that had already left the table.
    pub drained: u64,
}

impl Receipt {
    pub fn total(&self) -> u64 {
        self.ok + self.failed_by_hob + self.failed_by_app
    }

    /// Field-wise sum.
    pub fn plus(self, other: Receipt) -> Receipt {
        Receipt {
            ok: self.ok + other.ok,
            failed_by_hob: self.failed_by_hob + other.failed_by_hob,
            failed_by_app: self.failed_by_app + other.failed_by_app,
            retried: self.retried + other.retried,
            drained: self.drained + other.drained,
        }
    }
}
