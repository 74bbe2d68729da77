//! The life of a request: checked, routed, given to an instance, answered.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use domain::InstanceId;
use http::header::SET_COOKIE;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::body::{AnswerBody, AppBody, RequestBody};
use crate::client::{Client, Side};
use crate::exchange::Exchange;
use crate::headers;
use crate::hold::Seat;
use crate::instance::Instance;
use crate::pages::{self, Refusal};
use crate::request::{self, Host};
use crate::service::{Asked, Turn};
use crate::table::Found;
use crate::tally::Outcome;
use crate::upgrade::Upgrade;
use crate::upstream::{self, Upstream};
use crate::wish::Wish;

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
    let found = route(client, &host, request.uri().path())?;
    let mut exchange = Exchange::new(Rc::clone(client), found);
    let wish = Wish::read(request.headers())?;
    let limits = &client.worker.shared.limits;
    if limits.body_bytes > 0 && request.body().size_hint().lower() > limits.body_bytes {
        return Err(Refusal::TooLarge);
    }
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

    match deliver(client, &mut exchange, &host, wish, request).await {
        Ok((upstream, response)) => Ok(conclude(client, exchange, upstream, response, asked_to_upgrade)),
        // A client that spoils its own request is told so, and nobody has failed.
        Err(refusal) => Err(client.fault().unwrap_or_else(|| {
            if refusal.is_our_failure() {
                exchange.set_outcome(Outcome::FailedByHob);
            }
            refusal
        })),
    }
}

/// Finds the service by the rules of the side that the client came in on.
fn route(client: &Client, host: &Host, path: &str) -> Result<Found, Refusal> {
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
    wish: Option<Wish>,
    mut request: Request<RequestBody>,
) -> Result<(Upstream, Response<Incoming>), Refusal> {
    let mut tried: Vec<InstanceId> = Vec::new();
    let mut pending = None;
    while tried.len() < MAX_INSTANCES {
        let sought = Sought {
            host,
            wish,
            request: &request,
            tried: &tried,
        };
        let mut seat = None;
        if sought.is_behind_others(exchange) || !choose(client, exchange, &sought)? {
            // Boxed, since it is rare and its state would make every connection larger.
            seat = Box::pin(wait(client, exchange, &sought)).await?;
        }
        if pending.is_none() {
            pending = Some(Pending::enter(client).inspect_err(|_| exchange.release())?);
        }
        let lease = exchange.lease().ok_or(Refusal::NoTarget)?;
        let instance = Arc::clone(lease.instance());
        request = match offer(client, &instance, &mut seat, request).await {
            Offered::Answered(upstream, response) => return Ok((upstream, response)),
            Offered::Untouched(request) => request,
            Offered::Failed(refusal) => return Err(refusal),
        };
        tried.push(instance.id);
    }
    Err(Refusal::Unreachable)
}

/// What decides which instance a request goes to, and whether it waits for one.
struct Sought<'a> {
    host: &'a Host,
    wish: Option<Wish>,
    request: &'a Request<RequestBody>,
    tried: &'a [InstanceId],
}

impl Sought<'_> {
    /// Only where the request was not offered to anybody yet, and does not go past the shares anyway.
    fn may_wait(&self, exchange: &Exchange) -> bool {
        self.tried.is_empty() && exchange.preview().is_none()
    }

    /// Requests that came earlier still wait.
    fn is_behind_others(&self, exchange: &Exchange) -> bool {
        let room = exchange.service().room.as_ref();
        room.is_some_and(|room| room.is_taken()) && self.may_wait(exchange)
    }

    /// What it takes to keep this request's head.
    fn head_bytes(&self) -> usize {
        let headers = self.request.headers().iter();
        let lines: usize = headers.map(|(name, value)| name.as_str().len() + value.len()).sum();
        lines
            + self
                .request
                .uri()
                .path_and_query()
                .map_or(0, |target| target.as_str().len())
    }

    /// Why there is no instance for it.
    fn refusal(&self, exchange: &Exchange) -> Refusal {
        match self.wish {
            _ if !self.tried.is_empty() => Refusal::Unreachable,
            Some(wish) if exchange.service().is_ready() || exchange.preview().is_some() => wish.refusal(),
            _ => Refusal::NoTarget,
        }
    }
}

/// Claims the best instance; `false` when there is none. When the best ones are leaving, the table has just changed:
/// the request is routed again.
fn choose(client: &Client, exchange: &mut Exchange, sought: &Sought<'_>) -> Result<bool, Refusal> {
    for _ in 0..MAX_REROUTES {
        let asked = Asked {
            preview: exchange.preview(),
            wish: sought.wish,
            headers: sought.request.headers(),
            tried: sought.tried,
        };
        let turn = Turn {
            worker: client.worker.index,
            count: client.worker.turn(),
        };
        if let Some(choice) = exchange.service().choose(&asked, turn) {
            exchange.assign(choice, !sought.tried.is_empty());
            return Ok(true);
        }
        if !exchange.service().is_stale() {
            return Ok(false);
        }
        exchange.reroute(route(client, sought.host, sought.request.uri().path())?);
    }
    Ok(false)
}

