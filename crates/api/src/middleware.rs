//! What surrounds every request: an id, one log line, counters, a net under panics, deadlines, safe headers.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::Error;
use domain::error::Kind;
use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::{Extensions, HeaderName, HeaderValue};
use tracing::{Instrument, info_span};
use uuid::Uuid;

use crate::ApiState;
use crate::platform::error::Failure;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The log side of an error, on its way from the encoder to the one place that logs it.
#[derive(Debug, Clone)]
pub struct Trouble {
    level: Level,
    context: String,
}

#[derive(Debug, Clone, Copy)]
enum Level {
    /// We are broken.
    Error,
    /// Something around us is.
    Warning,
    /// The client asked for what it may not have.
    Debug,
}

impl Trouble {
    pub fn of(error: &Error) -> Self {
        let level = match error.kind {
            Kind::Internal => Level::Error,
            Kind::Unavailable(_) => Level::Warning,
            _ => Level::Debug,
        };
        Trouble {
            level,
            context: error.context.clone(),
        }
    }
}

/// What a request is called in logs and in its answer's `X-Request-Id`.
#[derive(Debug, Clone, Copy)]
pub struct RequestId(Uuid);

impl RequestId {
    /// Empty where nothing surrounds the request.
    pub fn of(extensions: &Extensions) -> String {
        extensions
            .get::<RequestId>()
            .map(RequestId::to_string)
            .unwrap_or_default()
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Outermost. Gives the request its id, answers for a handler that panicked, and writes the one log line.
///
/// Logged are the method, the *pattern* of the path and the status: paths hold ids and one-time tokens, queries hold
/// anything.
pub async fn surround(State(api): State<ApiState>, mut request: Request, next: Next) -> Response {
    let id = Uuid::now_v7();
    request.extensions_mut().insert(RequestId(id));
    let started = Instant::now();
    let _in_flight = api.metrics.in_flight.enter();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("(none)", |path| path.as_str());
    let span = info_span!("request", request.id = %id, http.method = %method, http.route = route);

    async {
        let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let mut response = answered.unwrap_or_else(|_| {
            api.metrics.panics.fetch_add(1, Relaxed);
            Failure::from(Error::internal("the handler panicked")).into_response()
        });
        let took = started.elapsed();
        api.metrics.answered(response.status(), took);
        log(&response, took);
        dress(&mut response, id);
        response
    }
    .instrument(span)
    .await
}

fn log(response: &Response, took: Duration) {
    let status = response.status().as_u16();
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    match response.extensions().get::<Trouble>() {
        Some(Trouble { level, context }) => match level {
            Level::Error => tracing::error!(http.status = status, took_us, error.context = %context, "request failed"),
            Level::Warning => tracing::warn!(http.status = status, took_us, error.context = %context, "request failed"),
            Level::Debug => tracing::debug!(http.status = status, took_us, error.context = %context, "request refused"),
        },
        None => tracing::debug!(http.status = status, took_us, "request answered"),
    }
}

/// Headers that make browsers careful with whatever we answer.
fn dress(response: &mut Response, id: Uuid) {
    const DRESS: [(HeaderName, &str); 5] = [
        (CACHE_CONTROL, "no-store"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
        ),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
    ];
    let headers = response.headers_mut();
    for (name, value) in DRESS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(X_REQUEST_ID, value);
    }
}

/// Answers 503 when the handler needs longer than `limit`. Bodies of answers may take longer: streams only have to
/// begin in time.
pub async fn deadline(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::from(Error::unavailable(
            format!(
                "No answer within {} seconds. What was asked for may still happen; look before you ask again",
                limit.as_secs()
            ),
            "the request ran into its deadline",
        ))
        .into_response(),
    }
}
