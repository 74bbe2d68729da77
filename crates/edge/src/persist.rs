//! The routing table on disk: the edge starts from the one that it acknowledged last (invariant 21).
//!
//! Two generations, `table.json` and `table.prev.json`. Each file is a line that tells length and checksum, and a line
//! of JSON, so that a file that was cut short, has a tail of zeros, or was written halfway is never taken for a table.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use domain::routing::RoutingTable;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use serde::{Deserialize, Serialize};

const CURRENT: &str = "table.json";
const PREVIOUS: &str = "table.prev.json";
const DRAFT: &str = "table.json.new";

/// Most bytes of a table file; a longer one is not read.
pub const MAX_TABLE_BYTES: u64 = 64 << 20;

/// The directory of the table files. Held open, so that it stays reachable after privileges were dropped.
pub struct TableDir {
    dir: OwnedFd,
}

#[derive(Serialize, Deserialize)]
struct Seal {
    format: u32,
    bytes: usize,
    fnv1a: String,
}

const FORMAT: u32 = 1;

impl TableDir {
    /// # Errors
    /// When there is no such directory, or it may not be opened.
    pub fn open(path: &Path) -> io::Result<TableDir> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(TableDir {
            dir: open(path, flags, Mode::empty())?,
        })
    }

    /// The newest table that can be read whole; an empty one where none was ever written.
    pub fn load(&self) -> RoutingTable {
        let mut best: Option<RoutingTable> = None;
        for name in [CURRENT, PREVIOUS] {
            match self.read(name) {
                Ok(table) if best.as_ref().is_none_or(|best| table.epoch > best.epoch) => best = Some(table),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::error!(file = name, error = %error, "this routing table cannot be used"),
            }
        }
        best.unwrap_or_default()
    }

    fn read(&self, name: &str) -> io::Result<RoutingTable> {
        let file = File::from(openat(
            &self.dir,
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?);
        let mut bytes = Vec::new();
        file.take(MAX_TABLE_BYTES + 1).read_to_end(&mut bytes)?;
        unseal(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "cut short or damaged"))
    }

    /// Makes `table` the one that the next start begins from.
    ///
    /// # Guarantees
    /// When this returns `Ok`, the table is on disk. At every instant before, and after a crash or a power cut at any
    /// instant, either this table or the one before can be read whole: the draft is synced before it gets a name that
    /// is looked at, and the current file keeps its name until the rename replaces it.
    ///
    /// # Errors
    /// As the file system says. A failed sync leaves the draft behind as garbage, never to be renamed; the next call
    /// writes a new one.
    pub fn store(&self, table: &RoutingTable) -> io::Result<()> {
        let sealed = seal(table)?;
        if sealed.len() as u64 > MAX_TABLE_BYTES {
            return Err(io::Error::other(format!(
                "a table of {} bytes is longer than the limit",
                sealed.len()
            )));
        }
        self.remove(DRAFT)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mut draft = File::from(openat(&self.dir, DRAFT, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        draft.write_all(&sealed)?;
        draft.sync_all()?;
        // A damaged current file is no generation worth keeping: it must not push out a good previous one.
        if self.read(CURRENT).is_ok() {
            self.remove(PREVIOUS)?;
            linkat(&self.dir, CURRENT, &self.dir, PREVIOUS, AtFlags::empty())?;
        }
        renameat(&self.dir, DRAFT, &self.dir, CURRENT)?;
        Ok(nix::unistd::fsync(self.dir.as_fd())?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the directory and what is in it to another user, who will write the tables from now on.
    ///
    /// # Errors
    /// As the file system says.
    pub fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        use nix::unistd::{Gid, Uid, fchown, fchownat};
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchown(&self.dir, uid, gid)?;
        for name in [CURRENT, PREVIOUS, DRAFT] {
            match fchownat(&self.dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(()) | Err(nix::Error::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes the lock that one edge at a time holds on its directory; it ends with the returned file.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another edge holds it.
    pub fn lock(&self) -> io::Result<nix::fcntl::Flock<File>> {
        let name = CString::from(c"edge.lock");
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = File::from(openat(
            &self.dir,
            name.as_c_str(),
            flags,
            Mode::S_IRUSR | Mode::S_IWUSR,
        )?);
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
    }
}

fn seal(table: &RoutingTable) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(table)?;
    let seal = Seal {
        format: FORMAT,
        bytes: body.len(),
        fnv1a: format!("{:016x}", fnv1a(&body)),
    };
    let mut sealed = serde_json::to_vec(&seal)?;
    sealed.push(b'\n');
    sealed.extend_from_slice(&body);
    sealed.push(b'\n');
    Ok(sealed)
}

fn unseal(bytes: &[u8]) -> Option<RoutingTable> {
    let line_end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (head, rest) = bytes.split_at(line_end);
    let seal: Seal = serde_json::from_slice(head).ok()?;
    let body = rest[1..].strip_suffix(b"\n")?;
    let whole = seal.format == FORMAT && body.len() == seal.bytes && seal.fnv1a == format!("{:016x}", fnv1a(body));
    if whole { serde_json::from_slice(body).ok() } else { None }
}

/// FNV-1a, 64 bits: finds torn writes. It is no defence against somebody who may write the directory, nor need it be.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(epoch: u64) -> RoutingTable {
        let callers = (0..5).map(|i| (std::net::IpAddr::from([10, 0, 0, i]), uuid::Uuid::from_u128(7).into()));
        RoutingTable {
            epoch,
            services: vec![],
            callers: callers.collect(),
        }
    }

    fn fresh() -> (tempfile::TempDir, TableDir) {
        let home = tempfile::tempdir().expect("a temporary directory");
        let dir = TableDir::open(home.path()).expect("opens");
        (home, dir)
    }

    #[test]
    fn the_table_stored_last_is_loaded() {
        let (_home, dir) = fresh();
        assert_eq!(dir.load(), RoutingTable::default());
        for epoch in 1..5 {
            dir.store(&table(epoch)).unwrap();
            assert_eq!(dir.load(), table(epoch));
        }
    }

    /// C5.3, invariant 21: whatever a power cut leaves of the newest file, an older good table is served.
    #[test]
    fn no_truncation_at_any_byte_loses_the_older_table() {
        let (home, dir) = fresh();
        dir.store(&table(1)).unwrap();
        dir.store(&table(2)).unwrap();
        let whole = std::fs::read(home.path().join(CURRENT)).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(home.path().join(CURRENT), &whole[..cut]).unwrap();
            assert_eq!(dir.load(), table(1), "cut at {cut}");
            let zeros: Vec<u8> = whole[..cut]
                .iter()
                .copied()
                .chain(std::iter::repeat_n(0, whole.len() - cut))
                .collect();
            std::fs::write(home.path().join(CURRENT), &zeros).unwrap();
            assert_eq!(dir.load(), table(1), "zeros from {cut}");
        }
    }

    #[test]
    fn a_torn_current_file_never_replaces_the_previous_generation() {
        let (home, dir) = fresh();
        dir.store(&table(1)).unwrap();
        dir.store(&table(2)).unwrap();
        std::fs::write(home.path().join(CURRENT), "{").unwrap();
        dir.store(&table(3)).unwrap();
        std::fs::remove_file(home.path().join(CURRENT)).unwrap();
        assert_eq!(dir.load(), table(1));
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let mut sealed = seal(&table(9)).unwrap();
        for at in 0..sealed.len() {
            sealed[at] ^= 1;
            assert!(unseal(&sealed).is_none_or(|read| read == table(9)), "byte {at}");
            sealed[at] ^= 1;
        }
    }

    #[test]
    fn a_directory_has_one_edge() {
        let (_home, dir) = fresh();
        let held = dir.lock().unwrap();
        assert_eq!(dir.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        assert!(dir.lock().is_ok());
    }
}
