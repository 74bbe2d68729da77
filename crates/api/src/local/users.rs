//! `POST /local/users`: a new account.

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use crate::ApiState;
use crate::body::RawBody;
use crate::limits::{NAME_MAX, PASSWORD_BYTES_MAX, PASSWORD_MIN};
use crate::password;
use crate::platform::AccountView;
use crate::platform::error::Reply;
use crate::platform::fields::{self, Fields};

/// `{"name", "password"?, "admin"?}`. Without a password the account has keys only.
pub async fn create(State(api): State<ApiState>, body: RawBody) -> Reply<(StatusCode, Json<AccountView>)> {
    let mut fields = Fields::full(body.object()?);
    let name = fields.text("name", NAME_MAX, fields::visible);
    let admin = fields.boolean("admin").unwrap_or(false);
    let password = fields
        .nullable("password", |f, field| f.any_text(field, PASSWORD_BYTES_MAX))
        .flatten();
    if password
        .as_ref()
        .is_some_and(|password| password.chars().count() < PASSWORD_MIN)
    {
        fields.problem(
            "password",
            format!("Ensure this field has at least {PASSWORD_MIN} characters."),
        );
    }
    fields.require("name");
    fields.finish()?;

    let hash = match password {
        Some(password) => Some(password::hash(password).await?),
        None => None,
    };
    let account = api
        .store
        .system()
        .create_account(&name.unwrap_or_default(), admin, hash)
        .await?;
    Ok((StatusCode::CREATED, Json(account.into())))
}
