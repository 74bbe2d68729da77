//! `POST /local/keys`: a key for any account, by default the operator's.

use axum::Json;
use axum::extract::State;
use domain::error::Kind;
use http::StatusCode;

use crate::ApiState;
use crate::body::RawBody;
use crate::limits::NAME_MAX;
use crate::platform::NewApiKeyView;
use crate::platform::error::Reply;
use crate::platform::fields::{self, Fields};

/// Longest life that can be asked for: a hundred years.
const EXPIRES_IN_S_MAX: i64 = 100 * 366 * 24 * 3600;

/// `{"name", "account"?, "expires_in_s"?}`.
pub async fn create(State(api): State<ApiState>, body: RawBody) -> Reply<(StatusCode, Json<NewApiKeyView>)> {
    let system = api.store.system();
    let mut fields = Fields::full(body.object()?);
    let name = fields.text("name", NAME_MAX, fields::visible);
    let account_name = fields
        .nullable("account", |f, field| f.text(field, NAME_MAX, fields::visible))
        .flatten();
    let expires_in_s = fields
        .nullable("expires_in_s", |f, field| f.integer(field, 1..=EXPIRES_IN_S_MAX))
        .flatten();
    fields.require("name");

    let account = match &account_name {
        None => api.operator,
        Some(account_name) => match system.account_by_name(account_name).await {
            Ok(account) => account.id,
            Err(e) if e.kind == Kind::NotFound => {
                fields.problem(
                    "account",
                    "There is no account of this name; hob users create makes one",
                );
                api.operator
            }
            Err(e) => return Err(e.into()),
        },
    };
    fields.finish()?;

    let expires_at_us = expires_in_s.map(|s| api.now_us() + s * 1_000_000);
    let (key, plaintext) = system
        .create_api_key_for(account, &name.unwrap_or_default(), expires_at_us)
        .await?;
    Ok((StatusCode::CREATED, Json(NewApiKeyView::new(key, &plaintext))))
}
