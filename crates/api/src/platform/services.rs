//! `/api/services/…` and `/api/workers/…`: the same operations on two kinds.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use domain::{Error, ServiceId};
use http::StatusCode;
use store::{Intent, Outcomes, Scope, Service, ServiceKind, ServicePatch};

use super::caller::Caller;
use super::deployments::{self, DeploymentView};
use super::error::Reply;
use super::extract::{At, Params};
use super::fields::Fields;
use super::page::{Envelope, or_none};
use super::plan;
use super::workload::{self, WorkloadView};
use crate::ApiState;
use crate::body::RawBody;

/// Looks up a service, or a worker, in its own half of the URL space.
pub async fn find(scope: &Scope, kind: ServiceKind, id: ServiceId) -> Reply<Service> {
    let service = scope.service(id).await?;
    if service.kind == kind {
        Ok(service)
    } else {
        Err(Error::not_found(format!("{id} is no {}", kind.as_str())).into())
    }
}

/// S2.13, G.11. `?name=` finds the one with that name.
pub async fn list(
    State(api): State<ApiState>,
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    params: Params,
) -> Reply<Json<Envelope<WorkloadView>>> {
    let query = params.list_query()?;
    if let Some(name) = params.get("name") {
        let found = or_none(caller.scope.service_by_name(kind, name, query.project).await)?;
        let found = workload::views(&caller.scope, found.into_iter().collect()).await?.pop();
        return Ok(Json(Envelope::of_one(&query, found)?));
    }
    let mut page = caller.scope.list_services(kind, &query).await?;
    let views = workload::views(&caller.scope, std::mem::take(&mut page.rows)).await?;
    Ok(Json(Envelope::new(&api, &params, &page, views)))
}

/// S2.15, S2.40, S0.40: makes the service and its first deployment.
pub async fn create(
    State(api): State<ApiState>,
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    body: RawBody,
) -> Reply {
    let mut fields = Fields::full(body.object()?);
    let hash = plan::read_hash(&mut fields);
    let new = workload::read_new(kind, &caller.scope, fields).await?;
    Ok(
        match plan::carry_out(&api, &caller.scope, Intent::Create(new), hash).await? {
            // It has just been told everything.
            Ok(done) => (StatusCode::CREATED, Json(WorkloadView::new(done.after, Vec::new()))).into_response(),
            Err(refused) => refused,
        },
    )
}

pub async fn get(
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
) -> Reply<Json<WorkloadView>> {
    let service = find(&caller.scope, kind, id).await?;
    Ok(Json(workload::view(&caller.scope, service).await?))
}

/// S0.41, S0.42, S2.41, OPEN-1: what changes what runs makes one new deployment; with `"deploy": true` there is one in
/// any case. Scaling and restarting keep the config and secret values that the newest deployment was given.
pub async fn patch(
    State(api): State<ApiState>,
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
    body: RawBody,
) -> Reply {
    let current = find(&caller.scope, kind, id).await?;
    let mut fields = Fields::partial(body.object()?);
    let hash = plan::read_hash(&mut fields);
    let patch = workload::read_patch(&current, &caller.scope, fields).await?;
    Ok(
        match plan::carry_out(&api, &caller.scope, Intent::Patch(id, patch), hash).await? {
            Ok(done) => Json(workload::view(&caller.scope, done.after).await?).into_response(),
            Err(refused) => refused,
        },
    )
}

/// S2.42. Its instances are taken down after the answer.
pub async fn delete(
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
) -> Reply<StatusCode> {
    find(&caller.scope, kind, id).await?;
    caller.scope.delete_service(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// S0.4. `?version=` finds the one with that number.
pub async fn list_deployments(
    State(api): State<ApiState>,
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
    params: Params,
) -> Reply<Json<Envelope<DeploymentView>>> {
    find(&caller.scope, kind, id).await?;
    let detail = deployments::wants_detail(&params);
    let mut query = params.list_query()?;
    if params.get("version").is_some() {
        let version = params.number("version", 0, i64::MAX as u64)?.cast_signed();
        let found = or_none(caller.scope.deployment_by_version(id, version).await)?;
        return Ok(Json(Envelope::of_one(
            &query,
            found.map(|d| DeploymentView::new(d, detail)),
        )?));
    }
    query.service = Some(id);
    deployments::page(&api, &caller.scope, &params, &query).await
}

/// How all its deployments ended, those included that are not kept any more (S0.43).
pub async fn outcomes(
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
) -> Reply<Json<Outcomes>> {
    find(&caller.scope, kind, id).await?;
    Ok(Json(caller.scope.outcomes(id).await?))
}

/// Deploys what the service wants, with the config of now and the tag resolved anew.
pub async fn deploy(
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
    body: RawBody,
) -> Reply {
    find(&caller.scope, kind, id).await?;
    let notes = deployments::read_notes(Fields::partial(body.object()?))?;
    created(caller.scope.deploy_again(id, &notes).await?)
}

/// Replaces every instance although nothing else changed.
pub async fn restart(
    Extension(kind): Extension<ServiceKind>,
    caller: Caller,
    At(id): At<ServiceId>,
    body: RawBody,
) -> Reply {
    find(&caller.scope, kind, id).await?;
    let patch = ServicePatch {
        restart: true,
        notes: deployments::read_notes(Fields::partial(body.object()?))?,
        ..ServicePatch::default()
    };
    match caller.scope.patch_service(id, patch).await? {
        (_, Some(deployment)) => created(deployment),
        (_, None) => Err(Error::internal(format!("a restart of {id} made no deployment")).into()),
    }
}

fn created(deployment: store::Deployment) -> Reply<Response> {
    Ok((StatusCode::CREATED, Json(DeploymentView::new(deployment, false))).into_response())
}
