//! The last steps inside the container, from "everything is set up" to the program.
//!
//! The environment travels here in memory, never in the bundle's `config.json`, so that no secret is on a disk.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::errno::Errno;
use nix::unistd::{execve, write};

/// What is searched where neither image nor user says.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Directories of `PATH` that are looked into.
const PATH_DIRS_MAX: usize = 64;

/// A program with its arguments and environment.
#[derive(Clone)]
pub struct Program {
    /// At least the program's name.
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub path: String,
    /// Closed by a successful `execve`; else the reason of the failure is written here.
    pub report: Rc<OwnedFd>,
}

impl Executor for Program {
    /// Runs inside, after privileges were dropped (dropping them would undo this).
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        // Without its shim nobody would read the container's output or notice its end.
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    }

    fn setup_envs(&self, _: std::collections::HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let problem = self.run();
        let _ = write(&*self.report, problem.as_bytes());
        Err(ExecutorError::Other(problem))
    }
}

impl Program {
    /// Answers only when the program could not be run: why.
    fn run(&self) -> String {
        default_signals();
        let Some(name) = self.args.first() else {
            return "the image names no program to run; give a command".to_owned();
        };
        let shown = name.to_string_lossy().escape_debug().to_string();
        if name.as_bytes().contains(&b'/') {
            let Err(errno) = execve(name, &self.args, &self.env);
            return explain(&shown, name, errno);
        }
        let mut seen: Option<(CString, Errno)> = None;
        for dir in self.path.split(':').take(PATH_DIRS_MAX) {
            let dir = if dir.is_empty() { "." } else { dir };
            let Ok(candidate) = CString::new([dir.as_bytes(), b"/", name.as_bytes()].concat()) else {
                continue;
            };
            let Err(errno) = execve(&candidate, &self.args, &self.env);
            if errno != Errno::ENOENT && errno != Errno::ENOTDIR || exists(&candidate) {
                seen.get_or_insert((candidate, errno));
            }
        }
        match seen {
            Some((candidate, errno)) => explain(
                &candidate.to_string_lossy().escape_debug().to_string(),
                &candidate,
                errno,
            ),
            None => format!(
                "the image has no program `{shown}` in its PATH ({})",
                self.path.escape_debug()
            ),
        }
    }
}

fn explain(shown: &str, path: &CStr, errno: Errno) -> String {
    match errno {
        Errno::ENOENT if exists(path) => format!(
            "`{shown}` is there, but what it needs to run is not: \
             the interpreter in its first line, or the dynamic loader it was linked for"
        ),
        Errno::ENOENT | Errno::ENOTDIR => format!("the image has no program `{shown}`"),
        Errno::ENOEXEC => format!(
            "`{shown}` has a format that this machine cannot run: \
             built for another architecture, or a script without `#!`"
        ),
        Errno::EACCES if is_plain_file_without_x(path) => format!("`{shown}` is not executable (chmod +x)"),
        Errno::EACCES => format!("the container's user may not run `{shown}`"),
        Errno::E2BIG => "the arguments and the environment are too large".to_owned(),
        errno => format!("cannot run `{shown}`: {errno}"),
    }
}

fn exists(path: &CStr) -> bool {
    fs::symlink_metadata(&*path.to_string_lossy()).is_ok()
}

fn is_plain_file_without_x(path: &CStr) -> bool {
    fs::metadata(&*path.to_string_lossy()).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 == 0)
}

/// What is ignored or blocked stays so in the next program: SIGPIPE by Rust, SIGQUIT where the server was started in
/// the background of a shell. A program that starts so cannot even ask for the signal.
fn default_signals() {
    // SAFETY: restores defaults; no handler is installed. The two signals that have no other are refused, harmlessly.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

impl Program {
    /// The two ends of the report: the shim's, and the one for [`Program::report`].
    pub fn report_pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
        let (read_end, write_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        debug_assert!(write_end.as_raw_fd() > 2);
        Ok((read_end, write_end))
    }
}
