//! A network namespace that a file keeps alive.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

/// Whether `path` is a namespace that is kept there.
pub fn is_kept_at(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == NSFS_MAGIC)
}

/// Makes a network namespace and keeps it at `path`, until [`forget`].
pub fn create_at(path: &Path) -> io::Result<()> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        keep(Path::new("/proc/thread-self/ns/net"), path)
    })
}

/// Keeps a namespace that lives somewhere (`/proc/PID/ns/net`, `/proc/PID/fd/N`) at `path` too.
pub fn keep(namespace: &Path, path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    Ok(mount(
        Some(namespace),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?)
}

/// Lets go of it. It ends with the last process in it.
pub fn forget(path: &Path) -> io::Result<()> {
    if is_kept_at(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs `work` inside, on a thread of its own that ends with it: entering is for a whole thread and for good.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    on_own_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("hob-netns".to_owned())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread inside the namespace panicked")))
    })
}
