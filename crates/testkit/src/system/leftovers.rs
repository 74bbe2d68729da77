//! What a platform that has ended must not leave on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::processes;

/// Deepest cgroup below the root of a hierarchy that is looked at.
const CGROUP_DEPTH_MAX: usize = 4;

/// Cgroups and network devices with the prefix `hob`, as seen at one moment.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    seen: BTreeSet<String>,
}

impl Leftovers {
    pub(super) fn look() -> Self {
        let mut seen = BTreeSet::new();
        for device in names(Path::new("/sys/class/net")) {
            if device.starts_with("hob") {
                seen.insert(format!("network device {device}"));
            }
        }
        cgroups(Path::new("/sys/fs/cgroup"), CGROUP_DEPTH_MAX, &mut seen);
        Leftovers { seen }
    }

    /// What is there now, was not before, or belongs to `data_dir`: one line each.
    pub(super) fn new_ones(&self, data_dir: &Path) -> Vec<String> {
        let mut new: Vec<String> = Leftovers::look().seen.difference(&self.seen).cloned().collect();
        new.extend(
            mounts("self", data_dir)
                .into_iter()
                .map(|at| format!("mount {}", at.display())),
        );
        new.extend(containers(data_dir).into_iter().map(processes::describe));
        new
    }
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

fn cgroups(directory: &Path, depth: usize, seen: &mut BTreeSet<String>) {
    if depth == 0 {
        return;
    }
    for name in names(directory) {
        let path = directory.join(&name);
        if !path.is_dir() || path.is_symlink() {
            continue;
        }
        if name.starts_with("hob") {
            seen.insert(format!("cgroup {}", path.display()));
        } else {
            cgroups(&path, depth - 1, seen);
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
