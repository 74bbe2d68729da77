//! Processes that must be recognised again after a restart of the control plane.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

/// Processes of a container that are asked to end; those beyond it are killed with the first one.
const DESCENDANTS_MAX: usize = 4096;

/// A process for good: its id alone is given to another one sooner or later, id and start time in one boot are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`, clock ticks since boot.
    pub start_ticks: u64,
    pub boot_id: String,
}

impl ProcessRef {
    /// # Errors
    /// The process is gone, or `/proc` is not to be had.
    pub fn of(pid: i32) -> io::Result<ProcessRef> {
        Ok(ProcessRef {
            pid,
            start_ticks: start_ticks(pid)?,
            boot_id: boot_id()?,
        })
    }

    /// A handle on the process, if it still is the same one (it may be a zombie).
    ///
    /// # Errors
    /// Anything but "it is gone": then nothing is known, and nothing must be concluded (invariant 20).
    pub fn open(&self) -> io::Result<Option<PidFd>> {
        if boot_id()? != self.boot_id {
            return Ok(None);
        }
        let Some(pidfd) = PidFd::open(self.pid)? else {
            return Ok(None);
        };
        // Opened first and compared then: once open, the handle cannot move on to another process.
        match start_ticks(self.pid) {
            Ok(ticks) if ticks == self.start_ticks => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A handle on one process. Readable (poll) once the process has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// `None` when there is no such process.
    pub fn open(pid: i32) -> io::Result<Option<PidFd>> {
        // SAFETY: a system call without pointers; the result is checked before it becomes an owned descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd >= 0 {
            // SAFETY: a fresh descriptor that nobody else owns. The kernel opens pidfds close-on-exec.
            return Ok(Some(PidFd(unsafe { OwnedFd::from_raw_fd(fd as i32) })));
        }
        let error = io::Error::last_os_error();
        if is_gone(&error) { Ok(None) } else { Err(error) }
    }

    /// Sends a signal; sending one to a process that has ended is no error.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: no pointer but a null `siginfo`, which the call allows.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if is_gone(&error) { Ok(()) } else { Err(error) }
    }

    /// Waits until the process has ended, at most so long. Blocks the thread.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    pub fn into_owned_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a process would do something with a signal other than what the kernel does by default.
///
/// The first process of a PID namespace does not even get a signal whose default action it kept. So a program that
/// would end at once on SIGTERM anywhere else ignores it as a container's first process, for no reason of its own.
pub fn handles_signal(pid: i32, signal: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    let bit = 1u64 << (signal - 1).clamp(0, 63);
    ["SigCgt:", "SigIgn:", "SigBlk:"].iter().any(|field| {
        let mask = status.lines().find_map(|line| line.strip_prefix(field));
        mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .is_some_and(|mask| mask & bit != 0)
    })
}

/// Handles on the processes that a container's first process and its offspring started; orphans are its own again.
pub fn descendants(init: i32) -> Vec<PidFd> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(own) = namespace(init) else { return Vec::new() };
    let mut found = Vec::new();
    let mut waiting = vec![init];
    while let Some(pid) = waiting.pop() {
        for child in children(pid) {
            // Opened first: what is then found in the right namespace is what the handle is on.
            let Ok(Some(pidfd)) = PidFd::open(child) else { continue };
            if namespace(child).as_ref() == Some(&own) && found.len() < DESCENDANTS_MAX {
                found.push(pidfd);
                waiting.push(child);
            }
        }
    }
    found
}

fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

fn start_ticks(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name (field 2) is in parentheses and may hold anything, parentheses and spaces included.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let field = after_name.split_whitespace().nth(22 - 3);
    field.and_then(|text| text.parse().ok()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("/proc/{pid}/stat has an unknown form"),
        )
    })
}

pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_recognised_until_it_is_gone() {
        let mut child = Command::new("/bin/sleep").arg("60").spawn().expect("sleep");
        let reference = ProcessRef::of(child.id() as i32).expect("alive");
        let pidfd = reference.open().expect("readable").expect("the same process");
        assert!(!pidfd.wait(Duration::ZERO).expect("poll"));
        pidfd.signal(libc::SIGKILL).expect("signal");
        assert!(pidfd.wait(Duration::from_secs(5)).expect("poll"));
        child.wait().expect("reaped");
        assert!(reference.open().expect("readable").is_none());
        pidfd
            .signal(libc::SIGKILL)
            .expect("signalling what has ended is no error");
    }

    #[test]
    fn another_process_with_the_same_id_is_not_the_same_process() {
        let me = ProcessRef::of(std::process::id() as i32).expect("me");
        assert!(me.open().expect("readable").is_some());
        let earlier = ProcessRef {
            start_ticks: me.start_ticks - 1,
            ..me.clone()
        };
        assert!(earlier.open().expect("readable").is_none());
        let last_boot = ProcessRef {
            boot_id: "another".to_owned(),
            ..me
        };
        assert!(last_boot.open().expect("readable").is_none());
    }
}
