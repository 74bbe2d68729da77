//! Layers merged into one plain directory, for machines where overlayfs is refused.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};

use crate::error::{ImageError, IoContext, Result};
use crate::tree;
use crate::unpack::confined::{self, Confined, kind_of};
use crate::unpack::{EntryPath, LayerRecord};

/// Merges `layers`, lowest first, into `dest`, which must not exist and appears whole or not at all. Names, links,
/// owners, modes and times are kept; extended attributes are not.
pub(crate) fn into_new(layers: &[(PathBuf, LayerRecord)], dest: &Path) -> Result<()> {
    if fs::symlink_metadata(dest).is_ok() {
        return Err(ImageError::io("creating", dest, io::ErrorKind::AlreadyExists.into()));
    }
    let mut name = dest.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", uuid::Uuid::now_v7().simple()));
    let beside = dest.with_file_name(name);
    fs::create_dir(&beside).while_doing("creating", &beside)?;
    let merged = merge(layers, &beside).and_then(|()| fs::rename(&beside, dest).while_doing("renaming", dest));
    if merged.is_err() {
        let _ = tree::remove(&beside);
    }
    merged
}

fn merge(layers: &[(PathBuf, LayerRecord)], dest: &Path) -> Result<()> {
    let mut target = Confined::open(dest).while_doing("opening", dest)?;
    let mut looks = HashMap::new();
    for (tree, record) in layers {
        for path in &record.whiteouts {
            target.remove(path).while_doing("removing from", dest)?;
        }
        for path in &record.opaques {
            empty(&mut target, path).while_doing("removing from", dest)?;
        }
        let source = File::open(tree).while_doing("opening", tree)?;
        let mut copy = LayerCopy {
            target: &mut target,
            links: HashMap::new(),
            looks: &mut looks,
        };
        copy.directory(&source.into(), &EntryPath::default())
            .while_doing("copying the image's files into", dest)?;
    }
    let mut paths: Vec<(EntryPath, FileStat)> = looks.into_iter().collect();
    paths.sort_by(|(a, _), (b, _)| b.cmp(a));
    for (path, look) in paths {
        match target.directory(&path) {
            Ok(dir) => dress(&dir, &look).while_doing("copying the image's files into", dest)?,
            // A later layer put something else there.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(errno) => return Err(ImageError::io("opening", dest, errno.into())),
        }
    }
    Ok(())
}

fn empty(target: &mut Confined, path: &EntryPath) -> nix::Result<()> {
    let dir = match target.directory(path) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
        other => other?,
    };
    target.forget();
    let names = confined::names_in(openat(&dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?)?;
    names.iter().try_for_each(|name| confined::remove_in(&dir, name))
}

struct LayerCopy<'a> {
    target: &'a mut Confined,
    /// Where a file with several names was put first, by device and inode.
    links: HashMap<(u64, u64), EntryPath>,
    looks: &'a mut HashMap<EntryPath, FileStat>,
}

impl LayerCopy<'_> {
    fn directory(&mut self, source: &OwnedFd, path: &EntryPath) -> nix::Result<()> {
        self.looks.insert(path.clone(), nix::sys::stat::fstat(source)?);
        let listing = openat(
            source,
            ".",
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        for name in confined::names_in(listing)? {
            let found = confined::stat_in(source, &name)?;
            let path = path.join(&name);
            match kind_of(&found) {
                SFlag::S_IFDIR => {
                    self.make_directory(&path)?;
                    self.directory(&confined::open_directory(source, &name)?, &path)?;
                }
                SFlag::S_IFREG => self.file(source, &name, &found, &path)?,
                SFlag::S_IFLNK => self.symlink(source, &name, &found, &path)?,
                // Whiteouts, which were applied from the record.
                _ => {}
            }
        }
        Ok(())
    }

    fn make_directory(&mut self, path: &EntryPath) -> nix::Result<()> {
        if self
            .target
            .stat(path)
            .is_ok_and(|found| kind_of(&found) == SFlag::S_IFDIR)
        {
            return Ok(());
        }
        self.target.remove(path)?;
        let Some((parent, name)) = path.split() else {
            return Ok(());
        };
        let parent = self.target.directory(&parent)?;
        confined::make_directory(&parent, name)
    }

    fn file(&mut self, source: &OwnedFd, name: &[u8], found: &FileStat, path: &EntryPath) -> nix::Result<()> {
        self.target.remove(path)?;
        let Some((parent, last)) = path.split() else {
            return Ok(());
        };
        let parent = self.target.directory(&parent)?;
        let inode = (found.st_dev, found.st_ino);
        if found.st_nlink > 1 {
            if let Some(first) = self.links.get(&inode).cloned()
                && let Some((dir, first)) = first.split()
            {
                let dir = self.target.directory(&dir)?;
                return linkat(
                    &dir,
                    OsStr::from_bytes(first),
                    &parent,
                    OsStr::from_bytes(last),
                    AtFlags::empty(),
                );
            }
            self.links.insert(inode, path.clone());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut from = File::from(openat(source, OsStr::from_bytes(name), flags, Mode::empty())?);
        let mut to = confined::create_file(&parent, last)?;
        io::copy(&mut from, &mut to).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        dress(&to, found)
    }

    fn symlink(&mut self, source: &OwnedFd, name: &[u8], found: &FileStat, path: &EntryPath) -> nix::Result<()> {
        self.target.remove(path)?;
        let Some((parent, last)) = path.split() else {
            return Ok(());
        };
        let parent = self.target.directory(&parent)?;
        let last = OsStr::from_bytes(last);
        symlinkat(readlinkat(source, OsStr::from_bytes(name))?.as_os_str(), &parent, last)?;
        if nix::unistd::geteuid().is_root() {
            let (uid, gid) = owner(found);
            fchownat(&parent, last, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        let time = mtime(found);
        utimensat(&parent, last, &time, &time, UtimensatFlags::NoFollowSymlink)
    }
}

/// Owner, mode and time of an open file or directory as those of `look`.
fn dress(file: &impl AsFd, look: &FileStat) -> nix::Result<()> {
    if nix::unistd::geteuid().is_root() {
        let (uid, gid) = owner(look);
        fchown(file, Some(uid), Some(gid))?;
    }
    fchmod(file, Mode::from_bits_truncate(look.st_mode & 0o7777))?;
    let time = mtime(look);
    futimens(file, &time, &time)
}

fn owner(look: &FileStat) -> (Uid, Gid) {
    (Uid::from_raw(look.st_uid), Gid::from_raw(look.st_gid))
}

fn mtime(look: &FileStat) -> TimeSpec {
    TimeSpec::new(look.st_mtime, look.st_mtime_nsec)
}
