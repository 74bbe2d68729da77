//! The restricted profile: what a container may see and do. One profile, for every service; nothing here can be
//! weakened by an image or a user (C6.17).
//!
//! - **Namespaces:** mount, pid, ipc, uts, network (the shim made it) and, where the kernel has it, cgroup.
//! - **Privileges:** `no_new_privs`. An image that runs as another user than root gets no capability at all. One that
//!   starts as root gets the seven that the usual start scripts need, to prepare files and switch to a user: CHOWN,
//!   DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, NET_BIND_SERVICE.
//! - **Low ports:** need no capability. In the instance's own network namespace every port is free for every user.
//! - **System calls:** [`SECCOMP`]: a list of what is allowed. A few that are known to be asked for, and dangerous,
//!   fail with "not permitted", all others as if the kernel were too old to know them, so that programs fall back.
//! - **Files:** `/proc` and `/sys` are read-only where they would change the machine and hidden where they tell of it;
//!   `/dev` holds the harmless few; no device node of an image works.
//! - **Limits:** 512 MiB of memory and 512 processes unless the service says otherwise.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::user::User;
use super::{files, groups};
use crate::DEFAULT_MEMORY_MB;
use crate::embedded::cgroup;
use crate::embedded::home::Home;
use crate::embedded::launch::LaunchOrder;

const DEFAULT_PIDS: u64 = 512;
pub const CPU_PERIOD_US: u64 = 100_000;
/// Open files that a program may have at once, if the machine lets us give as many.
const OPEN_FILES: u64 = 65_536;

const ROOT_CAPABILITIES: [&str; 7] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
];

/// What tells of the machine, or would let one change it.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

/// `allow NAME`, `refuse NAME`, comments.
const SECCOMP: &str = include_str!("seccomp.txt");

/// Arguments of `clone` that would make a namespace.
const CLONE_NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// Socket families that a service needs: Unix, IPv4, IPv6, and netlink (asking for one's own addresses).
const SOCKET_FAMILIES: [u64; 4] = [1, 2, 10, 16];
/// Execution domains: Linux as it is, with and without the 32-bit and old-layout flags, and "tell me".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The OCI runtime configuration. Holds no environment value. `limits` are [`resources`] for the library to hold the
/// container to; `None`: the shim has put it into its control groups by itself, or there are none.
pub fn runtime_config(
    home: &Home,
    order: &LaunchOrder,
    user: &User,
    working_dir: &str,
    limits: Option<Value>,
) -> Value {
    let by_library = limits.is_some();
    let mut config = json!({
        "ociVersion": "1.1.0",
        "hostname": order.hostname,
        "root": { "path": home.join("rootfs"), "readonly": order.resources.read_only_root },
        "process": {
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
            // Both are replaced by `super::program`, which has the real ones.
            "args": ["program"],
            "env": [],
            "cwd": working_dir,
            "noNewPrivileges": true,
            "capabilities": capabilities(user),
            "rlimits": [
                { "type": "RLIMIT_NOFILE", "soft": open_files(), "hard": open_files() },
                // A core dump holds secrets, and the machine's handler for it runs outside.
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            ],
        },
        "mounts": mounts(home, order, by_library),
        "linux": {
            "namespaces": namespaces(),
            "cgroupsPath": order.cgroup.as_deref().filter(|_| by_library).unwrap_or(Path::new("/")),
            "maskedPaths": MASKED,
            "readonlyPaths": read_only(by_library),
            "rootfsPropagation": "private",
            "seccomp": seccomp(),
        },
    });
    if let Some(limits) = limits {
        config["linux"]["resources"] = limits;
    }
    config
}

fn capabilities(user: &User) -> Value {
    let set: &[&str] = if user.uid == 0 { &ROOT_CAPABILITIES } else { &[] };
    json!({ "bounding": set, "effective": set, "permitted": set, "inheritable": [], "ambient": [] })
}

fn open_files() -> u64 {
    let hard =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard);
    hard.min(OPEN_FILES)
}

fn namespaces() -> Value {
    let mut kinds = vec!["mount", "pid", "ipc", "uts"];
    if Path::new("/proc/self/ns/cgroup").exists() {
        kinds.push("cgroup");
    }
    kinds.into_iter().map(|kind| json!({ "type": kind })).collect()
}

fn mounts(home: &Home, order: &LaunchOrder, groups_by_library: bool) -> Value {
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=1024k"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] }),
        json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] }),
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"] }),
    ];
    // Language runtimes look up their limits here.
    if groups_by_library {
        mounts.push(
            json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }),
        );
    } else if order.cgroup.is_some() {
        mounts.push(
            json!({ "destination": "/sys/fs/cgroup", "type": "bind", "source": home.join(groups::TREE),
                            "options": ["rbind", "nosuid", "noexec", "nodev", "ro", "private"] }),
        );
    }
    for file in ["hosts", "hostname", "resolv.conf"] {
        mounts.push(
            json!({ "destination": format!("/etc/{file}"), "type": "bind", "source": home.join("etc").join(file),
                            "options": ["bind", "nosuid", "nodev", "noexec", "private"] }),
        );
    }
    mounts.extend(files::binds(home, &order.files));
    mounts.into()
}

