//! `/api/secrets/{id}/items/…`: sealed settings (G.32, G.33).
//!
//! Whoever reads a value is counted (S2.37) and written into the access log with item, time and way (G.33). Values
//! never appear in an error or a log line.

use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::response::{IntoResponse, Response};
use domain::{AccountId, SecretId, SecretItemId};
use http::StatusCode;
use serde::Serialize;
use store::{SecretItem, SecretString};

use super::caller::{Caller, SecretReader};
use super::error::Reply;
use super::extract::{At, Params, Within};
use super::fields::Fields;
use super::page::Envelope;
use super::sets::read_item;
use crate::ApiState;
use crate::body::RawBody;
use crate::time::Stamp;

/// The eight fields of G.32 in their order. No `Debug`: it holds the value.
#[derive(Serialize)]
pub struct SecretItemView {
    id: SecretItemId,
    secret: SecretId,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    last_accessed_at: Option<Stamp>,
    last_accessed_by: Option<AccountId>,
    created_at: Stamp,
    updated_at: Stamp,
}

impl SecretItemView {
    fn new(item: SecretItem, value: Option<&SecretString>) -> Self {
        SecretItemView {
            id: item.id,
            secret: item.secret,
            key: item.key,
            value: value.map(|value| value.expose().to_owned()),
            last_accessed_at: item.last_accessed_at_us.map(Stamp),
            last_accessed_by: item.last_accessed_by,
            created_at: Stamp(item.created_at_us),
            updated_at: Stamp(item.updated_at_us),
        }
    }
}

/// Every value on the page is read, and logged as read. `?keys=1` leaves the values out: then nothing is.
pub async fn list_items(
    State(api): State<ApiState>,
    At(secret): At<SecretId>,
    params: Params,
    request: Request,
) -> Reply<Response> {
    let mut parts = request.into_parts().0;
    let query = params.list_query()?;
    if params.flag("keys") {
        let caller = Caller::from_request_parts(&mut parts, &api).await?;
        let mut page = caller.scope.list_secret_items(secret, &query).await?;
        let rows = std::mem::take(&mut page.rows);
        let views = rows.into_iter().map(|item| SecretItemView::new(item, None)).collect();
        return Ok(Json(Envelope::new(&api, &params, &page, views)).into_response());
    }
    let reader = SecretReader::from_request_parts(&mut parts, &api).await?;
    let mut page = reader.scope.list_secret_values(secret, &query, "api item list").await?;
    let rows = std::mem::take(&mut page.rows);
    let view = |(item, value): (SecretItem, SecretString)| SecretItemView::new(item, Some(&value));
    let views = rows.into_iter().map(view).collect();
    Ok(Json(Envelope::new(&api, &params, &page, views)).into_response())
}

/// The answer repeats the value that was just sent, which reads nothing.
pub async fn create_item(
    caller: Caller,
    At(secret): At<SecretId>,
    body: RawBody,
) -> Reply<(StatusCode, Json<SecretItemView>)> {
    caller.scope.set(secret).await?;
    let (key, value) = read_item(Fields::full(body.object()?))?;
    let value = SecretString::new(value.unwrap_or_default());
    let item = caller
        .scope
        .create_secret_item(secret, &key.unwrap_or_default(), value.clone())
        .await?;
    Ok((StatusCode::CREATED, Json(SecretItemView::new(item, Some(&value)))))
}

pub async fn get_item(
    reader: SecretReader,
    Within(secret, id): Within<SecretId, SecretItemId>,
) -> Reply<Json<SecretItemView>> {
    // The item must be the caller's, and in this secret, before its value is touched.
    reader.scope.secret_item(secret, id).await?;
    let value = reader.scope.secret_value(id, "api item get").await?;
    let item = reader.scope.secret_item(secret, id).await?;
    Ok(Json(SecretItemView::new(item, Some(&value))))
}

/// A patch without a new value shows the old one, and so counts as a read of it.
pub async fn patch_item(
    caller: Caller,
    Within(secret, id): Within<SecretId, SecretItemId>,
    body: RawBody,
) -> Reply<Json<SecretItemView>> {
    caller.scope.secret_item(secret, id).await?;
    let (key, value) = read_item(Fields::partial(body.object()?))?;
    let sent = value.map(SecretString::new);
    let patched = caller.scope.patch_secret_item(secret, id, key, sent.clone()).await?;
    let value = match sent {
        Some(value) => value,
        None => caller.scope.secret_value(id, "api item patch").await?,
    };
    Ok(Json(SecretItemView::new(patched, Some(&value))))
}

pub async fn delete_item(caller: Caller, Within(secret, id): Within<SecretId, SecretItemId>) -> Reply<StatusCode> {
    caller.scope.delete_secret_item(secret, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
