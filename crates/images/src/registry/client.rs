//! One repository of one registry: authorised requests with bounded retries.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url, redirect};
use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::address::{AddressRule, GuardedResolver};
use super::auth::Challenge;
use super::{Credentials, Progress, RegistryOptions};
use crate::error::{ImageError, Result};
use crate::reference::Reference;
use crate::stream::Cap;

/// Longest wait between two attempts that we choose ourselves.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Redirects of one request.
const REDIRECTS_MAX: usize = 5;
/// Bytes of a token service's answer.
const TOKEN_BYTES_MAX: u64 = 1 << 20;
/// How often one request may be told 401 before we take it as an answer: once without a token, once with a stale one.
const CHALLENGES_MAX: u32 = 2;

/// What a pull is made with.
pub(super) struct Repository<'a> {
    http: reqwest::Client,
    base: Url,
    rule: AddressRule,
    reference: &'a Reference,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<Arc<Authorization>>>,
    pub(super) options: &'a RegistryOptions,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
}

enum Authorization {
    Basic,
    Bearer(Zeroizing<String>),
}

/// A request that can be made again.
pub(super) struct Get<'a> {
    /// Below `/v2/<repository>/`.
    pub path: String,
    pub accept: Option<&'a str>,
    /// First byte wanted.
    pub from: u64,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// How an attempt that may be repeated failed.
pub(super) struct Setback {
    pub reason: String,
    /// What the registry asked for.
    pub wait: Option<Duration>,
}

/// What one attempt led to, short of a final error.
pub(super) enum Attempt<T> {
    Done(T),
    Again(Setback),
}