/// What may be looked at only. The library mounts each v1 hierarchy writable, whatever it is told, and root in a
/// container owns its group there: without this it could lift its own limits.
fn read_only(groups_by_library: bool) -> Value {
    let mut paths: Vec<PathBuf> = READ_ONLY.iter().map(PathBuf::from).collect();
    if groups_by_library {
        let hierarchies = cgroup::hierarchies();
        let separate = hierarchies.len() > 1;
        paths.extend(separate.then(|| cgroup::ROOT.into()));
        paths.extend(hierarchies.into_iter().filter(|_| separate));
    }
    json!(paths)
}

/// What an instance may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: u64,
    pub pids: u64,
    /// Microseconds of CPU time in each [`CPU_PERIOD_US`]; `None`: as much as there is.
    pub cpu_quota_us: Option<u64>,
}

pub fn limits(order: &LaunchOrder) -> Limits {
    let wanted = &order.resources;
    let memory_mb = wanted.memory_mb.unwrap_or(DEFAULT_MEMORY_MB);
    let quota = |millis: u64| (millis.saturating_mul(CPU_PERIOD_US) / 1000).clamp(1000, i64::MAX as u64);
    Limits {
        memory_bytes: memory_mb.saturating_mul(1 << 20).min(i64::MAX as u64),
        pids: wanted.pids.unwrap_or(DEFAULT_PIDS),
        cpu_quota_us: wanted.cpu_millis.map(quota),
    }
}

/// The limits in the library's terms, as far as there are controllers to hold them.
pub fn resources(order: &LaunchOrder) -> Value {
    if order.cgroup.is_none() {
        return json!({});
    }
    let has = cgroup::Controllers::here();
    let limits = limits(order);
    let mut resources = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    if has.memory {
        resources["memory"] = json!({ "limit": limits.memory_bytes });
        if has.swap {
            // Memory and swap together: so none of it is swapped, and the limit means what it says.
            resources["memory"]["swap"] = json!(limits.memory_bytes);
        }
    }
    if has.pids {
        resources["pids"] = json!({ "limit": limits.pids });
    }
    if let Some(quota) = limits.cpu_quota_us.filter(|_| has.cpu) {
        resources["cpu"] = json!({ "quota": quota, "period": CPU_PERIOD_US });
    }
    resources
}

fn seccomp() -> Value {
    let named = |verb: &str| -> Vec<&'static str> {
        SECCOMP
            .lines()
            .filter_map(|line| line.strip_prefix(verb)?.split('#').next())
            .flat_map(str::split_whitespace)
            .collect()
    };
    let equal = |name: &str, value: u64| {
        json!({ "names": [name], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }] })
    };
    let mut rules = vec![
        json!({ "names": named("allow "), "action": "SCMP_ACT_ALLOW" }),
        json!({ "names": named("refuse "), "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM }),
        json!({ "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{
            "index": 0, "value": CLONE_NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ",
        }] }),
    ];
    rules.extend(SOCKET_FAMILIES.map(|family| equal("socket", family)));
    rules.extend(PERSONALITIES.map(|personality| equal("personality", personality)));
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::ENOSYS, "syscalls": rules })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> User {
        User {
            uid,
            gid: 0,
            groups: vec![],
            home: "/".into(),
        }
    }

    #[test]
    fn only_root_images_get_capabilities_and_never_one_that_reaches_the_machine() {
        assert_eq!(capabilities(&user(1000))["bounding"], json!([]));
        let root = capabilities(&user(0)).to_string();
        for reaching in [
            "SYS_",
            "NET_ADMIN",
            "NET_RAW",
            "MKNOD",
            "SETFCAP",
            "SETPCAP",
            "DAC_READ_SEARCH",
            "BPF",
        ] {
            assert!(!root.contains(reaching), "{reaching} in {root}");
        }
    }

    #[test]
    fn the_list_of_system_calls_names_each_once_and_allows_none_that_leads_out() {
        let profile = seccomp();
        let names = |rule: usize| -> Vec<String> {
            serde_json::from_value(profile["syscalls"][rule]["names"].clone()).expect("names")
        };
        let (allowed, refused) = (names(0), names(1));
        assert!(allowed.len() > 200, "{}", allowed.len());
        let mut all: Vec<&String> = allowed.iter().chain(&refused).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "a system call is listed twice");
        for out in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "keyctl",
            "kexec_load",
            "init_module",
            "clone3",
            "clone",
            "socket",
            "personality",
            "open_by_handle_at",
            "userfaultfd",
            "io_uring_setup",
            "perf_event_open",
        ] {
            assert!(!allowed.iter().any(|name| name == out), "{out} is allowed");
        }
    }
}
