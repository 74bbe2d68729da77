//! Browsers: a cookie that scripts cannot read, and a token without which nothing can be changed (S2.4, I.15, C6.6).
//!
//! # Guarantees
//! - The cookie is `HttpOnly` and `SameSite=Lax`, and `Secure` under a `__Host-` name where the public URL is HTTPS.
//! - A change needs the token of the session in `X-CSRFToken`, which other sites cannot read, and must not come from
//!   another origin.
//! - Every login makes a new session; the one that the browser had before is closed.

use axum::http::request::Parts;
use domain::Result;
use http::header::{COOKIE, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use store::{Principal, Session};

use crate::claim::hex;
use crate::limits::{SESSION_IDLE, SESSION_TTL};
use crate::platform::error::Failure;
use crate::policy::Verb;
use crate::{ApiState, Settings};

const X_CSRF_TOKEN: HeaderName = HeaderName::from_static("x-csrftoken");
/// Longest cookie value that is looked at.
const TOKEN_BYTES_MAX: usize = 256;

/// Whose session a request belongs to; `None` without a good one.
///
/// # Errors
/// 403 where a change is asked for without the proof that the page itself asks.
pub async fn identify(api: &ApiState, parts: &Parts) -> Result<Option<Principal>, Failure> {
    let Some((token, session)) = find(api, &parts.headers).await? else {
        return Ok(None);
    };
    if Verb::of(&parts.method) != Some(Verb::Read) {
        must_be_same_origin(&api.settings, &parts.headers)?;
        let sent = parts.headers.get(X_CSRF_TOKEN).map(HeaderValue::as_bytes);
        match sent {
            None => return Err(Failure::Csrf("CSRF token missing.")),
            Some(sent) if !same(sent, csrf_token(&token).as_bytes()) => {
                return Err(Failure::Csrf("CSRF token incorrect."));
            }
            Some(_) => {}
        }
    }
    Ok(Some(session.who))
}

/// The session of a request's cookie, with its token.
pub async fn find(api: &ApiState, headers: &HeaderMap) -> Result<Option<(String, Session)>> {
    let Some(token) = presented(&api.settings, headers) else {
        return Ok(None);
    };
    let idle_us = i64::try_from(SESSION_IDLE.as_micros()).unwrap_or(i64::MAX);
    let session = api.store.system().session(token, idle_us).await?;
    Ok(session.map(|session| (token.to_owned(), session)))
}

/// What the session's cookie says.
pub fn presented<'a>(settings: &Settings, headers: &'a HeaderMap) -> Option<&'a str> {
    let name = cookie_name(settings);
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, value)| *key == name && value.len() <= TOKEN_BYTES_MAX)
        .map(|(_, value)| value)
}

/// # Errors
/// 403 where the browser says that another site asks. Programs send no origin.
pub fn must_be_same_origin(settings: &Settings, headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get(ORIGIN) {
        Some(origin) if origin.as_bytes() != settings.public_url.as_bytes() => {
            Err(Failure::Csrf("Origin checking failed."))
        }
        _ => Ok(()),
    }
}

/// What the page sends along with a change. It follows from the session's token and tells nothing of it.
pub fn csrf_token(token: &str) -> String {
    hex(&Sha256::digest([b"csrf:", token.as_bytes()].concat()))
}

/// `Set-Cookie` for a new session.
pub fn cookie(settings: &Settings, token: &str) -> String {
    let (name, seconds) = (cookie_name(settings), SESSION_TTL.as_secs());
    format!(
        "{name}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{}",
        secure(settings)
    )
}

/// `Set-Cookie` that makes the browser forget.
pub fn no_cookie(settings: &Settings) -> String {
    let name = cookie_name(settings);
    format!("{name}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax{}", secure(settings))
}

fn cookie_name(settings: &Settings) -> &'static str {
    if is_https(settings) {
        "__Host-hob_session"
    } else {
        "hob_session"
    }
}

fn secure(settings: &Settings) -> &'static str {
    if is_https(settings) { "; Secure" } else { "" }
}

fn is_https(settings: &Settings) -> bool {
    settings.public_url.starts_with("https://")
}

/// Takes the same time wherever the difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}