impl<'a> Repository<'a> {
    pub(super) async fn new(
        reference: &'a Reference,
        credentials: Option<Credentials>,
        options: &'a RegistryOptions,
        progress: &'a (dyn Fn(Progress) + Send + Sync),
    ) -> Result<Repository<'a>> {
        let base = base_url(reference, options)?;
        let rule = AddressRule::for_registry(&base, options.allow_private).await?;
        let http = http_client(&base, &rule, options).map_err(|error| ImageError::Registry {
            registry: reference.registry().to_owned(),
            problem: chain(error),
        })?;
        let authorization = Mutex::new(None);
        Ok(Repository {
            http,
            base,
            rule,
            reference,
            credentials,
            authorization,
            options,
            progress,
        })
    }

    pub(super) fn tell(&self, progress: Progress) {
        (self.progress)(progress);
    }

    /// An answer with status 200 or 206, after as many attempts as it takes and is allowed.
    pub(super) async fn get(&self, get: &Get<'_>) -> Result<Response> {
        let mut failures = 0;
        loop {
            match self.attempt(get).await? {
                Attempt::Done(response) => return Ok(response),
                Attempt::Again(setback) => self.back_off(&mut failures, &get.path, setback).await?,
            }
        }
    }

    /// One attempt, including what it takes to be let in.
    pub(super) async fn attempt(&self, get: &Get<'_>) -> Result<Attempt<Response>> {
        let mut challenges = 0;
        loop {
            let used = self.authorization.lock().await.clone();
            let response = match self.send(get, used.as_deref()).await {
                Ok(response) => response,
                Err(error) => return self.transport_failure(error).map(Attempt::Again),
            };
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(Attempt::Done(response)),
                StatusCode::UNAUTHORIZED if challenges < CHALLENGES_MAX => {
                    challenges += 1;
                    if let Attempt::Again(setback) = self.authorize(&response, used).await? {
                        return Ok(Attempt::Again(setback));
                    }
                }
                status => return self.refusal(status, &response).map(Attempt::Again),
            }
        }
    }

    async fn send(&self, get: &Get<'_>, authorization: Option<&Authorization>) -> reqwest::Result<Response> {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{}", self.reference.repository(), get.path));
        let mut request = self.http.get(url);
        if let Some(accept) = get.accept {
            request = request.header(ACCEPT, accept);
        }
        if get.from > 0 {
            request = request.header(RANGE, format!("bytes={}-", get.from));
        }
        request = match (authorization, &self.credentials) {
            (Some(Authorization::Bearer(token)), _) => request.bearer_auth(token.as_str()),
            (Some(Authorization::Basic), Some(credentials)) => {
                request.basic_auth(&credentials.username, Some(credentials.password.as_str()))
            }
            _ => request,
        };
        request.send().await
    }

    /// A final error, or a reason to try again.
    fn refusal(&self, status: StatusCode, response: &Response) -> Result<Setback> {
        match status {
            StatusCode::NOT_FOUND => Err(ImageError::NotInRegistry {
                reference: Box::new(self.reference.clone()),
                registry: self.registry(),
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.unauthorized()),
            StatusCode::TOO_MANY_REQUESTS => {
                let wait = retry_after(response);
                match wait {
                    Some(wait) if wait > self.options.retry_after_max => Err(ImageError::RateLimited {
                        registry: self.registry(),
                        wait_s: wait.as_secs(),
                    }),
                    _ => Ok(Setback {
                        reason: "it limits our requests (429)".to_owned(),
                        wait,
                    }),
                }
            }
            StatusCode::REQUEST_TIMEOUT => Ok(Setback {
                reason: format!("it answered {status}"),
                wait: None,
            }),
            server if server.is_server_error() => {
                let wait = retry_after(response).map(|wait| wait.min(self.options.retry_after_max));
                Ok(Setback {
                    reason: format!("it answered {status}"),
                    wait,
                })
            }
            other => Err(self.failed(format!("it answered {other}"))),
        }
    }

    /// Gets what the registry's 401 asks for, unless another request of this pull just did.
    async fn authorize(&self, response: &Response, used: Option<Arc<Authorization>>) -> Result<Attempt<()>> {
        let mut current = self.authorization.lock().await;
        let renewed_meanwhile = match (&*current, &used) {
            (Some(current), Some(used)) => !Arc::ptr_eq(current, used),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if renewed_meanwhile {
            return Ok(Attempt::Done(()));
        }
        let fresh = match Challenge::from_headers(response.headers()) {
            Some(Challenge::Basic) if self.credentials.is_some() && used.is_none() => Authorization::Basic,
            Some(Challenge::Bearer { realm, service, scope }) => match self.token(&realm, service, scope).await? {
                Attempt::Done(token) => Authorization::Bearer(token),
                Attempt::Again(setback) => return Ok(Attempt::Again(setback)),
            },
            _ => return Err(self.unauthorized()),
        };
        *current = Some(Arc::new(fresh));
        Ok(Attempt::Done(()))
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<Attempt<Zeroizing<String>>> {
        let mut url = Url::parse(realm).map_err(|_| self.failed("its token service has no usable address".into()))?;
        if url.scheme() != "https" && self.base.scheme() == "https" {
            return Err(self.failed("it wants our credentials sent without encryption".into()));
        }
        self.rule.check_literal(&url)?;
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository()));
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)));
        url.query_pairs_mut().append_pair("scope", &scope);
        let mut request = self.http.get(url);
        if let Some(credentials) = &self.credentials {
            request = request.basic_auth(&credentials.username, Some(credentials.password.as_str()));
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return self.transport_failure(error).map(Attempt::Again),
        };
        if response.status() != StatusCode::OK {
            let status = response.status();
            return match status {
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Err(self.unauthorized()),
                _ => self.refusal(status, &response).map(Attempt::Again),
            };
        }
        let cap = Cap {
            what: "the answer of the token service".into(),
            limit: "manifest_bytes",
            bytes: TOKEN_BYTES_MAX,
        };
        let body = match self.body(response, cap).await? {
            Attempt::Done(body) => Zeroizing::new(body),
            Attempt::Again(setback) => return Ok(Attempt::Again(setback)),
        };
        let answer: Option<TokenAnswer> = serde_json::from_slice(&body).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let token = token.filter(|token| HeaderValue::from_str(token).is_ok());
        match token {
            Some(token) => Ok(Attempt::Done(Zeroizing::new(token))),
            None => Err(self.failed("its token service gave no token".into())),
        }
    }

    /// A whole small body, which has as long as ten stalls. Its size is checked while it arrives.
    pub(super) async fn body(&self, response: Response, cap: Cap) -> Result<Attempt<Vec<u8>>> {
        let patience = self.options.stall.saturating_mul(10);
        match tokio::time::timeout(patience, self.read_body(response, cap)).await {
            Ok(read) => read,
            Err(_) => Ok(Attempt::Again(self.stalled())),
        }
    }

    async fn read_body(&self, mut response: Response, cap: Cap) -> Result<Attempt<Vec<u8>>> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(Attempt::Done(body)),
                Err(error) => return self.transport_failure(error).map(Attempt::Again),
            }
            if body.len() as u64 > cap.bytes {
                return Err(cap.exceeded());
            }
        }
    }

    /// Waits before the next attempt, or gives up.
    pub(super) async fn back_off(&self, failures: &mut u32, what: &str, setback: Setback) -> Result<()> {
        *failures += 1;
        if *failures >= self.options.attempts {
            return Err(self.failed(format!("{} (tried {failures} times)", setback.reason)));
        }
        let doubled = self
            .options
            .backoff
            .saturating_mul(1 << (*failures - 1).min(16))
            .min(BACKOFF_MAX);
        let wait = setback.wait.unwrap_or(doubled);
        self.tell(Progress::Retrying {
            what: what.to_owned(),
            reason: setback.reason,
            wait,
        });
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// A failed connection may be tried again; a refused address may not.
    fn transport_failure(&self, error: reqwest::Error) -> Result<Setback> {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(current) = cause {
            if let Some(ImageError::AddressRefused { host, problem }) = current.downcast_ref() {
                return Err(ImageError::AddressRefused {
                    host: host.clone(),
                    problem,
                });
            }
            cause = current.source();
        }
        if error.is_redirect() {
            return Err(self.failed(chain(error)));
        }
        Ok(Setback {
            reason: chain(error),
            wait: None,
        })
    }

    pub(super) fn stalled(&self) -> Setback {
        Setback {
            reason: format!("nothing came for {} s", self.options.stall.as_secs_f32()),
            wait: None,
        }
    }

    pub(super) fn failed(&self, problem: String) -> ImageError {
        ImageError::Registry {
            registry: self.registry(),
            problem,
        }
    }

    fn registry(&self) -> String {
        self.reference.registry().to_owned()
    }

    fn unauthorized(&self) -> ImageError {
        let advice = if self.credentials.is_some() {
            "it does not accept our user name and password for it, or there is no such image"
        } else {
            "it wants a user name and a password, or there is no such image"
        };
        ImageError::Unauthorized {
            registry: self.registry(),
            repository: self.reference.repository(),
            advice,
        }
    }
}

