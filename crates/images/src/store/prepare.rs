//! From a stored image to directories that a container can be started on.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

use super::{ImageStore, Lease, blocking, names};
use crate::digest::Digest;
use crate::error::{ImageError, IoContext, Result};
use crate::flatten;
use crate::manifest::{Descriptor, ImageConfig};
use crate::stream::Cap;
use crate::tree;
use crate::unpack::{LayerRecord, LayerSource, WhiteoutForm, unpack};

pub(super) const RECORD_FILE: &str = "layer.json";
const TREE_DIR: &str = "fs";

/// An image whose layers are unpacked. While it lives, nothing of the image is collected.
#[derive(Debug)]
pub struct Prepared {
    pub config: ImageConfig,
    /// Unpacked layers, lowest first, to be used read-only as overlayfs lower directories. Overlayfs names them the
    /// other way round: the first of `lowerdir=` is the topmost.
    ///
    /// All are `<64 digits>/fs` below [`ImageStore::layers_dir`]. `mount(2)` takes one page of options, so an engine
    /// that mounts images with many layers does so from inside that directory with relative names (about 60 layers).
    pub layers: Vec<PathBuf>,
    /// How whiteouts are written in these layers, and so how they must be mounted. With [`WhiteoutForm::Recorded`], use
    /// [`ImageStore::flatten`] instead.
    pub form: WhiteoutForm,
    _lease: Lease,
}

impl ImageStore {
    /// The directory that holds every unpacked layer.
    pub fn layers_dir(&self) -> PathBuf {
        self.inner.root.join("layers")
    }

