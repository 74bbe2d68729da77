//! The one-time link of the first start: whoever opens it gets a key of the operator's account.
//!
//! There is no default password and nobody becomes the owner by being first: the token is printed where only the owner
//! of the machine reads (C6.25), works for 15 minutes, once, and only its hash is kept.

use axum::extract::{Path, State};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use domain::{Error, Result};
use http::{HeaderMap, StatusCode};
use rand::RngExt;
use serde::Serialize;
use sha2::{Digest, Sha256};
use store::{Act, Outcome};

use crate::ApiState;
use crate::auth::operator;
use crate::limits::{CLAIM_TTL, REQUEST_TIMEOUT};
use crate::middleware::{RequestId, deadline};
use crate::operations::wants_html;
use crate::platform::error::{Failure, Reply};
use crate::time::Stamp;

/// Bytes of chance in a token.
const TOKEN_BYTES: usize = 32;

/// A link to print. The only place where the token is.
#[derive(Serialize)]
pub struct ClaimLink {
    pub url: String,
    pub expires_at: Stamp,
}

/// Makes a new link; earlier ones stop working when they expire.
pub async fn issue(api: &ApiState) -> Result<ClaimLink> {
    let token: [u8; TOKEN_BYTES] = rand::rng().random();
    let token = hex(&token);
    let ttl_us = i64::try_from(CLAIM_TTL.as_micros()).unwrap_or(i64::MAX);
    let expires_at_us = api.now_us() + ttl_us;
    api.store.system().put_claim(&hash(&token), expires_at_us).await?;
    Ok(ClaimLink {
        url: format!("{}/claim/{token}", api.settings.public_url),
        expires_at: Stamp(expires_at_us),
    })
}

pub fn router() -> Router<ApiState> {
    Router::new()
        .route("/claim/{token}", get(page).post(take))
        .layer(from_fn_with_state(REQUEST_TIMEOUT, deadline))
}

/// Takes nothing yet: mail scanners and link previews open links too.
async fn page() -> Html<&'static str> {
    Html(PAGE)
}

async fn take(
    State(api): State<ApiState>,
    Path(token): Path<String>,
    Extension(request): Extension<RequestId>,
    headers: HeaderMap,
) -> Reply<Response> {
    if !api.store.system().take_claim(&hash(&token)).await? {
        return Err(Failure::Domain(Error::refused(
            "This link has expired or has been used; run `hob claim` on the server for a new one",
        )));
    }
    let system = api.store.system();
    // The token is not told: it stands in the path.
    let act = Act::new(
        operator(&api),
        "POST /claim/{token}".to_owned(),
        "/claim/",
        request.to_string(),
    );
    system.audit(&act, Outcome::Begun).await?;
    let (_, key) = system.create_api_key_for(api.operator, "claimed", None).await?;
    let key = key.expose();
    if wants_html(&headers) {
        return Ok((StatusCode::CREATED, Html(PAGE_TAKEN.replace("{key}", key))).into_response());
    }
    Ok((StatusCode::CREATED, Json(serde_json::json!({ "key": key }))).into_response())
}

fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const PAGE: &str = "<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content=\"width=device-width\">
<title>Hob</title>
<style>body{font:1.1rem/1.5 system-ui;max-width:36rem;margin:4rem auto;padding:0 1rem}</style>
<h1>This Hob is yours</h1>
<p>Take the key to it. The link works once.
<form method=post><button>Show the key</button></form>
</html>
";

const PAGE_TAKEN: &str = "<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content=\"width=device-width\">
<title>Hob</title>
<style>body{font:1.1rem/1.5 system-ui;max-width:36rem;margin:4rem auto;padding:0 1rem}</style>
<h1>Your key</h1>
<p><code>{key}</code>
<p>It is shown this once. Keep it where you keep passwords, and use it as <code>HOB_API_KEY</code>.
</html>
";
