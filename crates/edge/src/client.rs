//! One client's connection: its deadlines, its signals and the task that serves it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{BorrowedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use domain::InstanceId;
use http::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::TcpStream;

use crate::client_io::ClientIo;
use crate::head_guard::HeadGuard;
use crate::headers::{Forwarding, Scheme};
use crate::pages::Refusal;
use crate::upgrade::Upgrade;
use crate::worker::Worker;

/// The number of header lines that hyper takes unless told otherwise. Told nothing, it needs no allocation for them.
const HYPER_HEAD_LINES: usize = 100;

/// Which rules apply to what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Strangers' traffic, routed by host and path.
    Public,
    /// Instances on their own network, routed by the caller's project and `<service>.hob.internal`.
    Internal,
}

/// A listener and the rules for what comes in by it.
pub struct Entrance {
    pub listener: TcpListener,
    pub side: Side,
    pub scheme: Scheme,
    /// The listener's port, for `X-Forwarded-Port`.
    pub port: HeaderValue,
}

impl Entrance {
    /// Another handle of the same socket, so that every worker accepts from one queue.
    pub fn try_clone(&self) -> std::io::Result<Entrance> {
        Ok(Entrance {
            listener: self.listener.try_clone()?,
            side: self.side,
            scheme: self.scheme,
            port: self.port.clone(),
        })
    }
}

/// What somebody wants of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Signal {
    #[default]
    None,
    /// Its buffers may be freed until something comes in.
    Park,
    /// Its request has waited for the app for too long.
    Expire,
    /// No request after this one.
    Drain,
    /// End it now; whatever is under way has failed by Hob.
    Cut,
    /// End it now; the client is at fault.
    Close,
}

/// What the connection is doing, for its deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between requests.
    Idle,
    /// As `Idle`, with its buffers freed.
    Parked,
    /// A request's head has begun to come in.
    Head,
    /// A request waits for a target. Its own deadline ends it.
    Held,
    /// A request is being served.
    Serving,
    Upgraded,
}

/// A client's connection, as its own task, its request and its worker's ticker see it.
pub struct Client {
    pub worker: Rc<Worker>,
    pub side: Side,
    pub peer: IpAddr,
    socket: RawFd,
    pub forwarding: Forwarding,
    /// Boxed, since few connections ever have one.
    pub upgrade: RefCell<Option<Box<Upgrade>>>,
    head_guard: RefCell<HeadGuard>,
    /// The app was silent for too long; whoever waits for it gives up.
    expired: Cell<bool>,
    was_cut: Cell<bool>,
    phase: Cell<Phase>,
    /// When the phase began, or the last byte of it moved.
    since: Cell<u64>,
    write_blocked_since: Cell<Option<u64>>,
    awaits_client: Cell<bool>,
    instance: Cell<Option<InstanceId>>,
    /// What was wrong with the body of the current request.
    fault: Cell<Option<Refusal>>,
    signal: Cell<Signal>,
    waker: RefCell<Option<Waker>>,
}

impl Client {
    /// `socket` is the connection's, whose owner is the task that serves it.
    pub fn new(worker: Rc<Worker>, entrance: &Entrance, peer: IpAddr, socket: RawFd) -> Self {
        let now = worker.now();
        Client {
            forwarding: Forwarding::new(peer, entrance.scheme, &entrance.port),
            worker,
            socket,
            side: entrance.side,
            peer,
            upgrade: RefCell::default(),
            head_guard: RefCell::default(),
            expired: Cell::new(false),
            was_cut: Cell::new(false),
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            write_blocked_since: Cell::new(None),
            awaits_client: Cell::new(false),
            instance: Cell::new(None),
            fault: Cell::new(None),
            signal: Cell::default(),
            waker: RefCell::default(),
        }
    }

    /// The instance that the current request is with.
    pub fn instance(&self) -> Option<InstanceId> {
        self.instance.get()
    }

    pub fn set_instance(&self, instance: InstanceId) {
        self.instance.set(Some(instance));
    }

    /// The edge itself ended the request that is under way.
    pub fn was_cut(&self) -> bool {
        self.was_cut.get()
    }

