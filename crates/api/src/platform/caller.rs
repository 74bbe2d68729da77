//! Who asks, judged before everything else (I.2), and how often they may (I.14).

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use domain::Error;
use http::Method;
use http::request::Parts;
use store::{Principal, Scope, Via};

use super::error::Failure;
use crate::throttle::Bucket;
use crate::{ApiState, auth};

/// Stands before every route: authentication first, then the rate limit on writes, then the rest.
///
/// The owner of the data directory is not throttled over the control socket: whoever may stop the platform need not be
/// kept from changing it.
pub async fn admit(State(api): State<ApiState>, request: Request, next: Next) -> Result<Response, Failure> {
    let (mut parts, body) = request.into_parts();
    let who = auth::identify(&api, &parts).await?;
    if matches!(parts.method, Method::POST | Method::PATCH | Method::DELETE) {
        throttle(&api, &who, Bucket::Resources)?;
    }
    parts.extensions.insert(who);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

fn throttle(api: &ApiState, who: &Principal, bucket: Bucket) -> Result<(), Failure> {
    if who.via == Via::LocalOperator {
        return Ok(());
    }
    Ok(api.throttle.admit(who.account, bucket, api.now_us())?)
}

/// The caller, with everything that they may do.
pub struct Caller {
    pub who: Principal,
    pub scope: Scope,
}

/// A caller who is about to read values of secrets: counted apart (S2.37).
pub struct SecretReader {
    pub scope: Scope,
}

/// A caller who administers the platform.
pub struct Administrator;

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, Failure> {
        let Some(who) = parts.extensions.get::<Principal>().cloned() else {
            return Err(Error::internal("a route stands outside authentication").into());
        };
        let scope = api.store.scope(who.clone());
        Ok(Caller { who, scope })
    }
}

impl FromRequestParts<ApiState> for SecretReader {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, Failure> {
        let Caller { who, scope } = Caller::from_request_parts(parts, api).await?;
        throttle(api, &who, Bucket::Secrets)?;
        Ok(SecretReader { scope })
    }
}

impl FromRequestParts<ApiState> for Administrator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, Failure> {
        let Caller { who, .. } = Caller::from_request_parts(parts, api).await?;
        if who.admin {
            Ok(Administrator)
        } else {
            Err(Failure::NotAdministrator)
        }
    }
}
