//! `/api/projects/…`: what every other resource belongs to (S2.34, faces 3.3).

use axum::Json;
use axum::extract::State;
use domain::ProjectId;
use http::StatusCode;
use serde::Serialize;
use store::{NewProject, Project, ProjectPatch};

use super::caller::Caller;
use super::error::Reply;
use super::extract::{At, Params};
use super::fields::{self, Fields};
use super::page::{Envelope, or_none};
use crate::ApiState;
use crate::body::RawBody;
use crate::limits::NAME_MAX;
use crate::time::Stamp;

#[derive(Debug, Serialize)]
pub struct ProjectView {
    id: ProjectId,
    name: String,
    is_default: bool,
    created_at: Stamp,
    updated_at: Stamp,
    /// What it is for, in its owner's word.
    environment: Option<String>,
}

impl From<Project> for ProjectView {
    fn from(project: Project) -> Self {
        ProjectView {
            id: project.id,
            name: project.name,
            is_default: project.is_default,
            created_at: Stamp(project.created_at_us),
            updated_at: Stamp(project.updated_at_us),
            environment: project.environment,
        }
    }
}

/// `?name=` finds the one with that name.
pub async fn list(State(api): State<ApiState>, caller: Caller, params: Params) -> Reply<Json<Envelope<ProjectView>>> {
    let query = params.list_query()?;
    if let Some(name) = params.get("name") {
        let found = or_none(caller.scope.project_by_name(name).await)?;
        let found = found.filter(|project| query.project.is_none_or(|id| id == project.id));
        return Ok(Json(Envelope::of_one(&query, found.map(ProjectView::from))?));
    }
    let mut page = caller.scope.list_projects(&query).await?;
    let rows = std::mem::take(&mut page.rows);
    let views = rows.into_iter().map(ProjectView::from).collect();
    Ok(Json(Envelope::new(&api, &params, &page, views)))
}

pub async fn create(caller: Caller, body: RawBody) -> Reply<(StatusCode, Json<ProjectView>)> {
    let sent = read(Fields::full(body.object()?))?;
    let new = NewProject {
        name: sent.name.unwrap_or_default(),
        environment: sent.environment.flatten(),
    };
    let project = caller.scope.create_project(new).await?;
    Ok((StatusCode::CREATED, Json(project.into())))
}

pub async fn get(caller: Caller, At(id): At<ProjectId>) -> Reply<Json<ProjectView>> {
    Ok(Json(caller.scope.project(id).await?.into()))
}

pub async fn patch(caller: Caller, At(id): At<ProjectId>, body: RawBody) -> Reply<Json<ProjectView>> {
    caller.scope.project(id).await?;
    let patch = read(Fields::partial(body.object()?))?;
    Ok(Json(caller.scope.patch_project(id, patch).await?.into()))
}

/// Refused as long as it holds anything.
pub async fn delete(caller: Caller, At(id): At<ProjectId>) -> Reply<StatusCode> {
    caller.scope.delete_project(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn read(mut fields: Fields) -> Reply<ProjectPatch> {
    let name = fields.text("name", NAME_MAX, fields::visible);
    let environment = fields.nullable("environment", |f, field| f.text(field, NAME_MAX, fields::visible));
    fields.require("name");
    fields.finish()?;
    Ok(ProjectPatch { name, environment })
}
