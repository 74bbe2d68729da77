//! Garbage collection: what no name, no deployment and nobody at work needs any more.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{ImageStore, Origin, blocking};
use crate::digest::Digest;
use crate::error::{ImageError, IoContext, Result};
use crate::tree;

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    pub blobs: u64,
    pub layers: u64,
    /// Bytes of blobs, and of unpacked layers by their tar streams.
    pub bytes: u64,
}

impl ImageStore {
    /// Removes blobs and unpacked layers that neither a local name nor an image of `in_use` needs.
    ///
    /// **Guarantees:** nothing that an import, pull, unpacking or living [`super::Prepared`] of this process uses is
    /// removed, and nothing of any process that is younger than `min_age` (use an hour or more where several
    /// processes share the store). When it cannot be told what is needed, nothing is removed.
    pub async fn collect_garbage(&self, in_use: &HashSet<Digest>, min_age: Duration) -> Result<Freed> {
        let (store, in_use) = (self.clone(), in_use.clone());
        blocking(move || store.collect_now(&in_use, min_age)).await
    }

    fn collect_now(&self, in_use: &HashSet<Digest>, min_age: Duration) -> Result<Freed> {
        let writing = self.writing()?;
        let names = self.inner.names.read()?;
        let mut needed = HashSet::new();
        let local = names
            .values()
            .filter(|named| named.origin == Origin::Local)
            .map(|named| named.digest);
        for digest in local.chain(in_use.iter().copied()) {
            self.mark(digest, &mut needed)?;
        }
        let born_before = SystemTime::now().checked_sub(min_age).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut freed = Freed::default();
        self.sweep_blobs(&needed, born_before, &mut freed)?;
        let graves = self.sweep_layers(&needed, born_before, &mut freed)?;
        let mut kept = names.clone();
        kept.retain(|_, named| named.origin == Origin::Local || self.inner.blobs.size(&named.digest).is_some());
        if kept.len() != names.len() {
            self.inner.names.write(kept)?;
        }
        // Large trees take their time; whoever wants to write a name need not wait for it.
        drop(writing);
        for grave in graves {
            tree::remove(&grave).while_doing("removing", &grave)?;
        }
        Ok(freed)
    }

    /// Adds everything that the image `digest` consists of. An image that is not here needs nothing; one that cannot be
    /// read ends the collection, since its layers cannot be told from rubbish.
    fn mark(&self, digest: Digest, needed: &mut HashSet<Digest>) -> Result<()> {
        if !needed.insert(digest) {
            return Ok(());
        }
        let manifest = match self.manifest(&digest) {
            Err(ImageError::UnknownDigest(_)) => return Ok(()),
            other => other?,
        };
        needed.extend(manifest.blobs().map(|blob| blob.digest));
        match self.config_file(&manifest) {
            Err(ImageError::UnknownDigest(_)) => Ok(()),
            other => {
                needed.extend(other?.chain_ids());
                Ok(())
            }
        }
    }

    fn sweep_blobs(&self, needed: &HashSet<Digest>, born_before: SystemTime, freed: &mut Freed) -> Result<()> {
        for (digest, size, born) in self.inner.blobs.all()? {
            if needed.contains(&digest) || born > born_before {
                continue;
            }
            if let Some(removed) = self
                .inner
                .leases
                .unless_leased(&digest, || self.inner.blobs.remove(&digest))
            {
                removed?;
                freed.blobs += 1;
                freed.bytes += size;
            }
        }
        Ok(())
    }

    /// Moves layers out of sight, so that a kill leaves none with holes, and answers where to.
    fn sweep_layers(
        &self,
        needed: &HashSet<Digest>,
        born_before: SystemTime,
        freed: &mut Freed,
    ) -> Result<Vec<PathBuf>> {
        let layers = self.layers_dir();
        let mut graves = Vec::new();
        for entry in fs::read_dir(&layers).while_doing("reading", &layers)? {
            let dir = entry.while_doing("reading", &layers)?.path();
            let Some(digest) = dir
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(Digest::from_hex)
            else {
                continue;
            };
            if needed.contains(&digest) || self.born(&dir) > born_before {
                continue;
            }
            let bytes = self
                .layer_record(&digest)
                .map(|record| record.bytes)
                .unwrap_or_default();
            let grave = self.inner.session.fresh_path();
            if let Some(moved) = self.inner.leases.unless_leased(&digest, || fs::rename(&dir, &grave)) {
                moved.while_doing("removing", &dir)?;
                graves.push(grave);
                freed.layers += 1;
                freed.bytes += bytes;
            }
        }
        Ok(graves)
    }

    /// When a layer was unpacked or last prepared; an unreadable one counts as new.
    fn born(&self, dir: &Path) -> SystemTime {
        let record = fs::metadata(dir.join(super::prepare::RECORD_FILE));
        record
            .and_then(|found| found.modified())
            .unwrap_or_else(|_| SystemTime::now())
    }
}
