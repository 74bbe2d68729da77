//! The few words that the edge itself answers with.

use std::rc::Rc;

use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::body::AnswerBody;
use crate::client::Client;

/// Cloud Foundry's word for the reason, where its clients look for it.
const ROUTER_ERROR: HeaderName = HeaderName::from_static("x-cf-routererror");

/// Why the edge answers a request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    BadHost,
    Target,
    Framing,
    Expectation,
    Method,
    TooLarge,
    UnknownHost,
    UnknownCaller,
    ClientLeft,
    BadWish,
    NoMatch,
    NoSuchPlace,
    NoTarget,
    HeldTooLong,
    TooManyHeld,
    Overloaded,
    Unreachable,
    NoAnswer,
    Silence,
}

macro_rules! page {
    ($code:literal, $title:literal, $text:literal) => {
        Page {
            html: concat!(
                "<!doctype html><meta charset=utf-8><title>",
                $code,
                " ",
                $title,
                "</title><style>body{font:16px system-ui;margin:15vh auto;max-width:32em;padding:0 1em}</style><h1>",
                $title,
                "</h1><p>",
                $text,
                "</p>\n"
            )
            .as_bytes(),
            plain: concat!($code, " ", $title, ": ", $text, "\n").as_bytes(),
        }
    };
}

struct Page {
    html: &'static [u8],
    plain: &'static [u8],
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Refusal::BadHost | Refusal::Target | Refusal::Framing => StatusCode::BAD_REQUEST,
            Refusal::Expectation => StatusCode::EXPECTATION_FAILED,
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::BadWish | Refusal::NoSuchPlace | Refusal::ClientLeft => StatusCode::BAD_REQUEST,
            Refusal::UnknownHost | Refusal::NoMatch => StatusCode::NOT_FOUND,
            Refusal::UnknownCaller => StatusCode::FORBIDDEN,
            Refusal::NoTarget | Refusal::HeldTooLong | Refusal::TooManyHeld | Refusal::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refusal::Unreachable | Refusal::NoAnswer => StatusCode::BAD_GATEWAY,
            Refusal::Silence => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn page(self) -> Page {
        match self {
            Refusal::BadHost => page!(
                "400",
                "Bad request",
                "The Host header is missing, repeated or not a host name."
            ),
            Refusal::Target => page!("400", "Bad request", "The request target is not a path."),
            Refusal::Framing => page!("400", "Bad request", "It is not clear where the body ends."),
            Refusal::Expectation => page!("417", "Expectation failed", "Only 100-continue can be expected."),
            Refusal::Method => page!("405", "Method not allowed", "This is not a forward proxy."),
            Refusal::TooLarge => page!("413", "Content too large", "The body is longer than this server takes."),
            Refusal::UnknownHost => page!("404", "Not found", "No service answers at this address."),
            Refusal::UnknownCaller => page!("403", "Forbidden", "This address belongs to no instance."),
            Refusal::ClientLeft => page!("400", "Bad request", "The client left before it was answered."),
            Refusal::BadWish => page!(
                "400",
                "Bad request",
                "The header that asks for a version or an instance cannot be read."
            ),
            Refusal::NoMatch => page!(
                "404",
                "Not found",
                "The version or instance that was asked for is not reached here."
            ),
            Refusal::NoSuchPlace => page!(
                "400",
                "Bad request",
                "The process or instance that was asked for does not exist for this route."
            ),
            Refusal::HeldTooLong => page!(
                "503",
                "Service unavailable",
                "No instance became ready in time. Try again in a moment."
            ),
            Refusal::TooManyHeld => page!(
                "503",
                "Service unavailable",
                "No instance is ready, and too many requests wait for one. Try again in a moment."
            ),
            Refusal::NoTarget => page!(
                "503",
                "Service unavailable",
                "No instance is ready. Try again in a moment."
            ),
            Refusal::Overloaded => page!(
                "503",
                "Service unavailable",
                "Too many requests are waiting. Try again soon."
            ),
            Refusal::Unreachable => page!("502", "Bad gateway", "The instance could not be reached."),
            Refusal::NoAnswer => page!("502", "Bad gateway", "The instance gave no valid answer."),
            Refusal::Silence => page!("504", "Gateway timeout", "The instance did not answer in time."),
        }
    }

    /// Whether the request was so odd that nothing more is read from its connection.
    fn closes(self) -> bool {
        matches!(
            self,
            Refusal::BadHost
                | Refusal::Target
                | Refusal::Framing
                | Refusal::Expectation
                | Refusal::Method
                | Refusal::TooLarge
                | Refusal::ClientLeft
        )
    }

    /// Whether a request that is answered so counts as failed by Hob. The others are their clients' own doing.
    pub fn is_our_failure(self) -> bool {
        !matches!(
            self,
            Refusal::BadWish | Refusal::NoMatch | Refusal::NoSuchPlace | Refusal::ClientLeft
        )
    }

    /// The answer. `accept` is the request's header of that name.
    pub fn answer(self, accept: Option<&HeaderValue>, client: Rc<Client>) -> Response<AnswerBody> {
        let html = accept.is_some_and(|accept| contains(accept.as_bytes(), b"text/html"));
        let (kind, text) = match html {
            true => ("text/html; charset=utf-8", self.page().html),
            false => ("text/plain; charset=utf-8", self.page().plain),
        };
        let mut response = Response::new(AnswerBody::page(text, client));
        *response.status_mut() = self.status();
        self.fill(response.headers_mut(), kind);
        response
    }

    fn fill(self, headers: &mut HeaderMap, kind: &'static str) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self == Refusal::NoSuchPlace {
            headers.insert(ROUTER_ERROR, HeaderValue::from_static("unknown_route"));
        }
        if self == Refusal::Method {
            headers.insert(
                ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        if self.closes() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// The request's `Accept`, kept for an answer of our own: cheap, it is shared.
pub fn accept(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ACCEPT).cloned()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window.eq_ignore_ascii_case(needle))
}
