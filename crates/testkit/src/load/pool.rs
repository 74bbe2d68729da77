//! Connections that are used again.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::http1::{self, Connection};

/// Most idle connections.
const IDLE_MAX: usize = 256;
/// An idle connection older than this is not used again: servers may close it at any time, and the race between that
/// and the next request is the client's to avoid.
const IDLE_AGE_MAX: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<(Connection, Instant)>>,
}

impl Pool {
    /// The connection that was used last, or a new one.
    pub(super) async fn take(&self, server: SocketAddr) -> http1::Result<Connection> {
        while let Some((connection, since)) = self.pop() {
            if since.elapsed() < IDLE_AGE_MAX && !connection.is_stale() {
                return Ok(connection);
            }
        }
        Connection::open(server).await
    }

    pub(super) fn give(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == IDLE_MAX {
            idle.remove(0);
        }
        idle.push((connection, Instant::now()));
    }

    fn pop(&self) -> Option<(Connection, Instant)> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}
