//! `/api/login/` and `/api/session/`: people with a browser (S2.4, I.15).

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use domain::Error;
use domain::error::Kind;
use http::header::SET_COOKIE;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use store::{Account, Act, Outcome, Principal, Via};

use super::AccountView;
use super::caller::Caller;
use super::error::{Failure, Reply};
use super::fields::{self, Fields};
use crate::body::RawBody;
use crate::limits::{NAME_MAX, PASSWORD_BYTES_MAX, SESSION_TTL};
use crate::middleware::RequestId;
use crate::time::Stamp;
use crate::{ApiState, password, session};

#[derive(Debug, Serialize)]
pub struct SessionView {
    account: AccountView,
    /// To be sent as `X-CSRFToken` with every change.
    csrf_token: String,
    expires_at: Stamp,
}

/// `{"name", "password"}`. A wrong name looks like a wrong password, and costs the same hashing.
pub async fn login(
    State(api): State<ApiState>,
    axum::Extension(request): axum::Extension<RequestId>,
    headers: HeaderMap,
    body: RawBody,
) -> Reply<Response> {
    session::must_be_same_origin(&api.settings, &headers)?;
    let mut fields = Fields::full(body.object()?);
    let name = fields.text("name", NAME_MAX, fields::visible);
    let password = fields.any_text("password", PASSWORD_BYTES_MAX);
    fields.require("name");
    fields.require("password");
    fields.finish()?;
    let (name, password) = (name.unwrap_or_default(), password.unwrap_or_default());

    let account = proven(&api, &name, password, request).await?;
    if let Some(before) = session::presented(&api.settings, &headers) {
        api.store.system().close_session(before).await?;
    }
    let ttl_us = i64::try_from(SESSION_TTL.as_micros()).unwrap_or(i64::MAX);
    let expires_at_us = api.now_us() + ttl_us;
    let token = api.store.system().open_session(account.id, expires_at_us).await?;
    let view = SessionView {
        account: account.into(),
        csrf_token: session::csrf_token(token.expose()),
        expires_at: Stamp(expires_at_us),
    };
    let cookie = session::cookie(&api.settings, token.expose());
    Ok((StatusCode::CREATED, [(SET_COOKIE, cookie)], Json(view)).into_response())
}

/// The account of that name and password.
async fn proven(api: &ApiState, name: &str, password: String, request: RequestId) -> Reply<Account> {
    api.throttle.admit_login(name, api.now_us())?;
    let system = api.store.system();
    let (account, hash) = match system.account_by_name(name).await {
        Ok(account) => {
            let hash = system.password_hash(account.id).await?;
            (Some(account), hash)
        }
        Err(error) if error.kind == Kind::NotFound => (None, None),
        Err(error) => return Err(error.into()),
    };
    let turn = api.logins.acquire().await;
    let good = password::is(password, hash).await?;
    drop(turn);
    let refused = || {
        Error::new(
            Kind::Unauthenticated("Invalid name or password.".to_owned()),
            "a login failed",
        )
    };
    let account = account.ok_or_else(refused)?;
    let who = Principal {
        account: account.id,
        admin: account.admin,
        via: Via::Session,
    };
    let act = Act::new(who, "POST /api/login/".to_owned(), "/api/login/", request.to_string());
    system
        .audit(&act, if good { Outcome::Done } else { Outcome::Denied })
        .await?;
    if good { Ok(account) } else { Err(refused().into()) }
}

/// The browser's own session; pages begin with it.
pub async fn get(State(api): State<ApiState>, caller: Caller, headers: HeaderMap) -> Reply<Json<SessionView>> {
    let Some((token, session)) = session::find(&api, &headers).await? else {
        return Err(no_session());
    };
    Ok(Json(SessionView {
        account: api.store.system().account(caller.who.account).await?.into(),
        csrf_token: session::csrf_token(&token),
        expires_at: Stamp(session.expires_at_us),
    }))
}

/// Ends the session: its cookie is of no use to anybody from then on.
pub async fn logout(State(api): State<ApiState>, _: Caller, headers: HeaderMap) -> Reply<Response> {
    let Some(token) = session::presented(&api.settings, &headers) else {
        return Err(no_session());
    };
    api.store.system().close_session(token).await?;
    let forget = session::no_cookie(&api.settings);
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, forget)]).into_response())
}

/// Whoever comes with a key has none.
fn no_session() -> Failure {
    Error::not_found("a request without a session asked for it").into()
}
