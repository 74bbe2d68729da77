//! `/api/configs/{id}/items/…`: plain settings (G.27 to G.29).

use axum::Json;
use axum::extract::State;
use domain::{ConfigId, ConfigItemId};
use http::StatusCode;
use serde::Serialize;
use store::ConfigItem;

use super::caller::Caller;
use super::error::Reply;
use super::extract::{At, Params, Within};
use super::fields::Fields;
use super::page::Envelope;
use super::sets::read_item;
use crate::ApiState;
use crate::body::RawBody;
use crate::time::Stamp;

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
    caller.scope.set(config).await?;
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
