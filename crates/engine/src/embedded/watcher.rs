//! Wakes whoever waits for changes: when a file of an instance is replaced, and when a shim ends, however it ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

/// Tells of files that were renamed into the directories that are watched.
pub struct Watcher(AsyncFd<Handle>);

struct Handle(Inotify);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watcher {
    pub fn new() -> io::Result<Watcher> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        register(Handle(inotify)).map(Watcher)
    }

    /// The kernel forgets the directory by itself when it is removed.
    pub fn add(&self, dir: &Path) -> io::Result<()> {
        self.0.get_ref().0.add_watch(dir, AddWatchFlags::IN_MOVED_TO)?;
        Ok(())
    }

    /// Waits for something to have changed; several changes may be one.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready_matching(Ready::READABLE),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Waits until a process has ended.
pub async fn ended(pidfd: OwnedFd) -> io::Result<()> {
    let fd = register(pidfd)?;
    let _ = fd.readable().await?;
    Ok(())
}

fn register<T: AsRawFd>(fd: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: both types that are registered here own their descriptor, always answer the same one, and live inside
    // the registration from now on.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}
