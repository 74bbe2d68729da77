//! What this machine lets us do, found by trying.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::cgroup;
use crate::{Finding, Level};

/// Found once, when the engine is opened.
#[derive(Debug, Clone)]
pub struct Host {
    pub cgroups: cgroup::Kind,
    /// Parent of the instances' groups.
    pub cgroup_parent: PathBuf,
    /// Why overlayfs is refused.
    pub overlay: Result<(), String>,
    pub seccomp: bool,
}

/// The machine lacks what no container can do without. Says what, and what would help.
#[derive(Debug, thiserror::Error)]
#[error("containers cannot be run here: {0}")]
pub struct Unsuited(String);

impl Host {
    /// `scratch`: a directory on the file system of the instances.
    ///
    /// # Errors
    /// [`Unsuited`] where the kernel refuses namespaces.
    pub fn examine(scratch: &Path, tag: &str) -> Result<Host, Unsuited> {
        let can_unshare = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID)?;
            Ok(())
        });
        can_unshare.map_err(unsuited)?;
        let cgroup_parent = PathBuf::from(format!("/hob-{tag}"));
        Ok(Host {
            cgroups: cgroup::detect(&cgroup_parent),
            cgroup_parent,
            overlay: try_overlay(scratch).map_err(|error| error.to_string()),
            seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        })
    }

    /// Parent of the instances' groups, where they can be made.
    pub fn usable_cgroup_parent(&self) -> Option<&Path> {
        (self.cgroups != cgroup::Kind::None).then_some(self.cgroup_parent.as_path())
    }

    pub fn findings(&self) -> Vec<Finding> {
        let finding = |subject: &str, level, message: String, advice: &str| Finding {
            level,
            subject: subject.to_owned(),
            message,
            advice: advice.to_owned(),
        };
        let cgroups = match self.cgroups {
            cgroup::Kind::None => finding(
                "cgroups",
                Level::Warning,
                "none that may be used: instances run without limits of memory, CPU and processes".to_owned(),
                "mount /sys/fs/cgroup read-write and run as root",
            ),
            kind => {
                let missing = cgroup::Controllers::here().missing();
                match missing.is_empty() {
                    true => finding(
                        "cgroups",
                        Level::Ok,
                        format!("{}: limits of memory, CPU and processes hold", kind.name()),
                        "",
                    ),
                    false => finding(
                        "cgroups",
                        Level::Warning,
                        format!(
                            "{}: instances run without limits of {}",
                            kind.name(),
                            missing.join(" and ")
                        ),
                        "enable the controllers (kernel command line, or Delegate= of the unit that Hob runs in)",
                    ),
                }
            }
        };
        let overlay = match &self.overlay {
            Ok(()) => finding(
                "overlayfs",
                Level::Ok,
                "instances share the layers of their image".to_owned(),
                "",
            ),
            Err(why) => finding(
                "overlayfs",
                Level::Warning,
                format!("refused ({why}): every instance gets a full copy of its image"),
                "put the data directory on ext4 or xfs",
            ),
        };
        let seccomp = match self.seccomp {
            true => finding("seccomp", Level::Ok, "system calls are filtered".to_owned(), ""),
            false => finding(
                "seccomp",
                Level::Error,
                "this kernel cannot filter system calls".to_owned(),
                "use a kernel with CONFIG_SECCOMP_FILTER",
            ),
        };
        let namespaces = finding(
            "namespaces",
            Level::Ok,
            "mount, pid, ipc, uts, network and cgroup of their own".to_owned(),
            "",
        );
        vec![namespaces, cgroups, overlay, seccomp]
    }
}

fn unsuited(error: io::Error) -> Unsuited {
    let clone = "/proc/sys/kernel/unprivileged_userns_clone";
    let switched_off = fs::read_to_string(clone).is_ok_and(|text| text.trim() == "0");
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|text| text.trim() == "0");
    let advice = if nix::unistd::geteuid().is_root() {
        "root here lacks CAP_SYS_ADMIN, as in most containers; run Hob outside of one, or in a privileged one"
    } else if switched_off || limit {
        "this kernel lets only root make namespaces (kernel.unprivileged_userns_clone, user.max_user_namespaces); \
         run Hob as root"
    } else {
        "an ordinary user can make namespaces only within a user namespace of their own; run Hob as root"
    };
    Unsuited(format!("the kernel refuses to make namespaces ({error}): {advice}"))
}

fn try_overlay(scratch: &Path) -> io::Result<()> {
    let dir = scratch.join(format!(".overlay-{}", std::process::id()));
    let names = ["lower", "upper", "work", "merged"];
    for name in names {
        fs::create_dir_all(dir.join(name))?;
    }
    let place = dir.clone();
    let tried = on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        std::env::set_current_dir(&place)?;
        let options = "lowerdir=lower,upperdir=upper,workdir=work";
        mount(
            Some("overlay"),
            "merged",
            Some("overlay"),
            MsFlags::empty(),
            Some(options),
        )?;
        fs::write("merged/file", "x")
    });
    let _ = fs::remove_dir_all(&dir);
    tried
}

/// On a thread that ends with what it did: namespaces (and, with a mount namespace, the working directory) are per
/// thread.
fn on_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = thread::Builder::new().name("hob-examine".to_owned()).spawn(work)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}
