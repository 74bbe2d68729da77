//! `/api/configs/…` and their items: plain settings (G.25 to G.29).

use axum::Json;
use axum::extract::State;
use domain::names::{self, ENV_KEY_MAX, ENV_VALUE_MAX};
use domain::{ConfigId, ConfigItemId, ProjectId};
use http::StatusCode;
use serde::Serialize;
use store::{Config, ConfigItem};

use super::caller::Caller;
use super::error::Reply;
use super::extract::{At, Params, Within};
use super::fields::{self, Fields};
use super::page::{Envelope, or_none};
use super::workload::own;
use crate::ApiState;
use crate::body::RawBody;
use crate::limits::NAME_MAX;
use crate::time::Stamp;

/// The six fields of G.26 in their order, then Hob's own. Configs are read where instances start, so there is nothing
/// to wait for: they are always `ready`.
#[derive(Debug, Serialize)]
pub struct ConfigView {
    id: ConfigId,
    name: String,
    is_default: bool,
    status: &'static str,
    deploy_successful: bool,
    created_at: Stamp,
    project: ProjectId,
}

impl From<Config> for ConfigView {
    fn from(config: Config) -> Self {
        ConfigView {
            id: config.id,
            name: config.name,
            is_default: config.is_default,
            status: "ready",
            deploy_successful: true,
            created_at: Stamp(config.created_at_us),
            project: config.project,
        }
    }
}

/// The six fields of G.27 in their order.
#[derive(Debug, Serialize)]
pub struct ConfigItemView {
    id: ConfigItemId,
    config: ConfigId,
    key: String,
    value: String,
    created_at: Stamp,
    updated_at: Stamp,
}

impl From<ConfigItem> for ConfigItemView {
    fn from(item: ConfigItem) -> Self {
        ConfigItemView {
            id: item.id,
            config: item.config,
            key: item.key,
            value: item.value,
            created_at: Stamp(item.created_at_us),
            updated_at: Stamp(item.updated_at_us),
        }
    }
}

/// `?name=` finds the one with that name.
pub async fn list(State(api): State<ApiState>, caller: Caller, params: Params) -> Reply<Json<Envelope<ConfigView>>> {
    let query = params.list_query()?;
    if let Some(name) = params.get("name") {
        let found = or_none(caller.scope.config_by_name(name, query.project).await)?;
        return Ok(Json(Envelope::of_one(found.map(ConfigView::from))));
    }
    let mut page = caller.scope.list_configs(&query).await?;
    let rows = std::mem::take(&mut page.rows);
    let views = rows.into_iter().map(ConfigView::from).collect();
    Ok(Json(Envelope::new(&api, &params, &page, views)))
}

pub async fn create(caller: Caller, body: RawBody) -> Reply<(StatusCode, Json<ConfigView>)> {
    let (name, project) = read_set(&caller, Fields::full(body.object()?)).await?;
    let config = caller.scope.create_config(&name.unwrap_or_default(), project).await?;
    Ok((StatusCode::CREATED, Json(config.into())))
}

pub async fn get(caller: Caller, At(id): At<ConfigId>) -> Reply<Json<ConfigView>> {
    Ok(Json(caller.scope.config(id).await?.into()))
}

pub async fn patch(caller: Caller, At(id): At<ConfigId>, body: RawBody) -> Reply<Json<ConfigView>> {
    caller.scope.config(id).await?;
    let (name, _) = read_set(&caller, Fields::partial(body.object()?)).await?;
    Ok(Json(caller.scope.patch_config(id, name).await?.into()))
}

/// Services that had it go on with none; what runs is not changed by it.
pub async fn delete(caller: Caller, At(id): At<ConfigId>) -> Reply<StatusCode> {
    caller.scope.delete_config(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn list_items(
    State(api): State<ApiState>,
    caller: Caller,
    At(config): At<ConfigId>,
    params: Params,
) -> Reply<Json<Envelope<ConfigItemView>>> {
    let mut page = caller.scope.list_config_items(config, &params.list_query()?).await?;
    let rows = std::mem::take(&mut page.rows);
    let views = rows.into_iter().map(ConfigItemView::from).collect();
    Ok(Json(Envelope::new(&api, &params, &page, views)))
}

pub async fn create_item(
    caller: Caller,
    At(config): At<ConfigId>,
    body: RawBody,
) -> Reply<(StatusCode, Json<ConfigItemView>)> {
    caller.scope.config(config).await?;
    let (key, value) = read_item(Fields::full(body.object()?))?;
    let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
    let item = caller.scope.create_config_item(config, &key, &value).await?;
    Ok((StatusCode::CREATED, Json(item.into())))
}

pub async fn get_item(
    caller: Caller,
    Within(config, id): Within<ConfigId, ConfigItemId>,
) -> Reply<Json<ConfigItemView>> {
    Ok(Json(caller.scope.config_item(config, id).await?.into()))
}

pub async fn patch_item(
    caller: Caller,
    Within(config, id): Within<ConfigId, ConfigItemId>,
    body: RawBody,
) -> Reply<Json<ConfigItemView>> {
    caller.scope.config_item(config, id).await?;
    let (key, value) = read_item(Fields::partial(body.object()?))?;
    let item = caller.scope.patch_config_item(config, id, key, value).await?;
    Ok(Json(item.into()))
}

pub async fn delete_item(caller: Caller, Within(config, id): Within<ConfigId, ConfigItemId>) -> Reply<StatusCode> {
    caller.scope.delete_config_item(config, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a body says of a config or a secret: its name, and, when it is made, its project.
pub async fn read_set(caller: &Caller, mut fields: Fields) -> Reply<(Option<String>, Option<ProjectId>)> {
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
