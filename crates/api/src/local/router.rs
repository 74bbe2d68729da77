//! The table of contents of the control socket.

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use domain::Error;

use super::{keys, status, users};
use crate::limits::REQUEST_TIMEOUT;
use crate::middleware::deadline;
use crate::platform::error::Failure;
use crate::{ApiState, LocalOperator};

pub fn router() -> Router<ApiState> {
    Router::new()
        .route("/local/keys", post(keys::create))
        .route("/local/users", post(users::create))
        .route("/local/claim", post(status::claim))
        .route("/local/status", get(status::status))
        .route("/local/doctor", get(status::doctor))
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