    /// Unpacks the layers of an image that are not unpacked yet.
    ///
    /// # Expected flow
    /// Once per instance start; all but the first are a few small reads.
    ///
    /// # Guarantees
    /// A layer is unpacked once and shared; concurrent callers wait for each other. It becomes visible whole, by a
    /// rename after a sync, or not at all. Its content is that of the image's configuration (diff ID), and nothing
    /// outside its directory was written ([`crate::unpack`]).
    pub async fn prepare(&self, digest: &Digest) -> Result<Prepared> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || store.prepare_now(&digest)).await
    }

    /// A plain copy of the merged tree in `dest`, which must not exist yet and appears whole or not at all. For
    /// machines where overlayfs is refused.
    pub async fn flatten(&self, digest: &Digest, dest: &Path) -> Result<ImageConfig> {
        let (store, digest, dest) = (self.clone(), *digest, dest.to_owned());
        blocking(move || {
            let prepared = store.prepare_now(&digest)?;
            let mut layers = Vec::new();
            for path in &prepared.layers {
                layers.push((path.clone(), store.record_beside(path)?));
            }
            flatten::into_new(&layers, &dest)?;
            Ok(prepared.config)
        })
        .await
    }

    /// The unpacked layers of a prepared image, lowest first, without preparing anything.
    ///
    /// # Errors
    /// [`ImageError::UnknownDigest`] when a layer is not unpacked.
    pub fn layers(&self, digest: &Digest) -> Result<Vec<PathBuf>> {
        let manifest = self.manifest(digest)?;
        let chain = self.config_file(&manifest)?.chain_ids();
        if chain
            .iter()
            .any(|layer| !self.layer_dir(layer).join(RECORD_FILE).exists())
        {
            return Err(ImageError::UnknownDigest(*digest));
        }
        Ok(chain.iter().map(|layer| self.layer_dir(layer).join(TREE_DIR)).collect())
    }

    fn prepare_now(&self, digest: &Digest) -> Result<Prepared> {
        let mut lease = self.lease([*digest]);
        let manifest = self.manifest(digest)?;
        let what = digest.to_string();
        manifest.check(&what, &self.inner.limits)?;
        lease.extend(manifest.blobs().map(|blob| blob.digest));
        let config = self.config_file(&manifest)?;
        config.check_platform(&what)?;
        config.check_layers(&manifest, &what)?;
        let chain = config.chain_ids();
        lease.extend(chain.iter().copied());

        let limits = &self.inner.limits;
        let mut layers: Vec<PathBuf> = Vec::with_capacity(chain.len());
        let mut form = self.inner.form;
        let mut unpacked: u64 = 0;
        for (n, layer) in manifest.layers.iter().enumerate() {
            let left = limits.image_unpacked_bytes.saturating_sub(unpacked);
            let record = self.unpack_once(layer, &config.rootfs.diff_ids[n], &chain[n], &layers, left)?;
            unpacked = unpacked.saturating_add(record.bytes);
            if unpacked > limits.image_unpacked_bytes {
                return Err(ImageError::too_large(
                    &what,
                    "image_unpacked_bytes",
                    limits.image_unpacked_bytes,
                ));
            }
            if record.form != form {
                form = WhiteoutForm::Recorded;
            }
            if record.hides_everything_below() {
                layers.clear();
            }
            layers.push(self.layer_dir(&chain[n]).join(TREE_DIR));
        }
        Ok(Prepared {
            config: config.into(),
            layers,
            form,
            _lease: lease,
        })
    }

    /// The record of an unpacked layer, unpacking it first if nobody has.
    fn unpack_once(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        chain_id: &Digest,
        below: &[PathBuf],
        bytes_left: u64,
    ) -> Result<LayerRecord> {
        let lock = self.unpacking_lock(chain_id);
        let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(record) = self.layer_record(chain_id) {
            self.touch_layer(chain_id);
            return Ok(record);
        }
        let temporary = Temporary(self.inner.session.fresh_path());
        let record = self
            .unpack_into(&temporary.0, layer, diff_id, below, bytes_left)
            .map_err(|error| self.blame(error, &layer.digest))?;
        let place = self.layer_dir(chain_id);
        match fs::rename(&temporary.0, &place) {
            Ok(()) => tree::sync_dir(&self.layers_dir()).while_doing("syncing", &self.layers_dir())?,
            // Another process was faster. What it unpacked has the same content.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                return self.layer_record(chain_id);
            }
            Err(error) => return Err(ImageError::io("renaming", &place, error)),
        }
        tracing::debug!(layer.digest = %layer.digest, layer.bytes = record.bytes, "unpacked a layer");
        Ok(record)
    }

    /// Tells a bad image from a good one that our disk has damaged since. The damaged blob is removed, so that the next
    /// pull or import brings it again.
    fn blame(&self, error: ImageError, layer: &Digest) -> ImageError {
        if !matches!(error, ImageError::Corrupt { .. } | ImageError::DigestMismatch { .. }) {
            return error;
        }
        let damaged = self.inner.blobs.verify(layer).is_ok_and(|whole| !whole);
        if !damaged || self.inner.blobs.remove(layer).is_err() {
            return error;
        }
        let problem = "it was damaged on disk and has been removed; pull or import the image again";
        ImageError::corrupt(format!("the stored layer {layer}"), problem)
    }

    fn unpack_into(
        &self,
        dir: &Path,
        layer: &Descriptor,
        diff_id: &Digest,
        below: &[PathBuf],
        bytes_left: u64,
    ) -> Result<LayerRecord> {
        let tree = dir.join(TREE_DIR);
        fs::create_dir_all(&tree).while_doing("creating", &tree)?;
        let limits = &self.inner.limits;
        let what = format!("the layer {}", layer.digest);
        let cap = if bytes_left < limits.layer_unpacked_bytes {
            Cap {
                what: what.clone(),
                limit: "image_unpacked_bytes",
                bytes: bytes_left,
            }
        } else {
            Cap {
                what: what.clone(),
                limit: "layer_unpacked_bytes",
                bytes: limits.layer_unpacked_bytes,
            }
        };
        let source = LayerSource {
            what,
            blob: self.inner.blobs.open_blob(&layer.digest)?,
            diff_id: *diff_id,
            cap,
        };
        let record = unpack(source, &tree, below, self.inner.form, limits)?;
        let bytes = serde_json::to_vec(&record).map_err(|error| ImageError::corrupt("a layer's record", error))?;
        names::replace(dir, RECORD_FILE, &bytes)?;
        let handle = File::open(dir).while_doing("opening", dir)?;
        nix::unistd::syncfs(&handle).while_doing("syncing the unpacked layer", dir)?;
        Ok(record)
    }

    pub(super) fn layer_dir(&self, chain_id: &Digest) -> PathBuf {
        self.layers_dir().join(chain_id.hex())
    }

    pub(super) fn layer_record(&self, chain_id: &Digest) -> Result<LayerRecord> {
        self.record_beside(&self.layer_dir(chain_id).join(TREE_DIR))
    }

    fn record_beside(&self, tree: &Path) -> Result<LayerRecord> {
        let path = tree.with_file_name(RECORD_FILE);
        let bytes = fs::read(&path).while_doing("reading", &path)?;
        serde_json::from_slice(&bytes).map_err(|error| ImageError::corrupt(path.display().to_string(), error))
    }

    fn touch_layer(&self, chain_id: &Digest) {
        let path = self.layer_dir(chain_id).join(RECORD_FILE);
        let _ = File::options()
            .write(true)
            .open(path)
            .and_then(|file| file.set_modified(SystemTime::now()));
    }
}

/// A directory that goes away unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = tree::remove(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "could not remove a half-unpacked layer");
        }
    }
}
