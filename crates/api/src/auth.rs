//! Who asks: an API key in a header, a browser with a session, or the owner of the data directory over the control socket.

use domain::error::Kind;
use domain::{Error, Result};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use store::{Principal, Via};

use crate::platform::error::Failure;
use crate::{ApiState, session};

/// Longest credential that is looked at.
const KEY_BYTES_MAX: usize = 256;
/// What API keys begin with (G.2).
const KEY_PREFIX: &str = "gob_";
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Set by [`crate::serve_unix`] on each request: the kernel has said that the peer owns the data directory. Nothing
/// that a client sends can set it.
#[derive(Debug, Clone, Copy)]
pub struct LocalOperator;

/// Finds out who asks. A key that was sent counts first, even over the control socket; then a browser's session.
///
/// # Errors
/// `Kind::Unauthenticated`, with S2.19's text when there is nothing at all and I.2's when it is a bad key; 403 for a
/// change that a browser asks for without the token of its page (I.15).
pub async fn identify(api: &ApiState, parts: &Parts) -> Result<Principal, Failure> {
    refuse_key_in_url(parts.uri.query())?;
    match presented_key(&parts.headers) {
        Presented::Key(key) => Ok(api.store.system().authenticate_key(key).await?),
        Presented::Bad => Err(unauthenticated("Invalid API key.").into()),
        Presented::Nothing if parts.extensions.get::<LocalOperator>().is_some() => Ok(operator(api)),
        Presented::Nothing => match session::identify(api, parts).await? {
            Some(who) => Ok(who),
            None => Err(unauthenticated("Authentication credentials were not provided.").into()),
        },
    }
}

/// The account that administers everything.
pub fn operator(api: &ApiState) -> Principal {
    Principal {
        account: api.operator,
        admin: true,
        via: Via::LocalOperator,
    }
}

fn unauthenticated(text: &str) -> Error {
    Error::new(Kind::Unauthenticated(text.to_owned()), text)
}

enum Presented<'a> {
    Nothing,
    Bad,
    Key(&'a str),
}

/// `Authorization: Bearer` wins over `X-API-Key` (I.3); other schemes are somebody else's business.
fn presented_key(headers: &HeaderMap) -> Presented<'_> {
    if let Some(value) = headers.get(AUTHORIZATION)
        && let Some(token) = bearer_token(value)
    {
        return if headers.get_all(AUTHORIZATION).iter().count() == 1 {
            key(token)
        } else {
            Presented::Bad
        };
    }
    match headers.get(X_API_KEY) {
        Some(value) => key(value.as_bytes()),
        None => Presented::Nothing,
    }
}

fn bearer_token(value: &HeaderValue) -> Option<&[u8]> {
    let bytes = value.as_bytes();
    let end = bytes.iter().position(|b| *b == b' ').unwrap_or(bytes.len());
    bytes[..end].eq_ignore_ascii_case(b"bearer").then(|| &bytes[end..])
}

fn key(bytes: &[u8]) -> Presented<'_> {
    match std::str::from_utf8(bytes.trim_ascii()) {
        Ok(text) if text.starts_with(KEY_PREFIX) && text.len() <= KEY_BYTES_MAX => Presented::Key(text),
        _ => Presented::Bad,
    }
}

/// URLs end up in logs and histories, so a key in one is refused even where a good one is in a header (C6.5).
fn refuse_key_in_url(query: Option<&str>) -> Result<()> {
    let holds_key = query
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .any(|(_, value)| value.starts_with(KEY_PREFIX));
    if holds_key {
        return Err(unauthenticated(
            "API keys are refused in URLs; send the header Authorization: Bearer, and revoke this key",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn check(pairs: &[(&'static str, &'static str)], expected: &str) {
        let headers = headers(pairs);
        let seen = match presented_key(&headers) {
            Presented::Nothing => "nothing",
            Presented::Bad => "bad",
            Presented::Key(key) => key,
        };
        assert_eq!(seen, expected, "{pairs:?}");
    }

    #[test]
    fn keys_are_found_in_either_header_and_authorization_wins() {
        check(&[], "nothing");
        check(&[("authorization", "Bearer gob_a")], "gob_a");
        check(&[("authorization", "bEARER   gob_a ")], "gob_a");
        check(&[("x-api-key", "gob_b")], "gob_b");
        check(&[("x-api-key", "gob_b"), ("authorization", "Bearer gob_a")], "gob_a");
        check(&[("x-api-key", "gob_b"), ("authorization", "Basic eDp5")], "gob_b");
        check(&[("authorization", "Basic eDp5")], "nothing");
    }

    #[test]
    fn what_is_no_key_is_bad_and_never_nothing() {
        check(&[("authorization", "Bearer")], "bad");
        check(&[("authorization", "Bearer eyJhbGciOi")], "bad");
        check(
            &[("authorization", "Bearer gob_a"), ("authorization", "Bearer gob_b")],
            "bad",
        );
        check(&[("x-api-key", "")], "bad");
    }

    #[test]
    fn a_key_in_a_url_is_refused() {
        assert!(refuse_key_in_url(Some("page=2&api_key=gob_abc")).is_err());
        assert!(refuse_key_in_url(Some("page=2&name=gobbler")).is_ok());
        assert!(refuse_key_in_url(None).is_ok());
    }
}