/// Waits for an instance, where the service says so, and claims it. The seat is to be left as soon as the request is on
/// its way; there is none when the request did not have to wait after all.
async fn wait(client: &Client, exchange: &mut Exchange, sought: &Sought<'_>) -> Result<Option<Seat>, Refusal> {
    let service = exchange.service();
    let waits = sought.is_behind_others(exchange) || (service.hold.is_some() && !service.is_ready());
    let room = service.room.as_ref().filter(|_| waits && sought.may_wait(exchange));
    let Some(room) = room else {
        return Err(sought.refusal(exchange));
    };
    let limit = Duration::from_millis(client.worker.shared.limits.held_ms);
    let longest = service.hold.unwrap_or(limit).min(limit);
    let Some(seat) = room.enter(sought.head_bytes()) else {
        // To overtake those who wait is better than to be refused beside a ready instance.
        return match choose(client, exchange, sought)? {
            true => Ok(None),
            false => Err(Refusal::TooManyHeld),
        };
    };
    client.begin_wait();
    let waited = wait_seated(client, exchange, sought, &seat, longest).await;
    client.end_wait();
    exchange.begin_anew();
    waited.map(|()| Some(seat))
}

/// How often it is looked whether a client whose body is not read has left.
const LOOK_EVERY: Duration = Duration::from_secs(1);

async fn wait_seated(
    client: &Client,
    exchange: &mut Exchange,
    sought: &Sought<'_>,
    seat: &Seat,
    longest: Duration,
) -> Result<(), Refusal> {
    let began = Instant::now();
    let is_unread = !sought.request.body().is_end_stream();
    loop {
        if seat.is_first() {
            exchange.reroute(route(client, sought.host, sought.request.uri().path())?);
            if choose(client, exchange, sought)? {
                return Ok(());
            }
            let service = exchange.service();
            let in_vain = service.hold.is_none() || exchange.preview().is_some();
            if in_vain || (sought.wish.is_some() && service.is_ready()) {
                return Err(sought.refusal(exchange));
            }
        }
        let left = longest.saturating_sub(began.elapsed());
        if seat.is_closed() {
            return Err(Refusal::NoTarget);
        }
        if left.is_zero() {
            return Err(Refusal::HeldTooLong);
        }
        if is_unread && client.has_left() {
            return Err(Refusal::ClientLeft);
        }
        // Late or called: in both cases it is looked again.
        let _ = timeout(left.min(LOOK_EVERY), seat.called()).await;
    }
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
    instance: &Arc<Instance>,
    seat: &mut Option<Seat>,
    mut request: Request<RequestBody>,
) -> Offered {
    for attempt in 0..=MAX_STALE {
        let kept = if attempt < MAX_STALE {
            client.worker.upstreams.take(instance)
        } else {
            None
        };
        let is_new = kept.is_none();
        let mut upstream = match kept {
            Some(upstream) => upstream,
            None => match in_turn(seat, upstream::connect(instance, &client.worker)).await {
                Ok(upstream) => upstream,
                Err(error) => {
                    tracing::debug!(instance.id = %instance.id, error = %error, "cannot connect");
                    return Offered::Untouched(request);
                }
            },
        };
        let sent = upstream.send(request);
        if let Some(seat) = seat.take() {
            // The connection's task has been woken to write it, and runs before this one: tasks take turns. Then whoever
            // waits behind may follow.
            spawn_local(async move { drop(seat) });
        }
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

/// How long those who wait behind a request wait for its connection, before they are let past.
const LONGEST_TURN: Duration = Duration::from_millis(20);

/// Does something that those who wait behind are to wait for, but not for long.
async fn in_turn<T>(seat: &mut Option<Seat>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if seat.is_some() {
        if let Ok(done) = timeout(LONGEST_TURN, &mut work).await {
            return done;
        }
        drop(seat.take());
    }
    work.await
}

/// Turns an instance's answer into ours.
fn conclude(
    client: &Rc<Client>,
    mut exchange: Exchange,
    upstream: Upstream,
    response: Response<Incoming>,
    asked_to_upgrade: bool,
) -> Response<AnswerBody> {
    let (mut parts, body) = response.into_parts();
    exchange.observe_answer(parts.status);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let protocol = headers::upgrade(&parts.headers);
    headers::strip_hop_by_hop(&mut parts.headers);
    if let Some(cookie) = exchange.introduction() {
        parts.headers.append(SET_COOKIE, cookie);
    }
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        let body = AppBody::new(body, parts.status, upstream, exchange);
        return Response::from_parts(parts, AnswerBody::app(body, Rc::clone(client)));
    }
    let Some(protocol) = protocol.filter(|_| asked_to_upgrade) else {
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
