//! Requests to the server, whichever way it is reached.

mod answer;
pub mod connect;
mod lines;
pub mod login;
mod target;
pub mod upload;

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

pub use lines::Lines;
pub use target::query;

use crate::error::{Result, Trouble};

/// Longest wait for the answer to an ordinary request; a little longer than the server's own.
const ANSWER_MAX: Duration = Duration::from_secs(40);
/// Longest upload of an image.
const UPLOAD_MAX: Duration = Duration::from_secs(60 * 60);
/// Rows of one page of a list: the most that the server gives.
const PAGE_SIZE: &str = "100";
/// Most pages of a list that are read.
const PAGES_MAX: usize = 100;

/// The server, as the commands see it.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Scheme and authority, without a final slash.
    origin: String,
    key: Option<HeaderValue>,
    way: Way,
}

/// How the server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// As the owner of its machine.
    Socket(std::path::PathBuf),
    /// With a key.
    Network,
}

impl Client {
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.ask(Method::POST, path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Result<Value> {
        self.ask(Method::PATCH, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<()> {
        self.ask(Method::DELETE, path, None).await.map(|_| ())
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let mut request = self.request(method, path).timeout(ANSWER_MAX);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let response = self.send(request).await?;
        answer::document(response, self).await
    }

    /// All rows of a list, page by page.
    pub async fn rows(&self, path: &str, filter: &[(&str, &str)]) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        for page in 1..=PAGES_MAX {
            let page = page.to_string();
            let mut pairs = filter.to_vec();
            pairs.extend([("page_size", PAGE_SIZE), ("page", &page)]);
            let mut document = self.get(&query(path, &pairs)).await?;
            if let Value::Array(results) = document["results"].take() {
                rows.extend(results);
            }
            if document["next"].is_null() {
                return Ok(rows);
            }
        }
        Err(Trouble::failed(format!("{path} has more than {} rows", rows.len())).advise("narrow it with --project"))
    }

    /// A stream of JSON objects.
    pub async fn lines(&self, path: &str) -> Result<Lines> {
        let response = self.send(self.request(Method::GET, path)).await?;
        let response = answer::must_be_good(response, self).await?;
        Ok(Lines::new(response))
    }

    /// Sends a body that is made while it is sent.
    pub async fn upload(&self, path: &str, body: reqwest::Body) -> Result<Value> {
        let request = self.request(Method::POST, path).timeout(UPLOAD_MAX);
        let request = request.header(CONTENT_TYPE, "application/x-tar").body(body);
        let response = self.send(request).await?;
        answer::document(response, self).await
    }

    /// Takes a claim link; the answer holds a key.
    pub async fn take_claim(&self, path: &str) -> Result<Value> {
        self.post(path, json!({})).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.origin));
        let request = request.header(ACCEPT, "application/json");
        match &self.key {
            Some(key) => request.header(AUTHORIZATION, key.clone()),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|error| answer::no_answer(&error, self))
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The server, in words.
    pub fn whom(&self) -> String {
        match &self.way {
            Way::Socket(path) => format!("the server of this machine ({})", path.display()),
            Way::Network => self.origin.clone(),
        }
    }
}
