//! The control socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};

use axum::Router;
use tokio::net::UnixListener;
use tokio::time::sleep;

use super::connections::Connections;
use super::{Shutdown, asked_to_end};
use crate::limits::ACCEPT_RETRY;

/// Longest path that fits into a socket's address.
const PATH_BYTES_MAX: usize = 107;
const ROOT_UID: u32 = 0;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("the path {path} is longer than {PATH_BYTES_MAX} bytes; choose a shorter --data-dir")]
    PathTooLong { path: PathBuf },
    #[error("others may enter {directory}; run `chmod 700 {directory}`")]
    OpenDirectory { directory: PathBuf },
    #[error("a server answers on {path} already; stop it first")]
    InUse { path: PathBuf },
    #[error("cannot make the control socket {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A control socket that takes connections already; they wait until it is served.
pub struct ControlSocket {
    listener: UnixListener,
    owner_uid: u32,
    path: PathBuf,
}

/// Makes the control socket and serves it until asked to end.
///
/// # Errors
/// See [`ControlSocket::bind`].
pub async fn serve_unix(path: &Path, router: Router, shutdown: Shutdown) -> Result<(), SocketError> {
    ControlSocket::bind(path)?.serve(router, shutdown).await;
    Ok(())
}

impl ControlSocket {
    /// Makes the socket, mode 0600, in a directory that nobody else may enter. One that nobody answers on is replaced.
    ///
    /// # Errors
    /// When the socket cannot be made as described.
    pub fn bind(path: &Path) -> Result<ControlSocket, SocketError> {
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(SocketError::PathTooLong { path: path.to_owned() });
        }
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        if fs::metadata(directory).map_err(failed)?.mode() & 0o077 != 0 {
            return Err(SocketError::OpenDirectory {
                directory: directory.to_owned(),
            });
        }
        make_way(path)
            .map_err(failed)?
            .then_some(())
            .ok_or_else(|| SocketError::InUse { path: path.to_owned() })?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(ControlSocket {
            listener,
            owner_uid: fs::metadata(path).map_err(failed)?.uid(),
            path: path.to_owned(),
        })
    }

    /// Serves until asked to end. Each request carries [`crate::LocalOperator`].
    ///
    /// # Guarantees
    /// The kernel's word (`SO_PEERCRED`) is asked for each connection: the peer is the owner of the socket or root.
    pub async fn serve(self, router: Router, mut shutdown: Shutdown) {
        let mut connections = Connections::new(router, shutdown.clone(), true);
        loop {
            let Some(permit) = connections.room().await else {
                break;
            };
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => match stream.peer_cred() {
                        Ok(peer) if [self.owner_uid, ROOT_UID].contains(&peer.uid()) => connections.open(stream, permit),
                        Ok(peer) => tracing::warn!(peer.uid = peer.uid(), "a stranger at the control socket was refused"),
                        Err(error) => tracing::warn!(error = %error, "a nameless peer at the control socket was refused"),
                    },
                    Err(error) => {
                        tracing::warn!(error = %error, "cannot accept on the control socket");
                        sleep(ACCEPT_RETRY).await;
                    }
                },
                () = asked_to_end(&mut shutdown) => break,
            }
        }
        drop(self.listener);
        // Somebody may have removed it before us.
        let _ = fs::remove_file(&self.path);
        connections.finish().await;
    }
}

/// Removes a socket that a server left behind. `false`: one still answers on it.
fn make_way(path: &Path) -> io::Result<bool> {
    match BlockingStream::connect(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map(|()| true),
        Err(error) => Err(error),
    }
}
