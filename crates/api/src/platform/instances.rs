//! `/api/services/{id}/instances/`: what runs, as the store wants it and as the engine and the edge see it.

use std::collections::HashMap;

use axum::extract::State;
use axum::{Extension, Json};
use domain::error::Kind;
use domain::{DeploymentId, InstanceId, Result, ServiceId};
use engine::{Exit, Phase};
use serde::Serialize;
use serde_json::Value;
use store::{InstanceRow, InstanceState, Scope, ServiceKind};

use super::caller::Caller;
use super::error::Reply;
use super::extract::{At, Params};
use super::page::Whole;
use super::services::find;
use crate::time::Stamp;
use crate::{ApiState, Health, LiveInstance};

/// How far an instance is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stand {
    /// Wanted, and not healthy yet.
    Starting,
    /// Passes its checks; the edge does not send it requests yet.
    Healthy,
    /// Passes its checks and gets requests.
    Serving,
    /// Was healthy and no longer passes its checks.
    Unhealthy,
    /// Gets no new requests and finishes the ones it has.
    Draining,
    /// Has been told to stop.
    Stopping,
    /// Its process has ended; not cleared away yet.
    Exited,
    /// Nothing of it is left.
    Gone,
}

#[derive(Debug, Serialize)]
pub struct InstanceView {
    id: InstanceId,
    service: ServiceId,
    deployment: DeploymentId,
    /// `null` once the deployment has been pruned.
    version: Option<i64>,
    state: Stand,
    health: &'static str,
    health_message: String,
    address: Option<std::net::IpAddr>,
    pid: Option<u32>,
    started_at: Option<Stamp>,
    created_at: Stamp,
    gone_at: Option<Stamp>,
    /// Ended without having been asked to.
    crashed: bool,
    exit: Option<Value>,
}

impl InstanceView {
    fn new(row: InstanceRow, live: Option<&LiveInstance>, version: Option<i64>) -> Self {
        let (health, health_message) = match live.map(|live| &live.health) {
            Some(Health::Passing) => ("passing", String::new()),
            Some(Health::Failing(why)) => ("failing", why.clone()),
            Some(Health::Unknown) | None => ("unknown", String::new()),
        };
        InstanceView {
            id: row.id,
            service: row.service,
            deployment: row.deployment,
            version,
            state: state_of(&row, live),
            health,
            health_message,
            address: live.and_then(|live| live.address),
            pid: live.and_then(|live| live.pid),
            started_at: live.and_then(|live| live.started_at_us).map(Stamp),
            created_at: Stamp(row.created_at_us),
            gone_at: row.gone_at_us.map(Stamp),
            crashed: row.crashed,
            exit: exit_of(&row, live),
        }
    }
}

/// Pure from what is wanted and what is seen.
pub fn state_of(row: &InstanceRow, live: Option<&LiveInstance>) -> Stand {
    let phase = live.map(|live| &live.phase);
    match (row.state, phase) {
        (InstanceState::Gone, _) => Stand::Gone,
        (_, Some(Phase::Exited(_))) => Stand::Exited,
        (_, Some(Phase::Stopping)) => Stand::Stopping,
        (InstanceState::Retiring, _) => Stand::Draining,
        (InstanceState::Wanted, Some(Phase::Running)) => match live {
            Some(live) if live.health == Health::Passing && live.routed => Stand::Serving,
            Some(live) if live.health == Health::Passing => Stand::Healthy,
            _ if row.healthy_once && !row.template.is_release() => Stand::Unhealthy,
            _ => Stand::Starting,
        },
        (InstanceState::Wanted, Some(Phase::Starting) | None) => Stand::Starting,
    }
}

/// The exit as the engine reported it, with a clause for people.
fn exit_of(row: &InstanceRow, live: Option<&LiveInstance>) -> Option<Value> {
    let mut value = match live.map(|live| &live.phase) {
        Some(Phase::Exited(exit)) => serde_json::to_value(exit).ok()?,
        _ => row.exit.clone()?,
    };
    if let Ok(exit) = serde_json::from_value::<Exit>(value.clone())
        && let Value::Object(map) = &mut value
    {
        map.insert("text".to_owned(), exit.describe().into());
    }
    Some(value)
}

/// Not in pages: there are at most a few dozen. `?all=1` adds the newest of those that are gone.
pub async fn list(
    State(api): State<ApiState>,
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
    params: Params,
) -> Reply<Json<Whole<InstanceView>>> {
    find(&caller.scope, kind, id).await?;
    let mut rows = caller.scope.instances(id).await?;
    if !params.flag("all") {
        rows.retain(|row| row.state != InstanceState::Gone);
    }
    let live = live_by_id(&api, id).await?;
    let versions = Versions::of(&caller.scope, &rows).await?;
    let view = |row: InstanceRow| {
        let version = versions.get(row.deployment);
        let live = live.get(&row.id);
        InstanceView::new(row, live, version)
    };
    Ok(Json(Whole {
        results: rows.into_iter().map(view).collect(),
    }))
}

pub async fn live_by_id(api: &ApiState, service: ServiceId) -> Result<HashMap<InstanceId, LiveInstance>> {
    let live = api.runtime.instances(service).await?;
    Ok(live.into_iter().map(|live| (live.id, live)).collect())
}

/// Version numbers of deployments; a service keeps few of them.
pub struct Versions(HashMap<DeploymentId, Option<i64>>);

impl Versions {
    pub async fn of(scope: &Scope, rows: &[InstanceRow]) -> Result<Versions> {
        let mut versions = HashMap::new();
        for row in rows {
            if versions.contains_key(&row.deployment) {
                continue;
            }
            let version = match scope.deployment(row.deployment).await {
                Ok(deployment) => Some(deployment.version),
                Err(e) if e.kind == Kind::NotFound => None,
                Err(e) => return Err(e),
            };
            versions.insert(row.deployment, version);
        }
        Ok(Versions(versions))
    }

    pub fn get(&self, deployment: DeploymentId) -> Option<i64> {
        self.0.get(&deployment).copied().flatten()
    }
}
