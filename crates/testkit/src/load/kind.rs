//! The kinds of requests, how each is sent, and what a good answer is.
//!
//! The paths are those of the example app (`crates/testapp`).

use serde::Serialize;
use uuid::Uuid;

use super::plan::LoadPlan;
use super::pool::Pool;
use super::report::Outcome;
use super::websocket;
use crate::http1::{self, Broken, Connection, Response};

/// Most bytes of an answer that is looked at as a whole.
const BODY_MAX: usize = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A small GET on a connection that is used again.
    Short,
    /// A small GET on a connection of its own.
    ShortClose,
    /// A GET whose answer begins late.
    Slow,
    /// A GET whose answer comes slowly.
    Download,
    /// A session of messages that come back.
    WebSocket,
    /// A POST with an id that is delivered once or not at all.
    Post,
}

impl Kind {
    pub const ALL: [Kind; 6] = [
        Kind::Short,
        Kind::ShortClose,
        Kind::Slow,
        Kind::Download,
        Kind::WebSocket,
        Kind::Post,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Short => "short",
            Kind::ShortClose => "close",
            Kind::Slow => "slow",
            Kind::Download => "download",
            Kind::WebSocket => "websocket",
            Kind::Post => "post",
        }
    }
}

/// What became of one request: [`Outcome`] and, where it is not ok, what was seen.
pub(super) type Judged = Result<(), (Outcome, String)>;

/// Sends one request of this kind and judges the answer. `id` is unique in the world.
pub(super) async fn perform(kind: Kind, id: Uuid, plan: &LoadPlan, pool: &Pool) -> Judged {
    match kind {
        Kind::Short => {
            let response = on_kept_connection(plan, pool, &get(plan, &plan.path, &[])).await?;
            good_text(plan, &response)
        }
        Kind::ShortClose => {
            let request = get(plan, &plan.path, &[("Connection", "close")]);
            let response = http1::fetch(plan.server, &request, BODY_MAX).await.map_err(broken)?;
            good_text(plan, &response)
        }
        Kind::Slow => {
            let target = format!("/slow?ms={}", plan.slow.as_millis());
            let response = on_kept_connection(plan, pool, &get(plan, &target, &[])).await?;
            good_status(&response)
        }
        Kind::Download => download(plan).await,
        Kind::Post => post(id, plan, pool).await,
        Kind::WebSocket => websocket::session(id, plan).await,
    }
}

async fn post(id: Uuid, plan: &LoadPlan, pool: &Pool) -> Judged {
    let id = id.to_string();
    let body = format!("id={id} {}", "x".repeat(200));
    let headers = [("X-Load-Id", id.as_str()), ("Content-Type", "text/plain")];
    let request = http1::request("POST", &plan.host, "/echo", &headers, body.as_bytes());
    let response = on_kept_connection(plan, pool, &request).await?;
    good_status(&response)?;
    if response.body == body.as_bytes() {
        Ok(())
    } else {
        Err(wrong_body(&response))
    }
}

async fn download(plan: &LoadPlan) -> Judged {
    let target = format!(
        "/download?bytes={}&ms={}",
        plan.download_bytes,
        plan.download_lasts.as_millis()
    );
    let request = get(plan, &target, &[("Connection", "close")]);
    let mut connection = Connection::open(plan.server).await.map_err(broken)?;
    connection.send(&request).await.map_err(broken)?;
    let head = connection.final_head().await.map_err(broken)?;
    good(head.status, "")?;
    let got = connection.body(&head, &mut |_| true).await.map_err(broken)?;
    if got == plan.download_bytes {
        Ok(())
    } else {
        Err((Outcome::WrongBody, format!("{got} of {} bytes", plan.download_bytes)))
    }
}

async fn on_kept_connection(plan: &LoadPlan, pool: &Pool, request: &[u8]) -> Result<Response, (Outcome, String)> {
    let mut connection = pool.take(plan.server).await.map_err(broken)?;
    connection.send(request).await.map_err(broken)?;
    let response = connection.response(BODY_MAX).await.map_err(broken)?;
    if response.reusable {
        pool.give(connection);
    }
    Ok(response)
}

pub(super) fn get(plan: &LoadPlan, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    http1::request("GET", &plan.host, target, headers, b"")
}

fn good_text(plan: &LoadPlan, response: &Response) -> Judged {
    good_status(response)?;
    let text = response.text();
    if text.contains(&plan.expect) {
        Ok(())
    } else {
        Err(wrong_body(response))
    }
}

fn good_status(response: &Response) -> Judged {
    good(response.status(), &first_line(response))
}

fn good(status: u16, text: &str) -> Judged {
    match status {
        200..=299 => Ok(()),
        500.. => Err((Outcome::ServerError, format!("{status} {text}"))),
        _ => Err((Outcome::OtherStatus, format!("{status} {text}"))),
    }
}

fn wrong_body(response: &Response) -> (Outcome, String) {
    (Outcome::WrongBody, first_line(response))
}

fn first_line(response: &Response) -> String {
    response
        .text()
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(120)
        .collect()
}

pub(super) fn broken(broken: Broken) -> (Outcome, String) {
    let outcome = match &broken {
        Broken::Connect(_) => Outcome::Refused,
        Broken::BeforeFirstByte(_) => Outcome::ResetBeforeFirstByte,
        Broken::AfterFirstByte(_) => Outcome::ResetAfterFirstByte,
        Broken::Malformed(_) => Outcome::WrongBody,
    };
    (outcome, broken.to_string())
}
