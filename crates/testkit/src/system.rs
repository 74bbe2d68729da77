//! The real `hob`, started and watched from outside.
//!
//! # Expected flow
//! [`Hob::start`] runs the binary with a data directory and ports of its own and waits until it says that it is ready.
//! The test talks to it as users do: by command line, HTTP interface, and through the edge. When the value is dropped,
//! everything ends, and the test fails if anything is left: a process, a mount, a cgroup, a network device.
//!
//! # Guarantees
//! Only one `Hob` of a test program runs at a time: the others wait. Every wait has a deadline. Only processes of this
//! `Hob` are ever signalled: the binary runs under a path of its own, which is how they are told apart.

mod app;
mod client;
mod leftovers;
mod processes;
mod tail;
mod wait;

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

pub use app::App;
pub use client::{Cli, Instance};
pub use processes::{Role, kill, terminate};
pub use tail::LogTail;
pub use wait::{eventually, eventually_some};

use crate::http1::{self, Response};
use crate::load::LoadPlan;

/// From the start of the process until `/readyz` answers 200.
pub const READY: Duration = Duration::from_secs(60);
/// From SIGTERM until the process and all instances are gone.
const STOPPED: Duration = Duration::from_secs(60);
/// Lines of the server's log that a failed test shows.
const LOG_LINES_SHOWN: usize = 60;
/// Most bytes of an answer.
const BODY_MAX: usize = 16 * 1024 * 1024;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A running platform.
pub struct Hob {
    child: Option<Child>,
    binary: PathBuf,
    options: Options,
    api: SocketAddr,
    edge: SocketAddr,
    key: String,
    runtime: tokio::runtime::Runtime,
    scratch: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// How to start it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Default: `data` in the scratch directory.
    pub data_dir: Option<PathBuf>,
    /// Further flags of `hob up`.
    pub flags: Vec<String>,
    /// Variables of `hob up` and of every command, beside the harness's own.
    pub variables: Vec<(String, String)>,
    /// SIGTERM ends the instances too.
    pub stop_instances: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            data_dir: None,
            flags: Vec::new(),
            variables: Vec::new(),
            stop_instances: true,
        }
    }
}

/// Why this machine cannot run containers; `None` when it can. Judged without `hob`, so that a `hob` that wrongly
/// gives up fails the tests.
pub fn kernel_refuses() -> Option<String> {
    let flags: &[&str] = if is_root() {
        &["-m", "-p", "-n", "-u", "-i", "-f"]
    } else {
        &["-U", "-r", "-m", "-p", "-n", "-f"]
    };
    let output = Command::new("unshare")
        .args(flags)
        .args(["mount", "-t", "tmpfs", "none", "/mnt"])
        .output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "no namespaces: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("cannot run unshare: {error}")),
    }
}

