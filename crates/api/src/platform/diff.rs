//! `/api/deployments/{id}/diff/{item}/`: what differs between two deployments of a service.

use axum::Json;
use axum::extract::State;
use domain::change::{self, Change};
use domain::{DeploymentId, Error, ServiceId, Stage};
use serde::Serialize;
use store::{Deployment, InstanceRow, InstanceState, Scope};

use super::behaviour::BehaviourView;
use super::caller::Caller;
use super::deployments::ReceiptView;
use super::error::Reply;
use super::extract::Within;
use crate::ApiState;
use crate::time::Stamp;

#[derive(Debug, Serialize)]
pub struct Diff {
    service: ServiceId,
    before: Side,
    after: Side,
    /// Secrets by name and version only.
    changes: Vec<Change>,
}

#[derive(Debug, Serialize)]
struct Side {
    deployment: DeploymentId,
    version: i64,
    image: String,
    digest: Option<String>,
    /// `null` where the image is not in the local store.
    size_bytes: Option<u64>,
    stage: Stage,
    deployed_at: Stamp,
    receipt: ReceiptView,
    /// `null` where the edge has measured nothing.
    behaviour: Option<BehaviourView>,
    /// Most memory that one of its instances has had; `null` where that is not known.
    memory_peak_bytes: Option<u64>,
    /// Those that led to it when it began to serve; `null` where it never did, or that is not known.
    routes: Option<Vec<String>>,
}

pub async fn get(
    State(api): State<ApiState>,
    caller: Caller,
    Within(a, b): Within<DeploymentId, DeploymentId>,
) -> Reply<Json<Diff>> {
    let scope = &caller.scope;
    let (before, after) = (scope.deployment(a).await?, scope.deployment(b).await?);
    if before.service != after.service {
        return Err(Error::refused("These deployments are of two services").into());
    }
    let mut changes = change::changes(Some(&before.spec), &after.spec);
    let service = after.service;
    let rows = scope.instances(service).await?;
    let (before, after) = (
        side(&api, scope, before, &rows).await?,
        side(&api, scope, after, &rows).await?,
    );
    if let (Some(before), Some(after)) = (&before.routes, &after.routes) {
        changes.extend(change::route_changes(before, after));
    }
    Ok(Json(Diff {
        service,
        before,
        after,
        changes,
    }))
}

async fn side(api: &ApiState, scope: &Scope, deployment: Deployment, rows: &[InstanceRow]) -> Reply<Side> {
    let image = match &deployment.spec.digest {
        Some(digest) => api.runtime.image(digest).await?,
        None => None,
    };
    let observed = scope.observed(deployment.id).await?;
    let live = rows
        .iter()
        .filter(|row| row.deployment == deployment.id && row.state != InstanceState::Gone);
    let live: Vec<_> = live.map(|row| row.id).collect();
    Ok(Side {
        deployment: deployment.id,
        version: deployment.version,
        receipt: ReceiptView::of(&deployment),
        stage: deployment.stage,
        deployed_at: Stamp(deployment.created_at_us),
        image: deployment.spec.image,
        digest: deployment.spec.digest,
        size_bytes: image.map(|image| image.size_bytes),
        behaviour: observed.behaviour.as_ref().map(BehaviourView::from),
        memory_peak_bytes: observed.memory_peak.max(api.runtime.memory_peak(&live).await),
        routes: observed.routes,
    })
}
