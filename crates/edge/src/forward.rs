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

/// How often it is looked whether a client whose body is not read has left.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long those who wait behind a request wait for its connection, before they are let past.
const LONGEST_TURN: Duration = Duration::from_millis(20);

/// Answers one request. Never fails: what goes wrong becomes a page, or breaks off a body that has begun.
pub fn answer(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<AnswerBody>, Infallible>> {
    client.begin_request();
    let accept = pages::accept(request.headers());
    let mut begun = Journey::begin(&client, request);
    // Begun outside and never moved inside: the future holds one request instead of three.
    async move {
        let delivered = match &mut begun {
            Ok(journey) => journey.deliver().await,
            Err(refusal) => Err(*refusal),
        };
        let answered = begun.and_then(|journey| journey.conclude(delivered));
        Ok(answered.unwrap_or_else(|refusal| refusal.answer(accept.as_ref(), client)))
    }
}

/// A request on its way to an instance. In one place for all of the way: it is large, and would be moved at every step.
struct Journey {
    client: Rc<Client>,
    host: Host,
    wish: Option<Wish>,
    exchange: Exchange,
    /// Away while an instance may have it.
    request: Option<Request<RequestBody>>,
    /// Instances that could not be reached.
    tried: Vec<InstanceId>,
    asked_to_upgrade: bool,
}

/// The head of an instance's answer, and the connection on which the rest comes.
type Delivered = (Upstream, Response<Incoming>);

impl Journey {
    /// Checks and routes a request, and makes it ready for the next hop.
    fn begin(client: &Rc<Client>, mut request: Request<Incoming>) -> Result<Journey, Refusal> {
        if client.has_bad_head() {
            return Err(Refusal::Framing);
        }
        let host = request::check(&request)?;
        let found = route(client, &host, request.uri().path())?;
        let exchange = Exchange::new(Rc::clone(client), found);
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
        client.forwarding.apply(request.headers_mut(), host.as_written());
        client.worker.request_ids.borrow_mut().ensure(request.headers_mut());
        request::origin_form(request.uri_mut());
        *request.version_mut() = Version::HTTP_11;
        request.extensions_mut().clear();
        Ok(Journey {
            host,
            wish,
            exchange,
            request: Some(request.map(|body| RequestBody::new(body, Rc::clone(client)))),
            tried: Vec::new(),
            asked_to_upgrade,
            client: Rc::clone(client),
        })
    }

    /// Gets the request to an instance, and the head of its answer back.
    ///
    /// # Guarantees
    /// A request goes to a second instance only when not one byte of it was written to the first: the connection could
    /// not be made, or hyper hands the message back unwritten (invariant 5).
    async fn deliver(&mut self) -> Result<Delivered, Refusal> {
        let mut pending = None;
        for _ in 0..MAX_INSTANCES + MAX_REROUTES {
            let mut seat = None;
            if self.is_behind_others() || !self.choose()? {
                // Boxed, since it is rare and its state would make every connection larger.
                seat = Box::pin(self.wait()).await?;
            }
            if pending.is_none() {
                let entered = Pending::enter(Rc::clone(&self.client));
                pending = Some(entered.inspect_err(|_| self.exchange.release())?);
            }
            let lease = self.exchange.lease().ok_or(Refusal::NoTarget)?;
            let instance = Arc::clone(lease.instance());
            if let Some(delivered) = self.offer(&instance, &mut seat).await? {
                return Ok(delivered);
            }
            // One that has left meanwhile is no failure: what would have happened to a request a moment later happens to
            // this one. It must not wait for this request, which may be held for long.
            if instance.is_leaving() {
                self.exchange.release();
            } else {
                self.tried.push(instance.id);
            }
            if self.tried.len() == MAX_INSTANCES {
                break;
            }
        }
        Err(Refusal::Unreachable)
    }

    /// Claims the best instance; `false` when there is none. When the best ones are leaving, the table has just
    /// changed: the request is routed again.
    fn choose(&mut self) -> Result<bool, Refusal> {
        let request = self.request.as_ref().ok_or(Refusal::Unreachable)?;
        for _ in 0..MAX_REROUTES {
            let asked = Asked {
                preview: self.exchange.preview(),
                wish: self.wish,
                headers: request.headers(),
                tried: &self.tried,
            };
            let turn = Turn {
                worker: self.client.worker.index,
                count: self.client.worker.turn(),
            };
            if let Some(choice) = self.exchange.service().choose(&asked, turn) {
                self.exchange.assign(choice, !self.tried.is_empty());
                return Ok(true);
            }
            if !self.exchange.service().is_stale() {
                return Ok(false);
            }
            self.exchange
                .reroute(route(&self.client, &self.host, request.uri().path())?);
        }
        Ok(false)
    }

    fn reroute(&mut self) -> Result<(), Refusal> {
        let request = self.request.as_ref().ok_or(Refusal::Unreachable)?;
        self.exchange
            .reroute(route(&self.client, &self.host, request.uri().path())?);
        Ok(())
    }

    /// Why there is no instance for it.
    fn refusal(&self) -> Refusal {
        match self.wish {
            _ if !self.tried.is_empty() => Refusal::Unreachable,
            Some(wish) if self.exchange.service().is_ready() || self.exchange.preview().is_some() => wish.refusal(),
            _ => Refusal::NoTarget,
        }
    }

    /// Only where the request was not offered to anybody yet, and does not go past the shares anyway.
    fn may_wait(&self) -> bool {
        self.tried.is_empty() && self.exchange.preview().is_none()
    }

    /// Requests that came earlier still wait.
    fn is_behind_others(&self) -> bool {
        let room = self.exchange.service().room.as_ref();
        room.is_some_and(|room| room.is_taken()) && self.may_wait()
    }

    /// What it takes to keep this request's head.
    fn head_bytes(&self) -> usize {
        self.request.as_ref().map_or(0, |request| {
            let headers = request.headers().iter();
            let lines: usize = headers.map(|(name, value)| name.as_str().len() + value.len()).sum();
            lines + request.uri().path_and_query().map_or(0, |target| target.as_str().len())
        })
    }

    /// Waits for an instance, where the service says so, and claims it. The seat is to be left as soon as the request
    /// is on its way; there is none when the request did not have to wait after all.
    async fn wait(&mut self) -> Result<Option<Seat>, Refusal> {
        let service = self.exchange.service();
        let waits = self.is_behind_others() || (service.hold.is_some() && !service.is_ready());
        let Some(room) = service.room.as_ref().filter(|_| waits && self.may_wait()) else {
            return Err(self.refusal());
        };
        let limit = Duration::from_millis(self.client.worker.shared.limits.held_ms);
        let longest = service.hold.unwrap_or(limit).min(limit);
        let Some(seat) = room.enter(self.head_bytes()) else {
            // To overtake those who wait is better than to be refused beside a ready instance.
            return match self.choose()? {
                true => Ok(None),
                false => Err(Refusal::TooManyHeld),
            };
        };
        self.client.begin_wait();
        let waited = self.wait_seated(&seat, longest).await;
        self.client.end_wait();
        self.exchange.begin_anew();
        waited.map(|()| Some(seat))
    }

    async fn wait_seated(&mut self, seat: &Seat, longest: Duration) -> Result<(), Refusal> {
        let began = Instant::now();
        let is_read = |request: &Request<RequestBody>| request.body().is_end_stream();
        let is_unread = !self.request.as_ref().is_some_and(is_read);
        loop {
            if seat.is_first() {
                self.reroute()?;
                if self.choose()? {
                    return Ok(());
                }
                let service = self.exchange.service();
                let in_vain = service.hold.is_none() || self.exchange.preview().is_some();
                if in_vain || (self.wish.is_some() && service.is_ready()) {
                    return Err(self.refusal());
                }
            }
            let left = longest.saturating_sub(began.elapsed());
            if seat.is_closed() {
                return Err(Refusal::NoTarget);
            }
            if left.is_zero() {
                return Err(Refusal::HeldTooLong);
            }
            if is_unread && self.client.has_left() {
                return Err(Refusal::ClientLeft);
            }
            // Late or called: in both cases it is looked again.
            let _ = timeout(left.min(LOOK_EVERY), seat.called()).await;
        }
    }

    /// Offers the request to one instance, on a kept connection or a new one. `None`: nothing of it was written, and it
    /// may go elsewhere.
    async fn offer(&mut self, instance: &Arc<Instance>, seat: &mut Option<Seat>) -> Result<Option<Delivered>, Refusal> {
        let client = &self.client;
        for attempt in 0..=MAX_STALE {
            let kept = if attempt < MAX_STALE {
                client.worker.upstreams.take(instance)
            } else {
                None
            };
            let is_new = kept.is_none();
            let mut upstream = match kept {
                Some(upstream) => upstream,
                // Boxed, since it is large and most requests go by a kept connection.
                None => match Box::pin(in_turn(seat, upstream::connect(instance, &client.worker))).await {
                    Ok(upstream) => upstream,
                    Err(error) => {
                        tracing::debug!(instance.id = %instance.id, error = %error, "cannot connect");
                        return Ok(None);
                    }
                },
            };
            let sent = upstream.send(self.request.take().ok_or(Refusal::Unreachable)?);
            if let Some(seat) = seat.take() {
                // The connection's task has been woken to write it, and runs before this one: tasks take turns. Then
                // whoever waits behind may follow.
                spawn_local(async move { drop(seat) });
            }
            let mut sent = pin!(sent);
            let answered = poll_fn(|cx| match sent.as_mut().poll(cx) {
                Poll::Pending if client.has_expired() => Poll::Ready(None),
                polled => polled.map(Some),
            });
            let mut error = match answered.await {
                Some(Ok(response)) => return Ok(Some((upstream, response))),
                Some(Err(error)) => error,
                None => return Err(Refusal::Silence),
            };
            self.request = error.take_message();
            if self.request.is_none() {
                tracing::debug!(instance.id = %instance.id, error = %error.error(), "no answer");
                return Err(Refusal::NoAnswer);
            }
            if is_new {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Turns an instance's answer into ours.
    fn conclude(mut self, delivered: Result<Delivered, Refusal>) -> Result<Response<AnswerBody>, Refusal> {
        let (upstream, response) = delivered.map_err(|refusal| self.fail(refusal))?;
        let (mut parts, body) = response.into_parts();
        self.exchange.observe_answer(parts.status);
        parts.version = Version::HTTP_11;
        parts.extensions.clear();
        let protocol = headers::upgrade(&parts.headers);
        headers::strip_hop_by_hop(&mut parts.headers);
        if let Some(cookie) = self.exchange.introduction() {
            parts.headers.append(SET_COOKIE, cookie);
        }
        if parts.status != StatusCode::SWITCHING_PROTOCOLS {
            let body = AppBody::new(body, parts.status, upstream, self.exchange);
            return Ok(Response::from_parts(parts, AnswerBody::app(body, self.client)));
        }
        let Some(protocol) = protocol.filter(|_| self.asked_to_upgrade) else {
            self.exchange.set_outcome(Outcome::FailedByApp);
            return Err(Refusal::NoAnswer);
        };
        headers::set_upgrade(&mut parts.headers, protocol);
        let upgrade = Upgrade {
            upstream,
            exchange: self.exchange,
        };
        *self.client.upgrade.borrow_mut() = Some(Box::new(upgrade));
        Ok(Response::from_parts(parts, AnswerBody::page(b"", self.client)))
    }

    /// A client that spoils its own request is told so, and nobody has failed.
    fn fail(&mut self, refusal: Refusal) -> Refusal {
        self.client.fault().unwrap_or_else(|| {
            if refusal.is_our_failure() {
                self.exchange.set_outcome(Outcome::FailedByHob);
            }
            refusal
        })
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

/// One of the requests that wait for the head of their answer.
struct Pending(Rc<Client>);

impl Pending {
    fn enter(client: Rc<Client>) -> Result<Self, Refusal> {
        let shared = &client.worker.shared;
        let waiting = client.worker.pending.get();
        if waiting >= shared.limits.max_pending.div_ceil(shared.workers) {
            return Err(Refusal::Overloaded);
        }
        client.worker.pending.set(waiting + 1);
        Ok(Pending(client))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.worker.pending.set(self.0.worker.pending.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// It is part of every connection that is not idle, and is moved as a whole when a request begins.
    #[test]
    fn the_future_of_a_request_stays_small() {
        let size = size_of_future(answer);
        assert!(size <= 1_536, "{size} bytes");
    }
}
