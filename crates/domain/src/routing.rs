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
    /// Ready instances. Empty: 503 with `Retry-After`.
    pub targets: Vec<Target>,
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
