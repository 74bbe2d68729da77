//! What answers mean, good ones and others.

use std::error::Error;

use reqwest::Response;
use reqwest::header::RETRY_AFTER;
use serde_json::Value;

use super::{Client, Way};
use crate::error::{Outcome, Result, Trouble};

/// Most bytes of an answer that is one document.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The answer's document; null where it has none.
pub async fn document(response: Response, client: &Client) -> Result<Value> {
    let response = must_be_good(response, client).await?;
    let bytes = read(response, client).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|_| not_hob(client))
}

pub async fn must_be_good(response: Response, client: &Client) -> Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let header = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let retry_after = header(RETRY_AFTER);
    let path = response.url().path().to_owned();
    let bytes = read(response, client).await?;
    let trouble = refusal(status.as_u16(), &bytes, retry_after.as_deref(), client);
    Err(match trouble.status {
        // "Not found." alone leaves open what.
        Some(404) if trouble.outcome == Outcome::Failed => trouble.within(path),
        _ => trouble,
    })
}

async fn read(mut response: Response, client: &Client) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| no_answer(&error, client))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(Trouble::failed(format!("the answer of {} is too large", client.whom())));
        }
    }
    Ok(bytes)
}

fn refusal(status: u16, bytes: &[u8], retry_after: Option<&str>, client: &Client) -> Trouble {
    let document: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let said = words(&document);
    let whom = client.whom();
    let trouble = match status {
        401 => Trouble::new(Outcome::Refused, format!("{whom} does not accept the key: {said}"))
            .advise("On the server run `hob keys create NAME`; then `hob login URL`, or put the key into HOB_API_KEY"),
        403 => Trouble::new(Outcome::Refused, said)
            .advise("It belongs to another account, or needs an administrator's key (`hob keys create NAME`)"),
        404 if document.is_null() => not_hob(client),
        429 => Trouble::failed(said).advise(format!(
            "Try again in {} seconds; `hob up --rate-limits off` lifts the limit",
            retry_after.unwrap_or("a few")
        )),
        503 if !said.is_empty() => {
            Trouble::failed(said).advise("Try again in a moment; `hob doctor` on the server says what is wrong")
        }
        500..=599 => Trouble::failed(format!("{whom} failed with {status}: {said}"))
            .advise("The server's log says more; nothing was lost"),
        300..=399 => Trouble::new(
            Outcome::Refused,
            format!("{whom} redirects elsewhere, and keys are not sent there"),
        )
        .advise("Check HOB_URL: it is an origin such as https://hob.example.com"),
        _ if said.is_empty() => Trouble::failed(format!("{whom} answered {status}")),
        _ => Trouble::failed(said),
    };
    Trouble {
        status: Some(status),
        ..trouble
    }
}

/// The text of an error document: `detail`, `error`, or a map of fields to problems.
fn words(document: &Value) -> String {
    for key in ["detail", "error"] {
        if let Some(text) = document[key].as_str() {
            return text.to_owned();
        }
    }
    let Some(fields) = document.as_object() else {
        return String::new();
    };
    let problem = |(field, problems): (&String, &Value)| {
        let texts: Vec<&str> = problems
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let texts = texts.join("; ");
        if field == "non_field_errors" {
            texts
        } else {
            format!("{}: {texts}", in_our_words(field))
        }
    };
    fields.iter().map(problem).collect::<Vec<_>>().join("\n")
}

/// Fields of the interface by the names of our flags.
fn in_our_words(field: &str) -> &str {
    match field {
        "replicas_target" => "instances",
        other => other,
    }
}

fn not_hob(client: &Client) -> Trouble {
    Trouble::new(Outcome::Refused, format!("{} does not answer like Hob", client.whom()))
        .advise("Check HOB_URL: it is the origin that `hob up` prints, such as http://127.0.0.1:7700")
}

/// The request had no answer.
pub fn no_answer(error: &reqwest::Error, client: &Client) -> Trouble {
    let whom = client.whom();
    if error.is_timeout() {
        return Trouble::new(Outcome::Refused, format!("{whom} did not answer in time"))
            .advise("What was asked for may still happen: look with `hob status` before you ask again");
    }
    if !error.is_connect() {
        return Trouble::new(
            Outcome::Refused,
            format!("{whom} broke the connection: {}", cause(error)),
        )
        .advise("The server's log says why; look with `hob status` before you ask again");
    }
    let trouble = Trouble::new(Outcome::Refused, format!("cannot reach {whom}: {}", cause(error)));
    match &client.way {
        Way::Socket(_) => trouble.advise("Start the server with `hob up`"),
        Way::Network => trouble.advise("Check the URL (HOB_URL, or `hob login URL`), and that `hob up` runs there"),
    }
}

/// The innermost error: the outer ones repeat the URL and say little.
fn cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
