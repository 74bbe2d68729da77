//! The server and key that `hob login` keeps.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::error::{Result, Trouble};

/// No `Debug`: it holds the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub url: String,
    pub key: String,
}

impl Login {
    /// `$XDG_CONFIG_HOME/hob/login.toml`.
    pub fn path(environment: &Environment) -> Option<PathBuf> {
        Some(environment.config_home.as_ref()?.join("hob/login.toml"))
    }

    /// What was kept, if anything.
    pub fn read(environment: &Environment) -> Result<Option<Login>> {
        let Some(path) = Login::path(environment) else {
            return Ok(None);
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(trouble(&path, &error)),
        };
        // The parser's own words would repeat the line, and the line may hold the key.
        let damaged = |_| Trouble::failed(format!("{} is damaged", path.display())).advise("Run `hob login URL` again");
        toml::from_str(&text).map(Some).map_err(damaged)
    }

    /// Keeps it where only this user reads it. Written beside and renamed, so that it is whole or the old one.
    pub fn write(&self, environment: &Environment) -> Result<PathBuf> {
        let path = Login::path(environment).ok_or_else(|| {
            Trouble::failed("there is no place to keep the key").advise("Set HOME or XDG_CONFIG_HOME")
        })?;
        let text = toml::to_string(self).map_err(|error| Trouble::failed(error.to_string()))?;
        write_private(&path, text.as_bytes()).map_err(|error| trouble(&path, &error))?;
        Ok(path)
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn trouble(path: &Path, error: &io::Error) -> Trouble {
    Trouble::failed(format!("cannot use {}: {error}", path.display()))
        .advise("HOB_URL and HOB_API_KEY work without that file")
}
