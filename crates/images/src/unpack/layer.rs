//! One layer's tar stream, applied entry by entry.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, futimens, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};

use super::confined::{self, Confined, kind_of};
use super::members::{self, EntryPath, Kind, Member};
use super::whiteout::{LayerRecord, WhiteoutForm};
use crate::digest::{Digest, Hasher};
use crate::error::{ImageError, IoContext, Result};
use crate::limits::{Limits, RATIO_GRACE_BYTES};
use crate::stream::{BUFFER_BYTES, Cap, Capped, Counted, Fault, Ratio, decompressed};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// Older tools keep their own notes under these names.
const WHITEOUT_META: &[u8] = b".wh..wh.";

/// A stored layer that is to be unpacked.
pub(crate) struct LayerSource {
    /// For messages: `the layer sha256:…`.
    pub what: String,
    pub blob: File,
    /// What the plain tar stream must hash to.
    pub diff_id: Digest,
    /// On the plain tar stream.
    pub cap: Cap,
}

/// Unpacks into `tree`, an empty directory. `below` are the unpacked layers under this one, lowest first: a directory
/// that the archive uses without describing it looks as it does there.
///
/// # Errors
/// Whatever an archive can do wrong ([`super`]); the content of `tree` is then to be thrown away.
pub(crate) fn unpack(
    source: LayerSource,
    tree: &Path,
    below: &[PathBuf],
    form: WhiteoutForm,
    limits: &Limits,
) -> Result<LayerRecord> {
    let LayerSource {
        what,
        blob,
        diff_id,
        cap,
    } = source;
    let fault = Fault::default();
    let (counted, compressed) = Counted::new(blob);
    let (plain, _) = decompressed(counted, &what)?;
    let ratio = Ratio {
        source: compressed,
        times: limits.layer_ratio,
        grace_bytes: RATIO_GRACE_BYTES,
        limit: "layer_ratio",
    };
    let capped = Capped::new(plain, cap, Some(ratio), fault.clone());
    let hashed = Hashed {
        inner: capped,
        hasher: Hasher::default(),
        bytes: 0,
    };

    let mut builder = LayerBuilder::new(tree, below, form, limits)?;
    let mut rest = members::for_each(hashed, &what, &fault, |member, body| builder.add(member, body, &fault))?;
    // What follows the end of the archive belongs to the hash, and to the cap.
    io::copy(&mut rest, &mut io::sink()).map_err(|error| fault.explain(&what, error))?;
    let actual = rest.hasher.finish();
    if actual != diff_id {
        return Err(ImageError::DigestMismatch {
            what: format!("{what}, unpacked,"),
            expected: diff_id,
            actual,
        });
    }
    builder.finish(rest.bytes)
}

struct Hashed<R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// Owner, mode and time of a directory, set when nothing is put into it any more.
struct Dress {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

struct LayerBuilder<'a> {
    tree: &'a Path,
    below: &'a [PathBuf],
    form: WhiteoutForm,
    /// Whether we may give files away.
    keeps_owners: bool,
    root: Confined,
    directories: BTreeMap<EntryPath, Dress>,
    whiteouts: BTreeSet<EntryPath>,
    opaques: BTreeSet<EntryPath>,
    entries: u64,
    entries_max: u64,
    buffer: Vec<u8>,
}

