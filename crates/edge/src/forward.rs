//! The life of a request: checked, routed, given to an instance, answered.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use domain::InstanceId;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use crate::body::{AnswerBody, AppBody, RequestBody};
use crate::client::{Client, Side};
use crate::exchange::Exchange;
use crate::headers;
use crate::instance::Lease;
use crate::pages::{self, Refusal};
use crate::pool::{self, Upstream};
use crate::request::{self, Host};
use crate::table::Service;
use crate::tally::Outcome;
use crate::upgrade::Upgrade;

/// Most instances that one request is offered to.
const MAX_INSTANCES: usize = 3;

/// Most kept connections that one request meets just as they are closed, before a new one is made.
const MAX_STALE: usize = 3;

/// Most tables that one request waits out while they change under it.
const MAX_REROUTES: usize = 8;

/// Answers one request. Never fails: what goes wrong becomes a page, or breaks off a body that has begun.
pub async fn answer(client: Rc<Client>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
    client.begin_request();
    let accept = pages::accept(request.headers());
    let answer = forward(&client, request).await;
    Ok(answer.unwrap_or_else(|refusal| refusal.answer(accept.as_ref(), client)))
}

async fn forward(client: &Rc<Client>, mut request: Request<Incoming>) -> Result<Response<AnswerBody>, Refusal> {
    if client.has_bad_head() {
        return Err(Refusal::Framing);
    }
    let (written, host) = request::check(&request)?;
    let service = route(client, &host, request.uri().path())?;
    let mut exchange = Exchange::new(Rc::clone(client), service);
    let limits = &client.worker.shared.limits;
    if limits.body_bytes > 0 && request.body().size_hint().lower() > limits.body_bytes {
        return Err(Refusal::TooLarge);
    }
    let _pending = Pending::enter(client).inspect_err(|_| exchange.set_outcome(Outcome::FailedByHob))?;

    let can_upgrade = request.version() == Version::HTTP_11 && request.body().is_end_stream();
    let upgrade = if can_upgrade {
        headers::upgrade(request.headers())
    } else {
        None
    };
    let asked_to_upgrade = upgrade.is_some();
    headers::prepare_request(request.headers_mut(), upgrade);
    client.forwarding.apply(request.headers_mut(), &written);
    client.worker.request_ids.borrow_mut().ensure(request.headers_mut());
    request::origin_form(request.uri_mut());
    *request.version_mut() = Version::HTTP_11;
    request.extensions_mut().clear();
    let request = request.map(|body| RequestBody::new(body, Rc::clone(client)));

    match deliver(client, &mut exchange, &host, request).await {
        Ok((upstream, response)) => Ok(conclude(client, exchange, upstream, response, asked_to_upgrade)),
        // A client that spoils its own request is told so, and nobody has failed.
        Err(refusal) => Err(client.fault().unwrap_or_else(|| {
            exchange.set_outcome(Outcome::FailedByHob);
            refusal
        })),
    }
}

/// Finds the service by the rules of the side that the client came in on.
fn route(client: &Client, host: &Host, path: &str) -> Result<Arc<Service>, Refusal> {
    client.worker.with_table(|table| {
        let found = match client.side {
            Side::Public => table.public(host.as_str(), path),
            Side::Internal => {
                let project = table.caller(client.peer).ok_or(Refusal::UnknownCaller)?;
                table.internal(project, host.as_str())
            }
        };
        found.cloned().ok_or(Refusal::UnknownHost)
    })
}

/// Gets the request to an instance, and the head of its answer back.
///
/// # Guarantees
/// A request goes to a second instance only when not one byte of it was written to the first: the connection could not
/// be made, or hyper hands the message back unwritten (invariant 5).
async fn deliver(
    client: &Rc<Client>,
    exchange: &mut Exchange,
    host: &Host,
    mut request: Request<RequestBody>,
) -> Result<(Upstream, Response<Incoming>), Refusal> {
    let mut tried: Vec<InstanceId> = Vec::new();
    while tried.len() < MAX_INSTANCES {
        let Some(lease) = choose(client, exchange, host, request.uri().path(), &tried)? else {
            return Err(if tried.is_empty() {
                Refusal::NoTarget
            } else {
                Refusal::Unreachable
            });
        };
        let instance = Arc::clone(lease.instance());
        exchange.assign(lease, !tried.is_empty());
        request = match offer(client, &instance, request).await {
            Offered::Answered(upstream, response) => return Ok((upstream, response)),
            Offered::Untouched(request) => request,
            Offered::Failed(refusal) => return Err(refusal),
        };
        tried.push(instance.id);
    }
    Err(Refusal::Unreachable)
}

