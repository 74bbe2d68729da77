//! `/healthz`, `/readyz`, `/metrics` and `/`: for those who keep the platform running.

use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::ApiState;
use crate::limits::REQUEST_TIMEOUT;
use crate::middleware::deadline;

pub fn router() -> Router<ApiState> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/", get(landing))
        .layer(from_fn_with_state(REQUEST_TIMEOUT, deadline))
}

/// The process is alive.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the parts answer that a request needs.
#[derive(Debug, Serialize)]
pub struct Readiness {
    pub ready: bool,
    /// `ok`, or what is wrong.
    pub store: String,
    /// `ok`, or what is wrong.
    pub engine: String,
}

impl Readiness {
    pub async fn look(api: &ApiState) -> Readiness {
        const OK: &str = "ok";
        let store = match api.store.ready().await {
            Ok(()) => OK.to_owned(),
            Err(error) => {
                tracing::warn!(error.context = %error.context, "the store is not ready");
                "does not answer".to_owned()
            }
        };
        let engine = api.runtime.ready().await.err().unwrap_or_else(|| OK.to_owned());
        Readiness {
            ready: store == OK && engine == OK,
            store,
            engine,
        }
    }
}

async fn readyz(State(api): State<ApiState>) -> (StatusCode, Json<Readiness>) {
    let readiness = Readiness::look(&api).await;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness))
}

async fn metrics(State(api): State<ApiState>) -> impl IntoResponse {
    let text = api.metrics.render() + &api.runtime.metrics();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Says what this is, to a browser in words and to a program as JSON.
async fn landing(State(api): State<ApiState>, headers: HeaderMap) -> Response {
    if wants_html(&headers) {
        return Html(LANDING).into_response();
    }
    let link = |path: &str| format!("{}{path}", api.settings.public_url);
    Json(json!({
        "name": "hob",
        "version": api.settings.version,
        "edge": api.settings.edge,
        "links": { "api": link("/api/"), "health": link("/healthz"), "ready": link("/readyz"), "metrics": link("/metrics") },
    }))
    .into_response()
}

/// Browsers say so; nobody else does.
pub fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

const LANDING: &str = "<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content=\"width=device-width\">
<title>Hob</title>
<style>body{font:1.1rem/1.5 system-ui;max-width:36rem;margin:4rem auto;padding:0 1rem}</style>
<h1>Hob</h1>
<p>Hob runs here. The API is at <a href=/api/>/api/</a>; it wants a key, which <code>hob keys create NAME</code> makes
on this machine.
<p><a href=/readyz>ready?</a> · <a href=/metrics>metrics</a>
</html>
";
