//! The small index: which name means which image.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ImageError, IoContext, Result};
use crate::tree;

const FILE: &str = "names.json";
const COPY: &str = "names.copy.json";

/// Where a name came from, which decides how long it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Imported, packed or tagged here: found by [`crate::ImageStore::resolve_local`], kept until it is removed.
    Local,
    /// A memory of a pull: listed, never resolved instead of the registry, and forgotten with its content.
    Pulled,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Named {
    pub digest: Digest,
    pub origin: Origin,
    /// Milliseconds since the epoch.
    pub at_ms: i64,
}

pub(super) type Names = BTreeMap<String, Named>;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    names: Names,
}

/// `names.json` and its copy.
///
/// **Guarantees:** what [`NameIndex::write`] has returned from is read back, even when either file is damaged
/// afterwards. A damaged index is never read as an empty one, since the collector would then remove everything.
pub(super) struct NameIndex {
    dir: PathBuf,
}

impl NameIndex {
    pub(super) fn new(dir: &Path) -> NameIndex {
        NameIndex { dir: dir.to_owned() }
    }

    pub(super) fn read(&self) -> Result<Names> {
        match self.read_file(FILE) {
            Ok(Some(names)) => Ok(names),
            Ok(None) => Ok(self.read_file(COPY)?.unwrap_or_default()),
            Err(problem) => match self.read_file(COPY) {
                Ok(Some(names)) => {
                    tracing::warn!(%problem, "using the copy of the image index");
                    Ok(names)
                }
                _ => Err(problem),
            },
        }
    }

    fn read_file(&self, name: &str) -> Result<Option<Names>> {
        let path = self.dir.join(name);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.while_doing("reading", &path)?,
        };
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| ImageError::corrupt(path.display().to_string(), error))?;
        if document.version != 1 {
            let problem = format!("it has version {}, and this Hob knows version 1", document.version);
            return Err(ImageError::corrupt(path.display().to_string(), problem));
        }
        Ok(Some(document.names))
    }

    /// The caller holds the writer lock.
    pub(super) fn write(&self, names: Names) -> Result<()> {
        let path = self.dir.join(FILE);
        let bytes = serde_json::to_vec_pretty(&Document { version: 1, names })
            .map_err(|error| ImageError::corrupt(path.display().to_string(), error))?;
        replace(&self.dir, COPY, &bytes)?;
        replace(&self.dir, FILE, &bytes)
    }
}

/// Writes beside, syncs, renames, syncs the directory: a reader sees the old content or the new, never a part.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let beside = dir.join(format!("{name}.new"));
    let path = dir.join(name);
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        tree::sync_dir(dir)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.while_doing("writing", &path)
}
