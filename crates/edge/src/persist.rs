//! The routing table on disk: the edge starts from the one that it acknowledged last (invariant 21).
//!
//! Two files that are written in turns, in place: making a table safe is then one write of data to the disk, which a
//! rollout waits for twice at each of its steps. Each file is a line that tells length and checksum, a line of JSON, and
//! empty lines, so that a file that was cut short, has a tail of zeros, or was written halfway is never taken for a table.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use domain::routing::RoutingTable;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

const FILES: [&str; 2] = ["table.json", "table.prev.json"];
/// Files grow by so many bytes.
const PAGE: u64 = 4 << 10;
const PADDING: u8 = b'\n';

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
        for name in FILES {
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
    /// instant, either this table or the one before can be read whole: what is written over is the file that is
    /// damaged, or else the one that holds the older table.
    ///
    /// # Errors
    /// As the file system says. The next call writes over the same file.
    pub fn store(&self, table: &RoutingTable) -> io::Result<()> {
        let mut sealed = seal(table)?;
        if sealed.len() as u64 > MAX_TABLE_BYTES {
            return Err(io::Error::other(format!(
                "a table of {} bytes is longer than the limit",
                sealed.len()
            )));
        }
        let epochs = FILES.map(|name| self.read(name).ok().map(|table| table.epoch));
        let stale = if epochs[0] > epochs[1] { FILES[1] } else { FILES[0] };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let mut file = File::from(openat(&self.dir, stale, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        let length = file.metadata()?.len();
        // Over the whole length, so that it stays the same: then the file system has nothing but data to make safe.
        let padded = (sealed.len() as u64)
            .next_multiple_of(PAGE)
            .max(length.min(MAX_TABLE_BYTES));
        sealed.resize(padded as usize, PADDING);
        file.write_all(&sealed)?;
        file.sync_data()?;
        if length == 0 {
            nix::unistd::fsync(self.dir.as_fd())?;
        }
        Ok(())
    }

    /// Gives the directory and what is in it to another user, who will write the tables from now on.
    ///
    /// # Errors
    /// As the file system says.
    pub fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        use nix::unistd::{Gid, Uid, fchown, fchownat};
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchown(&self.dir, uid, gid)?;
        for name in FILES {
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
    let (body, padding) = rest[1..].split_at_checked(seal.bytes)?;
    let padded = !padding.is_empty() && padding.iter().all(|byte| *byte == PADDING);
    let whole = seal.format == FORMAT && padded && seal.fnv1a == format!("{:016x}", fnv1a(body));
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

    /// C5.3, invariant 21: whatever a power cut leaves of the newest file, the older good table is served, and not
    /// written over by the next one.
    #[test]
    fn no_truncation_at_any_byte_loses_the_older_table() {
        let (home, dir) = fresh();
        for epoch in 1..=5 {
            dir.store(&table(epoch)).unwrap();
        }
        let newest = FILES.map(|name| home.path().join(name)).into_iter().find(|file| {
            let bytes = std::fs::read(file).unwrap();
            unseal(&bytes) == Some(table(5))
        });
        let newest = newest.expect("it is there");
        let whole = std::fs::read(&newest).unwrap();
        assert_eq!(whole.len() as u64, PAGE, "it is written in place");
        for cut in 0..seal(&table(5)).unwrap().len() {
            std::fs::write(&newest, &whole[..cut]).unwrap();
            assert_eq!(dir.load(), table(4), "cut at {cut}");
            let zeros: Vec<u8> = whole[..cut]
                .iter()
                .copied()
                .chain(std::iter::repeat_n(0, whole.len() - cut))
                .collect();
            std::fs::write(&newest, &zeros).unwrap();
            assert_eq!(dir.load(), table(4), "zeros from {cut}");
        }
        dir.store(&table(6)).unwrap();
        assert_eq!(dir.load(), table(6));
        std::fs::write(&newest, "{").unwrap();
        assert_eq!(dir.load(), table(4));
    }

    #[test]
    fn a_shorter_table_leaves_nothing_of_a_longer_one() {
        let (_home, dir) = fresh();
        let long = (0..500u32).map(|i| (std::net::IpAddr::from(i.to_be_bytes()), uuid::Uuid::from_u128(7).into()));
        let long: std::collections::BTreeMap<_, _> = long.collect();
        for epoch in (1..9).step_by(2) {
            let long = RoutingTable {
                callers: long.clone(),
                ..table(epoch)
            };
            dir.store(&long).unwrap();
            assert_eq!(dir.load(), long);
            dir.store(&table(epoch + 1)).unwrap();
            assert_eq!(dir.load(), table(epoch + 1));
        }
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