/// Claims the best instance. When all of them are leaving, the table has just changed: the request is routed again.
fn choose(
    client: &Client,
    exchange: &mut Exchange,
    host: &Host,
    path: &str,
    tried: &[InstanceId],
) -> Result<Option<Lease>, Refusal> {
    for _ in 0..MAX_REROUTES {
        let lease = exchange.service().choose(client.worker.turn(), tried);
        if lease.is_some() || !exchange.service().is_stale() {
            return Ok(lease);
        }
        exchange.reroute(route(client, host, path)?);
    }
    Ok(None)
}

enum Offered {
    Answered(Upstream, Response<Incoming>),
    /// Nothing of the request was written.
    Untouched(Request<RequestBody>),
    /// Something may have been written.
    Failed(Refusal),
}

/// Offers the request to one instance, on a kept connection or a new one.
async fn offer(
    client: &Rc<Client>,
    instance: &Arc<crate::instance::Instance>,
    mut request: Request<RequestBody>,
) -> Offered {
    for attempt in 0..=MAX_STALE {
        let kept = if attempt < MAX_STALE {
            client.worker.pool.take(instance)
        } else {
            None
        };
        let is_new = kept.is_none();
        let mut upstream = match kept {
            Some(upstream) => upstream,
            None => match pool::connect(instance, &client.worker).await {
                Ok(upstream) => upstream,
                Err(error) => {
                    tracing::debug!(instance.id = %instance.id, error = %error, "cannot connect");
                    return Offered::Untouched(request);
                }
            },
        };
        let sent = upstream.send(request);
        let mut sent = pin!(sent);
        let answered = poll_fn(|cx| match sent.as_mut().poll(cx) {
            Poll::Pending if client.has_expired() => Poll::Ready(None),
            polled => polled.map(Some),
        });
        let mut error = match answered.await {
            Some(Ok(response)) => return Offered::Answered(upstream, response),
            Some(Err(error)) => error,
            None => return Offered::Failed(Refusal::Silence),
        };
        match error.take_message() {
            Some(unsent) if is_new => return Offered::Untouched(unsent),
            Some(unsent) => request = unsent,
            None => {
                tracing::debug!(instance.id = %instance.id, error = %error.error(), "no answer");
                return Offered::Failed(Refusal::NoAnswer);
            }
        }
    }
    Offered::Untouched(request)
}

/// Turns an instance's answer into ours.
fn conclude(
    client: &Rc<Client>,
    exchange: Exchange,
    upstream: Upstream,
    response: Response<Incoming>,
    asked_to_upgrade: bool,
) -> Response<AnswerBody> {
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let protocol = headers::upgrade(&parts.headers);
    headers::strip_hop_by_hop(&mut parts.headers);
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        let body = AppBody::new(body, parts.status, upstream, exchange);
        return Response::from_parts(parts, AnswerBody::app(body, Rc::clone(client)));
    }
    let Some(protocol) = protocol.filter(|_| asked_to_upgrade) else {
        let mut exchange = exchange;
        exchange.set_outcome(Outcome::FailedByApp);
        return Refusal::NoAnswer.answer(None, Rc::clone(client));
    };
    headers::set_upgrade(&mut parts.headers, protocol);
    *client.upgrade.borrow_mut() = Some(Upgrade { upstream, exchange });
    Response::from_parts(parts, AnswerBody::page(b"", Rc::clone(client)))
}

/// One of the requests that wait for the head of their answer.
struct Pending<'a>(&'a Client);

impl<'a> Pending<'a> {
    fn enter(client: &'a Client) -> Result<Self, Refusal> {
        let shared = &client.worker.shared;
        let waiting = client.worker.pending.get();
        if waiting >= shared.limits.max_pending.div_ceil(shared.workers) {
            return Err(Refusal::Overloaded);
        }
        client.worker.pending.set(waiting + 1);
        Ok(Pending(client))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.worker.pending.set(self.0.worker.pending.get() - 1);
    }
}
