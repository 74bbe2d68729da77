//! The root file system: mounted where only the shim and its container see it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, mkdirat};

use super::super::home::{Home, private_dir};
use super::super::launch::{LaunchOrder, RootSource};
use super::StartError;

/// Components of a path that are created at most.
const DEPTH_MAX: usize = 64;

/// A mount namespace in which nothing that we mount can be seen from outside, and gets what is mounted outside no more.
pub fn enter_private_mounts() -> Result<(), StartError> {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
    };
    make().map_err(|errno| StartError::new("cannot make a mount namespace", errno))
}

/// Mounts (or finds) the root file system at `rootfs/` of the instance's directory and returns a handle on it.
pub fn prepare(home: &Home, order: &LaunchOrder) -> Result<OwnedFd, StartError> {
    let target = home.join("rootfs");
    if let RootSource::Overlay {
        layers_dir,
        layers,
        user_xattr,
    } = &order.root
    {
        mount_overlay(home, &target, layers_dir, layers, *user_xattr)?;
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(&target, flags, Mode::empty()).map_err(|errno| StartError::new("cannot open its root directory", errno))
}

fn mount_overlay(
    home: &Home,
    target: &Path,
    layers_dir: &Path,
    layers: &[String],
    user_xattr: bool,
) -> Result<(), StartError> {
    let (upper, work) = (home.join("upper"), home.join("work"));
    for dir in [target, &upper, &work] {
        private_dir(dir).map_err(|error| disk_error("making its directories", &error))?;
    }
    // The root of what the container sees is this directory, and any user in there must be able to enter it.
    fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(|error| disk_error("making its directories", &error))?;
    // Overlayfs wants the topmost first, and all options on one page: so names are short ones, from here.
    std::env::set_current_dir(layers_dir).map_err(|error| StartError::new("cannot enter the layers", error))?;
    let lower: Vec<String> = layers.iter().rev().map(|name| escaped(Path::new(name))).collect();
    let mut options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        escaped(&upper),
        escaped(&work)
    );
    if user_xattr {
        options.push_str(",userxattr");
    }
    // No device of an image ever works: the container's own few are on a tmpfs at /dev.
    let mounted = mount(
        Some("overlay"),
        target,
        Some("overlay"),
        MsFlags::MS_NODEV,
        Some(options.as_str()),
    );
    std::env::set_current_dir("/").map_err(|error| StartError::new("cannot leave the layers", error))?;
    mounted.map_err(|errno| StartError::new("cannot mount its root file system (overlayfs)", errno))
}

/// `,` and `:` separate options and layers.
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.chars()
        .flat_map(|c| (matches!(c, ',' | ':' | '\\')).then_some('\\').into_iter().chain([c]))
        .collect()
}

/// Files that describe this instance and not its image: mounted over those of the image.
pub fn write_etc(home: &Home, order: &LaunchOrder) -> Result<(), StartError> {
    let etc = home.join("etc");
    let name = &order.hostname;
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let mut resolver = String::new();
    if let Some(network) = &order.network {
        hosts.push_str(&format!("{}\t{name}\n", network.address));
        resolver.push_str(&format!("nameserver {}\n", network.gateway));
    }
    let write = |file: &str, text: &str| {
        let path = etc.join(file);
        // Readable by whatever user the program is.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(path)?;
        file.write_all(text.as_bytes())
    };
    private_dir(&etc)
        .and_then(|()| write("hosts", &hosts))
        .and_then(|()| write("hostname", &format!("{name}\n")))
        .and_then(|()| write("resolv.conf", &resolver))
        .map_err(|error| disk_error("writing its /etc files", &error))
}

/// Opens a file of the image for reading. Links are followed as the container would follow them, never out of `root`.
pub fn open_beneath(root: BorrowedFd<'_>, path: &str) -> nix::Result<OwnedFd> {
    open_in(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
}

fn open_in(root: BorrowedFd<'_>, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(
        root,
        path,
        OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve),
    )
}

/// Makes a directory of the container and those above it, where they are missing.
///
/// # Errors
/// A component is something else than a directory.
pub fn make_dir(root: &OwnedFd, path: &str, mode: u32) -> Result<(), StartError> {
    let refused = |errno: Errno| StartError::new(&format!("cannot make the directory {}", path.escape_debug()), errno);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let mut walked = String::from(".");
    let mut parent = root
        .try_clone()
        .map_err(|error| StartError::new("cannot open its root directory", error))?;
    for component in Path::new(path).components().take(DEPTH_MAX) {
        let Component::Normal(name) = component else { continue };
        walked = format!("{walked}/{}", name.to_string_lossy());
        parent = match open_in(root.as_fd(), &walked, flags) {
            Err(Errno::ENOENT) => {
                mkdirat(&parent, name, Mode::from_bits_truncate(mode)).map_err(refused)?;
                let made = open_in(root.as_fd(), &walked, flags).map_err(refused)?;
                // The mask of this process must not decide what the container's users may do.
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&made));
                let _ = fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode));
                made
            }
            found => found.map_err(refused)?,
        };
    }
    Ok(())
}

pub fn disk_error(doing: &str, error: &io::Error) -> StartError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StartError(format!(
            "the disk of the data directory is full (while {doing}); free some space"
        )),
        _ => StartError::new(doing, error),
    }
}

/// What the kernel shows of a namespace; kept open so that it can be entered or referred to.
pub fn open_namespace(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(dir: &tempfile::TempDir) -> OwnedFd {
        open(dir.path(), OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).expect("a root")
    }

    #[test]
    fn a_directory_is_made_below_the_root_and_never_through_a_link_out_of_it() {
        let (inside, outside) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        std::os::unix::fs::symlink(outside.path(), inside.path().join("out")).expect("link");
        std::os::unix::fs::symlink("/real", inside.path().join("in")).expect("link");
        fs::create_dir(inside.path().join("real")).expect("dir");
        make_dir(&root(&inside), "/srv/app/data", 0o755).expect("made");
        make_dir(&root(&inside), "/../../in/deep", 0o700).expect("made");
        assert!(inside.path().join("srv/app/data").is_dir());
        assert!(inside.path().join("real/deep").is_dir());
        assert!(
            make_dir(&root(&inside), "/out/x", 0o755).is_err(),
            "the link leads nowhere inside the root"
        );
        assert_eq!(fs::read_dir(outside.path()).expect("readable").count(), 0);
    }

    #[test]
    fn separators_in_paths_are_escaped() {
        assert_eq!(escaped(Path::new("/a:b,c\\d")), "/a\\:b\\,c\\\\d");
    }
}
