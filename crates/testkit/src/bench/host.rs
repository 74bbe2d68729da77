//! Programs that run beside what is measured, and what the kernel says of them.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// A program that ends with this value.
pub(super) struct Program {
    pub(super) child: Child,
    pub(super) name: &'static str,
}

impl Program {
    /// Starts it on one core, its output into `log`.
    pub(super) fn start(name: &'static str, core: usize, command: &[&str], log: &Path) -> anyhow::Result<Self> {
        let (program, arguments) = command.split_first().context("a command")?;
        let mut command = on_core(core, program);
        command.args(arguments);
        Self::spawn(name, command, log)
    }

    pub(super) fn spawn(name: &'static str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let log = File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("{name} cannot be started: is it installed?"))?;
        Ok(Program { child, name })
    }

    /// Waits until something listens at `address`.
    pub(super) fn listens(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} does not listen at {address}", self.name)
    }

    /// Resident memory of the program and its children in bytes, shared pages in proportion.
    pub(super) fn memory(&self) -> f64 {
        let mib: f64 = family(self.child.id()).into_iter().map(memory_mib).sum();
        mib * 1024.0 * 1024.0
    }

    /// CPU time of the program and its children so far.
    pub(super) fn cpu(&self) -> Duration {
        cpu_of_family(self.child.id())
    }
}

/// CPU time of a process and its direct children so far.
pub(super) fn cpu_of_family(pid: u32) -> Duration {
    family(pid).into_iter().map(cpu_of).sum()
}

impl Drop for Program {
    fn drop(&mut self) {
        let family = family(self.child.id());
        crate::system::terminate(self.child.id());
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Workers whose parent did not take them along.
        family
            .into_iter()
            .skip(1)
            .filter(|pid| parent_of(*pid) == Some(1))
            .for_each(crate::system::kill);
    }
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A command that stays on one core, where there are several.
pub(super) fn on_core(core: usize, program: &str) -> Command {
    if cores() < 2 {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]);
    command
}

/// The process and its direct children, itself first.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid)
        .chain(children.split_whitespace().filter_map(|child| child.parse().ok()))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// User and system time of all threads.
pub(super) fn cpu_of(pid: u32) -> Duration {
    let Some(fields) = stat(pid) else { return Duration::ZERO };
    let ticks: u64 = [11, 12]
        .iter()
        .filter_map(|at| fields.get(*at)?.parse::<u64>().ok())
        .sum();
    // The kernel counts in hundredths of a second on every platform that is supported.
    Duration::from_millis(ticks * 10)
}

/// The fields of `/proc/PID/stat` after the name.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Resident memory in MiB, shared pages in proportion.
pub(super) fn memory_mib(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse::<f64>().ok())
        .unwrap_or(f64::NAN)
        / 1024.0
}
