//! The table of contents of the control socket.

use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use domain::Error;
use http::Method;
use store::Act;

use super::{keys, status, users};
use crate::audit::{self, Manner};
use crate::limits::REQUEST_TIMEOUT;
use crate::middleware::{RequestId, deadline};
use crate::platform::error::Failure;
use crate::{ApiState, LocalOperator, auth};

pub fn router(api: &ApiState) -> Router<ApiState> {
    Router::new()
        .route("/local/keys", post(keys::create))
        .route("/local/users", post(users::create))
        .route("/local/claim", post(status::claim))
        .route("/local/status", get(status::status))
        .route("/local/doctor", get(status::doctor))
        .layer(from_fn_with_state(api.clone(), recorded))
        .layer(from_fn(only_here))
        .layer(from_fn_with_state(REQUEST_TIMEOUT, deadline))
}

/// Whoever did not come over the control socket finds nothing, whatever keys they have.
async fn only_here(request: Request, next: Next) -> Response {
    if request.extensions().get::<LocalOperator>().is_some() {
        next.run(request).await
    } else {
        Failure::from(Error::not_found("a local path, asked for from outside")).into_response()
    }
}

/// Whoever owns the data directory leaves lines in the audit log like everybody else.
async fn recorded(State(api): State<ApiState>, route: MatchedPath, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let act = Act::new(
        auth::operator(&api),
        format!("POST {}", route.as_str()),
        request.uri().path(),
        RequestId::of(request.extensions()),
    );
    audit::record(&api, &Arc::new(act), Manner::Privileged, request, next).await
}
