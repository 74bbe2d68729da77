//! Who asks, judged before everything else (I.2), how often they may (I.14), and what they may (C6.1, C6.2).

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::Error;
use http::Method;
use http::request::Parts;
use store::{Act, Bucket, Principal, Role, Scope, Via};

use super::error::Failure;
use crate::audit::{self, Manner};
use crate::middleware::RequestId;
use crate::policy::{self, Right, Verb};
use crate::{ApiState, auth};

/// Stands before every route: authentication first, then the rate limit on writes, then the rest.
///
/// The owner of the data directory is not throttled over the control socket: whoever may stop the platform need not be
/// kept from changing it.
pub async fn admit(State(api): State<ApiState>, request: Request, next: Next) -> Result<Response, Failure> {
    let (mut parts, body) = request.into_parts();
    let who = auth::identify(&api, &parts).await?;
    if Verb::of(&parts.method) == Some(Verb::Write) {
        throttle(&api, &who, Bucket::Resources).await?;
    }
    parts.extensions.insert(who);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

async fn throttle(api: &ApiState, who: &Principal, bucket: Bucket) -> Result<(), Failure> {
    if who.via == Via::LocalOperator {
        return Ok(());
    }
    Ok(api
        .throttle
        .admit(&api.store, who.account, bucket, api.now_us())
        .await?)
}

/// Stands around each route of its own: the policy, and the audit log.
#[derive(Clone)]
pub struct Gate {
    pub api: ApiState,
    /// The pattern of the path.
    pub route: Arc<str>,
}

/// Lets in whom the policy does, with the scope that the policy gives them.
pub async fn enforce(State(gate): State<Gate>, mut request: Request, next: Next) -> Result<Response, Failure> {
    let Gate { api, route } = gate;
    let Some(who) = request.extensions().get::<Principal>().cloned() else {
        return Err(Error::internal("a route stands outside authentication").into());
    };
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    let verb = Verb::of(&method);
    let act = Arc::new(Act::new(
        who.clone(),
        format!("{method} {route}"),
        request.uri().path(),
        RequestId::of(request.extensions()),
    ));
    if verb == Some(Verb::Write) && who.via != Via::LocalOperator {
        act.count(Bucket::Resources);
    }
    let right = policy::right(&method, &route);
    let refusal = match right {
        None => {
            tracing::error!(http.route = %route, http.method = %method, "a route without a policy is denied");
            Some(Failure::from(Error::forbidden("no policy")))
        }
        Some(Right::Administrator) if !who.admin => Some(Error::forbidden("for administrators").into()),
        Some(_) => None,
    };
    let manner = match (verb, right) {
        (Some(Verb::Write), Some(Right::Administrator)) => Manner::Privileged,
        (Some(Verb::Write), _) => Manner::Write,
        _ => Manner::Read,
    };
    if let Some(refusal) = refusal {
        let response = refusal.into_response();
        audit::end(&api, &act, manner, response.status()).await;
        return Ok(response);
    }
    let needs = match right {
        Some(Right::Project(role)) => role,
        _ => Role::Owner,
    };
    let scope = api.store.scope(who.clone()).needing(needs).recorded_as(act.clone());
    request.extensions_mut().insert(Caller {
        who,
        scope,
        act: act.clone(),
    });
    Ok(audit::record(&api, &act, manner, request, next).await)
}

/// The caller, with everything that they may do here.
#[derive(Clone)]
pub struct Caller {
    pub who: Principal,
    pub scope: Scope,
    act: Arc<Act>,
}

/// A caller who is about to read values of secrets: counted apart (S2.37), and no mere viewer.
pub struct SecretReader {
    pub scope: Scope,
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| Error::internal("a route stands outside the policy").into())
    }
}

impl FromRequestParts<ApiState> for SecretReader {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, Failure> {
        let Caller { who, scope, act } = Caller::from_request_parts(parts, api).await?;
        throttle(api, &who, Bucket::Secrets).await?;
        if who.via != Via::LocalOperator {
            act.count(Bucket::Secrets);
        }
        Ok(SecretReader {
            scope: scope.needing(Role::Developer),
        })
    }
}
