//! The directory of one instance, which is the record of it: whoever finds the directory knows what there is to know.
//!
//! ```text
//! instances/<id>/
//!   record.json   what was taken on (written by the control plane before anything else happens)
//!   lock          locked by the shim for as long as it lives: the kernel's word on whether there is one
//!   shim.json     which process the shim is
//!   state.json    which process the container is (written by the shim once the program runs)
//!   stop          exists from the moment that somebody asked for the end
//!   exit.json     how it ended (written by the shim, or by the control plane when the shim was killed)
//!   log.<n>       output, the highest number is written to
//!   etc/  upper/  work/  rootfs/  run/
//! ```
//!
//! No file holds an environment value: secrets reach the shim by a pipe and are on no disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use domain::InstanceId;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::ProcessRef;
use crate::Exit;

/// What the control plane took on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub id: InstanceId,
    pub service_name: String,
    pub image_digest: String,
    /// Held until the directory is removed.
    pub address: Option<Ipv4Addr>,
    /// Number of the signal that asks the program to end.
    pub stop_signal: i32,
    /// Below the mount point of each hierarchy; `None` where there are no cgroups.
    pub cgroup: Option<PathBuf>,
    /// Microseconds since the epoch.
    pub taken_on_at_us: i64,
}

/// The program runs, or did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub init: ProcessRef,
    /// Microseconds since the epoch.
    pub started_at_us: i64,
}

/// Whether a file must survive a power cut, or only a crash of the process that writes it.
///
/// After a power cut no instance runs, so most of what is written here means nothing then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    Crash,
    PowerCut,
}

#[derive(Debug, Clone)]
pub struct Home(PathBuf);

impl Home {
    pub fn new(path: impl Into<PathBuf>) -> Home {
        Home(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn create(&self) -> io::Result<()> {
        private_dir(&self.0)
    }

    pub fn record(&self) -> io::Result<Option<Record>> {
        self.read("record.json")
    }

    pub fn write_record(&self, record: &Record) -> io::Result<()> {
        self.write("record.json", record, Durability::Crash)
    }

    pub fn shim(&self) -> io::Result<Option<ProcessRef>> {
        self.read("shim.json")
    }

    pub fn write_shim(&self, shim: &ProcessRef) -> io::Result<()> {
        self.write("shim.json", shim, Durability::Crash)
    }

    pub fn running(&self) -> io::Result<Option<Running>> {
        self.read("state.json")
    }

    pub fn write_running(&self, running: &Running) -> io::Result<()> {
        self.write("state.json", running, Durability::Crash)
    }

    pub fn exit(&self) -> io::Result<Option<Exit>> {
        self.read("exit.json")
    }

    /// Why a program ended by itself is worth the wait for the disk; that it was asked to is in the record already.
    pub fn write_exit(&self, exit: &Exit) -> io::Result<()> {
        let durability = if exit.asked {
            Durability::Crash
        } else {
            Durability::PowerCut
        };
        self.write("exit.json", exit, durability)
    }

    pub fn stop_was_asked(&self) -> bool {
        self.join("stop").exists()
    }

    pub fn ask_to_stop(&self) -> io::Result<()> {
        File::create(self.join("stop")).map(drop)
    }

    /// Takes the shim's lock; `None` when somebody holds it, which only a shim does (and its child for the moment
    /// between being made and running the program).
    pub fn lock(&self) -> io::Result<Option<Flock<File>>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.join("lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        };
        let damaged = |error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is damaged: {error}", path.display()),
            )
        };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    fn write(&self, name: &str, value: &impl Serialize, durability: Durability) -> io::Result<()> {
        let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
        replace(&self.0, name, &bytes, durability)
    }
}

/// Writes beside and renames: readers see the old content or the new one, never a part.
pub fn replace(dir: &Path, name: &str, bytes: &[u8], durability: Durability) -> io::Result<()> {
    // Several threads may replace files of one directory at once.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let beside = dir.join(format!(".{name}.{}.{count}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    let written = file.write_all(bytes).and_then(|()| match durability {
        Durability::PowerCut => file.sync_all(),
        Durability::Crash => Ok(()),
    });
    let renamed = written.and_then(|()| fs::rename(&beside, dir.join(name)));
    if renamed.is_err() {
        let _ = fs::remove_file(&beside);
    } else if durability == Durability::PowerCut {
        File::open(dir)?.sync_all()?;
    }
    renamed
}

/// A directory that nobody but its owner looks into.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_file_is_an_error_and_never_an_empty_answer() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path());
        assert!(home.record().expect("none yet").is_none());
        let record = Record {
            id: InstanceId(Default::default()),
            service_name: "web".into(),
            image_digest: "sha256:0".into(),
            address: Some(Ipv4Addr::new(10, 0, 0, 2)),
            stop_signal: 15,
            cgroup: None,
            taken_on_at_us: 1,
        };
        home.write_record(&record).expect("written");
        assert_eq!(home.record().expect("read"), Some(record));
        let whole = fs::read(home.join("record.json")).expect("bytes");
        for length in 0..whole.len() {
            fs::write(home.join("record.json"), &whole[..length]).expect("truncated");
            assert!(home.record().is_err(), "{length} bytes of {}", whole.len());
        }
    }

    #[test]
    fn a_lock_is_held_by_one_and_freed_by_its_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path());
        let held = home.lock().expect("lockable");
        assert!(held.is_some());
        assert!(home.lock().expect("lockable").is_none());
        drop(held);
        assert!(home.lock().expect("lockable").is_some());
    }
}
