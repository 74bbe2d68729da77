//! Listeners: TCP for everybody, the control socket for whoever owns the data directory.

mod connections;
mod impatient;
mod tcp;
mod unix;

use tokio::sync::watch;

pub use tcp::serve;
pub use unix::{ControlSocket, SocketError, serve_unix};

/// Becomes true when the server shall end: it stops accepting, finishes what is in flight within
/// [`crate::limits::SHUTDOWN_GRACE`], and returns.
pub type Shutdown = watch::Receiver<bool>;

/// Resolves when the server shall end. A sender that was dropped means the same.
async fn asked_to_end(shutdown: &mut Shutdown) {
    // Either way there is nobody left to wait for.
    let _ = shutdown.wait_for(|end| *end).await;
}
