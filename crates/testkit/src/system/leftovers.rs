//! What a platform that has ended must not leave on the machine.

use std::fs;
use std::path::{Path, PathBuf};

use super::processes;

/// Deepest cgroup below the root of a hierarchy that is looked at.
const CGROUP_DEPTH_MAX: usize = 4;

/// Everything outside of `data_dir` that belongs to it, and mounts of it: one line each. Other platforms on this machine
/// may come and go meanwhile; names carry the tag of their data directory.
pub(super) fn of(data_dir: &Path) -> Vec<String> {
    let tag = engine::tag::tag_of(data_dir);
    let devices = names(Path::new("/sys/class/net"))
        .into_iter()
        .filter(|device| device.contains(&tag));
    let mut found: Vec<String> = devices.map(|device| format!("network device {device}")).collect();
    cgroups(Path::new("/sys/fs/cgroup"), &tag, CGROUP_DEPTH_MAX, &mut found);
    found.extend(
        mounts("self", data_dir)
            .into_iter()
            .map(|at| format!("mount {}", at.display())),
    );
    found.extend(containers(data_dir).into_iter().map(processes::describe));
    found
}

/// Ends containers of `data_dir` and undoes its mounts, so that the directory can be removed.
pub(super) fn sweep(data_dir: &Path) {
    containers(data_dir).into_iter().for_each(processes::kill);
    for at in mounts("self", data_dir).into_iter().rev() {
        let _ = std::process::Command::new("umount").arg("-l").arg(at).output();
    }
}

/// Processes in other mount namespaces than ours whose file systems lie in `data_dir`.
fn containers(data_dir: &Path) -> Vec<u32> {
    let ours = fs::read_link("/proc/self/ns/mnt").ok();
    let elsewhere = |pid: &u32| {
        let theirs = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        theirs.is_some() && theirs != ours
    };
    let uses = |pid: &u32| !mounts(&pid.to_string(), data_dir).is_empty();
    processes::all().into_iter().filter(elsewhere).filter(uses).collect()
}

/// Mount points of a process that lie in `data_dir` or show something of it.
fn mounts(pid: &str, data_dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let Some(data_dir) = data_dir.to_str() else {
        return Vec::new();
    };
    let inside = format!("{data_dir}/");
    let ours = text.lines().filter(|line| line.contains(&inside));
    ours.filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect()
}

fn cgroups(directory: &Path, tag: &str, depth: usize, found: &mut Vec<String>) {
    if depth == 0 {
        return;
    }
    for name in names(directory) {
        let path = directory.join(&name);
        if !path.is_dir() || path.is_symlink() {
            continue;
        }
        if name.contains(tag) {
            found.push(format!("cgroup {}", path.display()));
        } else {
            cgroups(&path, tag, depth - 1, found);
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
