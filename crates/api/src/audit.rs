//! Sees to it that every act has its line in the audit log.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use store::{Act, Outcome};

use crate::ApiState;
use crate::platform::error::Failure;

/// How much of an act is recorded, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Only when it is denied. Reads of secrets are recorded where they happen.
    Read,
    /// Always: by its own transaction, or afterwards when it changed nothing.
    Write,
    /// It changes what no transaction covers, so it is recorded before it happens too, or it does not happen (C6.24).
    Privileged,
}

/// Runs a request and records what became of it.
pub async fn record(api: &ApiState, act: &Arc<Act>, manner: Manner, request: Request, next: Next) -> Response {
    if manner == Manner::Privileged
        && let Err(error) = api.store.system().audit(act, Outcome::Begun).await
    {
        return Failure::from(error.within("record a privileged act")).into_response();
    }
    let response = next.run(request).await;
    end(api, act, manner, response.status()).await;
    response
}

/// Records how an act ended that has changed nothing, or nothing in the store.
pub async fn end(api: &ApiState, act: &Act, manner: Manner, status: StatusCode) {
    let outcome = outcome(status);
    if act.is_recorded() || (manner == Manner::Read && outcome != Outcome::Denied) {
        return;
    }
    if let Err(error) = api.store.system().audit(act, outcome).await {
        tracing::error!(
            error.context = error.context,
            "the end of an act is not in the audit log"
        );
    }
}

fn outcome(status: StatusCode) -> Outcome {
    match status {
        StatusCode::FORBIDDEN => Outcome::Denied,
        _ if status.is_server_error() => Outcome::Failed,
        _ if status.is_client_error() => Outcome::Refused,
        _ => Outcome::Done,
    }
}
