//! One connection, and all of them at the end.

use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tower::ServiceExt;

use super::impatient::Impatient;
use super::{Shutdown, asked_to_end};
use crate::LocalOperator;
use crate::limits::{CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_TIMEOUT, SHUTDOWN_GRACE};

/// The connections of one listener.
pub struct Connections {
    router: Router,
    permits: Arc<Semaphore>,
    shutdown: Shutdown,
    /// Whether the peers have been found to own the data directory.
    local: bool,
}

impl Connections {
    pub fn new(router: Router, shutdown: Shutdown, local: bool) -> Self {
        Connections {
            router,
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            shutdown,
            local,
        }
    }

    /// Waits until there is room for one more. `None`: the server shall end.
    pub async fn room(&mut self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = asked_to_end(&mut self.shutdown) => None,
            // The semaphore is never closed; were it, nothing more would be accepted.
            permit = self.permits.clone().acquire_owned() => permit.ok(),
        }
    }

    /// Serves one connection in a task of its own.
    pub fn open<I>(&self, io: I, permit: OwnedSemaphorePermit)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router.clone();
        let mut shutdown = self.shutdown.clone();
        let local = self.local;
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            if local {
                request.extensions_mut().insert(LocalOperator);
            }
            router.clone().oneshot(request)
        });
        tokio::spawn(async move {
            let _room = permit;
            // The number of header fields is bounded by hyper's default of 100; setting it would cost an allocation
            // for each request.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_header_size(HEAD_BYTES_MAX)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(Impatient::new(io)), service);
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = asked_to_end(&mut shutdown) => {
                    connection.as_mut().graceful_shutdown();
                    connection.as_mut().await
                }
            };
            if let Err(error) = ended {
                // Peers that break off or talk nonsense are everyday life.
                tracing::debug!(error = %error, "connection ended badly");
            }
        });
    }

    /// Waits until every connection has ended, or for [`SHUTDOWN_GRACE`].
    pub async fn finish(self) {
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        if timeout(SHUTDOWN_GRACE, self.permits.acquire_many(all)).await.is_err() {
            let open = CONNECTIONS_MAX - self.permits.available_permits();
            tracing::warn!(connections.open = open, "requests in flight were cut off at shutdown");
        }
    }
}
