//! What the edge gives up before it serves strangers.

use std::io;
use std::os::fd::RawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Lets the process have as many descriptors as it is allowed at all: two for every proxied connection.
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(error = %error, limit = soft, "the limit of open descriptors stays as it is");
    }
}

/// Closes every descriptor but the standard three and `sorted`.
pub fn close_all_but(sorted: &[RawFd]) -> io::Result<()> {
    let mut first: u32 = 3;
    for fd in sorted {
        let fd = u32::try_from(*fd).map_err(io::Error::other)?;
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: takes numbers only. The caller owns none of these descriptors by a Rust object: it has just begun.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Becomes `user` (where there is one and it is another), drops every capability, and makes sure that none comes back.
///
/// # Errors
/// When a step is refused. The process must end then: it has more rights than it should serve with.
pub fn give_up(user: Option<(u32, u32)>) -> io::Result<()> {
    if let Some((uid, gid)) = user
        && (uid, gid) != (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
    {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    drop_capabilities()
}

fn drop_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Set {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let none = [const {
        Set {
            effective: 0,
            permitted: 0,
            inheritable: 0,
        }
    }; 2];
    // SAFETY: both pointers are to live values of the layout that version 3 of the call reads.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
