//! The temporary area of one open store, and who may sweep it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};

const OWNER_FILE: &str = "owner";

/// A directory `tmp/<uuid>/` that belongs to one open store. Its `owner` file is locked for as long as the process
/// lives, so that the next process can tell rubbish of a killed one from work under way.
pub(super) struct Session {
    dir: PathBuf,
    _owner: File,
}

impl Session {
    /// Sweeps what dead owners left and makes a directory of its own. The caller holds the store's writer lock, so no
    /// new directory is seen before it is locked.
    pub(super) fn start(tmp: &Path) -> Result<Session> {
        sweep(tmp)?;
        let dir = tmp.join(uuid::Uuid::now_v7().simple().to_string());
        fs::create_dir(&dir).while_doing("creating the temporary directory", &dir)?;
        let path = dir.join(OWNER_FILE);
        let owner = File::create(&path).while_doing("creating", &path)?;
        owner.lock().while_doing("locking", &path)?;
        Ok(Session { dir, _owner: owner })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path that nobody else uses; nothing exists there yet.
    pub(super) fn fresh_path(&self) -> PathBuf {
        self.dir.join(uuid::Uuid::now_v7().simple().to_string())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = crate::tree::remove(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "could not remove a temporary directory");
        }
    }
}

fn sweep(tmp: &Path) -> Result<()> {
    for entry in fs::read_dir(tmp).while_doing("reading", tmp)? {
        let dir = entry.while_doing("reading", tmp)?.path();
        let abandoned = match File::open(dir.join(OWNER_FILE)) {
            Ok(owner) => owner.try_lock().is_ok(),
            Err(_) => true,
        };
        if abandoned {
            tracing::info!(path = %dir.display(), "removing what a killed process left behind");
            crate::tree::remove(&dir).while_doing("removing", &dir)?;
        }
    }
    Ok(())
}
