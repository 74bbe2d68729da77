//! `/api/api-keys/…`: keys of the caller's own account (G.1 to G.6, faces 3.3).

use axum::Json;
use axum::extract::State;
use domain::ApiKeyId;
use http::StatusCode;
use serde::Serialize;
use store::ApiKey;

use super::caller::Caller;
use super::error::Reply;
use super::extract::{At, Params};
use super::fields::{self, Fields};
use super::page::Envelope;
use crate::ApiState;
use crate::body::RawBody;
use crate::limits::NAME_MAX;
use crate::time::{self, Stamp};

#[derive(Debug, Serialize)]
pub struct ApiKeyView {
    id: ApiKeyId,
    name: String,
    prefix: String,
    created_at: Stamp,
    last_used_at: Option<Stamp>,
    expires_at: Option<Stamp>,
    revoked_at: Option<Stamp>,
}

/// The only answer that ever holds a key (G.1). No `Debug`.
#[derive(Serialize)]
pub struct NewApiKeyView {
    #[serde(flatten)]
    record: ApiKeyView,
    key: String,
}

impl From<ApiKey> for ApiKeyView {
    fn from(key: ApiKey) -> Self {
        ApiKeyView {
            id: key.id,
            name: key.name,
            prefix: key.prefix,
            created_at: Stamp(key.created_at_us),
            last_used_at: key.last_used_at_us.map(Stamp),
            expires_at: key.expires_at_us.map(Stamp),
            revoked_at: key.revoked_at_us.map(Stamp),
        }
    }
}

impl NewApiKeyView {
    pub fn new(key: ApiKey, plaintext: &store::SecretString) -> Self {
        NewApiKeyView {
            record: key.into(),
            key: plaintext.expose().to_owned(),
        }
    }
}

/// G.5.
pub async fn list(State(api): State<ApiState>, caller: Caller, params: Params) -> Reply<Json<Envelope<ApiKeyView>>> {
    let mut page = caller.scope.list_api_keys(&params.list_query()?).await?;
    let rows = std::mem::take(&mut page.rows);
    let views = rows.into_iter().map(ApiKeyView::from).collect();
    Ok(Json(Envelope::new(&api, &params, &page, views)))
}

/// G.4: an optional end, and at most ten active ones.
pub async fn create(
    State(api): State<ApiState>,
    caller: Caller,
    body: RawBody,
) -> Reply<(StatusCode, Json<NewApiKeyView>)> {
    let mut fields = Fields::full(body.object()?);
    let name = fields.text("name", NAME_MAX, fields::visible);
    let expires_at_us = fields
        .nullable("expires_at", |f, field| future(f, field, api.now_us()))
        .flatten();
    fields.require("name");
    fields.finish()?;
    let (key, plaintext) = caller
        .scope
        .create_api_key(&name.unwrap_or_default(), expires_at_us)
        .await?;
    Ok((StatusCode::CREATED, Json(NewApiKeyView::new(key, &plaintext))))
}

pub async fn get(caller: Caller, At(id): At<ApiKeyId>) -> Reply<Json<ApiKeyView>> {
    Ok(Json(caller.scope.api_key(id).await?.into()))
}

/// Revokes, effective with the next request (G.4).
pub async fn revoke(caller: Caller, At(id): At<ApiKeyId>) -> Reply<StatusCode> {
    caller.scope.revoke_api_key(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Longest text of a time that is looked at.
const TIME_CHARS_MAX: usize = 40;

fn future(fields: &mut Fields, name: &str, now_us: i64) -> Option<i64> {
    let text = fields.any_text(name, TIME_CHARS_MAX)?;
    match time::parse(&text) {
        Some(at_us) if at_us > now_us => Some(at_us),
        Some(_) => {
            fields.problem(name, "Choose a time in the future");
            None
        }
        None => {
            fields.problem(name, "Datetime has wrong format. Use 2024-10-15T12:00:00Z.");
            None
        }
    }
}
