//! `/local/status`, `/local/doctor`, `/local/claim`: how the platform is, and the link to take it over.

use axum::Json;
use axum::extract::State;
use engine::{Finding, Level};
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use store::Tampering;

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
    let mut results = api.runtime.doctor().await;
    results.push(audit_log(&api).await);
    Json(Whole { results })
}

/// Whether the audit log is as it was written.
async fn audit_log(api: &ApiState) -> Finding {
    let (level, message, advice) = match api.store.system().check_audit().await {
        Ok(None) => (Level::Ok, "as it was written".to_owned(), ""),
        Ok(Some(Tampering { seq, what })) => (
            Level::Error,
            format!("line {seq}: {what}"),
            "somebody has changed the database by hand; compare it with a copy from before",
        ),
        Err(error) => {
            tracing::warn!(error.context = error.context, "the audit log cannot be checked");
            let message = "it cannot be read now".to_owned();
            (Level::Warning, message, "look at the server's log, and try again")
        }
    };
    Finding {
        level,
        subject: "audit log".to_owned(),
        message,
        advice: advice.to_owned(),
    }
}

pub async fn claim(State(api): State<ApiState>) -> Reply<(StatusCode, Json<ClaimLink>)> {
    Ok((StatusCode::CREATED, Json(claim::issue(&api).await?)))
}
