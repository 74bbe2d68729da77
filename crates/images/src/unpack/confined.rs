//! A directory that nothing done through it can leave.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::members::EntryPath;

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Mode of a directory while the tree is being built; its own mode is set last.
pub(crate) const BUILDING: Mode = Mode::S_IRWXU;

/// The root of a tree that is being built from untrusted names.
///
/// **Guarantees:** every path is resolved by the kernel from the root's descriptor with `openat2` beneath it and without
/// any symbolic link; where the kernel or a sandbox lacks that call, component by component with the same effect. The
/// last component of a path is never followed either.
///
/// **Assumptions:** nobody else writes into the tree meanwhile.
pub(crate) struct Confined {
    root: Rc<OwnedFd>,
    has_openat2: bool,
    /// The directory of the last entry: archives come sorted by directory.
    last: Option<(EntryPath, Rc<OwnedFd>)>,
}

impl Confined {
    pub(crate) fn open(root: &Path) -> io::Result<Confined> {
        let root = File::options().read(true).open(root)?;
        Ok(Confined {
            root: Rc::new(root.into()),
            has_openat2: true,
            last: None,
        })
    }

    /// The directory `path`.
    ///
    /// # Errors
    /// `ELOOP` when the path goes through a symbolic link, `ENOTDIR` through anything else that is no directory,
    /// `ENOENT` when it does not exist.
    pub(crate) fn directory(&mut self, path: &EntryPath) -> nix::Result<Rc<OwnedFd>> {
        if path.is_root() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(fd));
        }
        let fd = Rc::new(self.resolve(path)?);
        self.last = Some((path.clone(), Rc::clone(&fd)));
        Ok(fd)
    }

    fn resolve(&mut self, path: &EntryPath) -> nix::Result<OwnedFd> {
        if self.has_openat2 {
            let how = OpenHow::new().flags(DIRECTORY).resolve(
                ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            );
            match openat2(&self.root, OsStr::from_bytes(path.as_bytes()), how) {
                Err(Errno::ENOSYS | Errno::EPERM) => self.has_openat2 = false,
                // Could be a link at the end of the path; the walk tells.
                Err(Errno::ENOTDIR) => {}
                other => return other,
            }
        }
        let mut current = Rc::clone(&self.root);
        for component in path.components() {
            current = Rc::new(open_directory(&current, component)?);
        }
        Rc::try_unwrap(current).or_else(|shared| shared.try_clone().map_err(|_| Errno::EMFILE))
    }

    /// Must be called when a directory may have been replaced.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    /// What is at `path`, itself and not what it links to.
    pub(crate) fn stat(&mut self, path: &EntryPath) -> nix::Result<FileStat> {
        match path.split() {
            None => nix::sys::stat::fstat(&self.root),
            Some((parent, name)) => {
                let parent = self.directory(&parent)?;
                stat_in(&parent, name)
            }
        }
    }

    /// Removes what is at `path`, a whole tree if need be; succeeds when there is nothing.
    pub(crate) fn remove(&mut self, path: &EntryPath) -> nix::Result<()> {
        let Some((parent, name)) = path.split() else {
            return Err(Errno::EBUSY);
        };
        let parent = match self.directory(&parent) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
            other => other?,
        };
        self.forget();
        remove_in(&parent, name)
    }
}

/// The directory `name` of `parent`. A symbolic link there is `ELOOP`, anything else that is no directory `ENOTDIR`.
pub(crate) fn open_directory(parent: &impl AsFd, name: &[u8]) -> nix::Result<OwnedFd> {
    openat(parent, OsStr::from_bytes(name), DIRECTORY, Mode::empty()).map_err(|errno| {
        // O_DIRECTORY together with O_NOFOLLOW reports a link as "not a directory".
        let is_link = || stat_in(parent, name).is_ok_and(|found| kind_of(&found) == SFlag::S_IFLNK);
        if errno == Errno::ENOTDIR && is_link() {
            Errno::ELOOP
        } else {
            errno
        }
    })
}

pub(crate) fn stat_in(parent: &impl AsFd, name: &[u8]) -> nix::Result<FileStat> {
    fstatat(parent, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW)
}

pub(crate) fn kind_of(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

/// A new file, never an existing one and never through a link.
pub(crate) fn create_file(parent: &impl AsFd, name: &[u8]) -> nix::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, OsStr::from_bytes(name), flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
}

pub(crate) fn make_directory(parent: &impl AsFd, name: &[u8]) -> nix::Result<()> {
    mkdirat(parent, OsStr::from_bytes(name), BUILDING)
}

/// Removes `name` of `parent`, a whole tree if need be. The depth of a tree is capped where names are parsed.
pub(crate) fn remove_in(parent: &impl AsFd, name: &[u8]) -> nix::Result<()> {
    match unlinkat(parent, OsStr::from_bytes(name), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    for child in names_in(open_directory(parent, name)?)? {
        let dir = open_directory(parent, name)?;
        remove_in(&dir, &child)?;
    }
    unlinkat(parent, OsStr::from_bytes(name), UnlinkatFlags::RemoveDir)
}

/// The names in a directory, sorted, so that what is made of them does not depend on the disk.
pub(crate) fn names_in(dir: OwnedFd) -> nix::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in nix::dir::Dir::from_fd(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Sets an extended attribute of an open file or directory.
pub(crate) fn set_xattr(file: &impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: both pointers are valid for the given lengths during the call, and the name ends with NUL.
    let done = unsafe {
        libc::fsetxattr(
            file.as_fd().as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
