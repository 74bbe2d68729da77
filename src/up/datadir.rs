//! The data directory: made, owned, locked.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use store::RootKey;

/// Holds the lock of a data directory: one control plane at a time works on it.
pub struct DataDir {
    path: PathBuf,
    _lock: Flock<File>,
}

const ROOT_KEY_BYTES: usize = 32;

impl DataDir {
    /// Makes the directory where it is missing (mode 0700) and takes its lock.
    ///
    /// # Errors
    /// It belongs to another user, another `hob up` works on it, or it cannot be made.
    pub fn open(path: &Path, uid: u32) -> Result<DataDir> {
        let shown = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the data directory {shown}; give another one with --data-dir"))?;
        let found = fs::metadata(path).with_context(|| format!("cannot look at {shown}"))?;
        if found.uid() != uid {
            bail!(
                "the data directory {shown} belongs to user {} and you are user {uid}; run as that user or give \
                 another one with --data-dir",
                found.uid()
            );
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot close {shown}"))?;
        let lock = lock(&path.join("lock"))?;
        Ok(DataDir {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// A path inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A directory inside, made with mode 0700 where it is missing.
    pub fn subdir(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path);
    let mut file = open.with_context(|| format!("cannot open {}", path.display()))?;
    let mut holder = String::new();
    // For the message only: an unreadable holder is not worth failing for.
    let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)?;
            lock.rewind()?;
            write!(&mut *lock, "{}", std::process::id())?;
            Ok(lock)
        }
        Err(_) => bail!(
            "another `hob up` (process {}) works on {}; stop it first or give another --data-dir",
            holder.trim(),
            path.parent().unwrap_or(path).display()
        ),
    }
}

/// The root key, and whether it has its name already.
pub struct FoundKey {
    pub key: RootKey,
    /// Made at this first start, or at one that did not get far: it gets its name when the database is there. Until
    /// then a database that is missing is one that has never been.
    pub unnamed: Option<PathBuf>,
}

/// Reads the root key, or makes it at the very first start.
///
/// # Errors
/// The key is gone although `database_exists`: without it no secret can be read, and a new one would make that final.
pub fn root_key(path: &Path, database_exists: bool) -> Result<FoundKey> {
    if let Some(key) = read_root_key(path)? {
        return Ok(FoundKey { key, unnamed: None });
    }
    let beside = path.with_extension("new");
    let key = match read_root_key(&beside)? {
        Some(key) => key,
        None if database_exists => bail!(
            "the root key {} is missing, and without it the secrets in the database cannot be read; put it back from a \
             backup or name it with --root-key-file",
            path.display()
        ),
        None => make_root_key(&beside)?,
    };
    Ok(FoundKey {
        key,
        unnamed: Some(beside),
    })
}

/// Gives a new root key its name, durably.
pub fn name_root_key(unnamed: &Path, path: &Path) -> Result<()> {
    let rename = || -> std::io::Result<()> {
        fs::rename(unnamed, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    rename().with_context(|| format!("cannot make the root key {}", path.display()))
}

fn read_root_key(path: &Path) -> Result<Option<RootKey>> {
    match fs::read(path) {
        Ok(bytes) => {
            let bytes: [u8; ROOT_KEY_BYTES] = bytes.try_into().ok().with_context(|| {
                format!(
                    "the root key {} is damaged (it has {ROOT_KEY_BYTES} bytes); put it back from a backup",
                    path.display()
                )
            })?;
            Ok(Some(RootKey::new(bytes)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read the root key {}", path.display())),
    }
}

/// Durable before it is used: a key that wraps something and is lost in a power cut takes it along.
fn make_root_key(path: &Path) -> Result<RootKey> {
    let key: [u8; ROOT_KEY_BYTES] = rand::random();
    let beside = path.with_extension("writing");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&key)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot make the root key {}", path.display()))?;
    name_root_key(&beside, path)?;
    Ok(RootKey::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> u32 {
        nix::unistd::getuid().as_raw()
    }

    #[test]
    fn a_second_control_plane_on_the_same_directory_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path(), uid()).unwrap();
        let second = DataDir::open(dir.path(), uid())
            .err()
            .expect("the lock is held")
            .to_string();
        assert!(second.contains(&format!("process {}", std::process::id())), "{second}");
        drop(first);
        DataDir::open(dir.path(), uid()).unwrap();
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = DataDir::open(dir.path(), uid() + 1)
            .err()
            .expect("not ours")
            .to_string();
        assert!(error.contains("belongs to user"), "{error}");
    }

    #[test]
    fn a_root_key_is_made_once_and_missed_when_it_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let unnamed = root_key(&path, false).unwrap().unnamed.expect("a first start");
        name_root_key(&unnamed, &path).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(root_key(&path, true).unwrap().unnamed, None);
        assert_eq!(fs::read(&path).unwrap(), bytes);
        fs::remove_file(&path).unwrap();
        let error = root_key(&path, true).err().expect("lost").to_string();
        assert!(error.contains("missing"), "{error}");
        fs::write(&path, b"short").unwrap();
        assert!(
            root_key(&path, true)
                .err()
                .expect("damaged")
                .to_string()
                .contains("damaged")
        );
    }

    #[test]
    fn a_first_start_that_does_not_get_far_is_followed_by_another_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let unnamed = root_key(&path, false).unwrap().unnamed.expect("a first start");
        let bytes = fs::read(&unnamed).unwrap();
        let again = root_key(&path, true).unwrap().unnamed.expect("still a first start");
        assert_eq!(fs::read(again).unwrap(), bytes);
    }
}
