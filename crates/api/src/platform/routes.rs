//! `/api/routes/…`: a domain and a path that lead to a service (G.17 to G.21).

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use domain::names::{self, PATH_MAX};
use domain::{DomainId, Error, ProjectId, Result, RouteId, ServiceId};
use http::StatusCode;
use serde::Serialize;
use store::{NewRoute, Route, RoutePatch, Scope, Service, ServiceKind};

use super::caller::Caller;
use super::error::{Failure, Reply};
use super::extract::{At, Params};
use super::fields::Fields;
use super::page::{Envelope, sees_service};
use super::workload::own;
use crate::ApiState;
use crate::body::RawBody;
use crate::time::Stamp;

/// The nine fields of G.18 in their order, then Hob's own.
#[derive(Debug, Serialize)]
pub struct RouteView {
    id: RouteId,
    path: String,
    enabled: bool,
    domain: DomainId,
    service: ServiceId,
    /// Its service's, but never `not ready`: a route waits (`pending`) until its service runs.
    status: &'static str,
    deploy_successful: bool,
    created_at: Stamp,
    updated_at: Stamp,
    hostname: String,
    project: ProjectId,
}

impl RouteView {
    fn new(route: Route, service: Option<&Service>) -> Self {
        RouteView {
            id: route.id,
            path: route.path,
            enabled: route.enabled,
            domain: route.domain,
            service: route.service,
            status: match service.map(Service::status) {
                None | Some("not ready") => "pending",
                Some(status) => status,
            },
            deploy_successful: service.is_some_and(Service::deploy_successful),
            created_at: Stamp(route.created_at_us),
            updated_at: Stamp(route.updated_at_us),
            hostname: route.hostname,
            project: route.project,
        }
    }
}

/// Shows routes with the state of their services, which is read once for all of them.
async fn views(api: &ApiState, routes: Vec<Route>) -> Result<Vec<RouteView>> {
    let mut ids: Vec<ServiceId> = routes.iter().map(|route| route.service).collect();
    ids.sort_unstable();
    ids.dedup();
    // The routes have come out of the caller's scope, and a route's service is its owner's.
    let states = api.store.system().load(&ids).await?;
    let services: HashMap<ServiceId, Service> = states.into_iter().map(|s| (s.service.id, s.service)).collect();
    let view = |route: Route| {
        let service = services.get(&route.service);
        RouteView::new(route, service)
    };
    Ok(routes.into_iter().map(view).collect())
}

async fn view(api: &ApiState, route: Route) -> Reply<Json<RouteView>> {
    match views(api, vec![route]).await?.pop() {
        Some(view) => Ok(Json(view)),
        None => Err(Error::internal("a route without a view").into()),
    }
}

/// G.21; `?service=` narrows it to one service.
pub async fn list(State(api): State<ApiState>, caller: Caller, params: Params) -> Reply<Json<Envelope<RouteView>>> {
    let query = params.list_query()?;
    if !sees_service(&caller.scope, &query).await? {
        return Ok(Json(Envelope::of_one(&query, None)?));
    }
    let mut page = caller.scope.list_routes(&query).await?;
    let rows = std::mem::take(&mut page.rows);
    let views = views(&api, rows).await?;
    Ok(Json(Envelope::new(&api, &params, &page, views)))
}

/// G.20.
pub async fn create(
    State(api): State<ApiState>,
    caller: Caller,
    body: RawBody,
) -> Reply<(StatusCode, Json<RouteView>)> {
    let mut fields = Fields::full(body.object()?);
    let sent = read(&mut fields, &caller.scope).await?;
    for required in ["path", "domain", "service"] {
        fields.require(required);
    }
    fields.finish()?;
    let (Some(domain), Some(service), Some(path)) = (sent.domain, sent.service, sent.path) else {
        return Err(Error::internal("a required field got lost").into());
    };
    let new = NewRoute {
        domain,
        service,
        path,
        enabled: sent.enabled.unwrap_or(true),
    };
    let route = caller.scope.create_route(new).await?;
    Ok((StatusCode::CREATED, view(&api, route).await?))
}

pub async fn get(State(api): State<ApiState>, caller: Caller, At(id): At<RouteId>) -> Reply<Json<RouteView>> {
    view(&api, caller.scope.route(id).await?).await
}

/// S0.50: one field is enough to point a route elsewhere.
pub async fn patch(
    State(api): State<ApiState>,
    caller: Caller,
    At(id): At<RouteId>,
    body: RawBody,
) -> Reply<Json<RouteView>> {
    caller.scope.route(id).await?;
    let mut fields = Fields::partial(body.object()?);
    let patch = read(&mut fields, &caller.scope).await?;
    fields.finish()?;
    view(&api, caller.scope.patch_route(id, patch).await?).await
}

pub async fn delete(caller: Caller, At(id): At<RouteId>) -> Reply<StatusCode> {
    caller.scope.delete_route(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn read(fields: &mut Fields, scope: &Scope) -> Result<RoutePatch, Failure> {
    let sent = RoutePatch {
        path: fields.text("path", PATH_MAX, names::route_path),
        enabled: fields.boolean("enabled"),
        domain: fields.uuid("domain"),
        service: fields.uuid("service"),
    };
    if let Some(id) = sent.domain {
        own(fields, "domain", id, scope.domain(id).await)?;
    }
    if let Some(id) = sent.service {
        own(fields, "service", id, routable(scope, id).await)?;
    }
    Ok(sent)
}

/// Workers cannot be routed to (G.15).
async fn routable(scope: &Scope, id: ServiceId) -> Result<()> {
    match scope.service(id).await?.kind {
        ServiceKind::Service => Ok(()),
        ServiceKind::Worker => Err(Error::not_found(format!("{id} is a worker"))),
    }
}