impl<'a> LayerBuilder<'a> {
    fn new(tree: &'a Path, below: &'a [PathBuf], form: WhiteoutForm, limits: &Limits) -> Result<LayerBuilder<'a>> {
        let mut builder = LayerBuilder {
            tree,
            below,
            form,
            keeps_owners: nix::unistd::geteuid().is_root(),
            root: Confined::open(tree).while_doing("opening", tree)?,
            directories: BTreeMap::new(),
            whiteouts: BTreeSet::new(),
            opaques: BTreeSet::new(),
            entries: 0,
            entries_max: limits.layer_entries,
            buffer: vec![0; BUFFER_BYTES],
        };
        builder
            .directories
            .insert(EntryPath::default(), builder.implied(&EntryPath::default()));
        Ok(builder)
    }

    fn add(&mut self, member: Member, body: &mut dyn Read, fault: &Fault) -> Result<()> {
        self.entries += 1;
        if self.entries > self.entries_max {
            let what = "the number of entries of the layer";
            return Err(ImageError::too_large(what, "layer_entries", self.entries_max));
        }
        let Some((parent, name)) = member.path.split() else {
            return match member.kind {
                Kind::Directory => self.add_directory(member),
                _ => Err(ImageError::Escapes {
                    entry: "/".to_owned(),
                    problem: "it would replace the root",
                }),
            };
        };
        if parent
            .components()
            .any(|component| component.starts_with(WHITEOUT_PREFIX))
        {
            return Err(ImageError::corrupt(entry(&member.path), "it lies inside a whiteout"));
        }
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.add_whiteout(&member, &parent, name);
        }
        match member.kind {
            Kind::Directory => self.add_directory(member),
            Kind::File { size } => self.add_file(&member, size, body, fault),
            Kind::Symlink { ref target } => self.add_symlink(&member, target),
            Kind::HardLink { ref target } => self.add_hard_link(&member.path, target),
            Kind::Special => {
                tracing::debug!(entry = %member.path.shown(), "left out a device node or fifo");
                Ok(())
            }
        }
    }

    fn add_file(&mut self, member: &Member, size: u64, body: &mut dyn Read, fault: &Fault) -> Result<()> {
        let (parent, name) = self.place(&member.path)?;
        let mut file = confined::create_file(&parent, &name).while_doing("creating", &self.host(&member.path))?;
        let written = self.copy(body, &mut file, &member.path, fault)?;
        if written != size {
            return Err(ImageError::corrupt(
                entry(&member.path),
                "the archive ends in the middle of it",
            ));
        }
        self.set_xattrs(&file, member)?;
        self.chown(&file, (member.uid, member.gid), &member.path)?;
        // After chown, which clears bits.
        let mode = Mode::from_bits_truncate(member.mode & 0o1777);
        fchmod(&file, mode).while_doing("setting the mode of", &self.host(&member.path))?;
        let time = timespec(member.mtime);
        futimens(&file, &time, &time).while_doing("setting the time of", &self.host(&member.path))
    }

    fn copy(&mut self, body: &mut dyn Read, file: &mut File, path: &EntryPath, fault: &Fault) -> Result<u64> {
        let mut written: u64 = 0;
        loop {
            match body.read(&mut self.buffer) {
                Ok(0) => return Ok(written),
                Ok(n) => {
                    file.write_all(&self.buffer[..n])
                        .while_doing("unpacking", &self.host(path))?;
                    written += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fault.explain(&entry(path), error)),
            }
        }
    }

    fn add_symlink(&mut self, member: &Member, target: &[u8]) -> Result<()> {
        let (parent, name) = self.place(&member.path)?;
        let name = OsStr::from_bytes(&name);
        let host = self.host(&member.path);
        symlinkat(OsStr::from_bytes(target), &parent, name).while_doing("creating", &host)?;
        if self.keeps_owners {
            let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
            mapped(fchownat(
                &parent,
                name,
                Some(uid),
                Some(gid),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            ))
            .while_doing("setting the owner of", &host)?;
        }
        let time = timespec(member.mtime);
        utimensat(&parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
            .while_doing("setting the time of", &host)
    }

    fn add_hard_link(&mut self, path: &EntryPath, target: &EntryPath) -> Result<()> {
        if path == target {
            return Ok(());
        }
        let missing = || {
            ImageError::corrupt(
                entry(path),
                format!("it links to `{}`, which is not there", target.shown()),
            )
        };
        let (from, target_name) = target.split().ok_or_else(missing)?;
        let from = match self.root.directory(&from) {
            Err(Errno::ELOOP) => return Err(escapes(path, "it links to a file through a symbolic link")),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(missing()),
            other => other.while_doing("opening", &self.host(target))?,
        };
        let found = confined::stat_in(&from, target_name).map_err(|_| missing())?;
        if !matches!(kind_of(&found), SFlag::S_IFREG | SFlag::S_IFLNK) {
            return Err(ImageError::corrupt(
                entry(path),
                "it links to something that is no file",
            ));
        }
        let (parent, name) = self.place(path)?;
        let done = linkat(
            &from,
            OsStr::from_bytes(target_name),
            &parent,
            OsStr::from_bytes(&name),
            AtFlags::empty(),
        );
        match done {
            // Making room for the link removed what it leads to.
            Err(Errno::ENOENT) => Err(missing()),
            other => other.while_doing("linking", &self.host(path)),
        }
    }

    fn add_directory(&mut self, member: Member) -> Result<()> {
        if let Some((parent, name)) = member.path.split() {
            let parent = self.parent(&parent, &member.path)?;
            let exists = confined::stat_in(&parent, name).is_ok_and(|found| kind_of(&found) == SFlag::S_IFDIR);
            if !exists {
                self.clear(&parent, name, &member.path)?;
                self.make_directory(&parent, name, &member.path)?;
            }
        }
        let dress = Dress {
            mode: member.mode,
            owner: (member.uid, member.gid),
            mtime: member.mtime,
            xattrs: member.xattrs,
        };
        self.directories.insert(member.path, dress);
        Ok(())
    }

    fn add_whiteout(&mut self, member: &Member, parent: &EntryPath, name: &[u8]) -> Result<()> {
        if !matches!(member.kind, Kind::File { .. } | Kind::HardLink { .. }) {
            return Err(ImageError::corrupt(entry(&member.path), "a whiteout is an empty file"));
        }
        if name == WHITEOUT_OPAQUE {
            let dir = self.parent(parent, &member.path)?;
            return self.make_opaque(&dir, parent);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let gone = &name[WHITEOUT_PREFIX.len()..];
        if gone.is_empty() || gone == b"." || gone == b".." {
            return Err(escapes(&member.path, "it would delete a directory above it"));
        }
        let path = parent.join(gone);
        let dir = self.parent(parent, &member.path)?;
        match confined::stat_in(&dir, gone) {
            // The archive has its own directory of that name: only what is lower goes.
            Ok(found) if kind_of(&found) == SFlag::S_IFDIR => {
                let own = confined::open_directory(&dir, gone).while_doing("opening", &self.host(&path))?;
                self.make_opaque(&own, &path)
            }
            Ok(_) => Ok(()),
            Err(_) => {
                if self.form != WhiteoutForm::Recorded {
                    mknodat(&dir, OsStr::from_bytes(gone), SFlag::S_IFCHR, Mode::empty(), 0)
                        .while_doing("creating the whiteout", &self.host(&path))?;
                }
                self.whiteouts.insert(path);
                Ok(())
            }
        }
    }

    /// Makes room for a new entry: its parents exist, and nothing is in its place.
    fn place(&mut self, path: &EntryPath) -> Result<(Rc<OwnedFd>, Vec<u8>)> {
        let Some((parent, name)) = path.split() else {
            return Err(escapes(path, "it would replace the root"));
        };
        let parent = self.parent(&parent, path)?;
        self.clear(&parent, name, path)?;
        self.whiteouts.remove(path);
        Ok((parent, name.to_vec()))
    }

    fn clear(&mut self, parent: &Rc<OwnedFd>, name: &[u8], path: &EntryPath) -> Result<()> {
        let found = match confined::stat_in(parent, name) {
            Err(Errno::ENOENT) => None,
            other => Some(other.while_doing("looking at", &self.host(path))?),
        };
        if let Some(found) = found {
            confined::remove_in(parent, name).while_doing("replacing", &self.host(path))?;
            if kind_of(&found) == SFlag::S_IFDIR {
                self.root.forget();
                self.forget_below(path);
            }
        }
        Ok(())
    }

    /// Notes about a directory that is gone must not be applied to what takes its place.
    fn forget_below(&mut self, path: &EntryPath) {
        let inside = |other: &EntryPath| {
            other == path
                || other
                    .as_bytes()
                    .strip_prefix(path.as_bytes())
                    .is_some_and(|rest| rest.starts_with(b"/"))
        };
        self.directories.retain(|other, _| !inside(other));
        self.whiteouts.retain(|other| !inside(other));
        self.opaques.retain(|other| !inside(other));
    }

    /// The directory `path`, made with all its parents where it is missing. `entry_path` is the entry that needs it.
    fn parent(&mut self, path: &EntryPath, entry_path: &EntryPath) -> Result<Rc<OwnedFd>> {
        match self.root.directory(path) {
            Ok(fd) => Ok(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => self.make_parents(path, entry_path),
            Err(errno) => Err(ImageError::io("opening", &self.host(path), errno.into())),
        }
    }

    fn make_parents(&mut self, path: &EntryPath, entry_path: &EntryPath) -> Result<Rc<OwnedFd>> {
        let mut at = EntryPath::default();
        let mut current = self.root.directory(&at).while_doing("opening", self.tree)?;
        for component in path.components() {
            at = at.join(component);
            if self.whiteouts.contains(&at) {
                self.clear(&current, component, &at)?;
            }
            match confined::open_directory(&current, component) {
                Ok(fd) => {
                    current = Rc::new(fd);
                    continue;
                }
                Err(Errno::ENOENT) => {}
                Err(Errno::ELOOP) => return Err(escapes(entry_path, "its path goes through a symbolic link")),
                Err(Errno::ENOTDIR) => {
                    let problem = format!("`{}` is no directory", at.shown());
                    return Err(ImageError::corrupt(entry(entry_path), problem));
                }
                Err(errno) => return Err(ImageError::io("opening", &self.host(&at), errno.into())),
            }
            self.make_directory(&current, component, &at)?;
            let dress = self.implied(&at);
            self.directories.insert(at.clone(), dress);
            let made = confined::open_directory(&current, component).while_doing("opening", &self.host(&at))?;
            current = Rc::new(made);
        }
        Ok(current)
    }

    /// A directory in place of a whiteout hides what is lower, as the whiteout did.
    fn make_directory(&mut self, parent: &Rc<OwnedFd>, name: &[u8], path: &EntryPath) -> Result<()> {
        confined::make_directory(parent, name).while_doing("creating", &self.host(path))?;
        if self.whiteouts.remove(path) {
            let made = confined::open_directory(parent, name).while_doing("opening", &self.host(path))?;
            self.make_opaque(&made, path)?;
        }
        Ok(())
    }

    fn make_opaque(&mut self, dir: &OwnedFd, path: &EntryPath) -> Result<()> {
        if let Some(attribute) = self.form.opaque_xattr() {
            confined::set_xattr(dir, attribute, b"y").while_doing("marking", &self.host(path))?;
        }
        self.opaques.insert(path.clone());
        Ok(())
    }

    /// How a directory looks that the archive does not describe: as in the layers below, else like a new one.
    fn implied(&self, path: &EntryPath) -> Dress {
        for tree in self.below.iter().rev() {
            let found = Confined::open(tree).ok().and_then(|mut tree| tree.stat(path).ok());
            let Some(found) = found else { continue };
            if kind_of(&found) == SFlag::S_IFDIR {
                return Dress {
                    mode: found.st_mode & 0o7777,
                    owner: (found.st_uid, found.st_gid),
                    mtime: (found.st_mtime, found.st_mtime_nsec),
                    xattrs: Vec::new(),
                };
            }
            break;
        }
        Dress {
            mode: 0o755,
            owner: (0, 0),
            mtime: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// Sets what was put off: the looks of directories, deepest first, so that none is closed before its content.
    fn finish(mut self, bytes: u64) -> Result<LayerRecord> {
        for (path, dress) in std::mem::take(&mut self.directories).into_iter().rev() {
            let host = self.host(&path);
            let dir = self.root.directory(&path).while_doing("opening", &host)?;
            for (name, value) in &dress.xattrs {
                optional(confined::set_xattr(&dir, name, value)).while_doing("setting attributes of", &host)?;
            }
            self.chown(&dir, dress.owner, &path)?;
            fchmod(&dir, Mode::from_bits_truncate(dress.mode)).while_doing("setting the mode of", &host)?;
            let time = timespec(dress.mtime);
            futimens(&dir, &time, &time).while_doing("setting the time of", &host)?;
        }
        Ok(LayerRecord {
            form: self.form,
            bytes,
            entries: self.entries,
            whiteouts: self.whiteouts,
            opaques: self.opaques,
        })
    }

    fn set_xattrs(&self, file: &File, member: &Member) -> Result<()> {
        for (name, value) in &member.xattrs {
            optional(confined::set_xattr(file, name, value))
                .while_doing("setting attributes of", &self.host(&member.path))?;
        }
        Ok(())
    }

    fn chown(&self, file: &impl std::os::fd::AsFd, (uid, gid): (u32, u32), path: &EntryPath) -> Result<()> {
        if !self.keeps_owners {
            return Ok(());
        }
        mapped(fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
            .while_doing("setting the owner of", &self.host(path))
    }

    /// For messages only: nothing is ever opened by this path.
    fn host(&self, path: &EntryPath) -> PathBuf {
        self.tree.join(OsStr::from_bytes(path.as_bytes()))
    }
}

/// In a user namespace some ids do not exist; their files stay ours.
fn mapped(done: nix::Result<()>) -> nix::Result<()> {
    match done {
        Err(Errno::EINVAL | Errno::EPERM) => Ok(()),
        other => other,
    }
}

/// A file system without user attributes loses them; nothing that runs depends on one.
fn optional(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTSUP | libc::EPERM)) => Ok(()),
        other => other,
    }
}

fn timespec((seconds, nanos): (i64, i64)) -> TimeSpec {
    TimeSpec::new(seconds, nanos)
}

fn entry(path: &EntryPath) -> String {
    format!("the layer entry `{}`", path.shown())
}

fn escapes(path: &EntryPath, problem: &'static str) -> ImageError {
    ImageError::Escapes {
        entry: path.shown(),
        problem,
    }
}
