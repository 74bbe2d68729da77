//! `/local/status`, `/local/doctor`, `/local/claim`: how the platform is, and the link to take it over.

use axum::Json;
use axum::extract::State;
use engine::Finding;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use crate::ApiState;
use crate::claim::{self, ClaimLink};
use crate::operations::Readiness;
use crate::platform::Whole;
use crate::platform::error::Reply;
use crate::time::Stamp;

#[derive(Debug, Serialize)]
pub struct ServerStatus {
    version: String,
    pid: u32,
    started_at: Stamp,
    uptime_s: i64,
    public_url: String,
    #[serde(flatten)]
    readiness: Readiness,
    /// What the runtime has to say, for people.
    runtime: Value,
}

pub async fn status(State(api): State<ApiState>) -> Json<ServerStatus> {
    Json(ServerStatus {
        version: api.settings.version.clone(),
        pid: std::process::id(),
        started_at: Stamp(api.started_at_us),
        uptime_s: (api.now_us() - api.started_at_us).max(0) / 1_000_000,
        public_url: api.settings.public_url.clone(),
        readiness: Readiness::look(&api).await,
        runtime: api.runtime.status().await,
    })
}

pub async fn doctor(State(api): State<ApiState>) -> Json<Whole<Finding>> {
    Json(Whole {
        results: api.runtime.doctor().await,
    })
}

pub async fn claim(State(api): State<ApiState>) -> Reply<(StatusCode, Json<ClaimLink>)> {
    Ok((StatusCode::CREATED, Json(claim::issue(&api).await?)))
}