/// Plain HTTP for registries on this machine and those that the operator named, HTTPS for all others.
fn base_url(reference: &Reference, options: &RegistryOptions) -> Result<Url> {
    let endpoint = reference.endpoint();
    let parse = |scheme: &str| {
        Url::parse(&format!("{scheme}://{endpoint}/")).map_err(|error| ImageError::InvalidReference {
            input: reference.to_string(),
            problem: format!("its registry has no usable address: {error}"),
        })
    };
    let url = parse("https")?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let named = options
        .insecure_registries
        .iter()
        .any(|insecure| insecure == reference.registry());
    if here || named { parse("http") } else { Ok(url) }
}

fn http_client(base: &Url, rule: &AddressRule, options: &RegistryOptions) -> reqwest::Result<reqwest::Client> {
    let (redirect_rule, encrypted) = (rule.clone(), base.scheme() == "https");
    let policy = redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("it redirects too often");
        }
        match attempt.url().scheme() {
            "https" => {}
            "http" if !encrypted => {}
            _ => return attempt.error("it redirects to an unencrypted place"),
        }
        match redirect_rule.check_literal(attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(error) => attempt.error(error),
        }
    });
    reqwest::Client::builder()
        .user_agent(concat!("hob/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.connect)
        .read_timeout(options.stall)
        .redirect(policy)
        .dns_resolver(Arc::new(GuardedResolver(rule.clone())))
        .tls_certs_merge(options.authorities.0.iter().cloned())
        .no_proxy()
        .referer(false)
        .build()
}

/// Seconds or a date; a date is taken as "a while", since two clocks would have to agree for more.
fn retry_after(response: &Response) -> Option<Duration> {
    const A_WHILE: Duration = Duration::from_secs(30);
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    Some(value.trim().parse().map_or(A_WHILE, Duration::from_secs))
}

/// An HTTP error with its causes and without its URL, which may carry a signature.
pub(super) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(current) = cause {
        let next = current.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = current.source();
    }
    text
}
