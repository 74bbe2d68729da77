//! The process that owns one container: `hob shim --dir <data-dir>/instances/<id>`.
//!
//! # Expected flow
//! The control plane starts it with an order on standard input. It locks the instance's directory, leaves a child
//! behind that is nobody's (own session, no terminal, no parent that matters), and ends; its exit status says whether
//! the child took the instance on. The child makes the container, follows its output and its end, writes down how it
//! ended, and ends too.
//!
//! # Guarantees
//! - Nothing of it depends on the control plane's life: no shared memory, no socket, no parent.
//! - Mounts and the network device of the instance live in namespaces of the shim and the container. When both are
//!   gone, however they went, the kernel has removed them.
//! - When the shim is killed, the kernel kills the container ([`program`]).
//! - The container inherits nothing of the control plane: no descriptor, environment, mask or protection.
//! - Single-threaded throughout; it waits in one blocking `poll` and wakes for nothing but output and the end.
//!
//! # Assumptions
//! Whoever supervises the control plane ends that process alone: under systemd `KillMode=process`, or it ends every
//! shim, and so every container, with the control plane.
//! Called first thing in `main`, before any thread exists: it forks.

mod bundle;
mod container;
mod files;
mod groups;
mod network;
mod output;
mod profile;
mod program;
mod root;
mod user;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::Flock;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::cgroup;
use super::home::{Home, Running};
use super::launch::{LaunchOrder, ORDER_MAX};
use super::log::{FILE_MAX, LogWriter};
use super::process::ProcessRef;
use crate::Exit;
pub use container::write_bundle;
pub use network::hob_namespace_of;
use output::Output;

/// A container that does not run after so long never will; the shim then ends itself and the container with it.
const CREATE_LIMIT_S: u32 = 60;

const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Exit status: another shim has this instance.
pub const EXIT_TAKEN: u8 = 3;

/// Why a container could not be started, in a user's words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl StartError {
    fn new(what: &str, error: impl std::fmt::Display) -> StartError {
        StartError(format!("{what}: {error}"))
    }
}

/// The role `shim` of the binary. `args` are those behind the role's name.
pub fn shim_main(args: Vec<OsString>) -> ExitCode {
    match take_on(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hob shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn take_on(args: Vec<OsString>) -> io::Result<ExitCode> {
    let home = Home::new(directory_argument(args)?);
    inherit_nothing();
    let Some(lock) = lock_patiently(&home)? else {
        return Ok(ExitCode::from(EXIT_TAKEN));
    };
    let order = read_order()?;
    // SAFETY: the process has one thread, see the assumption of this module.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            if let Ok(shim) = ProcessRef::of(child.as_raw()) {
                home.write_shim(&shim)?;
            }
            // The child shares the lock. It is not freed by letting go of this half of it.
            std::mem::forget(lock);
            Ok(ExitCode::SUCCESS)
        }
        ForkResult::Child => {
            detach()?;
            let exit = supervise(&home, order);
            let written = home.write_exit(&exit);
            drop(lock);
            Ok(if written.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

/// Whatever the control plane leaves open, has masked, or was given by its own supervisor must not reach a container.
fn inherit_nothing() {
    // SAFETY: nothing in this process has opened a descriptor yet; the other calls have no preconditions.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        libc::umask(0o022);
    }
    // A server is often protected from the kernel's out-of-memory killer; its tenants are not. Raising needs no right.
    let score = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if score.trim().parse::<i32>().is_ok_and(|score| score < 0) {
        let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    }
}

/// Whoever looks whether there is a shim holds the lock for a moment.
fn lock_patiently(home: &Home) -> io::Result<Option<Flock<File>>> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = home.lock()? {
            return Ok(Some(lock));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(None)
}

fn directory_argument(args: Vec<OsString>) -> io::Result<PathBuf> {
    let mut args = args.into_iter();
    match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(dir), None) if flag == "--dir" => Ok(dir.into()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "usage: hob shim --dir DIR (started by `hob up`)",
        )),
    }
}

fn read_order() -> io::Result<LaunchOrder> {
    let mut bytes = Vec::new();
    io::stdin().take(ORDER_MAX).read_to_end(&mut bytes)?;
    let order = serde_json::from_slice(&bytes);
    bytes.fill(0);
    // The error's text could quote the order, and the order holds secrets.
    order.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the order was cut short"))
}

fn detach() -> io::Result<()> {
    setsid()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    std::env::set_current_dir("/")?;
    // SAFETY: a constant string with its terminator; the others are plain numbers.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"hob-shim".as_ptr()) };
    Ok(())
}

/// From order to exit status.
fn supervise(home: &Home, order: LaunchOrder) -> Exit {
    let cgroup = order.cgroup.clone();
    let mut output = match LogWriter::open(home.path(), FILE_MAX) {
        Ok(log) => Output::new(log),
        Err(error) => return failed(home, &StartError::new("cannot write its log", error)),
    };
    // SAFETY: `alarm` has no preconditions. The default action of the signal is what is wanted.
    unsafe { libc::alarm(CREATE_LIMIT_S) };
    let started = container::start(home, order, &mut output);
    unsafe { libc::alarm(0) };
    let exit = match started {
        Ok(init) => follow(home, init, output),
        Err(error) => {
            container::clear_up(home);
            Exit {
                tail: output.into_tail(),
                ..failed(home, &error)
            }
        }
    };
    let out_of_memory = cgroup.as_deref().is_some_and(cgroup::killed_for_memory);
    let memory_peak = cgroup.as_deref().and_then(cgroup::memory_peak);
    if let Some(cgroup) = &cgroup {
        cgroup::remove(cgroup);
    }
    // Only a kill can be the kernel's doing: a program that caught an allocation failure and left by itself was not.
    Exit {
        memory_peak,
        out_of_memory: out_of_memory && (exit.signal == Some(libc::SIGKILL) || exit.code == Some(137)),
        ..exit
    }
}

fn failed(home: &Home, error: &StartError) -> Exit {
    Exit {
        start_error: Some(error.0.clone()),
        asked: home.stop_was_asked(),
        at_us: now_us(),
        ..Exit::default()
    }
}

/// Follows a running container to its end.
fn follow(home: &Home, init: Pid, mut output: Output) -> Exit {
    if let Ok(process) = ProcessRef::of(init.as_raw()) {
        // Without this file the instance looks as if it never came to run. It is still followed and stopped.
        let _ = home.write_running(&Running {
            init: process,
            started_at_us: now_us(),
        });
    }
    container::clear_up(home);
    release_memory();
    let status = output.follow(init);
    Exit {
        code: status.code,
        signal: status.signal,
        asked: home.stop_was_asked(),
        at_us: now_us(),
        tail: output.into_tail(),
        ..Exit::default()
    }
}

/// Gives what the start needed back to the system: there are many shims, and they live long.
fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
