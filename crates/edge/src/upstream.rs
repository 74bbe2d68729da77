//! Connections to instances: made when needed, kept a few seconds for the next request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::InstanceId;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::body::RequestBody;
use crate::instance::Instance;
use crate::joined::Joined;
use crate::worker::Worker;

/// The socket of an upstream connection after hyper is done with it, with what was read ahead.
pub type Raw = (TcpStream, Bytes);

/// A connection to one instance that takes one request at a time.
pub struct Upstream {
    sender: SendRequest<RequestBody>,
    pub instance: Arc<Instance>,
    /// Yields the socket once hyper has let go of it: after an answer of 101.
    raw: oneshot::Receiver<Raw>,
    since: u64,
}

impl Upstream {
    /// Sends a request. On an error that carries the message, not one byte of it has been written.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<> {
        self.sender.try_send_request(request)
    }

    /// The socket after an answer of 101, once hyper has let go of it.
    pub async fn into_raw(self) -> Option<Raw> {
        self.raw.await.ok()
    }
}

/// Connects to an instance.
///
/// # Errors
/// Refused, unreachable, or not done within the deadline: in each case nothing of a request was sent.
pub async fn connect(instance: &Arc<Instance>, worker: &Worker) -> io::Result<Upstream> {
    let limits = &worker.shared.limits;
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection within the deadline");
    let connecting = unless_it_leaves(instance, TcpStream::connect(instance.address));
    let stream = timeout(limits.connect(), connecting).await.map_err(late)??;
    stream.set_nodelay(true)?;
    let (sender, connection) = Builder::new()
        .max_buf_size(limits.answer_head_bytes.max(8192))
        .handshake(TokioIo::new(Joined(stream)))
        .await
        .map_err(io::Error::other)?;
    let (keep, raw) = oneshot::channel();
    spawn_local(async move {
        let mut connection = connection;
        // Whatever ends a connection is seen by the request that is on it; without one there is nobody to tell.
        let _ = std::future::poll_fn(|cx| std::pin::Pin::new(&mut connection).poll(cx)).await;
        let parts = connection.into_parts();
        let _ = keep.send((parts.io.into_inner().0, parts.read_buf));
    });
    Ok(Upstream {
        sender,
        instance: Arc::clone(instance),
        raw,
        since: 0,
    })
}

/// How often a connection that hangs looks whether its instance is still in the table.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Gives a connection up that hangs while its instance leaves the table, as those do that were in a table from before a
/// power failure. Nothing of a request was sent, so it may go elsewhere.
async fn unless_it_leaves(
    instance: &Instance,
    connecting: impl Future<Output = io::Result<TcpStream>>,
) -> io::Result<TcpStream> {
    let mut connecting = pin!(connecting);
    loop {
        match timeout(LOOK_EVERY, &mut connecting).await {
            Ok(connected) => return connected,
            Err(_) if instance.is_leaving() => {
                return Err(io::Error::new(
                    io::ErrorKind::NotConnected,
                    "the instance has left the table",
                ));
            }
            Err(_) => {}
        }
    }
}

/// One worker's idle connections.
#[derive(Default)]
pub struct Upstreams {
    idle: RefCell<HashMap<InstanceId, Vec<Upstream>>>,
}

impl Upstreams {
    pub fn new() -> Self {
        Upstreams::default()
    }

    pub fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }

    /// The connection that was used last and can take a request now.
    pub fn take(&self, instance: &Arc<Instance>) -> Option<Upstream> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&instance.id)?;
        // Not ready and not closed: the tail of its last request is still being sent.
        let at = connections
            .iter()
            .rposition(|upstream| upstream.sender.is_ready() && Arc::ptr_eq(&upstream.instance, instance))?;
        Some(connections.swap_remove(at))
    }

    /// Keeps a connection for the next request, unless its instance is leaving or enough are kept.
    pub fn put(&self, mut upstream: Upstream, worker: &Rc<Worker>) {
        if upstream.instance.is_leaving() || upstream.sender.is_closed() {
            return;
        }
        upstream.since = worker.now();
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            worker.wake_ticker();
        }
        let connections = idle.entry(upstream.instance.id).or_default();
        if connections.len() < worker.shared.limits.upstream_idle {
            connections.push(upstream);
        }
    }

    /// Closes what is kept for instances that left the table.
    pub fn drop_leaving(&self) {
        self.retain(|upstream| !upstream.instance.is_leaving());
    }

    /// Closes what has been kept for `limit` ms at `now`.
    pub fn drop_stale(&self, now: u64, limit: u64) {
        self.retain(|upstream| now.saturating_sub(upstream.since) < limit && !upstream.sender.is_closed());
    }

    fn retain(&self, keep: impl Fn(&Upstream) -> bool) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(&keep);
            !connections.is_empty()
        });
    }
}
