//! `/api/configs/` and `/api/secrets/` where they are alike: named sets of keys that services are told (G.25, G.30).
//! Their items differ: see `configs.rs` and `secrets.rs`.

use axum::Json;
use axum::extract::State;
use domain::ProjectId;
use domain::names::{self, ENV_KEY_MAX, ENV_VALUE_MAX};
use http::StatusCode;
use serde::Serialize;
use store::{Set, SetId};

use super::caller::Caller;
use super::error::Reply;
use super::extract::{At, Params};
use super::fields::{self, Fields};
use super::page::{Envelope, or_none};
use super::workload::own;
use crate::ApiState;
use crate::body::RawBody;
use crate::limits::NAME_MAX;
use crate::time::Stamp;

/// The six fields of G.26 and G.31 in their order, then Hob's own. Sets are read where instances start, so there is
/// nothing to wait for: they are always `ready`.
#[derive(Debug, Serialize)]
pub struct SetView<I> {
    id: I,
    name: String,
    is_default: bool,
    status: &'static str,
    deploy_successful: bool,
    created_at: Stamp,
    project: ProjectId,
}

impl<I> From<Set<I>> for SetView<I> {
    fn from(set: Set<I>) -> Self {
        SetView {
            id: set.id,
            name: set.name,
            is_default: set.is_default,
            status: "ready",
            deploy_successful: true,
            created_at: Stamp(set.created_at_us),
            project: set.project,
        }
    }
}

/// `?name=` finds the one with that name.
pub async fn list<I: SetId>(
    State(api): State<ApiState>,
    caller: Caller,
    params: Params,
) -> Reply<Json<Envelope<SetView<I>>>> {
    let query = params.list_query()?;
    if let Some(name) = params.get("name") {
        let found = or_none(caller.scope.set_by_name(name, query.project).await)?;
        return Ok(Json(Envelope::of_one(&query, found.map(SetView::from))?));
    }
    let mut page = caller.scope.list_sets(&query).await?;
    let rows = std::mem::take(&mut page.rows);
    let views = rows.into_iter().map(SetView::from).collect();
    Ok(Json(Envelope::new(&api, &params, &page, views)))
}

pub async fn create<I: SetId>(caller: Caller, body: RawBody) -> Reply<(StatusCode, Json<SetView<I>>)> {
    let (name, project) = read(&caller, Fields::full(body.object()?)).await?;
    let set = caller.scope.create_set(&name.unwrap_or_default(), project).await?;
    Ok((StatusCode::CREATED, Json(set.into())))
}

pub async fn get<I: SetId>(caller: Caller, At(id): At<I>) -> Reply<Json<SetView<I>>> {
    Ok(Json(caller.scope.set(id).await?.into()))
}

pub async fn patch<I: SetId>(caller: Caller, At(id): At<I>, body: RawBody) -> Reply<Json<SetView<I>>> {
    caller.scope.set(id).await?;
    let (name, _) = read(&caller, Fields::partial(body.object()?)).await?;
    Ok(Json(caller.scope.patch_set(id, name).await?.into()))
}

/// Services that had it go on with none; what runs is not changed by it.
pub async fn delete<I: SetId>(caller: Caller, At(id): At<I>) -> Reply<StatusCode> {
    caller.scope.delete_set(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a body says of a set: its name, and, when it is made, its project.
async fn read(caller: &Caller, mut fields: Fields) -> Reply<(Option<String>, Option<ProjectId>)> {
    let name = fields.text("name", NAME_MAX, fields::visible);
    let project: Option<ProjectId> = fields.uuid("project");
    if let Some(id) = project {
        own(&mut fields, "project", id, caller.scope.project(id).await)?;
    }
    fields.require("name");
    fields.finish()?;
    Ok((name, project))
}

/// What a body says of an item. Values are taken exactly as they were sent.
pub fn read_item(mut fields: Fields) -> Reply<(Option<String>, Option<String>)> {
    let key = fields.text("key", ENV_KEY_MAX, names::env_key);
    let value = fields.any_text("value", ENV_VALUE_MAX);
    if value.as_ref().is_some_and(|value| value.len() > ENV_VALUE_MAX) {
        fields.problem(
            "value",
            format!("Ensure this field has no more than {ENV_VALUE_MAX} bytes."),
        );
    }
    fields.require("key");
    fields.require("value");
    fields.finish()?;
    Ok((key, value))
}
