//! The TCP listener.

use axum::Router;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::connections::Connections;
use super::{Shutdown, asked_to_end};
use crate::limits::ACCEPT_RETRY;

/// Serves until asked to end, then finishes what is in flight.
///
/// # Guarantees
/// At most [`crate::limits::CONNECTIONS_MAX`] connections at once; heads are bounded in time, size and number of
/// fields; a failing accept never ends the server.
pub async fn serve(listener: TcpListener, router: Router, mut shutdown: Shutdown) {
    let mut connections = Connections::new(router, shutdown.clone(), false);
    loop {
        let Some(permit) = connections.room().await else {
            break;
        };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Small answers must not wait for a full segment. A peer that is gone already is noticed later.
                    let _ = stream.set_nodelay(true);
                    connections.open(stream, permit);
                }
                Err(error) => {
                    tracing::warn!(error = %error, "cannot accept a connection");
                    sleep(ACCEPT_RETRY).await;
                }
            },
            () = asked_to_end(&mut shutdown) => break,
        }
    }
    drop(listener);
    connections.finish().await;
}
