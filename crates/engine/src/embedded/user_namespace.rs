//! Containers without root: the whole server in a user namespace, in which it is root over nothing but its own.
//!
//! # Expected flow
//! An ordinary user's `hob up` calls [`enter_user_namespace_if_needed`] before anything else. If shims of an earlier
//! life run, it joins theirs, since only there it has a say over them; else it makes one.
//!
//! # Guarantees
//! Where the user has ranges of subordinate ids (`/etc/subuid`, `/etc/subgid`) and `newuidmap` is installed, images may
//! use any user; else only root, who is the user outside.
//!
//! # Assumptions
//! The process has one thread: the kernel lets no other enter a user namespace.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, User, fork, getegid, geteuid, getpid, pipe, setresgid, setresuid};

use super::home::Home;

/// Programs that map ranges of ids live here.
const HELPER_PATH: &str = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin";

/// What [`enter_user_namespace_if_needed`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserNamespace {
    /// The process is root already.
    NotNeeded,
    /// The process is root in a namespace of its own now; outside it still is this user.
    Entered {
        uid: u32,
        /// Images may use other users than root.
        many_users: bool,
    },
}

/// A range of subordinate ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

/// Makes an ordinary user root of their own namespace. Call it while the process has one thread.
///
/// # Errors
/// The kernel refuses user namespaces to this user. [`super::Embedded::open`] then says what it lacks, so the error may
/// be ignored by whoever goes on to that.
pub fn enter_user_namespace_if_needed(data_dir: &Path) -> io::Result<UserNamespace> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        return Ok(UserNamespace::NotNeeded);
    }
    let many_users = match living_shim(data_dir) {
        Some(shim) => {
            setns(File::open(format!("/proc/{shim}/ns/user"))?, CloneFlags::CLONE_NEWUSER)?;
            fs::read_to_string("/proc/self/uid_map")?.lines().count() > 1
        }
        None => create(uid, gid)?,
    };
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    Ok(UserNamespace::Entered {
        uid: uid.as_raw(),
        many_users,
    })
}

fn living_shim(data_dir: &Path) -> Option<i32> {
    let entries = fs::read_dir(data_dir.join("instances")).ok()?.flatten();
    let shims = entries.filter_map(|entry| Home::new(entry.path()).shim().ok().flatten());
    shims
        .filter(|shim| matches!(shim.open(), Ok(Some(_))))
        .map(|shim| shim.pid)
        .next()
}

/// Answers whether ranges were mapped. They can be mapped only from outside, so a child stays there and waits.
fn create(uid: Uid, gid: Gid) -> io::Result<bool> {
    let ranges = own_range("/etc/subuid", uid).zip(own_range("/etc/subgid", uid));
    let Some((uids, gids)) = ranges else {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        map_only_myself(uid, gid)?;
        return Ok(false);
    };
    let (entered, tell) = pipe()?;
    let me = getpid();
    // SAFETY: one thread, see the assumption of this module.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(tell);
            let mut nothing = [0; 1];
            let told = File::from(entered).read(&mut nothing).is_ok_and(|count| count == 1);
            let mapped = told && map(me, "newuidmap", uid.as_raw(), uids) && map(me, "newgidmap", gid.as_raw(), gids);
            // SAFETY: ends this process without running what belongs to the parent.
            unsafe { libc::_exit(if mapped { 0 } else { 1 }) }
        }
        ForkResult::Parent { child } => {
            drop(entered);
            unshare(CloneFlags::CLONE_NEWUSER)?;
            File::from(tell).write_all(b"x")?;
            if waitpid(child, None)? == WaitStatus::Exited(child, 0) {
                return Ok(true);
            }
            // The helpers are not installed, or refused.
            map_only_myself(uid, gid)?;
            Ok(false)
        }
    }
}

fn map_only_myself(uid: Uid, gid: Gid) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn map(process: Pid, helper: &str, own: u32, range: Range) -> bool {
    let numbers = [0, own, 1, 1, range.first, range.count].map(|number| OsString::from(number.to_string()));
    let mut command = Command::new(helper);
    command
        .arg(process.to_string())
        .args(numbers)
        .env_clear()
        .env("PATH", HELPER_PATH);
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn own_range(file: &str, uid: Uid) -> Option<Range> {
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let text = fs::read_to_string(file).ok()?;
    range_of(&text, name.as_deref(), uid.as_raw())
}

/// The first range of `name:first:count` or `uid:first:count`.
fn range_of(text: &str, name: Option<&str>, uid: u32) -> Option<Range> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, first, count) = (
            fields.next()?,
            fields.next()?.parse().ok()?,
            fields.next()?.parse().ok()?,
        );
        let mine = Some(owner) == name || owner.parse() == Ok(uid);
        (mine && count > 0).then_some(Range { first, count })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "other:100000:65536\n# comment\nme:165536:65536\n1001:231072:65536\nnone:1:0\n";
        assert_eq!(
            range_of(text, Some("me"), 1000),
            Some(Range {
                first: 165_536,
                count: 65_536
            })
        );
        assert_eq!(
            range_of(text, None, 1001),
            Some(Range {
                first: 231_072,
                count: 65_536
            })
        );
        assert_eq!(range_of(text, Some("none"), 7), None);
        assert_eq!(range_of("", Some("me"), 1000), None);
    }
}
