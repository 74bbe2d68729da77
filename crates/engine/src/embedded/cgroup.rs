//! Control groups: which kind this machine has, and the little that is done with them beside the container library.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, TMPFS_MAGIC, statfs};

use super::process::PidFd;

/// Where every distribution mounts them.
pub const ROOT: &str = "/sys/fs/cgroup";
/// Rounds of killing what is in a group until nothing is; a fork bomb needs more than one.
const KILL_ROUNDS: u32 = 50;

const REMOVE_TRIES: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    V2,
    V1,
    /// Controllers on v1; a v2 tree without them beside it.
    Hybrid,
    /// None, or not ours to use.
    None,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::V2 => "v2",
            Kind::V1 => "v1",
            Kind::Hybrid => "hybrid (limits by v1)",
            Kind::None => "none",
        }
    }
}

/// What is mounted, and whether groups can be made there: tried, because nothing else tells.
pub fn detect(parent: &Path) -> Kind {
    let root = Path::new(ROOT);
    let Ok(stat) = statfs(root) else { return Kind::None };
    let kind = if stat.filesystem_type() == CGROUP2_SUPER_MAGIC {
        Kind::V2
    } else if stat.filesystem_type() == TMPFS_MAGIC {
        let unified = statfs(&root.join("unified"));
        let hybrid = unified.is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC);
        if hybrid { Kind::Hybrid } else { Kind::V1 }
    } else {
        Kind::None
    };
    let hierarchies = hierarchies();
    let usable = !hierarchies.is_empty()
        && hierarchies
            .iter()
            .all(|hierarchy| fs::create_dir_all(hierarchy.join(relative(parent))).is_ok());
    if usable { kind } else { Kind::None }
}

/// Which of the three limits this machine can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Controllers {
    pub memory: bool,
    pub cpu: bool,
    pub pids: bool,
    /// Of memory and swap together.
    pub swap: bool,
}

impl Controllers {
    pub fn here() -> Controllers {
        let root = Path::new(ROOT);
        let v2 = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let v1 = hierarchies();
        // A v1 hierarchy may hold several, as in `cpu,cpuacct`.
        let in_v1 = |name: &str| {
            let names = v1.iter().filter_map(|hierarchy| hierarchy.file_name()?.to_str());
            names
                .flat_map(|names| names.split(','))
                .any(|controller| controller == name)
        };
        let has = |name: &str| v2.split_whitespace().any(|controller| controller == name) || in_v1(name);
        // The root group has no limits, so the file is looked for in any other.
        let groups = fs::read_dir(root).into_iter().flatten().flatten();
        let swap = root.join("memory/memory.memsw.limit_in_bytes").exists()
            || groups
                .map(|group| group.path().join("memory.swap.max"))
                .any(|file| file.exists());
        Controllers {
            memory: has("memory"),
            cpu: has("cpu"),
            pids: has("pids"),
            swap,
        }
    }

    /// Names of the limits that cannot be held.
    pub fn missing(self) -> Vec<&'static str> {
        let all = [(self.memory, "memory"), (self.cpu, "CPU"), (self.pids, "processes")];
        all.into_iter().filter(|(has, _)| !has).map(|(_, name)| name).collect()
    }
}

/// Lets the container library work on a machine whose control groups are not ours to use: it knows no "without". All
/// of it happens in the shim's own mounts.
///
/// - A v2 tree in a user namespace is left alone: the library puts up with being refused there.
/// - v1 hierarchies that an outer namespace has locked are covered by plain files that take the writes.
/// - Else a v2 tree takes the place of whatever is there; a group without limits can be made in any.
pub fn pretend() -> io::Result<()> {
    let root = Path::new(ROOT);
    if is_v2() && in_user_namespace()? {
        return Ok(());
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut points: Vec<&Path> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(Path::new)
        .collect();
    points.retain(|point| point.starts_with(root));
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    points.retain(|point| umount2(*point, MntFlags::MNT_DETACH).is_err());
    points.retain(|point| *point != root);
    if points.is_empty() {
        mount(Some("none"), root, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
        return Ok(());
    }
    mount(Some("none"), root, Some("tmpfs"), MsFlags::empty(), Some("size=1m"))?;
    for point in points {
        fs::create_dir_all(point)?;
        // Joining the group, and the rules for devices, are written without being asked for.
        for file in ["cgroup.procs", "devices.allow", "devices.deny"] {
            fs::write(point.join(file), "")?;
        }
    }
    Ok(())
}

/// The first namespace maps every id onto itself, so the size of its one range is the number of all ids.
fn in_user_namespace() -> io::Result<bool> {
    Ok(!fs::read_to_string("/proc/self/uid_map")?.contains("4294967295"))
}

/// Whether the kernel killed something in this group for its memory limit.
pub fn killed_for_memory(group: &Path) -> bool {
    let count = |file: PathBuf| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        line.trim().parse::<u64>().ok()
    };
    hierarchies().iter().any(|hierarchy| {
        let dir = hierarchy.join(relative(group));
        let kills = count(dir.join("memory.events")).or_else(|| count(dir.join("memory.oom_control")));
        kills.is_some_and(|kills| kills > 0)
    })
}

/// Most memory that the group has had at once, in bytes; nothing where that is not counted.
pub fn memory_peak(group: &Path) -> Option<u64> {
    let file = if is_v2() {
        "memory.peak"
    } else {
        "memory.max_usage_in_bytes"
    };
    let read = |hierarchy: PathBuf| fs::read_to_string(hierarchy.join(relative(group)).join(file)).ok();
    hierarchies().into_iter().find_map(read)?.trim().parse().ok()
}

/// Kills whatever is in the group, and waits shortly until nothing is.
pub fn kill(group: &Path) -> io::Result<()> {
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(relative(group));
        if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
            continue;
        }
        for _ in 0..KILL_ROUNDS {
            let members = match fs::read_to_string(dir.join("cgroup.procs")) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            if members.trim().is_empty() {
                break;
            }
            for pid in members.lines().filter_map(|line| line.parse().ok()) {
                // Read and used at once, and only what the kernel lists in our own group.
                if let Ok(Some(process)) = PidFd::open(pid) {
                    process.signal(libc::SIGKILL)?;
                    process.wait(Duration::from_millis(100))?;
                }
            }
        }
    }
    Ok(())
}

/// Removes the group. What was killed may be in it for another moment; a group that has members after that stays, and
/// shows in `hob doctor`.
pub fn remove(group: &Path) {
    for hierarchy in hierarchies() {
        let dir = hierarchy.join(relative(group));
        for _ in 0..REMOVE_TRIES {
            match fs::remove_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(REMOVE_PAUSE),
                _ => break,
            }
        }
    }
}

/// Names of the groups below `parent`, in any hierarchy.
pub fn children(parent: &Path) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for hierarchy in hierarchies() {
        let entries = fs::read_dir(hierarchy.join(relative(parent)))
            .into_iter()
            .flatten()
            .flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        names.extend(dirs.filter_map(|entry| entry.file_name().into_string().ok()));
    }
    names.sort();
    names.dedup();
    names
}

/// Whether one v2 tree is all there is.
pub fn is_v2() -> bool {
    statfs(ROOT).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// Where groups are: one directory for v2, one for each controller of v1 (and none of the v2 tree beside it).
pub fn hierarchies() -> Vec<PathBuf> {
    if is_v2() {
        return vec![ROOT.into()];
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let v1 = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup" && at.starts_with(ROOT)).then(|| PathBuf::from(at))
    });
    v1.collect()
}

fn relative(group: &Path) -> &Path {
    group.strip_prefix("/").unwrap_or(group)
}
