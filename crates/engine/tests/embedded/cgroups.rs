//! Machines with other control groups than this one's, made up in a mount namespace.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::common::can_run;

const ROOT: &str = "/sys/fs/cgroup";

/// Runs a container in a process that sees other control groups, and answers what it said.
fn said_with(arrange: impl Fn(&[PathBuf]) -> nix::Result<()> + Send + Sync + 'static, script: &str) -> String {
    let dir = tempfile::TempDir::new().expect("a directory");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let points = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|at| at.starts_with(ROOT));
    let mut points: Vec<PathBuf> = points.map(PathBuf::from).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_hob-test-shim"));
    command.args(["ordinary-user", "0"]).arg(dir.path()).arg(script);
    let arrange = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        arrange(&points).map_err(io::Error::from)
    };
    // SAFETY: system calls on values that were made before.
    unsafe { command.pre_exec(arrange) };
    let output = command.output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.lines().any(|line| line == "exit code 0"), "{said}");
    said
}

fn nothing(points: &[PathBuf]) -> nix::Result<()> {
    points.iter().try_for_each(|point| umount2(point, MntFlags::MNT_DETACH))
}

#[test]
fn without_control_groups_instances_run_without_limits_and_that_is_said() {
    if !can_run() {
        return;
    }
    let said = said_with(nothing, "echo up");
    assert!(
        said.contains("> up") && said.contains("Warning cgroups: none"),
        "{said}"
    );
}

#[test]
fn control_groups_that_may_only_be_looked_at_are_like_none() {
    if !can_run() {
        return;
    }
    let read_only = |points: &[PathBuf]| {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        points
            .iter()
            .try_for_each(|point| mount(None::<&str>, point, None::<&str>, flags, None::<&str>))
    };
    let said = said_with(read_only, "echo up");
    assert!(
        said.contains("> up") && said.contains("Warning cgroups: none"),
        "{said}"
    );
}

#[test]
fn a_v2_tree_is_used_and_the_limits_that_it_cannot_hold_are_named() {
    if !can_run() {
        return;
    }
    let only_v2 = |points: &[PathBuf]| {
        nothing(points)?;
        mount(Some("none"), ROOT, Some("cgroup2"), MsFlags::empty(), None::<&str>)
    };
    let said = said_with(
        only_v2,
        "ls /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x 2>/dev/null && echo REACHED; true",
    );
    assert!(
        said.contains("> /sys/fs/cgroup/cgroup.procs") && !said.contains("REACHED"),
        "{said}"
    );
    let here = std::fs::read_to_string("/proc/cgroups").expect("controllers");
    let on_v1 = here
        .lines()
        .any(|line| line.starts_with("memory\t") && !line.starts_with("memory\t0\t"));
    if on_v1 {
        // This machine's controllers are taken by v1, so the v2 tree has none.
        assert!(
            said.contains("Warning cgroups: v2: instances run without limits of memory"),
            "{said}"
        );
    }
}

#[test]
fn limits_hold_on_v1_without_a_v2_tree_beside_it() {
    if !can_run() {
        return;
    }
    if !std::path::Path::new("/sys/fs/cgroup/pids").exists() {
        println!("SKIPPED: this machine has no v1 hierarchies");
        return;
    }
    let only_v1 = |_: &[PathBuf]| match umount2("/sys/fs/cgroup/unified", MntFlags::MNT_DETACH) {
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        result => result,
    };
    let said = said_with(only_v1, "cat /sys/fs/cgroup/pids/pids.max");
    assert!(said.contains("> 512"), "{said}");
}
