//! Config and secret values as files: in memory only, for the program's user alone to read.
//!
//! # Guarantees
//! - Values are on a tmpfs that the shim's private mount namespace and the container see and nobody else; it is gone
//!   with them. Where the kernel knows how (6.3 and later, with full privileges) it is never swapped out.
//! - Each tmpfs has room for its values and for little more, and is read-only before the program starts.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::StartError;
use super::root::disk_error;
use super::user::User;
use crate::ValueFiles;
use crate::embedded::home::{Home, private_dir};

/// What a file takes beyond its length at most: the rest of its last page.
const PAGE_BYTES: usize = 64 << 10;
/// What a tmpfs takes for itself.
const FREE_BYTES: usize = 64 << 10;

/// Makes and fills what [`binds`] refers to.
pub fn mount_all(home: &Home, files: &ValueFiles, user: &User) -> Result<(), StartError> {
    for (destination, values) in directories(files) {
        let dir = source(home, destination);
        private_dir(&dir).map_err(|error| disk_error("making its directories", &error))?;
        mount_one(&dir, values).map_err(|errno| StartError::new("cannot mount its value files", errno))?;
        for (name, value) in values {
            // Names are those of environment variables: none is a path.
            write(&dir.join(name), value, user)
                .map_err(|error| StartError::new("cannot write its value files", error))?;
        }
        let flags = careful() | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(Some("tmpfs"), &dir, Some("tmpfs"), flags, None::<&str>)
            .map_err(|errno| StartError::new("cannot make its value files read-only", errno))?;
    }
    Ok(())
}

/// Mounts of the container's configuration.
pub fn binds(home: &Home, files: &ValueFiles) -> Vec<Value> {
    let bind = |(destination, _): (&str, _)| {
        json!({ "destination": destination, "type": "bind", "source": source(home, destination),
                "options": ["bind", "ro", "nosuid", "nodev", "noexec", "private"] })
    };
    directories(files).map(bind).collect()
}

/// Those that hold anything.
fn directories(files: &ValueFiles) -> impl Iterator<Item = (&'static str, &BTreeMap<String, String>)> {
    [
        (domain::CONFIGS_DIR, &files.configs),
        (domain::SECRETS_DIR, &files.secrets),
    ]
    .into_iter()
    .filter(|(_, values)| !values.is_empty())
}

/// Where the shim mounts what the container sees at `destination`.
fn source(home: &Home, destination: &str) -> PathBuf {
    home.join("values").join(destination.trim_start_matches('/'))
}

fn careful() -> MsFlags {
    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC
}

fn mount_one(dir: &Path, values: &BTreeMap<String, String>) -> nix::Result<()> {
    let bytes: usize = values.values().map(|value| value.len() + PAGE_BYTES).sum();
    let options = format!("mode=0755,size={}", bytes + FREE_BYTES);
    let tmpfs = |options: &str| mount(Some("tmpfs"), dir, Some("tmpfs"), careful(), Some(options));
    tmpfs(&format!("{options},noswap")).or_else(|_| tmpfs(&options))
}

fn write(path: &Path, value: &str, user: &User) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(value.as_bytes())?;
    fchown(&file, Some(user.uid), Some(user.gid))
}