pub fn is_root() -> bool {
    // Always succeeds and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

impl Hob {
    /// Starts `binary` and waits until it is ready. `None`, with a printed reason, where the kernel forbids containers.
    pub fn start(binary: &str) -> Option<Hob> {
        Hob::start_with(binary, Options::default())
    }

    pub fn start_with(binary: &str, options: Options) -> Option<Hob> {
        let mut hob = Hob::prepare(binary, options)?;
        hob.up();
        Some(hob)
    }

    /// Everything but the server: [`Hob::up`] starts it, [`Hob::up_fails`] expects that it does not.
    pub fn prepare(binary: &str, options: Options) -> Option<Hob> {
        if let Some(reason) = kernel_refuses() {
            println!("SKIPPED: {reason}");
            return None;
        }
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = tempfile::Builder::new()
            .prefix("hob-test-")
            .tempdir()
            .expect("a temporary directory");
        let own = scratch.path().join("hob");
        // A link of its own makes the processes' path unique; across file systems a copy does.
        fs::hard_link(binary, &own)
            .or_else(|_| fs::copy(binary, &own).map(|_| ()))
            .expect("the hob binary");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        Some(Hob {
            child: None,
            binary: own,
            options,
            api: free_address(),
            edge: free_address(),
            key: String::new(),
            runtime,
            scratch,
            _turn: turn,
        })
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Panics
    /// When it ends, or is not ready within [`READY`].
    pub fn up(&mut self) {
        self.spawn();
        let ready = wait::within(READY, || {
            if let Some(status) = self.exited() {
                panic!("hob up ended at once ({status}):\n{}", self.log_tail());
            }
            self.try_http(self.api, &http1::request("GET", "localhost", "/readyz", &[], b""))
                .is_ok_and(|r| r.status() == 200)
        });
        assert!(ready, "hob up was not ready within {READY:?}:\n{}", self.log_tail());
        if self.key.is_empty() {
            let made = self.cli(&["keys", "create", "test"]);
            assert_eq!(made.code, 0, "hob keys create: {}", made.stderr);
            self.key = made.stdout.trim().to_owned();
            assert!(
                self.key.starts_with("gob_"),
                "a key and nothing else: {:?}",
                made.stdout
            );
        }
    }

    /// Starts the server and expects that it gives up: its exit code and what it said.
    pub fn up_fails(&mut self) -> (i32, String) {
        self.spawn();
        let over = wait::within(READY, || self.exited().is_some());
        assert!(over, "hob up was expected to give up:\n{}", self.log_tail());
        let status = self.child.take().and_then(|mut child| child.wait().ok());
        (status.map_or(-1, exit_code), self.log())
    }

    /// Starts the server and waits for nothing.
    pub fn launch(&mut self) {
        self.spawn();
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a log file");
        let mut command = self.command();
        command.args([
            "up",
            "--listen",
            &self.api.to_string(),
            "--edge-http",
            &self.edge.to_string(),
        ]);
        command.args(["--rate-limits", "off", "--log-format", "text"]);
        if self.options.stop_instances {
            command.arg("--stop-instances");
        }
        command.args(&self.options.flags).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(command.spawn().expect("hob starts"));
    }

    /// The binary with an environment of its own.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_clear().current_dir(self.scratch.path());
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.scratch.path());
        command
            .env("HOB_DATA_DIR", self.data_dir())
            .env("HOB_URL", format!("http://{}", self.api));
        if !self.key.is_empty() {
            command.env("HOB_API_KEY", &self.key);
        }
        // For those who look for a fault: how much the server says.
        if let Some(level) = std::env::var_os("HOB_LOG") {
            command.env("HOB_LOG", level);
        }
        command.envs(self.options.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    // Where things are.

    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.options
            .data_dir
            .clone()
            .unwrap_or_else(|| self.scratch.path().join("data"))
    }

    /// The key that the client commands use.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn api_address(&self) -> SocketAddr {
        self.api
    }

    pub fn edge_address(&self) -> SocketAddr {
        self.edge
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("up.log")
    }

    /// All that the server has printed.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    // Its processes.

    /// The process id of the control plane.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Of whatever role.
    pub fn all_processes(&self) -> Vec<u32> {
        processes::of_any(&self.binary)
    }

    pub fn processes(&self, role: Role) -> Vec<u32> {
        processes::of(&self.binary, role)
    }

    /// `kill -9` of the control plane alone; instances and edge live on.
    pub fn kill_control_plane(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM to the control plane, and its exit code.
    pub fn shut_down(&mut self) -> i32 {
        let Some(mut child) = self.child.take() else { return 0 };
        terminate(child.id());
        let mut status = None;
        wait::within(STOPPED, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        });
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        status.map_or(-1, exit_code)
    }

    /// Changes whether SIGTERM ends the instances, from the next [`Hob::up`] on.
    pub fn set_stop_instances(&mut self, stop: bool) {
        self.options.stop_instances = stop;
    }

    /// Changes the further flags of `hob up`, from the next [`Hob::up`] on; tells those of before.
    pub fn set_flags(&mut self, flags: Vec<String>) -> Vec<String> {
        std::mem::replace(&mut self.options.flags, flags)
    }

    // Requests.

    /// A GET through the edge.
    pub fn get(&self, host: &str, path: &str) -> io::Result<Response> {
        self.try_http(
            self.edge,
            &http1::request("GET", host, path, &[("Connection", "close")], b""),
        )
    }

    /// The load generator, aimed at the edge.
    pub fn load(&self, host: &str) -> LoadPlan {
        LoadPlan::new(self.edge, host)
    }

    pub(crate) fn try_http(&self, server: SocketAddr, request: &[u8]) -> io::Result<Response> {
        let limit = Duration::from_secs(30);
        self.runtime.block_on(async {
            match tokio::time::timeout(limit, http1::fetch(server, request, BODY_MAX)).await {
                Ok(answer) => answer.map_err(io::Error::other),
                Err(_) => Err(io::Error::other("no answer within 30 s")),
            }
        })
    }

    /// Follows the output of all instances from now on, those that are gone by then included.
    pub fn tail(&self) -> LogTail {
        LogTail::start(self.data_dir().join("instances"))
    }

    fn tear_down(&mut self) -> Result<(), String> {
        if self.exited().is_some() {
            self.child = None;
        }
        let instances_may_live = self.child.is_none() || !self.options.stop_instances;
        if instances_may_live && !processes::of_any(&self.binary).is_empty() {
            self.shut_down();
            self.options.stop_instances = true;
            self.spawn();
            let ready = http1::request("GET", "localhost", "/readyz", &[], b"");
            wait::within(READY, || {
                self.try_http(self.api, &ready).is_ok_and(|r| r.status() == 200) || self.exited().is_some()
            });
        }
        let code = self.shut_down();
        let mut left = Vec::new();
        wait::within(Duration::from_secs(10), || {
            left = self.left();
            left.is_empty()
        });
        if !left.is_empty() {
            processes::of_any(&self.binary).into_iter().for_each(kill);
            leftovers::sweep(&self.data_dir());
            return Err(format!(
                "left behind after hob ended with {code}:\n  {}",
                left.join("\n  ")
            ));
        }
        if code == 0 {
            Ok(())
        } else {
            Err(format!("hob up ended with {code} after SIGTERM"))
        }
    }

    fn left(&self) -> Vec<String> {
        let mut left = leftovers::of(&self.data_dir());
        left.extend(processes::of_any(&self.binary).into_iter().map(processes::describe));
        left
    }
}

impl Drop for Hob {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("--- the last lines of hob up ---\n{}", self.log_tail());
        }
        let ended = if self.child.is_some() || !processes::of_any(&self.binary).is_empty() {
            self.tear_down()
        } else {
            Ok(())
        };
        match ended {
            Ok(()) => {}
            Err(why) if failed => eprintln!("{why}"),
            Err(why) => panic!("{why}\n{}", self.log_tail()),
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// An address that was free a moment ago.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}
