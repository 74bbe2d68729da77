//! The one place where an error becomes an answer of the platform face.
//!
//! | kind | status | body | source |
//! |---|---|---|---|
//! | invalid | 400 | `{"field": ["text", …], …}` | S2.18 |
//! | refused | 400 | `{"error": "text"}` | S0.39, I.1 |
//! | malformed JSON | 400 | `{"detail": "JSON parse error - …"}` | I.4 |
//! | unauthenticated | 401 | `{"detail": "text"}`, `WWW-Authenticate` | S2.19, I.2 |
//! | forbidden | 403 | `{"detail": "You do not have permission to perform this action."}` | S2.20 |
//! | no CSRF token | 403 | `{"detail": "CSRF Failed: …"}` | I.15 |
//! | not found | 404 | `{"detail": "Not found."}` | S2.21 |
//! | no such page | 404 | `{"detail": "Invalid page."}` | I.7 |
//! | wrong verb | 405 | `{"detail": "Method \"PUT\" not allowed."}`, `Allow` | I.4, G.36 |
//! | conflict | 409 | `{"error": "text"}` | Hob's own |
//! | body too large | 413 | `{"detail": "text"}` | Hob's own |
//! | not JSON | 415 | `{"detail": "Unsupported media type \"…\" in request."}` | I.4, G.36 |
//! | throttled | 429 | `{"detail": "Request was throttled. …"}`, `Retry-After` | S2.22, S2.38 |
//! | internal | 500 | `{"detail": "A server error occurred."}` | S2.31 |
//! | unavailable | 503 | `{"detail": "text"}`, `Retry-After` | Hob's own |

use axum::Json;
use axum::response::{IntoResponse, Response};
use domain::Error;
use domain::error::Kind;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use serde_json::json;

use crate::limits;
use crate::middleware::Trouble;

/// Why a request got no answer of its own.
#[derive(Debug, Clone)]
pub enum Failure {
    Domain(Error),
    /// Where and how the JSON is broken; never a piece of it.
    MalformedJson(String),
    /// The `Content-Type` that was sent.
    UnsupportedMediaType(String),
    BodyTooLarge {
        bytes_max: u64,
    },
    MethodNotAllowed(Method),
    /// A browser's change without the proof that its own page asks for it (I.15).
    Csrf(&'static str),
}

/// What handlers answer.
pub type Reply<T = Response> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Domain(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::Domain(error) => domain_error(error),
            Failure::MalformedJson(text) => detail(StatusCode::BAD_REQUEST, &format!("JSON parse error - {text}")),
            Failure::UnsupportedMediaType(sent) => detail(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                &format!("Unsupported media type \"{sent}\" in request."),
            ),
            Failure::BodyTooLarge { bytes_max } => detail(
                StatusCode::PAYLOAD_TOO_LARGE,
                &format!("The body is larger than {bytes_max} bytes."),
            ),
            Failure::MethodNotAllowed(method) => detail(
                StatusCode::METHOD_NOT_ALLOWED,
                &format!("Method \"{method}\" not allowed."),
            ),
            Failure::Csrf(text) => detail(StatusCode::FORBIDDEN, &format!("CSRF Failed: {text}")),
        }
    }
}

fn domain_error(error: Error) -> Response {
    let trouble = Trouble::of(&error);
    let mut response = match error.kind {
        Kind::Unauthenticated(text) => unauthenticated(&text),
        Kind::Forbidden => forbidden(),
        Kind::NotFound if store::is_invalid_page(&error) => detail(StatusCode::NOT_FOUND, store::INVALID_PAGE),
        Kind::NotFound => not_found(),
        Kind::Invalid(fields) => (StatusCode::BAD_REQUEST, Json(fields)).into_response(),
        Kind::Refused(text) => (StatusCode::BAD_REQUEST, Json(json!({ "error": text }))).into_response(),
        Kind::Conflict(text) => (StatusCode::CONFLICT, Json(json!({ "error": text }))).into_response(),
        Kind::Throttled { retry_after_s } => throttled(retry_after_s),
        Kind::Unavailable(text) => retry_after(
            detail(StatusCode::SERVICE_UNAVAILABLE, &text),
            limits::UNAVAILABLE_RETRY_S,
        ),
        Kind::Internal => detail(StatusCode::INTERNAL_SERVER_ERROR, "A server error occurred."),
    };
    response.extensions_mut().insert(trouble);
    response
}

/// `{"detail": text}`.
pub fn detail(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "detail": text }))).into_response()
}

fn not_found() -> Response {
    detail(StatusCode::NOT_FOUND, "Not found.")
}

fn forbidden() -> Response {
    detail(
        StatusCode::FORBIDDEN,
        "You do not have permission to perform this action.",
    )
}

fn unauthenticated(text: &str) -> Response {
    let mut response = detail(StatusCode::UNAUTHORIZED, text);
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"api\""));
    response
}

/// G.34: singular for one second, and the same number in the header.
fn throttled(seconds: u64) -> Response {
    let unit = if seconds == 1 { "second" } else { "seconds" };
    let text = format!("Request was throttled. Expected available in {seconds} {unit}.");
    retry_after(detail(StatusCode::TOO_MANY_REQUESTS, &text), seconds)
}

fn retry_after(mut response: Response, seconds: u64) -> Response {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}