    /// Whether the request that waits for its app is to give up.
    pub fn has_expired(&self) -> bool {
        self.expired.get()
    }

    /// A request's head is complete.
    pub fn begin_request(&self) {
        self.enter(Phase::Serving);
        self.awaits_client.set(false);
        self.fault.set(None);
    }

    /// The request waits for a target.
    pub fn begin_wait(&self) {
        self.enter(Phase::Held);
    }

    pub fn end_wait(&self) {
        self.enter(Phase::Serving);
    }

    /// Whether the client has closed its end. For times at which nobody reads from it; only while its connection is
    /// served.
    pub fn has_left(&self) -> bool {
        // SAFETY: a request is being served, so that hyper has the socket, which is open.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket) };
        let mut polled = [PollFd::new(socket, PollFlags::from_bits_retain(libc::POLLRDHUP))];
        poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// What the client has done wrong in the middle of its request, for which nobody else is to be blamed.
    pub fn fault(&self) -> Option<Refusal> {
        self.fault.get()
    }

    pub fn set_fault(&self, fault: Refusal) {
        self.fault.set(Some(fault));
    }

    /// The answer is complete, or nobody will read it.
    pub fn end_request(&self) {
        self.enter(Phase::Idle);
        self.awaits_client.set(false);
        if self.upgrade.borrow().is_none() {
            self.instance.set(None);
        }
    }

    /// Whether the next byte is the client's to send.
    pub fn set_awaits_client(&self, awaits: bool) {
        self.awaits_client.set(awaits);
        self.stamp();
    }

    /// A byte moved.
    pub fn stamp(&self) {
        self.since.set(self.worker.now());
    }

    /// Bytes came in.
    pub fn on_read(&self, bytes: &[u8]) {
        match self.phase.get() {
            Phase::Idle => {
                self.enter(Phase::Head);
                let mut guard = self.head_guard.borrow_mut();
                guard.begin();
                guard.read(bytes);
            }
            // The deadline of a head runs from its first byte.
            Phase::Head => self.head_guard.borrow_mut().read(bytes),
            Phase::Parked | Phase::Held | Phase::Serving | Phase::Upgraded => self.stamp(),
        }
    }

    /// Whether the request's head was one that others may read otherwise.
    pub fn has_bad_head(&self) -> bool {
        self.head_guard.borrow().is_bad()
    }

    /// Bytes went out, or could not.
    pub fn on_write(&self, blocked: bool) {
        if !blocked {
            self.write_blocked_since.set(None);
            self.stamp();
        } else if self.write_blocked_since.get().is_none() {
            self.write_blocked_since.set(Some(self.worker.now()));
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.stamp();
    }

    /// What the ticker should signal now, if anything.
    pub fn due(&self, now: u64) -> Option<Signal> {
        let limits = &self.worker.shared.limits;
        let over = |since: u64, limit: u64| now.saturating_sub(since) >= limit;
        let since = self.since.get();
        if let Some(blocked) = self.write_blocked_since.get() {
            return over(blocked, limits.client_write_ms).then_some(Signal::Close);
        }
        let close = |limit| over(since, limit).then_some(Signal::Close);
        match self.phase.get() {
            Phase::Idle if over(since, limits.keep_alive_ms) => Some(Signal::Close),
            Phase::Idle => over(since, limits.tick_ms).then_some(Signal::Park),
            Phase::Parked => close(limits.keep_alive_ms),
            Phase::Head => close(limits.head_ms),
            Phase::Held => None,
            Phase::Serving if self.awaits_client.get() => close(limits.client_body_ms),
            Phase::Serving => over(since, limits.app_silence_ms).then_some(Signal::Expire),
            Phase::Upgraded => close(limits.upgraded_ms),
        }
    }

    /// Leaves a signal and wakes the connection's task. A stronger one is never replaced by a weaker one.
    pub fn signal(&self, signal: Signal) {
        if signal == Signal::Expire {
            self.expired.set(true);
        } else if (signal as u8) > (self.signal.get() as u8) {
            self.signal.set(signal);
        }
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Takes the signal; the task of `cx` is the one that the next signal wakes.
    pub fn poll_signal(&self, cx: &Context<'_>) -> Signal {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        let signal = self.signal.take();
        self.was_cut.set(self.was_cut.get() || signal == Signal::Cut);
        signal
    }
}

/// Why a spell of serving a connection ended.
enum Ended {
    /// Finished, failed or cut: nothing is left to do with it.
    Over,
    Upgraded,
    Parked,
}

/// Serves a connection to its end.
///
/// # Expected flow
/// Hyper serves requests. When the connection has been idle for a tick, hyper's state and buffers are taken down and
/// only the socket is kept, until it becomes readable; this is what makes idle connections cheap. After an answer of
/// 101 the socket is taken from hyper too and joined with the instance's.
pub async fn serve(stream: TcpStream, client: Rc<Client>) {
    let mut io = ClientIo::new(stream, Rc::clone(&client), Bytes::new());
    let mut draining = false;
    loop {
        // Boxed, as hyper's state is large: it is given back while the connection is parked.
        let (ended, back, read_ahead) = Box::pin(serve_spell(io, &client, &mut draining)).await;
        io = back;
        match ended {
            Ended::Over => return,
            Ended::Upgraded => {
                let upgrade = client.upgrade.borrow_mut().take();
                client.enter(Phase::Upgraded);
                if let Some(upgrade) = upgrade {
                    Box::pin(upgrade.run(io, read_ahead, &client)).await;
                }
                return;
            }
            Ended::Parked if read_ahead.is_empty() => {
                // Even empty it holds the buffer that it was cut from.
                drop(read_ahead);
                if draining || !wait_parked(&io, &client).await {
                    return;
                }
            }
            Ended::Parked => io.rewind(read_ahead),
        }
    }
}

/// Lets hyper serve until the end, an upgrade, or [`Signal::Park`].
async fn serve_spell(io: ClientIo, client: &Rc<Client>, draining: &mut bool) -> (Ended, ClientIo, Bytes) {
    let limits = &client.worker.shared.limits;
    let service = service_fn(|request| crate::forward::answer(Rc::clone(client), request));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_buf_size(limits.head_bytes.max(8192)).keep_alive(!*draining);
    if limits.head_lines != HYPER_HEAD_LINES {
        builder.max_headers(limits.head_lines);
    }
    let mut conn = builder.serve_connection(TokioIo::new(io), service);
    let ended = poll_fn(|cx| {
        match client.poll_signal(cx) {
            Signal::Cut | Signal::Close => return Poll::Ready(Ended::Over),
            Signal::Park if client.phase.get() == Phase::Idle => return Poll::Ready(Ended::Parked),
            Signal::Drain => {
                *draining = true;
                if client.phase.get() == Phase::Idle {
                    return Poll::Ready(Ended::Over);
                }
                Pin::new(&mut conn).graceful_shutdown();
            }
            Signal::None | Signal::Park | Signal::Expire => {}
        }
        Pin::new(&mut conn).poll(cx).map(|result| match result {
            Ok(()) if client.upgrade.borrow().is_some() => Ended::Upgraded,
            Ok(()) => Ended::Over,
            Err(error) => {
                tracing::debug!(client.address = %client.peer, error = %error, "connection ended early");
                Ended::Over
            }
        })
    });
    let ended = ended.await;
    let parts = conn.into_parts();
    (ended, parts.io.into_inner(), parts.read_buf)
}

/// Waits until a parked connection has something to read. Says no when it is to be closed instead.
async fn wait_parked(io: &ClientIo, client: &Client) -> bool {
    client.phase.set(Phase::Parked);
    client.worker.count_parked();
    // Small things that were made between large buffers keep the pages of those from being given back.
    client.forwarding.forget();
    client.head_guard.take();
    let readable = poll_fn(|cx| match client.poll_signal(cx) {
        Signal::Cut | Signal::Close | Signal::Drain => Poll::Ready(false),
        Signal::None | Signal::Park | Signal::Expire => io.poll_readable(cx).map(|result| result.is_ok()),
    });
    let readable = readable.await;
    client.enter(Phase::Idle);
    readable
}
