//! `/api/domains/…`: host names that an account has registered (G.22 to G.24).

use axum::Json;
use axum::extract::State;
use domain::names::{self, HOST_MAX};
use domain::{DomainId, ProjectId};
use http::StatusCode;
use serde::Serialize;
use store::Domain;

use super::caller::Caller;
use super::error::Reply;
use super::extract::{At, Params};
use super::fields::Fields;
use super::page::{Envelope, or_none};
use super::workload::own;
use crate::ApiState;
use crate::body::RawBody;
use crate::time::Stamp;

/// The three fields of G.23 in their order, then Hob's own.
#[derive(Debug, Serialize)]
pub struct DomainView {
    id: DomainId,
    hostname: String,
    created_at: Stamp,
    project: ProjectId,
}

impl From<Domain> for DomainView {
    fn from(domain: Domain) -> Self {
        DomainView {
            id: domain.id,
            hostname: domain.hostname,
            created_at: Stamp(domain.created_at_us),
            project: domain.project,
        }
    }
}

/// `?hostname=` finds the one with that name.
pub async fn list(State(api): State<ApiState>, caller: Caller, params: Params) -> Reply<Json<Envelope<DomainView>>> {
    let query = params.list_query()?;
    if let Some(hostname) = params.get("hostname") {
        let found = or_none(caller.scope.domain_by_hostname(hostname).await)?;
        let found = found.filter(|domain| query.project.is_none_or(|project| project == domain.project));
        return Ok(Json(Envelope::of_one(&query, found.map(DomainView::from))?));
    }
    let mut page = caller.scope.list_domains(&query).await?;
    let rows = std::mem::take(&mut page.rows);
    let views = rows.into_iter().map(DomainView::from).collect();
    Ok(Json(Envelope::new(&api, &params, &page, views)))
}

pub async fn create(caller: Caller, body: RawBody) -> Reply<(StatusCode, Json<DomainView>)> {
    let mut fields = Fields::full(body.object()?);
    let hostname = hostname(&mut fields);
    let project: Option<ProjectId> = fields.uuid("project");
    if let Some(id) = project {
        own(&mut fields, "project", id, caller.scope.project(id).await)?;
    }
    fields.require("hostname");
    fields.finish()?;
    let domain = caller
        .scope
        .create_domain(&hostname.unwrap_or_default(), project)
        .await?;
    Ok((StatusCode::CREATED, Json(domain.into())))
}

pub async fn get(caller: Caller, At(id): At<DomainId>) -> Reply<Json<DomainView>> {
    Ok(Json(caller.scope.domain(id).await?.into()))
}

pub async fn patch(caller: Caller, At(id): At<DomainId>, body: RawBody) -> Reply<Json<DomainView>> {
    caller.scope.domain(id).await?;
    let mut fields = Fields::partial(body.object()?);
    let hostname = hostname(&mut fields);
    fields.finish()?;
    Ok(Json(caller.scope.patch_domain(id, hostname).await?.into()))
}

/// Its routes go with it.
pub async fn delete(caller: Caller, At(id): At<DomainId>) -> Reply<StatusCode> {
    caller.scope.delete_domain(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn hostname(fields: &mut Fields) -> Option<String> {
    let lower = |host: &str| host.to_ascii_lowercase();
    fields
        .text("hostname", HOST_MAX, |host| names::hostname(&lower(host)))
        .map(|host| lower(&host))
}
