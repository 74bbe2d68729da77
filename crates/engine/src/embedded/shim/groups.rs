//! The instance's control groups on v1 (and hybrid) machines, made by the shim instead of the container library.
//!
//! # Expected flow
//! The shim enters the groups before the library forks, so that the container is born in them, and leaves them when it
//! has. Then the limits are set, and only then the program runs.
//!
//! # Why
//! Moving another process takes a lock of the kernel's that first waits until every core has passed a quiet point: 10
//! to 20 ms, most of a start. A thread that moves itself (`0` into `tasks`) needs no such lock, because nothing about it
//! can change meanwhile. And the library looks up each controller's mount point anew, in hundreds of system calls.
//!
//! # Guarantees
//! What the container sees at `/sys/fs/cgroup` is its own groups, to look at only. The library sees none of them.
//!
//! # Assumptions
//! The process has one thread, and a mount namespace of its own. v2 has no such door for a single thread; there the
//! library does everything.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::StartError;
use super::profile::{CPU_PERIOD_US, Limits};
use crate::embedded::cgroup;
use crate::embedded::home::{Home, private_dir};

/// Directory of the instance's home on which its groups are shown, for the container to be mounted from.
pub const TREE: &str = "cgroup";

/// What a container may do with devices: use the harmless few. Making nodes takes a capability that it has not.
const DEVICES: [&str; 12] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
];

/// The groups, entered.
pub struct Groups {
    dirs: Vec<PathBuf>,
    /// `tasks` of the groups that the shim came from.
    origins: Vec<File>,
}

impl Groups {
    /// Makes the groups of `group` in all hierarchies and enters them. `None` where that is not to be had, and nothing
    /// has happened: the library must do it.
    pub fn enter(group: &Path, home: &Home) -> Result<Option<Groups>, StartError> {
        if cgroup::is_v2() {
            return Ok(None);
        }
        let hierarchies = cgroup::hierarchies();
        let Some(origins) = origins(&hierarchies) else {
            return Ok(None);
        };
        let failed = |error: io::Error| StartError::new("cannot make its control groups", error);
        let mut dirs = Vec::with_capacity(hierarchies.len());
        for hierarchy in &hierarchies {
            dirs.push(make(hierarchy, group).map_err(failed)?);
        }
        show(&hierarchies, &dirs, &home.join(TREE)).map_err(failed)?;
        let groups = Groups { dirs, origins };
        let entered = groups.dirs.iter().try_for_each(|dir| write(&dir.join("tasks"), "0"));
        let covered = entered.and_then(|()| cover());
        if let Err(error) = covered {
            groups.go_home();
            return Err(failed(error));
        }
        Ok(Some(groups))
    }

    /// Takes the shim out again and holds those who stay to their limits.
    pub fn leave(self, limits: &Limits) -> Result<(), StartError> {
        let failed = |error: io::Error| StartError::new("cannot limit what it uses", error);
        uncover().map_err(|errno| failed(errno.into()))?;
        self.go_home();
        self.dirs.iter().try_for_each(|dir| limit(dir, limits)).map_err(failed)
    }

    fn go_home(&self) {
        for mut origin in &self.origins {
            // Staying would be untidy, no more: the group then lives until the shim ends.
            let _ = origin.write_all(b"0");
        }
    }
}

/// Where this process is now, as files that take it back. `None` where one of them cannot be had, as in a container
/// that sees less of the hierarchies than its own path in them.
fn origins(hierarchies: &[PathBuf]) -> Option<Vec<File>> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let path_of = |hierarchy: &PathBuf| {
        let at = hierarchy.to_str()?;
        let options = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, point, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup" && point == at).then_some(options)
        })?;
        own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let here = !controllers.is_empty()
                && controllers
                    .split(',')
                    .all(|name| options.split(',').any(|option| option == name));
            here.then(|| hierarchy.join(path.trim_start_matches('/')).join("tasks"))
        })
    };
    hierarchies
        .iter()
        .map(|hierarchy| OpenOptions::new().write(true).open(path_of(hierarchy)?).ok())
        .collect()
}

/// A group below a hierarchy's mount point. A new one of `cpuset` holds no core and no memory, and nobody can enter it.
fn make(hierarchy: &Path, group: &Path) -> io::Result<PathBuf> {
    const INHERITED: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
    let mut dir = hierarchy.to_owned();
    let in_cpuset = hierarchy.join(INHERITED[0]).exists();
    for component in group.strip_prefix("/").unwrap_or(group) {
        let parent = dir.clone();
        dir.push(component);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for file in INHERITED.into_iter().filter(|_| in_cpuset) {
            if fs::read_to_string(dir.join(file))?.trim().is_empty() {
                write(&dir.join(file), &fs::read_to_string(parent.join(file))?)?;
            }
        }
    }
    Ok(dir)
}

/// The groups under the names of their hierarchies, read-only, at `tree`.
fn show(hierarchies: &[PathBuf], dirs: &[PathBuf], tree: &Path) -> io::Result<()> {
    const RESTRICTED: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
    private_dir(tree)?;
    mount(
        Some("cgroup"),
        tree,
        Some("tmpfs"),
        RESTRICTED,
        Some("size=64k,mode=755"),
    )?;
    for (hierarchy, dir) in hierarchies.iter().zip(dirs) {
        let Some(name) = hierarchy.file_name() else { continue };
        let at = tree.join(name);
        fs::create_dir(&at)?;
        mount(Some(dir), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | RESTRICTED;
        mount(None::<&str>, &at, None::<&str>, read_only, None::<&str>)?;
        // Where several controllers share a hierarchy, programs look for each by its own name.
        let names = name.to_string_lossy();
        for alias in names.split(',').filter(|alias| *alias != names) {
            std::os::unix::fs::symlink(name, tree.join(alias))?;
        }
    }
    Ok(())
}

/// Puts a v2 tree without controllers in the library's way, in which "join" means nothing.
fn cover() -> io::Result<()> {
    let root = Path::new(cgroup::ROOT);
    let beside = root.join("unified");
    if beside.join("cgroup.procs").exists() {
        // Making another mount of the tree takes the kernel's lock on all groups.
        mount(Some(&beside), root, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    } else {
        mount(Some("none"), root, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
    }
    let nothing = |file: &str| {
        let at = root.join(file);
        mount(Some("/dev/null"), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    };
    let covered = ["cgroup.procs", "cgroup.controllers"]
        .iter()
        .try_for_each(|file| nothing(file));
    if covered.is_err() {
        uncover()?;
    }
    Ok(covered?)
}

fn uncover() -> nix::Result<()> {
    umount2(cgroup::ROOT, MntFlags::MNT_DETACH)
}

/// The limits that the controllers of one hierarchy can hold.
fn limit(dir: &Path, limits: &Limits) -> io::Result<()> {
    let set = |file: &str, value: &str| {
        let path = dir.join(file);
        if path.exists() { write(&path, value) } else { Ok(()) }
    };
    set("memory.limit_in_bytes", &limits.memory_bytes.to_string())?;
    // Memory and swap together: so none of it is swapped, and the limit means what it says.
    set("memory.memsw.limit_in_bytes", &limits.memory_bytes.to_string())?;
    set("pids.max", &limits.pids.to_string())?;
    if let Some(quota) = limits.cpu_quota_us {
        set("cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
        set("cpu.cfs_quota_us", &quota.to_string())?;
    }
    set("devices.deny", "a")?;
    DEVICES.iter().try_for_each(|rule| set("devices.allow", rule))
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    let about = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).open(path).map_err(about)?;
    file.write_all(value.as_bytes()).map_err(about)
}
