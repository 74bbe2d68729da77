//! All faces on one listener.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use http::StatusCode;

use crate::drain::drain;
use crate::middleware::surround;
use crate::platform::error::detail;
use crate::{ApiState, claim, local, operations, platform};

/// Everything that Hob answers over HTTP. The same router serves TCP and the control socket; what is for the socket
/// only asks for [`crate::LocalOperator`].
pub fn router(api: ApiState) -> Router {
    Router::new()
        .merge(platform::router::router(&api))
        .merge(operations::router())
        .merge(claim::router())
        .merge(local::router(&api))
        .fallback(nothing_here)
        .layer(from_fn(drain))
        .layer(from_fn_with_state(api.clone(), surround))
        .with_state(api)
}

async fn nothing_here() -> Response {
    detail(StatusCode::NOT_FOUND, "Not found.")
}
